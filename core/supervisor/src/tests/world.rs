//! A host and a leader in memory, as hostile as they may be.
//!
//! Judges while it plays: every action is checked against the laws when it is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{
    Digests, Duration, Exit, Health, HealthCheck, KnownRow, Reason, TaskId, TaskState, TaskStatus, Timestamp,
};

use super::{agent, assignment, check, task};
use crate::{Action, Assignment, Event, Found, KillBudget, Known, Now, ProcessId, Row, Supervisor, Uptime};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Process {
    Held,
    Running,
    Dead(Option<Exit>),
}

#[derive(Debug, Default)]
struct Logged {
    recorded: u64,
    state: Option<TaskState>,
    is_released: bool,
    finals: usize,
    is_killed: bool,
    process: Option<(ProcessId, Process)>,
    released: usize,
    has_run: bool,
    is_unknown_exit: bool,
    health: Option<Health>,
}

fn budget() -> KillBudget {
    KillBudget::new(1, Duration::from_secs(5))
}

/// Tasks of two names have a health check.
fn is_checked(name: &TaskId) -> bool {
    ["v", "w"].contains(&name.as_str())
}

pub(super) struct World {
    supervisor: Supervisor,
    connections: u32,
    now: Now,
    next_pid: u32,
    // The host.
    store: BTreeMap<TaskId, Row>,
    sandboxes: BTreeSet<String>,
    /// With whether a stubborn process keeps it from being empty.
    cgroups: BTreeMap<String, bool>,
    meters: BTreeSet<String>,
    registered: BTreeSet<ProcessId>,
    /// Attempts whose files are on their way.
    fetching: BTreeMap<TaskId, String>,
    // The agent's memory.
    todo: VecDeque<Action>,
    lanes: BTreeMap<TaskId, VecDeque<Action>>,
    events: VecDeque<Event>,
    watched: BTreeSet<TaskId>,
    awaiting_empty: BTreeSet<TaskId>,
    checked: BTreeSet<TaskId>,
    fail_next: bool,
    // The leader and the stream.
    tasks: BTreeMap<TaskId, Logged>,
    is_connected: bool,
    /// Whether the agent has seen the session's Welcome; before that it says nothing.
    is_welcomed: bool,
    up: VecDeque<TaskStatus>,
    down: VecDeque<Event>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            supervisor: Supervisor::new(agent()).with_kill_budget(budget()),
            connections: 0,
            now: Now { wall: Timestamp(1_000_000), uptime: Uptime(Duration::from_secs(1)) },
            next_pid: 100,
            store: BTreeMap::new(),
            sandboxes: BTreeSet::new(),
            cgroups: BTreeMap::new(),
            meters: BTreeSet::new(),
            registered: BTreeSet::new(),
            fetching: BTreeMap::new(),
            todo: VecDeque::new(),
            lanes: BTreeMap::new(),
            events: VecDeque::new(),
            watched: BTreeSet::new(),
            awaiting_empty: BTreeSet::new(),
            checked: BTreeSet::new(),
            fail_next: false,
            tasks: BTreeMap::new(),
            is_connected: false,
            is_welcomed: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
        }
    }

    /// One step, drawn by two numbers.
    pub(super) fn step(&mut self, what: u8, which: u8) {
        self.now = self.now + Duration::from_millis(1);
        let name = task(["t", "u", "v", "w"][usize::from(which % 4)]);
        match what % 26 {
            0..=4 => self.do_one(),
            5..=8 => self.do_lane(&name),
            9..=11 => self.hear(),
            12 | 13 => self.leader_records(),
            14 | 15 => self.agent_receives(),
            16 => self.leader_launches(&name),
            17 => self.leader_kills(&name),
            18 => self.process_ends(&name, which),
            19 => self.connect(),
            20 => self.disconnect(),
            21 if which < 128 => self.restart(true),
            21 if which < 144 => self.restart(false),
            21 => self.fail_next = true,
            22 => self.pass(Duration::from_millis(u64::from(which) * 50)),
            24 | 25 => self.answer_check(&name, which),
            _ => self.be_stubborn(&name, !which.is_multiple_of(3)),
        }
        assert!(self.supervisor.indices_are_right());
    }

    /// No more faults: everything must come to its end.
    pub(super) fn calm(&mut self) {
        self.fail_next = false;
        if !self.is_connected {
            self.connect();
        }
        for round in 0..200 {
            let names: Vec<TaskId> = self.tasks.keys().cloned().collect();
            for name in &names {
                self.be_stubborn(name, false);
                self.process_ends(name, 0);
                while self.lanes.get(name).is_some_and(|lane| !lane.is_empty()) {
                    self.do_lane(name);
                }
            }
            while !self.todo.is_empty() {
                self.do_one();
            }
            self.leader_records();
            self.agent_receives();
            self.hear();
            if round % 10 == 9 {
                self.pass(Duration::from_secs(2));
            }
        }
        for (name, logged) in &self.tasks {
            assert!(logged.state.is_some_and(TaskState::is_final), "{name} has no end: {logged:?}");
            assert!(logged.is_released, "{name} was never released");
            assert_eq!(logged.finals, 1, "{name} ended {} times", logged.finals);
            if logged.is_unknown_exit && !logged.is_killed {
                assert_ne!(logged.state, Some(TaskState::Finished), "{name}");
            }
        }
        assert!(self.cgroups.is_empty(), "left: {:?}", self.cgroups);
        assert!(self.meters.is_empty(), "left: {:?}", self.meters);
        assert!(self.registered.is_empty(), "left: {:?}", self.registered);
        assert!(self.supervisor.is_idle());
        assert!(self.supervisor.rows().all(Row::is_acknowledged));
    }

    fn feed(&mut self, event: Event) {
        assert!(self.todo.is_empty());
        self.todo.extend(self.supervisor.handle(event, self.now));
    }

    fn hear(&mut self) {
        if self.todo.is_empty()
            && let Some(event) = self.events.pop_front()
        {
            self.feed(event);
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        if self.todo.is_empty() && self.supervisor.next_wake(self.now) == Some(Duration::ZERO) {
            self.feed(Event::Tick);
        }
    }

    /// The actor does records and reports itself and hands the rest to the lane of the task.
    fn do_one(&mut self) {
        let Some(action) = self.todo.pop_front() else { return };
        match action {
            Action::WriteRecord(row) => drop(self.store.insert(row.task_id.clone(), *row)),
            Action::Forget { task_id } => drop(self.store.remove(&task_id)),
            Action::Report(status) => {
                let stored = self.store.get(&status.task_id).expect("a report without a record");
                assert!(stored.sequence >= status.sequence, "(b) a report came before its record");
                if self.is_welcomed {
                    self.up.push_back(*status);
                }
            }
            Action::RemoveStrayCgroups { attempt } => {
                self.cgroups.remove(&attempt);
                self.meters.remove(&attempt);
            }
            Action::RemoveStraySandbox { attempt } => drop(self.sandboxes.remove(&attempt)),
            Action::BeginChecks { task_id } => {
                assert!(self.checked.insert(task_id), "(g) checks were begun twice");
            }
            Action::EndChecks { task_id } => drop(self.checked.remove(&task_id)),
            Action::Spare { .. } => {}
            other => {
                // What follows for the same task is one plan.
                let task_id = other.task_id().unwrap().clone();
                let lane = self.lanes.entry(task_id.clone()).or_default();
                lane.push_back(other);
                let is_more = |next: &&Action| next.task_id() == Some(&task_id) && !next.is_immediate();
                while self.todo.front().filter(is_more).is_some() {
                    lane.extend(self.todo.pop_front());
                }
            }
        }
    }

    /// One action of one task, on some thread. A launch that fails undoes what it had done.
    fn do_lane(&mut self, name: &TaskId) {
        let Some(action) = self.lanes.get_mut(name).and_then(VecDeque::pop_front) else { return };
        let row = self.store.get(name).expect("(b) an effect without a record").clone();
        let is_launch = matches!(
            action,
            Action::MakeSandbox { .. }
                | Action::MakeCgroups { .. }
                | Action::Fetch { .. }
                | Action::Spawn { .. }
        );
        if is_launch && std::mem::take(&mut self.fail_next) {
            let attempt = row.attempt;
            self.sandboxes.remove(&attempt);
            self.cgroups.remove(&attempt);
            self.meters.remove(&attempt);
            let lane = self.lanes.get_mut(name).unwrap();
            while lane.front().is_some_and(|action| action.undo().is_some()) {
                lane.pop_front();
            }
            let message = "no space left".to_owned();
            self.events.push_back(Event::LaunchFailed {
                task_id: name.clone(),
                reason: Reason::LaunchFailed,
                message,
            });
            return;
        }
        self.perform(name, action);
    }

    fn perform(&mut self, name: &TaskId, action: Action) {
        let logged = self.tasks.get_mut(name).unwrap();
        match action {
            Action::MakeSandbox { attempt, .. } => {
                assert!(self.sandboxes.insert(attempt), "a sandbox was made twice");
            }
            Action::RemoveSandbox { attempt, task_id } => {
                self.sandboxes.remove(&attempt);
                self.events.push_back(Event::SandboxRemoved { task_id });
            }
            Action::MakeCgroups { attempt, .. } => {
                assert!(self.cgroups.insert(attempt, false).is_none(), "a cgroup was made twice");
            }
            Action::RemoveCgroups { attempt, .. } => drop(self.cgroups.remove(&attempt)),
            Action::RegisterMeter { attempt, .. } => drop(self.meters.insert(attempt)),
            Action::UnregisterMeter { attempt, .. } => drop(self.meters.remove(&attempt)),
            Action::Fetch { task_id, attempt, .. } => {
                assert!(self.cgroups.contains_key(&attempt) && self.sandboxes.contains(&attempt));
                assert!(!logged.has_run, "(a) {name} fetches after it ran");
                self.fetching.insert(task_id, attempt);
            }
            Action::CancelFetch { task_id, .. } => self.fetch_ends(&task_id, false),
            Action::Spawn { task_id, attempt, .. } => {
                assert!(self.cgroups.contains_key(&attempt));
                assert!(!self.fetching.contains_key(&task_id), "{name} begins before its files are there");
                assert!(!logged.has_run, "(a) {name} was spawned again after it ran");
                logged.released = 0;
                self.next_pid += 1;
                let process = ProcessId { pid: self.next_pid, start_ticks: 1 };
                logged.process = Some((process, Process::Held));
                self.events.push_back(Event::Prepared { task_id, process });
            }
            Action::RegisterProcess { process, .. } => drop(self.registered.insert(process)),
            Action::UnregisterProcess { process, .. } => drop(self.registered.remove(&process)),
            Action::Release { task_id } => {
                logged.released += 1;
                assert_eq!(logged.released, 1, "(a) {name} was released again");
                assert!(self.store[name].process().is_some(), "(b) released without a record");
                match &mut logged.process {
                    Some((_, process)) if *process == Process::Held && !self.fail_next => {
                        *process = Process::Running;
                        logged.has_run = true;
                        self.watched.insert(task_id.clone());
                        self.events.push_back(Event::Launched { task_id });
                    }
                    other => {
                        self.fail_next = false;
                        if let Some((_, process)) = other {
                            *process = Process::Dead(None);
                        }
                        let message = "can't run `sleep`".to_owned();
                        self.events.push_back(Event::ExecFailed { task_id, message });
                    }
                }
            }
            Action::Adopt { task_id, process, .. } => {
                let (known, state) = logged.process.unwrap();
                assert_eq!(known, process);
                match state {
                    Process::Held | Process::Dead(_) if !logged.has_run => {
                        self.events.push_back(Event::NeverBegun { task_id });
                    }
                    Process::Held | Process::Running => {
                        self.watched.insert(task_id.clone());
                        self.events.push_back(Event::Launched { task_id });
                    }
                    Process::Dead(exit) => {
                        logged.is_unknown_exit |= exit.is_none();
                        self.events.push_back(Event::Exited {
                            task_id,
                            exit,
                            usage: None,
                            processes: Vec::new(),
                        });
                    }
                }
            }
            Action::Terminate { task_id, .. } => {
                let is_deaf = self.store[name].attempt.len().is_multiple_of(2);
                if !is_deaf {
                    self.die(&task_id, Some(Exit::Signal(15)));
                }
            }
            Action::KillAll { task_id, .. } => {
                self.die(&task_id, Some(Exit::Signal(9)));
                self.awaiting_empty.insert(task_id.clone());
                self.look_whether_empty(&task_id);
            }
            Action::WriteRecord(_)
            | Action::Forget { .. }
            | Action::RemoveStrayCgroups { .. }
            | Action::RemoveStraySandbox { .. }
            | Action::BeginChecks { .. }
            | Action::EndChecks { .. }
            | Action::Spare { .. }
            | Action::Report(_) => unreachable!("the actor does these itself"),
        }
    }

    fn look_whether_empty(&mut self, name: &TaskId) {
        let Some(row) = self.store.get(name) else { return };
        if self.cgroups.get(&row.attempt) != Some(&true) && self.awaiting_empty.remove(name) {
            self.events.push_back(Event::Emptied { task_id: name.clone(), usage: None });
        }
    }

    fn be_stubborn(&mut self, name: &TaskId, is_stubborn: bool) {
        let Some(row) = self.store.get(name) else { return };
        if let Some(cgroup) = self.cgroups.get_mut(&row.attempt) {
            *cgroup = is_stubborn;
        }
        self.look_whether_empty(name);
    }

    fn fetch_ends(&mut self, name: &TaskId, is_there: bool) {
        let Some(attempt) = self.fetching.remove(name) else { return };
        let task_id = name.clone();
        self.events.push_back(match is_there {
            true => Event::Fetched { task_id },
            false => {
                self.sandboxes.remove(&attempt);
                Event::FetchFailed { task_id, message: "it is not there".to_owned() }
            }
        });
    }

    /// Also one that comes late, after the checks were ended.
    fn answer_check(&mut self, name: &TaskId, which: u8) {
        if self.tasks.get(name).is_some_and(|logged| logged.has_run) {
            let failure = (which % 8 < 5).then(|| "connection refused".to_owned());
            self.events.push_back(Event::Probed { task_id: name.clone(), failure });
        }
    }

    fn process_ends(&mut self, name: &TaskId, which: u8) {
        self.fetch_ends(name, !which.is_multiple_of(3));
        let Some(logged) = self.tasks.get(name) else { return };
        if matches!(logged.process, Some((_, Process::Running))) {
            let exit = match which % 3 {
                0 => Some(Exit::Code(which % 2)),
                1 => Some(Exit::Signal(11)),
                _ => None,
            };
            self.die(name, exit);
        }
    }

    fn die(&mut self, name: &TaskId, exit: Option<Exit>) {
        let Some(Logged { process: Some((_, process)), is_unknown_exit, .. }) = self.tasks.get_mut(name)
        else {
            return;
        };
        if matches!(process, Process::Dead(_)) {
            return;
        }
        *process = Process::Dead(exit);
        if self.watched.remove(name) {
            *is_unknown_exit |= exit.is_none();
            self.events.push_back(Event::Exited {
                task_id: name.clone(),
                exit,
                usage: None,
                processes: Vec::new(),
            });
        }
    }

    fn leader_launches(&mut self, name: &TaskId) {
        if self.tasks.contains_key(name) {
            // A duplicate, now and then.
            if self.is_connected && !self.tasks[name].is_released {
                let assignments = vec![self.assignment(name)];
                self.down.push_back(Event::Assigned { assignments });
            }
            return;
        }
        self.tasks.insert(name.clone(), Logged::default());
        if self.is_connected {
            let assignments = vec![self.assignment(name)];
            self.down.push_back(Event::Assigned { assignments });
        }
    }

    fn leader_kills(&mut self, name: &TaskId) {
        let Some(logged) = self.tasks.get_mut(name) else { return };
        logged.is_killed = true;
        if self.is_connected {
            self.down.push_back(Event::KillOrdered { task_id: name.clone(), grace: None });
        }
    }

    fn assignment(&self, name: &TaskId) -> Assignment {
        let logged = &self.tasks[name];
        let plain = assignment(name.as_str());
        let mut spec = (*plain.spec).clone();
        if name.as_str() == "w" {
            spec.run_time_max = Some(Duration::from_secs(3));
        }
        if is_checked(name) {
            spec.health_check =
                Some(HealthCheck { is_killed_when_unhealthy: name.as_str() == "v", ..check() });
        }
        Assignment {
            spec: spec.into(),
            kill: logged.is_killed.then_some(model::KillOrder { grace: Duration::from_secs(1) }),
            recorded_sequence: logged.recorded,
            ..plain
        }
    }

    fn leader_records(&mut self) {
        let Some(status) = self.up.pop_front() else { return };
        let name = status.task_id.clone();
        let logged = self.tasks.get_mut(&name).unwrap();
        if status.sequence > logged.recorded {
            let is_next = status.sequence == logged.recorded + 1;
            // Of changes of health the latest is enough.
            assert!(is_next || is_checked(&name), "(c) a status of {name} is missing");
            assert!(status.health.is_none() || status.state == TaskState::Running, "(g) {status:?}");
            assert_eq!(
                status.health.is_some(),
                is_checked(&name) && status.state == TaskState::Running,
                "(g) {status:?}"
            );
            let health_before = std::mem::replace(&mut logged.health, status.health);
            logged.recorded = status.sequence;
            let is_over = logged.state.is_some_and(TaskState::is_final);
            if is_over {
                // Once more, released; or an agent that came back after a reboot.
                if logged.state == Some(status.state) {
                    assert!(status.is_released, "(c) {name} ended twice");
                }
            } else {
                let from = logged.state.unwrap_or(TaskState::Staging);
                let is_change = from == status.state && health_before != status.health;
                let is_known = from.can_become(status.state) || is_change;
                assert!(is_known, "{name}: {from:?} became {:?}", status.state);
                logged.state = Some(status.state);
                logged.finals += usize::from(status.state.is_final());
            }
            logged.is_released |= status.is_released;
        }
        if self.is_connected {
            self.down.push_back(Event::Acknowledged { task_id: name, sequence: status.sequence });
        }
    }

    fn agent_receives(&mut self) {
        if self.todo.is_empty()
            && let Some(event) = self.down.pop_front()
        {
            self.is_welcomed |= matches!(event, Event::Welcomed { .. });
            self.feed(event);
        }
    }

    fn connect(&mut self) {
        self.disconnect();
        self.is_connected = true;
        let open: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, logged)| !(logged.state.is_some_and(TaskState::is_final) && logged.is_released))
            .map(|(name, _)| name.clone())
            .collect();
        // Every other time the agent says digests, and is told of no more than what differs.
        self.connections += 1;
        let known = Known::in_buckets(self.supervisor.known(), 2);
        let rows = open.iter().map(|name| KnownRow {
            task_id: name,
            sequence: self.tasks[name].recorded,
            state: self.tasks[name].state.unwrap_or(TaskState::Staging),
            awaits_word: false,
        });
        let differing = known.digests().differing(&Digests::of(rows, 2));
        let mut unchanged: Vec<u32> = (0..2).filter(|bucket| !differing.contains(bucket)).collect();
        if self.connections.is_multiple_of(2) {
            unchanged.clear();
        }
        let is_known = |assignment: &Assignment| {
            let bucket = known.digests().bucket_of(&assignment.spec.task_id);
            assignment.kill.is_none() && unchanged.contains(&bucket)
        };
        let assignments = open.iter().map(|name| self.assignment(name));
        let assignments = assignments.filter(|assignment| !is_known(assignment)).collect();
        let unchanged = known.of_buckets(&unchanged);
        self.down.push_back(Event::Welcomed { assignments, unchanged });
    }

    fn disconnect(&mut self) {
        self.is_connected = false;
        self.is_welcomed = false;
        self.up.clear();
        self.down.clear();
    }

    fn restart(&mut self, is_same_boot: bool) {
        self.disconnect();
        self.todo.clear();
        self.lanes.clear();
        self.fetching.clear();
        self.events.clear();
        self.watched.clear();
        self.awaiting_empty.clear();
        self.checked.clear();
        for logged in self.tasks.values_mut() {
            let Some((_, process)) = &mut logged.process else { continue };
            match process {
                // A held process ends with its agent, and so does its cgroup's only content.
                Process::Held => *process = Process::Dead(None),
                Process::Running if !is_same_boot => *process = Process::Dead(None),
                Process::Running | Process::Dead(_) => {}
            }
        }
        if !is_same_boot {
            self.cgroups.clear();
            self.meters.clear();
            self.registered.clear();
            // The leader hears of the boot before it hears of any task.
            for logged in self.tasks.values_mut() {
                let was_here = self.store.values().any(|row| logged.recorded > 0 || row.sequence > 0);
                if was_here && !logged.state.is_some_and(TaskState::is_final) {
                    logged.state = Some(TaskState::Gone);
                    logged.finals += 1;
                }
                logged.is_released |= logged.state.is_some_and(TaskState::is_final);
            }
        }
        let found = Found {
            is_same_boot,
            damaged: BTreeSet::new(),
            cgroups: self.cgroups.keys().cloned().collect(),
            sandboxes: self.sandboxes.clone(),
        };
        // The agent takes what the kernel still counts for nobody out at its start.
        let rows: Vec<Row> = self.store.values().cloned().collect();
        let held: BTreeSet<&str> =
            rows.iter().filter(|row| row.holds_resources()).map(|row| row.attempt.as_str()).collect();
        self.meters.retain(|attempt| held.contains(attempt.as_str()));
        let processes: BTreeSet<ProcessId> = rows.iter().filter_map(Row::process).collect();
        self.registered.retain(|process| processes.contains(process));
        let (supervisor, actions) = Supervisor::restore(agent(), rows, found, self.now);
        self.supervisor = supervisor.with_kill_budget(budget());
        self.todo.extend(actions);
    }
}
