//! The machine of simulated members: registers, and a word to the history for each command.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{
    super::{Machine, MachineError},
    history::{Key, Value},
    planted::Bug,
    world::World,
};

/// What a member's readers see.
pub type Published = Arc<Mutex<BTreeMap<Key, Value>>>;

pub struct Registers {
    pub member: u64,
    pub world: World,
    pub registers: BTreeMap<Key, Value>,
    pub published: Published,
    /// What the last command replaced.
    pub last: Option<(Key, Value)>,
}

/// A swap as it is proposed.
pub fn encode(key: Key, value: Value) -> Vec<u8> {
    [key.to_le_bytes(), value.to_le_bytes()].concat()
}

fn pair(bytes: &[u8]) -> (u64, u64) {
    let (key, value) = bytes.split_at(8);
    (number(key), number(value))
}

pub fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

impl Machine for Registers {
    fn apply(&mut self, index: u64, _term: u64, command: &[u8]) -> Result<Vec<u8>, MachineError> {
        self.world.history().applied(self.member, index, command);
        let (key, value) = pair(command);
        let before = self.registers.insert(key, value).unwrap_or(0);
        self.last = Some((key, before));
        Ok(before.to_le_bytes().to_vec())
    }

    fn published(&mut self, _last_applied: u64) {
        self.published.lock().unwrap().clone_from(&self.registers);
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let mut registers = self.registers.clone();
        if self.world.bug == Some(Bug::SnapshotWithoutLast)
            && let Some((key, before)) = self.last
        {
            registers.insert(key, before);
        }
        Box::new(move || registers.into_iter().flat_map(|(key, value)| encode(key, value)).collect())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        self.registers = bytes.chunks_exact(16).map(pair).collect();
        self.last = None;
        Ok(())
    }
}
