//! Reading the kernel's structs at offsets that the agent found in this kernel's BTF.
//!
//! Pointers that a tracepoint or iterator hands us have a type known to the verifier, so following one at
//! a constant offset is an ordinary load that can't fault: a bad address reads as zero.
//! rustc emits no relocations for this, so the offsets are a read-only global that the agent overrides
//! before loading; the map behind it is frozen, so the verifier sees constants.
use agent_ebpf_common::{ABSENT, Offsets, ThreadFigures, UNKNOWN};
use aya_ebpf::helpers::bpf_probe_read_kernel;

/// Overridden by the agent. The zeros are never used: a program whose offsets are missing isn't loaded.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    task_pid: 0,
    task_tgid: 0,
    task_group_leader: 0,
    task_start_boottime: 0,
    task_exit_code: 0,
    task_signal: 0,
    task_cgroups: 0,
    task_flags: 0,
    task_faults_minor: 0,
    task_faults_major: 0,
    task_read_bytes: 0,
    task_write_bytes: 0,
    task_cancelled_bytes: 0,
    signal_live: 0,
    signal_flags: 0,
    signal_group_exit_code: 0,
    css_set_dfl_cgrp: 0,
    css_set_memory: 0,
    css_cgroup: 0,
    cgroup_kn: 0,
    cgroup_root: 0,
    kernfs_node_id: 0,
    css_to_memory_usage: 0,
    css_to_memory_limit: 0,
    css_to_swap_usage: 0,
    exit_says_group_dead: 0,
    sock_cgroup: 0,
    retransmit_says_error: 0,
    request_queue: 0,
    request_flags: 0,
    request_bytes: 0,
    request_start_ns: 0,
    request_bio: 0,
    queue_disk: 0,
    disk_major: 0,
    disk_minor: 0,
    bio_group: 0,
    block_group_owner: 0,
    block_owner_cgroup: 0,
    block_is_unified: 0,
    sock_port: 0,
};

/// One of [`Offsets`], as the agent set it.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a plain read of our own static; volatile, because its value is changed before loading.
        unsafe { core::ptr::read_volatile(&raw const OFFSETS.$field) as usize }
    };
}

/// A pointer into the kernel whose type the verifier knows.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pointer(*const u8);

impl Pointer {
    /// Wraps an argument of a tracepoint or a field of an iterator's context.
    #[inline(always)]
    pub fn new(raw: *const u8) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Reads a field through the verifier's own bounds check.
    ///
    /// Volatile, so that the compiler doesn't merge the loads of two branches into one of "this or that struct at
    /// this or that offset", which older verifiers can't follow.
    #[inline(always)]
    fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the verifier checks against BTF that a field of this size lies at this offset, and
        // loads through such a pointer have a fault handler that yields zero.
        unsafe { self.0.add(offset).cast::<T>().read_volatile() }
    }

    /// Reads where the verifier can't follow: through a pointer to an embedded struct.
    #[inline(always)]
    fn probe(self, offset: usize) -> u64 {
        // SAFETY: the helper checks the address and fails instead of faulting.
        unsafe { bpf_probe_read_kernel(self.0.add(offset).cast::<u64>()) }.unwrap_or(UNKNOWN)
    }
}

/// A `task_struct`: one thread.
#[derive(Clone, Copy)]
pub struct Task(pub Pointer);

impl Task {
    #[inline(always)]
    pub fn pid(self) -> u32 {
        self.0.read(offset!(task_pid))
    }

    #[inline(always)]
    pub fn tgid(self) -> u32 {
        self.0.read(offset!(task_tgid))
    }

    #[inline(always)]
    pub fn leader(self) -> Task {
        Task(self.0.read(offset!(task_group_leader)))
    }

    #[inline(always)]
    pub fn start_boottime_ns(self) -> u64 {
        self.0.read(offset!(task_start_boottime))
    }

    /// `PF_EXITING`: on its way out (`linux/sched.h`). Set before the exit is reported.
    #[inline(always)]
    pub fn is_exiting(self) -> bool {
        self.0.read::<u32>(offset!(task_flags)) & 4 != 0
    }

    /// What it has used so far.
    #[inline(always)]
    pub fn figures(self) -> ThreadFigures {
        ThreadFigures {
            read_bytes: self.read_if_there(offset!(task_read_bytes)),
            write_bytes: self.read_if_there(offset!(task_write_bytes)),
            cancelled_bytes: self.read_if_there(offset!(task_cancelled_bytes)),
            faults_minor: self.0.read(offset!(task_faults_minor)),
            faults_major: self.0.read(offset!(task_faults_major)),
        }
    }

    /// A field that not every kernel has. The offset is a constant, so only one of the two ways is ever checked.
    #[inline(always)]
    fn read_if_there(self, offset: usize) -> u64 {
        if offset == ABSENT as usize { UNKNOWN } else { self.0.read(offset) }
    }

    #[inline(always)]
    pub fn exit_code(self) -> u32 {
        self.0.read(offset!(task_exit_code))
    }

    #[inline(always)]
    pub fn signal(self) -> Signal {
        Signal(self.0.read(offset!(task_signal)))
    }

    /// Its v2 cgroup, which every task has, mounted or not.
    #[inline(always)]
    pub fn cgroup(self) -> Cgroup {
        let css_set: Pointer = self.0.read(offset!(task_cgroups));
        Cgroup(css_set.read(offset!(css_set_dfl_cgrp)))
    }

