//! Does what the supervisor decides: stores first, then tells, then acts, each task in its own lane.

use leader::FromAgent;
use model::{Duration, Exit, Reason, TaskId};
use supervisor::{Action, Assignment, Confidence, Event};

use super::{
    Agent, Wake,
    host::{Process, State},
};
use crate::{network::Up, record::Fact, stage::Stage};

/// How long it takes to see that the process of an earlier start has ended.
const LOOK: Duration = Duration::from_millis(1);

impl Agent {
    pub(super) fn decide(&mut self, event: Event, stage: &mut Stage) {
        stage.trace.line(stage.now, || format!("a{} {}", self.number, shown(&event)));
        let now = self.now(stage);
        let actions = self.supervisor.handle(event, now);
        self.perform(actions, stage);
        self.set_timer(stage);
    }

    fn set_timer(&mut self, stage: &mut Stage) {
        if !self.is_up {
            return;
        }
        let Some(span) = self.supervisor.next_wake(self.now(stage)) else { return };
        let delay = self.clock.truly(span) + Duration::from_micros(1);
        let at = stage.now + delay;
        if self.timer_at.is_none_or(|before| at < before) {
            self.timer_at = Some(at);
            self.later(stage, delay, Wake::Timer);
        }
    }

    pub(super) fn perform(&mut self, actions: Vec<Action>, stage: &mut Stage) {
        if actions.is_empty() {
            return;
        }
        if self.fails(stage) {
            return;
        }
        for action in &actions {
            stage.trace.line(stage.now, || format!("a{} > {action}", self.number));
            match action {
                Action::WriteRecord(row) => {
                    self.rows.insert(row.task_id.clone(), row.as_ref().clone());
                    stage.record.note(stage.now, &Fact::Stored { agent: self.number, row });
                }
                Action::Forget { task_id } => drop(self.rows.remove(task_id)),
                _other => {}
            }
        }
        if self.fails(stage) {
            return;
        }
        let mut statuses = Vec::new();
        for action in actions {
            if let Action::Report(status) = action {
                statuses.push(*status);
            } else if !action.is_immediate() {
                self.submit(action, stage);
            }
        }
        let Some(session) = self.session.as_ref().filter(|session| session.is_welcomed) else { return };
        if !statuses.is_empty() {
            stage.send_up(session.conn, Up::Said(Box::new(FromAgent::Updates(statuses))));
        }
    }

    fn submit(&mut self, action: Action, stage: &mut Stage) {
        let Some(task) = action.task_id().cloned() else {
            // What no row names is removed at leisure; nobody waits for it.
            match &action {
                Action::RemoveStrayCgroups { attempt } => self.remove_cgroup(attempt, stage),
                Action::RemoveStraySandbox { attempt } => drop(self.host.sandboxes.remove(attempt)),
                _other => {}
            }
            return;
        };
        let lane = self.lanes.entry(task.clone()).or_default();
        lane.push_back(action);
        if lane.len() == 1 {
            self.begin_next(task, stage);
        }
    }

    fn begin_next(&mut self, task: TaskId, stage: &mut Stage) {
        let delay = stage.chance.uneven_span(Duration::from_micros(20), Duration::from_millis(20));
        self.later(stage, delay, Wake::Done { task });
    }

    /// The first action of the lane takes effect.
    pub(super) fn done(&mut self, task: &TaskId, stage: &mut Stage) {
        if self.fails(stage) {
            return;
        }
        let Some(lane) = self.lanes.get_mut(task) else { return };
        let Some(action) = lane.pop_front() else { return };
        self.execute(task, action, stage);
        if !self.is_up {
            return;
        }
        match self.lanes.get(task).map(|lane| lane.is_empty()) {
            Some(false) => self.begin_next(task.clone(), stage),
            Some(true) | None => drop(self.lanes.remove(task)),
        }
    }

    fn happened(&self, event: Event, stage: &mut Stage) {
        self.later(stage, LOOK, Wake::Happened(event));
    }

