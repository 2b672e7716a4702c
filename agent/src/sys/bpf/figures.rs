//! What the programs counted for one cgroup or device, summed over CPUs.
use agent_ebpf_common::{BlockFigures, BlockOperations, Buckets, CgroupFigures, ThreadFigures, UNKNOWN};

/// What was counted for a cgroup. A part that nobody counts is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub run_queue: Option<RunQueue>,
    pub network: Option<Network>,
    pub connections: Option<Connections>,
    pub retransmits: Option<u64>,
    pub forks: Option<u64>,
    pub execs: Option<u64>,
    pub reclaim: Option<Reclaim>,
    /// Absent also where the kernel doesn't charge block requests to tasks' cgroups.
    pub block: Option<Block>,
    /// Of the threads that ended.
    pub ended: Option<Used>,
}

impl Counted {
    /// Both together; a part that one of them lacks is absent.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |one: Option<u64>, two: Option<u64>| one.zip(two).map(|(one, two)| one.saturating_add(two));
        Self {
            run_queue: self.run_queue.zip(other.run_queue).map(|(one, two)| RunQueue {
                waited_ns: one.waited_ns.saturating_add(two.waited_ns),
                waits: both(one.waits, &two.waits),
                switches_voluntary: one.switches_voluntary.saturating_add(two.switches_voluntary),
                switches_involuntary: one.switches_involuntary.saturating_add(two.switches_involuntary),
            }),
            network: self.network.zip(other.network).map(|(one, two)| Network {
                received_bytes: one.received_bytes.saturating_add(two.received_bytes),
                received_packets: one.received_packets.saturating_add(two.received_packets),
                sent_bytes: one.sent_bytes.saturating_add(two.sent_bytes),
                sent_packets: one.sent_packets.saturating_add(two.sent_packets),
            }),
            connections: self.connections.zip(other.connections).map(|(one, two)| Connections {
                opened: one.opened.saturating_add(two.opened),
                accepted: one.accepted.saturating_add(two.accepted),
                failed: one.failed.saturating_add(two.failed),
            }),
            retransmits: sum(self.retransmits, other.retransmits),
            forks: sum(self.forks, other.forks),
            execs: sum(self.execs, other.execs),
            reclaim: self.reclaim.zip(other.reclaim).map(|(one, two)| Reclaim {
                stalls: one.stalls.saturating_add(two.stalls),
                ns: one.ns.saturating_add(two.ns),
            }),
            block: self.block.zip(other.block).map(|(one, two)| Block {
                reads: one.reads.plus(&two.reads),
                writes: one.writes.plus(&two.writes),
            }),
            ended: self.ended.zip(other.ended).map(|(one, two)| one.plus(two)),
        }
    }
}

impl Operations {
    fn plus(self, other: &Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            bytes: self.bytes.saturating_add(other.bytes),
            ns: self.ns.saturating_add(other.ns),
            latency: both(self.latency, &other.latency),
        }
    }
}

fn both(mut sum: Buckets, more: &Buckets) -> Buckets {
    add_buckets(&mut sum, more);
    sum
}

/// Waits for a CPU, and ways off it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunQueue {
    pub waited_ns: u64,
    pub waits: Buckets,
    pub switches_voluntary: u64,
    pub switches_involuntary: u64,
}

/// Packets of sockets, as the IP layer sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub received_bytes: u64,
    pub received_packets: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
}

/// TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub opened: u64,
    pub accepted: u64,
    pub failed: u64,
}

/// Stalls in which a thread freed memory before it got any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaim {
    pub stalls: u64,
    pub ns: u64,
}

/// Finished requests of block devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub reads: Operations,
    pub writes: Operations,
}

/// Finished requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    pub count: u64,
    pub bytes: u64,
    pub ns: u64,
    pub latency: Buckets,
}

/// What threads have used, by the kernel's own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Absent on a kernel that keeps no account of I/O.
    pub io: Option<IoBytes>,
    pub faults_minor: u64,
    pub faults_major: u64,
}

/// Bytes that threads caused to be read from and written to block devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoBytes {
    pub read: u64,
    pub written: u64,
    /// What will never be written after all, because the file was cut before. It may be more than `written`: who
    /// cuts need not be who wrote.
    pub cancelled: u64,
}

