//! What each live task uses, joined from the kernel programs and the cgroup files.
//!
//! What the kernel programs count and what the walk over threads finds is joined with the files that the caller
//! reads. What none of them can tell is absent: unavailable, never zero.
//! Start at [`Meter::sample`] for all tasks at once, and [`last_usage`] for the last reading of one.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use model::{Figure, Histogram, Timestamp, Usage};

use crate::sys::{
    CgroupId, Figures, Pressure,
    bpf::{
        Block, BpfError, CgroupSnapshot, Connections, Counted, MemoryFigures, Network, Programs, RunQueue,
        Snapshot, Used,
    },
};

pub use watch::{Cost, Found, Watch};

mod watch;

/// What the kernel programs know of cgroups.
pub trait Counters: Send + Sync {
    /// CPU time used so far; `None` when nobody counts for this cgroup.
    fn cpu_ns(&self, cgroup: CgroupId) -> Result<Option<u64>, BpfError>;

    /// Everything else that was counted so far; nothing when nobody counts for this cgroup.
    fn counted(&self, cgroup: CgroupId) -> Result<Counted, BpfError>;

    /// All threads of registered cgroups, now.
    fn snapshot(&self) -> Result<Snapshot, BpfError>;
}

impl Counters for Programs {
    fn cpu_ns(&self, cgroup: CgroupId) -> Result<Option<u64>, BpfError> {
        Self::cpu_ns(self, cgroup)
    }

    fn counted(&self, cgroup: CgroupId) -> Result<Counted, BpfError> {
        Ok(Self::counted(self, cgroup)?.unwrap_or_default())
    }

    fn snapshot(&self) -> Result<Snapshot, BpfError> {
        Self::snapshot(self)
    }
}

/// A task to be measured, from when its command runs: before that, its first process may still be in the
/// agent's own memory group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its v2 cgroup.
    pub cgroup: CgroupId,
    /// Those inside it, of a task group on a host with v2 controllers.
    pub members: Vec<CgroupId>,
    /// Id of its memory cgroup, where the caller knows it: the inode number of its directory.
    pub memory_cgroup_id: Option<u64>,
}

/// What the cgroup files say of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub figures: Figures,
    pub pressure: Pressure,
}

/// One round over all tasks.
#[derive(Debug, Default)]
pub struct Sample {
    /// In the order of the targets.
    pub usages: Vec<Usage>,
    /// What failed on the way; those figures are `None` in `usages`, or came from the cgroup files.
    pub errors: Vec<BpfError>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    cpu_ns: u64,
    used: Used,
}

