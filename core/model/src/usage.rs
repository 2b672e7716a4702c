//! What a task, or a whole host, was measured to use.
//!
//! A figure that nobody could tell is absent, never zero. Rates are for readers: here counters only grow.
//! Start at [`Usage`]; what there is to measure is listed once, in [`Figure`].

use crate::{Duration, TaskId, Timestamp};

/// Whose use it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The agent's machine as a whole.
    Host,
    Task(TaskId),
}

/// One measurable thing.
///
/// The numbers cross the wire and are never used again for anything else; they are those of the fields of
/// `muster.types.v1.Usage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Figure {
    /// CPU time since the start.
    CpuNs = 2,
    /// Time during which the CPU limit held threads back.
    CpuThrottledNs = 3,
    /// Memory charged now, of all kinds.
    MemoryBytes = 4,
    /// Memory charged less the file cache that may be dropped at once.
    MemoryWorkingSetBytes = 5,
    MemoryLimitBytes = 6,
    /// Processes that the kernel killed for want of memory.
    OomKills = 7,
    /// Processes now, without their threads.
    Processes = 8,

    CpuUserNs = 9,
    CpuSystemNs = 10,
    /// Enforcement periods of the CPU limit in which something ran.
    CpuPeriods = 11,
    /// Those in which the limit held something back.
    CpuPeriodsThrottled = 12,
    /// Time that runnable threads waited for a CPU, added up over threads.
    RunQueueNs = 13,
    /// Threads left the CPU because they had to wait for something.
    SwitchesVoluntary = 14,
    /// Threads left the CPU because another's turn had come.
    SwitchesInvoluntary = 15,

    MemoryAnonBytes = 16,
    /// The file cache.
    MemoryFileBytes = 17,
    /// Of the file cache: tmpfs and shared memory.
    MemoryShmemBytes = 18,
    /// Charged for the kernel's own structures.
    MemoryKernelBytes = 19,
    MemorySwapBytes = 20,
    /// The most that was ever charged.
    MemoryPeakBytes = 21,
    FaultsMinor = 22,
    /// Page faults that had to wait for a disk.
    FaultsMajor = 23,
    /// How often a thread had to free memory itself before it got any.
    ReclaimStalls = 24,
    ReclaimStallNs = 25,

    /// Time in which some thread wanted a CPU and had none. *Full* is time in which all did.
    PressureCpuSomeUs = 26,
    PressureCpuFullUs = 27,
    PressureMemorySomeUs = 28,
    PressureMemoryFullUs = 29,
    PressureIoSomeUs = 30,
    PressureIoFullUs = 31,

    BlockReadBytes = 32,
    BlockWriteBytes = 33,
    BlockReadOperations = 34,
    BlockWriteOperations = 35,
    /// Time from issue to completion, added up over operations.
    BlockNs = 36,

    NetworkReceivedBytes = 37,
    NetworkSentBytes = 38,
    NetworkReceivedPackets = 39,
    NetworkSentPackets = 40,
    /// TCP segments sent again.
    NetworkRetransmits = 41,
    /// TCP connections that it opened and the other side accepted.
    ConnectionsOpened = 42,
    /// TCP connections that others opened to it.
    ConnectionsAccepted = 43,
    /// TCP connections that it wanted to open and could not.
    ConnectionsFailed = 44,

    /// Threads now, the first of each process included.
    Threads = 45,
    /// Processes started, threads not counted.
    Forks = 46,
    Execs = 47,

    /// Load average over a minute, in thousandths; of hosts alone.
    LoadMilli = 48,
}

/// How a figure moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Is as large as it is at that moment.
    Gauge,
}

impl Figure {
    /// In the order of their numbers.
    pub const ALL: [Self; 47] = [
        Self::CpuNs,
        Self::CpuThrottledNs,
        Self::MemoryBytes,
        Self::MemoryWorkingSetBytes,
        Self::MemoryLimitBytes,
        Self::OomKills,
        Self::Processes,
        Self::CpuUserNs,
        Self::CpuSystemNs,
        Self::CpuPeriods,
        Self::CpuPeriodsThrottled,
        Self::RunQueueNs,
        Self::SwitchesVoluntary,
        Self::SwitchesInvoluntary,
        Self::MemoryAnonBytes,
        Self::MemoryFileBytes,
        Self::MemoryShmemBytes,
        Self::MemoryKernelBytes,
        Self::MemorySwapBytes,
        Self::MemoryPeakBytes,
        Self::FaultsMinor,
        Self::FaultsMajor,
        Self::ReclaimStalls,
        Self::ReclaimStallNs,
        Self::PressureCpuSomeUs,
        Self::PressureCpuFullUs,
        Self::PressureMemorySomeUs,
        Self::PressureMemoryFullUs,
        Self::PressureIoSomeUs,
        Self::PressureIoFullUs,
        Self::BlockReadBytes,
        Self::BlockWriteBytes,
        Self::BlockReadOperations,
        Self::BlockWriteOperations,
        Self::BlockNs,
        Self::NetworkReceivedBytes,
        Self::NetworkSentBytes,
        Self::NetworkReceivedPackets,
        Self::NetworkSentPackets,
        Self::NetworkRetransmits,
        Self::ConnectionsOpened,
        Self::ConnectionsAccepted,
        Self::ConnectionsFailed,
        Self::Threads,
        Self::Forks,
        Self::Execs,
        Self::LoadMilli,
    ];

