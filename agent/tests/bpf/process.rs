//! Processes that do what no shell can. The test program starts itself again, with the deed in its environment.
use std::{
    io::stdin,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::{getpid, gettid},
};

const DEED: &str = "MUSTER_TEST_DEED";

/// A command that does one of the deeds below.
pub fn command(deed: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments()).env(DEED, deed).stdin(Stdio::piped()).stdout(Stdio::null());
    command
}

/// The same for a shell to run.
pub fn script(deed: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!("{DEED}={deed} exec {} {} > /dev/null", program.display(), arguments().join(" "))
}

fn arguments() -> [&'static str; 3] {
    ["--exact", "process::deed", "--test-threads=1"]
}

/// Not a test: what the commands above run. Ends the process its own way.
#[test]
fn deed() {
    let Ok(deed) = std::env::var(DEED) else { return };
    match &*deed {
        "spin_in_real_time" => {
            become_real_time();
            let mut state = 1_u64;
            for step in 0..20_000_000 {
                state = std::hint::black_box(state ^ step);
            }
            std::process::exit(0);
        }
        end => leave_and_let(end),
    }
}

/// The leader leaves alone; when it is gone, this thread ends the process in the given way.
fn leave_and_let(end: &str) {
    // The leader waits in the test harness for this thread, which is a test.
    assert_ne!(getpid(), gettid());
    stdin().read_line(&mut String::new()).unwrap();
    send_leader_away();
    let is_leader_gone = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('Z')
    };
    while !is_leader_gone() {
        std::thread::yield_now();
    }
    match end {
        "exit_group" => std::process::exit(8),
        "signal" => kill(getpid(), Signal::SIGKILL).unwrap(),
        "exit" => exit_thread(4),
        other => panic!("{other}"),
    }
}

/// Ends this thread alone, by the bare system call.
#[expect(unsafe_code, reason = "no safe call ends a thread without its process")]
fn exit_thread(status: i32) {
    // SAFETY: nothing of this thread's stack is used by another one that goes on.
    unsafe { libc::syscall(libc::SYS_exit, status) };
}

extern "C" fn on_signal(_signal: i32) {
    exit_thread(3);
}

/// Makes the leader end itself, alone, in a signal handler.
#[expect(unsafe_code, reason = "no safe call has another thread run something at once")]
fn send_leader_away() {
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler makes one system call, which is async-signal-safe, and never returns.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let leader = getpid().as_raw();
    // SAFETY: a signal to a thread of our own, by number; no memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, leader, leader, libc::SIGUSR1) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[expect(unsafe_code, reason = "no safe call sets the scheduling policy")]
fn become_real_time() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live value that the call only reads.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
