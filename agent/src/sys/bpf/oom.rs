//! Victims of the OOM killer, as they come.
use std::{fmt, io, time::Duration};

use agent_ebpf_common::{OomRecord, UNKNOWN};
use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

use super::page_bytes;
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

/// Reads victims from the kernel's ring buffer, without waiting.
pub struct OomEvents {
    ring: RingBuf<MapData>,
}

impl OomEvents {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// The next victim, if one is there.
    pub fn take(&mut self) -> Option<OomEvent> {
        take(&mut self.ring)
    }

    /// The same, to be awaited. Must be called on a tokio runtime.
    pub fn stream(self) -> io::Result<OomStream> {
        // SAFETY: the ring owns its map's descriptor, gives no other, and keeps it open until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(self.ring, Interest::READABLE) }?;
        Ok(OomStream { ring })
    }
}

/// Waits for victims.
pub struct OomStream {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl OomStream {
    /// The next victim. May be dropped while it waits: no event is lost.
    pub async fn next(&mut self) -> io::Result<OomEvent> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            if let Some(event) = take(ready.get_inner_mut()) {
                return Ok(event);
            }
            // Empty. What comes between the look and this line makes the descriptor ready anew.
            ready.clear_ready();
        }
    }
}

impl fmt::Debug for OomEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OomEvents").finish_non_exhaustive()
    }
}

impl fmt::Debug for OomStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OomStream").finish_non_exhaustive()
    }
}

fn take(ring: &mut RingBuf<MapData>) -> Option<OomEvent> {
    loop {
        let item = ring.next()?;
        // A record of another length comes from no program of ours; pass it over.
        if let Some(event) = decode(&item) {
            return Some(event);
        }
    }
}

fn decode(bytes: &[u8]) -> Option<OomEvent> {
    let mut words = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes);
    if bytes.len() != size_of::<OomRecord>() {
        return None;
    }
    let page = page_bytes();
    // A limit of *none* is so many pages that their bytes don't fit.
    let bytes_of = |pages: u64| (pages != UNKNOWN).then(|| pages.saturating_mul(page));
    let mut next = || words.next();
    Some(OomEvent {
        cgroup: CgroupId(next()?),
        memory_cgroup_id: next()?,
        memory_bytes: bytes_of(next()?),
        memory_bytes_limit: bytes_of(next()?),
        at: Duration::from_nanos(next()?),
        pid: u32::from_ne_bytes(bytes.get(40..44)?.try_into().ok()?),
    })
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
        let event = decode(&bytes).unwrap();
        assert_eq!((event.cgroup.0, event.memory_cgroup_id, event.pid), (7, 8, 9));
        assert_eq!(event.memory_bytes, Some(2 * page_bytes()));
        assert_eq!(event.memory_bytes_limit, None);
        assert_eq!(event.at, Duration::from_nanos(5));
        assert_eq!(decode(&bytes[..40]), None);
    }
}
