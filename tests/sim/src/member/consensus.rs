//! A model of the replicated log: Raft's rules, with elections at whatever moment the world chooses.
//!
//! This is not openraft, which waits and spawns and so can't live in virtual time; that one is tested with its own
//! network and disk. What the rest of the system may rely on is the same, and no more: terms with one leader
//! each; an entry is committed when a majority has it on disk; what was proposed and not committed may be lost, or
//! be committed by a later leader; a deposed leader goes on for a while believing that it leads.
//! Votes are cast in one moment, by members that the candidate reaches; everything else takes time on a network
//! that loses, delays, repeats and reorders.

use std::sync::Arc;

use cluster::{Entry, Outcome};
use leader::{Input, ProposeError, Ticket};
use model::Duration;

use super::{
    Member, Sent, Wake,
    disk::{Slot, Snapshot},
};
use crate::{
    record::Fact,
    stage::{Place, Stage},
    time::Moment,
};

/// What members say to each other.
#[derive(Debug, Clone)]
pub enum Packet {
    Append {
        term: u64,
        previous: u64,
        previous_term: u64,
        slots: Vec<Slot>,
        commit: u64,
    },
    Install {
        term: u64,
        snapshot: Sent,
    },
    /// The log is that of this term's leader, and durable, up to `matched`.
    Appended {
        term: u64,
        matched: u64,
        commit: u64,
    },
    /// There is something else before what was sent.
    Mismatch {
        term: u64,
        hint: u64,
    },
    /// The sender's term is over.
    Stale {
        term: u64,
    },
}

/// Where a member stands in its term.
#[derive(Debug)]
pub(super) enum Role {
    Follows,
    Leads {
        /// Of each member, by number.
        peers: Vec<Peer>,
        /// The index of its first entry; once that is applied, its state holds all that was promised before.
        first: u64,
        /// When it looks next what followers lack.
        replicates_at: Option<Moment>,
        /// From then on what has no answer is sent again.
        retries_at: Moment,
    },
}

/// What a leader knows of a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    matched: u64,
    sent: u64,
    commit: u64,
}

/// How long a leader goes on without a majority.
const ALONE_MAX: Duration = Duration::from_secs(5);
/// Slots in one packet.
const SLOTS_MAX: usize = 64;

impl Member {
    pub(super) fn packet(&mut self, from: usize, packet: Packet, stage: &mut Stage) {
        let term = match &packet {
            Packet::Append { term, .. }
            | Packet::Install { term, .. }
            | Packet::Appended { term, .. }
            | Packet::Mismatch { term, .. }
            | Packet::Stale { term } => *term,
        };
        if term < self.disk.term {
            return match packet {
                Packet::Append { .. } | Packet::Install { .. } => {
                    self.send(from, Packet::Stale { term: self.disk.term }, stage);
                }
                Packet::Appended { .. } | Packet::Mismatch { .. } | Packet::Stale { .. } => {}
            };
        }
        self.adopt(term, stage);
        match packet {
            Packet::Append { previous, previous_term, slots, commit, .. } => {
                self.follow(from, stage);
                self.append(from, (previous, previous_term), slots, commit, stage);
            }
            Packet::Install { snapshot, .. } => {
                self.follow(from, stage);
                self.install(from, &snapshot, stage);
            }
            Packet::Appended { matched, commit, .. } => {
                let Role::Leads { peers, .. } = &mut self.role else { return };
                let Some(peer) = peers.get_mut(from) else { return };
                peer.matched = peer.matched.max(matched);
                peer.sent = peer.sent.max(matched);
                peer.commit = peer.commit.max(commit);
                self.advance(stage);
            }
            Packet::Mismatch { hint, .. } => {
                let Role::Leads { peers, .. } = &mut self.role else { return };
                let Some(peer) = peers.get_mut(from) else { return };
                peer.sent = peer.sent.min(hint).max(peer.matched);
                self.replicate_soon(stage);
            }
            Packet::Stale { .. } => {}
        }
    }

    /// Learns of a term. Whoever led an earlier one doesn't any more, and its host hears of that later.
    pub(super) fn adopt(&mut self, term: u64, stage: &mut Stage) {
        if term <= self.disk.term {
            return;
        }
        let before = std::mem::replace(&mut self.disk.term, term);
        self.leader = None;
        self.verified = self.commit;
        self.depose(before, stage);
    }

