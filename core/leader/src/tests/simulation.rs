//! Random play against the real log: agents and frameworks that vanish and return, a log that lags, new leaders.
//!
//! First anything may happen, then calm. Whatever happened: no agent's allocations exceed its total, nothing is
//! promised twice, no task starts twice, and every framework hears every final status once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cluster::{AgentFacts, ClusterState, Entry, FrameworkInfo, KnownTask};
use model::{
    AgentId, Cursor, Duration, FrameworkEvent, FrameworkId, Reason, RequestId, Resources, RoleName,
    SubscriptionId, TaskId, TaskState, TaskStatus, Timestamp,
};
use proptest::prelude::*;

use super::world::{config, spec};
use crate::{
    Assignment, Call, CallId, Caller, Demand, Effect, FromAgent, Hello, Input, Known, Leader, OfferMessage,
    ProposeError, Reply, SessionId, SubscribeParams, Ticket, ToAgent, ToFramework,
};

#[derive(Debug, Clone)]
enum Step {
    AgentComes {
        agent: usize,
        has_rebooted: bool,
    },
    AgentGoes {
        agent: usize,
    },
    /// Some of its tasks take a step.
    AgentWorks {
        agent: usize,
        which: usize,
        fails: bool,
    },
    FrameworkComes {
        framework: usize,
    },
    FrameworkGoes {
        framework: usize,
    },
    Accept {
        framework: usize,
        which: usize,
        sizes: Vec<u64>,
    },
    Decline {
        framework: usize,
        which: usize,
        seconds: u64,
    },
    Demand {
        framework: usize,
        counts: Vec<u32>,
    },
    Suppress {
        framework: usize,
    },
    Revive {
        framework: usize,
    },
    Kill {
        framework: usize,
        which: usize,
    },
    Acknowledge {
        framework: usize,
    },
    Run {
        sizes: Vec<u64>,
    },
    StopRun {
        which: usize,
    },
    Wait {
        ms: u64,
    },
    /// The log decides so many proposals.
    Commit {
        count: usize,
    },
    /// Of the proposals in flight so many are applied without anybody hearing of it.
    Elect {
        applied: usize,
    },
    Busy,
}

fn any_step() -> impl Strategy<Value = Step> {
    let framework = 0..FRAMEWORKS;
    let agent = 0..AGENTS;
    prop_oneof![
        3 => (agent.clone(), prop::bool::weighted(0.2)).prop_map(|(agent, has_rebooted)| Step::AgentComes { agent, has_rebooted }),
        1 => agent.clone().prop_map(|agent| Step::AgentGoes { agent }),
        10 => (agent, 0..8usize, prop::bool::weighted(0.2))
            .prop_map(|(agent, which, fails)| Step::AgentWorks { agent, which, fails }),
        3 => framework.clone().prop_map(|framework| Step::FrameworkComes { framework }),
        1 => framework.clone().prop_map(|framework| Step::FrameworkGoes { framework }),
        8 => (framework.clone(), 0..4usize, prop::collection::vec(1..6u64, 0..4))
            .prop_map(|(framework, which, sizes)| Step::Accept { framework, which, sizes }),
        2 => (framework.clone(), 0..4usize, 0..10u64)
            .prop_map(|(framework, which, seconds)| Step::Decline { framework, which, seconds }),
        2 => (framework.clone(), prop::collection::vec(0..4u32, 0..3))
            .prop_map(|(framework, counts)| Step::Demand { framework, counts }),
        1 => framework.clone().prop_map(|framework| Step::Suppress { framework }),
        2 => framework.clone().prop_map(|framework| Step::Revive { framework }),
        2 => (framework.clone(), 0..8usize).prop_map(|(framework, which)| Step::Kill { framework, which }),
        2 => framework.prop_map(|framework| Step::Acknowledge { framework }),
        3 => prop::collection::vec(1..6u64, 1..4).prop_map(|sizes| Step::Run { sizes }),
        1 => (0..8usize).prop_map(|which| Step::StopRun { which }),
        4 => prop_oneof![Just(1), Just(100), Just(3_000), Just(31_000)].prop_map(|ms| Step::Wait { ms }),
        8 => (1..6usize).prop_map(|count| Step::Commit { count }),
        1 => (0..4usize).prop_map(|applied| Step::Elect { applied }),
        2 => Just(Step::Busy),
    ]
}