impl Used {
    /// The larger of each figure.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let io = match (self.io, other.io) {
            (Some(one), Some(two)) => Some(IoBytes {
                read: one.read.max(two.read),
                written: one.written.max(two.written),
                cancelled: one.cancelled.max(two.cancelled),
            }),
            (one, two) => one.or(two),
        };
        Self {
            io,
            faults_minor: self.faults_minor.max(other.faults_minor),
            faults_major: self.faults_major.max(other.faults_major),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let io = self.io.zip(other.io).map(|(one, two)| IoBytes {
            read: one.read.saturating_add(two.read),
            written: one.written.saturating_add(two.written),
            cancelled: one.cancelled.saturating_add(two.cancelled),
        });
        Self {
            io,
            faults_minor: self.faults_minor.saturating_add(other.faults_minor),
            faults_major: self.faults_major.saturating_add(other.faults_major),
        }
    }

    /// Of all threads in a list.
    pub(super) fn of(threads: impl IntoIterator<Item = ThreadFigures>) -> Self {
        let mut sum = ThreadFigures::default();
        let mut is_io_known = true;
        for thread in threads {
            let ThreadFigures { read_bytes, write_bytes, cancelled_bytes, faults_minor, faults_major } =
                thread;
            is_io_known &= read_bytes != UNKNOWN;
            sum.read_bytes = sum.read_bytes.saturating_add(read_bytes);
            sum.write_bytes = sum.write_bytes.saturating_add(write_bytes);
            sum.cancelled_bytes = sum.cancelled_bytes.saturating_add(cancelled_bytes);
            sum.faults_minor = sum.faults_minor.saturating_add(faults_minor);
            sum.faults_major = sum.faults_major.saturating_add(faults_major);
        }
        let io = IoBytes { read: sum.read_bytes, written: sum.write_bytes, cancelled: sum.cancelled_bytes };
        Self { io: is_io_known.then_some(io), faults_minor: sum.faults_minor, faults_major: sum.faults_major }
    }
}

/// All that a cgroup's figures hold, whoever counts.
pub(super) fn of_cpus(cpus: &[CgroupFigures]) -> Counted {
    let sum = |field: fn(&CgroupFigures) -> u64| cpus.iter().map(field).sum();
    let mut waits = Buckets::default();
    cpus.iter().for_each(|cpu| add_buckets(&mut waits, &cpu.queued));
    Counted {
        run_queue: Some(RunQueue {
            waited_ns: sum(|cpu| cpu.queued_ns),
            waits,
            switches_voluntary: sum(|cpu| cpu.switches_voluntary),
            switches_involuntary: sum(|cpu| cpu.switches_involuntary),
        }),
        network: Some(Network {
            received_bytes: sum(|cpu| cpu.received_bytes),
            received_packets: sum(|cpu| cpu.received_packets),
            sent_bytes: sum(|cpu| cpu.sent_bytes),
            sent_packets: sum(|cpu| cpu.sent_packets),
        }),
        connections: Some(Connections {
            opened: sum(|cpu| cpu.connections_opened),
            accepted: sum(|cpu| cpu.connections_accepted),
            failed: sum(|cpu| cpu.connections_failed),
        }),
        retransmits: Some(sum(|cpu| cpu.retransmits)),
        forks: Some(sum(|cpu| cpu.forks)),
        execs: Some(sum(|cpu| cpu.execs)),
        reclaim: Some(Reclaim { stalls: sum(|cpu| cpu.reclaim_stalls), ns: sum(|cpu| cpu.reclaim_stall_ns) }),
        block: None,
        ended: Some(Used::of(cpus.iter().map(|cpu| cpu.ended))),
    }
}

pub(super) fn block_of_cpus(cpus: &[BlockFigures]) -> Block {
    let sum = |kind: fn(&BlockFigures) -> &BlockOperations| {
        cpus.iter().map(kind).fold(Operations::default(), |mut sum, cpu| {
            sum.count += cpu.operations;
            sum.bytes += cpu.bytes;
            sum.ns += cpu.ns;
            add_buckets(&mut sum.latency, &cpu.latency);
            sum
        })
    };
    Block { reads: sum(|cpu| &cpu.reads), writes: sum(|cpu| &cpu.writes) }
}

fn add_buckets(sum: &mut Buckets, more: &Buckets) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_groups_all_that_both_have_is_added() {
        let one = of_cpus(&[CgroupFigures { forks: 2, queued_ns: 5, ..CgroupFigures::default() }]);
        let two = of_cpus(&[CgroupFigures { forks: 3, queued_ns: 7, ..CgroupFigures::default() }]);
        let both = one.clone().plus(two);
        assert_eq!((both.forks, both.run_queue.map(|queue| queue.waited_ns)), (Some(5), Some(12)));
        assert_eq!(one.plus(Counted::default()), Counted::default());
    }

    #[test]
    fn an_unknown_part_makes_an_unknown_sum() {
        let writer = ThreadFigures { write_bytes: 10, faults_minor: 1, ..ThreadFigures::default() };
        let cutter = ThreadFigures { cancelled_bytes: 4, faults_minor: 2, ..ThreadFigures::default() };
        let used = Used::of([writer, cutter]);
        assert_eq!(used.io, Some(IoBytes { read: 0, written: 10, cancelled: 4 }));
        assert_eq!(used.faults_minor, 3);
        let unknown = ThreadFigures { read_bytes: UNKNOWN, ..ThreadFigures::default() };
        assert_eq!(Used::of([writer, unknown]).io, None);
        assert_eq!(used.plus(Used::of([unknown])).io, None);
        assert_eq!(used.plus(used).io, Some(IoBytes { read: 0, written: 20, cancelled: 8 }));
    }
}
