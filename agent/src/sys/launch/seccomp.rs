//! Which system calls a task may make.
//!
//! The default profile refuses what reaches beyond the task: mounts, other kernels, modules, keyrings, new
//! namespaces, kernel programs, other processes; a task that was given the capability for one of these may
//! make the calls of it. Everything else is allowed, but for numbers that no kernel had when this was written.
//! Start at [`default_profile`]; profiles of the operator come from `execute::profiles`.
//!
//! ## Design
//!
//! Refused numbers become a binary search, so that the kernel, which asks the filter about every number when it
//! is attached (`seccomp_cache_prepare` in kernel/seccomp.c, since 5.11), is done sooner; from then on an allowed
//! call costs a look into a bitmap. Attaching this profile takes a launch 57 µs; the chain of comparisons that
//! compilers of profiles write takes 120 µs for as many calls (`time_to_attach` below measures both).

use std::sync::Arc;

use libc::sock_filter;
pub use libc::sock_filter as Instruction;
use rustix::thread::CapabilitySet;

/// A profile as the kernel takes it.
pub type Program = Arc<[sock_filter]>;

/// The profile of one task.
#[derive(Clone, Default)]
pub enum Seccomp {
    /// The default one, less what the task's capabilities are for.
    #[default]
    Default,
    /// No filter of the task's own.
    Unconfined,
    /// One that the operator wrote.
    Custom(Program),
}

impl std::fmt::Debug for Seccomp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::Unconfined => formatter.write_str("unconfined"),
            Self::Custom(program) => write!(formatter, "custom of {} instructions", program.len()),
        }
    }
}

/// Where a call is allowed after all.
#[derive(Clone, Copy)]
enum Unless {
    Never,
    /// The task was given one of these.
    Has(CapabilitySet),
    /// It sees nobody's processes but its own, or was given the capability for others.
    Alone,
}

/// A call that is refused: its number, and that of 32-bit programs.
struct Refused {
    native: Option<i64>,
    compat: Option<u32>,
    unless: Unless,
}

const fn both(native: i64, compat: u32, unless: Unless) -> Refused {
    Refused { native: Some(native), compat: Some(compat), unless }
}

/// As of 32-bit programs only.
const fn old(compat: u32, unless: Unless) -> Refused {
    Refused { native: None, compat: Some(compat), unless }
}

const ADMIN: Unless = Unless::Has(CapabilitySet::SYS_ADMIN);
const BOOT: Unless = Unless::Has(CapabilitySet::SYS_BOOT);
const MODULE: Unless = Unless::Has(CapabilitySet::SYS_MODULE);
const TIME: Unless = Unless::Has(CapabilitySet::SYS_TIME);
const BPF: Unless = Unless::Has(CapabilitySet::SYS_ADMIN.union(CapabilitySet::BPF));
const PERFMON: Unless = Unless::Has(CapabilitySet::SYS_ADMIN.union(CapabilitySet::PERFMON));
const SYSLOG: Unless = Unless::Has(CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYSLOG));
#[cfg(target_arch = "x86_64")]
const RAWIO: Unless = Unless::Has(CapabilitySet::SYS_RAWIO);

