//! A member's disk: it forgets what was not made durable, and keeps an odd part of it now and then.

use std::{collections::VecDeque, sync::Arc};

use cluster::{ClusterState, Entry};

use crate::chance::Chance;

/// One place in the log. Blank ones are what a new leader begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    pub term: u64,
    pub entry: Option<Arc<Entry>>,
}

/// The state after the entry at `index`.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub index: u64,
    pub term: u64,
    pub state: ClusterState,
}

/// What survives a crash, and the unsynced end of the log, which may not.
#[derive(Debug)]
pub struct Disk {
    /// The latest term in which it voted or followed: durable before anybody hears of it.
    pub term: u64,
    pub snapshot: Snapshot,
    /// Index and term of the slot before the first that is kept.
    base: u64,
    base_term: u64,
    slots: VecDeque<Slot>,
    /// Everything up to here is durable.
    pub synced: u64,
    /// Grows when the end of the log is dropped: what was about to be synced then isn't there any more.
    pub truncations: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            term: 0,
            snapshot: Snapshot { index: 0, term: 0, state: ClusterState::new() },
            base: 0,
            base_term: 0,
            slots: VecDeque::new(),
            synced: 0,
            truncations: 0,
        }
    }
}

impl Disk {
    pub fn base(&self) -> u64 {
        self.base
    }

    pub fn last(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    pub fn last_term(&self) -> u64 {
        self.slots.back().map_or(self.base_term, |slot| slot.term)
    }

    pub fn slot(&self, index: u64) -> Option<&Slot> {
        let place = index.checked_sub(self.base + 1)?;
        self.slots.get(usize::try_from(place).ok()?)
    }

    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base { Some(self.base_term) } else { self.slot(index).map(|slot| slot.term) }
    }

    /// Slots from `first` on, at most `count`.
    pub fn slots_from(&self, first: u64, count: usize) -> Vec<Slot> {
        let place = usize::try_from(first.saturating_sub(self.base + 1)).unwrap_or(usize::MAX);
        self.slots.iter().skip(place).take(count).cloned().collect()
    }

    pub fn push(&mut self, slot: Slot) {
        self.slots.push_back(slot);
    }

    /// Drops everything from `first` on.
    pub fn truncate(&mut self, first: u64) {
        let left = usize::try_from(first.saturating_sub(self.base + 1)).unwrap_or(usize::MAX);
        self.slots.truncate(left);
        self.synced = self.synced.min(self.last());
        self.truncations += 1;
    }

    /// Keeps a snapshot, and of the slots that it covers only the last few.
    pub fn compact(&mut self, snapshot: Snapshot, kept: u64) {
        while self.base + kept < snapshot.index {
            let Some(slot) = self.slots.pop_front() else { break };
            self.base += 1;
            self.base_term = slot.term;
        }
        self.snapshot = snapshot;
    }

    /// Begins anew with another member's snapshot.
    pub fn replace(&mut self, snapshot: Snapshot) {
        self.base = snapshot.index;
        self.base_term = snapshot.term;
        self.synced = snapshot.index;
        self.slots.clear();
        self.truncations += 1;
        self.snapshot = snapshot;
    }

    /// A crash: of what was not durable, chance decides how much is there.
    pub fn lose_unsynced(&mut self, chance: &mut Chance) {
        let kept = chance.between(self.synced, self.last().max(self.synced));
        self.truncate(kept + 1);
        self.synced = self.last();
    }
}
