//! The types with which openraft is instantiated.

use std::fmt;

use openraft::{
    impls::{BasicNode, leader_id_std},
    type_config::alias,
};
use serde::{Deserialize, Serialize};

#[cfg(not(test))]
use openraft::impls::TokioRuntime as Runtime;

// tokio as well, but its chance can have a seed.
#[cfg(test)]
use super::tests::SeededRuntime as Runtime;

/// A seat in Raft.
pub type MemberId = u64;

openraft::declare_raft_types!(
    /// One leader per term, as in the paper: a term names one leadership, and a log id is
    /// (term, index). The choice is in every record on disk.
    pub Types:
        D = Proposal,
        R = Vec<u8>,
        NodeId = MemberId,
        Node = BasicNode,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, MemberId>,
        AsyncRuntime = Runtime,
);

/// A command as openraft carries it. (serde is what openraft's bounds ask for; what is stored is
/// written by `record.rs` alone.)
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

pub type Entry = alias::EntryOf<Types>;
pub type LogId = alias::LogIdOf<Types>;
pub type Vote = alias::VoteOf<Types>;
pub type StoredMembership = alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub type Payload = alias::PayloadOf<Types>;
pub type Membership = openraft::Membership<MemberId, BasicNode>;

/// The log id of `term` and `index`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// The term of the leader that wrote the entry.
pub fn term_of(id: &LogId) -> u64 {
    id.committed_leader_id().term
}
