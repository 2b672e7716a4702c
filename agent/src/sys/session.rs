//! Sessions of processes that entered a task: signals to them, and their end.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::cgroup::Cgroups;
use super::process::start_ticks;
use super::{CgroupName, ProcessId, SysError, raw};

/// How often it is looked whether a session is empty.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Rounds of SIGKILL: whoever forks during one is met in the next.
const KILL_ROUNDS: u32 = 64;

pub(super) fn signal_group(leader: ProcessId, number: u8) -> Result<(), SysError> {
    let failed = |source| SysError::SendSignal { signal: "a signal", pid: leader.pid, source };
    let Some(pid) = i32::try_from(leader.pid).ok().filter(|pid| *pid > 1) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let target = (-isize::try_from(pid).unwrap_or(isize::MAX)).cast_unsigned();
    // SAFETY: kill(2) takes numbers alone.
    let answer = unsafe { raw::syscall(libc::SYS_kill, [target, usize::from(number), 0, 0, 0, 0]) };
    match i32::try_from(-answer) {
        Ok(0) | Ok(libc::ESRCH) => Ok(()),
        Ok(errno) => Err(failed(io::Error::from_raw_os_error(errno))),
        Err(_) => Err(failed(io::ErrorKind::Other.into())),
    }
}

/// Only processes of the group are looked at, so that a number that was used again hits nobody else.
pub(super) fn end(
    cgroups: &Cgroups,
    name: &CgroupName,
    leader: ProcessId,
    patience: Duration,
) -> Result<(), SysError> {
    if !patience.is_zero() {
        let hung_up = members(cgroups, name, leader)?;
        for pid in &hung_up {
            send(leader, *pid, Signal::HUP)?;
            // One that is stopped would hear of it only later.
            send(leader, *pid, Signal::CONT)?;
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if members(cgroups, name, leader)?.is_empty() {
                return Ok(());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
    for _ in 0..KILL_ROUNDS {
        let left = members(cgroups, name, leader)?;
        if left.is_empty() {
            return Ok(());
        }
        for pid in left {
            send(leader, pid, Signal::KILL)?;
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Those of the session that live; an ended one that waits for its parent does not count.
fn members(cgroups: &Cgroups, name: &CgroupName, leader: ProcessId) -> Result<Vec<Pid>, SysError> {
    // A session keeps its number as long as it has members. If somebody else leads under this number, ours is over.
    let leads_now =
        start_ticks(leader.pid).map_err(|source| SysError::OpenProcess { pid: leader.pid, source })?;
    if leads_now.is_some_and(|ticks| ticks != leader.start_ticks) {
        return Ok(Vec::new());
    }
    // Ended ones leave cgroup.procs, all but the leaders of thread groups that have other threads.
    let processes = cgroups.processes(name)?;
    Ok(processes.into_iter().filter(|pid| session_of(*pid) == Ok(leader.pid)).collect())
}

/// The number of a process's session: 0 if its leader is outside of our pid namespace, as that of an agent in a
/// container may be, and so that of a newcomer who has not yet begun a session. rustix takes 0 for impossible.
fn session_of(pid: Pid) -> nix::Result<u32> {
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid.as_raw_pid())))?;
    Ok(session.as_raw().unsigned_abs())
}

fn send(leader: ProcessId, pid: Pid, signal: Signal) -> Result<(), SysError> {
    let number = pid.as_raw_nonzero().get().unsigned_abs();
    let failed = |source: rustix::io::Errno| SysError::SendSignal {
        signal: "a signal",
        pid: number,
        source: source.into(),
    };
    let held = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(held) => held,
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    // Held first, then asked: the number can't have changed hands in between.
    if session_of(pid) != Ok(leader.pid) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(&held, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[expect(clippy::print_stdout, reason = "what is skipped says so")]
    fn a_session_from_outside_is_number_0() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: a pid namespace needs root");
            return;
        }
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork"]).arg(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "sys::session::tests::first_of_a_pid_namespace"]);
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    #[ignore = "run by a_session_from_outside_is_number_0"]
    fn first_of_a_pid_namespace() {
        assert_eq!(session_of(Pid::INIT), Ok(0));
    }
}
