//! The maps, and the counters for each verdict.
//!
//! Sizes given here are the smallest; the agent sets the real ones when it loads the object.
//! Keys are created by the agent alone, so that no task can fill a map by what it does.
use agent_ebpf_common::{BlockFigures, CgroupFigures, ExitRecord, PortRules, ProcessKey, StackCount, Stat};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};

/// Nanoseconds of CPU by v2 cgroup id. A key in here is what makes a cgroup *registered*.
#[map]
pub static CPU_TIME: PerCpuHashMap<u64, u64> = PerCpuHashMap::with_max_entries(1, 0);

/// Everything else that is counted, by v2 cgroup id; the same keys as `CPU_TIME`.
///
/// Large values, so memory is taken when the agent registers a cgroup, not for all that there could be.
#[map]
pub static FIGURES: PerCpuHashMap<u64, CgroupFigures> = PerCpuHashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Block requests by v2 cgroup id, where they are charged to it; the same keys again.
#[map]
pub static BLOCK: PerCpuHashMap<u64, BlockFigures> = PerCpuHashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Block requests by device.
#[map]
pub static DEVICES: PerCpuHashMap<u32, BlockFigures> = PerCpuHashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Since when a thread waits for a CPU, as a [`Stamp`] in the slot of its number.
#[map]
pub static QUEUED: Array<u64> = Array::with_max_entries(1, 0);

/// Since when a thread frees memory, likewise. Few do at the same time.
#[map]
pub static RECLAIMING: Array<u64> = Array::with_max_entries(RECLAIMING_SLOTS, 0);

/// A power of two; 32 KiB.
pub const RECLAIMING_SLOTS: u32 = 4096;

/// How registered processes ended.
#[map]
pub static EXITS: HashMap<ProcessKey, ExitRecord> = HashMap::with_max_entries(1, 0);

/// Victims of the OOM killer, on their way to the agent.
#[map]
pub static OOM_EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Which ports the tasks have declared, by v2 cgroup id; without an entry, every port is theirs.
#[map]
pub static PORT_RULES: HashMap<u64, PortRules> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Ports used that were not declared, on their way to the agent.
#[map]
pub static PORT_EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Stacks of the task that is profiled, on their way to the agent. Smallest in the copy that only counts.
#[map]
pub static STACKS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// How many of them were taken, and how many were lost because nobody read fast enough, as [`StackCount`].
#[map]
pub static STACK_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(StackCount::COUNT, 0);

/// Counters for each verdict, indexed by [`Stat`].
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Stat::COUNT, 0);

/// The ABI of these maps, and when the agent first filled them; for whoever finds the pins.
#[map]
pub static META: Array<u64> = Array::with_max_entries(2, 0);

/// Adds to a counter.
#[inline(always)]
pub fn count(stat: Stat, by: u64) {
    if let Some(slot) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: the slot belongs to this CPU, and these programs run with preemption or at least
        // migration disabled. An interrupt between load and store could lose one count, never more.
        unsafe { *slot += by };
    }
}

/// Adds in one step, for what an interrupt on this CPU may add to as well.
///
/// In assembly, because the target's atomic integers only load and store, and the kernel's word for it returns
/// nothing, which older verifiers know too.
#[inline(always)]
pub fn add(slot: *mut u64, by: u64) {
    // SAFETY: the slot is an aligned word of a map's value; nobody holds a reference to it.
    unsafe { core::arch::asm!("lock *(u64 *)({} + 0) += {}", in(reg) slot, in(reg) by) };
}

/// Which thread began something, and when: 22 bits of thread number, which is all that Linux gives out
/// (`PID_MAX_LIMIT`), above 42 bits of nanoseconds, which is over an hour. One word, so that it is never half written.
pub struct Stamp;

impl Stamp {
    const TIME_BITS: u32 = 42;
    const TIME: u64 = (1 << Self::TIME_BITS) - 1;

    /// Puts a begin into a slot; true when the begin of another thread was overwritten.
    #[inline(always)]
    pub fn put(slot: *mut u64, pid: u32, now: u64) -> bool {
        // SAFETY: the slot is a word of a map's value; other CPUs may read and write it as a whole.
        let old = unsafe { slot.read_volatile() };
        // SAFETY: as above.
        unsafe { slot.write_volatile(u64::from(pid) << Self::TIME_BITS | now & Self::TIME) };
        old != 0 && old >> Self::TIME_BITS != u64::from(pid)
    }

    /// Takes the thread's own begin out of a slot, and says how long ago it was.
    #[inline(always)]
    pub fn take(slot: *mut u64, pid: u32, now: u64) -> Option<u64> {
        // SAFETY: as above.
        let stamp = unsafe { slot.read_volatile() };
        if stamp == 0 || stamp >> Self::TIME_BITS != u64::from(pid) {
            return None;
        }
        // SAFETY: as above.
        unsafe { slot.write_volatile(0) };
        Some(now.wrapping_sub(stamp) & Self::TIME)
    }
}
