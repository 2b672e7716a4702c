//! Attacks on other processes, and on rights that aren't one's own.

use std::{fs, io, path::Path, process::Command};

use crate::{Outcome, Target, all_must_fail, in_a_child, must_fail, syscall};

fn kill(process: i32, signal: i32) -> io::Result<()> {
    syscall(libc::SYS_kill, [process as usize, signal as usize, 0, 0, 0, 0]).map(drop)
}

/// Whether the number stands for a process that isn't ours: in a pid namespace it may be one of our own.
fn is_strange(process: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) else { return true };
    !status.contains("attacker")
}

pub fn signal_the_agent(target: &Target) -> Outcome {
    let others = [("the agent", target.agent), ("a neighbour", target.neighbour)];
    let strange = others.iter().filter(|(_, process)| is_strange(*process));
    // Signal 0 only asks.
    all_must_fail(strange.map(|(who, process)| (format!("signal {who}"), kill(*process, 0))))
}

/// Reaches everyone that may be signalled; the test then looks whether agent and neighbour live.
pub fn signal_everyone(_: &Target) -> Outcome {
    let reached = in_a_child(|| {
        // SAFETY: ignores the signal that comes back to the sender.
        unsafe { libc::signal(libc::SIGCONT, libc::SIG_IGN) };
        kill(-1, libc::SIGCONT)
    });
    Outcome::Contained(format!("kill -1: {reached:?}"))
}

pub fn see_others(_: &Target) -> Outcome {
    let Ok(entries) = fs::read_dir("/proc") else { return Outcome::Contained("no /proc".to_owned()) };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let seen: Vec<String> = names
        .filter(|name| name.bytes().all(|digit| digit.is_ascii_digit()))
        .filter_map(|process| {
            let line = fs::read(format!("/proc/{process}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let is_ours = line.contains("attacker") || line.contains("muster-init") || line.is_empty();
            (!is_ours).then(|| format!("{process} {line}"))
        })
        .collect();
    if seen.is_empty() {
        Outcome::Contained("only itself".to_owned())
    } else {
        Outcome::Escaped(seen.join(", "))
    }
}

pub fn trace_others(target: &Target) -> Outcome {
    // PTRACE_SEIZE doesn't stop whom it reaches; 1 is its init here, or the host's.
    let tries = [("its init", 1), ("the agent", target.agent), ("a neighbour", target.neighbour)];
    let strange = tries.iter().filter(|(_, process)| is_strange(*process));
    all_must_fail(strange.map(|(who, process)| {
        let process = *process as usize;
        let seized = in_a_child(|| syscall(libc::SYS_ptrace, [0x4206, process, 0, 0, 0, 0]).map(drop));
        (format!("trace {who}"), seized)
    }))
}

pub fn read_the_memory_of_others(target: &Target) -> Outcome {
    let mut tries = Vec::new();
    for (who, process) in [("its init", 1), ("the agent", target.agent), ("a neighbour", target.neighbour)] {
        if !is_strange(process) {
            continue;
        }
        for file in ["mem", "environ", "maps", "root/etc/shadow", "fd/3"] {
            let path = format!("/proc/{process}/{file}");
            let read = fs::File::open(&path).and_then(|mut file| {
                let mut byte = [0];
                // An empty or unmapped beginning is no secret.
                match io::Read::read(&mut file, &mut byte)? {
                    0 => Err(io::Error::other("it opens, and is empty")),
                    _ => Ok(()),
                }
            });
            tries.push((format!("{file} of {who}"), read));
        }
        let mut byte = 0u8;
        let local = [&raw mut byte as usize, 1];
        let remote = [0x40_0000_usize, 1];
        let (local, remote) = (local.as_ptr() as usize, remote.as_ptr() as usize);
        let read = syscall(libc::SYS_process_vm_readv, [process as usize, local, 1, remote, 1, 0]);
        let read = read.map(drop).map_err(|error| match error.raw_os_error() {
            // Let in, only the address was wrong.
            Some(libc::EFAULT) => io::Error::other("EFAULT"),
            _ => error,
        });
        tries.push((format!("process_vm_readv of {who}"), read));
    }
    all_must_fail(tries)
}

pub fn enter_namespaces_of_others(target: &Target) -> Outcome {
    let mut tries = Vec::new();
    for (who, process) in [("its init", 1), ("the agent", target.agent)] {
        if !is_strange(process) {
            continue;
        }
        for kind in ["mnt", "pid", "net", "user", "ipc"] {
            let entered = in_a_child(|| {
                let file = fs::File::open(format!("/proc/{process}/ns/{kind}"))?;
                let fd = std::os::fd::AsRawFd::as_raw_fd(&file) as usize;
                syscall(libc::SYS_setns, [fd, 0, 0, 0, 0, 0]).map(drop)
            });
            tries.push((format!("{kind} of {who}"), entered));
        }
        let by_pidfd = in_a_child(|| {
            let pidfd = syscall(libc::SYS_pidfd_open, [process as usize, 0, 0, 0, 0, 0])?;
            syscall(libc::SYS_setns, [pidfd, libc::CLONE_NEWNS as usize, 0, 0, 0, 0]).map(drop)
        });
        tries.push((format!("all of {who} by its descriptor"), by_pidfd));
    }
    all_must_fail(tries)
}

/// A program of root's with the setuid bit runs, but without root's rights.
pub fn run_a_setuid_program(_: &Target) -> Outcome {
    // SAFETY: it only asks.
    if unsafe { libc::geteuid() } == 0 {
        return Outcome::Absent("it is root already".to_owned());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.contains("NoNewPrivs:\t1") {
        return Outcome::Escaped("it may gain privileges by execve".to_owned());
    }
    let programs = ["/bin/su", "/bin/mount", "/usr/bin/passwd", "/usr/bin/sudo", "/usr/bin/newgrp"];
    let Some(program) = programs.iter().find(|path| Path::new(path).exists()) else {
        return Outcome::Contained("no_new_privs, and no such program here".to_owned());
    };
    // Whatever it says, it must not be able to do what only root can.
    let output = Command::new(program).arg("--version").output();
    Outcome::Contained(format!("no_new_privs; {program}: {:?}", output.map(|output| output.status.code())))
}

pub fn gain_capabilities(_: &Target) -> Outcome {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX)
    };
    let bounding = set("CapBnd:");
    // What a task of root keeps: chown, dac_override, fowner, fsetid, kill, setgid, setuid, net_bind_service, chroot.
    let allowed = [0u64, 1, 3, 4, 5, 6, 7, 10, 18].iter().fold(0, |set, bit| set | 1 << bit);
    if bounding & !allowed != 0 {
        return Outcome::Escaped(format!("bounding set {bounding:x}"));
    }
    // SAFETY: it only asks.
    if unsafe { libc::geteuid() } == 0 {
        return Outcome::Contained(format!("bounding set {bounding:x}"));
    }
    let set_id = in_a_child(|| syscall(libc::SYS_setuid, [0; 6]).map(drop));
    match must_fail("setuid 0", set_id) {
        Outcome::Contained(what) => Outcome::Contained(format!("bounding set {bounding:x}; {what}")),
        other => other,
    }
}
