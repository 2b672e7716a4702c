//! A member: a model of consensus, and the host of the real `core/cluster` and `core/leader`.
//!
//! Start at [`Member::wake`]. The log is in `consensus.rs`, the leader's host in `lead.rs`.

mod consensus;
mod disk;
mod lead;

use std::{collections::BTreeMap, sync::Arc};

use cluster::ClusterState;
use leader::{Call, Config, Ticket};
use model::{Duration, Refusal, RefusalCode};

use consensus::Role;
pub use consensus::{Packet, beat, elect, has_leader};
use disk::{Disk, Snapshot};
use lead::Leading;

use crate::{
    network::{Conn, Down, Up},
    record::Fact,
    stage::{Happening, Place, Stage, What},
    time::{Clock, Moment},
    world,
};

/// What can happen to a member.
#[derive(Debug)]
pub enum Wake {
    Packet {
        from: usize,
        packet: Packet,
    },
    /// The log is durable up to here, unless its end was dropped meanwhile.
    Synced {
        upto: u64,
        truncations: u64,
    },
    /// Followers may lack something.
    Replicate {
        term: u64,
    },
    /// The leader's loop has something to do.
    Turn,
    /// The host learns at last that it doesn't lead any more.
    Deposed {
        term: u64,
    },
    Asked {
        from: Place,
        life: u32,
        number: u64,
        call: Box<Call>,
    },
    Up {
        conn: Conn,
        from: Place,
        message: Up,
    },
    Gone {
        conn: Conn,
    },
}

/// A snapshot is read again when so many times as many entries as it has records came since the last one that was.
const READ_AGAIN_AFTER: u64 = 4;

/// One of the coordinators.
pub struct Member {
    pub number: usize,
    pub clock: Clock,
    pub is_up: bool,
    config: Config,
    members: usize,
    disk: Disk,
    role: Role,
    /// The leader of its term, as far as it knows.
    leader: Option<usize>,
    /// Up to here its log is that of the leader of its term.
    verified: u64,
    commit: u64,
    applied: u64,
    pub state: ClusterState,
    /// Proposals of this leadership, by the index that they got.
    tickets: BTreeMap<u64, Ticket>,
    leading: Option<Leading>,
    /// Since when it leads and reaches no majority.
    alone_since: Option<Moment>,
    /// From this entry on a snapshot is read again.
    read_again_from: u64,
}

impl Member {
    pub fn new(number: usize, clock: Clock, config: Config, members: usize) -> Self {
        Self {
            number,
            clock,
            is_up: true,
            config,
            members,
            disk: Disk::default(),
            role: Role::Follows,
            leader: None,
            verified: 0,
            commit: 0,
            applied: 0,
            state: ClusterState::new(),
            tickets: BTreeMap::new(),
            leading: None,
            alone_since: None,
            read_again_from: 0,
        }
    }

    fn place(&self) -> Place {
        Place::Member(self.number)
    }

    fn later(&self, stage: &mut Stage, delay: Duration, wake: Wake) {
        stage.later(self.place(), delay, What::Member(wake));
    }

    pub fn wake(&mut self, wake: Wake, stage: &mut Stage) {
        if !self.is_up {
            return;
        }
        match wake {
            Wake::Packet { from, packet } => self.packet(from, packet, stage),
            Wake::Synced { upto, truncations } => {
                if self.fails(stage) {
                    return;
                }
                if self.disk.truncations == truncations {
                    self.disk.synced = self.disk.synced.max(upto);
                    self.synced(stage);
                }
            }
            Wake::Replicate { term } => self.replicate(term, stage),
            Wake::Turn => self.turn(stage),
            Wake::Deposed { term } => {
                if self.leading.as_ref().is_some_and(|leading| leading.term() == term) {
                    self.end_leading(stage);
                }
            }
            Wake::Asked { from, life, number, call } => match &mut self.leading {
                Some(_) => self.take_call(from, life, number, *call, stage),
                None => stage.answer(self.number, from, life, number, Err(no_leader())),
            },
            Wake::Up { conn, from, message } => {
                if stage.arrives(self.place(), conn) {
                    self.up(conn, from, message, stage);
                }
            }
            Wake::Gone { conn } => {
                stage.gone(self.place(), conn);
                self.stream_gone(conn, stage);
            }
        }
    }

    /// Whether it crashes at this record.
    fn fails(&mut self, stage: &mut Stage) -> bool {
        let often = stage.parameters.member_crashes;
        if !stage.misfortune(often) {
            return false;
        }
        self.crash(stage, false);
        let delay = stage.chance.uneven_span(Duration::from_millis(100), Duration::from_secs(30));
        let what = What::World(world::Wake::Restart(self.place()));
        stage.later(Place::World, delay, what);
        true
    }

