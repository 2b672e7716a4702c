//! System calls without libc: for processes that may not touch errno, locks or memory of others.
//!
//! Used between `clone3` and `execve`, and (the same file) by the tasks' init. Answers are the
//! kernel's own: a negative number is an errno.

/// Makes a system call with up to six arguments.
///
/// # Safety
/// As the call itself: pointers must be valid for what the kernel does with them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn syscall(number: i64, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let answer: isize;
    // SAFETY: the x86-64 system call convention (man 2 syscall): rcx and r11 are clobbered, the
    // answer is in rax; what the call itself does is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// Makes a system call with up to six arguments.
///
/// # Safety
/// As the call itself: pointers must be valid for what the kernel does with them.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn syscall(number: i64, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let answer: isize;
    // SAFETY: the arm64 system call convention (man 2 syscall): the number in x8, the answer in
    // x0; what the call itself does is the caller's promise.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => answer,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    answer
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("Muster's agent makes its own system calls, and knows how on x86-64 and arm64 only");
