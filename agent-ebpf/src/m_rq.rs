//! How long runnable threads of registered cgroups wait for a CPU, and how they leave it.
//!
//! A wait begins when a thread is woken, made, or taken off the CPU while it could go on; it ends when it is put on
//! one. A wait that a CPU limit causes is included. The begin stands in a table with a slot for each thread number,
//! so that nothing is ever inserted here; two threads that share a slot and wait at the same time lose one wait,
//! which is counted. Threads of others cost a look into the table of cgroups.
use agent_ebpf_common::{CgroupFigures, QUEUED_SLOTS, Stat, bucket_of};
use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{Pointer, Task},
    maps::{FIGURES, QUEUED, Stamp, count},
};

#[btf_tracepoint(function = "sched_wakeup")]
pub fn m_wakeup(ctx: BtfTracePointContext) -> i32 {
    woken(Task(Pointer::new(ctx.arg(0))))
}

#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn m_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    woken(Task(Pointer::new(ctx.arg(0))))
}

#[btf_tracepoint(function = "sched_switch")]
pub fn m_switch(ctx: BtfTracePointContext) -> i32 {
    let is_preempted = ctx.arg::<u64>(0) & 0xff != 0;
    let (from, to) = (Task(Pointer::new(ctx.arg(1))), Task(Pointer::new(ctx.arg(2))));
    let state: u32 = ctx.arg(3);
    // SAFETY: the helper takes nothing and only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    arrives(to, now);
    leaves(from, is_preempted || state == 0, now);
    0
}

#[inline(always)]
fn woken(task: Task) -> i32 {
    if FIGURES.get_ptr(task.cgroup().id()).is_none() {
        count(Stat::QueueOther, 1);
        return 0;
    }
    // SAFETY: the helper takes nothing and only reads a clock.
    begin(task.pid(), unsafe { bpf_ktime_get_ns() });
    0
}

/// A thread leaves the CPU.
#[inline(always)]
fn leaves(task: Task, could_go_on: bool, now: u64) {
    let pid = task.pid();
    // The idle thread, which leaves whenever anyone else comes.
    if pid == 0 {
        return;
    }
    let Some(figures) = FIGURES.get_ptr_mut(task.cgroup().id()) else {
        count(Stat::SwitchOther, 1);
        return;
    };
    count(Stat::SwitchCounted, 1);
    // SAFETY: the value belongs to this CPU, where the run queue's lock keeps interrupts off.
    let figures: &mut CgroupFigures = unsafe { &mut *figures };
    if could_go_on {
        figures.switches_involuntary += 1;
        begin(pid, now);
    } else {
        figures.switches_voluntary += 1;
    }
}

/// A thread is put on the CPU.
#[inline(always)]
fn arrives(task: Task, now: u64) {
    let pid = task.pid();
    let Some(slot) = QUEUED.get_ptr_mut(pid & (QUEUED_SLOTS - 1)) else { return };
    let Some(waited_ns) = Stamp::take(slot, pid, now) else { return };
    let Some(figures) = FIGURES.get_ptr_mut(task.cgroup().id()) else { return };
    // SAFETY: as above.
    let figures: &mut CgroupFigures = unsafe { &mut *figures };
    figures.queued_ns += waited_ns;
    if let Some(bucket) = figures.queued.get_mut(bucket_of(waited_ns)) {
        *bucket += 1;
    }
}

#[inline(always)]
fn begin(pid: u32, now: u64) {
    let Some(slot) = QUEUED.get_ptr_mut(pid & (QUEUED_SLOTS - 1)) else { return };
    if Stamp::put(slot, pid, now) {
        count(Stat::QueueLost, 1);
    }
    count(Stat::QueueEntered, 1);
}
