//! The kernel programs against the kernel's own figures. Needs root; skips loudly without.
//!
//! Each test has its own cgroup and its own folder of pins, so that they run side by side.
//! "Within 0.1 %" allows 2 µs more: the kernel's figure is cut to microseconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod group;
mod measures;
mod ports;
mod process;
mod stacks;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use agent::sys::{
    ProcessId,
    bpf::{self, Availability, BpfError, Limits, MemoryFigures, Options, ProcessState, Program, Programs},
};
use agent_ebpf_common::Stat;

use self::group::{Group, Running, unique_name, wait_for};

/// Some CPU time, the same amount on every machine.
const SPIN: &str = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";

/// A folder for pins that is gone at the end, whatever happened.
struct Pins(PathBuf);

/// False, and a line that says so, when this user can't run kernel programs.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root to load kernel programs");
    }
    is_root
}

impl Pins {
    /// `None`, and a line that says so, when this user can't run kernel programs.
    fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        Some(Self(std::env::temp_dir().join(unique_name())))
    }

    /// `None`, and a line that says so, when this kernel is too old for a program.
    fn open(&self, needs: &[Program], options: Options) -> Option<Programs> {
        let programs = Programs::open(&self.0, options).unwrap();
        for (program, availability) in programs.availability() {
            match availability {
                Availability::Unavailable(reason) if needs.contains(&program) => {
                    let is_known = reason.starts_with("not on this kernel");
                    assert!(is_known && kernel_version() < EVERY_PROGRAM_SINCE, "{program}: {reason}");
                    eprintln!("skipped: {program} can't run: {reason}");
                    return None;
                }
                Availability::Off if needs.contains(&program) => panic!("{program} is off"),
                Availability::Unavailable(_) | Availability::Off | Availability::Attached => {}
            }
        }
        Some(programs)
    }
}

/// The first kernel on which no program may be missing.
const EVERY_PROGRAM_SINCE: (u32, u32) = (6, 10);

fn kernel_version() -> (u32, u32) {
    let name = nix::sys::utsname::uname().unwrap();
    let mut numbers = name.release().to_str().unwrap().split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

const LIMITS: Limits = Limits { cgroups: 64, processes: 64, oom_events: 64 };

fn with(limits: Limits) -> Options {
    Options { limits, ..Options::default() }
}

/// Programs of our own, where those that the test needs can run.
fn start(needs: &[Program]) -> Option<(Pins, Programs)> {
    let pins = Pins::new()?;
    let programs = pins.open(needs, with(LIMITS))?;
    Some((pins, programs))
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = bpf::remove(&self.0) {
            eprintln!("left behind: {} ({error})", self.0.display());
        }
    }
}

fn process_id(pid: u32) -> ProcessId {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    ProcessId { pid, start_ticks: fields.split_ascii_whitespace().nth(19).unwrap().parse().unwrap() }
}

/// Compares for a cgroup without processes. The last one's way out is charged a moment after it is gone.
#[track_caller]
fn assert_cpu_matches(programs: &Programs, group: &Group) -> u64 {
    group.wait_empty();
    let mut last = (0, 0);
    wait_for("CPU time within 0.1 % of cpu.stat", || {
        last = (programs.cpu_ns(group.id()).unwrap().unwrap(), group.kernel_cpu_ns());
        let (ours, kernel) = last;
        ours > 0 && ours.abs_diff(kernel) <= kernel / 1000 + 2000
    });
    eprintln!("cpu: {} ns counted, {} ns by the kernel", last.0, last.1);
    last.0
}

/// Runs a script in the group to its end and compares.
fn check_cpu(script: &str) -> Option<u64> {
    let (_pins, programs) = start(&[Program::Cpu])?;
    let group = Group::new();
    programs.register_cgroup(group.id()).unwrap();
    assert!(group.command(script).status().unwrap().success());
    Some(assert_cpu_matches(&programs, &group))
}

#[test]
fn cpu_of_an_idle_task_is_exact() {
    check_cpu("sleep 0.3");
}

#[test]
fn cpu_of_a_spinning_task_is_exact() {
    let Some(ns) = check_cpu(SPIN) else { return };
    assert!(ns > 10_000_000, "{ns} ns for 100 000 rounds of a shell");
}

#[test]
fn cpu_of_a_thousand_short_processes_is_exact() {
    check_cpu("i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done");
}

#[test]
fn a_task_shorter_than_any_sampling_interval_is_metered() {
    let Some(ns) = check_cpu("true") else { return };
    assert!(ns < 1_000_000_000, "{ns} ns for `true`");
}