/// 32-bit numbers are those of i386 (arch/x86/entry/syscalls/syscall_32.tbl).
const REFUSED: &[Refused] = &[
    // What is mounted where, and whose names and quotas hold.
    both(libc::SYS_mount, 21, ADMIN),
    old(22, ADMIN), // umount
    both(libc::SYS_umount2, 52, ADMIN),
    both(libc::SYS_pivot_root, 217, ADMIN),
    both(libc::SYS_open_tree, 428, ADMIN),
    both(libc::SYS_move_mount, 429, ADMIN),
    both(libc::SYS_fsopen, 430, ADMIN),
    both(libc::SYS_fsconfig, 431, ADMIN),
    both(libc::SYS_fsmount, 432, ADMIN),
    both(libc::SYS_fspick, 433, ADMIN),
    both(libc::SYS_mount_setattr, 442, ADMIN),
    both(467, 467, ADMIN), // open_tree_attr
    both(libc::SYS_setns, 346, ADMIN),
    both(libc::SYS_sethostname, 74, ADMIN),
    both(libc::SYS_setdomainname, 121, ADMIN),
    both(libc::SYS_quotactl, 131, ADMIN),
    both(libc::SYS_quotactl_fd, 443, ADMIN),
    both(libc::SYS_fanotify_init, 338, ADMIN),
    both(libc::SYS_lookup_dcookie, 253, ADMIN),
    // Files that are not on any path of the task's.
    both(libc::SYS_open_by_handle_at, 342, Unless::Has(CapabilitySet::DAC_READ_SEARCH)),
    // The kernel itself: its programs, its log, its successors, its parts.
    both(libc::SYS_bpf, 357, BPF),
    both(libc::SYS_perf_event_open, 336, PERFMON),
    both(libc::SYS_syslog, 103, SYSLOG),
    both(libc::SYS_reboot, 88, BOOT),
    both(libc::SYS_kexec_load, 283, BOOT),
    Refused { native: Some(libc::SYS_kexec_file_load), compat: None, unless: BOOT },
    both(libc::SYS_init_module, 128, MODULE),
    both(libc::SYS_finit_module, 350, MODULE),
    both(libc::SYS_delete_module, 129, MODULE),
    both(libc::SYS_acct, 51, Unless::Has(CapabilitySet::SYS_PACCT)),
    both(libc::SYS_vhangup, 111, Unless::Has(CapabilitySet::SYS_TTY_CONFIG)),
    // Everybody's clock.
    both(libc::SYS_settimeofday, 79, TIME),
    both(libc::SYS_clock_settime, 264, TIME),
    old(404, TIME), // clock_settime64
    old(25, TIME),  // stime
    // Keyrings know no namespace.
    both(libc::SYS_add_key, 286, Unless::Never),
    both(libc::SYS_request_key, 287, Unless::Never),
    both(libc::SYS_keyctl, 288, Unless::Never),
    // Each made many an exploit work.
    both(libc::SYS_userfaultfd, 374, Unless::Never),
    both(libc::SYS_io_uring_setup, 425, Unless::Never),
    both(libc::SYS_io_uring_enter, 426, Unless::Never),
    both(libc::SYS_io_uring_register, 427, Unless::Never),
    both(libc::SYS_swapon, 87, Unless::Never),
    both(libc::SYS_swapoff, 115, Unless::Never),
    both(libc::SYS_nfsservctl, 169, Unless::Never),
    // Other processes, where the task sees them.
    both(libc::SYS_ptrace, 26, Unless::Alone),
    both(libc::SYS_process_vm_readv, 347, Unless::Alone),
    both(libc::SYS_process_vm_writev, 348, Unless::Alone),
    both(libc::SYS_pidfd_getfd, 438, Unless::Alone),
    both(libc::SYS_kcmp, 349, Unless::Alone),
    // The hardware.
    #[cfg(target_arch = "x86_64")]
    both(libc::SYS_iopl, 110, RAWIO),
    #[cfg(target_arch = "x86_64")]
    both(libc::SYS_ioperm, 101, RAWIO),
    // What nobody has called for decades.
    #[cfg(target_arch = "x86_64")]
    both(libc::SYS_uselib, 86, Unless::Never),
    #[cfg(target_arch = "x86_64")]
    both(libc::SYS_ustat, 62, Unless::Never),
    #[cfg(target_arch = "x86_64")]
    both(libc::SYS_sysfs, 135, Unless::Never),
    #[cfg(target_arch = "x86_64")]
    both(libc::SYS__sysctl, 149, Unless::Never),
];

/// Calls whose first argument says whether they make a namespace.
const NAMESPACE_MAKERS: &[(i64, u32)] = &[(libc::SYS_clone, 120), (libc::SYS_unshare, 310)];

/// mount, cgroup, uts, ipc, user, pid, net.
const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// Its arguments are out of a filter's sight; C libraries fall back to `clone` when it isn't there.
const CLONE3: u32 = 435;

/// The first number that no kernel had when this was written (6.18); what comes later is unknown, and so absent.
const UNKNOWN: u32 = 471;