/// Measures tasks, at a pace that it can afford.
pub struct Meter {
    counters: Option<Arc<dyn Counters>>,
    /// The most seen of each task: two sources may differ by a hair, and counters don't go back.
    seen: BTreeMap<CgroupId, Seen>,
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
        Self { counters, seen: BTreeMap::new(), last_took: Duration::ZERO }
    }

    /// Measures all tasks. `read` reads the cgroup files of the target with this index.
    ///
    /// Forgets tasks that aren't among the targets any more.
    pub fn sample(
        &mut self,
        at: Timestamp,
        targets: &[Target],
        mut read: impl FnMut(usize) -> Files,
    ) -> Sample {
        let started = Instant::now();
        let mut sample = Sample::default();
        let snapshot = match &self.counters {
            Some(counters) => counters.snapshot().map_err(|error| sample.errors.push(error)).ok(),
            None => None,
        };
        for (index, target) in targets.iter().enumerate() {
            let threads = snapshot.as_ref().map(|snapshot| {
                // A cgroup without a living thread isn't in the snapshot: it has none.
                let of = |cgroup| snapshot.cgroups.get(cgroup).cloned().unwrap_or_default();
                target.members.iter().fold(of(&target.cgroup), |sum, member| sum.plus(&of(member)))
            });
            let files = read(index);
            let cpu_ns = self.cpu_ns(target, &files.figures, &mut sample.errors);
            let counted = self.counted(target, &mut sample.errors);
            let used = threads.as_ref().zip(counted.ended).map(|(threads, ended)| {
                // A cgroup without threads has used nothing beside what ended ones had.
                let used = if threads.threads == 0 { ended } else { threads.used.plus(ended) };
                let seen = self.seen.entry(target.cgroup).or_default();
                seen.used = seen.used.max(used);
                seen.used
            });
            sample.usages.push(join(
                at,
                target,
                &Parts { cpu_ns, threads: threads.as_ref(), counted: &counted, used, files: &files },
            ));
        }
        let live: BTreeSet<CgroupId> = targets.iter().map(|target| target.cgroup).collect();
        self.seen.retain(|cgroup, _| live.contains(cgroup));
        self.last_took = started.elapsed();
        sample
    }

    /// How long to wait before the next sample: longer as there are more threads and tasks to look at.
    pub fn interval(&self) -> Duration {
        self.last_took.saturating_mul(Self::SHARE).clamp(Self::INTERVAL_MIN, Self::INTERVAL_MAX)
    }

    fn cpu_ns(&mut self, target: &Target, figures: &Figures, errors: &mut Vec<BpfError>) -> Option<u64> {
        let cgroup = target.cgroup;
        let mut of = |cgroup| match &self.counters {
            Some(counters) => counters.cpu_ns(cgroup).unwrap_or_else(|error| {
                errors.push(error);
                None
            }),
            None => None,
        };
        let counted = target.members.iter().fold(of(cgroup), |sum, member| Some(sum? + of(*member)?));
        let now = counted.or(figures.cpu_usage_ns)?;
        let seen = self.seen.entry(cgroup).or_default();
        seen.cpu_ns = seen.cpu_ns.max(now);
        Some(seen.cpu_ns)
    }

    fn counted(&self, target: &Target, errors: &mut Vec<BpfError>) -> Counted {
        let mut of = |cgroup| {
            let counted = self.counters.as_ref().map(|counters| counters.counted(cgroup));
            counted
                .transpose()
                .unwrap_or_else(|error| {
                    errors.push(error);
                    None
                })
                .unwrap_or_default()
        };
        target.members.iter().fold(of(target.cgroup), |sum, member| sum.plus(of(*member)))
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("last_took", &self.last_took).finish_non_exhaustive()
    }
}

/// What a task has used in the end, given what was counted for it and what its cgroup files say.
///
/// Call it when its cgroup is empty, and before the cgroup is removed or unregistered.
pub fn last_usage(at: Timestamp, cpu_ns: Option<u64>, counted: &Counted, figures: Figures) -> Usage {
    let files = Files { figures, pressure: Pressure::default() };
    // Of threads that live nothing is known here, and a part is no figure.
    let used = counted.ended.filter(|_| figures.processes == Some(0));
    let cpu_ns = cpu_ns.or(figures.cpu_usage_ns);
    let nobody = Target { cgroup: CgroupId(0), members: Vec::new(), memory_cgroup_id: None };
    join(at, &nobody, &Parts { cpu_ns, threads: None, counted, used, files: &files })
}

/// Where the figures of one task come from.
struct Parts<'a> {
    cpu_ns: Option<u64>,
    threads: Option<&'a CgroupSnapshot>,
    counted: &'a Counted,
    /// By all its threads, living and ended.
    used: Option<Used>,
    files: &'a Files,
}