const AGENTS: usize = 3;
const FRAMEWORKS: usize = 2;
/// More than any task needs, so that every task can run at last.
const AGENT_CPUS: u64 = 8;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_was_accepted_is_allocated_and_every_end_is_heard_once(
        steps in prop::collection::vec(any_step(), 1..150),
    ) {
        let mut play = Play::new();
        for step in steps {
            play.step(step);
            play.check();
        }
        play.calm();
        play.check_the_end();
    }
}

struct Play {
    leader: Leader,
    state: ClusterState,
    /// Everything that was applied, to be replayed.
    log: Vec<Entry>,
    now: Timestamp,
    term: u64,
    calls: u64,
    tasks: u64,
    requests: u64,
    held: VecDeque<(Ticket, Entry)>,
    agents: Vec<Agent>,
    frameworks: Vec<Framework>,
    waiting: BTreeMap<CallId, Who>,
    submitted: BTreeSet<TaskId>,
    /// Tasks that some agent ever started.
    started: BTreeSet<TaskId>,
}

#[derive(Clone, Copy)]
enum Who {
    Agent(usize),
    Subscribe(usize),
    Framework(usize),
    User,
}

#[derive(Default)]
struct Agent {
    session: Option<SessionId>,
    is_welcome: bool,
    boots: u32,
    tasks: BTreeMap<TaskId, AgentTask>,
}

struct AgentTask {
    framework: FrameworkId,
    state: TaskState,
    sequence: u64,
    is_released: bool,
    is_to_end: bool,
    unacknowledged: Vec<TaskStatus>,
}

impl AgentTask {
    fn status(&self, id: &TaskId, agent: usize, now: Timestamp) -> TaskStatus {
        TaskStatus {
            task_id: id.clone(),
            framework_id: self.framework.clone(),
            agent_id: Some(agent_id(agent)),
            state: self.state,
            reason: Reason::None,
            message: String::new(),
            exit: None,
            at: now,
            sequence: self.sequence,
            is_released: self.is_released,
            usage: None,
            health: None,
        }
    }
}

#[derive(Default)]
struct Framework {
    id: Option<FrameworkId>,
    subscription: Option<SubscriptionId>,
    handled: Cursor,
    offers: Vec<OfferMessage>,
    /// How often each final status was heard.
    ends: BTreeMap<TaskId, u32>,
    launched: Vec<TaskId>,
}