#[test]
fn cpu_of_a_throttled_task_is_exact() {
    let Some((_pins, programs)) = start(&[Program::Cpu]) else { return };
    let group = Group::new();
    group.limit_cpu(20);
    programs.register_cgroup(group.id()).unwrap();
    assert!(group.command(SPIN).status().unwrap().success());
    assert_cpu_matches(&programs, &group);
    assert!(group.kernel_throttled() > 0, "the task wasn't throttled, so the test showed nothing");
}

#[test]
fn cpu_of_a_real_time_task_is_exact() {
    let Some((_pins, programs)) = start(&[Program::Cpu]) else { return };
    let group = Group::new();
    programs.register_cgroup(group.id()).unwrap();
    let spin = process::script("spin_in_real_time");
    assert!(group.command_v2_only(&spin).status().unwrap().success(), "no real-time task here");
    let ns = assert_cpu_matches(&programs, &group);
    assert!(ns > 10_000_000, "{ns} ns for 20 000 000 rounds");
}

#[test]
fn cpu_of_a_running_task_lies_between_two_readings_of_the_kernel() {
    let Some((_pins, programs)) = start(&[Program::Cpu]) else { return };
    let group = Group::new();
    programs.register_cgroup(group.id()).unwrap();
    let _spinner = Running(group.command("while :; do :; done").spawn().unwrap());
    wait_for("the spinner to spin", || group.kernel_cpu_ns() > 20_000_000);
    for _ in 0..50 {
        let before = group.kernel_cpu_ns();
        let ours = programs.cpu_ns(group.id()).unwrap().unwrap();
        let after = group.kernel_cpu_ns() + 1000;
        assert!((before..=after).contains(&ours), "{before} <= {ours} <= {after}");
    }
}

#[test]
fn what_is_not_registered_is_counted_as_other_and_never_as_zero() {
    let Some((_pins, programs)) = start(&[Program::Cpu, Program::Snap]) else { return };
    let group = Group::new();
    let before = programs.count(Stat::CpuOtherNs).unwrap();
    assert!(group.command(SPIN).status().unwrap().success());
    group.wait_empty();
    assert_eq!(programs.cpu_ns(group.id()).unwrap(), None);
    let other = programs.count(Stat::CpuOtherNs).unwrap() - before;
    assert!(other >= group.kernel_cpu_ns() - 2000, "{other} ns of others include ours");
    assert!(!programs.snapshot().unwrap().cgroups.contains_key(&group.id()));
}

#[test]
fn registering_twice_keeps_the_figures_and_a_full_map_refuses() {
    let Some(pins) = Pins::new() else { return };
    let limits = Limits { cgroups: 2, processes: 2, oom_events: 1 };
    let Some(programs) = pins.open(&[Program::Cpu], with(limits)) else { return };
    let (one, two, three) = (Group::new(), Group::new(), Group::new());
    programs.register_cgroup(one.id()).unwrap();
    assert!(one.command("true").status().unwrap().success());
    let ns = assert_cpu_matches(&programs, &one);
    programs.register_cgroup(one.id()).unwrap();
    assert!(programs.cpu_ns(one.id()).unwrap().unwrap() >= ns);

    programs.register_cgroup(two.id()).unwrap();
    let refused = programs.register_cgroup(three.id()).unwrap_err();
    assert!(matches!(refused, BpfError::Full { map: "FIGURES", capacity: 2 }), "{refused}");
    programs.unregister_cgroup(two.id()).unwrap();
    programs.unregister_cgroup(two.id()).unwrap();
    programs.register_cgroup(three.id()).unwrap();
    assert_eq!(programs.cpu_ns(two.id()).unwrap(), None);
}