    /// Its memory cgroup, in whichever hierarchy that controller is.
    #[inline(always)]
    pub fn memory(self) -> Memory {
        let css_set: Pointer = self.0.read(offset!(task_cgroups));
        Memory(css_set.read(offset!(css_set_memory)))
    }
}

/// A `signal_struct`: what the threads of a process share.
#[derive(Clone, Copy)]
pub struct Signal(Pointer);

impl Signal {
    /// `SIGNAL_GROUP_EXIT`: the whole group was told to exit, with one status for all (`sched/signal.h`).
    const GROUP_EXIT: u32 = 4;

    /// Threads that have not yet passed the start of `do_exit`.
    #[inline(always)]
    pub fn live(self) -> u32 {
        self.0.read(offset!(signal_live))
    }

    /// Whether the status of the group is its own, and not its leader's.
    #[inline(always)]
    pub fn has_group_exit(self) -> bool {
        self.0.read::<u32>(offset!(signal_flags)) & Self::GROUP_EXIT != 0
    }

    #[inline(always)]
    pub fn group_exit_code(self) -> u32 {
        self.0.read(offset!(signal_group_exit_code))
    }
}

/// A `cgroup`.
#[derive(Clone, Copy)]
pub struct Cgroup(Pointer);

impl Cgroup {
    /// The inode number of its directory; zero when it couldn't be read.
    #[inline(always)]
    pub fn id(self) -> u64 {
        let node: Pointer = self.0.read(offset!(cgroup_kn));
        node.read(offset!(kernfs_node_id))
    }

    #[inline(always)]
    fn root(self) -> Pointer {
        self.0.read(offset!(cgroup_root))
    }
}

/// The `css` of a `mem_cgroup`.
#[derive(Clone, Copy)]
pub struct Memory(Pointer);

impl Memory {
    #[inline(always)]
    pub fn cgroup(self) -> Cgroup {
        Cgroup(self.0.read(offset!(css_cgroup)))
    }

    /// Pages charged.
    #[inline(always)]
    pub fn usage(self) -> u64 {
        self.0.probe(offset!(css_to_memory_usage))
    }

    /// Pages that may be charged at most.
    #[inline(always)]
    pub fn limit(self) -> u64 {
        self.0.probe(offset!(css_to_memory_limit))
    }

    /// Pages swapped out, given the `usage` that was just read and the task's v2 cgroup.
    ///
    /// On v1 the counter holds memory and swap together.
    #[inline(always)]
    pub fn swap(self, usage: u64, cgroup: Cgroup) -> u64 {
        let counter = self.0.probe(offset!(css_to_swap_usage));
        if self.cgroup().root() == cgroup.root() {
            return counter;
        }
        // A page charged between the two reads can make the difference negative by as much.
        if counter == UNKNOWN || usage == UNKNOWN { UNKNOWN } else { counter.saturating_sub(usage) }
    }
}

/// A `sock`: one socket.
#[derive(Clone, Copy)]
pub struct Sock(pub Pointer);

impl Sock {
    /// The v2 cgroup of whoever made it.
    #[inline(always)]
    pub fn cgroup(self) -> Cgroup {
        Cgroup(self.0.read(offset!(sock_cgroup)))
    }

    /// Its own port.
    #[inline(always)]
    pub fn port(self) -> u16 {
        self.0.read(offset!(sock_port))
    }
}

/// A `request` to a block device.
#[derive(Clone, Copy)]
pub struct Request(pub Pointer);

impl Request {
    /// `REQ_OP_READ`, `REQ_OP_WRITE` and so on (`linux/blk_types.h`).
    #[inline(always)]
    pub fn operation(self) -> u32 {
        self.0.read::<u32>(offset!(request_flags)) & 0xff
    }

    /// Bytes that are still to be done.
    #[inline(always)]
    pub fn bytes(self) -> u32 {
        self.0.read(offset!(request_bytes))
    }

    /// When it was made, by the monotonic clock; zero when the device's `iostats` are off.
    #[inline(always)]
    pub fn start_ns(self) -> u64 {
        self.0.read(offset!(request_start_ns))
    }

    /// Number of the whole device that it goes to, as `MKDEV` makes it.
    #[inline(always)]
    pub fn device(self) -> u32 {
        let queue: Pointer = self.0.read(offset!(request_queue));
        let disk: Pointer = queue.read(offset!(queue_disk));
        disk.read::<u32>(offset!(disk_major)) << 20 | disk.read::<u32>(offset!(disk_minor))
    }

    /// The cgroup that it is charged to, in the hierarchy of that controller.
    #[inline(always)]
    pub fn cgroup(self) -> Cgroup {
        let bio: Pointer = self.0.read(offset!(request_bio));
        let group: Pointer = bio.read(offset!(bio_group));
        let owner: Pointer = group.read(offset!(block_group_owner));
        Cgroup(owner.read(offset!(block_owner_cgroup)))
    }
}

/// Whether block requests are charged in the hierarchy that the agent registers cgroups of.
#[inline(always)]
pub fn block_is_unified() -> bool {
    offset!(block_is_unified) != 0
}

/// Whether `tcp_retransmit_skb` has an error as its third argument.
#[inline(always)]
pub fn retransmit_says_error() -> bool {
    offset!(retransmit_says_error) != 0
}

/// Whether `sched_process_exit` itself says that the group is dead (6.16 is the first kernel that does).
#[inline(always)]
pub fn exit_says_group_dead() -> bool {
    offset!(exit_says_group_dead) != 0
}