    fn execute(&mut self, task: &TaskId, action: Action, stage: &mut Stage) {
        let task_id = task.clone();
        match action {
            Action::MakeSandbox { attempt, .. } => {
                if self.launch_fails(task, &attempt, stage) {
                    return;
                }
                self.host.sandboxes.insert(attempt);
            }
            Action::RemoveSandbox { attempt, .. } => {
                self.host.sandboxes.remove(&attempt);
                self.happened(Event::SandboxRemoved { task_id }, stage);
            }
            Action::MakeCgroups { attempt, .. } => {
                if self.launch_fails(task, &attempt, stage) {
                    return;
                }
                self.host.cgroups.insert(attempt, stage.now);
            }
            Action::RemoveCgroups { attempt, .. } => self.remove_cgroup(&attempt, stage),
            Action::Fetch { .. } => {
                let delay = stage.chance.uneven_span(Duration::from_millis(10), Duration::from_secs(20));
                self.later(stage, delay, Wake::Happened(Event::Fetched { task_id }));
            }
            Action::CancelFetch { .. } => {
                let message = "it was ended".to_owned();
                self.happened(Event::FetchFailed { task_id, message }, stage);
            }
            Action::Spawn { attempt, spec, .. } => {
                if self.launch_fails(task, &attempt, stage) {
                    return;
                }
                let process = self.host.spawn(&attempt, &spec, self.clock.uptime(stage.now));
                self.happened(Event::Prepared { task_id, process }, stage);
            }
            Action::Release { .. } => self.release(task, stage),
            Action::Adopt { attempt, process, confidence, .. } => {
                let found = self.host.processes.get(&attempt).filter(|found| found.id == process);
                let event = match found.map(|found| found.state) {
                    // Its init has told, or it was seen before.
                    Some(State::NeverBegan | State::Held) | None => Event::NeverBegun { task_id },
                    Some(State::Begun) => {
                        self.watched.insert(attempt);
                        Event::Launched { task_id }
                    }
                    Some(State::Dead(exit)) => {
                        let exit = exit.filter(|_| confidence != Confidence::Doubtful);
                        Event::Exited { task_id, exit, usage: None, processes: Vec::new() }
                    }
                };
                self.happened(event, stage);
            }
            Action::Terminate { .. } => {
                let attempt = self.attempt_of(task);
                let is_deaf = self.host.processes.get(&attempt).is_some_and(|found| found.work.is_deaf);
                if !is_deaf {
                    self.die(&attempt, Some(Exit::Signal(15)), true, stage);
                }
            }
            Action::KillAll { attempt, .. } => {
                let now = stage.now;
                let lingers = self.host.processes.get(&attempt).map(|found| found.work.lingers);
                if let (Some(until), Some(lingers)) = (self.host.cgroups.get_mut(&attempt), lingers)
                    && self.host.processes.get(&attempt).is_some_and(|found| found.state == State::Begun)
                {
                    *until = now + lingers;
                }
                self.die(&attempt, Some(Exit::Signal(9)), true, stage);
                self.look_whether_empty(task, &attempt, stage);
            }
            Action::RegisterMeter { .. }
            | Action::UnregisterMeter { .. }
            | Action::RegisterProcess { .. }
            | Action::UnregisterProcess { .. }
            | Action::RemoveStrayCgroups { .. }
            | Action::RemoveStraySandbox { .. }
            | Action::WriteRecord(_)
            | Action::Forget { .. }
            | Action::BeginChecks { .. }
            | Action::EndChecks { .. }
            | Action::Spare { .. }
            | Action::Report(_) => {}
        }
    }

    /// A launch that fails undoes what it had done, and the rest of its plan is dropped.
    fn launch_fails(&mut self, task: &TaskId, attempt: &str, stage: &mut Stage) -> bool {
        let often = stage.parameters.launch_failures;
        if !stage.misfortune(often) {
            return false;
        }
        self.host.sandboxes.remove(attempt);
        self.remove_cgroup(attempt, stage);
        if let Some(lane) = self.lanes.get_mut(task) {
            while lane.front().is_some_and(|action| action.undo().is_some()) {
                lane.pop_front();
            }
        }
        let message = "no space left".to_owned();
        let event = Event::LaunchFailed { task_id: task.clone(), reason: Reason::LaunchFailed, message };
        self.happened(event, stage);
        true
    }