/// AUDIT_ARCH_* of include/uapi/linux/audit.h.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
#[cfg(target_arch = "x86_64")]
const COMPAT: Option<u32> = Some(0x4000_0003);
#[cfg(target_arch = "aarch64")]
const COMPAT: Option<u32> = None;

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Allow,
    /// EPERM.
    Refuse,
    /// ENOSYS.
    Absent,
    /// Refused where the first argument has one of the namespace flags.
    RefuseNamespaces,
}

/// The default profile of a task with these capabilities; `is_alone`: it sees no processes but its own.
///
/// A refused call fails with EPERM. Calls of x32 programs, and on arm64 of all 32-bit programs, fail with ENOSYS.
pub fn default_profile(capabilities: CapabilitySet, is_alone: bool) -> Program {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for (architecture, is_native) in [(Some(NATIVE), true), (COMPAT, false)] {
        let Some(architecture) = architecture else { continue };
        let tree = tree(&intervals(capabilities, is_alone, is_native));
        // Over the jump, which alone reaches over a whole tree.
        program.push(comparison(libc::BPF_JEQ, architecture, 1, 0));
        program.push(statement(libc::BPF_JMP | libc::BPF_JA, u32::try_from(tree.len() + 1).unwrap_or(0)));
        program.push(statement(LOAD, NUMBER));
        program.extend(tree);
    }
    program.extend(leaf(Verdict::Absent));
    program.into()
}

/// Verdicts over all numbers: each holds from its number up to the next one's.
fn intervals(capabilities: CapabilitySet, is_alone: bool, is_native: bool) -> Vec<(u32, Verdict)> {
    let is_allowed = |unless: Unless| match unless {
        Unless::Never => false,
        Unless::Has(any) => capabilities.intersects(any),
        Unless::Alone => is_alone || capabilities.contains(CapabilitySet::SYS_PTRACE),
    };
    let number = |native: Option<i64>, compat: Option<u32>| match is_native {
        true => native.and_then(|native| u32::try_from(native).ok()),
        false => compat,
    };
    let mut single: Vec<(u32, Verdict)> = REFUSED
        .iter()
        .filter(|call| !is_allowed(call.unless))
        .filter_map(|call| Some((number(call.native, call.compat)?, Verdict::Refuse)))
        .collect();
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        single.push((CLONE3, Verdict::Absent));
        let makers =
            NAMESPACE_MAKERS.iter().filter_map(|(native, compat)| number(Some(*native), Some(*compat)));
        single.extend(makers.map(|number| (number, Verdict::RefuseNamespaces)));
    }
    single.sort_unstable_by_key(|(number, _)| *number);
    let mut intervals = vec![(0, Verdict::Allow)];
    let mut add = |from: u32, verdict: Verdict| match intervals.last_mut() {
        Some((start, last)) if *start == from => *last = verdict,
        Some((_, last)) if *last == verdict => {}
        _ => intervals.push((from, verdict)),
    };
    for (number, verdict) in single {
        add(number, verdict);
        add(number + 1, Verdict::Allow);
    }
    add(UNKNOWN, Verdict::Absent);
    // An interval that was allowed and then overwritten may now equal the one before it.
    intervals.dedup_by_key(|(_, verdict)| *verdict);
    intervals
}

/// A binary search for the interval of the number that is loaded, and the verdicts behind it, each once.
fn tree(intervals: &[(u32, Verdict)]) -> Vec<sock_filter> {
    let mut nodes = Vec::with_capacity(intervals.len());
    search(intervals, &mut nodes);
    let mut program = Vec::with_capacity(nodes.len() + 8);
    let mut leaves = Vec::new();
    let mut places = Vec::new();
    for verdict in [Verdict::Allow, Verdict::Refuse, Verdict::Absent, Verdict::RefuseNamespaces] {
        places.push((verdict, nodes.len() + leaves.len()));
        leaves.extend(leaf(verdict));
    }
    for (index, Node { pivot, below, above }) in nodes.iter().enumerate() {
        let place = |target: Target| match target {
            Target::Node(place) => place,
            Target::Leaf(verdict) => {
                let found = places.iter().find(|(leaf, _)| *leaf == verdict);
                found.map_or(nodes.len(), |(_, place)| *place)
            }
        };
        // A jump reaches 255 instructions far, which is more than both tables have numbers; tests try them all.
        let distance = |target: Target| u8::try_from(place(target) - index - 1).unwrap_or(u8::MAX);
        program.push(comparison(libc::BPF_JGE, *pivot, distance(*above), distance(*below)));
    }
    program.extend(leaves);
    program
}

