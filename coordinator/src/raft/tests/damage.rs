//! What happens to files on disk, and what a start makes of it.
//!
//! The rule under test: a start either has everything that was acknowledged, or is refused.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use super::{
    super::record::{self, FORMAT},
    Member, OpenError, RaftConfig, StopError, config,
};

const COMMANDS: u64 = 200;

/// A directory of a member that acknowledged some commands and was closed.
async fn filled(snapshot_entries: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = RaftConfig { snapshot_entries, kept_entries: 20, ..config(folder.path()) };
    let member = Member::lead(config).await;
    for number in 0..COMMANDS {
        member.propose(&format!("command {number}")).await;
    }
    if snapshot_entries < COMMANDS {
        member.until("purged", |figures| figures.purged_index > 0).await;
    }
    member.stop().await;
    folder
}

/// Opens the store of a stopped member, as only a test does.
fn tamper(folder: &Path, change: impl FnOnce(&Keyspace)) {
    let database = Database::builder(folder.join("store")).open().unwrap();
    let entries = database.keyspace("log", KeyspaceCreateOptions::default).unwrap();
    change(&entries);
    database.persist(PersistMode::SyncAll).unwrap();
}

fn last(entries: &Keyspace) -> u64 {
    let mut indices = entries.range(0_u64.to_be_bytes()..u64::from(u32::MAX).to_be_bytes());
    let key = indices.next_back().unwrap().key().unwrap();
    u64::from_be_bytes((*key).try_into().unwrap())
}

async fn refused(folder: &Path) -> OpenError {
    let error = Member::open(config(folder)).await.err().expect("refused");
    assert!(!error.next().is_empty());
    error
}

