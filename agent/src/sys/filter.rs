//! The agent's own system call filter: calls that change the machine itself are refused.
//!
//! Every task inherits it, so it refuses only what no ordinary task does, by number alone, and answers
//! EPERM as the kernel does to those who may not. Start at [`install`].
//!
//! ## Design
//!
//! Written here and not taken from the crate `seccompiler`, whose filters end every process of another
//! architecture than the agent's: 32-bit tasks would die. A filter that looks at numbers alone costs
//! next to nothing: since Linux 5.11 the kernel keeps the verdicts in a bitmap (`seccomp_cache_prepare`
//! in kernel/seccomp.c).

use std::io;

use rustix::thread::CapabilitySet;

/// A call that changes the machine, and the capability that it needs: where the operator lets tasks have that
/// one, the call is not refused.
struct Refused {
    capability: CapabilitySet,
    native: i64,
    /// As 32-bit programs call it, once for each form that it has there; empty where it has none.
    narrow: &'static [u32],
}

/// One way into the kernel: AUDIT_ARCH_* of include/uapi/linux/audit.h.
struct Door {
    architecture: u32,
    /// What of a call's number counts.
    mask: u32,
    refused: Vec<u32>,
}

/// The x32 ABI of x86-64 has the same numbers with this bit set.
const X32: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: (u32, u32) = (0xc000_003e, 0x4000_0003);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: (u32, u32) = (0xc000_00b7, 0x4000_0028);

/// 32-bit numbers of arch/x86/entry/syscalls/syscall_32.tbl.
#[cfg(target_arch = "x86_64")]
const REFUSED: &[Refused] = &[
    // Code in the kernel.
    Refused { capability: CapabilitySet::SYS_MODULE, native: libc::SYS_init_module, narrow: &[128] },
    Refused { capability: CapabilitySet::SYS_MODULE, native: libc::SYS_finit_module, narrow: &[350] },
    Refused { capability: CapabilitySet::SYS_MODULE, native: libc::SYS_delete_module, narrow: &[129] },
    // Another kernel, and the host's end.
    Refused { capability: CapabilitySet::SYS_BOOT, native: libc::SYS_kexec_load, narrow: &[283] },
    Refused { capability: CapabilitySet::SYS_BOOT, native: libc::SYS_kexec_file_load, narrow: &[] },
    Refused { capability: CapabilitySet::SYS_BOOT, native: libc::SYS_reboot, narrow: &[88] },
    // Where memory goes: the agent's own SYS_ADMIN would allow it.
    Refused { capability: CapabilitySet::SYS_ADMIN, native: libc::SYS_swapon, narrow: &[87] },
    Refused { capability: CapabilitySet::SYS_ADMIN, native: libc::SYS_swapoff, narrow: &[115] },
    // A log of every process.
    Refused { capability: CapabilitySet::SYS_PACCT, native: libc::SYS_acct, narrow: &[51] },
    // Everybody's clock.
    Refused { capability: CapabilitySet::SYS_TIME, native: libc::SYS_settimeofday, narrow: &[79, 25] },
    Refused { capability: CapabilitySet::SYS_TIME, native: libc::SYS_clock_settime, narrow: &[264, 404] },
    // The hardware.
    Refused { capability: CapabilitySet::SYS_RAWIO, native: libc::SYS_iopl, narrow: &[110] },
    Refused { capability: CapabilitySet::SYS_RAWIO, native: libc::SYS_ioperm, narrow: &[101] },
];

/// 32-bit numbers of arch/arm/tools/syscall.tbl.
#[cfg(target_arch = "aarch64")]
const REFUSED: &[Refused] = &[
    // Code in the kernel.
    Refused { capability: CapabilitySet::SYS_MODULE, native: libc::SYS_init_module, narrow: &[128] },
    Refused { capability: CapabilitySet::SYS_MODULE, native: libc::SYS_finit_module, narrow: &[379] },
    Refused { capability: CapabilitySet::SYS_MODULE, native: libc::SYS_delete_module, narrow: &[129] },
    // Another kernel, and the host's end.
    Refused { capability: CapabilitySet::SYS_BOOT, native: libc::SYS_kexec_load, narrow: &[347] },
    Refused { capability: CapabilitySet::SYS_BOOT, native: libc::SYS_kexec_file_load, narrow: &[401] },
    Refused { capability: CapabilitySet::SYS_BOOT, native: libc::SYS_reboot, narrow: &[88] },
    // Where memory goes: the agent's own SYS_ADMIN would allow it.
    Refused { capability: CapabilitySet::SYS_ADMIN, native: libc::SYS_swapon, narrow: &[87] },
    Refused { capability: CapabilitySet::SYS_ADMIN, native: libc::SYS_swapoff, narrow: &[115] },
    // A log of every process.
    Refused { capability: CapabilitySet::SYS_PACCT, native: libc::SYS_acct, narrow: &[51] },
    // Everybody's clock.
    Refused { capability: CapabilitySet::SYS_TIME, native: libc::SYS_settimeofday, narrow: &[79] },
    Refused { capability: CapabilitySet::SYS_TIME, native: libc::SYS_clock_settime, narrow: &[262, 404] },
];