    /// It leads the term before no more; its host hears of that later.
    fn depose(&mut self, term: u64, stage: &mut Stage) {
        if matches!(self.role, Role::Leads { .. }) {
            self.role = Role::Follows;
            self.alone_since = None;
            self.lose_tickets(stage);
            let delay = stage.chance.uneven_span(Duration::from_micros(10), Duration::from_secs(5));
            self.later(stage, delay, Wake::Deposed { term });
        }
    }

    fn stop_leading(&mut self, stage: &mut Stage) {
        self.leader = None;
        self.depose(self.disk.term, stage);
    }

    fn follow(&mut self, leader: usize, stage: &mut Stage) {
        if matches!(self.role, Role::Leads { .. }) {
            let why = format!("members {leader} and {} both lead term {}", self.number, self.disk.term);
            stage.record.fail(stage.now, "one_leader", why);
        }
        self.leader = Some(leader);
    }

    fn append(
        &mut self,
        from: usize,
        (mut previous, mut previous_term): (u64, u64),
        mut slots: Vec<Slot>,
        commit: u64,
        stage: &mut Stage,
    ) {
        let base = self.disk.base();
        if previous < base {
            // What the snapshot covers is committed, and so the same everywhere.
            let covered = usize::try_from(base - previous).unwrap_or(usize::MAX).min(slots.len());
            slots.drain(..covered);
            previous = base;
            previous_term = self.disk.term_at(base).unwrap_or(0);
        }
        if self.disk.term_at(previous) != Some(previous_term) {
            let hint = self.disk.last().min(previous.saturating_sub(1));
            return self.send(from, Packet::Mismatch { term: self.disk.term, hint }, stage);
        }
        let upto = previous + slots.len() as u64;
        let mut is_longer = false;
        for (slot, index) in slots.into_iter().zip(previous + 1..) {
            match self.disk.term_at(index) {
                Some(term) if term == slot.term => {}
                Some(_) => {
                    if index <= self.commit {
                        let why = format!("member {} has to drop the committed entry {index}", self.number);
                        return stage.record.fail(stage.now, "states_agree", why);
                    }
                    self.disk.truncate(index);
                    self.disk.push(slot);
                    is_longer = true;
                }
                None => {
                    self.disk.push(slot);
                    is_longer = true;
                }
            }
        }
        self.verified = self.verified.max(upto);
        self.commit = self.commit.max(commit.min(self.verified));
        if is_longer {
            self.sync(stage);
        } else {
            self.synced(stage);
        }
        self.apply(stage);
    }

    fn install(&mut self, from: usize, snapshot: &Snapshot, stage: &mut Stage) {
        if snapshot.index > self.commit {
            stage.trace.line(stage.now, || format!("m{} installs {}", self.number, snapshot.index));
            // What it has beyond a snapshot that it agrees with may be counted on already.
            match self.disk.term_at(snapshot.index) == Some(snapshot.term) {
                true => self.disk.compact(snapshot.clone(), 0),
                false => self.disk.replace(snapshot.clone()),
            }
            self.disk.synced = self.disk.synced.max(snapshot.index);
            self.commit = snapshot.index;
            self.applied = snapshot.index;
            self.state = snapshot.state.clone();
            stage.record.note(stage.now, &Fact::Restored { member: self.number, state: &self.state });
            self.restored();
        }
        self.verified = self.verified.max(snapshot.index);
        let Member { disk, commit, .. } = self;
        let packet = Packet::Appended { term: disk.term, matched: snapshot.index, commit: *commit };
        self.send(from, packet, stage);
    }

    /// Begins to make the log durable.
    fn sync(&mut self, stage: &mut Stage) {
        let delay = stage.chance.uneven_span(Duration::from_micros(100), stage.parameters.sync);
        let wake = Wake::Synced { upto: self.disk.last(), truncations: self.disk.truncations };
        self.later(stage, delay, wake);
    }

    /// Something is durable: the leader hears of it, or counts it himself.
    pub(super) fn synced(&mut self, stage: &mut Stage) {
        match &mut self.role {
            Role::Leads { peers, .. } => {
                if let Some(own) = peers.get_mut(self.number) {
                    own.matched = self.disk.synced;
                }
                self.advance(stage);
            }
            Role::Follows => {
                let Some(leader) = self.leader else { return };
                let matched = self.disk.synced.min(self.verified);
                let packet = Packet::Appended { term: self.disk.term, matched, commit: self.commit };
                self.send(leader, packet, stage);
            }
        }
    }

