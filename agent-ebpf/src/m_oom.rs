//! Reports processes of registered cgroups that the kernel kills for memory, with the figures of that moment.
//!
//! What doesn't fit in the ring buffer is counted; it never blocks the killer.
use agent_ebpf_common::{OomRecord, Stat};
use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{Pointer, Task},
    maps::{CPU_TIME, OOM_EVENTS, count},
};

#[btf_tracepoint(function = "mark_victim")]
pub fn m_oom(ctx: BtfTracePointContext) -> i32 {
    let task = Task(Pointer::new(ctx.arg(0)));
    let cgroup_id = task.cgroup().id();
    if CPU_TIME.get_ptr(cgroup_id).is_none() {
        count(Stat::OomOther, 1);
        return 0;
    }

    let memory = task.memory();
    let record = OomRecord {
        cgroup_id,
        memory_cgroup_id: memory.cgroup().id(),
        memory_pages: memory.usage(),
        limit_pages: memory.limit(),
        // SAFETY: the helper takes nothing and only reads a clock.
        at_ns: unsafe { bpf_ktime_get_boot_ns() },
        tgid: task.tgid(),
        pid: task.pid(),
    };
    match OOM_EVENTS.output::<OomRecord>(&record, 0) {
        Ok(()) => count(Stat::OomReported, 1),
        Err(_full) => count(Stat::OomLost, 1),
    }
    0
}
