//! The world: everyone in it, what happens to them, and how it comes to an end.

use std::collections::{BTreeMap, BTreeSet};

use model::{ClusterId, Duration, RoleName};

use crate::{
    agent::{self, Agent},
    chance::Chance,
    checkers::{self, fairness::Fairness},
    client::{Framework, Operator, SLICE_MILLI},
    faults,
    member::{self, Member},
    parameters::Parameters,
    record::{End, Record},
    stage::{Happening, Phase, Place, Stage, Trace, What},
    time::{Clock, Moment},
};

/// What happens to the world itself.
#[derive(Debug)]
pub enum Wake {
    /// Something bad.
    Fault,
    /// Somebody who was stopped comes back.
    Restart(Place),
    /// These reach each other again.
    Heal(Vec<(Place, Place)>),
    /// Somebody looks whether there is a leader.
    Watch,
    /// Whether everything has come to its end.
    Look,
}

/// How long the calm may take until everything has ended.
const CALM_MAX: Duration = Duration::from_secs(900);
/// How long shares are looked at, after they had some time to settle.
const FAIR_SETTLING: u64 = 60;
const FAIR_SECONDS: u64 = 120;

/// In millionths.
const MEMBER_DRIFT_MAX: i64 = 500;
/// Far above what the busiest world needs.
const EVENTS_PER_SECOND_MAX: u64 = 300_000;
const EVENTS_PER_AGENT_MAX: u64 = 500;

/// Everyone.
pub struct World {
    pub stage: Stage,
    pub events: u64,
    pub members: Vec<Member>,
    pub agents: Vec<Agent>,
    pub frameworks: Vec<Framework>,
    operator: Operator,
    /// Until when each stands still, as under SIGSTOP.
    pub paused: BTreeMap<Place, Moment>,
    calm_since: Moment,
    fair_since: Moment,
    fairness: Fairness,
    is_over: bool,
    /// The current second, and how much had happened before it.
    second: (u64, u64),
}

impl World {
    pub fn new(mut chance: Chance, parameters: Parameters, is_traced: bool) -> Self {
        let drift = parameters.drift;
        let clock = |chance: &mut Chance| Clock {
            drift: i64::try_from(chance.below(2 * drift + 1)).unwrap_or(0)
                - i64::try_from(drift).unwrap_or(0),
            offset: i64::try_from(chance.below(2_000_000)).unwrap_or(0) - 1_000_000,
        };
        let members = (0..parameters.members).filter_map(|number| {
            let cluster = ClusterId::new(&format!("cluster-of-m{number}")).ok()?;
            let config = parameters.leader_config(cluster);
            let mut clock = clock(&mut chance);
            // What a clock says may be anything, a member's like an agent's; but members count time right.
            clock.drift = clock.drift.clamp(-MEMBER_DRIFT_MAX, MEMBER_DRIFT_MAX);
            Some(Member::new(number, clock, config, parameters.members))
        });
        let members = members.collect();
        let agents = (0..parameters.agents).filter_map(|number| {
            Some(Agent::new(number, agent::id_of(number).ok()?, clock(&mut chance), parameters.agent_total()))
        });
        let agents: Vec<Agent> = agents.collect();
        let frameworks = (0..parameters.frameworks)
            .filter_map(|number| Some(Framework::new(number, RoleName::new(&format!("r{number}")).ok()?)));
        let frameworks: Vec<_> = frameworks.collect();
        let mut operator = Operator::default();
        operator.roles = frameworks.iter().map(|framework| framework.role().clone()).collect();
        operator.agents = agents.iter().map(|agent| agent.id().clone()).collect();
        let record = Record::new(checkers::all(&parameters));
        Self {
            stage: Stage::new(chance, parameters, record, Trace::new(is_traced)),
            events: 0,
            members,
            agents,
            frameworks,
            operator,
            paused: BTreeMap::new(),
            calm_since: Moment::default(),
            fair_since: Moment::default(),
            fairness: Fairness::default(),
            is_over: false,
            second: (0, 0),
        }
    }

    /// From the beginning until the end, or until something is wrong.
    pub fn live(&mut self) {
        self.start();
        while !self.is_over && self.step() {}
    }

