//! The whole state in one file that stands alone, and a data directory that is made of one.
//!
//! A backup is a snapshot file that also names its cluster. A member that runs gives one: [`RaftHandle::backup`].
//! Of one that can't lead any more, because most of the others are gone for good, [`save_stopped`] makes one of all
//! that it has on disk. [`restore`] begins a log after it, with one seat.
//!
//! ## Design
//!
//! - **Everything in the log counts.** Which of the last entries were agreed on, a member alone can't know: the
//!   others may have had them, and have acknowledged them. So a backup of a stopped member has all of them; what
//!   was never acknowledged may be carried out, as after any other failure.
//! - **A directory appears whole or not at all.** It is made beside its place, and renamed.
//! - **No term comes twice.** What happened after the backup is forgotten, but not by agents and frameworks; the
//!   first term after a restoration is beyond all that they can have seen.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::stream;
use openraft::{
    RaftLogReader as _,
    impls::BasicNode,
    storage::{RaftLogStorage as _, RaftStateMachine as _},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    config::RaftConfig,
    directory::{Directory, sync_directory},
    error::{OpenError, ReadError},
    log::{self, FileDisk},
    machine::{Machine, MachineError},
    member::{RaftHandle, open_files},
    observe::Instruments,
    snapshot::{HeadError, Snapshot, SnapshotFile, Snapshots, read_head},
    types::{MemberId, Membership, SnapshotMeta, StoredMembership, Vote, term_of},
};

/// More than a cluster sees in its life: an election each second for twelve days.
const TERMS_SKIPPED: u64 = 1 << 20;

/// How long a member may take to write a snapshot of everything.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("this member can't say what the newest state is")]
    Read(#[source] ReadError),
    #[error("no snapshot was there within {} s", SNAPSHOT_PATIENCE.as_secs())]
    Late,
    #[error("can't read the snapshot")]
    Snapshot(#[source] io::Error),
    #[error("can't open the data directory")]
    Open(#[source] OpenError),
    #[error("no member has ever begun in {path}")]
    Pristine { path: PathBuf },
    #[error("can't read the log in {path}")]
    Log { path: PathBuf, source: io::Error },
    #[error("there is nothing in {path} to be saved")]
    Empty { path: PathBuf },
    #[error("can't write {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// Why a backup can't become a data directory.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("can't read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} was written by a newer release (format {format})")]
    Newer { path: PathBuf, format: u8 },
    #[error("{path} is a snapshot of a member and no backup: it doesn't say which cluster it is of")]
    Nameless { path: PathBuf },
    #[error("the state in {path} can't be read by this release")]
    Machine { path: PathBuf, source: MachineError },
    #[error("{path} is not empty")]
    Occupied { path: PathBuf },
    #[error("can't make a data directory at {path}")]
    Make { path: PathBuf, source: io::Error },
    #[error("can't begin a log in {path}")]
    Begin { path: PathBuf, source: OpenError },
}

/// A backup, to be read from its begin to its end.
#[derive(Debug)]
pub struct Backup {
    head: Vec<u8>,
    state: SnapshotFile,
    /// Of the last entry in it.
    pub last_index: u64,
}

impl Backup {
    pub fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.state.bytes()
    }

    /// At most `length` bytes from `at` on; none behind the end. Blocks.
    pub fn piece(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let head = usize::try_from(at).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
        match head.get(..length.min(head.len())) {
            Some(piece) if !piece.is_empty() => Ok(piece.to_vec()),
            Some(_) | None => self.state.piece(at.saturating_sub(self.head.len() as u64), length),
        }
    }
}

impl RaftHandle {
    /// The state with all that was acknowledged before. Only the leader has it.
    pub async fn backup(&self) -> Result<Backup, BackupError> {
        self.ensure_linearizable().await.map_err(BackupError::Read)?;
        let wanted = self.metrics().applied_index;
        let deadline = Instant::now() + SNAPSHOT_PATIENCE;
        while self.metrics().snapshot_index < wanted {
            if Instant::now() > deadline {
                return Err(BackupError::Late);
            }
            // One that is under way may be too old.
            self.snapshot().await.map_err(BackupError::Read)?;
            sleep(LOOK_AGAIN).await;
        }
        let stopped = || BackupError::Read(ReadError::Stopped);
        let newest = self.raft.get_snapshot().await.map_err(|_| stopped())?.ok_or_else(stopped)?;
        backup_of(newest.meta, newest.snapshot, &self.cluster_id).map_err(BackupError::Snapshot)
    }
}

fn backup_of(meta: SnapshotMeta, state: SnapshotFile, cluster_id: &str) -> io::Result<Backup> {
    let head = state.head_of_backup(&meta, cluster_id)?;
    Ok(Backup { head, state, last_index: meta.last_log_id.map_or(0, |last| last.index()) })
}

/// What was saved, or restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    pub cluster_id: String,
    /// Of the last entry in it.
    pub last_index: u64,
    pub bytes: u64,
}