fn doors(for_tasks: CapabilitySet) -> [Door; 2] {
    let refused = || REFUSED.iter().filter(|call| !for_tasks.contains(call.capability));
    // Numbers of calls are small and not negative.
    let native = refused().filter_map(|call| u32::try_from(call.native).ok()).collect();
    let narrow = refused().flat_map(|call| call.narrow.iter().copied()).collect();
    let (wide_door, narrow_door) = ARCHITECTURES;
    [
        Door { architecture: wide_door, mask: !X32, refused: native },
        Door { architecture: narrow_door, mask: u32::MAX, refused: narrow },
    ]
}

// Where `struct seccomp_data` of include/uapi/linux/seccomp.h has them.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Filters this thread and those that it starts from now on; there is no way back.
///
/// `for_tasks` are capabilities that the operator lets tasks have, with the calls that need them.
/// The thread has no way to new privileges (PR_SET_NO_NEW_PRIVS), or may do anything (SYS_ADMIN).
pub fn install(for_tasks: CapabilitySet) -> io::Result<()> {
    let mut program = program(&doors(for_tasks));
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // Without this flag, kernels before 5.16 would slow every task down (spec_store_bypass): the filter
    // is no sandbox for hostile code, and asks for no such thing.
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the program and what it points to outlive the call, which copies them.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// For each door: is it ours, is the number refused; what comes through no door of ours is let through.
fn program(doors: &[Door]) -> Vec<libc::sock_filter> {
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, ARCHITECTURE)];
    for door in doors {
        // The number, the mask, a comparison for each, and the two verdicts.
        let length = u8::try_from(door.refused.len() + 4).unwrap_or(u8::MAX);
        program.push(comparison(door.architecture, 0, length));
        program.push(statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER));
        program.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, door.mask));
        for (done, number) in door.refused.iter().enumerate() {
            // Over the comparisons that are left, and over the verdict that allows.
            let left = u8::try_from(door.refused.len() - done).unwrap_or(u8::MAX);
            program.push(comparison(*number, left, 0));
        }
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
        let errno = libc::EPERM.unsigned_abs();
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    program
}

fn statement(code: u32, value: u32) -> libc::sock_filter {
    // Codes have 16 bits (include/uapi/linux/filter.h).
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: value }
}

fn comparison(value: u32, if_equal: u8, if_not: u8) -> libc::sock_filter {
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    libc::sock_filter { code: code as u16, jt: if_equal, jf: if_not, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn verdict(doors: &[Door], architecture: u32, number: u32) -> u32 {
        let program = program(doors);
        let (mut place, mut value) = (0, 0);
        loop {
            let line = program[place];
            place += 1;
            match u32::from(line.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    value = if line.k == NUMBER { number } else { architecture };
                }
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => value &= line.k,
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    place += usize::from(if value == line.k { line.jt } else { line.jf });
                }
                code if code == libc::BPF_RET | libc::BPF_K => return line.k,
                code => panic!("code {code}"),
            }
        }
    }

    #[test]
    fn every_refused_number_is_refused_at_its_door_and_no_other_is() {
        let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let doors = doors(CapabilitySet::empty());
        for door in &doors {
            for number in 0..600 {
                let expected = if door.refused.contains(&number) { refusal } else { libc::SECCOMP_RET_ALLOW };
                assert_eq!(
                    verdict(&doors, door.architecture, number),
                    expected,
                    "{:#x} {number}",
                    door.architecture
                );
            }
        }
        assert_eq!(verdict(&doors, 0x1234, libc::SYS_reboot as u32), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn what_the_operator_lets_tasks_do_is_not_refused() {
        let doors = doors(CapabilitySet::SYS_TIME);
        let (wide, _) = ARCHITECTURES;
        assert_eq!(verdict(&doors, wide, libc::SYS_clock_settime as u32), libc::SECCOMP_RET_ALLOW);
        assert_ne!(verdict(&doors, wide, libc::SYS_reboot as u32), libc::SECCOMP_RET_ALLOW);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_x32_abi_is_no_way_around() {
        let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        assert_eq!(
            verdict(&doors(CapabilitySet::empty()), 0xc000_003e, libc::SYS_reboot as u32 | 0x4000_0000),
            refusal
        );
    }
}