    /// The next thing happens, unless there is none or something is wrong.
    pub fn step(&mut self) -> bool {
        if self.stage.record.violation.is_some() {
            return false;
        }
        let Some(happening) = self.stage.next() else { return false };
        self.events += 1;
        self.look_for_spinning();
        self.happen(happening);
        true
    }

    /// Somebody who wakes himself up again and again would keep time from passing.
    fn look_for_spinning(&mut self) {
        let second = self.stage.now.0 / 1_000_000;
        if second != self.second.0 {
            self.second = (second, self.events);
        }
        let most = EVENTS_PER_SECOND_MAX + EVENTS_PER_AGENT_MAX * self.agents.len() as u64;
        if self.events - self.second.1 > most {
            let why = format!("more than {most} things happened in one second");
            self.stage.record.fail(self.stage.now, "nobody_spins", why);
        }
    }

    pub fn entries(&self) -> u64 {
        self.members.iter().map(Member::commit).max().unwrap_or(0)
    }

    pub fn start(&mut self) {
        for agent in &mut self.agents {
            agent.restart(&mut self.stage);
        }
        for framework in &mut self.frameworks {
            framework.restart(&mut self.stage);
        }
        self.operator.start(&mut self.stage);
        self.later(Duration::ZERO, Wake::Watch);
        self.later(Duration::from_secs(1), Wake::Look);
        self.later(Duration::from_secs(5), Wake::Fault);
    }

    pub fn later(&mut self, delay: Duration, wake: Wake) {
        self.stage.later(Place::World, delay, What::World(wake));
    }

