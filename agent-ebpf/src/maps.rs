//! The maps, and the counters for each verdict.
//!
//! Sizes given here are the smallest; the agent sets the real ones when it loads the object.
//! Keys are created by the agent alone, so that no task can fill a map by what it does.
use agent_ebpf_common::{ExitRecord, ProcessKey, Stat};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};

/// Nanoseconds of CPU by v2 cgroup id. A key in here is what makes a cgroup *registered*.
#[map]
pub static CPU_TIME: PerCpuHashMap<u64, u64> = PerCpuHashMap::with_max_entries(1, 0);

/// How registered processes ended.
#[map]
pub static EXITS: HashMap<ProcessKey, ExitRecord> = HashMap::with_max_entries(1, 0);

/// Victims of the OOM killer, on their way to the agent.
#[map]
pub static OOM_EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

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
