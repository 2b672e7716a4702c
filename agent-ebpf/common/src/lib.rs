//! What crosses the line between the agent and its kernel programs.
//!
//! Map keys and values, event records, and the table of kernel struct offsets: plain `repr(C)` data
//! without padding, each size asserted below. No logic lives here.
//! Whoever changes a layout or a meaning raises [`ABI`]; the agent then loads its programs anew.
#![no_std]

/// The version of everything in this file. Pinned maps of another version are never read as this one.
pub const ABI: u64 = 2;

/// The oldest version whose registrations ([`ProcessKey`], [`ExitRecord`], CPU time by cgroup) are still laid out
/// as they are today, so that a newer agent takes them over.
pub const ABI_SAME_REGISTRATIONS: u64 = 1;

/// A figure that the kernel program couldn't read. Never confused with zero.
pub const UNKNOWN: u64 = u64::MAX;

/// The offset of a field that this kernel doesn't have, where programs can do without.
pub const ABSENT: u32 = u32::MAX;

/// Nanoseconds in one tick of `/proc/PID/stat`, where the start time of a process is given in
/// hundredths of a second on every architecture (`USER_HZ`, `include/asm-generic/param.h`).
pub const TICK_NS: u64 = 10_000_000;

/// Size of a memory page as the kernel's page counters count them; the agent multiplies by the real one.
pub type Pages = u64;

/// Which process, for as long as the machine is up: pids are reused, pids with a start time are not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Always zero.
    pub reserved: u32,
    /// Start of the group's leader since boot, in ticks of [`TICK_NS`], as in `/proc/PID/stat` field 22.
    pub start_ticks: u64,
}

/// How a registered process ended, once it has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitRecord {
    /// Zero while the process lives; then [`ExitRecord::ENDED`] with the wait status in the low half.
    pub ended: u64,
    /// When its last thread died, in nanoseconds since boot. Written before `ended`.
    pub ended_at_ns: u64,
}

impl ExitRecord {
    /// Set in `ended` when the process is dead.
    pub const ENDED: u64 = 1 << 32;
}

/// What ports a cgroup may use, and what it was told of already.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// Not zero: a bind to another port fails.
    pub refuses: u64,
    /// First and last; the first range of zeros is the end.
    pub declared: [[u16; 2]; PORT_RANGES_MAX],
    /// A bit for each port, which some share: whether the agent has been told.
    pub told: [u64; PortRules::TOLD_WORDS],
}

/// Ranges of ports that a rule can hold.
pub const PORT_RANGES_MAX: usize = 64;

impl PortRules {
    pub const TOLD_WORDS: usize = 64;
}

/// A port that was used and not declared.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRecord {
    pub cgroup_id: u64,
    pub port: u16,
    /// As in `/etc/protocols`.
    pub protocol: u8,
    /// A [`PortHow`].
    pub how: u8,
    /// Always zero.
    pub reserved: u32,
}

/// How it was used.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortHow {
    /// Bound, and it was let go on.
    Bound,
    /// It was to be bound, and that was refused.
    Refused,
    /// The kernel chose the port, and the task listens there.
    Listens,
}

const _: () = {
    assert!(size_of::<PortRules>() == 8 + 4 * PORT_RANGES_MAX + 8 * PortRules::TOLD_WORDS);
    assert!(size_of::<PortRecord>() == 16);
};

/// Frames of a stack that are kept, from the innermost; the kernel's own default is no more
/// (`kernel.perf_event_max_stack`).
pub const STACK_FRAMES_MAX: usize = 127;

/// Where a thread of a profiled task was.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StackRecord {
    /// Its process, in the initial pid namespace.
    pub tgid: u32,
    /// How much of `kernel` was written, or a negative number: it was not in the kernel, or can't be told.
    pub kernel_bytes: i32,
    /// The same of `user`.
    pub user_bytes: i32,
    /// Always zero.
    pub reserved: u32,
    /// Addresses, from the innermost. What was not written holds anything.
    pub kernel: [u64; STACK_FRAMES_MAX],
    pub user: [u64; STACK_FRAMES_MAX],
}

/// Indices of the profiler's counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackCount {
    Taken,
    Lost,
}

impl StackCount {
    pub const COUNT: u32 = 2;
}

const _: () = assert!(size_of::<StackRecord>() == 2048);

/// Slots for threads that wait for a CPU, a power of two: 256 KiB. No two threads share one up to the kernel's own
/// default of 32 768 thread numbers; beyond that few do that wait at the same time.
pub const QUEUED_SLOTS: u32 = 1 << 15;

/// How many events took how long: bucket 0 holds what took less than 1024 ns, each further one what took less than
/// twice as long, the last one all the rest.
pub type Buckets = [u64; BUCKETS];

