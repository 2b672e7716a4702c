//! The moment of `clone3`: the child uses the agent's memory until it executes something.
//!
//! A copy of the agent's memory would cost the launch some 90 µs for each MiB that the agent has: page tables
//! are copied, thrown away by the exec, and every page that the agent writes to afterwards faults. So the child
//! is born as by vfork(2), on the stack of a thread that the kernel holds until the child has executed its
//! program or ended. Start at [`Nursery::bear`].
//!
//! ## Design
//!
//! The child waits for the agent's word while it is in our memory, so the held thread can't be the caller's:
//! it belongs to the nursery, and owns what the child reads. What makes sharing safe:
//! - The child makes nothing but raw system calls on that (`child`), with descriptors, signal handlers and
//!   working directory of its own.
//! - Our memory can't be looked into: [`Nursery::new`] makes it undumpable, as the child's change of user
//!   would (ptrace(2), "Ptrace access mode checking"). A core dump would hold tasks' secrets besides.
//! - The kernel's out-of-memory killer ends all who share a memory, but takes no victim that is held like
//!   this one (`in_vfork` in mm/oom_kill.c), nor does the child's score become ours (`__set_oom_adj` in fs/proc/base.c).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, futex};

use super::child::{self, Plan};
use crate::sys::raw;

/// Threads that are kept for the next births; more exist while more children wait for their word.
const IDLE_MAX: usize = 8;

/// Enough for the thread and, below it, the child.
const STACK_BYTES: usize = 256 << 10;

/// Threads that lend children their stacks.
#[derive(Debug)]
pub struct Nursery {
    idle: Arc<Idle>,
}

/// Threads without an order, each with the capabilities that its children may ever have.
type Idle = Mutex<Vec<(CapabilitySet, Sender<Order>)>>;

/// One child to be born.
struct Order {
    group: RawFd,
    kinds: libc::c_int,
    plan: Plan,
    cradle: Arc<Cradle>,
    /// The thread's own, to be found under again.
    thread: Sender<Order>,
    idle: Weak<Idle>,
}

/// Where whoever asked for the child finds it.
#[derive(Debug, Default)]
struct Cradle {
    /// A futex.
    stage: AtomicU32,
    pid: AtomicU32,
    /// Written by the kernel before the child runs.
    pidfd: AtomicI32,
    errno: AtomicI32,
}

/// Values of `Cradle::stage`.
mod stage {
    pub const WAITING: u32 = 0;
    pub const BORN: u32 = 1;
    pub const FAILED: u32 = 2;
}

impl Nursery {
    pub fn new() -> io::Result<Self> {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(Self { idle: Arc::default() })
    }

    /// Starts the child in a group, with new namespaces of these kinds. Returns as soon as it runs, with copies
    /// of its own of all descriptors.
    pub fn bear(&self, group: RawFd, kinds: libc::c_int, plan: Plan) -> io::Result<(u32, OwnedFd)> {
        let thread = match self.take_idle(plan.bounding) {
            Some(thread) => thread,
            None => {
                let (sender, receiver) = channel();
                let builder = thread::Builder::new().name("nursery".to_owned()).stack_size(STACK_BYTES);
                let bounding = plan.bounding;
                builder.spawn(move || work(bounding, &receiver))?;
                sender
            }
        };
        let cradle = Arc::new(Cradle::default());
        let idle = Arc::downgrade(&self.idle);
        let order = Order { group, kinds, plan, cradle: Arc::clone(&cradle), thread: thread.clone(), idle };
        thread.send(order).map_err(|_gone| io::Error::from(io::ErrorKind::BrokenPipe))?;
        while cradle.stage.load(Ordering::Acquire) == stage::WAITING {
            // It may be no longer waiting, or a signal came: the condition is looked at again.
            let _ = futex::wait(&cradle.stage, futex::Flags::PRIVATE, stage::WAITING, None);
        }
        if cradle.stage.load(Ordering::Acquire) == stage::FAILED {
            return Err(io::Error::from_raw_os_error(cradle.errno.load(Ordering::Relaxed)));
        }
        // SAFETY: the kernel has put a new descriptor there, and nobody else takes it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(cradle.pidfd.load(Ordering::Relaxed)) };
        Ok((cradle.pid.load(Ordering::Relaxed), pidfd))
    }

    fn take_idle(&self, bounding: CapabilitySet) -> Option<Sender<Order>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let place = idle.iter().position(|(its, _)| *its == bounding)?;
        Some(idle.swap_remove(place).1)
    }
}

/// One thread of the nursery, until there are enough others or no nursery.
///
/// Its bounding set is its children's, so that not each of them must drop forty capabilities one by one. What the
/// thread itself may do stays as it is: the set counts when something is executed.
fn work(bounding: CapabilitySet, orders: &Receiver<Order>) {
    let is_bound = bound(bounding);
    while let Ok(order) = orders.recv() {
        let answer = match &is_bound {
            Ok(()) => clone_held(&order),
            Err(errno) => -(errno.raw_os_error() as isize),
        };
        // A child that was killed at once has told nobody.
        if order.cradle.stage.load(Ordering::Acquire) == stage::WAITING {
            let errno = i32::try_from(-answer).unwrap_or(libc::EIO);
            order.cradle.errno.store(errno, Ordering::Relaxed);
            tell(&order.cradle, if answer < 0 { stage::FAILED } else { stage::BORN });
        }
        let Order { thread, idle, .. } = order;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= IDLE_MAX {
            return;
        }
        idle.push((bounding, thread));
    }
}