/// A question of the search: is the number at least the pivot?
struct Node {
    pivot: u32,
    below: Target,
    above: Target,
}

#[derive(Clone, Copy)]
enum Target {
    Node(usize),
    Leaf(Verdict),
}

/// Adds the questions for these intervals, the first of them first.
fn search(intervals: &[(u32, Verdict)], nodes: &mut Vec<Node>) -> Target {
    let (below, above) = intervals.split_at(intervals.len() / 2);
    let (Some((pivot, _)), false) = (above.first(), below.is_empty()) else {
        return Target::Leaf(intervals.first().map_or(Verdict::Absent, |(_, verdict)| *verdict));
    };
    let place = nodes.len();
    nodes.push(Node { pivot: *pivot, below: Target::Node(place), above: Target::Node(place) });
    let below = search(below, nodes);
    let above = search(above, nodes);
    if let Some(node) = nodes.get_mut(place) {
        (node.below, node.above) = (below, above);
    }
    Target::Node(place)
}

fn leaf(verdict: Verdict) -> Vec<sock_filter> {
    let answer = |value: u32| statement(libc::BPF_RET | libc::BPF_K, value);
    let error = |errno: i32| answer(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs());
    match verdict {
        Verdict::Allow => vec![answer(libc::SECCOMP_RET_ALLOW)],
        Verdict::Refuse => vec![error(libc::EPERM)],
        Verdict::Absent => vec![error(libc::ENOSYS)],
        Verdict::RefuseNamespaces => vec![
            statement(LOAD, FIRST_ARGUMENT),
            comparison(libc::BPF_JSET, NEW_NAMESPACES, 1, 0),
            answer(libc::SECCOMP_RET_ALLOW),
            error(libc::EPERM),
        ],
    }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;

// Where `struct seccomp_data` of include/uapi/linux/seccomp.h has them; of the argument its lower half.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

fn statement(code: u32, value: u32) -> sock_filter {
    // Codes have 16 bits (include/uapi/linux/filter.h).
    sock_filter { code: code as u16, jt: 0, jf: 0, k: value }
}

fn comparison(kind: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    let code = libc::BPF_JMP | kind | libc::BPF_K;
    sock_filter { code: code as u16, jt: if_true, jf: if_false, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn verdict(program: &Program, architecture: u32, number: u32, argument: u32) -> u32 {
        let (mut place, mut value) = (0, 0);
        loop {
            let line = program[place];
            place += 1;
            let code = u32::from(line.code);
            let jump = |is_true: bool| usize::from(if is_true { line.jt } else { line.jf });
            match (code & 0x07, code & 0xf0) {
                (libc::BPF_LD, _) => {
                    value = match line.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        FIRST_ARGUMENT => argument,
                        other => panic!("offset {other}"),
                    };
                }
                (libc::BPF_JMP, libc::BPF_JA) => place += line.k as usize,
                (libc::BPF_JMP, libc::BPF_JEQ) => place += jump(value == line.k),
                (libc::BPF_JMP, libc::BPF_JGE) => place += jump(value >= line.k),
                (libc::BPF_JMP, libc::BPF_JSET) => place += jump(value & line.k != 0),
                (libc::BPF_RET, _) => return line.k,
                _ => panic!("code {code}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    #[test]
    fn every_number_gets_the_verdict_of_the_table() {
        for (capabilities, is_alone) in [
            (CapabilitySet::empty(), true),
            (CapabilitySet::empty(), false),
            (CapabilitySet::SYS_ADMIN, true),
            (CapabilitySet::all(), false),
        ] {
            let program = default_profile(capabilities, is_alone);
            assert!(program.len() < 250, "{} instructions", program.len());
            let is_admin = capabilities.contains(CapabilitySet::SYS_ADMIN);
            for number in 0..UNKNOWN + 100 {
                let found = REFUSED.iter().find(|call| call.native == Some(number.into()));
                let is_refused = found.is_some_and(|call| match call.unless {
                    Unless::Never => true,
                    Unless::Has(any) => !capabilities.intersects(any),
                    Unless::Alone => !is_alone && !capabilities.contains(CapabilitySet::SYS_PTRACE),
                });
                let expected = match number {
                    _ if is_refused => EPERM,
                    number if number >= UNKNOWN || number == CLONE3 && !is_admin => ENOSYS,
                    _ => ALLOW,
                };
                assert_eq!(verdict(&program, NATIVE, number, 0), expected, "{number} with {capabilities:?}");
            }
        }
    }

    #[test]
    fn new_namespaces_are_refused_and_new_threads_are_not() {
        let program = default_profile(CapabilitySet::empty(), true);
        let threads = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u32;
        for call in [libc::SYS_clone as u32, libc::SYS_unshare as u32] {
            assert_eq!(verdict(&program, NATIVE, call, threads), ALLOW);
            for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWCGROUP] {
                assert_eq!(verdict(&program, NATIVE, call, flag as u32), EPERM);
            }
        }
        let able = default_profile(CapabilitySet::SYS_ADMIN, true);
        assert_eq!(verdict(&able, NATIVE, libc::SYS_unshare as u32, libc::CLONE_NEWNS as u32), ALLOW);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn no_other_way_into_the_kernel_leads_around() {
        let program = default_profile(CapabilitySet::empty(), true);
        // x32, whose numbers are the native ones with a bit set; i386; and one that this kernel can't have.
        assert_eq!(verdict(&program, NATIVE, 0x4000_0000 | libc::SYS_mount as u32, 0), ENOSYS);
        assert_eq!(verdict(&program, 0x4000_0003, 21, 0), EPERM);
        assert_eq!(verdict(&program, 0x4000_0003, 4, 0), ALLOW);
        assert_eq!(verdict(&program, 0x4000_0003, 120, libc::CLONE_NEWUSER as u32), EPERM);
        assert_eq!(verdict(&program, 0xc000_00b7, 4, 0), ENOSYS);
    }

    /// What attaching takes, beside the chain of comparisons that compilers of profiles write.
    #[test]
    #[ignore = "prints a figure"]
    #[allow(clippy::print_stdout)]
    fn time_to_attach() {
        let profile = default_profile(CapabilitySet::empty(), true);
        let refused: Vec<u32> =
            (0..UNKNOWN).filter(|number| verdict(&profile, NATIVE, *number, 0) != ALLOW).collect();
        let answer = |value: u32| statement(libc::BPF_RET | libc::BPF_K, value);
        let mut chain = vec![statement(LOAD, NUMBER)];
        for number in &refused {
            chain.extend([comparison(libc::BPF_JEQ, *number, 0, 1), answer(EPERM)]);
        }
        chain.push(answer(ALLOW));
        let chain: Program = chain.into();
        // In turns, so that what else the machine does is in both alike.
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..2000 {
            ours.push(attached_in(&profile));
            theirs.push(attached_in(&chain));
        }
        for (name, program, mut times) in [("search", &profile, ours), ("chain", &chain, theirs)] {
            times.sort();
            let at = |quarter: usize| times[(times.len() - 1) * quarter / 4].as_secs_f64() * 1e6;
            let (low, median, high) = (at(1), at(2), at(3));
            println!("{name} of {} instructions: {median:.1} µs ({low:.1} to {high:.1})", program.len());
        }
    }

    /// On a thread of its own, which has the filter for its short life.
    fn attached_in(program: &Program) -> std::time::Duration {
        let program = program.clone();
        let attach = move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let length = u16::try_from(program.len()).unwrap();
            let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
            let began = std::time::Instant::now();
            // SAFETY: the program outlives the call, which is told its length.
            let answer = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                    &raw const filter,
                )
            };
            let elapsed = began.elapsed();
            assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
            elapsed
        };
        std::thread::spawn(attach).join().unwrap()
    }
}
