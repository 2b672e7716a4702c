//! Real members on simulated hosts: sockets of turmoil, disks that forget, clients whose answers are judged.
//!
//! A run draws everything from its seed: who is cut off, who loses power in which write, how small a snapshot
//! is. First faults, then calm with a deadline to agree. `history.rs` is the judge and stands outside; the
//! mistakes in `planted.rs` prove that it sees. Longer, or one seed alone:
//! `MUSTER_SEED=7 MUSTER_RUNS=100 cargo test -p coordinator --lib simulated::many -- --ignored --nocapture`.

mod disk;
mod history;
mod machine;
mod member;
mod planted;
mod runtime;
mod succession;
mod world;

use std::{
    env,
    time::{Duration, Instant},
};

use planted::Bug;
pub use runtime::SeededRuntime;
use world::run;

/// Runs seeds of three and five members, and prints how to repeat the first bad one.
fn check(seeds: impl Iterator<Item = u64>, patience: Duration) {
    let started = Instant::now();
    let (mut runs, mut answers, mut simulated) = (0, 0, Duration::ZERO);
    for seed in seeds {
        let members = if seed % 3 == 0 { 5 } else { 3 };
        let report = run(seed, members, None);
        println!("seed {seed}, {members} members: {report:?}");
        if let Err(violation) = report.verdict {
            panic!(
                "{violation}\nrepeat: MUSTER_SEED={seed} MUSTER_RUNS=1 cargo test -p coordinator --lib \
                 simulated::many -- --ignored --nocapture"
            );
        }
        runs += 1;
        answers += report.answers;
        simulated += report.simulated;
        if started.elapsed() > patience {
            break;
        }
    }
    println!("{runs} runs, {answers} answers, {simulated:?} simulated in {:?}", started.elapsed());
}

/// Fresh seeds each time, as many as half a minute allows.
#[test]
fn every_answer_is_linearizable_whatever_fails() {
    let first: u32 = rand::random();
    check((0..20).map(|more| u64::from(first) + more), Duration::from_secs(30));
}

#[test]
#[ignore = "as long as one likes: MUSTER_SEED, MUSTER_RUNS"]
fn many() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("MUSTER_SEED").unwrap_or(1);
    check(first..first + number("MUSTER_RUNS").unwrap_or(100), Duration::MAX);
}

/// How many seeds it takes until the judge says no.
fn found(bug: Bug, seeds: u64) {
    for seed in 1..=seeds {
        if let Err(violation) = run(seed, 3, Some(bug)).verdict {
            println!("{bug:?} is found by seed {seed}: {violation}");
            return;
        }
    }
    panic!("{bug:?} is not found by {seeds} seeds");
}

#[test]
fn a_read_without_asking_the_others_is_found() {
    found(Bug::ReadWithoutQuorum, 20);
}

#[test]
fn an_append_that_is_acknowledged_before_it_is_durable_is_found() {
    found(Bug::AcknowledgedBeforeDurable, 20);
}

#[test]
fn a_vote_that_is_not_written_is_found() {
    found(Bug::VoteForgotten, 20);
}

#[test]
fn a_disk_that_never_syncs_is_found() {
    found(Bug::NeverSynced, 20);
}

#[test]
fn a_snapshot_that_lacks_its_last_command_is_found() {
    found(Bug::SnapshotWithoutLast, 20);
}

#[test]
fn an_answer_before_the_others_agreed_is_found() {
    found(Bug::AnsweredBeforeCommitted, 20);
}
