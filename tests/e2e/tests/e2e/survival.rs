//! Daemons that die, and tasks that don't notice.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    time::{Duration, Instant},
};

use harness::{Cluster, ClusterOptions, little_cpu, page, wait_until};
use muster_client::{
    Connection, Event, Framework, FrameworkOptions, is_final,
    operator::{OutputStream, ReadOutputRequest},
    scheduler::{Demand, FrameworkInfo},
    types::{Resources, TaskSpec, TaskState, TaskStatus, exit},
};
use nix::sys::stat::Mode;

use crate::{cluster, script};

/// Little enough for hundreds beside each other on two cores.
fn shape() -> Resources {
    Resources { cpus_milli: little_cpu(), mem_mib: 8, ..Resources::default() }
}

/// Agents that claim more CPUs than this machine has, so that many small tasks fit.
fn roomy() -> ClusterOptions {
    let flags = ["--cpus", "64", "--mem", "16GiB"];
    ClusterOptions { agent_flags: flags.map(String::from).to_vec(), ..ClusterOptions::default() }
}

/// What a framework of this test has heard: every status, as it came.
struct Heard {
    statuses: BTreeMap<String, Vec<TaskStatus>>,
}

impl Heard {
    fn finals(&self) -> usize {
        self.statuses.values().flatten().filter(|status| is_final(status.state())).count()
    }
}

/// Launches `specs` through offers and listens until every task is over.
async fn run_to_the_end(connection: Connection, specs: Vec<TaskSpec>) -> Heard {
    let info = FrameworkInfo { name: "survival".to_owned(), ..FrameworkInfo::default() };
    let options = FrameworkOptions { info, ..FrameworkOptions::default() };
    let mut framework = Framework::subscribe(&connection, options).await.unwrap();
    let count = specs.len();
    let mut unlaunched = specs;
    let mut heard = Heard { statuses: BTreeMap::new() };
    demand(&mut framework, unlaunched.len()).await;
    while heard.finals() < count {
        match framework.next().await.unwrap() {
            Event::Subscribed => demand(&mut framework, unlaunched.len()).await,
            Event::Offers(offers) => {
                for offer in offers {
                    let held = offer.resources.clone().unwrap_or_default();
                    let fitting =
                        usize::try_from((held.cpus_milli / little_cpu()).min(held.mem_mib / 8)).unwrap();
                    let some = unlaunched.split_off(unlaunched.len() - fitting.min(unlaunched.len()));
                    let accepted = framework.accept(vec![offer.offer_id.clone()], some.clone(), None).await;
                    // A refused or lost accept: the log knows which tasks it launched.
                    let known =
                        framework.reconcile(some.iter().map(|spec| spec.task_id.clone()).collect()).await;
                    let known = known.unwrap_or_default();
                    if accepted.is_err()
                        || accepted.is_ok_and(|all| all.iter().any(|one| one.refusal.is_some()))
                    {
                        unlaunched.extend(some.into_iter().filter(|spec| {
                            !known.iter().any(|status| {
                                status.task_id == spec.task_id
                                    && status.reason() != muster_client::types::Reason::TaskUnknown
                            })
                        }));
                    }
                }
                demand(&mut framework, unlaunched.len()).await;
            }
            Event::Status(status) => {
                heard.statuses.entry(status.task_id.clone()).or_default().push(*status);
                // Failing is harmless: what is not acknowledged is only kept longer.
                let _ = framework.acknowledge().await;
            }
            Event::Rescinded { .. } | Event::AgentLost { .. } | Event::AgentBack { .. } => {}
        }
    }
    match framework.teardown().await {
        Ok(()) => {}
        // In an emulated machine it may be away for longer than a client has patience.
        Err(error) if harness::is_guest() && error.may_pass() => {}
        Err(error) => panic!("the framework was not torn down: {error}"),
    }
    heard
}

async fn demand(framework: &mut Framework, count: usize) {
    let count = u32::try_from(count).unwrap();
    // Failing is harmless: the next subscription says it again.
    let demands =
        if count == 0 { vec![] } else { vec![Demand { shape: Some(shape()), count, constraints: vec![] }] };
    let _ = framework.set_demand(demands).await;
}

