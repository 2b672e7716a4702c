//! What an agent sends when it comes back, and what it is told.

use model::{Digests, KnownRow, TaskId};
use prost::Message as _;
use proto::{
    agent::v1::{self as agent, agent_session_client::AgentSessionClient},
    operator::v1 as operator,
    types::v1::{self as types, TaskState},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Coordinator, PATIENCE, PlayedAgent, from_agent, hello, run, spec};

/// Counted as gRPC messages, without their frames of five bytes, from the hello to the welcome.
#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_agent_with_a_thousand_tasks_is_back_in_less_than_a_kibibyte() {
    const TASKS: usize = 1000;
    let count = Some(1000);
    let coordinator = Coordinator::start().await;
    let (say, said) = mpsc::channel(16);
    say.send(from_agent(agent::from_agent::Message::Hello(large()))).await.unwrap();
    let mut client = AgentSessionClient::new(coordinator.shown(Some(&coordinator.token)));
    let hear = client.attach(ReceiverStream::new(said)).await.unwrap().into_inner();
    let mut agent = PlayedAgent { say, hear, epoch: 0 };
    let small = types::Resources { cpus_milli: 10, mem_mib: 4, ..types::Resources::default() };
    let small = types::TaskSpec { resources: Some(small), task_id: String::new(), ..spec("small") };
    let wish = operator::RunRequest { count, ..run("many", small) };
    coordinator.operator().run(wish).await.unwrap();
    let (mut launched, mut heard) = (Vec::new(), 0);
    while heard < TASKS {
        match agent.next().await {
            agent::to_agent::Message::Launch(launch) => {
                for assignment in launch.assignments {
                    agent.report(&assignment, TaskState::Running, 1, false).await;
                    launched.push(TaskId::new(&assignment.spec.unwrap().task_id).unwrap());
                }
            }
            agent::to_agent::Message::Acknowledge(acknowledge) => heard += acknowledge.tasks.len(),
            _ => {}
        }
    }
    drop(agent);

    let row = |sequence| {
        move |task_id| KnownRow { task_id, sequence, state: model::TaskState::Running, awaits_word: false }
    };
    let same = Digests::of(launched.iter().map(row(1)), 32);
    let (sent, told, asked) = resync(&coordinator, &same, Vec::new()).await;
    println!("{TASKS} unchanged tasks: {sent} bytes from the agent, {told} to it");
    assert!(asked.is_empty() && sent + told < 1024, "{asked:?}, {sent} and {told} bytes");

    let (changed, others) = launched.split_first().unwrap();
    let rows = others.iter().map(row(1)).chain(std::iter::once(row(2)(changed)));
    let one = Digests::of(rows, 32);
    let bucket = one.bucket_of(changed);
    let of_bucket = launched.iter().filter(|task| one.bucket_of(task) == bucket);
    let tasks = of_bucket.map(|task| agent::KnownTask {
        task_id: task.to_string(),
        sequence: if task == changed { 2 } else { 1 },
        state: TaskState::Running.into(),
    });
    let tasks: Vec<_> = tasks.collect();
    let rows = tasks.len();
    let (sent, told, asked) = resync(&coordinator, &one, tasks).await;
    println!("one changed, {rows} in its bucket: {sent} bytes from the agent, {told} to it");
    assert_eq!(asked, [bucket]);

    let page = coordinator.http("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    for (name, count) in [("told", rows), ("spared", 2 * TASKS - rows)] {
        let line = format!("muster_coordinator_known_tasks_{name}_total {count}\n");
        assert!(page.contains(&line), "{line}");
    }
    coordinator.stop().await;
}

/// An agent with room for all of them.
fn large() -> agent::Hello {
    let total = types::Resources { cpus_milli: 16_000, mem_mib: 8192, ..types::Resources::default() };
    agent::Hello { total: Some(total), ..hello("a1") }
}

/// Attaches as an agent with these digests, and tells these tasks if asked. Gives the bytes in both directions until
/// the welcome, and the buckets that were asked for.
async fn resync(
    coordinator: &Coordinator,
    digests: &Digests,
    tasks: Vec<agent::KnownTask>,
) -> (usize, usize, Vec<u32>) {
    let greeting = agent::Hello { digests: digests.to_bytes().into(), ..large() };
    let (say, said) = mpsc::channel(16);
    let greeting = from_agent(agent::from_agent::Message::Hello(greeting));
    let (mut sent, mut told, mut asked) = (greeting.encoded_len(), 0, Vec::new());
    say.send(greeting).await.unwrap();
    let mut client = AgentSessionClient::new(coordinator.shown(Some(&coordinator.token)));
    let mut hear = client.attach_by_digest(ReceiverStream::new(said)).await.unwrap().into_inner();
    loop {
        let message = tokio::time::timeout(PATIENCE, hear.message()).await.unwrap().unwrap().unwrap();
        told += message.encoded_len();
        match message.message.unwrap() {
            agent::to_agent::Message::ReadKnown(read) => {
                asked = read.buckets;
                let known = agent::from_agent::Message::Known(agent::KnownTasks { tasks: tasks.clone() });
                let known = from_agent(known);
                sent += known.encoded_len();
                say.send(known).await.unwrap();
            }
            agent::to_agent::Message::Welcome(_) => return (sent, told, asked),
            other => panic!("{other:?}"),
        }
    }
}
