//! Logs and snapshots of each cluster version, as the last build of that version wrote them, read by this one.
//!
//! `coordinator/fixtures/vN/` holds a data directory (`data.tar.gz`) of the last build of each version, most of them
//! of a real coordinator with an agent, and what was known of its `tasks`. `MUSTER_WRITE_FIXTURE=1 cargo test -p
//! coordinator a_fixture_is_written` makes those of this version, before the next is raised, with all `commands` and
//! the whole `state` after them. Older ones are never written again: only what an old build wrote proves anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cluster::{AgentFacts, ClusterState, Command, Entry, FrameworkInfo, JoinKind, KillBy, KnownTask};
use codec::testing::{spec, status};
use model::{
    AgentId, ClusterId, ClusterTime, Cursor, FrameworkId, RequestId, Resources, RoleName, TaskId, TaskSpec,
    TaskState, TaskStatus, Timestamp,
};
use proptest::{strategy::Strategy, strategy::ValueTree as _, test_runner::TestRunner};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    convert::{self, testing},
    daemon::{Daemon, FailureCode},
    leader::{FeedReader, feed},
    machine::StateMachine,
    metrics::Metrics,
    raft::{OpenError, Raft, RaftConfig, RaftHandle, StopError},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The version whose fixture this build writes.
const VERSION: u32 = cluster::VERSION_SUPPORTED;
/// What the last entry in `fixtures/newer` needs, and what the one before it raised the cluster to.
const NEWER: u32 = 1_000_000;
const BEFORE_NEWER: u32 = 4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn folder(version: u32) -> PathBuf {
    fixtures().join(format!("v{version}"))
}

fn machine() -> (StateMachine, FeedReader) {
    let (feed, reader) = feed(0, ClusterState::new());
    (StateMachine::new(feed, Arc::new(Metrics::new())), reader)
}

/// What this build writes into a log, whatever it was asked to.
fn encoded(number: usize, command: Command) -> Vec<u8> {
    let number = u64::try_from(number).unwrap();
    let at = Timestamp(1_700_000_000_000_000 + i64::try_from(number).unwrap() * 1_000_000);
    convert::log::encode_entry(&Entry { at, counted: ClusterTime(number * 1_000_000), command })
}

/// Whether a leader of this version would have proposed it.
fn fits(command: &Command) -> bool {
    command.version_needed() <= VERSION && !matches!(command, Command::RaiseVersion { .. })
}

/// A life of a small cluster, with everything that a log can hold, and some nonsense behind it.
fn story() -> Vec<Command> {
    let mut chance = TestRunner::deterministic();
    let mut commands = lived(&mut chance);
    while commands.len() < 90 {
        commands.extend(Some(testing::command().new_tree(&mut chance).unwrap().current()).filter(fits));
    }
    commands
}

