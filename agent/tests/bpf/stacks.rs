//! Stacks of one group's processes, and of no others.

use std::{process::Stdio, sync::mpsc, time::Instant};

use agent::{
    profile::{self, Wish},
    sys::bpf::Sampler,
};

use super::{
    group::{Group, PATIENCE, Running, wait_for},
    is_root,
};

/// Executed by the tests below in a group of theirs; it ends when they kill it, or by itself.
#[test]
#[ignore = "spins for as long as another test wants to look at it"]
fn a_process_that_spins() {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        for number in 0..1_000_000_u64 {
            std::hint::black_box(number);
        }
    }
}

/// This program again, in a group, with nothing but the test above.
fn spin_in(group: &Group) -> Running {
    let program = std::env::current_exe().unwrap();
    let script = format!("exec '{}' --ignored --exact stacks::a_process_that_spins", program.display());
    Running(group.command(&script).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

#[test]
fn stacks_are_of_the_groups_own_processes_and_of_groups_below_it() {
    if !is_root() {
        return;
    }
    let (group, other) = (Group::new(), Group::new());
    let below = group.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let (ours, theirs) = (spin_in(&group), spin_in(&other));
    let child = spin_in(&group);
    std::fs::write(below.join("cgroup.procs"), child.0.id().to_string()).unwrap();

    let mut sampler = Sampler::start(group.id(), 199).unwrap();
    let mut seen = std::collections::BTreeMap::new();
    wait_for("stacks of both processes", || {
        while let Some(stack) = sampler.take() {
            assert!(stack.user.len() <= 127 && stack.kernel.len() <= 127);
            if !stack.user.is_empty() {
                *seen.entry(stack.pid).or_insert(0) += 1;
            }
        }
        [&ours, &child].iter().all(|process| seen.get(&process.0.id()).is_some_and(|count| *count > 20))
    });
    assert!(!seen.contains_key(&theirs.0.id()), "{seen:?}");
    // The shells that became these are the only others.
    assert!(seen.keys().all(|pid| [ours.0.id(), child.0.id()].contains(pid)), "{seen:?}");
    drop(sampler);
    let is_left = || aya::programs::loaded_programs().flatten().any(|program| program.name() == b"m_stack");
    // Of a test beside this one there may be another.
    wait_for("the program's end", || !is_left());
    drop((ours, child));
    wait_for("an empty group below", || std::fs::remove_dir(&below).is_ok());
}

#[test]
fn a_profile_ends_when_it_is_told_and_says_where_code_is_that_has_no_name() {
    if !is_root() {
        return;
    }
    let group = Group::new();
    let spinning = spin_in(&group);
    let (stop, stopped) = mpsc::channel();
    let wish = Wish { cgroup: group.id(), duration: PATIENCE, frequency: 99 };
    let gathering = std::thread::spawn(move || profile::gather(wish, &stopped));
    // It has burnt a second: as much was seen of it.
    let before = group.kernel_cpu_ns();
    wait_for("CPU time", || group.kernel_cpu_ns() > before + 1_000_000_000);
    drop(stop);
    let profile = gathering.join().unwrap().unwrap();
    assert_eq!(profile.lost, 0);
    // A tick can be late, and a clock is no measure; but half of it must be there. Ticks of an emulated machine may
    // be late by any time.
    let least = if std::env::var_os("MUSTER_GUEST").is_some() { 1 } else { 40 };
    assert!((least..400).contains(&profile.samples), "{}", profile.samples);
    let name = std::fs::read_to_string(format!("/proc/{}/comm", spinning.0.id())).unwrap();
    let lines: Vec<String> = profile.folded().collect();
    // This program knows not how to be the process that names: so nothing of its own has a name.
    let program = std::env::current_exe().unwrap();
    let place = format!("{}+0x", program.file_name().unwrap().to_str().unwrap());
    let of_it: Vec<_> = lines.iter().filter(|line| line.starts_with(name.trim_end())).collect();
    assert!(of_it.iter().any(|line| line.contains(&place)), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("ffffffff")), "no address of the kernel: {lines:?}");
}
