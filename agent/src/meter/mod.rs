//! What each live task uses, joined from the kernel programs and the cgroup files.
//!
//! CPU time and the walk over threads come from eBPF; throttling, limits and the working set from the files
//! that the caller reads. What neither can tell stays `None`: unavailable, never zero.
//! Start at [`Meter::sample`] for all tasks at once, and [`Meter::usage_now`] for the last reading of one.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::sys::{
    CgroupId, Figures,
    bpf::{BpfError, CgroupSnapshot, MemoryFigures, Programs, Snapshot},
};

/// What the kernel programs know of cgroups.
pub trait Counters: Send + Sync {
    /// CPU time used so far; `None` when nobody counts for this cgroup.
    fn cpu_ns(&self, cgroup: CgroupId) -> Result<Option<u64>, BpfError>;

    /// All threads of registered cgroups, now.
    fn snapshot(&self) -> Result<Snapshot, BpfError>;
}

impl Counters for Programs {
    fn cpu_ns(&self, cgroup: CgroupId) -> Result<Option<u64>, BpfError> {
        Self::cpu_ns(self, cgroup)
    }

    fn snapshot(&self) -> Result<Snapshot, BpfError> {
        Self::snapshot(self)
    }
}

/// A task to be measured, from when its command runs: before that, its first process may still be in the
/// agent's own memory group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its v2 cgroup.
    pub cgroup: CgroupId,
    /// Id of its memory cgroup, where the caller knows it: the inode number of its directory.
    pub memory_cgroup_id: Option<u64>,
}

/// What a task used since its start, or uses now. `None` is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Never less than what an earlier sample of the same task said.
    pub cpu_ns: Option<u64>,
    /// Time in which its quota held it back.
    pub cpu_throttled_ns: Option<u64>,
    /// Charged to it, page cache included.
    pub memory_bytes: Option<u64>,
    /// Without the page cache that could be dropped at once.
    pub memory_working_set_bytes: Option<u64>,
    pub memory_swap_bytes: Option<u64>,
    /// The most that was ever charged.
    pub memory_peak_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    /// Its processes that the kernel killed for memory.
    pub oom_kills: Option<u64>,
    pub processes: Option<u64>,
    pub threads: Option<u64>,
}

/// One round over all tasks.
#[derive(Debug, Default)]
pub struct Sample {
    /// In the order of the targets.
    pub usages: Vec<Usage>,
    /// What failed on the way; those figures are `None` in `usages`, or came from the cgroup files.
    pub errors: Vec<BpfError>,
}

/// Measures tasks, at a pace that it can afford.
pub struct Meter {
    counters: Option<Arc<dyn Counters>>,
    /// The most CPU time seen of each task: two sources may differ by a hair, and counters don't go back.
    cpu_seen: BTreeMap<CgroupId, u64>,
    last_took: Duration,
}

impl Meter {
    /// Shortest time between two samples.
    pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
    /// Longest: half a minute keeps the coordinator's picture useful.
    pub const INTERVAL_MAX: Duration = Duration::from_secs(30);
    /// A round may take this part of the time, so that measuring costs 1 % of a core at most.
    const SHARE: u32 = 100;

    /// A meter on the kernel programs, or on the cgroup files alone.
    pub fn new(counters: Option<Arc<dyn Counters>>) -> Self {
        Self { counters, cpu_seen: BTreeMap::new(), last_took: Duration::ZERO }
    }

    /// Measures all tasks. `read` reads the cgroup files of the target with this index.
    ///
    /// Forgets tasks that aren't among the targets any more.
    pub fn sample(&mut self, targets: &[Target], mut read: impl FnMut(usize) -> Figures) -> Sample {
        let started = Instant::now();
        let mut sample = Sample::default();
        let snapshot = match &self.counters {
            Some(counters) => counters.snapshot().map_err(|error| sample.errors.push(error)).ok(),
            None => None,
        };
        for (index, target) in targets.iter().enumerate() {
            let threads = snapshot.as_ref().map(|snapshot| {
                // A cgroup without a living thread isn't in the snapshot: it has none.
                snapshot.cgroups.get(&target.cgroup).cloned().unwrap_or_default()
            });
            let figures = read(index);
            let cpu_ns = self.cpu_ns(target.cgroup, &figures, &mut sample.errors);
            sample.usages.push(join(target, cpu_ns, threads.as_ref(), &figures));
        }
        let live: BTreeSet<CgroupId> = targets.iter().map(|target| target.cgroup).collect();
        self.cpu_seen.retain(|cgroup, _| live.contains(cgroup));
        self.last_took = started.elapsed();
        sample
    }

    /// The exact figures of one task now. For a task that has ended, call it when its cgroup is empty and before
    /// the cgroup is removed or unregistered.
    pub fn usage_now(&mut self, target: &Target, figures: &Figures) -> Result<Usage, BpfError> {
        let mut errors = Vec::new();
        let cpu_ns = self.cpu_ns(target.cgroup, figures, &mut errors);
        match errors.pop() {
            Some(error) => Err(error),
            None => Ok(join(target, cpu_ns, None, figures)),
        }
    }

    /// How long to wait before the next sample: longer as there are more threads and tasks to look at.
    pub fn interval(&self) -> Duration {
        self.last_took.saturating_mul(Self::SHARE).clamp(Self::INTERVAL_MIN, Self::INTERVAL_MAX)
    }

