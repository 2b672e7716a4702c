//! What can go wrong, named by what was attempted.

use std::{io, path::PathBuf};

use super::{machine::MachineError, types::MemberId};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a member can't start on a data directory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("can't use {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("data directory {path} is already in use by {}", holder(*pid))]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("data directory {path} belongs to cluster {found}, not {wanted}")]
    OtherCluster { path: PathBuf, found: String, wanted: String },
    #[error("data directory {path} belongs to member {found}, not {wanted}")]
    OtherMember { path: PathBuf, found: MemberId, wanted: MemberId },
    #[error("{what} in {path} was written by a newer release (format {format})")]
    Newer { path: PathBuf, what: String, format: u8 },
    #[error("can't open the store in {path}")]
    Store {
        path: PathBuf,
        #[source]
        source: Cause,
    },
    #[error("the log in {path} is shorter than it was: it {}, but entry {durable} was on disk", ends(*last))]
    Shortened { path: PathBuf, last: Option<u64>, durable: u64 },
    #[error("the log in {path} is damaged at entry {index}: {what}")]
    Damaged { path: PathBuf, index: u64, what: String },
    #[error("{what} in {path} is missing or damaged")]
    Record { path: PathBuf, what: &'static str },
    #[error("can't read the snapshot {path}")]
    Snapshot {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the log in {path} starts after entry {purged}, but there is no snapshot that reaches it")]
    SnapshotMissing { path: PathBuf, purged: u64 },
    #[error("can't restore the state of {path}")]
    Machine {
        path: PathBuf,
        #[source]
        source: MachineError,
    },
    #[error("the timing of heartbeats and elections doesn't fit together")]
    Timing {
        #[source]
        source: Cause,
    },
    #[error("can't start the writer thread")]
    Thread {
        #[source]
        source: io::Error,
    },
    #[error("can't start Raft on {path}")]
    Start {
        path: PathBuf,
        #[source]
        source: Cause,
    },
}

impl OpenError {
    /// What the operator can do about it, in one sentence.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "check that the path exists, is writable and has space left",
            Self::InUse { .. } => "stop the other process, or give this one a data directory of its own",
            Self::OtherCluster { .. } | Self::OtherMember { .. } => {
                "check the data directory and the member's settings; to begin anew, give an empty directory"
            }
            Self::Newer { .. } => "start the release that wrote it, or a newer one",
            Self::Shortened { .. }
            | Self::Damaged { .. }
            | Self::Record { .. }
            | Self::SnapshotMissing { .. }
            | Self::Snapshot { .. }
            | Self::Store { .. } => {
                "acknowledged commands may be lost here: with other members alive, remove this one and add it \
                 under a new id with an empty directory; otherwise restore the directory from a backup"
            }
            Self::Machine { .. } => "start the release that wrote the snapshot, or a newer one",
            Self::Timing { .. } => "let heartbeat < election minimum < election maximum",
            Self::Thread { .. } | Self::Start { .. } => "see the cause and the log of this start",
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("pid {pid}"),
        None => "another process".to_owned(),
    }
}

fn ends(last: Option<u64>) -> String {
    match last {
        Some(last) => format!("ends with entry {last}"),
        None => "is empty".to_owned(),
    }
}

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written; ask the leader. Nobody, where it isn't known (yet).
    #[error("this member doesn't lead")]
    NotLeader { leader: Option<MemberId> },
    /// It may have been applied, or may yet be: read before you repeat it.
    #[error("the fate of the command is unknown")]
    Unknown,
    /// Nothing was written; too many commands wait already.
    #[error("too many commands wait for their answers")]
    Busy,
    /// Nothing was written.
    #[error("a command of {bytes} bytes is too large; {max} are the most")]
    TooLarge { bytes: usize, max: usize },
    /// Nothing was written; this member is stopping, or stopped on a failure.
    #[error("this member has stopped")]
    Stopped,
}

/// Why a read can't be linearizable here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this member doesn't lead")]
    NotLeader { leader: Option<MemberId> },
    #[error("the other members can't confirm that this one leads")]
    NoQuorum,
    #[error("this member has stopped")]
    Stopped,
}

/// Why a cluster can't begin here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitializeError {
    #[error("this member already belongs to a cluster that has begun")]
    AlreadyBegun,
    #[error("this member has stopped")]
    Stopped,
}

/// Why a running member ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    #[error("the log or a snapshot can't be written or read")]
    Storage {
        #[source]
        source: Cause,
    },
    /// The panic's message went to stderr.
    #[error("the state machine or a part of Raft panicked")]
    Panicked,
}
