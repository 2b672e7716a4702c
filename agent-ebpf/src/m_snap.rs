//! Walks all threads and writes one record for each that runs in a registered cgroup.
//!
//! The agent reads them as a file and sums up by cgroup. Only `iter/task` can be reached from here, so the
//! memory of a cgroup is found through its threads: an empty cgroup is not seen, and has no process to use it.
use agent_ebpf_common::{Stat, ThreadRecord};
use aya_ebpf::helpers::generated::bpf_seq_write;

use crate::{
    kernel::{Pointer, Task},
    maps::{CPU_TIME, count},
};

/// `bpf_iter__task`: what the kernel passes for each thread, and once at the end with a null task.
#[repr(C)]
pub struct IterTask {
    meta: *const IterMeta,
    task: *const u8,
}

/// The start of `bpf_iter_meta`.
#[repr(C)]
struct IterMeta {
    seq: *mut core::ffi::c_void,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn m_snap(ctx: *const IterTask) -> i32 {
    // SAFETY: the context of an `iter/task` program begins with these two pointers.
    let (meta, task) = unsafe { ((*ctx).meta, (*ctx).task) };
    let task = Task(Pointer::new(task));
    // One on its way out is left to `m_exit`, which keeps what it used: never counted twice.
    if task.0.is_null() || task.is_exiting() {
        return 0;
    }
    let cgroup = task.cgroup();
    let cgroup_id = cgroup.id();
    if CPU_TIME.get_ptr(cgroup_id).is_none() {
        count(Stat::SnapOther, 1);
        return 0;
    }

    let memory = task.memory();
    let memory_pages = memory.usage();
    let record = ThreadRecord {
        cgroup_id,
        memory_cgroup_id: memory.cgroup().id(),
        memory_pages,
        swap_pages: memory.swap(memory_pages, cgroup),
        figures: task.figures(),
        tgid: task.tgid(),
        pid: task.pid(),
    };
    // SAFETY: the kernel gave us this file, and the record is on our stack with the length stated.
    let written =
        unsafe { bpf_seq_write((*meta).seq.cast(), (&raw const record).cast(), size_of_val(&record) as u32) };
    if written == 0 {
        count(Stat::SnapWritten, 1);
        return 0;
    }
    // The buffer is full. The kernel drops the partial record, and shows us this thread again in a new one.
    count(Stat::SnapRetried, 1);
    0
}