    /// Its number on the wire: from 2 to 63.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The figure with this number; `None` for one that only a newer program knows.
    pub fn of_number(number: u8) -> Option<Self> {
        // The numbers have no holes, and a test keeps it so.
        Self::ALL.get(usize::from(number.checked_sub(Self::CpuNs as u8)?)).copied()
    }

    pub const fn kind(self) -> Kind {
        match self {
            Self::MemoryBytes
            | Self::MemoryWorkingSetBytes
            | Self::MemoryLimitBytes
            | Self::MemoryAnonBytes
            | Self::MemoryFileBytes
            | Self::MemoryShmemBytes
            | Self::MemoryKernelBytes
            | Self::MemorySwapBytes
            | Self::MemoryPeakBytes
            | Self::Processes
            | Self::Threads
            | Self::LoadMilli => Kind::Gauge,
            Self::CpuNs
            | Self::CpuThrottledNs
            | Self::OomKills
            | Self::CpuUserNs
            | Self::CpuSystemNs
            | Self::CpuPeriods
            | Self::CpuPeriodsThrottled
            | Self::RunQueueNs
            | Self::SwitchesVoluntary
            | Self::SwitchesInvoluntary
            | Self::FaultsMinor
            | Self::FaultsMajor
            | Self::ReclaimStalls
            | Self::ReclaimStallNs
            | Self::PressureCpuSomeUs
            | Self::PressureCpuFullUs
            | Self::PressureMemorySomeUs
            | Self::PressureMemoryFullUs
            | Self::PressureIoSomeUs
            | Self::PressureIoFullUs
            | Self::BlockReadBytes
            | Self::BlockWriteBytes
            | Self::BlockReadOperations
            | Self::BlockWriteOperations
            | Self::BlockNs
            | Self::NetworkReceivedBytes
            | Self::NetworkSentBytes
            | Self::NetworkReceivedPackets
            | Self::NetworkSentPackets
            | Self::NetworkRetransmits
            | Self::ConnectionsOpened
            | Self::ConnectionsAccepted
            | Self::ConnectionsFailed
            | Self::Forks
            | Self::Execs => Kind::Counter,
        }
    }

    /// Whether its value when nothing runs any more is the one to remember.
    pub const fn is_final_at_the_end(self) -> bool {
        matches!(self.kind(), Kind::Counter) || matches!(self, Self::MemoryPeakBytes)
    }

    const fn bit(self) -> u64 {
        1 << self.number()
    }
}

/// Figures of one moment. What is not set was not available.
///
/// Holds what is there and nothing for what is not: the agreed state keeps one for each task that ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// When they were measured.
    pub at: Timestamp,
    /// How long runnable threads waited for a CPU.
    pub run_queue_latency: Option<Histogram>,
    /// How long block I/O took, from issue to completion.
    pub block_latency: Option<Histogram>,
    /// One bit for each figure that is there.
    present: u64,
    /// Those figures, in the order of their numbers.
    values: Vec<u64>,
}

impl Usage {
    /// Nothing is known yet.
    pub fn new(at: Timestamp) -> Self {
        Self { at, ..Self::default() }
    }

    pub fn get(&self, figure: Figure) -> Option<u64> {
        if self.present & figure.bit() == 0 {
            return None;
        }
        self.values.get(self.place(figure)).copied()
    }

    /// Sets a figure, or says that it is not available.
    pub fn set(&mut self, figure: Figure, value: Option<u64>) {
        let place = self.place(figure);
        let is_there = self.present & figure.bit() != 0;
        match value {
            Some(value) => match self.values.get_mut(place) {
                Some(old) if is_there => *old = value,
                _ => {
                    self.present |= figure.bit();
                    self.values.insert(place, value);
                }
            },
            None if is_there => {
                self.present &= !figure.bit();
                self.values.remove(place);
            }
            None => {}
        }
    }

    /// Adds to a figure, round the end of the numbers if need be; one that is not there counts as zero.
    pub fn add(&mut self, figure: Figure, by: i64) {
        self.set(figure, Some(self.get(figure).unwrap_or(0).wrapping_add_signed(by)));
    }

    /// The same with this figure.
    #[must_use]
    pub fn with(mut self, figure: Figure, value: impl Into<Option<u64>>) -> Self {
        self.set(figure, value.into());
        self
    }

    /// All figures that are there, in the order of their numbers.
    pub fn figures(&self) -> impl Iterator<Item = (Figure, u64)> {
        Figure::ALL
            .into_iter()
            .filter(|figure| self.present & figure.bit() != 0)
            .zip(self.values.iter().copied())
    }

