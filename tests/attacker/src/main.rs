//! A hostile task: it tries everything that a task must not be able to do, and says what came of it.
//!
//! Runs as the command of a task in `tests/e2e`. One line for each attack: `contained`, `escaped` or
//! `absent` (this kernel has no such thing), the attack's name, and what was seen.
//! Harmless where it succeeds: it looks, or changes what it can change back, and the line tells.
//! As `attacker spin` it only burns CPU time, in a function whose name a profile must show;
//! as `attacker bind` it takes ports and says what came of it.
//! Start at [`ATTACKS`]; each file holds the attacks on one thing.

mod files;
mod kernel;
mod network;
mod processes;
mod spin;

use std::{env, io, process::ExitCode};

/// What came of an attack.
pub enum Outcome {
    Contained(String),
    Escaped(String),
    /// Nothing to attack here.
    Absent(String),
}

/// What an attack knows of its surroundings.
pub struct Target {
    /// The agent's process, by its number on the host.
    pub agent: i32,
    /// A process of another task, likewise.
    pub neighbour: i32,
    /// A file or directory of the host that no task may read.
    pub private: String,
    /// Another task's directory.
    pub neighbour_directory: String,
    /// The name of the agent's parent group.
    pub cgroup_parent: String,
}

type Attack = fn(&Target) -> Outcome;

const ATTACKS: &[(&str, Attack)] = &[
    ("join-a-group-above", kernel::join_a_group_above),
    ("lift-its-own-limits", kernel::lift_its_own_limits),
    ("mount-a-hierarchy", kernel::mount_a_hierarchy),
    ("become-root-in-a-user-namespace", kernel::become_root_in_a_user_namespace),
    ("write-to-proc-sys", kernel::write_to_proc_sys),
    ("write-to-sys", kernel::write_to_sys),
    ("read-kernel-memory", kernel::read_kernel_memory),
    ("load-a-module", kernel::load_a_module),
    ("load-a-kernel-program", kernel::load_a_kernel_program),
    ("watch-with-perf", kernel::watch_with_perf),
    ("keep-a-key", kernel::keep_a_key),
    ("handle-page-faults", kernel::handle_page_faults),
    ("set-the-clock", kernel::set_the_clock),
    ("reboot", kernel::reboot),
    ("raise-its-priority", kernel::raise_its_priority),
    ("signal-the-agent", processes::signal_the_agent),
    ("signal-everyone", processes::signal_everyone),
    ("see-others", processes::see_others),
    ("trace-others", processes::trace_others),
    ("read-the-memory-of-others", processes::read_the_memory_of_others),
    ("enter-namespaces-of-others", processes::enter_namespaces_of_others),
    ("run-a-setuid-program", processes::run_a_setuid_program),
    ("gain-capabilities", processes::gain_capabilities),
    ("read-private-files", files::read_private_files),
    ("change-files-of-the-host", files::change_files_of_the_host),
    ("enter-the-neighbours-directory", files::enter_the_neighbours_directory),
    ("make-a-device", files::make_a_device),
    ("open-a-disk", files::open_a_disk),
    ("open-by-handle", files::open_by_handle),
    ("mount-something", files::mount_something),
    ("change-root", files::change_root),
    ("replace-its-output-by-a-link", files::replace_its_output_by_a_link),
    ("forge-its-exit-record", files::forge_its_exit_record),
    ("open-a-raw-socket", network::open_a_raw_socket),
    ("open-a-packet-socket", network::open_a_packet_socket),
    ("destroy-a-socket", network::destroy_a_socket),
    ("change-the-network", network::change_the_network),
    ("bind-a-low-port", network::bind_a_low_port),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments == ["spin"] {
        spin::forever();
    }
    if let ["bind", wishes @ ..] = arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        network::bind_and_stay(wishes);
    }
    let [agent, neighbour, private, neighbour_directory, cgroup_parent] = arguments.as_slice() else {
        eprintln!("usage: attacker AGENT-PID NEIGHBOUR-PID PRIVATE-PATH NEIGHBOUR-DIRECTORY CGROUP-PARENT");
        return ExitCode::from(2);
    };
    let (Ok(agent), Ok(neighbour)) = (agent.parse(), neighbour.parse()) else {
        eprintln!("attacker: the first two arguments are process numbers");
        return ExitCode::from(2);
    };
    let target = Target {
        agent,
        neighbour,
        private: private.clone(),
        neighbour_directory: neighbour_directory.clone(),
        cgroup_parent: cgroup_parent.clone(),
    };
    for (name, attack) in ATTACKS {
        let (word, what) = match attack(&target) {
            Outcome::Contained(what) => ("contained", what),
            Outcome::Escaped(what) => ("escaped", what),
            Outcome::Absent(what) => ("absent", what),
        };
        println!("{word} {name}: {what}");
    }
    println!("{} attacks", ATTACKS.len());
    ExitCode::SUCCESS
}

/// Success of what must not succeed is an escape.
pub fn must_fail<T>(what: &str, result: io::Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Escaped(what.to_owned()),
        Err(error) => Outcome::Contained(format!("{what}: {error}")),
    }
}

/// The first of several tries that succeeds is an escape.
pub fn all_must_fail(tries: impl IntoIterator<Item = (String, io::Result<()>)>) -> Outcome {
    let mut seen = Vec::new();
    for (what, result) in tries {
        match result {
            Ok(()) => return Outcome::Escaped(what),
            Err(error) => seen.push(format!("{what}: {error}")),
        }
    }
    if seen.is_empty() {
        Outcome::Absent("nothing to try".to_owned())
    } else {
        Outcome::Contained(seen.join("; "))
    }
}

/// A system call by its number; the answer as the C library gives it.
pub fn syscall(number: libc::c_long, arguments: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: every caller passes numbers, or pointers into memory that outlives the call.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as usize) }
}

/// Tries something in a child of its own, so that what it breaks is only the child. `Ok` when the child
/// says that it succeeded.
pub fn in_a_child(attempt: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: this program has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = match attempt() {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(255).clamp(1, 255),
            };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            if unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::WIFEXITED(status) {
                match libc::WEXITSTATUS(status) {
                    0 => Ok(()),
                    code => Err(io::Error::from_raw_os_error(code)),
                }
            } else {
                Err(io::Error::other(format!("ended by signal {}", libc::WTERMSIG(status))))
            }
        }
    }
}