    /// Stops at once. What was not durable is forgotten, more or less.
    pub fn crash(&mut self, stage: &mut Stage, is_sudden: bool) {
        if !self.is_up {
            return;
        }
        let number = self.number;
        stage.trace.line(stage.now, || format!("m{number} crashes"));
        self.is_up = false;
        if !is_sudden {
            stage.network.deaf.insert(number);
        }
        stage.break_lines_of(self.place(), is_sudden);
        stage.end_life(self.place());
        self.disk.lose_unsynced(&mut stage.chance);
        self.role = Role::Follows;
        self.leader = None;
        self.leading = None;
        self.tickets.clear();
    }

    /// Starts again from the disk.
    pub fn restart(&mut self, stage: &mut Stage) {
        if self.is_up {
            return;
        }
        let number = self.number;
        stage.trace.line(stage.now, || format!("m{number} starts, log up to {}", self.disk.last()));
        self.is_up = true;
        stage.network.deaf.remove(&number);
        let Snapshot { index, state, term: _ } = &self.disk.snapshot;
        self.commit = *index;
        self.applied = *index;
        self.verified = *index;
        self.state = state.clone();
        stage.record.note(stage.now, &Fact::Restored { member: self.number, state: &self.state });
    }

    /// Lets the agreed state and the leader see what is committed.
    fn apply(&mut self, stage: &mut Stage) {
        while self.applied < self.commit {
            let index = self.applied + 1;
            let Some(slot) = self.disk.slot(index).cloned() else { return };
            self.applied = index;
            if let Some(entry) = &slot.entry {
                let outcome = cluster::apply(&mut self.state, index, entry);
                stage.trace.line(stage.now, || {
                    format!("m{} applies {index} {:?}: {:?}", self.number, entry.command, outcome.answer)
                });
                let fact = Fact::Applied {
                    member: self.number,
                    index,
                    entry,
                    outcome: &outcome,
                    state: &self.state,
                };
                stage.record.note(stage.now, &fact);
                self.applied_one(index, slot.term, outcome, stage);
            }
            if self.fails(stage) {
                return;
            }
        }
        self.begin_leading(stage);
        self.make_snapshot(stage);
    }

    fn make_snapshot(&mut self, stage: &mut Stage) {
        if self.applied < self.disk.snapshot.index + stage.parameters.snapshot_after
            || self.disk.synced < self.applied
        {
            return;
        }
        let Some(term) = self.disk.term_at(self.applied) else { return };
        let mut state = self.state.clone();
        // Some are written as parts and read again, as real ones are: as often as that stays cheap beside `apply`.
        if self.applied >= self.read_again_from {
            let records = self.state.tasks().len() + self.state.agents().len() + self.state.queue().len();
            self.read_again_from = self.applied + READ_AGAIN_AFTER * (records as u64);
            state = match ClusterState::from_parts(self.state.parts()) {
                Ok(state) => state,
                Err(error) => return stage.record.fail(stage.now, "states_agree", error.to_string()),
            };
            let fact = Fact::Snapshot { member: self.number, state: &self.state, restored: &state };
            stage.record.note(stage.now, &fact);
        }
        let kept = stage.chance.below(stage.parameters.snapshot_after);
        self.disk.compact(Snapshot { index: self.applied, term, state }, kept);
    }

    fn up(&mut self, conn: Conn, from: Place, message: Up, stage: &mut Stage) {
        let place = self.place();
        if self.leading.is_some() {
            return self.hear(conn, from, message, stage);
        }
        match message {
            Up::Hello(_) | Up::Subscribe(_) => {
                stage.send_down(conn, Down::Refused(no_leader()));
                stage.hang_up(place, conn);
            }
            Up::Said(_) | Up::Drained(_) => {}
            Up::End => stage.gone(place, conn),
        }
    }

    /// Sends a packet, which may be lost, late, early or twice.
    fn send(&self, to: usize, packet: Packet, stage: &mut Stage) {
        let (from, target) = (self.place(), Place::Member(to));
        let copies = if stage.misfortune(stage.parameters.repeated) { 2 } else { 1 };
        for _ in 0..copies {
            if stage.network.is_cut(from, target) || stage.misfortune(stage.parameters.lost) {
                continue;
            }
            let delay = stage.latency();
            let what = What::Member(Wake::Packet { from: self.number, packet: packet.clone() });
            stage.put(stage.now + delay, Happening { place: target, life: None, what });
        }
    }

    pub fn is_at_rest(&self) -> bool {
        self.tickets.is_empty() && self.leading.as_ref().is_none_or(Leading::is_at_rest)
    }

    pub fn commit(&self) -> u64 {
        self.commit
    }

    pub fn leads(&self) -> bool {
        self.leading.is_some()
    }
}

fn no_leader() -> Refusal {
    Refusal::new(RefusalCode::NoLeader, "this member doesn't lead; ask another member")
}

/// A snapshot as it travels.
type Sent = Arc<Snapshot>;
