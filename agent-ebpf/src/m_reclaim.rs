//! Stalls of registered cgroups' threads that had to free memory before they got any.
//!
//! Two kinds: the machine is short of memory, or the thread's memory cgroup is. Both run in the thread that wants
//! the memory, so it is the current one.
use agent_ebpf_common::Stat;
use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_get_current_task_btf},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use crate::{
    kernel::{Pointer, Task},
    maps::{FIGURES, RECLAIMING, RECLAIMING_SLOTS, Stamp, add, count},
};

#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_begin")]
pub fn m_direct_in(_ctx: BtfTracePointContext) -> i32 {
    begin()
}

#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_end")]
pub fn m_direct_out(_ctx: BtfTracePointContext) -> i32 {
    end()
}

#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_begin")]
pub fn m_memcg_in(_ctx: BtfTracePointContext) -> i32 {
    begin()
}

#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_end")]
pub fn m_memcg_out(_ctx: BtfTracePointContext) -> i32 {
    end()
}

#[inline(always)]
fn current() -> Task {
    // SAFETY: the helper takes nothing; the current thread outlives this program.
    Task(Pointer::new(unsafe { bpf_get_current_task_btf() }.cast()))
}

#[inline(always)]
fn begin() -> i32 {
    let task = current();
    if FIGURES.get_ptr(task.cgroup().id()).is_none() {
        count(Stat::ReclaimOther, 1);
        return 0;
    }
    let pid = task.pid();
    let Some(slot) = RECLAIMING.get_ptr_mut(pid & (RECLAIMING_SLOTS - 1)) else { return 0 };
    // SAFETY: the helper takes nothing and only reads a clock.
    if Stamp::put(slot, pid, unsafe { bpf_ktime_get_ns() }) {
        count(Stat::ReclaimLost, 1);
    }
    count(Stat::ReclaimBegun, 1);
    0
}

#[inline(always)]
fn end() -> i32 {
    let task = current();
    let pid = task.pid();
    let Some(slot) = RECLAIMING.get_ptr_mut(pid & (RECLAIMING_SLOTS - 1)) else { return 0 };
    // SAFETY: as above.
    let Some(stalled_ns) = Stamp::take(slot, pid, unsafe { bpf_ktime_get_ns() }) else { return 0 };
    let Some(figures) = FIGURES.get_ptr_mut(task.cgroup().id()) else { return 0 };
    // SAFETY: the map's value lives as long as this program runs. Two programs add to these, each in one step.
    let (stalls, ns) = unsafe { (&raw mut (*figures).reclaim_stalls, &raw mut (*figures).reclaim_stall_ns) };
    add(stalls, 1);
    add(ns, stalled_ns);
    count(Stat::ReclaimCounted, 1);
    0
}
