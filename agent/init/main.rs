//! The first process of a task's pid namespace: a few pages that stand before the command.
//!
//! The kernel gives the first process of a pid namespace no default action for signals and makes
//! it the parent of every orphan (pid_namespaces(7)), which most commands don't expect. So this one
//! starts the command, passes signals on to it, reaps, records how the command ended, and ends the
//! same way; the kernel then ends whatever is left in the namespace.
//! It has no memory allocator and no libc. The agent starts it and arranges its descriptors:
//! `agent/src/sys/launch/child.rs`. Of a task group it watches several; see `group`.

#![no_std]
#![no_main]

#[path = "../src/sys/raw.rs"]
mod raw;

mod group;

use raw::syscall;

/// Descriptors, by agreement with the agent.
mod descriptor {
    /// Pipe to the agent: closed by a successful exec, else it gets the step and the errno.
    pub const STATUS: usize = 3;
    /// File that gets the exit record.
    pub const EXIT: usize = 4;
    /// Pipe to the processes of a group, which wait for a byte each.
    pub const BEGIN: usize = 6;
    /// The writing end of the command's input, so that it lives as long as the task; closed where it has none.
    pub const INPUT: usize = 7;
}

/// What the numbers in an exit record mean; read by `agent/src/sys/process.rs`.
mod record {
    /// The command may have run; how it ended is written over it.
    pub const BEGUN: u32 = 4;
    pub const EXITED: u32 = 1;
    pub const SIGNALED: u32 = 2;
    pub const EXEC_FAILED: u32 = 3;
}

/// How the agent says that the command's input has ended: this signal, queued with this value.
/// By agreement with `agent/src/sys/process.rs`.
mod end_of_input {
    pub const SIGNAL: isize = 64;
    pub const VALUE: u32 = 0x656e_6421;
}

/// Positions in `LaunchStep::ALL`.
mod step {
    pub const FORK: u32 = 23;
    pub const EXEC: u32 = 24;
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: i64 = 1;
    pub const CLOSE: i64 = 3;
    pub const LSEEK: i64 = 8;
    pub const SIGPROCMASK: i64 = 14;
    pub const PREAD64: i64 = 17;
    pub const PWRITE64: i64 = 18;
    pub const CLONE: i64 = 56;
    pub const EXECVE: i64 = 59;
    pub const WAIT4: i64 = 61;
    pub const KILL: i64 = 62;
    pub const FCNTL: i64 = 72;
    pub const SETSID: i64 = 112;
    pub const SIGTIMEDWAIT: i64 = 128;
    pub const PRCTL: i64 = 157;
    pub const CLOCK_GETTIME: i64 = 228;
    pub const EXIT_GROUP: i64 = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const FCNTL: i64 = 25;
    pub const CLOSE: i64 = 57;
    pub const LSEEK: i64 = 62;
    pub const WRITE: i64 = 64;
    pub const PREAD64: i64 = 67;
    pub const PWRITE64: i64 = 68;
    pub const EXIT_GROUP: i64 = 94;
    pub const CLOCK_GETTIME: i64 = 113;
    pub const KILL: i64 = 129;
    pub const SIGPROCMASK: i64 = 135;
    pub const SIGTIMEDWAIT: i64 = 137;
    pub const SETSID: i64 = 157;
    pub const PRCTL: i64 = 167;
    pub const CLONE: i64 = 220;
    pub const EXECVE: i64 = 221;
    pub const WAIT4: i64 = 260;
}

const ENOENT: isize = -2;
const EINTR: isize = -4;
const EACCES: isize = -13;
const ENOTDIR: isize = -20;
const ENAMETOOLONG: isize = -36;

/// As in `siginfo_t`, where it is negative.
const SI_QUEUE: u32 = u32::MAX;
const SIGKILL: usize = 9;
const SIGCHLD: usize = 17;
const SIGSTOP: usize = 19;

