//! What crosses the line between the agent and its kernel programs.
//!
//! Map keys and values, event records, and the table of kernel struct offsets: plain `repr(C)` data
//! without padding, each size asserted below. No logic lives here.
//! Whoever changes a layout or a meaning raises [`ABI`]; the agent then loads its programs anew.
#![no_std]

/// The version of everything in this file. Pinned maps of another version are never read as this one.
pub const ABI: u64 = 1;

/// A figure that the kernel program couldn't read. Never confused with zero.
pub const UNKNOWN: u64 = u64::MAX;

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
    pub task_exit_state: u32,
    pub task_exit_code: u32,
    pub task_signal: u32,
    pub task_cgroups: u32,
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
    /// Always zero.
    pub reserved: u32,
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
}

impl Stat {
    /// How many there are.
    pub const COUNT: u32 = Self::SnapRetried as u32 + 1;
}

const _: () = {
    assert!(size_of::<ProcessKey>() == 16);
    assert!(size_of::<ExitRecord>() == 16);
    assert!(size_of::<ThreadRecord>() == 40);
    assert!(size_of::<OomRecord>() == 48);
    assert!(size_of::<Offsets>() == 22 * 4);
};

#[cfg(feature = "user")]
mod user {
    use super::{ExitRecord, Offsets, OomRecord, ProcessKey, ThreadRecord};

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
}