#[test]
fn memory_of_a_frozen_task_is_the_kernels_figure() {
    let Some((_pins, programs)) = start(&[Program::Snap]) else { return };
    let group = Group::new();
    programs.register_cgroup(group.id()).unwrap();
    let script = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ready; read y";
    let mut child =
        Running(group.command(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");

    // Running: between two readings of the kernel. Frozen: the same, when the kernel's own readings agree
    // (other tasks may still make it give back what it had charged ahead).
    for frozen in [false, true] {
        group.freeze(frozen);
        wait_for("two readings of the kernel that agree", || {
            let before = group.kernel_memory_bytes();
            let snapshot = programs.snapshot().unwrap();
            let after = group.kernel_memory_bytes();
            let cgroup = &snapshot.cgroups[&group.id()];
            assert_eq!((cgroup.processes, cgroup.threads), (1, 1));
            let MemoryFigures { usage_bytes, swap_bytes } = cgroup.memory[&group.memory_id()];
            let ours = usage_bytes.unwrap();
            assert!((before.min(after)..=before.max(after)).contains(&ours), "{before} {ours} {after}");
            assert!(ours > 20_000_000, "{ours} bytes");
            assert_eq!(swap_bytes, Some(0));
            before == after
        });
    }
}

#[test]
fn a_snapshot_counts_processes_and_threads() {
    let Some((_pins, programs)) = start(&[Program::Snap]) else { return };
    let group = Group::new();
    programs.register_cgroup(group.id()).unwrap();
    assert!(!programs.snapshot().unwrap().cgroups.contains_key(&group.id()));
    let _child = Running(group.command("sleep 60 & sleep 60 & wait").spawn().unwrap());
    let counts = || {
        let snapshot = programs.snapshot().unwrap();
        snapshot.cgroups.get(&group.id()).map(|cgroup| (cgroup.processes, cgroup.threads))
    };
    wait_for("three processes", || counts() == Some((3, 3)));
}

#[test]
fn an_oom_victim_is_reported_with_the_figures_of_that_moment() {
    let Some((_pins, programs)) = start(&[Program::Oom]) else { return };
    let mut events = programs.oom_events().unwrap();
    let group = Group::new();
    const LIMIT: u64 = 16 << 20;
    group.limit_memory(LIMIT);
    programs.register_cgroup(group.id()).unwrap();
    // The shell itself holds the memory, so it is the victim.
    let status = group.command("x=$(head -c 60000000 /dev/zero | tr '\\0' x)").status().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");

    let mut event = None;
    wait_for("the victim's event", || {
        event = events.take();
        event.is_some()
    });
    let event = event.unwrap();
    assert_eq!(event.cgroup, group.id());
    assert_eq!(event.memory_cgroup_id, group.memory_id());
    assert_eq!(event.memory_bytes_limit, Some(LIMIT));
    let memory = event.memory_bytes.unwrap();
    assert!((LIMIT * 9 / 10..=LIMIT).contains(&memory), "{memory} bytes of {LIMIT}");
    assert_eq!(programs.count(Stat::OomLost).unwrap(), 0);
}

#[test]
fn oom_events_wake_who_awaits_them() {
    let Some((_pins, programs)) = start(&[Program::Oom]) else { return };
    let group = Group::new();
    group.limit_memory(8 << 20);
    programs.register_cgroup(group.id()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut events = programs.oom_events().unwrap().stream().unwrap();
        let mut victim = group.command("x=$(head -c 30000000 /dev/zero | tr '\\0' x)").spawn().unwrap();
        let event = tokio::time::timeout(group::PATIENCE, events.next()).await.unwrap().unwrap();
        assert_eq!(event.cgroup, group.id());
        victim.wait().unwrap();
    });
}

/// Starts a command that waits for a line, registers it, lets it go, and returns what the kernel recorded.
fn exit_of(programs: &Programs, mut command: Command) -> ExitStatus {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let process = process_id(child.id());
    programs.register_process(process).unwrap();
    assert_eq!(programs.process_state(process).unwrap(), ProcessState::Running);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let waited = child.wait().unwrap();
    let ProcessState::Ended(exit) = programs.process_state(process).unwrap() else {
        panic!("{command:?} ended with {waited}, and the kernel program didn't see it");
    };
    assert_eq!(exit.status, waited);
    assert!(exit.ended_at > Duration::ZERO);
    programs.unregister_process(process).unwrap();
    assert_eq!(programs.process_state(process).unwrap(), ProcessState::NotRegistered);
    exit.status
}

#[test]
fn exit_statuses_are_recorded_as_wait_gives_them() {
    let Some((_pins, programs)) = start(&[Program::Exit]) else { return };
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read x; {script}")]);
        exit_of(&programs, command)
    };
    assert_eq!(shell("exit 7").code(), Some(7));
    assert_eq!(shell("exit 0").code(), Some(0));
    assert_eq!(shell("kill -9 $$").signal(), Some(9));
    assert_eq!(shell("kill -15 $$").signal(), Some(15));
    // A program that replaces itself keeps its number and its start.
    assert_eq!(shell("exec sh -c 'exit 9'").code(), Some(9));
    // A child that dies first has no bearing on its parent.
    assert_eq!(shell("(exit 5); exit 6").code(), Some(6));
}

#[test]
fn the_exit_status_of_a_group_is_that_of_its_last_thread() {
    let Some((_pins, programs)) = start(&[Program::Exit]) else { return };
    let ended_by = |end: &str| exit_of(&programs, process::command(end));
    assert_eq!(ended_by("exit_group").code(), Some(8));
    assert_eq!(ended_by("signal").signal(), Some(9));
    // Nobody spoke for the group. Which thread's word counts differs between kernels: `wait` is right.
    ended_by("exit");
}

