//! The agent against a leader in this process, and a kernel in memory.

#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use expect_test::expect;
use model::{AgentId, Digests, Exit, TaskId, TaskState};
use prost::Message as _;
use proto::{
    agent::v1::agent_session_server::{AgentSession, AgentSessionServer},
    channel::v1::Frame,
    types::v1 as types,
};
use supervisor::{Found, KnownTask, Supervisor};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Response;

use super::*;
use crate::{
    actor::{Actor, ActorError, Parts, Rounds, Stop},
    channel::Channels,
    checkpoint::{Checkpoint, Identity},
    clock,
    execute::{Directories, Executor, Settings},
    fetch::{self, Fetcher},
    metrics::{FetchMetrics, Metrics},
    sys::{Sys as _, UserPolicy, fake::FakeSys},
};

/// One patience for the whole suite.
const PATIENCE: Duration = Duration::from_secs(20);

/// One stream, from the leader's side.
struct Conversation {
    hello: wire::Hello,
    said: Streaming<wire::FromAgent>,
    answers: mpsc::Sender<Result<wire::ToAgent, Status>>,
}

#[derive(Clone)]
struct Leader {
    conversations: mpsc::Sender<Conversation>,
    tokens: Arc<Mutex<Vec<String>>>,
    knows_digests: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl AgentSession for Leader {
    type AttachStream = ReceiverStream<Result<wire::ToAgent, Status>>;
    type AttachByDigestStream = ReceiverStream<Result<wire::ToAgent, Status>>;
    type ChannelStream = ReceiverStream<Result<Frame, Status>>;

    async fn channel(&self, _: Request<Streaming<Frame>>) -> Result<Response<Self::ChannelStream>, Status> {
        Err(Status::unimplemented("no channels here"))
    }

    async fn attach_by_digest(
        &self,
        request: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Self::AttachByDigestStream>, Status> {
        if !self.knows_digests.load(Ordering::Relaxed) {
            return Err(Status::unimplemented("an older coordinator"));
        }
        self.attach(request).await
    }

    async fn attach(
        &self,
        request: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        self.tokens.lock().unwrap().push(token);
        let mut said = request.into_inner();
        let first = said.message().await?.unwrap().message.unwrap();
        let from_agent::Message::Hello(hello) = first else { panic!("{first:?}") };
        let (answers, stream) = mpsc::channel(64);
        self.conversations.send(Conversation { hello, said, answers }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Conversation {
    async fn say(&self, message: Said) {
        self.answers.send(Ok(wire::ToAgent { message: Some(message) })).await.unwrap();
    }

    async fn welcome(&self, assignments: Vec<wire::Assignment>) {
        let welcome = wire::Welcome {
            cluster_id: "c1".to_owned(),
            epoch: 1,
            term: 1,
            assignments,
            heartbeat_interval_ms: 1000,
            unchanged: Vec::new(),
        };
        self.say(Said::Welcome(welcome)).await;
    }

    /// The leader knows these buckets as the hello had them.
    async fn welcome_unchanged(&self, buckets: Vec<u32>) {
        let welcome = wire::Welcome {
            cluster_id: "c1".to_owned(),
            epoch: 2,
            term: 1,
            assignments: Vec::new(),
            heartbeat_interval_ms: 1000,
            unchanged: buckets,
        };
        self.say(Said::Welcome(welcome)).await;
    }

    async fn known(&mut self) -> Vec<(String, u64)> {
        loop {
            if let from_agent::Message::Known(wire::KnownTasks { tasks }) = self.hear().await {
                return tasks.into_iter().map(|task| (task.task_id, task.sequence)).collect();
            }
        }
    }

    async fn hear(&mut self) -> from_agent::Message {
        let heard = timeout(PATIENCE, self.said.message()).await.expect("silence").unwrap();
        heard.expect("the stream has ended").message.unwrap()
    }

    /// The next so many statuses, as `task #sequence state`.
    async fn statuses(&mut self, count: usize) -> String {
        let mut lines = Vec::new();
        while lines.len() < count {
            if let from_agent::Message::Updates(updates) = self.hear().await {
                lines.extend(updates.statuses.iter().map(show));
            }
        }
        lines.join("\n")
    }

    async fn acknowledge(&self, task: &str, sequence: u64) {
        let task = wire::Acknowledged { task_id: task.to_owned(), sequence };
        self.say(Said::Acknowledge(wire::Acknowledge { tasks: vec![task] })).await;
    }

    async fn output(&mut self) -> wire::OutputAnswer {
        loop {
            if let from_agent::Message::Output(answer) = self.hear().await {
                return answer;
            }
        }
    }
}

fn show(status: &types::TaskStatus) -> String {
    let state = status.state().as_str_name().trim_start_matches("TASK_STATE_").to_lowercase();
    let released = if status.is_released { " released" } else { "" };
    format!("{} #{} {state}{released}", status.task_id, status.sequence)
}

fn assignment(task: &str, recorded_sequence: u64) -> wire::Assignment {
    let spec = types::TaskSpec {
        task_id: task.to_owned(),
        resources: Some(types::Resources { cpus_milli: 500, mem_mib: 64, ..types::Resources::default() }),
        command: vec!["sleep".to_owned(), "60".to_owned()],
        ..types::TaskSpec::default()
    };
    wire::Assignment { framework_id: "run".to_owned(), spec: Some(spec), kill: None, recorded_sequence }
}

/// A host on which agents start and stop, and the leader that they know.
struct World {
    sys: FakeSys,
    folder: tempfile::TempDir,
    address: String,
    conversations: mpsc::Receiver<Conversation>,
    tokens: Arc<Mutex<Vec<String>>>,
    /// Whether the leader is as new as the agents.
    knows_digests: Arc<AtomicBool>,
}

struct Agent {
    actor: JoinHandle<Result<(), ActorError>>,
    session: JoinHandle<Result<(), SessionError>>,
    stop_session: CancellationToken,
    stop: watch::Sender<Stop>,
}

impl World {
    /// `None` where sandboxes can't be given to another user; said aloud.
    async fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root to give sandboxes to other users");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, conversations) = mpsc::channel(8);
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let knows_digests = Arc::new(AtomicBool::new(false));
        let leader =
            Leader { conversations: sender, tokens: tokens.clone(), knows_digests: knows_digests.clone() };
        let server = tonic::transport::Server::builder().add_service(AgentSessionServer::new(leader));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tasks")).unwrap();
        fs::write(folder.path().join("token"), "secret\n").unwrap();
        Some(Self { sys: FakeSys::new(), folder, address, conversations, tokens, knows_digests })
    }

    /// The last agent's threads hold it for a moment longer than it.
    fn checkpoint(&self) -> Checkpoint {
        let started = std::time::Instant::now();
        loop {
            match Checkpoint::open(self.folder.path()) {
                Err(error) if started.elapsed() > PATIENCE => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
                Ok(checkpoint) => return checkpoint,
            }
        }
    }

    fn start(&self) -> Agent {
        let checkpoint = Arc::new(self.checkpoint());
        let identity = checkpoint.identity().unwrap().unwrap_or_else(|| Identity {
            agent_id: AgentId::new("a1").unwrap(),
            cluster_id: None,
            boot_id: "b1".to_owned(),
        });
        let found = Found {
            is_same_boot: true,
            cgroups: self.sys.list_cgroups().unwrap().iter().map(|name| name.as_str().to_owned()).collect(),
            ..Found::default()
        };
        let rows = checkpoint.load().unwrap().rows;
        let (supervisor, actions) =
            Supervisor::restore(identity.agent_id.clone(), rows, found, clock::moment());
        let settings = Settings {
            default_user: "nobody".to_owned(),
            users: UserPolicy::default(),
            pids_limit: 100,
            hidden: Vec::new(),
            output_bytes_max: 1 << 20,
            memory_mib: 1000,
            rights: Default::default(),
            port_policy: Default::default(),
        };
        let executor = Arc::new(Executor::new(
            Arc::new(self.sys.clone()),
            None,
            checkpoint.clone(),
            Directories::new(self.folder.path()),
            settings,
            Fetcher::new(
                Arc::new(self.sys.clone()),
                None,
                fetch::Settings::default(),
                FetchMetrics::default(),
            ),
        ));
        let metrics = Arc::new(Metrics::default());
        let coordinators =
            Coordinators::plain(&[format!("http://{}", self.address)], self.folder.path().join("token"))
                .unwrap();
        let channels = Arc::new(Channels::new(coordinators, executor.clone(), metrics.clone()));
        let (events, session) = mpsc::channel(16);
        let (stop, stopped) = watch::channel(Stop::No);
        let parts = Parts {
            supervisor,
            actions,
            began: std::time::Instant::now(),
            executor,
            checkpoint,
            identity,
            metrics,
            rounds: Arc::new(Rounds::default()),
            channels,
            oom: None,
            ports: None,
            session,
            stop: stopped,
        };
        let (actor, _) = Actor::new(parts).unwrap();
        let facts = Facts {
            agent_id: "a1".to_owned(),
            hostname: "h".to_owned(),
            boot_id: "b1".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            total: types::Resources::default(),
            attributes: Vec::new(),
            limitations: Vec::new(),
        };
        let stop_session = CancellationToken::new();
        let session = Session {
            coordinators: Coordinators::plain(
                &[format!("http://{}", self.address)],
                self.folder.path().join("token"),
            )
            .unwrap(),
            facts,
            events,
        };
        let session = tokio::spawn(session.run(stop_session.clone()));
        Agent { actor: tokio::spawn(actor.run()), session, stop_session, stop }
    }

    async fn conversation(&mut self) -> Conversation {
        timeout(PATIENCE, self.conversations.recv()).await.expect("nobody said hello").unwrap()
    }
}

impl Agent {
    async fn stop(self, how: Stop) {
        if how == Stop::LeaveTasks {
            self.stop_session.cancel();
        }
        self.stop.send_replace(how);
        timeout(PATIENCE, self.actor).await.expect("the actor hangs").unwrap().unwrap();
        self.stop_session.cancel();
        timeout(PATIENCE, self.session).await.expect("the session hangs").unwrap().unwrap();
    }
}

async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_launched_once_and_its_end_is_told_until_it_is_heard() {
    let Some(mut world) = World::new().await else { return };
    let agent = world.start();
    let mut leader = world.conversation().await;
    assert_eq!((leader.hello.agent_id.as_str(), leader.hello.cluster_id.as_str()), ("a1", ""));
    assert_eq!(leader.hello.tasks, []);
    assert_eq!(world.tokens.lock().unwrap().as_slice(), ["Bearer secret"]);
    leader.welcome(Vec::new()).await;
    leader.say(Said::Launch(wire::Launch { assignments: vec![assignment("t", 0)] })).await;
    leader.say(Said::Launch(wire::Launch { assignments: vec![assignment("t", 0)] })).await;
    expect![[r#"
        t #1 starting
        t #2 running"#]]
    .assert_eq(&leader.statuses(2).await);
    until("one process runs", || world.sys.running().len() == 1).await;
    let (_, process) = world.sys.running().remove(0);
    leader.acknowledge("t", 2).await;
    world.sys.end(process, Exit::Code(0));
    expect!["t #3 finished released"].assert_eq(&leader.statuses(1).await);

    // The leader goes away without an acknowledgement, and says the launch again.
    drop(leader);
    let mut leader = world.conversation().await;
    assert_eq!(leader.hello.cluster_id, "c1");
    assert_eq!(leader.hello.tasks.len(), 1);
    leader.welcome(vec![assignment("t", 2)]).await;
    expect!["t #3 finished released"].assert_eq(&leader.statuses(1).await);
    leader.acknowledge("t", 3).await;
    drop(leader);
    let leader = world.conversation().await;
    assert_eq!(leader.hello.tasks, [], "what is heard needs no word");
    assert_eq!(world.sys.log().iter().filter(|line| line.starts_with("spawn")).count(), 1);
    drop(leader);
    agent.stop(Stop::LeaveTasks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_adopted_by_the_next_agent() {
    let Some(mut world) = World::new().await else { return };
    let agent = world.start();
    let mut leader = world.conversation().await;
    leader.welcome(vec![assignment("t", 0), assignment("u", 0)]).await;
    leader.statuses(4).await;
    drop(leader);
    agent.stop(Stop::LeaveTasks).await;
    assert_eq!(world.sys.running().len(), 2);
    let ended = world.sys.running().into_iter().find(|(name, _)| name.as_str().contains("-u.")).unwrap();
    world.sys.end(ended.1, Exit::Code(3));

    while world.conversations.try_recv().is_ok() {}
    let agent = world.start();
    let mut leader = world.conversation().await;
    assert_eq!(leader.hello.tasks.len(), 2);
    leader.welcome(vec![assignment("t", 2), assignment("u", 2)]).await;
    expect!["u #3 failed released"].assert_eq(&leader.statuses(1).await);
    // It is watched as before.
    let kill = wire::Kill { task_id: "t".to_owned(), grace_ms: 10_000 };
    leader.say(Said::Kill(kill)).await;
    expect![[r#"
        t #3 killing
        t #4 killed released"#]]
    .assert_eq(&leader.statuses(2).await);
    until("the cgroups are gone", || world.sys.list_cgroups().unwrap().is_empty()).await;
    drop(leader);
    agent.stop(Stop::LeaveTasks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_knows_digests_hears_of_tasks_when_it_asks() {
    let Some(mut world) = World::new().await else { return };
    world.knows_digests.store(true, Ordering::Relaxed);
    let agent = world.start();
    let mut leader = world.conversation().await;
    assert_eq!((leader.hello.tasks.len(), leader.hello.digests.len()), (0, Digests::BYTES));
    leader.welcome(vec![assignment("t", 0), assignment("u", 0)]).await;
    leader.statuses(4).await;

    // Nothing was acknowledged: this leader has only what it asks for, and the Welcome says the rest.
    drop(leader);
    let mut leader = world.conversation().await;
    assert_eq!((leader.hello.tasks.len(), leader.hello.digests.len()), (0, Digests::BYTES));
    leader.say(Said::ReadKnown(wire::ReadKnown { buckets: vec![0] })).await;
    assert_eq!(leader.known().await, [("t".to_owned(), 2), ("u".to_owned(), 2)]);
    let process = world.sys.running().into_iter().find(|(name, _)| name.as_str().contains("-t.")).unwrap().1;
    leader.welcome_unchanged(vec![0]).await;
    world.sys.end(process, Exit::Code(0));
    expect!["t #3 finished released"].assert_eq(&leader.statuses(1).await);
    assert_eq!(world.sys.running().len(), 1, "what is unchanged runs on");

    // Back at an older one, everything is told.
    world.knows_digests.store(false, Ordering::Relaxed);
    drop(leader);
    let mut leader = world.conversation().await;
    assert_eq!((leader.hello.tasks.len(), leader.hello.digests.len()), (2, 0));
    leader.welcome(vec![assignment("t", 2), assignment("u", 2)]).await;
    expect!["t #3 finished released"].assert_eq(&leader.statuses(1).await);
    drop(leader);
    agent.stop(Stop::LeaveTasks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_its_tasks_waits_for_them_and_for_the_leader() {
    let Some(mut world) = World::new().await else { return };
    let agent = world.start();
    let mut leader = world.conversation().await;
    leader.welcome(vec![assignment("t", 0)]).await;
    leader.statuses(2).await;
    let stopping = tokio::spawn(agent.stop(Stop::EndTasks));
    expect![[r#"
        t #3 killing
        t #4 killed released"#]]
    .assert_eq(&leader.statuses(2).await);
    leader.acknowledge("t", 4).await;
    stopping.await.unwrap();
    assert_eq!(world.sys.list_cgroups().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_refused_for_good() {
    let Some(mut world) = World::new().await else { return };
    let agent = world.start();
    let leader = world.conversation().await;
    leader.welcome(Vec::new()).await;
    drop(leader);
    let leader = world.conversation().await;
    let welcome = wire::Welcome { cluster_id: "c2".to_owned(), ..wire::Welcome::default() };
    leader.say(Said::Welcome(welcome)).await;
    let error = timeout(PATIENCE, agent.actor).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "this agent belongs to the cluster c1, and the coordinator is of c2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_refusal_ends_the_session() {
    let Some(mut world) = World::new().await else { return };
    let agent = world.start();
    let leader = world.conversation().await;
    let refusal = |is_final| wire::Refused {
        code: "agent-id-taken".to_owned(),
        message: "another agent uses this id".to_owned(),
        is_final,
    };
    leader.say(Said::Refused(refusal(false))).await;
    let leader = world.conversation().await;
    leader.say(Said::Refused(refusal(true))).await;
    let error = timeout(PATIENCE, agent.session).await.unwrap().unwrap().unwrap_err();
    expect!["the coordinator refused this agent for good: another agent uses this id (code agent-id-taken)"]
        .assert_eq(&error.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_read_waited_for_and_ends() {
    let Some(mut world) = World::new().await else { return };
    let agent = world.start();
    let mut leader = world.conversation().await;
    leader.welcome(vec![assignment("t", 0)]).await;
    leader.statuses(2).await;
    let attempt = world.sys.running().remove(0).0.as_str().to_owned();
    let file = Directories::new(world.folder.path()).stdout(&attempt);
    let read = |request, offset, tail_bytes, wait_ms| wire::ReadOutput {
        request,
        task_id: "t".to_owned(),
        stream: 1,
        offset,
        tail_bytes,
        newer_than_ms: None,
        limit: 100,
        wait_ms,
        process: String::new(),
    };
    world.sys.write_output(&file, b"one two");
    leader.say(Said::ReadOutput(read(1, 4, None, 0))).await;
    let answer = leader.output().await;
    assert_eq!((answer.request, answer.offset, &answer.data[..], answer.is_end), (1, 4, &b"two"[..], false));
    leader.say(Said::ReadOutput(read(2, 0, Some(2), 0))).await;
    assert_eq!(&leader.output().await.data[..], b"wo");
    leader.say(Said::ReadOutput(read(3, 7, None, 20_000))).await;
    world.sys.write_output(&file, b" three");
    assert_eq!(&leader.output().await.data[..], b" three");
    // Waits for the end, too.
    leader.say(Said::ReadOutput(read(4, 13, None, 20_000))).await;
    world.sys.end(world.sys.running().remove(0).1, Exit::Code(0));
    let answer = leader.output().await;
    assert!(answer.is_end && answer.data.is_empty() && answer.error.is_empty(), "{answer:?}");
    leader.say(Said::ReadOutput(wire::ReadOutput { task_id: "x".to_owned(), ..read(5, 0, None, 0) })).await;
    assert_eq!(leader.output().await.error, "the agent keeps no output of this task");
    drop(leader);
    agent.stop(Stop::LeaveTasks).await;
}

#[test]
fn what_is_invalid_is_left_out() {
    let mut bad = assignment("t", 0);
    bad.spec.as_mut().unwrap().command.clear();
    let launch = wire::Launch { assignments: vec![bad, assignment("u", 0)] };
    let messages = messages::launch(launch);
    let [FromLeader::Launch(assignments)] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(assignments.len(), 1);
}

/// What an agent sends until it is welcome, as gRPC messages, and what it is asked by a leader that knows of all tasks
/// that they run: bytes both.
async fn resync_bytes(tasks: usize, changed: usize) -> (usize, usize) {
    let attribute =
        |name: &str, value: &str| types::Attribute { name: name.to_owned(), value: value.to_owned() };
    let facts = Facts {
        agent_id: "6fa459ea-ee8a-3ca4-894e-db77e160355e".to_owned(),
        hostname: "rack12-host07.example.net".to_owned(),
        boot_id: "16fd2706-8baf-433b-82eb-8c7fada847da".to_owned(),
        address: "192.0.2.107:5051".to_owned(),
        total: types::Resources { cpus_milli: 128_000, mem_mib: 1 << 20, ..types::Resources::default() },
        attributes: vec![attribute("rack", "12"), attribute("zone", "north-1")],
        limitations: vec![
            "no hierarchy offers the hugetlb controller: huge pages are not limited".to_owned(),
        ],
    };
    let (events, _) = mpsc::channel(1);
    let token = PathBuf::from("token");
    let coordinators = Coordinators::plain(&["http://127.0.0.1:1".to_owned()], token).unwrap();
    let session = Session { coordinators, facts, events };
    let row = |number, sequence, state| KnownTask {
        task_id: TaskId::new(&format!("7c9e6679-7425-40de-944b-e07fc1f9{number:04}")).unwrap(),
        sequence,
        state,
        awaits_word: false,
    };
    let running = |number| row(number, 2, TaskState::Running);
    let own = (0..tasks).map(|number| match number < changed {
        true => row(number, 3, TaskState::Finished),
        false => running(number),
    });
    let known = Known::new(own.collect());
    let theirs = Known::new((0..tasks).map(running).collect());
    let buckets = known.digests().differing(theirs.digests());
    let cluster = ClusterId::new("9b2d3c1e-5f60-4a7b-8c9d-0e1f2a3b4c5d").unwrap();
    let hello = session.hello(Some(&cluster), &known, Telling::ByDigest);
    let hello = wire::FromAgent { message: Some(from_agent::Message::Hello(hello)) };
    let read = wire::ReadKnown { buckets };
    let (asked, told) = match read.buckets.is_empty() {
        true => (0, 0),
        false => {
            let asked = wire::ToAgent { message: Some(Said::ReadKnown(read.clone())) };
            let told = wire::FromAgent { message: Some(messages::read_known(read, &known)) };
            (asked.encoded_len(), told.encoded_len())
        }
    };
    (hello.encoded_len() + told, asked)
}

#[tokio::test]
async fn a_hello_costs_what_differs_and_not_what_there_is() {
    let mut shown = String::new();
    for (tasks, changed) in [(0, 0), (10, 0), (10, 1), (1000, 0), (1000, 1), (1000, 10), (8000, 0), (8000, 1)]
    {
        let (sent, asked) = resync_bytes(tasks, changed).await;
        shown += &format!("{tasks} tasks, {changed} changed: {sent} bytes sent, {asked} asked\n");
        // What is promised.
        assert!(changed > 0 || sent < 1024, "{tasks} unchanged tasks take {sent} bytes");
    }
    expect![[r#"
        0 tasks, 0 changed: 298 bytes sent, 0 asked
        10 tasks, 0 changed: 298 bytes sent, 0 asked
        10 tasks, 1 changed: 741 bytes sent, 5 asked
        1000 tasks, 0 changed: 795 bytes sent, 0 asked
        1000 tasks, 1 changed: 2206 bytes sent, 5 asked
        1000 tasks, 10 changed: 15142 bytes sent, 14 asked
        8000 tasks, 0 changed: 795 bytes sent, 0 asked
        8000 tasks, 1 changed: 11710 bytes sent, 5 asked
    "#]]
    .assert_eq(&shown);
}