fn lived(chance: &mut TestRunner) -> Vec<Command> {
    let framework = FrameworkId::new("f1").unwrap();
    let (first, second) = (AgentId::new("a1").unwrap(), AgentId::new("a2").unwrap());
    let role = RoleName::new("web").unwrap();
    let request = |text: &str| Some(RequestId::new(text).unwrap());
    let offered = Resources { cpus_milli: 8000, mem_mib: 8192, disk_mib: 10_000, ..Resources::default() };
    let info = FrameworkInfo {
        name: "shop".to_owned(),
        role: role.clone(),
        failover_timeout: model::Duration::from_secs(60),
    };
    let facts = |boot: &str| AgentFacts {
        hostname: "host".to_owned(),
        boot_id: boot.to_owned(),
        address: "127.0.0.1:7".to_owned(),
        version: "0.1.0".to_owned(),
        total: offered.clone(),
        attributes: Default::default(),
        limitations: vec!["no cgroup v2".to_owned()],
    };
    let mut task = |id: &str| loop {
        let chosen = TaskSpec {
            task_id: TaskId::new(id).unwrap(),
            resources: Resources { cpus_milli: 500, mem_mib: 64, ..Resources::default() },
            ..spec().new_tree(chance).unwrap().current()
        };
        let chosen = Arc::new(chosen);
        if fits(&Command::SubmitRun { request: None, tasks: vec![chosen.clone()] }) {
            return chosen;
        }
    };
    let launched = vec![task("t1"), task("t2"), task("t3")];
    let submitted = vec![task("r1"), task("r2")];
    let mut said = |agent: &AgentId, id: &str, state: TaskState, sequence: u64| loop {
        let status = TaskStatus {
            task_id: TaskId::new(id).unwrap(),
            framework_id: framework.clone(),
            agent_id: Some(agent.clone()),
            state,
            sequence,
            is_released: state.is_final(),
            ..status().new_tree(chance).unwrap().current()
        };
        let command = Command::RecordStatuses { agent: agent.clone(), epoch: 1, statuses: vec![status] };
        if fits(&command) {
            return command;
        }
    };
    let mut commands = vec![
        Command::Initialize { cluster: ClusterId::new("fixture").unwrap() },
        Command::RaiseVersion { version: VERSION },
        Command::RegisterFramework {
            framework: framework.clone(),
            info: info.clone(),
            request: request("q1"),
        },
        Command::ConnectFramework { framework: framework.clone() },
        Command::SetRole { role: role.clone(), weight_milli: 2000, request: request("q2") },
        Command::RegisterAgent { agent: first.clone(), facts: facts("boot-1"), tasks: vec![] },
        Command::RegisterAgent { agent: second.clone(), facts: facts("boot-2"), tasks: vec![] },
        Command::SubmitRun { request: request("q3"), tasks: submitted },
        Command::Launch {
            framework: framework.clone(),
            request: request("q4"),
            agent: first.clone(),
            epoch: 1,
            role,
            offered: offered.clone(),
            tasks: launched,
        },
        said(&first, "t1", TaskState::Starting, 1),
        said(&first, "t1", TaskState::Running, 2),
        said(&first, "t2", TaskState::Running, 1),
        Command::Kill {
            by: KillBy::Operator,
            task: TaskId::new("t1").unwrap(),
            grace: Some(model::Duration::from_secs(3)),
            request: request("q5"),
        },
        said(&first, "t1", TaskState::Killed, 3),
        said(&first, "t2", TaskState::Failed, 2),
        Command::AcknowledgeEvents { framework: framework.clone(), cursor: Cursor { index: 12, ordinal: 0 } },
        Command::DisconnectFramework { framework: framework.clone() },
        Command::MarkAgentUnreachable { agent: second.clone(), epoch: 1 },
        Command::RegisterAgent {
            agent: second,
            facts: facts("boot-3"),
            tasks: vec![KnownTask {
                task: TaskId::new("x").unwrap(),
                sequence: 1,
                state: TaskState::Running,
            }],
        },
    ];
    commands.extend(newer());
    commands.push(Command::UpdateFramework { framework, info, request: request("q6") });
    assert!(commands.iter().skip(2).all(fits), "the story is beyond its version");
    commands
}

/// What the first version did not have.
fn newer() -> Vec<Command> {
    vec![
        Command::CountTime,
        Command::CreateJoinToken {
            token: "cafe0001".to_owned(),
            digest: [7; 32],
            kind: JoinKind::Agent,
            only_for: Some("a3".to_owned()),
            expires_at: Timestamp(1_700_009_000_000_000),
            life: Some(Duration::from_secs(3600)),
        },
        Command::UseJoinToken {
            token: "cafe0001".to_owned(),
            digest: [7; 32],
            kind: JoinKind::Agent,
            name: "a3".to_owned(),
            key: [9; 32],
        },
        Command::RevokeJoinToken { token: "cafe0001".to_owned() },
    ]
}

fn framed(commands: &[Vec<u8>]) -> Vec<u8> {
    let length = |command: &[u8]| u32::try_from(command.len()).unwrap().to_le_bytes();
    commands.iter().flat_map(|command| [&length(command)[..], command].concat()).collect()
}

fn unframed(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut commands = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (command, rest) = rest.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        commands.push(command.to_vec());
        bytes = rest;
    }
    commands
}

struct Running {
    handle: RaftHandle,
    task: tokio::task::JoinHandle<Result<(), StopError>>,
    stop: CancellationToken,
}

impl Running {
    async fn open(directory: &Path, machine: StateMachine) -> Result<Self, OpenError> {
        let mut config = RaftConfig::new(directory, 1, "127.0.0.1:1");
        // Read from the directory where there is one.
        config.cluster_id = None;
        let (handle, raft) = Raft::open(config, machine).await?;
        let stop = CancellationToken::new();
        Ok(Self { handle, task: tokio::spawn(raft.run(stop.clone())), stop })
    }

