//! All threads of registered cgroups at one moment, summed up by cgroup.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

use agent_ebpf_common::{ThreadFigures, ThreadRecord, UNKNOWN};
use aya::programs::{
    iter::IterLink,
    links::{FdLink, LinkError, PinnedLink},
};

use crate::sys::CgroupId;

use super::{BpfError, Program, Used, page_bytes};

/// What one walk over all threads found.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By v2 cgroup id. A registered cgroup without a living thread isn't here.
    pub cgroups: BTreeMap<CgroupId, CgroupSnapshot>,
    /// How long the walk took.
    pub took: Duration,
}

/// A registered cgroup that has living threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupSnapshot {
    pub processes: u32,
    pub threads: u32,
    /// By memory cgroup id. There is one, unless a thread is on its way from one memory group to another.
    pub memory: BTreeMap<u64, MemoryFigures>,
    /// By these threads since each one's start.
    pub used: Used,
}

impl CgroupSnapshot {
    /// Of two groups.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.used = match (self.threads, other.threads) {
            (0, _) => other.used,
            (_, 0) => self.used,
            _ => self.used.plus(other.used),
        };
        self.processes += other.processes;
        self.threads += other.threads;
        self.memory.extend(&other.memory);
        self
    }
}

/// What is charged to a memory cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFigures {
    /// Memory, page cache included.
    pub usage_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
}

/// Walks all threads through a pinned link of the program.
pub(super) fn take(link: &Path) -> Result<Snapshot, BpfError> {
    let started = Instant::now();
    let mut file =
        open(link).map_err(|source| BpfError::Link { program: Program::Snap, source: Box::new(source) })?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|source| BpfError::Snapshot { source })?;
    Ok(Snapshot { cgroups: sum_up(&bytes), took: started.elapsed() })
}

fn open(link: &Path) -> Result<File, LinkError> {
    IterLink::try_from(FdLink::from(PinnedLink::from_pin(link)?))?.into_file()
}

pub(in crate::sys) fn sum_up(bytes: &[u8]) -> BTreeMap<CgroupId, CgroupSnapshot> {
    let page = page_bytes();
    let bytes_of = |pages: u64| (pages != UNKNOWN).then(|| pages.saturating_mul(page));
    let mut cgroups: BTreeMap<CgroupId, CgroupSnapshot> = BTreeMap::new();
    let mut processes = BTreeSet::new();
    for record in bytes.chunks_exact(size_of::<ThreadRecord>()).filter_map(decode) {
        let used = Used::of([record.figures]);
        let cgroup = cgroups.entry(CgroupId(record.cgroup_id)).or_default();
        cgroup.used = if cgroup.threads == 0 { used } else { cgroup.used.plus(used) };
        cgroup.threads += 1;
        if processes.insert((record.cgroup_id, record.tgid)) {
            cgroup.processes += 1;
        }
        let figures = MemoryFigures {
            usage_bytes: bytes_of(record.memory_pages),
            swap_bytes: bytes_of(record.swap_pages),
        };
        // Threads of one cgroup are seen one after the other; the last reading is the freshest.
        cgroup.memory.insert(record.memory_cgroup_id, figures);
    }
    cgroups
}

fn decode(bytes: &[u8]) -> Option<ThreadRecord> {
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(ThreadRecord {
        cgroup_id: long(0)?,
        memory_cgroup_id: long(8)?,
        memory_pages: long(16)?,
        swap_pages: long(24)?,
        figures: ThreadFigures {
            read_bytes: long(32)?,
            write_bytes: long(40)?,
            cancelled_bytes: long(48)?,
            faults_minor: long(56)?,
            faults_major: long(64)?,
        },
        tgid: word(72)?,
        pid: word(76)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::bpf::IoBytes;

    #[test]
    fn threads_are_summed_up_by_cgroup() {
        let thread = |cgroup_id: u64, pages: u64, tgid: u32, pid: u32| {
            let longs = [cgroup_id, 90 + cgroup_id, pages, UNKNOWN, 10, 20, 5, 2, 1];
            let mut bytes: Vec<u8> = longs.iter().flat_map(|long| long.to_ne_bytes()).collect();
            bytes.extend(tgid.to_ne_bytes());
            bytes.extend(pid.to_ne_bytes());
            bytes
        };
        let bytes =
            [thread(1, 2, 10, 10), thread(1, 3, 10, 11), thread(2, 4, 20, 20), thread(1, 5, 30, 30)].concat();
        let cgroups = sum_up(&bytes);

        assert_eq!((cgroups[&CgroupId(1)].processes, cgroups[&CgroupId(1)].threads), (2, 3));
        assert_eq!((cgroups[&CgroupId(2)].processes, cgroups[&CgroupId(2)].threads), (1, 1));
        let io = IoBytes { read: 30, written: 60, cancelled: 15 };
        assert_eq!(cgroups[&CgroupId(1)].used, Used { io: Some(io), faults_minor: 6, faults_major: 3 });
        let page = page_bytes();
        assert_eq!(
            cgroups[&CgroupId(1)].memory,
            BTreeMap::from([(91, MemoryFigures { usage_bytes: Some(5 * page), swap_bytes: None })])
        );
    }
}