/// Buckets of a histogram; the last one begins at 17 s.
pub const BUCKETS: usize = 26;

/// The bucket that holds a duration.
#[inline(always)]
pub fn bucket_of(ns: u64) -> usize {
    let bits = u64::BITS - (ns >> 10).leading_zeros();
    if bits as usize >= BUCKETS { BUCKETS - 1 } else { bits as usize }
}

/// What the programs count for a registered cgroup, on one CPU.
///
/// Each field has one program that writes it, which the kernel never runs inside itself on one CPU, or is added to
/// atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupFigures {
    /// Time that runnable threads waited for a CPU.
    pub queued_ns: u64,
    /// Threads left the CPU because they waited for something.
    pub switches_voluntary: u64,
    /// Threads left the CPU though they could have gone on.
    pub switches_involuntary: u64,
    /// Processes made by it; threads aren't counted.
    pub forks: u64,
    pub execs: u64,
    /// How often a thread had to free memory itself before it got any.
    pub reclaim_stalls: u64,
    pub reclaim_stall_ns: u64,
    /// Bytes of IP packets that its sockets received.
    pub received_bytes: u64,
    pub received_packets: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// TCP connections: opened by it, opened to it, and not come about.
    pub connections_opened: u64,
    pub connections_accepted: u64,
    pub connections_failed: u64,
    /// What its threads that ended had used.
    pub ended: ThreadFigures,
    /// How long each wait for a CPU was.
    pub queued: Buckets,
}

/// What a thread has used since its start, by the kernel's own account.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadFigures {
    /// Bytes that it caused to be read from block devices.
    pub read_bytes: u64,
    /// Bytes that it caused to be written to block devices, sooner or later.
    pub write_bytes: u64,
    /// Of those, bytes that never will be: the file was cut before.
    pub cancelled_bytes: u64,
    pub faults_minor: u64,
    pub faults_major: u64,
}

/// Finished requests of a block device or of a cgroup, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockFigures {
    pub reads: BlockOperations,
    pub writes: BlockOperations,
}

/// Finished requests of one kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockOperations {
    pub operations: u64,
    pub bytes: u64,
    /// From the moment when the request was made until it was done, added up.
    pub ns: u64,
    pub latency: Buckets,
}

/// One thread, as the snapshot saw it, with the memory of its whole memory cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadRecord {
    /// Id of its v2 cgroup.
    pub cgroup_id: u64,
    /// Id of its memory cgroup: the same number on v2, one of another hierarchy on v1.
    pub memory_cgroup_id: u64,
    /// Pages charged to the memory cgroup, or [`UNKNOWN`].
    pub memory_pages: Pages,
    /// Swapped-out pages charged to it, or [`UNKNOWN`].
    pub swap_pages: Pages,
    /// What the thread itself has used.
    pub figures: ThreadFigures,
    pub tgid: u32,
    pub pid: u32,
}

/// A process of a registered cgroup that the kernel chose to kill for memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OomRecord {
    pub cgroup_id: u64,
    pub memory_cgroup_id: u64,
    /// Pages charged to the victim's memory cgroup at that moment, or [`UNKNOWN`].
    pub memory_pages: Pages,
    /// Its limit in pages, or [`UNKNOWN`].
    pub limit_pages: Pages,
    /// Nanoseconds since boot.
    pub at_ns: u64,
    pub tgid: u32,
    pub pid: u32,
}

/// Where the fields that the programs read lie in this kernel's structs, in bytes; from its BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub task_pid: u32,
    pub task_tgid: u32,
    pub task_group_leader: u32,
    pub task_start_boottime: u32,
    pub task_exit_code: u32,
    pub task_signal: u32,
    pub task_cgroups: u32,
    pub task_flags: u32,
    pub task_faults_minor: u32,
    pub task_faults_major: u32,
    /// Of fields of the `ioac` inside `task_struct`.
    pub task_read_bytes: u32,
    pub task_write_bytes: u32,
    pub task_cancelled_bytes: u32,
    pub signal_live: u32,
    pub signal_flags: u32,
    pub signal_group_exit_code: u32,
    pub css_set_dfl_cgrp: u32,
    /// Of the memory controller's entry in `css_set.subsys`.
    pub css_set_memory: u32,
    pub css_cgroup: u32,
    pub cgroup_kn: u32,
    pub cgroup_root: u32,
    pub kernfs_node_id: u32,
    /// From the `css` embedded in `mem_cgroup` to the usage of its page counters.
    pub css_to_memory_usage: u32,
    pub css_to_memory_limit: u32,
    /// One counter under two names: swap on v2, memory and swap together on v1.
    pub css_to_swap_usage: u32,
    /// One when `sched_process_exit` says itself whether the group is dead, else zero.
    pub exit_says_group_dead: u32,
    /// Of the pointer to its cgroup, inside `sock`.
    pub sock_cgroup: u32,
    /// One when `tcp_retransmit_skb` also tells of segments that it then couldn't send, else zero.
    pub retransmit_says_error: u32,
    pub request_queue: u32,
    pub request_flags: u32,
    pub request_bytes: u32,
    pub request_start_ns: u32,
    pub request_bio: u32,
    pub queue_disk: u32,
    pub disk_major: u32,
    pub disk_minor: u32,
    pub bio_group: u32,
    pub block_group_owner: u32,
    /// Of the pointer to its cgroup, inside `blkcg`.
    pub block_owner_cgroup: u32,
    /// One when a block request's cgroup is the task's v2 cgroup, else zero.
    pub block_is_unified: u32,
    pub sock_port: u32,
}

