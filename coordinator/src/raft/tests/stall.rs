//! How long a command waits for its answer while a snapshot is built and read by a sender:
//! `cargo test --release -p coordinator --lib raft::tests::stall -- --ignored --nocapture`.
//!
//! The state is the real one, with as many tasks as [`TASKS`] says. What is measured holds the write to disk, too,
//! so the same figures with no snapshot under way stand beside them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cluster::{Answer, ClusterState, Command, Entry, FrameworkInfo};
use model::{AgentId, ClusterId, ClusterTime, FrameworkId, Resources, RoleName, TaskId, TaskSpec, Timestamp};
use openraft::async_runtime::watch::WatchReceiver;
use tokio_util::sync::CancellationToken;

use super::{Raft, RaftConfig, RaftHandle, config};
use crate::{
    convert::log::{decode_answer, encode_entry},
    leader::feed,
    machine::StateMachine,
    metrics::Metrics,
};

const TASKS: [u64; 3] = [10_000, 100_000, 1_000_000];
const TASKS_PER_LAUNCH: u64 = 500;
const TASKS_PER_AGENT: u64 = 1_000;
const QUIET: Duration = Duration::from_secs(3);
const PIECE_BYTES: usize = 1 << 20;

#[test]
#[ignore = "a benchmark; run it in release"]
fn longest_wait_while_a_snapshot_is_built_and_sent() {
    for tasks in TASKS {
        let folder = tempfile::tempdir_in(".").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(measure(folder.path(), tasks));
    }
}

async fn measure(path: &std::path::Path, tasks: u64) {
    let (feed, reader) = feed(0, ClusterState::new());
    let machine = StateMachine::new(feed, Arc::new(Metrics::new()));
    let config = RaftConfig { snapshot_entries: u64::MAX / 4, ..config(path) };
    let (handle, raft) = Raft::open(config, machine).await.unwrap();
    let running = tokio::spawn(raft.run(CancellationToken::new()));
    handle.initialize_single().await.unwrap();
    handle.leadership().wait_for(|leadership| leadership.is_leader).await.unwrap();
    let started = Instant::now();
    fill(&handle, tasks).await;
    println!("{tasks} tasks were launched in {:?}", started.elapsed());

    let done = Arc::new(AtomicBool::new(false));
    let quiet = tokio::spawn(propose(handle.clone(), done.clone()));
    tokio::time::sleep(QUIET).await;
    done.store(true, Ordering::Relaxed);
    show("no snapshot", quiet.await.unwrap());

    let done = Arc::new(AtomicBool::new(false));
    let proposals = tokio::spawn(propose(handle.clone(), done.clone()));
    let started = Instant::now();
    handle.snapshot().await.unwrap();
    let (mut bytes, mut readings) = (0, 0);
    let mut metrics = handle.raft.metrics();
    while metrics.borrow_watched().snapshot.is_none() {
        // As a leader does that has a follower far behind.
        bytes = read(&handle).await.max(bytes);
        readings += 1;
        let _ = tokio::time::timeout(Duration::from_millis(20), metrics.changed()).await;
    }
    let built = started.elapsed();
    bytes = read(&handle).await.max(bytes);
    done.store(true, Ordering::Relaxed);
    show("a snapshot", proposals.await.unwrap());
    println!("    {} MiB, built in {built:?}, asked for {readings} times meanwhile", bytes >> 20);
    drop(reader);
    handle.shutdown().await;
    running.await.unwrap().unwrap();
}

/// Reads the newest snapshot as a sender does; gives its length.
async fn read(handle: &RaftHandle) -> u64 {
    let Some(snapshot) = handle.raft.get_snapshot().await.unwrap() else { return 0 };
    let file = snapshot.snapshot;
    tokio::task::spawn_blocking(move || {
        let mut at = 0;
        while at < file.bytes() {
            at += file.piece(at, PIECE_BYTES).unwrap().len() as u64;
        }
        at
    })
    .await
    .unwrap()
}

/// One small command after the other; gives how long each took.
async fn propose(handle: RaftHandle, done: Arc<AtomicBool>) -> Vec<Duration> {
    let mut waits = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let role = RoleName::new("stall").unwrap();
        let command = Command::SetRole { role, weight_milli: waits.len() as u64 % 1000 + 1, request: None };
        let started = Instant::now();
        agree(&handle, command).await;
        waits.push(started.elapsed());
    }
    waits
}

fn show(what: &str, mut waits: Vec<Duration>) {
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!(
        "    {what}: {} commands, p50 {:?}, p99 {:?}, longest {:?}",
        waits.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn agree(handle: &RaftHandle, command: Command) -> Answer {
    let entry = Entry { at: Timestamp(1), counted: ClusterTime::ZERO, command };
    let answer = handle.propose(encode_entry(&entry)).await.unwrap();
    decode_answer(&answer).unwrap().unwrap()
}

async fn fill(handle: &RaftHandle, tasks: u64) {
    agree(handle, Command::Initialize { cluster: ClusterId::new("stall").unwrap() }).await;
    let framework = FrameworkId::new("f").unwrap();
    let role = RoleName::new("stall").unwrap();
    let info =
        FrameworkInfo { name: "f".to_owned(), role: role.clone(), failover_timeout: model::Duration::ZERO };
    agree(handle, Command::RegisterFramework { framework: framework.clone(), info, request: None }).await;
    let each = Resources { cpus_milli: 10, mem_mib: 4, ..Resources::default() };
    let many = |count: u64| Resources { cpus_milli: 10 * count, mem_mib: 4 * count, ..Resources::default() };
    for number in 0..tasks.div_ceil(TASKS_PER_AGENT) {
        let agent = AgentId::new(&format!("agent-{number}")).unwrap();
        let facts = cluster::AgentFacts {
            hostname: format!("host-{number}"),
            boot_id: "boot".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            version: "1".to_owned(),
            total: many(TASKS_PER_AGENT),
            attributes: Default::default(),
            limitations: Vec::new(),
        };
        let register = Command::RegisterAgent { agent: agent.clone(), facts, tasks: Vec::new() };
        let Answer::AgentRegistered { epoch } = agree(handle, register).await else { panic!("no epoch") };
        for part in 0..TASKS_PER_AGENT / TASKS_PER_LAUNCH {
            let task = |place| {
                let id = TaskId::new(&format!("task-{number}-{part}-{place}")).unwrap();
                Arc::new(TaskSpec::new(id, each.clone(), vec!["sleep".to_owned(), "1000".to_owned()]))
            };
            let command = Command::Launch {
                framework: framework.clone(),
                request: None,
                agent: agent.clone(),
                epoch,
                role: role.clone(),
                offered: many(TASKS_PER_LAUNCH),
                tasks: (0..TASKS_PER_LAUNCH).map(task).collect(),
            };
            let Answer::Launched(launched) = agree(handle, command).await else { panic!("no launch") };
            assert!(launched.iter().all(|(_, refusal)| refusal.is_none()), "{launched:?}");
        }
    }
}
