//! What lets somebody come into the cluster, once.

use model::{ClusterTime, Timestamp};

/// The cluster version from which on tokens expire by the cluster's time.
pub const JOIN_LIFE_SINCE: u32 = 7;

/// Who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    Agent,
    /// A coordinator, which gets the cluster's authority handed over.
    Member,
}

impl JoinKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Member => "member",
        }
    }

    /// The same in a sentence.
    pub fn one(self) -> &'static str {
        match self {
            Self::Agent => "an agent",
            Self::Member => "a member",
        }
    }
}

/// One join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the secret.
    pub digest: [u8; 32],
    pub kind: JoinKind,
    /// The only id that may come in with it.
    pub only_for: Option<String>,
    pub created_at: Timestamp,
    /// By the clock of whoever led when it was made.
    pub expires_at: Timestamp,
    /// Decides where it is known; tokens of before [`JOIN_LIFE_SINCE`] lack it.
    pub until: Option<ClusterTime>,
    /// Absent: it was neither used nor revoked.
    pub end: Option<JoinTokenEnd>,
}

impl JoinToken {
    /// Whether its time is over, by the cluster's time or, where that was not counted, by a wall clock.
    pub fn has_expired(&self, counted: ClusterTime, at: Timestamp) -> bool {
        match self.until {
            Some(until) => until <= counted,
            None => self.expires_at <= at,
        }
    }
}

/// How a token ended, unless it just expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinTokenEnd {
    Used(JoinTokenUse),
    Revoked { at: Timestamp },
}

/// Who came in with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTokenUse {
    pub name: String,
    /// SHA-256 of the public key that was certified.
    pub key: [u8; 32],
    pub at: Timestamp,
}
