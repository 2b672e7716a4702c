//! Who sits in the cluster, and changes of that: one member at a time.
//!
//! A new member first learns: it gets everything and votes on nothing, until it has caught up. So a member
//! that never starts, or is slow, never counts against the quorum.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, RaftError},
    impls::BasicNode,
};
use tokio::time::{Instant, timeout_at};

use super::{
    member::RaftHandle,
    types::{MemberId, Types},
};

/// A learner this close to the end of the log may vote: what it lacks is sent within moments.
const LAG_ENTRIES_MAX: u64 = 100;

/// One member, as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub id: MemberId,
    /// host:port.
    pub address: String,
    /// Else it learns.
    pub votes: bool,
    pub leads: bool,
    /// The last entry that it is known to have on disk; only the leader knows those of others.
    pub matched: Option<u64>,
}

/// Why the membership wasn't changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeatError {
    #[error("this member doesn't lead")]
    NotLeader,
    #[error("member {id} is at {address}")]
    Taken { id: MemberId, address: String },
    #[error("there is no member {id}")]
    Unknown { id: MemberId },
    #[error("member {id} is the only one that votes")]
    Last { id: MemberId },
    #[error("member {id} has not caught up: it has entry {matched} of {last}")]
    Behind { id: MemberId, matched: u64, last: u64 },
    #[error("another change of the membership is under way")]
    Busy,
    #[error("member {id} did not take the lead in time")]
    NotTaken { id: MemberId },
    #[error("the outcome is unknown: {why}")]
    OutcomeUnknown { why: String },
}

impl RaftHandle {
    /// Every member, by id.
    pub fn seats(&self) -> Vec<Seat> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let matched = |id: MemberId| {
            if id == metrics.id {
                return metrics.last_log_index;
            }
            Some(metrics.replication.as_ref()?.get(&id)?.as_ref()?.index())
        };
        let seats = membership.nodes().map(|(id, node)| Seat {
            id: *id,
            address: node.addr.clone(),
            votes: voters.contains(id),
            leads: metrics.current_leader == Some(*id),
            matched: matched(*id),
        });
        seats.collect()
    }

    fn seat(&self, id: MemberId) -> Option<Seat> {
        self.seats().into_iter().find(|seat| seat.id == id)
    }

    /// Where the leader is, as far as this member knows.
    pub fn leader_address(&self) -> Option<String> {
        self.seats().into_iter().find(|seat| seat.leads).map(|seat| seat.address)
    }

    /// Gives a member a seat and, once it has caught up, a vote. Safe to repeat.
    ///
    /// Refuses what [`SeatError`] names; after Behind it goes on learning, and a repeat waits again.
    pub async fn add_member(&self, id: MemberId, address: &str, patience: Duration) -> Result<(), SeatError> {
        let deadline = Instant::now() + patience;
        match self.seat(id) {
            Some(seat) if seat.address != address => {
                return Err(SeatError::Taken { id, address: seat.address });
            }
            Some(seat) if seat.votes => return Ok(()),
            Some(_) => {}
            None => {
                let node = BasicNode { addr: address.to_owned() };
                let added = self.raft.add_learner(id, node, false).await;
                added.map_err(|error| seat_error(&error))?;
            }
        }
        self.caught_up(id, deadline).await?;
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.raft.change_membership(change, true).await.map_err(|error| seat_error(&error))?;
        Ok(())
    }

    /// Waits until a member has nearly all that this one has.
    async fn caught_up(&self, id: MemberId, deadline: Instant) -> Result<(), SeatError> {
        let mut metrics = self.raft.metrics();
        loop {
            let last = self.metrics().last_log_index;
            let seat = self.seat(id).ok_or(SeatError::Unknown { id })?;
            let matched = seat.matched.unwrap_or(0);
            if seat.matched.is_some() && matched + LAG_ENTRIES_MAX >= last {
                return Ok(());
            }
            if !self.leadership().borrow().is_leader {
                return Err(SeatError::NotLeader);
            }
            if timeout_at(deadline, metrics.changed()).await.is_err() {
                return Err(SeatError::Behind { id, matched, last });
            }
        }
    }

    /// Takes a member's seat away, whatever it is; the leader's, too. Safe to repeat.
    pub async fn remove_member(&self, id: MemberId) -> Result<(), SeatError> {
        let Some(seat) = self.seat(id) else { return Err(SeatError::Unknown { id }) };
        let is_last = self.seats().iter().all(|other| other.id == id || !other.votes);
        let change = match seat.votes {
            true if is_last => return Err(SeatError::Last { id }),
            true => ChangeMembers::RemoveVoters(BTreeSet::from([id])),
            false => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
        };
        self.raft.change_membership(change, false).await.map_err(|error| seat_error(&error))?;
        Ok(())
    }

    /// Hands the lead to a member that votes: the one named, or the one that is nearest.
    pub async fn transfer(&self, to: Option<MemberId>, patience: Duration) -> Result<MemberId, SeatError> {
        let own = self.member_id();
        if !self.leadership().borrow().is_leader {
            return Err(SeatError::NotLeader);
        }
        let voters: Vec<Seat> = self.seats().into_iter().filter(|seat| seat.votes).collect();
        let target = match to {
            Some(id) => voters.iter().find(|seat| seat.id == id).ok_or(SeatError::Unknown { id })?,
            None => {
                let others = voters.iter().filter(|seat| seat.id != own);
                others.max_by_key(|seat| seat.matched).ok_or(SeatError::Last { id: own })?
            }
        };
        let id = target.id;
        if id == own {
            return Ok(id);
        }
        let trigger = self.raft.trigger().transfer_leader(id).await;
        trigger.map_err(|error| SeatError::OutcomeUnknown { why: error.to_string() })?;
        let mut leadership = self.leadership();
        let led = leadership.wait_for(|leadership| leadership.leader == Some(id));
        match tokio::time::timeout(patience, led).await {
            Ok(Ok(_)) => Ok(id),
            Ok(Err(_)) | Err(_) => Err(SeatError::NotTaken { id }),
        }
    }
}

fn seat_error(error: &RaftError<Types, ClientWriteError<Types>>) -> SeatError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => SeatError::NotLeader,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            openraft::errors::ChangeMembershipError::InProgress(_),
        )) => SeatError::Busy,
        error => SeatError::OutcomeUnknown { why: error.to_string() },
    }
}
