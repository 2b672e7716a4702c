//! The cluster's version rises when every member reads the next one, and not before.
//!
//! A member that does not read a version stops at the first entry that needs it. So whoever leads asks all who
//! have a seat, learners too, and tells the leader's loop the newest version that all of them read. A member that
//! is away holds the version where it is: nobody knows which program it comes back with. Start at
//! [`Versions::keep`].

use std::{collections::BTreeMap, time::Duration};

use futures::future;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    leader::LeaderHandle,
    raft::{MemberId, Peers, RaftHandle, Seat},
};

/// Between two rounds of questions while the version could rise.
const PAUSE: Duration = Duration::from_secs(1);
/// The same when it has risen as far as this program knows: only people want to see who reads what.
const PAUSE_AT_REST: Duration = Duration::from_secs(30);
/// What was told is told again after this until it was carried out: the loop may not lead yet.
const PAUSE_TOLD: Duration = Duration::from_millis(50);

/// What each member reads, as far as this one has asked; cheap to clone.
#[derive(Clone)]
pub struct Versions {
    peers: Peers,
    /// What this member reads.
    own: u32,
    known: watch::Sender<BTreeMap<MemberId, u32>>,
}

impl Versions {
    pub fn new(peers: Peers, own: u32) -> Self {
        Self { peers, own, known: watch::Sender::new(BTreeMap::new()) }
    }

    /// The newest cluster version that each member reads; empty where this one doesn't lead, without those that
    /// gave no answer.
    pub fn known(&self) -> BTreeMap<MemberId, u32> {
        self.known.borrow().clone()
    }

    /// Asks whoever has no seat yet. `None`: its program is too old to say.
    pub async fn of_newcomer(&self, id: MemberId, address: &str) -> Result<Option<u32>, String> {
        self.peers.version_supported(id, address).await
    }

    /// While this member leads, finds out what all read, and tells the leader's loop; until it is stopped.
    pub async fn keep(self, raft: RaftHandle, leader: LeaderHandle, stop: CancellationToken) {
        let work = async {
            let mut leadership = raft.leadership();
            loop {
                if leadership.wait_for(|leadership| leadership.is_leader).await.is_err() {
                    return;
                }
                let term = leadership.borrow_and_update().term;
                tokio::select! {
                    () = self.lead(&raft, &leader) => {}
                    _ = leadership.wait_for(|now| !now.is_leader || now.term != term) => {}
                }
                self.known.send_replace(BTreeMap::new());
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Never ends by itself: members come and go.
    async fn lead(&self, raft: &RaftHandle, leader: &LeaderHandle) {
        let mut held_back_by = None;
        loop {
            let seats = raft.seats();
            let known = self.ask(raft.member_id(), &seats).await;
            self.known.send_replace(known.clone());
            let all_read = read_by_all(&seats, &known);
            let version = leader.state().version();
            // In each round, also that it is less than before: whoever went back must not meet what was true then.
            leader.tell_supported(all_read);
            let pause = if version < all_read {
                PAUSE_TOLD
            } else if version < self.own {
                PAUSE
            } else {
                PAUSE_AT_REST
            };
            let now_held_back_by: Vec<MemberId> = seats
                .iter()
                .map(|seat| seat.id)
                .filter(|id| known.get(id).is_none_or(|version| *version < self.own))
                .collect();
            if held_back_by.as_ref() != Some(&now_held_back_by) && !now_held_back_by.is_empty() {
                tracing::info!(
                    members = ?now_held_back_by,
                    wanted = self.own,
                    "the cluster version waits for members that don't read it, or don't answer"
                );
            }
            held_back_by = Some(now_held_back_by);
            sleep(pause).await;
        }
    }

    async fn ask(&self, own_id: MemberId, seats: &[Seat]) -> BTreeMap<MemberId, u32> {
        let questions = seats.iter().map(async |seat| {
            if seat.id == own_id {
                return Some((seat.id, self.own));
            }
            // Asked anew each time: whoever came back may have come back with an earlier program.
            match self.peers.version_supported(seat.id, &seat.address).await {
                Ok(version) => version.map(|version| (seat.id, version)),
                Err(why) => {
                    tracing::debug!(member = seat.id, why, "can't ask which cluster version a member reads");
                    None
                }
            }
        });
        future::join_all(questions).await.into_iter().flatten().collect()
    }
}

/// The newest version that everybody reads who has a seat; 0 while one of them gives no answer.
fn read_by_all(seats: &[Seat], known: &BTreeMap<MemberId, u32>) -> u32 {
    seats.iter().map(|seat| known.get(&seat.id).copied().unwrap_or(0)).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_silent_or_learns_counts_too() {
        let seat = |id, votes| Seat { id, address: String::new(), votes, leads: id == 1, matched: None };
        let seats = [seat(1, true), seat(2, true), seat(3, false)];
        assert_eq!(read_by_all(&seats, &BTreeMap::from([(1, 6), (2, 6), (3, 5)])), 5);
        assert_eq!(read_by_all(&seats, &BTreeMap::from([(1, 6), (2, 6)])), 0);
        // Who has no seat any more holds nobody back.
        assert_eq!(read_by_all(&seats[..2], &BTreeMap::from([(1, 6), (2, 6), (3, 5)])), 6);
        assert_eq!(read_by_all(&[], &BTreeMap::new()), 0);
    }
}
