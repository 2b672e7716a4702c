//! Victims of the OOM killer, as they come.
use std::time::Duration;

use agent_ebpf_common::{OomRecord, UNKNOWN};

use super::{page_bytes, stream::Record};
use crate::sys::CgroupId;

/// A process that the kernel chose to kill because memory ran out, with the figures of that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomEvent {
    /// Its v2 cgroup.
    pub cgroup: CgroupId,
    /// Its memory cgroup: the same number on v2, one of another hierarchy on v1.
    pub memory_cgroup_id: u64,
    /// Charged to its memory cgroup.
    pub memory_bytes: Option<u64>,
    /// What may be charged at most. Well above `memory_bytes`, it was the machine or a parent group that ran out.
    pub memory_bytes_limit: Option<u64>,
    pub pid: u32,
    /// Since boot.
    pub at: Duration,
}

impl Record for OomEvent {
    const BYTES: usize = size_of::<OomRecord>();

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes);
        if bytes.len() != size_of::<OomRecord>() {
            return None;
        }
        let page = page_bytes();
        // A limit of *none* is so many pages that their bytes don't fit.
        let bytes_of = |pages: u64| (pages != UNKNOWN).then(|| pages.saturating_mul(page));
        let mut next = || words.next();
        Some(Self {
            cgroup: CgroupId(next()?),
            memory_cgroup_id: next()?,
            memory_bytes: bytes_of(next()?),
            memory_bytes_limit: bytes_of(next()?),
            at: Duration::from_nanos(next()?),
            pid: u32::from_ne_bytes(bytes.get(40..44)?.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut bytes: Vec<u8> =
            [7_u64, 8, 2, UNKNOWN, 5].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(9_u32.to_ne_bytes());
        bytes.extend(10_u32.to_ne_bytes());
        let event = OomEvent::decode(&bytes).unwrap();
        assert_eq!((event.cgroup.0, event.memory_cgroup_id, event.pid), (7, 8, 9));
        assert_eq!(event.memory_bytes, Some(2 * page_bytes()));
        assert_eq!(event.memory_bytes_limit, None);
        assert_eq!(event.at, Duration::from_nanos(5));
        assert_eq!(OomEvent::decode(&bytes[..40]), None);
    }
}