fn join(at: Timestamp, target: &Target, parts: &Parts<'_>) -> Usage {
    let Parts { cpu_ns, threads, counted, used, files: Files { figures, pressure } } = parts;
    let memory = threads.and_then(|threads| memory_of(target, threads));
    let memory_bytes = memory.and_then(|memory| memory.usage_bytes).or(figures.memory_bytes);
    // The file is read a little later than the snapshot; a part is never shown larger than its whole.
    let part = |part: Option<u64>| part.map(|part| memory_bytes.map_or(part, |whole| part.min(whole)));
    let mut usage = Usage::new(at)
        .with(Figure::CpuNs, *cpu_ns)
        .with(Figure::CpuUserNs, figures.cpu_user_ns)
        .with(Figure::CpuSystemNs, figures.cpu_system_ns)
        .with(Figure::CpuThrottledNs, figures.cpu_throttled_ns)
        .with(Figure::CpuPeriods, figures.cpu_periods)
        .with(Figure::CpuPeriodsThrottled, figures.cpu_periods_throttled)
        .with(Figure::MemoryBytes, memory_bytes)
        .with(Figure::MemoryWorkingSetBytes, part(figures.memory_working_set_bytes))
        .with(Figure::MemorySwapBytes, memory.and_then(|memory| memory.swap_bytes))
        .with(Figure::MemoryPeakBytes, figures.memory_peak_bytes)
        .with(Figure::MemoryLimitBytes, figures.memory_limit_bytes)
        .with(Figure::MemoryAnonBytes, part(figures.memory_anon_bytes))
        .with(Figure::MemoryFileBytes, part(figures.memory_file_bytes))
        .with(Figure::MemoryShmemBytes, part(figures.memory_shmem_bytes))
        .with(Figure::MemoryKernelBytes, part(figures.memory_kernel_bytes))
        .with(Figure::OomKills, figures.oom_kills)
        .with(Figure::Processes, threads.map(|threads| threads.processes.into()))
        .with(Figure::Threads, threads.map(|threads| threads.threads.into()).or(figures.processes));
    for (stalled, some, full) in [
        (pressure.cpu, Figure::PressureCpuSomeUs, Figure::PressureCpuFullUs),
        (pressure.memory, Figure::PressureMemorySomeUs, Figure::PressureMemoryFullUs),
        (pressure.io, Figure::PressureIoSomeUs, Figure::PressureIoFullUs),
    ] {
        usage.set(some, stalled.map(|stalled| stalled.some_us));
        usage.set(full, stalled.and_then(|stalled| stalled.full_us));
    }
    if let Some(used) = used {
        usage.set(Figure::FaultsMinor, Some(used.faults_minor));
        usage.set(Figure::FaultsMajor, Some(used.faults_major));
        usage.set(Figure::BlockReadBytes, used.io.map(|io| io.read));
        usage.set(Figure::BlockWriteBytes, used.io.map(|io| io.written.saturating_sub(io.cancelled)));
    }
    add_counted(&mut usage, counted);
    usage
}