/// Saves all that a stopped member has on disk. The directory stays as it is, and the file is new.
pub async fn save_stopped(data_dir: &Path, machine: impl Machine, file: &Path) -> Result<Saved, BackupError> {
    let path = data_dir.to_owned();
    let pristine = || BackupError::Pristine { path: path.clone() };
    if !path.join("store").exists() {
        return Err(pristine());
    }
    let (cluster_id, member_id) = {
        let directory = Directory::open(&path).map_err(BackupError::Open)?;
        log::identity(&directory).map_err(BackupError::Open)?.ok_or_else(pristine)?
    };
    let config = RaftConfig::new(&path, member_id, "");
    let (term, _term) = watch::channel(0);
    let opening = move || open_files(&config, Box::new(machine), &FileDisk, term, Instruments::default());
    let failed = |source| BackupError::Log { path: path.clone(), source };
    let (_directory, mut opened, mut applier) = tokio::task::spawn_blocking(opening)
        .await
        .map_err(|panic| failed(io::Error::other(panic)))?
        .map_err(BackupError::Open)?;

    let mut reader = opened.store.get_log_reader().await;
    loop {
        let (applied, _) = applier.applied_state().await.map_err(failed)?;
        let next = applied.map_or(0, |applied| applied.index() + 1);
        let entries = reader.limited_get_log_entries(next, u64::MAX).await.map_err(failed)?;
        if entries.is_empty() {
            break;
        }
        let entries = entries.into_iter().map(|entry| Ok((entry, None)));
        applier.apply(stream::iter(entries)).await.map_err(failed)?;
    }
    let (meta, state) = applier.export();
    if meta.last_log_id.is_none() {
        return Err(BackupError::Empty { path });
    }
    write_whole(&meta, &state, &cluster_id, file)
        .map_err(|source| BackupError::Write { path: file.to_owned(), source })
}

/// Makes the file, durable, or nothing. It is its owner's alone, as the data directory is.
fn write_whole(meta: &SnapshotMeta, state: &[u8], cluster_id: &str, path: &Path) -> io::Result<Saved> {
    // Fails where there is one: an older backup may be the better one.
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    let described = SnapshotFile::new(file.try_clone()?, state.len() as u64, crc32fast::hash(state));
    let written = backup_of(meta.clone(), described, cluster_id).and_then(|backup| {
        file.write_all(&backup.head)?;
        file.write_all(state)?;
        file.sync_all()?;
        sync_parent(path)?;
        Ok(Saved { cluster_id: cluster_id.to_owned(), last_index: backup.last_index, bytes: backup.bytes() })
    });
    if written.is_err() {
        // What is half written helps nobody; the first failure is the one to tell.
        let _ = fs::remove_file(path);
    }
    written
}

/// Makes the data directory of a member that is alone in its cluster and has the state of a backup. Blocks.
///
/// The cluster keeps its id; what happened after the backup never happened.
pub fn restore(
    backup: &Path,
    mut machine: impl Machine,
    data_dir: &Path,
    member_id: MemberId,
    address: &str,
) -> Result<Saved, RestoreError> {
    let path = backup.to_owned();
    let unreadable = |source| RestoreError::Read { path: path.clone(), source };
    let (Snapshot { meta, file }, cluster_id) =
        read_head(File::open(backup).map_err(unreadable)?).map_err(|error| match error {
            HeadError::Newer(format) => RestoreError::Newer { path: path.clone(), format },
            HeadError::Read(source) => unreadable(source),
        })?;
    let (Some(last), false) = (meta.last_log_id, cluster_id.is_empty()) else {
        return Err(RestoreError::Nameless { path });
    };
    let state = file.read().map_err(unreadable)?;
    machine.restore(&state).map_err(|source| RestoreError::Machine { path: path.clone(), source })?;

    let occupied = || RestoreError::Occupied { path: data_dir.to_owned() };
    let failed = |source| RestoreError::Make { path: data_dir.to_owned(), source };
    match fs::read_dir(data_dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(occupied()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(false) | Err(_) => {}
    }
    let staging = staging_of(data_dir).map_err(failed)?;
    match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    {
        let begin = |source| RestoreError::Begin { path: staging.clone(), source };
        let directory = Directory::open(&staging).map_err(begin)?;
        let term = term_of(&last) + TERMS_SKIPPED;
        let vote = Vote::new(term, member_id);
        log::begin_after(&directory, &cluster_id, member_id, last, vote).map_err(begin)?;
        let members = [(member_id, BasicNode { addr: address.to_owned() })];
        let voters = vec![[member_id].into()];
        let membership = Membership::new(voters, BTreeMap::from(members));
        let membership = membership.map_err(|error| failed(io::Error::other(error)))?;
        let last_membership = StoredMembership::new(Some(last), membership);
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership };
        let snapshots = Snapshots::open(directory.snapshot()).map_err(begin)?;
        snapshots.save(meta, &state).map_err(failed)?;
        sync_directory(&staging).map_err(failed)?;
    }
    // Takes the place of an empty directory, too (rename(2)).
    fs::rename(&staging, data_dir).and_then(|()| sync_parent(data_dir)).map_err(failed)?;
    let bytes = state.len() as u64;
    Ok(Saved { cluster_id, last_index: last.index(), bytes })
}

/// Beside the data directory, so that it can be renamed.
fn staging_of(data_dir: &Path) -> io::Result<PathBuf> {
    let name = data_dir.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let mut staging = name.to_owned();
    staging.push(".restoring");
    let staging = data_dir.with_file_name(staging);
    if let Some(parent) = staging.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    Ok(staging)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        Some(_) | None => sync_directory(Path::new(".")),
    }
}
