//! Who may do what: users with their tokens, duties, and names whose certificates were revoked.
//!
//! Holds hashes, never a secret. What is asked of it is answered by the policy of `model`.

use imbl::OrdMap;
use model::{
    ClusterTime, Denied, Duration, DutyName, Grant, Target, Timestamp, UserName, Verb, built_in_duty, decide,
    decide_anywhere,
};

/// The cluster version from which on users are known.
pub const ACCESS_SINCE: u32 = 6;

/// A change of who may do what. Safe to propose twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessChange {
    /// Makes a user, or gives one that is there other duties.
    SetUser {
        user: UserName,
        duties: Vec<DutyName>,
    },
    /// Ends a user: its tokens and certificates count no more, also if one of its name comes later.
    RemoveUser {
        user: UserName,
    },
    /// Lets whoever has the secret be the user. The token's id is the proposer's choice.
    AddToken {
        user: UserName,
        token: String,
        /// SHA-256 of the secret, which the log never holds.
        digest: [u8; 32],
        /// How long it counts, by the cluster's time.
        life: Duration,
    },
    RevokeToken {
        token: String,
    },
    /// Says what a duty is; without grants, it is no more.
    SetDuty {
        duty: DutyName,
        grants: Vec<Grant>,
    },
    /// No certificate that was made until now for this name counts any more.
    RevokeCertificates {
        name: String,
    },
}

/// Everything that is agreed on about who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    pub users: OrdMap<UserName, User>,
    /// By id.
    pub tokens: OrdMap<String, UserToken>,
    /// Without the built-in ones.
    pub duties: OrdMap<DutyName, Vec<Grant>>,
    /// By name, as certificates have it: `agent/ID`, `user/NAME`, `member/ID`.
    pub revoked: OrdMap<String, Revocation>,
}

/// A person or a remote framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub duties: Vec<DutyName>,
    pub created_at: Timestamp,
}

/// What a user proves itself with, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserToken {
    pub user: UserName,
    /// SHA-256 of the secret.
    pub digest: [u8; 32],
    pub created_at: Timestamp,
    pub expires_at: ClusterTime,
}

/// Since when the certificates of a name don't count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Certificates say how far the log was when they were made; those from before this entry don't count.
    pub index: u64,
    pub at: Timestamp,
    pub counted: ClusterTime,
}

impl Access {
    /// Whether there is nothing whose end is by the cluster's time.
    pub fn is_timeless(&self) -> bool {
        self.tokens.is_empty() && self.revoked.is_empty()
    }

    /// The grants of a duty; absent where nobody made it.
    pub fn duty(&self, duty: &DutyName) -> Option<Vec<Grant>> {
        built_in_duty(duty.as_str()).or_else(|| self.duties.get(duty).cloned())
    }

    /// Everything that is granted to a user; nothing to one that isn't there.
    pub fn grants(&self, user: &UserName) -> Vec<Grant> {
        let duties = self.users.get(user).map(|user| user.duties.as_slice()).unwrap_or_default();
        duties.iter().filter_map(|duty| self.duty(duty)).flatten().collect()
    }

    /// Whether a user may do something to a target.
    pub fn may(&self, user: &UserName, verb: Verb, target: Target<'_>) -> Result<(), Denied> {
        decide(&self.grants(user), verb, target)
    }

    /// Whether a user may do something to anything.
    pub fn may_anywhere(&self, user: &UserName, verb: Verb) -> Result<(), Denied> {
        decide_anywhere(&self.grants(user), verb)
    }

    /// Whether a certificate that was made for a name when the log was at `made` doesn't count any more.
    pub fn is_revoked(&self, name: &str, made: u64) -> bool {
        self.revoked.get(name).is_some_and(|revocation| made < revocation.index)
    }

    /// The tokens of a user, with their ids.
    pub fn tokens_of<'a>(&'a self, user: &'a UserName) -> impl Iterator<Item = (&'a String, &'a UserToken)> {
        self.tokens.iter().filter(move |(_, token)| token.user == *user)
    }
}
