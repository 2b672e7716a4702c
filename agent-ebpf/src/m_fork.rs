//! Processes made, and programs started, by registered cgroups.
use agent_ebpf_common::Stat;
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{Pointer, Task},
    maps::{FIGURES, count},
};

#[btf_tracepoint(function = "sched_process_fork")]
pub fn m_fork(ctx: BtfTracePointContext) -> i32 {
    let (parent, child) = (Task(Pointer::new(ctx.arg(0))), Task(Pointer::new(ctx.arg(1))));
    // A thread, not a process.
    if child.pid() != child.tgid() {
        return 0;
    }
    let Some(figures) = FIGURES.get_ptr_mut(parent.cgroup().id()) else {
        count(Stat::ForkOther, 1);
        return 0;
    };
    // SAFETY: the value belongs to this CPU, and the kernel doesn't run this program inside itself there.
    unsafe { (*figures).forks += 1 };
    count(Stat::ForkCounted, 1);
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn m_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task(Pointer::new(ctx.arg(0)));
    let Some(figures) = FIGURES.get_ptr_mut(task.cgroup().id()) else {
        count(Stat::ExecOther, 1);
        return 0;
    };
    // SAFETY: as above.
    unsafe { (*figures).execs += 1 };
    count(Stat::ExecCounted, 1);
    0
}
