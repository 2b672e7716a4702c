//! Attacks on the kernel itself: groups, /proc, /sys, and what only its owner may ask of it.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::{Outcome, Target, all_must_fail, in_a_child, syscall};

/// Where hierarchies usually are, and the groups that this process is in.
fn own_groups() -> Vec<(PathBuf, PathBuf)> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let roots: Vec<PathBuf> = match controllers {
            "" => vec!["/sys/fs/cgroup".into(), "/sys/fs/cgroup/unified".into()],
            names => {
                names.split(',').chain([names]).map(|name| Path::new("/sys/fs/cgroup").join(name)).collect()
            }
        };
        for root in roots {
            let own = root.join(path.trim_start_matches('/'));
            if own.join("cgroup.procs").exists() {
                groups.push((root, own));
            }
        }
    }
    groups
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

pub fn join_a_group_above(target: &Target) -> Outcome {
    let mut tries = Vec::new();
    for (root, own) in own_groups() {
        let above = own.parent().map(Path::to_owned).unwrap_or_else(|| root.clone());
        for group in [root.clone(), above, root.join(&target.cgroup_parent)] {
            for file in ["cgroup.procs", "tasks"] {
                let path = group.join(file);
                if path.exists() {
                    tries.push((format!("join {}", path.display()), in_a_child(|| write(&path, "0"))));
                }
            }
        }
        let child = own.join("attack");
        tries.push((format!("make {}", child.display()), fs::create_dir(&child)));
    }
    all_must_fail(tries)
}

pub fn lift_its_own_limits(_: &Target) -> Outcome {
    let mut tries = Vec::new();
    for (_, own) in own_groups() {
        for (file, text) in [
            ("memory.max", "max"),
            ("memory.limit_in_bytes", "-1"),
            ("pids.max", "max"),
            ("cpu.max", "max"),
            ("cpu.cfs_quota_us", "-1"),
            ("cpu.shares", "262144"),
            ("cgroup.subtree_control", "+memory"),
            ("cgroup.kill", "0"),
            ("devices.allow", "a"),
        ] {
            let path = own.join(file);
            if path.exists() {
                tries.push((format!("write {}", path.display()), write(&path, text)));
            }
        }
    }
    all_must_fail(tries)
}

pub fn mount(kind: &str, at: &str, options: &str) -> io::Result<()> {
    let texts = [kind, at, options].map(|text| CString::new(text).unwrap_or_default());
    let [kind, at, options] = &texts;
    let pointers = [kind.as_ptr(), at.as_ptr(), kind.as_ptr()].map(|pointer| pointer as usize);
    syscall(libc::SYS_mount, [pointers[0], pointers[1], pointers[2], 0, options.as_ptr() as usize, 0])
        .map(drop)
}

pub fn mount_a_hierarchy(_: &Target) -> Outcome {
    let mut tries = Vec::new();
    for (kind, options) in [("cgroup2", ""), ("cgroup", "memory"), ("cgroup", "none,name=attack")] {
        tries.push((format!("mount {kind} {options}"), in_a_child(|| mount(kind, "/tmp", options))));
    }
    all_must_fail(tries)
}

/// Root inside a namespace of one's own is where most attacks on the kernel begin.
pub fn become_root_in_a_user_namespace(_: &Target) -> Outcome {
    let unshare = |flags: i32| {
        in_a_child(move || syscall(libc::SYS_unshare, [flags as usize, 0, 0, 0, 0, 0]).map(drop))
    };
    let clone = || {
        in_a_child(|| {
            // A stack of nothing: the child of `fork` semantics shares ours.
            let flags = (libc::CLONE_NEWUSER | libc::SIGCHLD) as usize;
            match syscall(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])? {
                // SAFETY: ends the grandchild at once.
                0 => unsafe { libc::_exit(0) },
                _ => Ok(()),
            }
        })
    };
    let clone3 = || {
        in_a_child(|| {
            let mut arguments = [0u64; 11];
            arguments[0] = libc::CLONE_NEWUSER as u64;
            arguments[4] = libc::SIGCHLD as u64;
            match syscall(libc::SYS_clone3, [arguments.as_ptr() as usize, 88, 0, 0, 0, 0])? {
                // SAFETY: ends the grandchild at once.
                0 => unsafe { libc::_exit(0) },
                _ => Ok(()),
            }
        })
    };
    all_must_fail([
        ("unshare a user namespace".to_owned(), unshare(libc::CLONE_NEWUSER)),
        ("unshare user and mount namespaces".to_owned(), unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)),
        ("clone into a user namespace".to_owned(), clone()),
        ("clone3 into a user namespace".to_owned(), clone3()),
    ])
}

pub fn write_to_proc_sys(_: &Target) -> Outcome {
    let files = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
    ];
    let tries = files.iter().filter(|path| Path::new(path).exists());
    // Opened for writing is enough to tell; nothing is written.
    all_must_fail(tries.map(|path| ((*path).to_owned(), OpenOptions::new().write(true).open(path).map(drop))))
}

pub fn write_to_sys(_: &Target) -> Outcome {
    let files =
        ["/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/power/state", "/sys/fs/bpf/attack"];
    let tries = files.iter().filter(|path| Path::new(path).parent().is_some_and(Path::exists));
    all_must_fail(tries.map(|path| {
        ((*path).to_owned(), OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop))
    }))
}