async fn output(connection: &Connection, id: &str) -> String {
    let request = ReadOutputRequest {
        task_id: id.to_owned(),
        stream: OutputStream::Stdout.into(),
        ..Default::default()
    };
    // After its agent was killed, its session has to come back first.
    let mut answer = None;
    wait_until("the output can be read", async || {
        answer = connection.call(async |mut operator| operator.read_output(request.clone()).await).await.ok();
        answer.is_some()
    })
    .await;
    let mut chunks = answer.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        bytes.extend_from_slice(&chunk.data);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn adopt_after_restart() {
    let count = if harness::is_guest() { 20 } else { 200 };
    let mut cluster = cluster!(roomy());
    let specs = (0..count).map(|number| {
        let naps = number % 20;
        let code = number % 7;
        let text = format!(
            "echo begin {number}; sleep 0.{naps:02}; sleep {}; echo end {number}; exit {code}",
            naps % 3
        );
        TaskSpec { task_id: format!("loop-{number}"), resources: Some(shape()), ..script(&text) }
    });
    let framework = tokio::spawn(run_to_the_end(cluster.connection(), specs.collect()));
    let mut kills = 0;
    while !framework.is_finished() {
        tokio::time::sleep(Duration::from_millis(150 + 70 * (kills % 7))).await;
        cluster.agents[0].kill();
        kills += 1;
        cluster.restart_agent(0);
        if kills % 3 == 0 {
            // Now and then it may come all the way up.
            cluster.until_agents().await;
        }
        assert!(kills < 1000, "the tasks never end");
    }
    let heard = framework.await.unwrap();
    cluster.until_agents().await;
    println!("{count} tasks, the agent was killed {kills} times");
    assert_eq!(heard.statuses.len(), count);
    for (id, statuses) in &heard.statuses {
        let number: i32 = id.trim_start_matches("loop-").parse().unwrap();
        let finals: Vec<_> = statuses.iter().filter(|status| is_final(status.state())).collect();
        assert_eq!(finals.len(), 1, "{id}: {statuses:?}");
        let exit = finals[0].exit.and_then(|exit| exit.how);
        assert_eq!(exit, Some(exit::How::Code(number % 7)), "{id}: {statuses:?}");
        assert!(statuses.is_sorted_by_key(|status| status.sequence), "{id}: {statuses:?}");
        let text = output(&cluster.connection(), id).await;
        assert_eq!(text, format!("begin {number}\nend {number}\n"), "{id}");
    }
    cluster.finish().await;
}

/// Processes of a cluster's tasks: their numbers on the host. Not their command lines, as a shell may be about to
/// become something else.
fn pids(cluster: &Cluster) -> Vec<String> {
    pids_with(cluster, "")
}

/// Those of them whose command line has this in it.
fn pids_with(cluster: &Cluster, command: &str) -> Vec<String> {
    let lines = cluster.residue().find().into_iter();
    let ours = lines.filter_map(|line| line.strip_prefix("process: ").map(str::to_owned));
    let mut pids: Vec<_> = ours
        .filter(|line| line.contains(command))
        .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
        .collect();
    pids.sort();
    pids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_are_adopted_at_once() {
    let count = if harness::is_guest() { 20 } else { 1000 };
    let mut cluster = cluster!(roomy());
    let mut spec = script("exec sleep 100000");
    spec.resources = Some(shape());
    let ids = cluster.run(spec, count).await;
    wait_until("all tasks run", async || {
        cluster.agents[0].assert_alive();
        cluster.tasks(true).await.iter().filter(|task| task.state() == TaskState::Running).count()
            == ids.len()
    })
    .await;
    let before = pids(&cluster);
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let address = cluster.agent_address(0).to_owned();
    wait_until("the agent tells how long it took", async || {
        cluster.agents[0].assert_alive();
        page::figure(&address, "muster_agent_adopted_tasks") == Some(f64::from(count))
    })
    .await;
    let seconds = page::figure(&address, "muster_agent_adoption_seconds").expect("it tells both");
    println!("{count} tasks adopted in {seconds:.3} s after the agent's start");
    assert_eq!(pids(&cluster), before, "a task's process changed");
    assert!(cluster.tasks(true).await.iter().all(|task| task.state() == TaskState::Running));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_dies_and_tasks_do_not_notice() {
    let mut cluster = cluster!(roomy());
    let specs = (0..40).map(|number| TaskSpec {
        task_id: format!("steady-{number}"),
        resources: Some(shape()),
        ..script(&format!("sleep {}.{}; exit {}", number % 6, number % 10, number % 3))
    });
    let framework = tokio::spawn(run_to_the_end(cluster.connection(), specs.collect()));
    let witness = cluster.run(script("exec sleep 100000"), 1).await.remove(0);
    cluster.until_state(&witness, TaskState::Running).await;
    let before = pids_with(&cluster, "sleep 100000");
    assert!(!before.is_empty(), "the witness has no process");
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.coordinator.kill();
        cluster.restart_coordinator().await;
    }
    let heard = framework.await.unwrap();
    for (id, statuses) in &heard.statuses {
        let number: i32 = id.trim_start_matches("steady-").parse().unwrap();
        let mut sequences: Vec<_> = statuses.iter().map(|status| status.sequence).collect();
        assert!(sequences.is_sorted(), "{id}: {statuses:?}");
        sequences.dedup();
        assert_eq!(sequences.len(), statuses.len(), "{id} heard a status twice: {statuses:?}");
        let last = statuses.last().unwrap();
        assert_eq!(
            last.exit.and_then(|exit| exit.how),
            Some(exit::How::Code(number % 3)),
            "{id}: {statuses:?}"
        );
    }
    assert_eq!(heard.statuses.len(), 40);
    assert_eq!(cluster.task(&witness).await.state(), TaskState::Running);
    assert_eq!(pids_with(&cluster, "sleep 100000"), before, "the witness is another process");
    cluster.finish().await;
}

/// What an hour's churn leaves: a thousand tasks that end while nobody can be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_was_away_hears_of_every_end_once() {
    let count = if harness::is_guest() { 20 } else { 1000 };
    let mut cluster = cluster!(roomy());
    // Every task reads it, which lasts until a writer has come and gone.
    let folder = tempfile::Builder::new().prefix("muster-test-away-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o644)).unwrap();
    let specs = (0..count).map(|number| TaskSpec {
        task_id: format!("away-{number}"),
        resources: Some(shape()),
        ..script(&format!("read line < {}; exit {}", pipe.display(), number % 7))
    });
    let framework = tokio::spawn(run_to_the_end(cluster.connection(), specs.collect()));
    wait_until("all tasks run", async || {
        cluster.agents[0].assert_alive();
        cluster.tasks(true).await.iter().filter(|task| task.state() == TaskState::Running).count() == count
    })
    .await;
    cluster.coordinator.kill();
    wait_until("every task is over", async || {
        // Refused while nobody reads; a task that comes to it late is let go by the next one.
        let writer = fs::File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe);
        drop(writer);
        pids(&cluster).is_empty()
    })
    .await;
    // Nor does it matter that the agent itself did not live through all of it.
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    let address = cluster.agent_address(0).to_owned();
    wait_until("the agent is back", async || page::get(&address, "/health").is_some()).await;
    let back = Instant::now();
    cluster.restart_coordinator().await;
    let heard = framework.await.unwrap();
    println!("{count} ends were told {:.1} s after the coordinator's start", back.elapsed().as_secs_f64());
    assert_eq!(heard.statuses.len(), count);
    for (id, statuses) in &heard.statuses {
        let number: i32 = id.trim_start_matches("away-").parse().unwrap();
        let finals: Vec<_> = statuses.iter().filter(|status| is_final(status.state())).collect();
        assert_eq!(finals.len(), 1, "{id}: {statuses:?}");
        let exit = finals[0].exit.and_then(|exit| exit.how);
        assert_eq!(exit, Some(exit::How::Code(number % 7)), "{id}: {statuses:?}");
        assert!(statuses.is_sorted_by(|older, newer| older.sequence < newer.sequence), "{id}: {statuses:?}");
    }
    cluster.until_agents().await;
    cluster.finish().await;
}

/// A downgrade below what an older release understands stops before it changes anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_checkpoint_is_refused_and_its_tasks_go_on() {
    let mut cluster = cluster!();
    // From its beginning the init and one process, whatever the shell makes of its last command.
    let id = cluster.run(script("exec sleep 1000"), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    wait_until("all of its processes are there", async || pids(&cluster).len() == 2).await;
    let before = pids(&cluster);
    cluster.agents[0].end(nix::sys::signal::Signal::SIGTERM).await;
    let checkpoint = cluster.agent_dir(0).join("checkpoint");
    let format = checkpoint.join("format");
    let known = fs::read_to_string(&format).unwrap();
    fs::write(&format, "999\n").unwrap();
    let look = || {
        let entries = fs::read_dir(&checkpoint).unwrap().flatten();
        let mut facts: Vec<_> =
            entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap())).collect();
        facts.sort();
        facts
    };
    let untouched = look();
    cluster.restart_agent(0);
    wait_until("the agent refuses to start", async || !cluster.agents[0].is_alive()).await;
    let log = cluster.agents[0].log();
    assert!(log.contains("data-dir-too-new") && log.contains("999"), "{log}");
    assert_eq!(look(), untouched);
    assert_eq!(pids(&cluster), before);
    fs::write(&format, known).unwrap();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    assert_eq!(pids(&cluster), before);
    cluster.until_state(&id, TaskState::Running).await;
    cluster.finish().await;
}