async fn check_whole(folder: &Path) {
    let member = Member::lead(config(folder)).await;
    assert_eq!(member.recorder.journal().commands.len() as u64, COMMANDS);
    assert_eq!(member.propose("more").await, format!("{} more", COMMANDS + 1));
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_is_refused() {
    let folder = filled(1000).await;
    let mut lost = 0;
    tamper(folder.path(), |entries| {
        lost = last(entries);
        entries.remove(lost.to_be_bytes()).unwrap();
    });
    let error = refused(folder.path()).await;
    assert_eq!(
        error.to_string(),
        format!(
            "the log in {} is shorter than it was: it ends with entry {}, but entry {lost} was on disk",
            folder.path().display(),
            lost - 1
        )
    );
    assert!(error.next().contains("restore the directory from a backup"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_journal_lost_its_end_is_refused() {
    let folder = filled(1000).await;
    // fjall takes a shortened journal for one whose last batch is torn, and says nothing.
    let journal = journal(folder.path());
    let used = used(&journal);
    OpenOptions::new().write(true).open(&journal).unwrap().set_len(used * 3 / 4).unwrap();
    let error = refused(folder.path()).await;
    assert!(matches!(error, OpenError::Shortened { .. }), "{error}");
    // Refusing changes nothing: it is refused again.
    let error = refused(folder.path()).await;
    assert!(matches!(error, OpenError::Shortened { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_everything_is_refused() {
    let folder = filled(1000).await;
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let error = refused(folder.path()).await;
    assert!(matches!(error, OpenError::Record { what: "the identity", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_watermark_is_refused() {
    let folder = filled(1000).await;
    fs::remove_file(folder.path().join("watermark")).unwrap();
    let error = refused(folder.path()).await;
    assert!(matches!(error, OpenError::Record { what: "the watermark", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_slot_of_the_watermark_leaves_the_other() {
    for slot in [0, 4096] {
        let folder = filled(1000).await;
        let path = folder.path().join("watermark");
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xff; 20], slot).unwrap();
        check_whole(folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_vote_is_refused() {
    let folder = filled(1000).await;
    tamper(folder.path(), |log| log.remove("meta/vote").unwrap());
    let error = refused(folder.path()).await;
    assert!(matches!(error, OpenError::Record { what: "the last vote", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_is_refused() {
    let folder = filled(1000).await;
    tamper(folder.path(), |entries| {
        let mut frame = entries.get(77_u64.to_be_bytes()).unwrap().unwrap().to_vec();
        *frame.last_mut().unwrap() ^= 1;
        entries.insert(77_u64.to_be_bytes(), frame).unwrap();
    });
    let error = refused(folder.path()).await;
    assert_eq!(
        error.to_string(),
        format!("the log in {} is damaged at entry 77: its checksum is wrong", folder.path().display())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_misplaced_entry_is_refused() {
    let folder = filled(1000).await;
    tamper(folder.path(), |entries| entries.remove(50_u64.to_be_bytes()).unwrap());
    let error = refused(folder.path()).await;
    assert!(matches!(&error, OpenError::Damaged { index: 50, what, .. } if what == "it is missing"));

    let folder = filled(1000).await;
    tamper(folder.path(), |entries| {
        let other = entries.get(60_u64.to_be_bytes()).unwrap().unwrap();
        entries.insert(59_u64.to_be_bytes(), other).unwrap();
    });
    let error = refused(folder.path()).await;
    assert!(matches!(&error, OpenError::Damaged { index: 59, what, .. } if what == "it is another entry"));

    // A sound entry with the right index, but from another history.
    let folder = filled(1000).await;
    tamper(folder.path(), |entries| {
        let frame = entries.get(59_u64.to_be_bytes()).unwrap().unwrap();
        let entry = record::decode_frame(&frame).unwrap().entry;
        let (frame, _) = record::encode_frame(&entry, 12345);
        entries.insert(59_u64.to_be_bytes(), frame).unwrap();
    });
    let error = refused(folder.path()).await;
    assert!(
        matches!(&error, OpenError::Damaged { index: 59, what, .. } if what == "it doesn't follow the entry before")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_entry_beyond_the_watermark_is_removed() {
    let folder = filled(1000).await;
    tamper(folder.path(), |entries| {
        let last = last(entries);
        let frame = entries.get(last.to_be_bytes()).unwrap().unwrap();
        entries.insert((last + 1).to_be_bytes(), &frame[..frame.len() / 2]).unwrap();
    });
    check_whole(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_entry_that_was_safe_is_refused() {
    let folder = filled(1000).await;
    let mut torn = 0;
    tamper(folder.path(), |entries| {
        torn = last(entries);
        let frame = entries.get(torn.to_be_bytes()).unwrap().unwrap();
        entries.insert(torn.to_be_bytes(), &frame[..frame.len() / 2]).unwrap();
    });
    let error = refused(folder.path()).await;
    assert!(matches!(error, OpenError::Damaged { index, .. } if index == torn), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_newer_release_is_refused_and_kept() {
    let folder = filled(1000).await;
    for _ in 0..2 {
        tamper(folder.path(), |entries| {
            let end = COMMANDS + 2;
            let mut frame = entries.get((end - 1).to_be_bytes()).unwrap().unwrap().to_vec();
            frame[0] = FORMAT + 1;
            entries.insert(end.to_be_bytes(), frame).unwrap();
        });
        let error = refused(folder.path()).await;
        assert!(matches!(error, OpenError::Newer { format: 2, .. }), "{error}");
        assert_eq!(error.next(), "start the release that wrote it, or a newer one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_snapshot_is_refused() {
    let folder = filled(60).await;
    let path = folder.path().join("snapshot");
    let sound = fs::read(&path).unwrap();

    for position in [0, 9, 20, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[position] ^= 4;
        fs::write(&path, damaged).unwrap();
        let error = refused(folder.path()).await;
        assert!(matches!(error, OpenError::Snapshot { .. } | OpenError::Newer { .. }), "{position}: {error}");
    }
    fs::write(&path, &sound[..sound.len() - 5]).unwrap();
    let error = refused(folder.path()).await;
    assert!(matches!(error, OpenError::Snapshot { .. }), "{error}");

    fs::remove_file(&path).unwrap();
    let error = refused(folder.path()).await;
    assert!(matches!(error, OpenError::SnapshotMissing { .. }), "{error}");

    // What a crash leaves behind while a snapshot is written disturbs nobody.
    fs::write(&path, &sound).unwrap();
    fs::write(folder.path().join("snapshot.new"), &sound[..30]).unwrap();
    check_whole(folder.path()).await;
    assert!(!folder.path().join("snapshot.new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_damage_is_refused_or_harmless() {
    let original = filled(60).await;
    // A second start cuts the zeros off the journal, which would make copies slow.
    check_whole(original.path()).await;
    let seed = match std::env::var("MUSTER_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random::<u64>(),
    };
    println!("repeat with MUSTER_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut refusals = 0;
    for round in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy");
        let copied =
            Command::new("cp").args(["-a", "--sparse=always"]).arg(original.path()).arg(&copy).status();
        assert!(copied.unwrap().success());
        let files = files(&copy);
        let path = &files[random.random_range(0..files.len())];
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let length = used(path);
        let at = random.random_range(0..length);
        let how = random.random_range(0..3);
        match how {
            0 => file.set_len(at).unwrap(),
            1 => {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ (1 << random.random_range(0..8))], at).unwrap();
            }
            _ => file.write_all_at(&vec![0; usize::try_from(length - at).unwrap().min(64)], at).unwrap(),
        }
        let name = path.strip_prefix(&copy).unwrap().display();
        // In a process of its own: on some kinds of damage fjall panics, and again while unwinding.
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["raft::tests::damage::child", "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, &copy)
            .output()
            .unwrap();
        let said = String::from_utf8(child.stdout).unwrap();
        assert!(!said.contains(LOST), "round {round}: lost without a word: {name} {how} at {at}");
        if child.status.success() && said.contains(WHOLE) {
            continue;
        }
        let why = said.lines().find_map(|line| line.split_once(REFUSED)).map(|(_, why)| why.to_owned());
        let why =
            why.unwrap_or_else(|| format!("{}: {}", child.status, String::from_utf8_lossy(&child.stderr)));
        println!("round {round}: {name} {how} at {at}: {why}");
        refusals += 1;
    }
    assert!(refusals > 0);
}

const DIRECTORY: &str = "MUSTER_RAFT_DAMAGED_DIRECTORY";
const WHOLE: &str = "VERDICT whole";
const LOST: &str = "VERDICT lost";
const REFUSED: &str = "VERDICT refused: ";

/// Not a test of its own: one start on a damaged directory.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by any_damage_is_refused_or_harmless"]
async fn child() {
    let Some(path) = std::env::var_os(DIRECTORY) else { return };
    match Member::open(config(path.as_ref())).await {
        Ok(member) => {
            member.led().await;
            let commands = member.recorder.journal().commands;
            let is_there = |number| {
                let wanted = format!("command {number}").into_bytes();
                commands.iter().any(|(_, command)| *command == wanted)
            };
            println!("{}", if (0..COMMANDS).all(is_there) { WHOLE } else { LOST });
            member.stop().await;
        }
        Err(error) => println!("{REFUSED}{error}"),
    }
}

/// A disk that is full stops the member with the reason, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_member_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.path.join("data");
    let member = Member::lead(config(&path)).await;
    let mut acknowledged = Vec::new();
    let error = loop {
        let command = vec![u8::try_from(acknowledged.len() % 251).unwrap(); 1 << 20];
        match member.handle.propose(command.clone()).await {
            Ok(_) => acknowledged.push(command),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 100, "the disk is full some time");
    };
    println!("full after {} commands: {error}", acknowledged.len());
    let stopped = member.task.await.unwrap().unwrap_err();
    assert!(matches!(stopped, StopError::Storage { .. }), "{stopped}");

    disk.grow();
    let member = Member::lead(config(&path)).await;
    let applied: Vec<_> =
        member.recorder.journal().commands.into_iter().map(|(_, command)| command).collect();
    assert!(applied.starts_with(&acknowledged));
    assert!(applied.len() <= acknowledged.len() + 1);
    member.stop().await;
}

/// A tmpfs of its own, unmounted at the end.
struct SmallDisk {
    path: PathBuf,
    _folder: TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("muster-raft-full-").tempdir().unwrap();
        let path = folder.path().to_owned();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(&path)
            .output()
            .unwrap();
        if !mounted.status.success() {
            println!("skipped: needs root to mount a small tmpfs");
            return None;
        }
        Some(Self { path, _folder: folder })
    }

    fn grow(&self) {
        let grown = Command::new("mount").args(["-o", "remount,size=256m"]).arg(&self.path).status().unwrap();
        assert!(grown.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may still have files open.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn journal(folder: &Path) -> PathBuf {
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jnl");
    files(&folder.join("store")).into_iter().find(is_journal).unwrap()
}

/// Every file below, except locks, which are empty or hold a pid.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "lock") && used(&path) > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The length of a file without the zeros at its end: fjall makes journals large ahead of use.
fn used(path: &Path) -> u64 {
    let content = fs::read(path).unwrap();
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}