/// Not a test: what `adoption_after_sigkill` starts as the agent that will be killed.
#[test]
fn agent_that_will_be_killed() {
    let Some(folder) = std::env::var_os("MUSTER_TEST_PINS") else { return };
    let programs = Programs::open(Path::new(&folder), Options::default()).unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        match words[..] {
            [cgroup] => programs.register_cgroup(agent::sys::CgroupId(cgroup)).unwrap(),
            [pid, start_ticks] => {
                let pid = pid.try_into().unwrap();
                programs.register_process(ProcessId { pid, start_ticks }).unwrap();
            }
            _ => panic!("{line}"),
        }
        eprintln!("registered");
    }
}

#[test]
fn after_sigkill_of_the_agent_the_next_one_finds_everything_counted() {
    // Only asks whether the programs can run here; the agent below loads them anew.
    let Some((pins, programs)) = start(&[Program::Cpu, Program::Exit]) else { return };
    programs.remove().unwrap();
    let group = Group::new();
    let mut first = Running(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent_that_will_be_killed", "--nocapture"])
            .env("MUSTER_TEST_PINS", &pins.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut commands = first.0.stdin.take().unwrap();
    let mut answers = BufReader::new(first.0.stderr.take().unwrap()).lines();
    let mut tell = |command: String| {
        writeln!(commands, "{command}").unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), "registered");
    };
    tell(group.id().0.to_string());

    // One process ends while no agent runs, the other outlives both agents.
    let mut dies = group.command(&format!("read x; {SPIN}; exit 7"));
    let mut dies = dies.stdin(Stdio::piped()).spawn().unwrap();
    let lives = Running(group.command("exec sleep 60").spawn().unwrap());
    let (dying, living) = (process_id(dies.id()), process_id(lives.0.id()));
    tell(format!("{} {}", dying.pid, dying.start_ticks));
    tell(format!("{} {}", living.pid, living.start_ticks));

    first.0.kill().unwrap();
    first.0.wait().unwrap();
    dies.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(dies.wait().unwrap().code(), Some(7));

    let programs = pins.open(&[Program::Cpu, Program::Exit], Options::default()).unwrap();
    let ProcessState::Ended(exit) = programs.process_state(dying).unwrap() else {
        panic!("the exit wasn't recorded while no agent ran");
    };
    assert_eq!(exit.status.code(), Some(7));
    assert_eq!(programs.process_state(living).unwrap(), ProcessState::Running);
    assert_eq!(programs.cgroups().unwrap(), [group.id()]);
    let known: BTreeMap<_, _> =
        programs.processes().unwrap().into_iter().map(|(process, state)| (process.pid, state)).collect();
    assert_eq!(known.len(), 2);
    assert_eq!(known[&living.pid], ProcessState::Running);

    drop(lives);
    let ns = assert_cpu_matches(&programs, &group);
    assert!(ns > 10_000_000, "{ns} ns for 100 000 rounds of a shell");
    assert!(matches!(programs.process_state(living).unwrap(), ProcessState::Ended(_)));
}

#[test]
fn an_upgrade_takes_keys_and_figures_over() {
    let Some(pins) = Pins::new() else { return };
    let group = Group::new();
    let needs = [Program::Cpu, Program::Exit];
    let Some(old) = pins.open(&needs, with(Limits { cgroups: 10, ..LIMITS })) else { return };
    old.register_cgroup(group.id()).unwrap();
    let mut dies = Command::new("sh").args(["-c", "read x; exit 7"]).stdin(Stdio::piped()).spawn().unwrap();
    let dying = process_id(dies.id());
    old.register_process(dying).unwrap();
    assert!(group.command(SPIN).status().unwrap().success());
    let before = assert_cpu_matches(&old, &group);
    drop(old);

    let older = generation(&pins);
    let new = pins.open(&needs, with(Limits { cgroups: 20, ..LIMITS })).unwrap();
    assert_ne!(generation(&pins), older);
    assert_eq!(new.cpu_ns(group.id()).unwrap(), Some(before));
    assert!(group.command(SPIN).status().unwrap().success());
    assert!(assert_cpu_matches(&new, &group) > before);
    dies.stdin.take().unwrap().write_all(b"go\n").unwrap();
    dies.wait().unwrap();
    let ProcessState::Ended(exit) = new.process_state(dying).unwrap() else { panic!("no record") };
    assert_eq!(exit.status.code(), Some(7));
}

