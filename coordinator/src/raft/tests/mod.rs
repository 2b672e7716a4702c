//! A member with a machine that remembers every command, put through its paces.

#![allow(clippy::print_stdout, reason = "figures for whoever reads the test's output")]

mod backup;
mod bench;
mod cluster;
mod damage;
mod kill;
mod network;
mod simulated;
mod stall;
mod suite;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Figures, InitializeError, Machine, MachineError, OpenError, ProposeError, Raft, RaftConfig, RaftHandle,
    StopError,
    limits::{COMMAND_BYTES_MAX, PROPOSALS_BYTES_MAX},
};

pub use simulated::SeededRuntime;

/// One patience for the whole suite.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that the machine can't stand.
const PANIC: &[u8] = b"panic";

/// What a machine did, seen from outside.
#[derive(Debug, Default, Clone, PartialEq)]
struct Journal {
    /// Index and command, in order.
    commands: Vec<(u64, Vec<u8>)>,
    published: u64,
    /// Calls of `apply`.
    applied: u64,
}

/// Keeps every command; the answer is the number of commands so far and the command itself.
#[derive(Default, Clone)]
struct Recorder {
    journal: Arc<Mutex<Journal>>,
}

impl Recorder {
    fn journal(&self) -> Journal {
        self.journal.lock().unwrap().clone()
    }
}

impl Machine for Recorder {
    fn apply(&mut self, index: u64, _term: u64, command: &[u8]) -> Result<Vec<u8>, MachineError> {
        let mut journal = self.journal.lock().unwrap();
        assert!(journal.commands.last().is_none_or(|(last, _)| *last < index), "in order, each once");
        journal.commands.push((index, command.to_vec()));
        journal.applied += 1;
        assert!(command != PANIC, "as the test wanted");
        Ok([journal.commands.len().to_string().as_bytes(), b" ", command].concat())
    }

    fn published(&mut self, last_applied: u64) {
        self.journal.lock().unwrap().published = last_applied;
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let commands = self.journal.lock().unwrap().commands.clone();
        Box::new(move || {
            let mut bytes = Vec::new();
            for (index, command) in commands {
                bytes.extend_from_slice(&index.to_le_bytes());
                bytes.extend_from_slice(&(command.len() as u64).to_le_bytes());
                bytes.extend_from_slice(&command);
            }
            bytes
        })
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let mut journal = self.journal.lock().unwrap();
        journal.commands.clear();
        let mut rest = bytes;
        while !rest.is_empty() {
            let head = rest.split_first_chunk::<16>().ok_or_else(|| MachineError {
                what: "a snapshot",
                bytes: bytes.len(),
                source: "cut short".into(),
            })?;
            let index = u64::from_le_bytes(head.0[..8].try_into().unwrap());
            let length = u64::from_le_bytes(head.0[8..].try_into().unwrap());
            let (command, after) = head.1.split_at(usize::try_from(length).unwrap());
            journal.commands.push((index, command.to_vec()));
            rest = after;
        }
        Ok(())
    }
}

/// A running member.
struct Member {
    handle: RaftHandle,
    recorder: Recorder,
    task: JoinHandle<Result<(), StopError>>,
}

impl Member {
    async fn open(config: RaftConfig) -> Result<Self, OpenError> {
        let recorder = Recorder::default();
        let (handle, raft) = Raft::open(config, recorder.clone()).await?;
        let task = tokio::spawn(raft.run(CancellationToken::new()));
        Ok(Self { handle, recorder, task })
    }

    /// Opens a directory, begins a cluster there if there is none, and waits until it leads.
    async fn lead(config: RaftConfig) -> Self {
        let member = Self::open(config).await.unwrap();
        match member.handle.initialize_single().await {
            Ok(()) | Err(InitializeError::AlreadyBegun) => {}
            Err(error) => panic!("{error}"),
        }
        member.led().await;
        member
    }

    async fn led(&self) {
        let mut leadership = self.handle.leadership();
        let led = leadership.wait_for(|leadership| leadership.is_leader);
        tokio::time::timeout(PATIENCE, led).await.expect("leads in time").unwrap();
    }

