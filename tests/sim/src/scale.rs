//! Many agents and many tasks, all running, and leaders that die: what it costs, and how long it takes.
//!
//! The core and every checker are the same as in any other world, but nothing goes wrong here that isn't told to.
//! Virtual time says how long the protocol takes; whoever calls measures what the work of it takes.

use cluster::ClusterState;
use model::{Duration, TaskState};

use crate::{
    chance::Chance,
    parameters::Parameters,
    record::Violation,
    stage::{Phase, Place},
    time::Moment,
    world::{Wake, World},
};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked whether something has come true.
const SOON: Duration = Duration::from_millis(10);
/// The same where the look itself takes long.
const LATER: Duration = Duration::from_millis(500);
/// How long a member that was killed stays away.
const AWAY: Duration = Duration::from_secs(5);

/// A world of this size.
pub struct Scale {
    world: World,
    tasks: usize,
}

/// What came of the loss of a leader, in the time of the world, since it was killed.
#[derive(Debug, Clone, Copy)]
pub struct Failover {
    pub leader: Duration,
    pub half_attached: Duration,
    pub all_attached: Duration,
}

impl Scale {
    pub fn new(seed: u64, agents: usize, tasks_per_agent: u64) -> Self {
        let mut world = World::new(Chance::new(seed), Parameters::at_scale(agents, tasks_per_agent), false);
        world.stage.phase = Phase::Full;
        world.start();
        let tasks = agents * usize::try_from(tasks_per_agent).unwrap_or(usize::MAX);
        Self { world, tasks }
    }

    /// Until every agent is attached and every task runs; says how long that took.
    pub fn fill(&mut self) -> Result<Duration, Violation> {
        let all = self.tasks;
        let running = |world: &World| world.agents.iter().map(|agent| agent.running()).sum::<usize>();
        self.until("every task runs", LATER, |world| running(world) == all && is_known(world, all))
    }

    /// Kills the leader, and waits until the next one has every agent.
    pub fn lose_leader(&mut self) -> Result<Failover, Violation> {
        let Some(place) = self.world.members.iter().position(|member| member.leads()) else {
            return Err(self.fail("nobody leads"));
        };
        let World { members, stage, .. } = &mut self.world;
        if let Some(leader) = members.get_mut(place) {
            leader.crash(stage, false);
        }
        self.world.later(AWAY, Wake::Restart(Place::Member(place)));
        let count = self.world.agents.len();
        let leader =
            self.until("somebody leads", SOON, |world| world.members.iter().any(|member| member.leads()))?;
        let half =
            self.until("half of the agents are attached", SOON, |world| attached(world) * 2 >= count)?;
        let all = self.until("all agents are attached", SOON, |world| attached(world) == count)?;
        let lost = self.tasks - self.world.agents.iter().map(|agent| agent.running()).sum::<usize>();
        if lost > 0 {
            return Err(self.fail(&format!("{lost} tasks run no more")));
        }
        let tasks = self.tasks;
        self.until("all members are back and agree", LATER, |world| {
            let commit = world.entries();
            world.members.iter().all(|member| member.is_up && member.state.applied() == commit)
                && is_known(world, tasks)
        })?;
        let half_attached = leader + half;
        Ok(Failover { leader, half_attached, all_attached: half_attached + all })
    }

    /// Lets every checker look at the end.
    pub fn conclude(mut self) -> Result<(), Violation> {
        self.world.conclude();
        self.world.stage.record.violation.take().map_or(Ok(()), Err)
    }

    pub fn entries(&self) -> u64 {
        self.world.entries()
    }

    pub fn events(&self) -> u64 {
        self.world.events
    }

    fn fail(&mut self, why: &str) -> Violation {
        let violation =
            Violation { at: self.world.stage.now, invariant: "scale".to_owned(), why: why.to_owned() };
        self.world.stage.record.violation.take().unwrap_or(violation)
    }

    /// Lives on until something is true.
    fn until(
        &mut self,
        what: &str,
        every: Duration,
        is_true: impl Fn(&World) -> bool,
    ) -> Result<Duration, Violation> {
        let began = self.world.stage.now;
        let mut looks_at = Moment::default();
        loop {
            let now = self.world.stage.now;
            if now >= looks_at {
                if is_true(&self.world) {
                    return Ok(now.since(began));
                }
                looks_at = now + every;
            }
            if now.since(began) > PATIENCE || !self.world.step() {
                return Err(self.fail(&format!("it has not come to it that {what}")));
            }
        }
    }
}

/// Agents that are attached to whoever leads.
fn attached(world: &World) -> usize {
    let Some(leader) = world.members.iter().find(|member| member.leads()) else { return 0 };
    let is_attached = |agent: &&crate::agent::Agent| agent.is_attached_to(leader.number, &world.stage);
    world.agents.iter().filter(is_attached).count()
}

/// Whether the leader knows of so many tasks that run.
fn is_known(world: &World, tasks: usize) -> bool {
    let runs = |state: &ClusterState| {
        state.tasks().len() == tasks && state.tasks().values().all(|task| task.state == TaskState::Running)
    };
    world.members.iter().find(|member| member.leads()).is_some_and(|leader| runs(&leader.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_world_at_scale_loses_its_leader_and_nothing_else() {
        let mut scale = Scale::new(7, 20, 10);
        scale.fill().unwrap();
        let failover = scale.lose_leader().unwrap();
        assert!(failover.leader <= failover.half_attached && failover.half_attached <= failover.all_attached);
        scale.conclude().unwrap();
    }
}