    /// Commits what a majority has, if it is of this term.
    fn advance(&mut self, stage: &mut Stage) {
        let Role::Leads { peers, .. } = &self.role else { return };
        let mut matched: Vec<u64> = peers.iter().map(|peer| peer.matched).collect();
        matched.sort_unstable();
        let majority = matched.get((self.members - 1) / 2).copied().unwrap_or(0);
        if majority > self.commit && self.disk.term_at(majority) == Some(self.disk.term) {
            self.commit = majority;
            self.replicate_soon(stage);
            self.apply(stage);
        }
    }

    fn replicate_soon(&mut self, stage: &mut Stage) {
        let delay = stage.chance.span(Duration::from_micros(10), Duration::from_millis(2));
        self.replicate_at(stage.now + delay, stage);
    }

    fn replicate_at(&mut self, at: Moment, stage: &mut Stage) {
        let Role::Leads { replicates_at, .. } = &mut self.role else { return };
        if replicates_at.is_none_or(|before| at < before) {
            *replicates_at = Some(at);
            self.later(stage, at.since(stage.now), Wake::Replicate { term: self.disk.term });
        }
    }

    pub(super) fn replicate(&mut self, term: u64, stage: &mut Stage) {
        if term != self.disk.term {
            return;
        }
        let commit = self.commit;
        let last = self.disk.last();
        let Role::Leads { peers, replicates_at, retries_at, .. } = &mut self.role else { return };
        if replicates_at.take_if(|at| *at <= stage.now).is_none() {
            return;
        }
        let is_retry = *retries_at <= stage.now;
        if is_retry {
            *retries_at = stage.now + stage.chance.span(Duration::from_millis(200), Duration::from_secs(1));
        }
        let retries_at = *retries_at;
        let mut wanting = Vec::new();
        for (number, peer) in peers.iter_mut().enumerate() {
            if number == self.number || peer.matched >= last && peer.commit >= commit {
                continue;
            }
            if is_retry {
                peer.sent = peer.matched;
            }
            wanting.push((number, peer.sent));
            peer.sent = last.min(peer.sent + SLOTS_MAX as u64);
        }
        if wanting.is_empty() {
            return;
        }
        self.replicate_at(retries_at, stage);
        for (number, sent) in wanting {
            let packet = match self.disk.term_at(sent) {
                Some(previous_term) => {
                    let slots = self.disk.slots_from(sent + 1, SLOTS_MAX);
                    Packet::Append { term, previous: sent, previous_term, slots, commit }
                }
                None => Packet::Install { term, snapshot: Arc::new(self.disk.snapshot.clone()) },
            };
            self.send(number, packet, stage);
        }
    }

    /// Writes an entry into the log of the leader; whether it is ever committed shows later.
    pub(super) fn propose(
        &mut self,
        ticket: Ticket,
        entry: Entry,
        stage: &mut Stage,
    ) -> Result<(), ProposeError> {
        if !matches!(self.role, Role::Leads { .. }) {
            return Err(ProposeError::NotLeader);
        }
        if stage.misfortune(5) {
            return Err(ProposeError::Busy);
        }
        self.disk.push(Slot { term: self.disk.term, entry: Some(Arc::new(entry)) });
        self.tickets.insert(self.disk.last(), ticket);
        self.sync(stage);
        self.replicate_soon(stage);
        Ok(())
    }

    /// Tells the leader's host what came of an entry.
    pub(super) fn applied_one(&mut self, index: u64, term: u64, outcome: Outcome, stage: &mut Stage) {
        let ticket = self.tickets.remove(&index);
        let Some(leading) = &mut self.leading else { return };
        leading.learn(outcome.changes);
        if let Some(ticket) = ticket
            && term == self.disk.term
        {
            leading.take(Input::Answered { ticket, result: Ok(outcome.answer) });
        }
        self.poke(stage);
    }

    fn lose_tickets(&mut self, stage: &mut Stage) {
        let lost = std::mem::take(&mut self.tickets);
        let Some(leading) = &mut self.leading else { return };
        for ticket in lost.into_values() {
            leading.take(Input::Answered { ticket, result: Err(ProposeError::Unknown) });
        }
        self.poke(stage);
    }