const SIG_SETMASK: usize = 2;
const SIGNAL_SET_BYTES: usize = 8;
const F_SETFD: usize = 2;
const FD_CLOEXEC: usize = 1;
const WNOHANG: usize = 1;
const CLONE_VM: usize = 0x100;
const CLONE_VFORK: usize = 0x4000;
const SEEK_CUR: usize = 1;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;

/// Longest path that is tried: PATH_MAX.
const PATH_BYTES_MAX: usize = 4096;

type Entry = extern "C" fn(*const *const u8, *const *const u8) -> !;

/// Where a PATH is not in the task's environment.
const PATH_DEFAULT: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {main}",
    "brk 1",
    main = sym main,
);

/// `stack` is as the kernel leaves it: argument count, arguments, null, environment, null.
extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the layout of a new program's stack is the kernel's promise (System V ABI, "Process
    // Initialization"): a count, that many pointers and a null, then the environment's pointers.
    let (arguments, environment) = unsafe {
        let count = *stack;
        let arguments = stack.add(1).cast::<*const u8>();
        (arguments, arguments.add(count + 1))
    };

    call(number::PRCTL, [PR_SET_NAME, c"muster-init".as_ptr() as usize, 0, 0, 0, 0]);
    // The task has our uid; it must not read our descriptors or memory through /proc/1.
    call(number::PRCTL, [PR_SET_DUMPABLE, 0, 0, 0, 0, 0]);
    // Blocked signals of a namespace's first process are kept for it, although it handles none.
    set_signal_mask(u64::MAX);

    // SAFETY: the agent passes at least one argument.
    if unsafe { text(*arguments) }.is_empty() {
        // SAFETY: `arguments` are the kernel's, as above.
        unsafe { group::watch(arguments.add(1)) }
    }
    // Before the command can do anything: an agent that died since it let us go must not start it again.
    note_begun();

    // SAFETY: `run` gets what it wants, and never returns.
    let command = unsafe { clone_and_call(run, arguments, environment) };
    if command < 0 {
        tell_failure(step::FORK, command);
        exit(125);
    }
    call(number::CLOSE, [descriptor::STATUS, 0, 0, 0, 0, 0]);
    close_standard_streams();
    let (kind, value, code) = end_of(watch_over(command));
    // The command's side has recorded already that it could not exec: the offset is shared.
    if call(number::LSEEK, [descriptor::EXIT, 0, SEEK_CUR, 0, 0, 0]) == 0 {
        write_pair(descriptor::EXIT, kind, value);
    }
    exit(code as usize)
}

/// Kind and value for the record, and the code to end with.
fn end_of(status: u32) -> (u32, u32, u32) {
    match status & 0x7f {
        0 => (record::EXITED, (status >> 8) & 0xff, (status >> 8) & 0xff),
        signal => (record::SIGNALED, signal, 128 + signal),
    }
}

/// Passes signals on and reaps until the command has ended; answers its wait status.
fn watch_over(command: isize) -> u32 {
    loop {
        let every: u64 = u64::MAX;
        // `siginfo_t`: the third of its words says how it was sent, the seventh has what was sent along.
        let mut info = [0_u32; 32];
        let arguments =
            [&raw const every as usize, info.as_mut_ptr() as usize, 0, SIGNAL_SET_BYTES, 0, 0];
        let signal = call(number::SIGTIMEDWAIT, arguments);
        let [_, _, code, _, _, _, value, ..] = info;
        if signal == SIGCHLD as isize {
            if let Some(status) = reap(command) {
                return status;
            }
        } else if signal == end_of_input::SIGNAL && code == SI_QUEUE && value == end_of_input::VALUE {
            call(number::CLOSE, [descriptor::INPUT, 0, 0, 0, 0, 0]);
        } else if signal > 0 && signal != SIGKILL as isize && signal != SIGSTOP as isize {
            call(number::KILL, [command as usize, signal as usize, 0, 0, 0, 0]);
        }
    }
}

/// Reaps all that have ended; answers the wait status of the command if it was among them.
fn reap(command: isize) -> Option<u32> {
    let mut found = None;
    loop {
        let mut status: u32 = 0;
        let every = usize::MAX;
        let pid = call(number::WAIT4, [every, &raw mut status as usize, WNOHANG, 0, 0, 0]);
        if pid == command {
            found = Some(status);
        } else if pid == EINTR {
            continue;
        } else if pid <= 0 {
            return found;
        }
    }
}

