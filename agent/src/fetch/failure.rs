//! Why a file could not be fetched: for the metric a kind, for people a sentence and what to do.

use std::io;

use serde::{Deserialize, Serialize};

/// The kinds of failure that a metric tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The URL is none, or its file is not for tasks.
    Refused,
    /// Nobody answers there.
    Unreachable,
    /// The server's certificate is not trusted, or no common TLS was found.
    Tls,
    /// The server says no.
    Status,
    /// A redirect that is not followed.
    Redirect,
    /// The server breaks off, again and again.
    Broken,
    /// The server is silent or too slow.
    Stalled,
    TooLarge,
    /// It is not what the digest says.
    Digest,
    /// It is no archive, a damaged one, or one that asks for what is not done.
    Archive,
    /// It can't be written.
    Disk,
    /// The process that fetched ended before it was done.
    Process,
    /// Somebody wanted the end.
    Cancelled,
}

impl Kind {
    pub const ALL: &[Self] = &[
        Self::Refused,
        Self::Unreachable,
        Self::Tls,
        Self::Status,
        Self::Redirect,
        Self::Broken,
        Self::Stalled,
        Self::TooLarge,
        Self::Digest,
        Self::Archive,
        Self::Disk,
        Self::Process,
        Self::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Broken => "broken",
            Self::Stalled => "stalled",
            Self::TooLarge => "too-large",
            Self::Digest => "digest",
            Self::Archive => "archive",
            Self::Disk => "disk",
            Self::Process => "process",
            Self::Cancelled => "cancelled",
        }
    }

    /// What whoever launched the task can do.
    fn next(self) -> &'static str {
        match self {
            Self::Refused => "see `muster-agent --help` for `--allow-fetch-from`, or serve it by http",
            Self::Unreachable => "check the name, the port and whether this host can reach it",
            Self::Tls => "have its certificate signed by an authority that this host trusts",
            Self::Status => "check the URL and who may read it",
            Self::Redirect => "name the URL to which it leads in the end",
            Self::Broken | Self::Stalled => "try it again, or serve it from nearer",
            Self::TooLarge => "give the task more disk, or have the operator raise `--fetch-size-limit`",
            Self::Digest => "check which of them is out of date, the file or its digest",
            Self::Archive => {
                "pack it anew as tar (plain, gz, bz2, xz, zst) or zip, with plain files and links"
            }
            Self::Disk => "free space on the agent's disk, or choose another agent",
            Self::Process => "give the task more memory if it has little; the agent's log may know more",
            Self::Cancelled => "launch it again",
        }
    }
}

/// Why a file could not be fetched; where it is from is added by the one who knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    pub kind: Kind,
    pub what: String,
}

impl Failure {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    pub fn disk(doing: &str, error: &io::Error) -> Self {
        let reason = match error.raw_os_error() {
            Some(libc::ENOSPC) => "no space is left on the agent's disk".to_owned(),
            Some(libc::EDQUOT) => "the task's disk quota is used up".to_owned(),
            Some(libc::EROFS) => "the agent's disk is read-only".to_owned(),
            _ => error.to_string(),
        };
        Self::new(Kind::Disk, format!("can't {doing}: {reason}"))
    }

    /// The whole message: what was attempted, what happened, what to do.
    pub fn message(&self, shown: &str) -> String {
        format!("can't fetch {shown}: {}; {}", self.what, self.kind.next())
    }
}
