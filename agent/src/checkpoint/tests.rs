//! What the checkpoint keeps through kills, garbage and reboots.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use model::{
    AgentId, Duration, Exit, Figure, FrameworkId, Reason, Resources, SharedNamespaces, TaskSpec, TaskState,
    TaskStatus, Timestamp, Usage,
};
use supervisor::{Kill, KillCause, Phase, ProcessId, Uptime, Verdict};

use super::*;

fn row(name: &str, phase: Phase) -> Row {
    let task_id = TaskId::new(name).unwrap();
    let framework_id = FrameworkId::new("run").unwrap();
    Row {
        task_id: task_id.clone(),
        framework_id: framework_id.clone(),
        spec: Arc::new(TaskSpec {
            name: "web".to_owned(),
            env: BTreeMap::from([("A".to_owned(), "b=c".to_owned())]),
            user: Some("nobody".to_owned()),
            cpu_limit_milli: Some(700),
            pids_limit: Some(10),
            kill_grace: Duration::from_secs(3),
            labels: BTreeMap::from([("x".to_owned(), "y".to_owned())]),
            shared_namespaces: SharedNamespaces { pid: true, ipc: false },
            ..TaskSpec::new(
                task_id.clone(),
                Resources { cpus_milli: 500, mem_mib: 64, ..Resources::default() },
                vec!["sleep".to_owned(), "60".to_owned()],
            )
        }),
        attempt: format!("task-{name}.1"),
        phase,
        kill: Some(Kill { cause: KillCause::NotAssigned, deadline: Uptime(Duration::from_micros(5)) }),
        statuses: vec![TaskStatus {
            task_id,
            framework_id,
            agent_id: Some(AgentId::new("a1").unwrap()),
            state: TaskState::Failed,
            reason: Reason::MemoryLimit,
            message: "reached its memory limit".to_owned(),
            exit: Some(Exit::Signal(9)),
            at: Timestamp(4),
            sequence: 3,
            is_released: true,
            usage: Some(Usage::default().with(Figure::MemoryBytes, 7)),
            health: None,
        }],
        sequence: 3,
        acknowledged: 2,
        assigned_at: Timestamp(1),
        began: Some(Uptime(Duration::from_micros(2))),
        launches: 2,
    }
}

fn phases() -> Vec<Phase> {
    let process = ProcessId { pid: 70, start_ticks: 9 };
    let verdict = Verdict::of_exit(Some(Exit::Code(3)), Some(Usage::default()));
    vec![
        Phase::Preparing,
        Phase::Releasing { process },
        Phase::Running { process },
        Phase::Ending { process: Some(process), verdict, since: Uptime(Duration::from_micros(8)) },
        Phase::Lingering { process: None, since: Uptime(Duration::from_micros(8)) },
        Phase::Ended { at: Timestamp(9) },
        Phase::Removing,
    ]
}

#[test]
fn every_row_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Row> =
        phases().into_iter().enumerate().map(|(place, phase)| row(&format!("t{place}"), phase)).collect();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    checkpoint.commit(rows.iter().map(Change::Write)).unwrap();
    drop(checkpoint);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let loaded = checkpoint.load().unwrap();
    assert_eq!(loaded.rows, rows);
    assert!(loaded.errors.is_empty());
    checkpoint.commit([Change::Forget(&rows[0].task_id)]).unwrap();
    assert_eq!(checkpoint.load().unwrap().rows, rows[1..]);
}

#[test]
fn the_identity_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.identity().unwrap(), None);
    let mut identity =
        Identity { agent_id: AgentId::new("a1").unwrap(), cluster_id: None, boot_id: "b1".to_owned() };
    checkpoint.write_identity(&identity).unwrap();
    assert_eq!(checkpoint.identity().unwrap().as_ref(), Some(&identity));
    identity.cluster_id = Some(ClusterId::new("c1").unwrap());
    checkpoint.write_identity(&identity).unwrap();
    drop(checkpoint);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().identity().unwrap(), Some(identity));
}

#[test]
fn a_damaged_row_is_named_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let good = row("good", Phase::Preparing);
    let other = convert::to_row(&row("other", Phase::Preparing)).encode_to_vec();
    checkpoint.commit([Change::Write(&good)]).unwrap();
    let torn = &other[..other.len() / 2];
    for (key, value) in [("torn", torn), ("empty", b""), ("swapped", &other), ("../bad", &other)] {
        let store = checkpoint.store.read().unwrap();
        store.as_ref().unwrap().tasks.insert(key, value).unwrap();
    }
    let loaded = checkpoint.load().unwrap();
    assert_eq!(loaded.rows, [good]);
    let damaged: Vec<&str> = loaded.damaged.iter().map(TaskId::as_str).collect();
    assert_eq!(damaged, ["empty", "swapped", "torn"]);
    assert_eq!(loaded.errors.len(), 4);
    // What has no valid key is dropped once it was told.
    assert_eq!(checkpoint.load().unwrap().errors.len(), 3);
}