    async fn propose(&self, command: &str) -> String {
        String::from_utf8(self.handle.propose(command.into()).await.unwrap()).unwrap()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Figures) -> bool) -> Figures {
        let started = std::time::Instant::now();
        loop {
            let figures = self.handle.metrics();
            if condition(&figures) {
                return figures;
            }
            assert!(started.elapsed() < PATIENCE, "still not {what}: {figures:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.handle.shutdown().await;
        self.task.await.unwrap().unwrap();
    }
}

fn config(path: &Path) -> RaftConfig {
    RaftConfig::new(path, 1, "127.0.0.1:5050")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_applied_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    let member = Member::lead(config(folder.path())).await;
    assert_eq!(member.propose("a").await, "1 a");
    assert_eq!(member.propose("b").await, "2 b");
    let many = member.handle.propose_many(vec![b"c".to_vec(), b"d".to_vec()]).await.unwrap();
    assert_eq!(many, [Ok(b"3 c".to_vec()), Ok(b"4 d".to_vec())]);
    assert_eq!(member.handle.propose_many(Vec::new()).await.unwrap(), []);
    member.handle.ensure_linearizable().await.unwrap();

    let journal = member.recorder.journal();
    let last = journal.commands.last().unwrap().0;
    // Raft publishes its figures a moment after the answers.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while member.handle.metrics().applied_index < last && std::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let figures = member.handle.metrics();
    assert_eq!(figures.applied_index, last);
    assert_eq!(journal.published, figures.applied_index);
    assert_eq!(figures.term, member.handle.leadership().borrow().term);
    assert!(figures.log_bytes > 0);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_member_leads_soon_in_a_new_term_with_the_same_state() {
    let folder = tempfile::tempdir().unwrap();
    let mut term = 0;
    let mut cluster_id = None;
    for round in 1..=4 {
        let started = std::time::Instant::now();
        let member = Member::lead(config(folder.path())).await;
        println!("round {round}: leads after {:?}", started.elapsed());
        let leadership = *member.handle.leadership().borrow();
        assert_eq!(leadership.leader, Some(1));
        assert!(leadership.term > term, "{leadership:?} after term {term}");
        term = leadership.term;
        let known = cluster_id.get_or_insert_with(|| member.handle.cluster_id().to_owned());
        assert_eq!(known, member.handle.cluster_id());
        assert_eq!(member.recorder.journal().commands.len(), round - 1, "caught up before it leads");
        assert_eq!(member.propose("x").await, format!("{round} x"));
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_a_purge_and_a_restart_restore_everything() {
    let folder = tempfile::tempdir().unwrap();
    let config = RaftConfig { snapshot_entries: 500, kept_entries: 100, ..config(folder.path()) };
    let member = Member::lead(config.clone()).await;
    let handle = member.handle.clone();
    for batch in 0..30 {
        let commands = (0..100).map(|number| format!("{batch}-{number}").into_bytes()).collect();
        for answer in handle.propose_many(commands).await.unwrap() {
            answer.unwrap();
        }
    }
    let figures = member
        .until("purged", |figures| figures.snapshot_index >= 2500 && figures.purged_index >= 2000)
        .await;
    assert!(figures.purged_index <= figures.snapshot_index);
    // 100 kept entries, 500 until the next snapshot, and what came while it was written.
    member.until("small", |figures| figures.log_bytes < 1100 * 60).await;
    let before = member.recorder.journal();
    assert_eq!(before.commands.len(), 3000);
    member.stop().await;

    let member = Member::lead(config).await;
    let after = member.recorder.journal();
    assert_eq!(after.commands, before.commands);
    assert!(after.applied <= 600, "only what came after the snapshot was applied anew: {}", after.applied);
    assert_eq!(member.propose("next").await, "3001 next");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_proposers_share_an_fsync() {
    let folder = tempfile::tempdir().unwrap();
    let member = Member::lead(config(folder.path())).await;
    let proposers: Vec<_> = (0..64)
        .map(|proposer| {
            let handle = member.handle.clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    let command = format!("{proposer}-{number}");
                    let answer = handle.propose(command.clone().into_bytes()).await.unwrap();
                    assert!(answer.ends_with(command.as_bytes()));
                }
            })
        })
        .collect();
    for proposer in proposers {
        proposer.await.unwrap();
    }
    assert_eq!(member.recorder.journal().commands.len(), 64 * 50);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_proposed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let member = Member::open(config(folder.path())).await.unwrap();
    assert!(!member.handle.is_initialized().await.unwrap());
    assert_eq!(member.handle.propose(b"early".into()).await, Err(ProposeError::NotLeader { leader: None }));
    member.handle.initialize_single().await.unwrap();
    assert_eq!(member.handle.initialize_single().await, Err(InitializeError::AlreadyBegun));
    member.led().await;
    assert!(member.handle.is_initialized().await.unwrap());

    let large = vec![0; COMMAND_BYTES_MAX + 1];
    assert_eq!(
        member.handle.propose(large).await,
        Err(ProposeError::TooLarge { bytes: COMMAND_BYTES_MAX + 1, max: COMMAND_BYTES_MAX })
    );
    member.handle.propose(vec![7; COMMAND_BYTES_MAX]).await.unwrap();
    let nine = vec![vec![0; COMMAND_BYTES_MAX]; 9];
    let error = member.handle.propose_many(nine.clone()).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { max: PROPOSALS_BYTES_MAX, .. }), "{error}");
    let answers = futures::future::join_all(nine.into_iter().map(|one| member.handle.propose(one))).await;
    assert!(answers[..7].iter().all(Result::is_ok));
    assert_eq!(answers[7..], [Err(ProposeError::Busy), Err(ProposeError::Busy)]);
    assert_eq!(member.handle.metrics().busy_total, 2);
    assert_eq!(member.handle.metrics().proposals_bytes, 0);

    let handle = member.handle.clone();
    member.stop().await;
    assert_eq!(handle.propose(b"late".into()).await, Err(ProposeError::Stopped));
    assert!(!handle.leadership().borrow().is_leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_on_the_same_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let member = Member::lead(config(folder.path())).await;
    let error = Member::open(config(folder.path())).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("data directory {} is already in use by pid {}", folder.path().display(), std::process::id())
    );
    assert_eq!(member.propose("undisturbed").await, "1 undisturbed");
    member.stop().await;
    Member::lead(config(folder.path())).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_or_member_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| RaftConfig { cluster_id: Some(name.to_owned()), ..config(folder.path()) };
    let member = Member::lead(named("ours")).await;
    member.propose("a").await;
    member.stop().await;

    let path = folder.path().display();
    let error = Member::open(named("theirs")).await.err().unwrap();
    assert_eq!(error.to_string(), format!("data directory {path} belongs to cluster ours, not theirs"));
    let error = Member::open(RaftConfig { member_id: 2, ..named("ours") }).await.err().unwrap();
    assert_eq!(error.to_string(), format!("data directory {path} belongs to member 1, not 2"));

    let member = Member::lead(config(folder.path())).await;
    assert_eq!(member.handle.cluster_id(), "ours");
    assert_eq!(member.propose("b").await, "2 b");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_panics_stops_the_member_and_leaves_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let member = Member::lead(config(folder.path())).await;
    member.propose("a").await;
    let answer = tokio::time::timeout(PATIENCE, member.handle.propose(PANIC.to_vec())).await.unwrap();
    assert_eq!(answer, Err(ProposeError::Unknown));
    let error = tokio::time::timeout(PATIENCE, member.task).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, StopError::Panicked), "{error}");
    assert_eq!(member.handle.propose(b"b".to_vec()).await, Err(ProposeError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn timing_that_does_not_fit_together_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.timing.heartbeat = Duration::from_secs(1);
    let error = Member::open(config).await.err().unwrap();
    assert!(matches!(error, OpenError::Timing { .. }), "{error}");
    assert!(error.next().contains("heartbeat"));
}