    fn release(&mut self, task: &TaskId, stage: &mut Stage) {
        let attempt = self.attempt_of(task);
        let task_id = task.clone();
        let fails = stage.misfortune(stage.parameters.launch_failures);
        let Some(process) = self.host.processes.get_mut(&attempt).filter(|found| found.state == State::Held)
        else {
            let message = "there is no process".to_owned();
            return self.happened(Event::ExecFailed { task_id, message }, stage);
        };
        if fails {
            process.state = State::NeverBegan;
            let message = "no such file".to_owned();
            return self.happened(Event::ExecFailed { task_id, message }, stage);
        }
        process.state = State::Begun;
        let span = process.work.span;
        let fact = Fact::Began { agent: self.number, task, attempt: &attempt, resources: &process.resources };
        stage.record.note(stage.now, &fact);
        self.watched.insert(attempt.clone());
        if let Some(span) = span {
            // It ends whether or not the agent is there to see it.
            let at = stage.now + self.clock.truly(span);
            let what = crate::stage::What::Agent(Wake::Ends { attempt });
            stage.put(at, crate::stage::Happening { place: self.place(), life: None, what });
        }
        self.happened(Event::Launched { task_id }, stage);
    }

    pub(super) fn process_ends(&mut self, attempt: &str, stage: &mut Stage) {
        let Some(exit) = self.host.processes.get(attempt).map(|process| process.work.exit) else { return };
        let is_kept = self.watched.contains(attempt) || stage.parameters.are_exits_kept;
        self.die(attempt, is_kept.then_some(exit), false, stage);
    }

    fn die(&mut self, attempt: &str, exit: Option<Exit>, is_killed: bool, stage: &mut Stage) {
        let Some(Process { state, task, .. }) = self.host.processes.get_mut(attempt) else { return };
        match state {
            State::Held => *state = State::NeverBegan,
            State::Begun => {
                *state = State::Dead(exit);
                let task_id = task.clone();
                let fact = Fact::Over { agent: self.number, task: &task_id, is_killed, exit };
                stage.record.note(stage.now, &fact);
                if self.watched.remove(attempt) && self.is_up {
                    self.happened(Event::Exited { task_id, exit, usage: None, processes: Vec::new() }, stage);
                }
            }
            State::NeverBegan | State::Dead(_) => {}
        }
    }

    pub(super) fn look_whether_empty(&mut self, task: &TaskId, attempt: &str, stage: &mut Stage) {
        if self.attempt_of(task) != attempt {
            return;
        }
        if self.host.is_empty(attempt, stage.now) {
            stage.record.note(stage.now, &Fact::Emptied { agent: self.number, attempt });
            return self.happened(Event::Emptied { task_id: task.clone(), usage: None }, stage);
        }
        let Some(until) = self.host.cgroups.get(attempt) else { return };
        let delay = until.since(stage.now).max(LOOK);
        self.later(stage, delay, Wake::MaybeEmpty { task: task.clone(), attempt: attempt.to_owned() });
    }

    fn remove_cgroup(&mut self, attempt: &str, stage: &mut Stage) {
        // A stray may still hold something: it is killed first.
        self.die(attempt, Some(Exit::Signal(9)), true, stage);
        self.host.processes.remove(attempt);
        if self.host.cgroups.remove(attempt).is_some() {
            stage.record.note(stage.now, &Fact::Emptied { agent: self.number, attempt });
        }
    }

    fn attempt_of(&self, task: &TaskId) -> String {
        self.supervisor.row(task).map(|row| row.attempt.clone()).unwrap_or_default()
    }
}

fn shown(event: &Event) -> String {
    match event {
        Event::Welcomed { assignments, unchanged } => {
            let same: Vec<_> =
                unchanged.iter().map(|known| format!("={}#{}", known.task_id, known.sequence)).collect();
            format!("welcomed {} {}", names(assignments), same.join(" "))
        }
        Event::Assigned { assignments } => format!("assigned {}", names(assignments)),
        other => format!("{other:?}"),
    }
}

fn names(assignments: &[Assignment]) -> String {
    let name = |given: &Assignment| format!("{}#{}", given.spec.task_id, given.recorded_sequence);
    assignments.iter().map(name).collect::<Vec<_>>().join(" ")
}
