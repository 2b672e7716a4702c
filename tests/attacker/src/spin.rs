//! Burns CPU time where a profile must find it: in a function and a caller that keep frame pointers, which the
//! compiler keeps only for all of a program.

use std::arch::global_asm;

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".type calls_what_spins, @function",
    "calls_what_spins:",
    "push rbp",
    "mov rbp, rsp",
    "2: call spins_under_a_known_name",
    "jmp 2b",
    ".size calls_what_spins, . - calls_what_spins",
    ".type spins_under_a_known_name, @function",
    "spins_under_a_known_name:",
    "push rbp",
    "mov rbp, rsp",
    "mov rax, 1000000000",
    "3: dec rax",
    "jnz 3b",
    "pop rbp",
    "ret",
    ".size spins_under_a_known_name, . - spins_under_a_known_name",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".type calls_what_spins, @function",
    "calls_what_spins:",
    "stp x29, x30, [sp, #-16]!",
    "mov x29, sp",
    "2: bl spins_under_a_known_name",
    "b 2b",
    ".size calls_what_spins, . - calls_what_spins",
    ".type spins_under_a_known_name, @function",
    "spins_under_a_known_name:",
    "stp x29, x30, [sp, #-16]!",
    "mov x29, sp",
    "mov x9, #0x4000, lsl #16",
    "3: subs x9, x9, #1",
    "b.ne 3b",
    "ldp x29, x30, [sp], #16",
    "ret",
    ".size spins_under_a_known_name, . - spins_under_a_known_name",
);

unsafe extern "C" {
    fn calls_what_spins() -> !;
}

pub fn forever() -> ! {
    // SAFETY: it touches nothing but its own frame and a register that a call may change.
    unsafe { calls_what_spins() }
}