    fn begin_term(&mut self, stage: &mut Stage) {
        self.leader = Some(self.number);
        self.disk.push(Slot { term: self.disk.term, entry: None });
        let first = self.disk.last();
        let peer = Peer { matched: 0, sent: first - 1, commit: 0 };
        let mut peers = vec![peer; self.members];
        if let Some(own) = peers.get_mut(self.number) {
            own.matched = self.disk.synced;
        }
        let retries_at = stage.now + Duration::from_secs(1);
        self.role = Role::Leads { peers, first, replicates_at: None, retries_at };
        self.sync(stage);
        self.replicate_soon(stage);
    }

    /// Once all that earlier leaders promised is applied, the host may lead.
    pub(super) fn begin_leading(&mut self, stage: &mut Stage) {
        let Role::Leads { first, .. } = &self.role else { return };
        let is_begun = self.leading.as_ref().is_some_and(|leading| leading.term() == self.disk.term);
        if self.applied < *first || is_begun {
            return;
        }
        self.end_leading(stage);
        self.lead(self.disk.term, stage);
    }
}

/// Whether somebody leads who reaches a majority, and nobody has promised a later term to another.
pub fn has_leader(members: &[Member], stage: &Stage) -> bool {
    members.iter().any(|leader| {
        let reached = reached_by(leader, members, stage);
        leader.is_up
            && matches!(leader.role, Role::Leads { .. })
            && reached.len() * 2 > members.len()
            && reached.iter().all(|number| members[*number].disk.term <= leader.disk.term)
    })
}

/// The members that hear it and that it hears, itself included.
fn reached_by(candidate: &Member, members: &[Member], stage: &Stage) -> Vec<usize> {
    let one = Place::Member(candidate.number);
    let is_reached = |other: &&Member| {
        let two = Place::Member(other.number);
        other.is_up && !stage.network.is_cut(one, two) && !stage.network.is_cut(two, one)
    };
    members.iter().filter(is_reached).map(|member| member.number).collect()
}

/// Heartbeats, all at once: a leader learns of later terms, and stops when no majority has heard it for too long.
///
/// The real ones are what a daemon must see to: without the second, frameworks and agents could stay with a member
/// that can't write while another one counts their absence.
pub fn beat(members: &mut [Member], stage: &mut Stage) {
    for number in 0..members.len() {
        let Some(leader) = members.get(number).filter(|member| member.is_up) else { continue };
        if !matches!(leader.role, Role::Leads { .. }) {
            continue;
        }
        let reached = reached_by(leader, members, stage);
        let latest = reached.iter().map(|number| members[*number].disk.term).max().unwrap_or(0);
        let has_majority = reached.len() * 2 > members.len();
        let leader = &mut members[number];
        leader.adopt(latest, stage);
        if has_majority {
            leader.alone_since = None;
        } else if stage.now.since(*leader.alone_since.get_or_insert(stage.now)) > ALONE_MAX {
            leader.stop_leading(stage);
        }
    }
}

/// Lets one member stand for election. Others than a bare majority may not even hear of it.
pub fn elect(candidate: usize, members: &mut [Member], stage: &mut Stage) {
    let count = members.len();
    let Some(one) = members.get(candidate).filter(|member| member.is_up) else { return };
    let (last_term, last, term) = (one.disk.last_term(), one.disk.last(), one.disk.term + 1);
    let mut voters = reached_by(one, members, stage);
    voters.retain(|number| {
        let voter = &members[*number];
        voter.disk.term < term && (voter.disk.last_term(), voter.disk.last()) <= (last_term, last)
    });
    if voters.len() * 2 <= count {
        // Next time it stands above everyone whom it reaches.
        let known = reached_by(&members[candidate], members, stage);
        let known = known.into_iter().map(|number| members[number].disk.term).max().unwrap_or(0);
        members[candidate].adopt(known, stage);
        return;
    }
    while voters.len() * 2 > count + 2 && stage.chance.happens(500) {
        let place = stage.chance.place(voters.len());
        if voters.get(place).is_some_and(|voter| *voter != candidate) {
            voters.remove(place);
        }
    }
    stage.trace.line(stage.now, || format!("m{candidate} leads term {term}, elected by {voters:?}"));
    for number in voters {
        members[number].adopt(term, stage);
    }
    members[candidate].begin_term(stage);
}
