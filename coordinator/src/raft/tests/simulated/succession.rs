//! Who is succeeded at once, and who is waited for: election timeouts are so long here that none ends by itself.

use std::time::Duration;

use rand::{SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use super::{
    super::super::types::MemberId,
    member::name,
    world::{Kind, Phase, Wall, World, build},
};

const ELECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// A small part of it.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The lease, the longest draw, and an election.
const IN_THE_END: Duration = Duration::from_secs(100);

struct Stage {
    world: World,
    sim: turmoil::Sim<'static>,
    leader: MemberId,
    // Last, so that it outlives the members.
    _folder: TempDir,
}

impl Stage {
    fn formed(seed: u64, members: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kind = Kind { members, election_timeout: ELECTION_TIMEOUT, ..Kind::default() };
        let mut chance = SmallRng::seed_from_u64(seed);
        let (world, sim) = build(&folder, &mut chance, seed, kind);
        let mut stage = Self { world, sim, leader: 1, _folder: folder };
        stage.until(IN_THE_END, |world| world.phase() != Phase::Forming);
        // Connections of the new members are there.
        stage.pass(Duration::from_millis(500));
        stage.leader = stage.world.leader().unwrap();
        stage
    }

    fn until(&mut self, patience: Duration, is_so: impl Fn(&World) -> bool) {
        let deadline = self.sim.elapsed() + patience;
        while !is_so(&self.world) {
            assert!(
                self.sim.elapsed() < deadline,
                "{:?}: nothing came of it in {patience:?}",
                self.sim.elapsed()
            );
            self.sim.step().unwrap();
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.sim.step().unwrap();
        }
    }

    fn until_another_leads(&mut self, patience: Duration) {
        let old = self.leader;
        self.until(patience, |world| world.leader().is_some_and(|leader| leader != old));
    }

    fn nobody_else_leads(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.sim.step().unwrap();
            assert!(
                self.world.leader().is_none_or(|leader| leader == self.leader),
                "{:?}",
                self.sim.elapsed()
            );
        }
    }

    /// Ends the leader's process; it leads no more, whatever it wrote down.
    fn end_leader(&mut self) {
        self.sim.crash(name(self.leader));
        self.world.forget(self.leader);
        self.world.gone().insert(self.leader);
    }
}

#[test]
fn a_leader_whose_process_is_gone_is_replaced_at_once() {
    for (seed, members) in [(1, 3), (2, 5), (3, 3), (4, 5), (5, 3), (6, 3)] {
        let mut stage = Stage::formed(seed, members);
        stage.end_leader();
        stage.until_another_leads(AT_ONCE);
    }
}

#[test]
fn a_leader_that_is_silent_keeps_its_place_for_an_election_timeout() {
    let mut stage = Stage::formed(4, 3);
    for other in (1..=3).filter(|id| *id != stage.leader) {
        stage.sim.hold(name(stage.leader), name(other));
    }
    stage.nobody_else_leads(ELECTION_TIMEOUT);
    stage.until_another_leads(IN_THE_END);
}

/// By a process that was started anew, or by somebody else.
#[test]
fn a_leader_whose_address_is_taken_keeps_its_place_for_an_election_timeout() {
    let mut stage = Stage::formed(5, 3);
    stage.end_leader();
    stage.world.gone().clear();
    stage.world.raise(Wall::Accepts);
    stage.nobody_else_leads(ELECTION_TIMEOUT);
    stage.until_another_leads(IN_THE_END);
}

/// One follower alone believes that the leader is gone: the others don't, and it finds no majority.
#[test]
fn a_leader_that_one_follower_can_not_reach_leads_on() {
    let mut stage = Stage::formed(6, 3);
    stage.world.raise(Wall::Refuses);
    let cut_off = if stage.leader == 1 { 2 } else { 1 };
    stage.sim.partition(name(stage.leader), name(cut_off));
    stage.nobody_else_leads(Duration::from_secs(8));
    assert_eq!(stage.world.leader(), Some(stage.leader));
}