    fn cpu_ns(&mut self, cgroup: CgroupId, figures: &Figures, errors: &mut Vec<BpfError>) -> Option<u64> {
        let counted = match &self.counters {
            Some(counters) => counters.cpu_ns(cgroup).unwrap_or_else(|error| {
                errors.push(error);
                None
            }),
            None => None,
        };
        let now = counted.or(figures.cpu_usage_ns)?;
        let seen = self.cpu_seen.entry(cgroup).or_default();
        *seen = now.max(*seen);
        Some(*seen)
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("last_took", &self.last_took).finish_non_exhaustive()
    }
}

fn join(target: &Target, cpu_ns: Option<u64>, threads: Option<&CgroupSnapshot>, figures: &Figures) -> Usage {
    let memory = threads.and_then(|threads| memory_of(target, threads));
    let memory_bytes = memory.and_then(|memory| memory.usage_bytes).or(figures.memory_bytes);
    Usage {
        cpu_ns,
        cpu_throttled_ns: figures.cpu_throttled_ns,
        memory_bytes,
        // The file is read a little later than the snapshot; a part is never shown larger than its whole.
        memory_working_set_bytes: figures
            .memory_working_set_bytes
            .map(|part| memory_bytes.map_or(part, |whole| part.min(whole))),
        memory_swap_bytes: memory.and_then(|memory| memory.swap_bytes),
        memory_peak_bytes: figures.memory_peak_bytes,
        memory_limit_bytes: figures.memory_limit_bytes,
        oom_kills: figures.oom_kills,
        processes: threads.map(|threads| threads.processes.into()),
        threads: threads.map(|threads| threads.threads.into()).or(figures.processes),
    }
}

/// The figures of the task's own memory cgroup, if they can be told from those of another.
fn memory_of(target: &Target, threads: &CgroupSnapshot) -> Option<MemoryFigures> {
    match target.memory_cgroup_id {
        Some(id) => threads.memory.get(&id).copied(),
        None if threads.memory.len() == 1 => threads.memory.values().next().copied(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const TASK: Target = Target { cgroup: CgroupId(7), memory_cgroup_id: None };

    #[derive(Default)]
    struct Fake {
        cpu_ns: Mutex<Option<u64>>,
        snapshot: Mutex<Snapshot>,
    }

    impl Counters for Fake {
        fn cpu_ns(&self, _cgroup: CgroupId) -> Result<Option<u64>, BpfError> {
            Ok(*self.cpu_ns.lock().unwrap())
        }

        fn snapshot(&self) -> Result<Snapshot, BpfError> {
            Ok(self.snapshot.lock().unwrap().clone())
        }
    }

    fn threads(memory: &[(u64, u64)]) -> Snapshot {
        let figures = |usage| MemoryFigures { usage_bytes: Some(usage), swap_bytes: Some(1) };
        let memory = memory.iter().map(|(id, usage)| (*id, figures(*usage))).collect();
        let cgroup = CgroupSnapshot { processes: 2, threads: 3, memory, ..CgroupSnapshot::default() };
        Snapshot { cgroups: BTreeMap::from([(TASK.cgroup, cgroup)]), took: Duration::ZERO }
    }

    #[test]
    fn what_nobody_can_tell_is_unavailable() {
        let usage = Meter::new(None).sample(&[TASK], |_| Figures::default()).usages[0];
        assert_eq!(usage, Usage::default());
    }

    #[test]
    fn cpu_time_falls_back_to_the_file_and_never_goes_back() {
        let fake = Arc::new(Fake::default());
        let mut meter = Meter::new(Some(fake.clone()));
        let mut cpu_ns = |counted, cpu_usage_ns| {
            *fake.cpu_ns.lock().unwrap() = counted;
            meter.sample(&[TASK], |_| Figures { cpu_usage_ns, ..Figures::default() }).usages[0].cpu_ns
        };
        assert_eq!(cpu_ns(Some(100), Some(90)), Some(100));
        assert_eq!(cpu_ns(None, Some(99)), Some(100));
        assert_eq!(cpu_ns(None, Some(101)), Some(101));
        assert_eq!(cpu_ns(None, None), None);
    }

    #[test]
    fn memory_of_another_group_is_not_taken_for_the_tasks() {
        let fake = Arc::new(Fake::default());
        let mut meter = Meter::new(Some(fake.clone()));
        let mut memory = |target: Target, snapshot| {
            *fake.snapshot.lock().unwrap() = snapshot;
            let figures = Figures { memory_bytes: Some(5), ..Figures::default() };
            meter.sample(&[target], |_| figures).usages[0].memory_bytes
        };
        let known = Target { memory_cgroup_id: Some(70), ..TASK };
        assert_eq!(memory(TASK, threads(&[(70, 4096)])), Some(4096));
        assert_eq!(memory(TASK, threads(&[(70, 4096), (1, 9)])), Some(5));
        assert_eq!(memory(known, threads(&[(70, 4096), (1, 9)])), Some(4096));
        assert_eq!(memory(known, threads(&[(1, 9)])), Some(5));
    }

    #[test]
    fn a_task_without_threads_has_none() {
        let fake = Arc::new(Fake::default());
        let usage = Meter::new(Some(fake)).sample(&[TASK], |_| Figures::default()).usages[0];
        assert_eq!((usage.processes, usage.threads, usage.memory_bytes), (Some(0), Some(0), None));
    }

    #[test]
    fn the_pace_slows_down_as_rounds_take_longer() {
        let mut meter = Meter::new(None);
        let mut interval = |millis| {
            meter.last_took = Duration::from_millis(millis);
            meter.interval()
        };
        assert_eq!(interval(1), Duration::from_secs(1));
        assert_eq!(interval(50), Duration::from_secs(5));
        assert_eq!(interval(5000), Duration::from_secs(30));
    }
}