#[test]
fn a_second_agent_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = Lock::take(folder.path()).unwrap();
    let error = Lock::take(folder.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("another agent (process {}) uses {}", std::process::id(), folder.path().display())
    );
    drop(first);
    Lock::take(folder.path()).unwrap();
}

const CHILD: &str = "MUSTER_TEST_CHECKPOINT_CHILD";

/// Not a test by itself: the process that `what_was_committed_survives_a_sigkill` kills.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let checkpoint = Checkpoint::open(Path::new(&folder)).unwrap();
    let mut out = std::io::stdout();
    for number in 0.. {
        let row = row(&format!("t{number}"), Phase::Preparing);
        checkpoint.commit([Change::Write(&row)]).unwrap();
        writeln!(out, "committed {number}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_was_committed_survives_a_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=3_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checkpoint::tests::child_that_commits_until_it_is_killed", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut committed = None;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.by_ref().map_while(Result::ok) {
            // The harness prints the test's name before the first line, without an end of line.
            let Some((_, number)) = line.split_once("committed ") else { continue };
            committed = Some(number.parse::<u64>().unwrap());
            if committed >= Some(500 * round) {
                break;
            }
        }
        child.kill().unwrap();
        // What it said before it died.
        for line in lines.map_while(Result::ok) {
            if let Some((_, number)) = line.split_once("committed ") {
                committed = number.parse().ok().max(committed);
            }
        }
        child.wait().unwrap();
        let loaded = Checkpoint::open(folder.path()).unwrap().load().unwrap();
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        let count = loaded.rows.len() as u64;
        assert!(count > committed.unwrap(), "{count} rows after {committed:?}");
    }
}

#[test]
fn no_secret_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let value = "hush-3f1c9a";
    let mut row = row("a", Phase::Preparing);
    let spec = Arc::make_mut(&mut row.spec);
    spec.secrets =
        vec![model::Secret { name: "key".to_owned(), value: model::SecretValue(value.as_bytes().to_vec()) }];
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    checkpoint.commit([Change::Write(&row)]).unwrap();
    let kept = checkpoint.load().unwrap().rows.remove(0);
    // Its name is kept, so that the agent knows that it must ask.
    assert_eq!(kept.spec.secrets.len(), 1);
    assert_eq!(kept.spec.secrets.first().unwrap().value.0, b"");
    drop(checkpoint);
    let mut directories = vec![folder.path().to_owned()];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(value.len()).any(|window| window == value.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
    assert!(files > 0);
}

/// A file system of its own, in memory, that is soon full.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("none", folder.path(), "tmpfs", flags, options.as_c_str()) {
            Ok(()) => Some(Self(folder)),
            Err(error) => {
                eprintln!("skipped: needs root to mount a small disk ({error})");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn on_a_full_disk_records_are_taken_for_a_while_longer() {
    let Some(disk) = SmallDisk::new(64 << 20) else { return };
    let checkpoint = Checkpoint::open(disk.0.path()).unwrap();
    checkpoint.reserve().ensure().unwrap();
    assert!(!checkpoint.reserve().is_disk_short().unwrap());
    let before: Vec<Row> = (0..10).map(|number| row(&format!("a{number}"), Phase::Preparing)).collect();
    checkpoint.commit(before.iter().map(Change::Write)).unwrap();
    // What a task does.
    let mut filler = std::fs::File::create(disk.0.path().join("filler")).unwrap();
    while std::io::Write::write(&mut filler, &[0; 65536]).is_ok_and(|written| written > 0) {}
    assert!(checkpoint.reserve().is_disk_short().unwrap());
    let after: Vec<Row> = (0..500).map(|number| row(&format!("b{number:03}"), Phase::Preparing)).collect();
    for row in &after {
        checkpoint.commit([Change::Write(row)]).unwrap();
    }
    drop(checkpoint);
    // It can be opened on the full disk, and everything is there.
    let checkpoint = Checkpoint::open(disk.0.path()).unwrap();
    assert_eq!(checkpoint.load().unwrap().rows, [before, after].concat());
    // It takes no space away while there is none, and takes it back when there is.
    checkpoint.reserve().ensure().unwrap();
    assert!(!disk.0.path().join("reserve").exists());
    drop(filler);
    std::fs::remove_file(disk.0.path().join("filler")).unwrap();
    checkpoint.reserve().ensure().unwrap();
    assert!(disk.0.path().join("reserve").exists());
}