    async fn led(&self) {
        let mut leadership = self.handle.leadership();
        let led = leadership.wait_for(|leadership| leadership.is_leader);
        tokio::time::timeout(PATIENCE, led).await.expect("leads in time").unwrap();
    }

    /// Of all that was applied so far.
    async fn snapshot(&self) {
        let wanted = self.handle.metrics().applied_index;
        self.handle.snapshot().await.unwrap();
        let taken = async {
            while self.handle.metrics().snapshot_index < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.expect("a snapshot in time");
    }

    async fn stop(self) {
        self.stop.cancel();
        self.handle.shutdown().await;
        // How it ends is other tests' matter.
        let _ = tokio::time::timeout(PATIENCE, self.task).await.expect("stops in time").unwrap();
    }
}

/// Makes the fixture of this version, when it is told to.
#[tokio::test]
async fn a_fixture_is_written() {
    if std::env::var_os("MUSTER_WRITE_FIXTURE").is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let member = Running::open(&data, machine().0).await.unwrap();
    member.handle.initialize_single().await.unwrap();
    member.led().await;
    let commands: Vec<Vec<u8>> =
        story().into_iter().enumerate().map(|(number, command)| encoded(number, command)).collect();
    for (number, command) in commands.iter().enumerate() {
        member.handle.propose(command.clone()).await.unwrap();
        if number == 60 {
            member.snapshot().await;
        }
    }
    member.stop().await;

    let folder = match std::env::var("MUSTER_FIXTURE_DIR") {
        Ok(elsewhere) => PathBuf::from(elsewhere),
        Err(_) => folder(VERSION),
    };
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("commands"), framed(&commands)).unwrap();
    pack(&data, &folder);

    // What a member has after all of it, as it saves it.
    let member = Running::open(&data, machine().0).await.unwrap();
    member.led().await;
    member.snapshot().await;
    member.stop().await;
    std::fs::copy(data.join("snapshot"), folder.join("state")).unwrap();
}

/// Makes `fixtures/newer`, when it is told to: a log that ends with what no build knows.
#[tokio::test]
async fn a_log_of_a_newer_version_is_written() {
    if std::env::var_os("MUSTER_WRITE_NEWER").is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let member = Running::open(&data, machine().0).await.unwrap();
    member.handle.initialize_single().await.unwrap();
    member.led().await;
    let cluster = ClusterId::new("fixture").unwrap();
    let begun = [Command::Initialize { cluster }, Command::RaiseVersion { version: BEFORE_NEWER }];
    for (number, command) in begun.into_iter().enumerate() {
        member.handle.propose(encoded(number, command)).await.unwrap();
    }
    let newer = proto::log::v1::LogEntry { version: NEWER, at_us: 1, counted_us: 1, command: None };
    member.handle.propose(newer.encode_to_vec()).await.unwrap_err();
    member.stop().await;
    pack(&data, &fixtures().join("newer"));
}

fn pack(data: &Path, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let packed = std::process::Command::new("tar")
        .args(["--create", "--gzip", "--sparse", "--owner=0", "--group=0", "--numeric-owner", "--file"])
        .arg(folder.join("data.tar.gz"))
        .arg("--directory")
        .arg(data)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
}

/// The state in a snapshot file.
fn saved_state(folder: &Path) -> ClusterState {
    let file = std::fs::read(folder.join("state")).unwrap();
    // As `raft/snapshot.rs` lays it out: a magic number, the length of a head, the head, the state.
    let head = u32::from_le_bytes(file[8..12].try_into().unwrap());
    convert::decode_snapshot(&file[12 + usize::try_from(head).unwrap()..]).unwrap()
}

/// What a state says of its tasks, as the command line of every version says it.
fn tasks(state: &ClusterState) -> String {
    let tasks = state.tasks().iter().map(|(id, task)| (id.as_str(), task.state.as_str()));
    let waiting = state.queue().values().map(|waiting| (waiting.spec.task_id.as_str(), "waiting"));
    let mut lines: Vec<String> = tasks.chain(waiting).map(|(id, state)| format!("{id} {state}\n")).collect();
    lines.sort();
    lines.concat()
}