pub fn read_kernel_memory(_: &Target) -> Outcome {
    let files = [
        "/proc/kcore",
        "/dev/mem",
        "/dev/kmem",
        "/dev/port",
        "/dev/kmsg",
        "/proc/kmsg",
        "/sys/kernel/debug/x",
    ];
    let tries = files.iter().filter(|path| Path::new(path).exists());
    let mut outcome = all_must_fail(tries.map(|path| ((*path).to_owned(), fs::File::open(path).map(drop))));
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    if symbols
        .lines()
        .any(|line| line.split(' ').next().is_some_and(|at| at.bytes().any(|digit| digit != b'0')))
    {
        outcome = Outcome::Escaped("addresses in /proc/kallsyms".to_owned());
    }
    outcome
}

pub fn load_a_module(_: &Target) -> Outcome {
    let empty = c"";
    let load = syscall(libc::SYS_init_module, [0, 0, empty.as_ptr() as usize, 0, 0, 0]).map(drop);
    let from_file = syscall(libc::SYS_finit_module, [0, empty.as_ptr() as usize, 0, 0, 0, 0]).map(drop);
    let kexec = syscall(libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0]).map(drop);
    privileged([("init_module", load), ("finit_module", from_file), ("kexec_load", kexec)])
}

/// Contained only by a word about rights: another error means that the call was let in.
fn privileged<const N: usize>(tries: [(&str, io::Result<()>); N]) -> Outcome {
    let mut seen = Vec::new();
    for (what, result) in tries {
        match result {
            Ok(()) => return Outcome::Escaped(what.to_owned()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => seen.push(format!("{what}: {error}")),
                _ => return Outcome::Escaped(format!("{what} was let in: {error}")),
            },
        }
    }
    Outcome::Contained(seen.join("; "))
}

pub fn load_a_kernel_program(_: &Target) -> Outcome {
    // BPF_MAP_CREATE of an array: type, key size, value size, entries.
    let attributes: [u32; 32] = std::array::from_fn(|place| match place {
        0 => 2,
        1 | 2 => 4,
        3 => 1,
        _ => 0,
    });
    let made = syscall(libc::SYS_bpf, [0, attributes.as_ptr() as usize, size_of_val(&attributes), 0, 0, 0])
        .map(drop);
    privileged([("bpf", made)])
}

pub fn watch_with_perf(_: &Target) -> Outcome {
    let mut attributes = [0u64; 16];
    // PERF_TYPE_SOFTWARE and the size of the structure.
    attributes[0] = 1 | (128 << 32);
    let opened =
        syscall(libc::SYS_perf_event_open, [attributes.as_ptr() as usize, usize::MAX, 0, usize::MAX, 0, 0])
            .map(drop);
    privileged([("perf_event_open", opened)])
}

/// Keyrings are the kernel's, not a namespace's: what one task keeps another of the same user finds.
pub fn keep_a_key(_: &Target) -> Outcome {
    let (kind, name, value) = (c"user", c"muster-attack", c"secret");
    let user_keyring = -4_isize as usize;
    let arguments =
        [kind.as_ptr() as usize, name.as_ptr() as usize, value.as_ptr() as usize, 6, user_keyring, 0];
    let kept = syscall(libc::SYS_add_key, arguments).map(drop);
    // KEYCTL_GET_KEYRING_ID of the user's keyring.
    let looked = syscall(libc::SYS_keyctl, [0, user_keyring, 1, 0, 0, 0]).map(drop);
    privileged([("add_key", kept), ("keyctl", looked)])
}

/// Lets a process stop the kernel in the middle of a copy: the friend of many exploits.
pub fn handle_page_faults(_: &Target) -> Outcome {
    privileged([("userfaultfd", syscall(libc::SYS_userfaultfd, [0; 6]).map(drop))])
}

/// To what it is already: as good as harmless where it is let in.
pub fn set_the_clock(_: &Target) -> Outcome {
    let mut now = [0i64; 2];
    let at = now.as_mut_ptr() as usize;
    if let Err(error) = syscall(libc::SYS_clock_gettime, [0, at, 0, 0, 0, 0]) {
        return Outcome::Absent(error.to_string());
    }
    privileged([("clock_settime", syscall(libc::SYS_clock_settime, [0, at, 0, 0, 0, 0]).map(drop))])
}

pub fn reboot(_: &Target) -> Outcome {
    // LINUX_REBOOT_CMD_CAD_OFF with the right magic: harmless where it is let in.
    let (first, second) = (0xfee1_dead, 672_274_793);
    privileged([("reboot", syscall(libc::SYS_reboot, [first, second, 0, 0, 0, 0]).map(drop))])
}

pub fn raise_its_priority(_: &Target) -> Outcome {
    let priority = [50i32];
    all_must_fail([
        (
            "a real-time schedule".to_owned(),
            syscall(libc::SYS_sched_setscheduler, [0, 1, priority.as_ptr() as usize, 0, 0, 0]).map(drop),
        ),
        (
            "nice of -20".to_owned(),
            syscall(libc::SYS_setpriority, [0, 0, -20_isize as usize, 0, 0, 0]).map(drop),
        ),
        ("an OOM score of -1000".to_owned(), write(Path::new("/proc/self/oom_score_adj"), "-1000")),
        (
            "real-time I/O".to_owned(),
            // IOPRIO_WHO_PROCESS, itself, class real time.
            syscall(libc::SYS_ioprio_set, [1, 0, 1 << 13, 0, 0, 0]).map(drop),
        ),
    ])
}
