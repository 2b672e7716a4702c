//! Finished requests of block devices: how many, how large, and how long they took.
//!
//! The time is the kernel's own, from when a request was made until it is done, waiting in the scheduler included:
//! what `/proc/diskstats` adds up. Counted by device, and by cgroup where the kernel charges them in the hierarchy
//! that tasks are registered in; on a host with the v1 controller it charges buffered writes to the root, so there
//! is no truth to tell.
use agent_ebpf_common::{BlockFigures, BlockOperations, Stat, bucket_of};
use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    kernel::{Pointer, Request, block_is_unified},
    maps::{BLOCK, DEVICES, count},
};

const READ: u32 = 0;
const WRITE: u32 = 1;

#[btf_tracepoint(function = "block_rq_complete")]
pub fn m_block(ctx: BtfTracePointContext) -> i32 {
    let request = Request(Pointer::new(ctx.arg(0)));
    let bytes: u32 = ctx.arg(2);
    let operation = request.operation();
    if operation != READ && operation != WRITE {
        return 0;
    }
    // A request may be done in parts; its time is that of the last one.
    let is_last = bytes >= request.bytes();
    let done = Done { is_write: operation == WRITE, bytes, is_last, ns: time_of(request.start_ns()) };

    if let Some(figures) = DEVICES.get_ptr_mut(request.device()) {
        // SAFETY: the value belongs to this CPU, and the kernel doesn't run this program inside itself there.
        done.add_to(unsafe { &mut *figures });
        count(Stat::BlockCounted, 1);
    } else {
        count(Stat::BlockOther, 1);
    }
    if block_is_unified()
        && let Some(figures) = BLOCK.get_ptr_mut(request.cgroup().id())
    {
        // SAFETY: as above.
        done.add_to(unsafe { &mut *figures });
    }
    0
}

/// How long ago that was.
#[inline(always)]
fn time_of(start_ns: u64) -> u64 {
    if start_ns == 0 {
        count(Stat::BlockUntimed, 1);
        return 0;
    }
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_ns() }.saturating_sub(start_ns)
}

/// A part of a request that is done.
#[derive(Clone, Copy)]
struct Done {
    is_write: bool,
    bytes: u32,
    is_last: bool,
    ns: u64,
}

impl Done {
    #[inline(always)]
    fn add_to(self, figures: &mut BlockFigures) {
        let kind: &mut BlockOperations = if self.is_write { &mut figures.writes } else { &mut figures.reads };
        kind.bytes += u64::from(self.bytes);
        if !self.is_last {
            return;
        }
        kind.operations += 1;
        kind.ns += self.ns;
        if let Some(bucket) = kind.latency.get_mut(bucket_of(self.ns)) {
            *bucket += 1;
        }
    }
}