/// Makes a process that calls `entry` in our memory, on the stack below, while we are held; returns its id when it
/// has executed something or ended. As vfork(2): nothing is copied that an exec would throw away.
///
/// # Safety
/// `entry` must take these and write to nothing but its stack.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_and_call(entry: Entry, arguments: *const *const u8, environment: *const *const u8) -> isize {
    let answer: isize;
    // SAFETY: without `nostack` nothing of this frame lies below the stack pointer, so all that the child writes is
    // outside of it. The child never leaves this block: no register or slot of ours is changed when we go on.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "and rsp, -16",
            "mov rdi, r12",
            "mov rsi, r13",
            "call r14",
            "ud2",
            "2:",
            inlateout("rax") number::CLONE as isize => answer,
            in("rdi") CLONE_VM | CLONE_VFORK | SIGCHLD,
            in("rsi") 0_usize, in("rdx") 0_usize, in("r10") 0_usize, in("r8") 0_usize,
            in("r12") arguments, in("r13") environment, in("r14") entry,
            out("rcx") _, out("r11") _,
        );
    }
    answer
}

/// Makes a process that calls `entry` in our memory, on the stack below, while we are held; returns its id when it
/// has executed something or ended. As vfork(2): nothing is copied that an exec would throw away.
///
/// # Safety
/// `entry` must take these and write to nothing but its stack.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_and_call(entry: Entry, arguments: *const *const u8, environment: *const *const u8) -> isize {
    let answer: isize;
    // SAFETY: all that the child writes is below the stack pointer and so outside of this frame (there is no red zone).
    // The child never leaves this block: no register or slot of ours is changed when we go on.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x21",
            "mov x1, x22",
            "blr x23",
            "brk 1",
            "2:",
            in("x8") number::CLONE,
            inlateout("x0") CLONE_VM | CLONE_VFORK | SIGCHLD => answer,
            in("x1") 0_usize, in("x2") 0_usize, in("x3") 0_usize, in("x4") 0_usize,
            in("x21") arguments, in("x22") environment, in("x23") entry,
            out("x30") _,
        );
    }
    answer
}

/// What a process that shares our memory does: become the command, or say why not.
extern "C" fn run(arguments: *const *const u8, environment: *const *const u8) -> ! {
    set_signal_mask(0);
    call(number::SETSID, [0; 6]);
    for descriptor in [descriptor::STATUS, descriptor::EXIT, descriptor::INPUT] {
        call(number::FCNTL, [descriptor, F_SETFD, FD_CLOEXEC, 0, 0, 0]);
    }
    let error = execute(arguments, environment);
    // The record before the word: who hears the word may read the record.
    write_pair(descriptor::EXIT, record::EXEC_FAILED, -error as u32);
    tell_failure(step::EXEC, error);
    exit(if error == ENOENT { 127 } else { 126 })
}

/// Tries the command where it may be, as a shell would; returns only with an errno.
fn execute(arguments: *const *const u8, environment: *const *const u8) -> isize {
    // SAFETY: the agent passes at least one argument; each is a NUL-terminated string.
    let name = unsafe { text(*arguments) };
    if name.contains(&b'/') {
        return try_execute(name.as_ptr(), arguments, environment);
    }
    let path = find_path(environment).unwrap_or(PATH_DEFAULT);
    let mut refused = ENOENT;
    for directory in path.split(|byte| *byte == b':') {
        let mut buffer = [0_u8; PATH_BYTES_MAX];
        // An empty entry means the working directory.
        let directory = if directory.is_empty() { b"." } else { directory };
        let whole = directory.iter().chain(b"/").chain(name);
        if directory.len() + name.len() + 2 > PATH_BYTES_MAX {
            refused = ENAMETOOLONG;
            continue;
        }
        for (place, byte) in buffer.iter_mut().zip(whole) {
            *place = *byte;
        }
        match try_execute(buffer.as_ptr(), arguments, environment) {
            ENOENT | ENOTDIR => {}
            EACCES => refused = EACCES,
            other => return other,
        }
    }
    refused
}