#[test]
fn half_a_generation_left_by_a_crash_is_made_anew() {
    let Some(pins) = Pins::new() else { return };
    drop(pins.open(&[], with(LIMITS)));
    let generation = generation(&pins);
    for left_out in ["META", "m_snap_link", "EXITS"] {
        std::fs::remove_file(generation.join(left_out)).unwrap();
        // Without its mark the rest isn't trusted; a link alone is attached again.
        if left_out == "EXITS" {
            std::fs::remove_file(generation.join("META")).unwrap();
        }
        drop(pins.open(&[], with(LIMITS)));
        assert!(generation.join(left_out).exists());
    }
}

#[test]
fn nothing_remains_where_nothing_can_be_loaded() {
    let Some(pins) = Pins::new() else { return };
    // More than any machine has memory for.
    let impossible = with(Limits { cgroups: u32::MAX, ..LIMITS });
    let refused = Programs::open(&pins.0, impossible.clone());
    assert!(matches!(refused, Err(bpf::BpfError::Load { .. })), "{refused:?}");
    assert!(!pins.0.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(pins.0.to_str().unwrap()));
    // What an earlier agent pinned goes on.
    let earlier = pins.open(&[], with(LIMITS)).unwrap();
    let ids = program_ids(&pins);
    assert!(Programs::open(&pins.0, impossible).is_err());
    assert_eq!(earlier.mend().unwrap(), []);
    assert_eq!(program_ids(&pins), ids);
}

#[test]
fn nothing_remains_after_removal() {
    let Some((pins, programs)) = start(&[]) else { return };
    let ids = program_ids(&pins);
    assert!(!ids.is_empty());
    programs.remove().unwrap();
    assert!(!pins.0.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(pins.0.to_str().unwrap()));
    // The kernel frees programs when the last reader has left them.
    wait_for("the programs to be gone", || {
        libbpf_rs::query::ProgInfoIter::default().all(|program| !ids.contains(&program.id))
    });
    // Again, and by somebody who never opened them: nothing there is no error.
    bpf::remove(&pins.0).unwrap();
}

#[test]
fn the_verifier_walks_few_instructions_by_the_word_of_another_library() {
    let Some((pins, programs)) = start(&[]) else { return };
    let ids = program_ids(&pins);
    let mut verified = BTreeMap::new();
    for program in libbpf_rs::query::ProgInfoIter::default().filter(|program| ids.contains(&program.id)) {
        let name = program.name.to_str().unwrap().to_owned();
        // A budget far below the kernel's million, so that older verifiers, which prune less, stay below theirs.
        assert!(program.verified_insns < 10_000, "{name}: {} instructions", program.verified_insns);
        assert!(program.gpl_compatible);
        verified.insert(name, program.verified_insns);
    }
    let ours: BTreeMap<_, _> = programs
        .health()
        .unwrap()
        .programs
        .iter()
        .filter_map(|health| Some((health.program.name().to_owned(), health.verified_instructions?)))
        .collect();
    assert_eq!(verified, ours);
}

#[test]
fn health_says_what_ran_and_how_full_the_maps_are() {
    let Some((_pins, programs)) = start(&[Program::Cpu, Program::Snap]) else { return };
    let group = Group::new();
    programs.register_cgroup(group.id()).unwrap();
    assert!(group.command("true").status().unwrap().success());
    assert_cpu_matches(&programs, &group);
    programs.snapshot().unwrap();
    let health = programs.health().unwrap();
    let cpu = health.programs.iter().find(|health| health.program == Program::Cpu).unwrap();
    assert!(cpu.counted > 0 && cpu.other > 0, "{cpu:?}");
    assert_eq!(cpu.lost, 0, "{cpu:?}");
    let fill: Vec<_> = health.maps[..2].iter().map(|map| (map.map, map.used, map.capacity)).collect();
    assert_eq!(fill, [("CPU_TIME", 1, 64), ("EXITS", 0, 64)]);
}

/// The one generation that is pinned. (The kernel puts files of its own into every bpffs.)
fn generation(pins: &Pins) -> PathBuf {
    let entries = std::fs::read_dir(&pins.0).unwrap().map(|entry| entry.unwrap().path());
    let generations: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    assert_eq!(generations.len(), 1, "{generations:?}");
    generations[0].clone()
}

fn program_ids(pins: &Pins) -> Vec<u32> {
    let generation = generation(pins);
    let pinned = Program::ALL.iter().map(|program| generation.join(program.name()));
    let id = |path: PathBuf| aya::programs::ProgramInfo::from_pin(path).unwrap().id();
    pinned.filter(|path| path.exists()).map(id).collect()
}