impl Play {
    fn new() -> Self {
        let now = Timestamp::EPOCH + Duration::from_secs(1000);
        let state = ClusterState::new();
        let mut play = Self {
            leader: Leader::new(config(), 1, &state, now),
            state,
            log: Vec::new(),
            now,
            term: 1,
            calls: 0,
            tasks: 0,
            requests: 0,
            held: VecDeque::new(),
            agents: (0..AGENTS).map(|_| Agent::default()).collect(),
            frameworks: (0..FRAMEWORKS).map(|_| Framework::default()).collect(),
            waiting: BTreeMap::new(),
            submitted: BTreeSet::new(),
            started: BTreeSet::new(),
        };
        play.settle();
        play.commit(1);
        play.settle();
        play
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::AgentComes { agent, has_rebooted } => self.agent_comes(agent, has_rebooted),
            Step::AgentGoes { agent } => {
                if let Some(session) = self.agents[agent].session.take() {
                    self.agents[agent].is_welcome = false;
                    self.input(Input::SessionGone { session });
                }
            }
            Step::AgentWorks { agent, which, fails } => self.agent_works(agent, which, fails),
            Step::FrameworkComes { framework } => self.framework_comes(framework),
            Step::FrameworkGoes { framework } => {
                if let Some(subscription) = self.frameworks[framework].subscription.take() {
                    self.frameworks[framework].offers.clear();
                    self.input(Input::SubscriptionGone { subscription });
                }
            }
            Step::Accept { framework, which, sizes } => {
                let Some(caller) = self.caller(framework) else { return };
                let offers = &self.frameworks[framework].offers;
                if offers.is_empty() {
                    return;
                }
                let place = which % offers.len();
                // Offers stay in the list, so that they are also used twice.
                let offers = vec![offers[place].offer.clone()];
                let tasks = sizes.iter().map(|size| self.new_task(*size)).collect();
                self.call(
                    Who::Framework(framework),
                    Call::Accept { caller, offers, tasks, refuse: Duration::from_secs(1) },
                );
            }
            Step::Decline { framework, which, seconds } => {
                let Some(caller) = self.caller(framework) else { return };
                let offers = &mut self.frameworks[framework].offers;
                if offers.is_empty() {
                    return;
                }
                let place = which % offers.len();
                let offers = vec![offers.remove(place).offer];
                let refuse = Duration::from_secs(seconds);
                self.call(Who::Framework(framework), Call::Decline { caller, offers, refuse });
            }
            Step::Demand { framework, counts } => {
                let Some(caller) = self.caller(framework) else { return };
                let demands = counts
                    .into_iter()
                    .zip(1..)
                    .map(|(count, size)| Demand { shape: shape(size), count, constraints: Vec::new() })
                    .collect();
                self.call(Who::Framework(framework), Call::SetDemand { caller, demands });
            }
            Step::Suppress { framework } => {
                let Some(caller) = self.caller(framework) else { return };
                self.call(Who::Framework(framework), Call::Suppress { caller });
            }
            Step::Revive { framework } => {
                let Some(caller) = self.caller(framework) else { return };
                self.call(Who::Framework(framework), Call::Revive { caller });
            }
            Step::Kill { framework, which } => {
                let Some(caller) = self.caller(framework) else { return };
                let launched = &self.frameworks[framework].launched;
                if launched.is_empty() {
                    return;
                }
                let task = launched[which % launched.len()].clone();
                self.call(Who::Framework(framework), Call::Kill { caller, task, grace: None });
            }
            Step::Acknowledge { framework } => self.acknowledge(framework),
            Step::Run { sizes } => {
                let tasks = sizes.iter().map(|size| self.new_task(*size)).collect();
                let request = self.request();
                self.call(Who::User, Call::Run { request, tasks });
            }
            Step::StopRun { which } => {
                let Some(task) = self.submitted.iter().nth(which).cloned() else { return };
                let request = self.request();
                self.call(Who::User, Call::KillTask { request, task, grace: None });
            }
            Step::Wait { ms } => self.wait(Duration::from_millis(ms)),
            Step::Commit { count } => self.commit(count),
            Step::Elect { applied } => self.elect(applied),
            Step::Busy => {
                if let Some((ticket, _)) = self.held.pop_front() {
                    self.input(Input::Answered { ticket, result: Err(ProposeError::Busy) });
                }
            }
        }
        self.settle();
    }

    fn agent_comes(&mut self, agent: usize, has_rebooted: bool) {
        let now = self.now;
        let state = &mut self.agents[agent];
        if has_rebooted {
            state.boots += 1;
            // Final statuses survive on the disk; what ran does not, nor do the cgroups of what has ended.
            state.tasks.retain(|_, task| task.state.is_final());
            for (id, task) in state.tasks.iter_mut().filter(|(_, task)| !task.is_released) {
                task.sequence += 1;
                task.is_released = true;
                task.unacknowledged.push(task.status(id, agent, now));
            }
        }
        state.is_welcome = false;
        let row = |(id, task): (&TaskId, &AgentTask)| KnownTask {
            task: id.clone(),
            sequence: task.sequence,
            state: task.state,
        };
        let tasks = state.tasks.iter().map(row);
        let hello = Hello {
            agent: agent_id(agent),
            cluster: None,
            facts: AgentFacts {
                hostname: format!("host{agent}"),
                boot_id: format!("boot{}", state.boots),
                address: String::new(),
                version: String::new(),
                total: Resources {
                    cpus_milli: AGENT_CPUS * 1000,
                    mem_mib: AGENT_CPUS * 1000,
                    ..Resources::default()
                },
                attributes: Default::default(),
                limitations: Vec::new(),
            },
            tasks: Known::All(tasks.collect()),
        };
        self.call(Who::Agent(agent), Call::Attach(hello));
    }

    fn agent_works(&mut self, agent: usize, which: usize, fails: bool) {
        let now = self.now;
        let Some(state) = self.agents.get_mut(agent) else { return };
        let live: Vec<TaskId> =
            state.tasks.iter().filter(|(_, task)| !task.is_released).map(|(id, _)| id.clone()).collect();
        if live.is_empty() {
            return;
        }
        let id = live[which % live.len()].clone();
        let Some(task) = state.tasks.get_mut(&id) else { return };
        task.sequence += 1;
        match task.state {
            TaskState::Staging => task.state = TaskState::Running,
            TaskState::Running if task.is_to_end => task.state = TaskState::Killed,
            TaskState::Running if fails => task.state = TaskState::Failed,
            TaskState::Running => {
                task.state = TaskState::Finished;
                task.is_released = true;
            }
            _ => task.is_released = true,
        }
        let status = task.status(&id, agent, now);
        task.unacknowledged.push(status.clone());
        if state.is_welcome
            && let Some(session) = state.session
        {
            self.input(Input::Said { session, message: FromAgent::Updates(vec![status]) });
        }
    }

    fn agent_hears(&mut self, agent: usize, message: ToAgent) {
        match message {
            ToAgent::Welcome { assignments, .. } => {
                let assigned: BTreeSet<_> =
                    assignments.iter().map(|assignment| assignment.spec.task_id.clone()).collect();
                let state = &mut self.agents[agent];
                state.is_welcome = true;
                // What isn't assigned is ended without a word, unless its end is still to be told.
                state.tasks.retain(|id, task| {
                    assigned.contains(id) || task.state.is_final() && !task.unacknowledged.is_empty()
                });
                for assignment in assignments {
                    self.agent_is_assigned(agent, assignment);
                }
                let state = &self.agents[agent];
                let statuses: Vec<_> =
                    state.tasks.values().flat_map(|task| task.unacknowledged.clone()).collect();
                if let (Some(session), false) = (state.session, statuses.is_empty()) {
                    self.input(Input::Said { session, message: FromAgent::Updates(statuses) });
                }
            }
            ToAgent::Launch(assignments) => {
                for assignment in assignments {
                    assert!(!self.agents[agent].tasks.contains_key(&assignment.spec.task_id));
                    self.agent_is_assigned(agent, assignment);
                }
            }
            ToAgent::Kill { task, .. } => {
                if let Some(task) = self.agents[agent].tasks.get_mut(&task) {
                    task.is_to_end = true;
                }
            }
            ToAgent::Acknowledge(tasks) => {
                for (id, sequence) in tasks {
                    self.agent_forgets(agent, &id, sequence);
                }
            }
            ToAgent::ReadOutput { .. }
            | ToAgent::ReadHistory { .. }
            | ToAgent::UsagePace { .. }
            | ToAgent::OpenChannel { .. }
            | ToAgent::Heartbeat
            | ToAgent::ReadKnown { .. }
            | ToAgent::Refused { .. } => {}
        }
    }

    fn agent_is_assigned(&mut self, agent: usize, assignment: Assignment) {
        let id = assignment.spec.task_id.clone();
        let is_to_end = assignment.kill.is_some();
        if let Some(task) = self.agents[agent].tasks.get_mut(&id) {
            task.is_to_end |= is_to_end;
            let sequence = assignment.recorded_sequence;
            return self.agent_forgets(agent, &id, sequence);
        }
        assert_eq!(assignment.recorded_sequence, 0, "the log believes that the agent spoke of {id}");
        assert!(self.started.insert(id.clone()), "{id} was started twice");
        let task = AgentTask {
            framework: assignment.framework,
            state: TaskState::Staging,
            sequence: 0,
            is_released: false,
            is_to_end,
            unacknowledged: Vec::new(),
        };
        self.agents[agent].tasks.insert(id, task);
    }

    fn agent_forgets(&mut self, agent: usize, id: &TaskId, sequence: u64) {
        let Some(task) = self.agents[agent].tasks.get_mut(id) else { return };
        task.unacknowledged.retain(|status| status.sequence > sequence);
        if task.state.is_final() && task.is_released && task.unacknowledged.is_empty() {
            self.agents[agent].tasks.remove(id);
        }
    }

    fn framework_comes(&mut self, framework: usize) {
        // One at a time: two streams from the same cursor would both bring the same events.
        if self.waiting.values().any(|who| matches!(who, Who::Subscribe(place) if *place == framework)) {
            return;
        }
        // Whoever subscribes anew listens to the older stream no more.
        let state = &mut self.frameworks[framework];
        state.subscription = None;
        state.offers.clear();
        let params = SubscribeParams {
            info: FrameworkInfo {
                name: format!("f{framework}"),
                role: RoleName::new("default").unwrap(),
                failover_timeout: Duration::from_secs(100_000_000),
            },
            framework: state.id.clone(),
            cursor: Some(state.handled),
            request: Some(RequestId::new(&format!("framework{framework}")).unwrap()),
        };
        self.call(Who::Subscribe(framework), Call::Subscribe(params));
    }

    fn framework_hears(&mut self, framework: usize, message: ToFramework) {
        let state = &mut self.frameworks[framework];
        match message {
            ToFramework::Durable { cursor, event } => {
                assert!(cursor > state.handled, "an event came twice or out of order");
                state.handled = cursor;
                if let FrameworkEvent::Status(status) = event
                    && status.state.is_final()
                    && (!status.is_released || !state.ends.contains_key(&status.task_id))
                {
                    *state.ends.entry(status.task_id).or_default() += 1;
                }
            }
            ToFramework::Compacted { .. } => panic!("nothing was forgotten that was not handled"),
            ToFramework::Offers(offers) => state.offers.extend(offers),
            ToFramework::Rescind { offer, .. } => state.offers.retain(|known| known.offer != offer),
            ToFramework::Replaced | ToFramework::Ended(_) => {
                state.subscription = None;
                state.offers.clear();
            }
            ToFramework::Subscribed { .. } | ToFramework::Heartbeat => {}
        }
    }

    fn acknowledge(&mut self, framework: usize) {
        let Some(caller) = self.caller(framework) else { return };
        let cursor = self.frameworks[framework].handled;
        self.call(Who::Framework(framework), Call::Acknowledge { caller, cursor });
    }

    fn caller(&self, framework: usize) -> Option<Caller> {
        let state = &self.frameworks[framework];
        Some(Caller {
            framework: state.id.clone()?,
            subscription: state.subscription.clone()?,
            request: None,
        })
    }

    fn new_task(&mut self, size: u64) -> model::TaskSpec {
        self.tasks += 1;
        spec(&format!("t{}", self.tasks), shape(size))
    }

    fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId::new(&format!("r{}", self.requests)).unwrap()
    }

    fn call(&mut self, who: Who, what: Call) {
        self.calls += 1;
        let call = CallId(self.calls);
        self.waiting.insert(call, who);
        self.input(Input::Call { call, what });
    }

    fn input(&mut self, input: Input) {
        self.leader.handle(input, &self.state, self.now);
    }

    /// One turn. What it makes agents and frameworks say is heard in the next.
    fn settle(&mut self) {
        let effects = self.leader.settle(&self.state, self.now);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Propose { ticket, entry } => self.held.push_back((ticket, entry)),
                Effect::Answer { call, answer } => {
                    let who = self.waiting.remove(&call).expect("a call is answered once");
                    match (who, answer) {
                        (Who::Framework(framework), Ok(Reply::Launched(results))) => {
                            let launched = results.into_iter().filter(|(_, refusal)| refusal.is_none());
                            self.frameworks[framework].launched.extend(launched.map(|(task, _)| task));
                        }
                        (Who::User, Ok(Reply::Submitted(tasks))) => self.submitted.extend(tasks),
                        _ => {}
                    }
                }
                Effect::OpenSubscription { call, framework, subscription } => {
                    let Some(Who::Subscribe(place)) = self.waiting.remove(&call) else {
                        panic!("nobody asked")
                    };
                    let state = &mut self.frameworks[place];
                    state.offers.clear();
                    state.id = Some(framework);
                    state.subscription = Some(subscription);
                }
                Effect::ToFramework { subscription, message } => {
                    let found = |state: &Framework| state.subscription.as_ref() == Some(&subscription);
                    if let Some(framework) = self.frameworks.iter().position(found) {
                        self.framework_hears(framework, message);
                    }
                }
                Effect::TellWhenDrained { subscription } => self.input(Input::Drained { subscription }),
                Effect::CloseSubscription { .. } => {}
                Effect::OpenSession { call, session } => {
                    let Some(Who::Agent(agent)) = self.waiting.remove(&call) else { panic!("nobody asked") };
                    self.agents[agent].session = Some(session);
                }
                Effect::ToAgent { session, message } => {
                    let found = |state: &Agent| state.session == Some(session);
                    if let Some(agent) = self.agents.iter().position(found) {
                        self.agent_hears(agent, message);
                    }
                }
                Effect::CloseSession { session } => {
                    for agent in &mut self.agents {
                        if agent.session == Some(session) {
                            agent.session = None;
                            agent.is_welcome = false;
                        }
                    }
                }
            }
        }
    }

    fn apply(&mut self, entry: &Entry) -> cluster::Outcome {
        self.log.push(entry.clone());
        cluster::apply(&mut self.state, self.log.len() as u64, entry)
    }

    fn commit(&mut self, count: usize) {
        for _ in 0..count {
            let Some((ticket, entry)) = self.held.pop_front() else { return };
            let outcome = self.apply(&entry);
            self.input(Input::Applied { changes: outcome.changes });
            self.input(Input::Answered { ticket, result: Ok(outcome.answer) });
        }
    }

    fn elect(&mut self, applied: usize) {
        for (place, (_, entry)) in std::mem::take(&mut self.held).into_iter().enumerate() {
            if place < applied {
                let _unheard = self.apply(&entry);
            }
        }
        let effects = self.leader.step_down();
        self.perform(effects);
        assert!(self.waiting.is_empty(), "a call was never answered");
        self.term += 1;
        self.leader = Leader::new(config(), self.term, &self.state, self.now);
        self.input(Input::Supported { version: cluster::VERSION_SUPPORTED });
    }

    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            let next = self.leader.wake_at().min(self.now + Duration::from_secs(1)).min(until);
            self.now = next.max(self.now + Duration::from_micros(1));
            let heard: Vec<_> = self.agents.iter().filter_map(|agent| agent.session).collect();
            for session in heard {
                self.input(Input::Said { session, message: FromAgent::Heartbeat });
            }
            self.input(Input::Tick);
            self.settle();
        }
    }

    /// Everyone is there and behaves, and all tasks end.
    fn calm(&mut self) {
        for round in 0..400 {
            for agent in 0..AGENTS {
                if self.agents[agent].session.is_none() {
                    self.agent_comes(agent, false);
                }
                for which in 0..16 {
                    self.agent_works(agent, which, false);
                }
            }
            for framework in 0..FRAMEWORKS {
                if self.frameworks[framework].subscription.is_none() {
                    self.framework_comes(framework);
                }
                if let Some(caller) = self.caller(framework) {
                    self.call(Who::Framework(framework), Call::Suppress { caller: caller.clone() });
                    let offers = std::mem::take(&mut self.frameworks[framework].offers);
                    let offers = offers.into_iter().map(|offer| offer.offer).collect();
                    let refuse = Duration::ZERO;
                    self.call(Who::Framework(framework), Call::Decline { caller, offers, refuse });
                }
                self.acknowledge(framework);
            }
            for _ in 0..10 {
                self.settle();
                self.commit(usize::MAX);
                self.wait(Duration::from_millis(100));
            }
            self.check();
            let is_quiet = self.held.is_empty()
                && self.state.queue().is_empty()
                && self.state.tasks().values().all(|task| task.is_over())
                && self.state.frameworks().values().all(|framework| framework.events.is_empty());
            if is_quiet && round > 3 {
                return;
            }
        }
        let left: Vec<_> = self.state.tasks().values().filter(|task| !task.is_over()).collect();
        panic!("no calm: {left:#?}, waiting {:#?}", self.leader.waiting_because(&self.state));
    }

    fn check(&self) {
        for (id, agent) in self.state.agents() {
            let tasks =
                agent.tasks.iter().map(|task| self.state.task(task).expect("an index knows only records"));
            let sum = tasks.fold(Resources::default(), |sum, task| sum.plus(&task.spec.resources));
            assert_eq!(sum, agent.allocated, "the allocation of {id} is not that of its tasks");
            let offers = self.leader.offers.iter().filter(|offer| offer.agent == *id && !offer.is_in_use);
            let promised = offers.fold(sum, |sum, offer| sum.plus(&offer.resources));
            assert!(agent.facts.total.contains(&promised), "{id} has less than {promised}");
        }
        assert_eq!(self.leader.offers.rebuilt(), self.leader.offers.indices(), "index = rebuild");
    }

    fn check_the_end(&mut self) {
        for framework in &self.frameworks {
            let Some(id) = &framework.id else { continue };
            let tasks: Vec<_> = self.state.tasks().iter().filter(|(_, task)| task.framework == *id).collect();
            for (task, record) in &tasks {
                assert_eq!(framework.ends.get(*task), Some(&1), "the end of {task}: {record:?}");
            }
            assert_eq!(framework.ends.len(), tasks.len());
            for task in &framework.launched {
                assert!(self.state.task(task).is_some(), "{task} was called launched");
            }
        }
        for task in &self.submitted {
            assert!(self.state.task(task).is_some_and(|task| task.is_over()), "{task} was submitted");
        }
        assert_eq!(self.leader.sessions.told_tasks(), [], "orders are forgotten when their tasks are over");
        assert_eq!(self.leader.proposals_in_flight(), 0);
        let mut replayed = ClusterState::new();
        for (entry, index) in self.log.iter().zip(1..) {
            let _same = cluster::apply(&mut replayed, index, entry);
        }
        assert_eq!(replayed, self.state, "the replayed log gives another state");
    }
}

fn agent_id(agent: usize) -> AgentId {
    AgentId::new(&format!("a{agent}")).unwrap()
}

fn shape(size: u64) -> Resources {
    Resources { cpus_milli: size * 1000, mem_mib: size * 100, ..Resources::default() }
}