    fn happen(&mut self, happening: Happening) {
        let Happening { place, life, what } = happening;
        if life.is_some_and(|life| life != self.stage.life(place)) {
            return;
        }
        if let Some(until) = self.paused.get(&place).copied() {
            if until > self.stage.now {
                return self.stage.put(until, Happening { place, life, what });
            }
            self.paused.remove(&place);
        }
        let stage = &mut self.stage;
        match (place, what) {
            (Place::World, What::World(wake)) => self.wake(wake),
            (Place::Member(number), What::Member(wake)) => {
                if let Some(member) = self.members.get_mut(number) {
                    member.wake(wake, stage);
                }
            }
            (Place::Agent(number), What::Agent(wake)) => {
                if let Some(agent) = self.agents.get_mut(number) {
                    agent.wake(wake, stage);
                }
            }
            (Place::Framework(number), What::Client(wake)) => {
                if let Some(framework) = self.frameworks.get_mut(number) {
                    framework.wake(wake, stage);
                    self.operator.frameworks.extend(framework.id().cloned());
                }
            }
            (Place::Operator, What::Client(wake)) => self.operator.wake(wake, stage),
            (place, what) => unreachable!("{what:?} was meant for {place:?}"),
        }
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Fault => {
                if self.stage.phase != Phase::Trouble {
                    return;
                }
                faults::strike(self);
                let mean = self.stage.parameters.fault_interval;
                let delay = self.stage.chance.uneven_span(mean / 16, mean * 2);
                self.later(delay, Wake::Fault);
            }
            Wake::Restart(place) => self.restart(place),
            Wake::Heal(cuts) => {
                for (from, to) in cuts {
                    self.stage.network.heal(from, to);
                }
            }
            Wake::Watch => {
                member::beat(&mut self.members, &mut self.stage);
                if !member::has_leader(&self.members, &self.stage) {
                    self.elect();
                }
                let delay = self.stage.chance.span(Duration::from_millis(200), Duration::from_millis(1200));
                self.later(delay, Wake::Watch);
            }
            Wake::Look => {
                self.look();
                self.later(Duration::from_secs(1), Wake::Look);
            }
        }
    }

    /// Some member stands for election.
    pub fn elect(&mut self) {
        let candidate = self.stage.chance.place(self.members.len());
        if !self.paused.contains_key(&Place::Member(candidate)) {
            member::elect(candidate, &mut self.members, &mut self.stage);
        }
    }

    pub fn restart(&mut self, place: Place) {
        match place {
            Place::Member(number) => {
                if let Some(member) = self.members.get_mut(number) {
                    member.restart(&mut self.stage);
                }
            }
            Place::Agent(number) => {
                if let Some(agent) = self.agents.get_mut(number) {
                    agent.restart(&mut self.stage);
                }
            }
            Place::Framework(number) => {
                if let Some(framework) = self.frameworks.get_mut(number) {
                    framework.restart(&mut self.stage);
                }
            }
            Place::Operator | Place::World => {}
        }
    }

    fn look(&mut self) {
        let now = self.stage.now;
        match self.stage.phase {
            Phase::Trouble => {
                if now.since(Moment::default()) >= self.stage.parameters.trouble {
                    self.calm_down();
                }
            }
            Phase::Calm => {
                let residue = self.residue();
                if residue.is_empty() {
                    self.conclude();
                    self.is_over = !self.stage.parameters.is_fairness_judged;
                    self.stage.phase = Phase::Fair;
                    self.fair_since = now;
                } else if now.since(self.calm_since) > CALM_MAX {
                    let left = residue.into_iter().take(10).collect::<Vec<_>>().join("; ");
                    self.stage.record.fail(now, "converges", left);
                }
            }
            Phase::Fair => self.look_at_shares(),
            Phase::Full => {}
        }
    }

    /// No faults from here on, and everyone is there.
    fn calm_down(&mut self) {
        self.stage.trace.line(self.stage.now, || "the calm begins".to_owned());
        self.stage.phase = Phase::Calm;
        self.calm_since = self.stage.now;
        self.stage.parameters.latency = self.stage.parameters.latency.min(Duration::from_millis(20));
        self.stage.parameters.sync = self.stage.parameters.sync.min(Duration::from_millis(20));
        self.stage.network.heal_all();
        // Pauses end by themselves: what waited would come after what is sent from now on.
        let members = (0..self.members.len()).map(Place::Member);
        let agents = (0..self.agents.len()).map(Place::Agent);
        let frameworks = (0..self.frameworks.len()).map(Place::Framework);
        for place in members.chain(agents).chain(frameworks).collect::<BTreeSet<_>>() {
            self.restart(place);
        }
    }

    /// What has not come to its end yet, in words.
    fn residue(&self) -> Vec<String> {
        let mut left: Vec<String> = self.agents.iter().flat_map(Agent::residue).collect();
        left.extend(self.frameworks.iter().flat_map(Framework::residue));
        left.extend(self.operator.residue());
        let commit = self.entries();
        for member in &self.members {
            if !member.is_at_rest() || member.commit() != commit {
                left.push(format!("member {} is busy, at {} of {commit}", member.number, member.commit()));
            }
        }
        let Some(leader) = self.members.iter().find(|member| member.leads()) else {
            left.push("nobody leads".to_owned());
            return left;
        };
        for (id, task) in leader.state.tasks() {
            if !task.is_over() {
                left.push(format!("{id} is {:?}, released: {}", task.state, task.is_released));
            }
        }
        left.extend(leader.state.queue().values().map(|task| format!("{} waits", task.spec.task_id)));
        left
    }

    pub fn conclude(&mut self) {
        let end = End { states: self.members.iter().map(|member| &member.state).collect() };
        self.stage.record.conclude(self.stage.now, &end);
    }

    fn look_at_shares(&mut self) {
        let Some(leader) = self.members.iter().find(|member| member.leads()) else { return };
        let seconds = self.stage.now.since(self.fair_since).as_secs();
        if seconds > FAIR_SETTLING {
            let roles: Vec<_> = self.frameworks.iter().map(|framework| framework.role().clone()).collect();
            self.fairness.look(&roles, &leader.state);
        }
        if seconds > FAIR_SETTLING + FAIR_SECONDS {
            let cpus_milli = self.stage.parameters.agent_total().cpus_milli * self.agents.len() as u64;
            if let Err(why) = self.fairness.judge(&leader.state, cpus_milli, SLICE_MILLI) {
                self.stage.record.fail(self.stage.now, "fairness", why);
            }
            self.is_over = true;
        }
    }
}