#[tokio::test]
async fn what_older_builds_wrote_is_read_and_gone_on_with() {
    for version in 1..=VERSION {
        let folder = folder(version);
        // What the newest one writes is kept when the next is raised.
        if version == VERSION && !folder.exists() {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        unpack(&folder.join("data.tar.gz"), directory.path());
        let (machine, reader) = machine();
        let member = Running::open(directory.path(), machine).await.unwrap();
        member.led().await;
        let found = reader.latest();
        assert_eq!(found.version(), version);
        if folder.join("state").exists() {
            judge(&folder, &found);
        } else {
            let wanted = std::fs::read_to_string(folder.join("tasks")).unwrap();
            assert_eq!(tasks(&found), wanted, "of version {version}");
        }

        // It goes on, with what only this version has.
        for command in [Command::RaiseVersion { version: VERSION }, newest()] {
            let answer = member.handle.propose(encoded(1000, command)).await.unwrap();
            convert::log::decode_answer(&answer).unwrap().unwrap();
        }
        member.snapshot().await;
        member.stop().await;
        let (machine, reader) = self::machine();
        let member = Running::open(directory.path(), machine).await.unwrap();
        member.led().await;
        assert_eq!(reader.latest().version(), VERSION, "of version {version}");
        assert_eq!(tasks(&reader.latest()), tasks(&found), "of version {version}");
        member.stop().await;
    }
}

/// Whether snapshot and log make the state that the old build had, and so does its log from the beginning.
fn judge(folder: &Path, found: &ClusterState) {
    let wanted = saved_state(folder);
    assert!(wanted.agents().len() > 1, "there is something in it");
    assert_eq!(*found, wanted, "{}", folder.display());
    let commands = unframed(&std::fs::read(folder.join("commands")).unwrap());
    let mut state = ClusterState::new();
    let first = wanted.applied() + 1 - u64::try_from(commands.len()).unwrap();
    for (index, command) in (first..).zip(&commands) {
        let _ = cluster::apply(&mut state, index, &convert::log::decode_entry(command).unwrap());
    }
    assert_eq!(state, wanted, "{}", folder.display());
}

/// A command that no version before this one had.
fn newest() -> Command {
    Command::CreateJoinToken {
        token: "cafe0002".to_owned(),
        digest: [8; 32],
        kind: JoinKind::Member,
        only_for: None,
        expires_at: Timestamp(1_800_000_000_000_000),
        life: Some(Duration::from_secs(3600)),
    }
}

#[tokio::test]
async fn a_log_of_a_newer_version_stops_the_member_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    unpack(&fixtures().join("newer/data.tar.gz"), directory.path());
    for _ in 0..2 {
        let (machine, reader) = machine();
        let beyond = machine.beyond();
        // What is known to be agreed on is applied while it opens; the rest once it leads.
        match Running::open(directory.path(), machine).await {
            Ok(member) => {
                let stopped = tokio::time::timeout(PATIENCE, member.task).await.expect("stops in time");
                assert!(matches!(stopped.unwrap(), Err(StopError::Storage { .. })));
            }
            Err(error) => assert!(matches!(error, OpenError::Start { .. }), "{error:?}"),
        }
        assert_eq!(beyond.get(), Some(&NEWER));
        assert!(reader.latest().version() <= BEFORE_NEWER, "nothing is read behind it");
    }
}

#[tokio::test]
async fn whoever_starts_on_a_newer_log_is_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    unpack(&fixtures().join("newer/data.tar.gz"), directory.path());
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = Config { data_dir: directory.path().to_owned(), listen, ..Config::default() };
    let (code, next, why) = match Daemon::start(&config).await {
        Err(error) => (error.code(), error.next(), error.to_string()),
        Ok(daemon) => {
            let running = daemon.run(CancellationToken::new());
            let error = tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap_err();
            (error.code(), error.next().to_owned(), error.to_string())
        }
    };
    assert_eq!(code, FailureCode::DataDirTooNew);
    assert!(why.starts_with("the cluster has come to version 1000000"), "{why}");
    assert!(next.starts_with("start the release that wrote it"), "{next}");
}

fn unpack(archive: &Path, directory: &Path) {
    let unpacked = std::process::Command::new("tar")
        .args(["--extract", "--gzip", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(directory)
        .status();
    assert!(unpacked.unwrap().success(), "{}", archive.display());
}