/// Takes all other capabilities out of this thread's bounding set.
fn bound(kept: CapabilitySet) -> rustix::io::Result<()> {
    for capability in (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
        let has = match rustix::thread::capability_is_in_bounding_set(capability) {
            // No kernel knows a higher one.
            Err(rustix::io::Errno::INVAL) => break,
            has => has?,
        };
        if has && !kept.contains(capability) {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

/// Returns when the child has executed something or ended.
fn clone_held(order: &Order) -> isize {
    let Order { group, kinds, cradle, .. } = order;
    let flags = libc::CLONE_VM as u64 | libc::CLONE_VFORK as u64 | libc::CLONE_PARENT_SETTID as u64;
    let mut arguments = Arguments::new(*group, *kinds, cradle.pidfd.as_ptr());
    arguments.flags |= flags;
    arguments.parent_tid = cradle.pid.as_ptr() as u64;
    // SAFETY: the child lives on the stack below this frame, and this thread is held until it has left. What
    // `order` owns is the thread's, and outlives it; `live` never returns.
    unsafe { clone_and_call(&raw const arguments, live, order) }
}

/// The child's side.
///
/// # Safety
/// Only in the child of [`clone_held`].
unsafe extern "C" fn live(order: *const Order) -> ! {
    // SAFETY: the thread that is held below owns the order, and this is the process that it has just made.
    unsafe {
        let order = &*order;
        tell(&order.cradle, stage::BORN);
        child::run(&order.plan)
    }
}

/// Also the child's, so it must do without locks and memory.
fn tell(cradle: &Cradle, stage: u32) {
    cradle.stage.store(stage, Ordering::Release);
    let wake = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    let address = cradle.stage.as_ptr() as usize;
    // SAFETY: the address is that of a live futex; the call reads and writes nothing else.
    unsafe { raw::syscall(libc::SYS_futex, [address, wake, 1, 0, 0, 0]) };
}

/// Makes a child that calls `entry` on the stack below; the parent gets the call's answer.
///
/// # Safety
/// The arguments must share memory and hold the parent (CLONE_VM, CLONE_VFORK) and name no other stack.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_and_call(
    arguments: *const Arguments,
    entry: unsafe extern "C" fn(*const Order) -> !,
    order: *const Order,
) -> isize {
    let answer: isize;
    // SAFETY: without `nostack` nothing of this frame lies below the stack pointer, so all that the child writes is
    // outside of it. The child never leaves this block: no register or slot of ours is changed when the parent goes on.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "and rsp, -16",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => answer,
            in("rdi") arguments, in("rsi") size_of::<Arguments>(),
            in("r12") order, in("r13") entry,
            out("rcx") _, out("r11") _,
        );
    }
    answer
}

/// Makes a child that calls `entry` on the stack below; the parent gets the call's answer.
///
/// # Safety
/// The arguments must share memory and hold the parent (CLONE_VM, CLONE_VFORK) and name no other stack.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_and_call(
    arguments: *const Arguments,
    entry: unsafe extern "C" fn(*const Order) -> !,
    order: *const Order,
) -> isize {
    let answer: isize;
    // SAFETY: all that the child writes is below the stack pointer and so outside of this frame (there is no red zone).
    // The child never leaves this block: no register or slot of ours is changed when the parent goes on.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x21",
            "blr x22",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") arguments as isize => answer,
            in("x1") size_of::<Arguments>(),
            in("x21") order, in("x22") entry,
            out("x30") _,
        );
    }
    answer
}

/// Makes a child with a copy of our memory, which goes on here. For children that join a running task: it could
/// look into what they share.
pub fn clone_copy(group: RawFd, plan: &Plan) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    let arguments = Arguments::new(group, 0, &raw mut pidfd);
    let size = size_of::<Arguments>();
    // SAFETY: without CLONE_VM the child has its own copy of memory and goes on where we are;
    // `arguments` and `pidfd` outlive the call.
    let answer = unsafe { raw::syscall(libc::SYS_clone3, [&raw const arguments as usize, size, 0, 0, 0, 0]) };
    if answer == 0 {
        // SAFETY: this is the process that clone3 has just made, and it never returns from here.
        unsafe { child::run(plan) }
    }
    let pid = u32::try_from(answer)
        .map_err(|_| io::Error::from_raw_os_error(i32::try_from(-answer).unwrap_or(libc::EIO)))?;
    // SAFETY: the kernel has put a new descriptor there, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((pid, pidfd))
}

/// `struct clone_args` of include/uapi/linux/sched.h, as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const _: () = assert!(size_of::<Arguments>() == 88, "CLONE_ARGS_SIZE_VER2");

const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

impl Arguments {
    /// `kinds`: of the namespaces that the child gets new ones of.
    fn new(group: RawFd, kinds: libc::c_int, pidfd: *mut RawFd) -> Self {
        let kinds = u64::from(kinds.cast_unsigned());
        Self {
            flags: libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND | kinds,
            pidfd: pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            cgroup: group.cast_unsigned().into(),
            ..Self::default()
        }
    }
}