fn try_execute(path: *const u8, arguments: *const *const u8, environment: *const *const u8) -> isize {
    call(number::EXECVE, [path as usize, arguments as usize, environment as usize, 0, 0, 0])
}

fn find_path(environment: *const *const u8) -> Option<&'static [u8]> {
    let mut next = environment;
    loop {
        // SAFETY: `next` walks the environment's pointers and stops at the null that ends them.
        let variable = unsafe { *next };
        if variable.is_null() {
            return None;
        }
        // SAFETY: each variable is a NUL-terminated string that lives as long as the process.
        if let Some(value) = unsafe { text(variable) }.strip_prefix(b"PATH=") {
            return Some(value);
        }
        // SAFETY: `next` was not the null at the end, so the one after it is there.
        next = unsafe { next.add(1) };
    }
}

/// # Safety
/// `start` must point to a NUL-terminated string that lives as long as the process.
unsafe fn text(start: *const u8) -> &'static [u8] {
    // SAFETY: the caller's promise is the one that is needed.
    unsafe { core::ffi::CStr::from_ptr(start.cast()) }.to_bytes()
}

/// So that a reader of the task's pipes sees their end when the command closes them.
fn close_standard_streams() {
    for descriptor in 0..3 {
        call(number::CLOSE, [descriptor, 0, 0, 0, 0, 0]);
    }
}

fn tell_failure(step: u32, error: isize) {
    write_pair(descriptor::STATUS, step, -error as u32);
}

/// At the file's start, and without moving its offset.
fn note_begun() {
    let bytes = [record::BEGUN, 0];
    while call(number::PWRITE64, [descriptor::EXIT, bytes.as_ptr() as usize, 8, 0, 0, 0]) == EINTR {}
}

fn write_pair(descriptor: usize, first: u32, second: u32) {
    let bytes = [first, second];
    while call(number::WRITE, [descriptor, bytes.as_ptr() as usize, 8, 0, 0, 0]) == EINTR {}
}

fn set_signal_mask(mask: u64) {
    call(number::SIGPROCMASK, [SIG_SETMASK, &raw const mask as usize, 0, SIGNAL_SET_BYTES, 0, 0]);
}

fn exit(code: usize) -> ! {
    loop {
        call(number::EXIT_GROUP, [code, 0, 0, 0, 0, 0]);
    }
}

fn call(number: i64, arguments: [usize; 6]) -> isize {
    // SAFETY: every call in this file passes numbers, or pointers to values that outlive the call.
    unsafe { syscall(number, arguments) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}

/// core's own objects name it, although nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The compiler may ask for these by name; there is no libc here that has them.
mod memory {
    /// # Safety
    /// As C's strlen.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(start: *const u8) -> usize {
        let mut length = 0;
        // SAFETY: the caller promises a NUL, and `length` stops there; volatile as in memcpy.
        while unsafe { start.add(length).read_volatile() } != 0 {
            length += 1;
        }
        length
    }

    /// # Safety
    /// As C's memcpy.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        for index in 0..count {
            // SAFETY: the caller promises `count` bytes at both ends; volatile, so that the
            // compiler does not turn the loop into a call of this function.
            unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
        }
        to
    }

    /// # Safety
    /// As C's memset.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        for index in 0..count {
            // SAFETY: as in memcpy.
            unsafe { to.add(index).write_volatile(byte as u8) };
        }
        to
    }

    /// # Safety
    /// As C's memcmp.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        for index in 0..count {
            // SAFETY: as in memcpy.
            let (left, right) =
                unsafe { (left.add(index).read_volatile(), right.add(index).read_volatile()) };
            if left != right {
                return i32::from(left) - i32::from(right);
            }
        }
        0
    }

    /// # Safety
    /// As BSD's bcmp.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        // SAFETY: the same promise.
        unsafe { memcmp(left, right, count) }
    }
}
