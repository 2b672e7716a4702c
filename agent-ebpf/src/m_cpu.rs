//! Charges CPU time to registered cgroups.
//!
//! The scheduler reports at every tick and switch exactly what it charges to the cgroup's own `cpu.stat`,
//! so nothing needs flushing and no slice is in progress. The task is the argument, never `current`:
//! a report may be made from another CPU.
use agent_ebpf_common::Stat;
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{Pointer, Task},
    maps::{CPU_TIME, count},
};

#[btf_tracepoint(function = "sched_stat_runtime")]
pub fn m_cpu(ctx: BtfTracePointContext) -> i32 {
    let task = Task(Pointer::new(ctx.arg(0)));
    let runtime_ns: u64 = ctx.arg(1);

    let cgroup_id = task.cgroup().id();
    if let Some(total) = CPU_TIME.get_ptr_mut(cgroup_id) {
        // SAFETY: the value belongs to this CPU, where the run queue's lock keeps interrupts off.
        unsafe { *total += runtime_ns };
        count(Stat::CpuCharged, 1);
        return 0;
    }
    if cgroup_id == 0 {
        count(Stat::CpuLost, 1);
        return 0;
    }
    count(Stat::CpuOther, 1);
    count(Stat::CpuOtherNs, runtime_ns);
    0
}
