//! Keeps what ends: the exit status of registered processes, and what threads of registered cgroups had used.
//!
//! Fires for every thread, also while no agent runs. Only the last one of a registered process leaves a record, of
//! the status that `wait` would give its parent (`wait_task_zombie` in the kernel's `exit.c`).
use agent_ebpf_common::{ExitRecord, ProcessKey, Stat, TICK_NS, ThreadFigures, UNKNOWN};
use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{Pointer, Task, exit_says_group_dead},
    maps::{EXITS, FIGURES, count},
};

#[btf_tracepoint(function = "sched_process_exit")]
pub fn m_exit(ctx: BtfTracePointContext) -> i32 {
    let task = Task(Pointer::new(ctx.arg(0)));
    keep_figures(task);
    let signal = task.signal();

    // Two threads that die together may both see the count at zero. They record the same status.
    let is_group_dead =
        if exit_says_group_dead() { ctx.arg::<u64>(1) & 0xff != 0 } else { signal.live() == 0 };
    if !is_group_dead {
        return 0;
    }

    let leader = task.leader();
    let key =
        ProcessKey { tgid: task.tgid(), reserved: 0, start_ticks: leader.start_boottime_ns() / TICK_NS };
    let Some(record) = EXITS.get_ptr_mut(key) else {
        count(Stat::ExitOther, 1);
        return 0;
    };
    // Both are read in any case: see `Pointer::read` for what branches would make of it.
    let (of_group, of_leader) = (signal.group_exit_code(), leader.exit_code());
    let status = if signal.has_group_exit() { of_group } else { of_leader };
    // SAFETY: the record is ours to write. The agent copies it from low to high addresses, so one that
    // shows `ended` shows the time too.
    unsafe {
        core::ptr::write_volatile(&raw mut (*record).ended_at_ns, bpf_ktime_get_boot_ns());
        core::ptr::write_volatile(&raw mut (*record).ended, ExitRecord::ENDED | u64::from(status));
    }
    count(Stat::ExitRecorded, 1);
    0
}

/// Adds what the thread has used to what its cgroup's ended threads have.
#[inline(always)]
fn keep_figures(task: Task) {
    let Some(kept) = FIGURES.get_ptr_mut(task.cgroup().id()) else { return };
    let used = task.figures();
    // SAFETY: the value belongs to this CPU, and the kernel doesn't run this program inside itself there.
    let kept: &mut ThreadFigures = unsafe { &mut (*kept).ended };
    if used.read_bytes == UNKNOWN {
        kept.read_bytes = UNKNOWN;
    } else {
        kept.read_bytes += used.read_bytes;
        kept.write_bytes += used.write_bytes;
        kept.cancelled_bytes += used.cancelled_bytes;
    }
    kept.faults_minor += used.faults_minor;
    kept.faults_major += used.faults_major;
    count(Stat::ThreadKept, 1);
}
