//! Where the threads of one task are, at each tick of a clock on each CPU.
//!
//! Loaded on its own for one profile and gone with it. What runs elsewhere than in the task's cgroup, or in one
//! below it, costs the walk up its ancestors. User stacks are found by frame pointers, which is all that the kernel
//! can follow: code built without them shows its innermost frame and little else.
use core::ffi::c_int;

use agent_ebpf_common::{StackCount, StackRecord};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_USER_STACK, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_pid_tgid, bpf_get_stack},
    macros::perf_event,
    programs::PerfEventContext,
};

use crate::maps::{STACK_COUNTS, STACKS};

/// The v2 cgroup that is profiled. Set by the agent before loading; no cgroup has the number zero.
#[unsafe(no_mangle)]
static PROFILED: u64 = 0;

/// How deep a cgroup may be to be looked for. systemd, the agent and a task that makes its own need half of it.
const LEVELS_MAX: c_int = 16;

#[perf_event]
pub fn m_stack(ctx: PerfEventContext) -> u32 {
    if !is_profiled() {
        return 0;
    }
    // The agent looks at its own pace; waking it for each of these would cost more than they do.
    let Some(mut entry) = STACKS.reserve::<StackRecord>(0) else {
        count(StackCount::Lost);
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: each pointer is into the record, which is ours until it is submitted, and each size is that of the
    // field; the helpers write no more. The other fields are plain words.
    unsafe {
        (*record).tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*record).reserved = 0;
        let kernel = &raw mut (*record).kernel;
        (*record).kernel_bytes = bpf_get_stack(ctx.as_ptr(), kernel.cast(), BYTES, 0) as i32;
        let user = &raw mut (*record).user;
        (*record).user_bytes =
            bpf_get_stack(ctx.as_ptr(), user.cast(), BYTES, BPF_F_USER_STACK.into()) as i32;
    }
    entry.submit(BPF_RB_NO_WAKEUP.into());
    count(StackCount::Taken);
    0
}

const BYTES: u32 = size_of::<[u64; agent_ebpf_common::STACK_FRAMES_MAX]>() as u32;

#[inline(always)]
fn is_profiled() -> bool {
    // SAFETY: a plain read of our own static; volatile, because its value is changed before loading.
    let profiled = unsafe { core::ptr::read_volatile(&raw const PROFILED) };
    for level in 1..LEVELS_MAX {
        // SAFETY: the helper takes a number, and answers zero for a level that isn't there.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if ancestor == 0 || ancestor == profiled {
            return ancestor != 0;
        }
    }
    false
}

#[inline(always)]
fn count(count: StackCount) {
    if let Some(slot) = STACK_COUNTS.get_ptr_mut(count as u32) {
        // SAFETY: the slot belongs to this CPU, and the clock's interrupt doesn't interrupt itself.
        unsafe { *slot += 1 };
    }
}