fn add_counted(usage: &mut Usage, counted: &Counted) {
    let Counted { run_queue, network, connections, retransmits, forks, execs, reclaim, block, ended: _ } =
        counted;
    if let Some(RunQueue { waited_ns, waits, switches_voluntary, switches_involuntary }) = run_queue {
        usage.set(Figure::RunQueueNs, Some(*waited_ns));
        usage.set(Figure::SwitchesVoluntary, Some(*switches_voluntary));
        usage.set(Figure::SwitchesInvoluntary, Some(*switches_involuntary));
        usage.run_queue_latency = Some(Histogram::of_counts(*waits));
    }
    if let Some(Network { received_bytes, received_packets, sent_bytes, sent_packets }) = network {
        usage.set(Figure::NetworkReceivedBytes, Some(*received_bytes));
        usage.set(Figure::NetworkReceivedPackets, Some(*received_packets));
        usage.set(Figure::NetworkSentBytes, Some(*sent_bytes));
        usage.set(Figure::NetworkSentPackets, Some(*sent_packets));
    }
    if let Some(Connections { opened, accepted, failed }) = connections {
        usage.set(Figure::ConnectionsOpened, Some(*opened));
        usage.set(Figure::ConnectionsAccepted, Some(*accepted));
        usage.set(Figure::ConnectionsFailed, Some(*failed));
    }
    usage.set(Figure::NetworkRetransmits, *retransmits);
    usage.set(Figure::Forks, *forks);
    usage.set(Figure::Execs, *execs);
    usage.set(Figure::ReclaimStalls, reclaim.map(|reclaim| reclaim.stalls));
    usage.set(Figure::ReclaimStallNs, reclaim.map(|reclaim| reclaim.ns));
    if let Some(Block { reads, writes }) = block {
        usage.set(Figure::BlockReadOperations, Some(reads.count));
        usage.set(Figure::BlockWriteOperations, Some(writes.count));
        usage.set(Figure::BlockNs, Some(reads.ns.saturating_add(writes.ns)));
        let both = reads.latency.iter().zip(writes.latency).map(|(read, write)| read.saturating_add(write));
        usage.block_latency = Some(Histogram::of_counts(both));
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

    const TASK: Target = Target { cgroup: CgroupId(7), members: Vec::new(), memory_cgroup_id: None };

    const AT: Timestamp = Timestamp(5);

    #[derive(Default)]
    struct Fake {
        cpu_ns: Mutex<Option<u64>>,
        counted: Mutex<Counted>,
        snapshot: Mutex<Snapshot>,
    }

    impl Counters for Fake {
        fn cpu_ns(&self, _cgroup: CgroupId) -> Result<Option<u64>, BpfError> {
            Ok(*self.cpu_ns.lock().unwrap())
        }

        fn counted(&self, _cgroup: CgroupId) -> Result<Counted, BpfError> {
            Ok(self.counted.lock().unwrap().clone())
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
        let usages = Meter::new(None).sample(AT, &[TASK], |_| Files::default()).usages;
        assert_eq!(usages, [Usage::new(AT)]);
    }

    #[test]
    fn cpu_time_falls_back_to_the_file_and_never_goes_back() {
        let fake = Arc::new(Fake::default());
        let mut meter = Meter::new(Some(fake.clone()));
        let mut cpu_ns = |counted, cpu_usage_ns| {
            *fake.cpu_ns.lock().unwrap() = counted;
            let figures = Figures { cpu_usage_ns, ..Figures::default() };
            let files = Files { figures, ..Files::default() };
            meter.sample(AT, &[TASK], |_| files).usages[0].get(Figure::CpuNs)
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
            let files = Files { figures, ..Files::default() };
            meter.sample(AT, &[target], |_| files).usages[0].get(Figure::MemoryBytes)
        };
        let known = Target { memory_cgroup_id: Some(70), ..TASK };
        assert_eq!(memory(TASK, threads(&[(70, 4096)])), Some(4096));
        assert_eq!(memory(TASK, threads(&[(70, 4096), (1, 9)])), Some(5));
        assert_eq!(memory(known.clone(), threads(&[(70, 4096), (1, 9)])), Some(4096));
        assert_eq!(memory(known, threads(&[(1, 9)])), Some(5));
    }

    #[test]
    fn a_task_without_threads_has_none() {
        let fake = Arc::new(Fake::default());
        let sample = Meter::new(Some(fake)).sample(AT, &[TASK], |_| Files::default());
        let figures = [Figure::Processes, Figure::Threads, Figure::MemoryBytes];
        assert_eq!(figures.map(|figure| sample.usages[0].get(figure)), [Some(0), Some(0), None]);
    }

    #[test]
    fn the_living_and_the_dead_are_added_and_a_dip_between_them_is_not_shown() {
        let fake = Arc::new(Fake::default());
        let mut meter = Meter::new(Some(fake.clone()));
        let faults = |faults_minor| Used { faults_minor, ..Used::default() };
        let mut seen = |living, dead| {
            let mut snapshot = threads(&[]);
            snapshot.cgroups.values_mut().for_each(|cgroup| cgroup.used = faults(living));
            *fake.snapshot.lock().unwrap() = snapshot;
            *fake.counted.lock().unwrap() = Counted { ended: Some(faults(dead)), ..Counted::default() };
            meter.sample(AT, &[TASK], |_| Files::default()).usages[0].get(Figure::FaultsMinor)
        };
        assert_eq!(seen(10, 5), Some(15));
        // A thread on its way out is in neither for a moment.
        assert_eq!(seen(3, 5), Some(15));
        assert_eq!(seen(3, 12), Some(15));
        assert_eq!(seen(4, 12), Some(16));
    }

    #[test]
    fn of_a_task_that_still_runs_no_last_figure_is_told_that_needs_its_threads() {
        let counted = Counted {
            ended: Some(Used { faults_minor: 3, ..Used::default() }),
            forks: Some(2),
            ..Counted::default()
        };
        let last = |processes| {
            let figures = Figures { processes: Some(processes), ..Figures::default() };
            let usage = last_usage(AT, None, &counted, figures);
            (usage.get(Figure::FaultsMinor), usage.get(Figure::Forks))
        };
        assert_eq!(last(0), (Some(3), Some(2)));
        assert_eq!(last(1), (None, Some(2)));
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
