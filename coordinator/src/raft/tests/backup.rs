//! Backups of members that run and of those that don't, and what a restoration makes of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{
    super::{BackupError, RestoreError, Saved, restore, save_stopped},
    Member, RaftConfig, Recorder, config,
};

const COMMANDS: u64 = 50;

/// A member that acknowledged some commands.
async fn filled(path: &Path, snapshot_entries: u64) -> Member {
    let member = Member::lead(RaftConfig { snapshot_entries, kept_entries: 5, ..config(path) }).await;
    for number in 0..COMMANDS {
        member.propose(&number.to_string()).await;
    }
    member
}

fn commands(recorder: &Recorder) -> Vec<Vec<u8>> {
    recorder.journal().commands.into_iter().map(|(_, command)| command).collect()
}

/// A folder with a backup of a stopped member in it; what it had, and its last term.
async fn saved(snapshot_entries: u64) -> (TempDir, PathBuf, Saved, Vec<Vec<u8>>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let member = filled(&folder.path().join("old"), snapshot_entries).await;
    let term = member.handle.leadership().borrow().term;
    let had = commands(&member.recorder);
    member.stop().await;
    let file = folder.path().join("backup");
    let saved = save_stopped(&folder.path().join("old"), Recorder::default(), &file).await.unwrap();
    (folder, file, saved, had, term)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_member_is_restored_with_all_that_it_had() {
    for snapshot_entries in [1000, 20] {
        let (folder, file, saved, had, term) = saved(snapshot_entries).await;
        assert_eq!(had.len() as u64, COMMANDS);
        let new = folder.path().join("new");
        // As an init system makes it.
        fs::create_dir(&new).unwrap();
        let restored = restore(&file, Recorder::default(), &new, 7, "127.0.0.1:5099").unwrap();
        assert_eq!((&restored.cluster_id, restored.last_index), (&saved.cluster_id, saved.last_index));

        let config = RaftConfig { member_id: 7, address: "127.0.0.1:5099".to_owned(), ..config(&new) };
        for round in 0..2 {
            let member = Member::open(config.clone()).await.unwrap();
            member.led().await;
            assert_eq!(member.handle.cluster_id(), saved.cluster_id);
            assert!(member.handle.leadership().borrow().term > term + 1000, "no term comes twice");
            let seats: Vec<_> =
                member.handle.seats().into_iter().map(|seat| (seat.id, seat.address)).collect();
            assert_eq!(seats, [(7, "127.0.0.1:5099".to_owned())]);
            assert_eq!(commands(&member.recorder)[..COMMANDS as usize], had);
            member.propose("more").await;
            assert_eq!(commands(&member.recorder).len() as u64, COMMANDS + 1 + round);
            member.stop().await;
        }
        // What it was made of is as it was.
        let member = Member::lead(super::config(&folder.path().join("old"))).await;
        assert_eq!(commands(&member.recorder), had);
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_runs_gives_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let member = filled(&folder.path().join("old"), 1000).await;
    let backup = member.handle.backup().await.unwrap();
    member.propose("later").await;
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < backup.bytes() {
        // Pieces that fit nothing: head and state meet within one.
        let piece = backup.piece(at, 7).unwrap();
        assert!(!piece.is_empty());
        at += piece.len() as u64;
        bytes.extend(piece);
    }
    assert_eq!(bytes.len() as u64, backup.bytes());
    assert_eq!(backup.piece(at, 7).unwrap(), Vec::<u8>::new());
    member.stop().await;
    let file = folder.path().join("backup");
    fs::write(&file, bytes).unwrap();
    let new = folder.path().join("new");
    let restored = restore(&file, Recorder::default(), &new, 1, "127.0.0.1:5050").unwrap();
    assert_eq!(restored.last_index, backup.last_index);
    let member = Member::open(config(&new)).await.unwrap();
    member.led().await;
    assert_eq!(commands(&member.recorder).len() as u64, COMMANDS);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damaged_backup_becomes_a_directory() {
    let (folder, file, ..) = saved(1000).await;
    let whole = fs::read(&file).unwrap();
    let new = folder.path().join("new");
    let try_restore = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        restore(&file, Recorder::default(), &new, 1, "127.0.0.1:5050")
    };
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        assert!(try_restore(&damaged).is_err(), "byte {at} was changed");
        assert!(try_restore(&whole[..at]).is_err(), "cut at {at}");
        assert!(!new.exists());
    }
    assert!(try_restore(&[&whole[..], b"x"].concat()).is_err());
    let snapshot = folder.path().join("old/snapshot");
    let member = filled(&folder.path().join("old"), 10).await;
    member.until("saved", |figures| figures.snapshot_index > 0).await;
    member.stop().await;
    let refused = restore(&snapshot, Recorder::default(), &new, 1, "127.0.0.1:5050").unwrap_err();
    assert!(matches!(refused, RestoreError::Nameless { .. }), "{refused}");
    assert!(!new.exists());
    try_restore(&whole).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_and_nothing_is_made_of_nothing() {
    let (folder, file, ..) = saved(1000).await;
    let old = folder.path().join("old");
    let before = fs::read(&file).unwrap();
    let refused = save_stopped(&old, Recorder::default(), &file).await.unwrap_err();
    assert!(matches!(refused, BackupError::Write { .. }), "{refused}");
    assert_eq!(fs::read(&file).unwrap(), before);
    let refused = restore(&file, Recorder::default(), &old, 1, "127.0.0.1:5050").unwrap_err();
    assert!(matches!(refused, RestoreError::Occupied { .. }), "{refused}");

    let nothing = folder.path().join("nothing");
    let refused = save_stopped(&nothing, Recorder::default(), &folder.path().join("b")).await.unwrap_err();
    assert!(matches!(refused, BackupError::Pristine { .. }), "{refused}");
    assert!(!nothing.exists() && !folder.path().join("b").exists());

    let member = Member::lead(config(&old)).await;
    let refused = save_stopped(&old, Recorder::default(), &folder.path().join("b")).await.unwrap_err();
    assert!(matches!(refused, BackupError::Open(_)), "{refused}");
    member.stop().await;
}