    /// The same with only these figures, and without histograms.
    #[must_use]
    pub fn only(&self, is_wanted: impl Fn(Figure) -> bool) -> Self {
        let mut part = Self::new(self.at);
        for (figure, value) in self.figures().filter(|(figure, _)| is_wanted(*figure)) {
            part.present |= figure.bit();
            part.values.push(value);
        }
        part
    }

    fn place(&self, figure: Figure) -> usize {
        (self.present & (figure.bit() - 1)).count_ones() as usize
    }
}

/// How many events took how long, in buckets of doubling length.
///
/// Bucket 0 holds what took less than 1 024 ns, bucket `i` what took less than twice as long as bucket
/// `i - 1` holds, the last one all the rest: from 17 s on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Without zeros at the end.
    counts: Vec<u64>,
}

impl Histogram {
    pub const BUCKETS: usize = 26;
    /// The first bucket ends at two to this.
    const FIRST_BITS: u32 = 10;

    /// From counts of buckets, beginning with the shortest; what is beyond the last bucket goes into it.
    pub fn of_counts(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = Self::default();
        for (bucket, count) in counts.into_iter().enumerate() {
            histogram.add(bucket, count);
        }
        histogram
    }

    /// The bucket that holds this duration.
    pub fn bucket_of(ns: u64) -> usize {
        let bits = u64::BITS - ns.leading_zeros();
        (bits.saturating_sub(Self::FIRST_BITS) as usize).min(Self::BUCKETS - 1)
    }

    /// What everything in the bucket is shorter than; `None` for the last, which has no end.
    pub fn end_of(bucket: usize) -> Option<Duration> {
        (bucket + 1 < Self::BUCKETS)
            .then(|| Duration::from_nanos(1_u64 << (bucket + Self::FIRST_BITS as usize)))
    }

    /// Counts events into a bucket, or into the last if there is no such bucket.
    pub fn add(&mut self, bucket: usize, events: u64) {
        if events == 0 {
            return;
        }
        let bucket = bucket.min(Self::BUCKETS - 1);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(events);
        }
    }

    /// Counts of the buckets, beginning with the shortest, without the zeros at the end.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// What happened since an earlier look at the same events.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        Self::of_counts(self.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(before)))
    }

    /// The bucket that holds the event which so many thousandths of all are not longer than.
    pub fn quantile(&self, thousandths: u64) -> Option<usize> {
        let wanted = (u128::from(self.total()) * u128::from(thousandths)).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen >= wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_in_order_without_holes() {
        for (index, figure) in Figure::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(figure.number()), index + 2);
            assert_eq!(Figure::of_number(figure.number()), Some(figure));
        }
        assert_eq!(Figure::of_number(1), None);
        assert_eq!(Figure::of_number(Figure::ALL.len() as u8 + 2), None);
    }

    proptest! {
        #[test]
        fn what_was_set_last_is_there(
            steps in proptest::collection::vec((0..Figure::ALL.len(), proptest::option::of(any::<u64>())), 0..80),
        ) {
            let mut usage = Usage::default();
            let mut model = std::collections::BTreeMap::new();
            for (index, value) in steps {
                let figure = Figure::ALL[index];
                usage.set(figure, value);
                match value {
                    Some(value) => model.insert(figure, value),
                    None => model.remove(&figure),
                };
                for figure in Figure::ALL {
                    prop_assert_eq!(usage.get(figure), model.get(&figure).copied());
                }
                prop_assert!(usage.figures().eq(model.iter().map(|(figure, value)| (*figure, *value))));
            }
            prop_assert_eq!(usage.only(|_| true), usage);
        }

        #[test]
        fn a_duration_is_in_the_bucket_that_holds_it(ns: u64) {
            let bucket = Histogram::bucket_of(ns);
            let nanos = |bucket| Histogram::end_of(bucket).map_or(u128::MAX, |end| end.as_nanos());
            let ns = u128::from(ns);
            prop_assert!(ns < nanos(bucket) || bucket + 1 == Histogram::BUCKETS);
            prop_assert!(bucket == 0 || ns >= nanos(bucket - 1));
        }

        #[test]
        fn what_was_added_is_the_difference(
            before in proptest::collection::vec(0_u64..1000, 0..40),
            after in proptest::collection::vec(0_u64..1000, 0..40),
        ) {
            let before = Histogram::of_counts(before);
            let after = Histogram::of_counts(after);
            let mut both = before.clone();
            after.counts().iter().enumerate().for_each(|(bucket, count)| both.add(bucket, *count));
            prop_assert_eq!(both.since(&before), after);
        }
    }

    #[test]
    fn quantiles_are_buckets() {
        let histogram = Histogram::of_counts([90, 0, 9, 1]);
        assert_eq!(histogram.quantile(500), Some(0));
        assert_eq!(histogram.quantile(990), Some(2));
        assert_eq!(histogram.quantile(1000), Some(3));
        assert_eq!(Histogram::default().quantile(500), None);
    }
}