/// What the programs count, one slot each in the `STATS` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stat {
    /// Runtime reports charged to a registered cgroup.
    CpuCharged,
    /// Runtime reports of cgroups that nobody registered.
    CpuOther,
    /// Nanoseconds in those: the *other* slot.
    CpuOtherNs,
    /// Runtime reports whose cgroup couldn't be read; their time is in no slot.
    CpuLost,
    /// Exits recorded.
    ExitRecorded,
    /// Exits of processes that nobody registered.
    ExitOther,
    /// OOM victims reported.
    OomReported,
    /// OOM victims of cgroups that nobody registered.
    OomOther,
    /// OOM victims that didn't fit in the ring buffer.
    OomLost,
    /// Threads written to a snapshot.
    SnapWritten,
    /// Threads of cgroups that nobody registered.
    SnapOther,
    /// Threads that the kernel refused to take into a snapshot's buffer at first; it asks again.
    SnapRetried,
    /// Threads whose figures were kept when they ended.
    ThreadKept,
    /// Threads of registered cgroups that began to wait for a CPU.
    QueueEntered,
    /// Threads of other cgroups that did.
    QueueOther,
    /// Waits that can't be told, because another thread's took the slot.
    QueueLost,
    /// Switches away from threads of registered cgroups.
    SwitchCounted,
    /// Switches away from others.
    SwitchOther,
    /// Packets of registered cgroups, and of others.
    ReceivedCounted,
    ReceivedOther,
    SentCounted,
    SentOther,
    /// Segments sent again by registered cgroups, and by others.
    RetransmitCounted,
    RetransmitOther,
    /// Changes of a connection's state in registered cgroups, and elsewhere.
    ConnectionCounted,
    ConnectionOther,
    /// Block requests of devices that the agent knows, and of others.
    BlockCounted,
    BlockOther,
    /// Block requests of which the kernel kept no time; their latency is in no bucket.
    BlockUntimed,
    ForkCounted,
    ForkOther,
    ExecCounted,
    ExecOther,
    /// Stalls of registered cgroups that began, that ended, and those of others.
    ReclaimBegun,
    ReclaimCounted,
    ReclaimOther,
    /// Stalls whose time can't be told, because another thread's took the slot.
    ReclaimLost,
    /// Uses of ports by cgroups with rules, and by others.
    PortJudged,
    PortOther,
    /// Uses of ports not declared that didn't fit in the ring buffer.
    PortLost,
}

impl Stat {
    /// How many there are.
    pub const COUNT: u32 = Self::PortLost as u32 + 1;
}

const _: () = {
    assert!(size_of::<ProcessKey>() == 16);
    assert!(size_of::<ExitRecord>() == 16);
    assert!(size_of::<ThreadFigures>() == 5 * 8);
    assert!(size_of::<ThreadRecord>() == 40 + 5 * 8);
    assert!(size_of::<CgroupFigures>() == (15 + 5 + BUCKETS) * 8);
    assert!(size_of::<BlockFigures>() == 2 * (3 + BUCKETS) * 8);
    assert!(size_of::<OomRecord>() == 48);
    assert!(size_of::<Offsets>() == 41 * 4);
};

#[cfg(feature = "user")]
mod user {
    use super::{
        BlockFigures, CgroupFigures, ExitRecord, Offsets, OomRecord, PortRules, ProcessKey, ThreadRecord,
    };

    // SAFETY: `repr(C)`, integers only, and the sizes asserted above leave no room for padding.
    unsafe impl aya::Pod for ProcessKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ExitRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ThreadRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for OomRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Offsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for CgroupFigures {}
    // SAFETY: as above.
    unsafe impl aya::Pod for BlockFigures {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PortRules {}
}
