//! What one host can give to a task that asks for more than every task has.

use std::collections::{BTreeMap, BTreeSet};

use super::cgroup::HugePageSize;

/// As asked now: cores go offline, disks change their scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Abilities {
    /// Cores that a task may be bound to; `None` where the host can't bind.
    pub cores: Option<BTreeSet<u32>>,
    pub can_throttle_io: bool,
    /// Whether a weight among those who wait for a disk would count.
    pub can_weigh_io: bool,
    /// Pages that tasks may be given, of each size; empty where none are, or tasks can't be held to them.
    pub huge_pages: BTreeMap<HugePageSize, u64>,
}
