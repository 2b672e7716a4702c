//! From an assignment to a command that runs, or to why it can't.
//!
//! A launch has two halves: a process that waits, which is recorded, and its release. What comes after is
//! `supervisor`'s.

use model::{Reason, TaskId, TaskState};

use crate::{
    Action, Assignment, Kill, KillCause, Now, Phase, ProcessId, Row, Verdict, limits,
    supervisor::{Entry, Supervisor, attempt_name},
};

impl Supervisor {
    pub(crate) fn assigned(&mut self, assignment: Assignment, now: Now, actions: &mut Vec<Action>) {
        let task_id = assignment.spec.task_id.clone();
        if let Some(entry) = self.entries.get_mut(&task_id) {
            let is_over = matches!(entry.row.phase, Phase::Ended { .. });
            if is_over && entry.row.is_acknowledged() && assignment.recorded_sequence == 0 {
                entry.row.framework_id = assignment.framework_id;
                let message =
                    "this agent still keeps the output of an ended task with the same id; choose another";
                let verdict = Verdict::without_exit(TaskState::Dropped, Reason::LaunchFailed, message);
                self.tell(&task_id, verdict, true, now, actions);
            } else if let Some(kill) = assignment.kill {
                self.order_kill(&task_id, KillCause::Ordered, Some(kill.grace), now, actions);
            } else if std::mem::take(&mut entry.awaits_secrets) {
                entry.row.spec = assignment.spec;
                self.begin_anew(&task_id, now, actions);
            }
            return;
        }
        let held = self.entries.len() - self.ended.len();
        let verdict = if self.damaged.remove(&task_id) {
            let message = "the agent's record of it can't be read; whatever was left of it was ended";
            Some(Verdict::without_exit(TaskState::Gone, Reason::AgentLostTask, message))
        } else if assignment.recorded_sequence > 0 {
            // It began here once, and its record is lost (an old data directory, say).
            let message = "the agent has no record of it any more";
            Some(Verdict::without_exit(TaskState::Gone, Reason::AgentLostTask, message))
        } else if let Some(order) = assignment.kill {
            let kill = Kill { cause: KillCause::Ordered, deadline: now.uptime + order.grace };
            Some(Verdict::killed(kill, &assignment.spec, None, None))
        } else if self.is_ending {
            let message = "the agent is being stopped together with its tasks";
            Some(Verdict::without_exit(TaskState::Dropped, Reason::LaunchFailed, message))
        } else if held >= model::limits::TASKS_PER_AGENT_MAX {
            let message = format!("the agent has {held} tasks already, and can't have more");
            Some(Verdict::without_exit(TaskState::Dropped, Reason::LaunchFailed, message))
        } else {
            None
        };
        let row = Row {
            task_id: task_id.clone(),
            framework_id: assignment.framework_id,
            attempt: attempt_name(&task_id, now.wall),
            spec: assignment.spec.clone(),
            phase: Phase::Preparing,
            kill: None,
            statuses: Vec::new(),
            sequence: assignment.recorded_sequence,
            acknowledged: assignment.recorded_sequence,
            assigned_at: now.wall,
            began: None,
            launches: 1,
        };
        self.entries.insert(task_id.clone(), Entry::new(row));
        if let Some(verdict) = verdict {
            self.end_at_once(&task_id, verdict, now, actions);
            return;
        }
        let files = assignment.spec.fetches.len();
        let message = if files > 0 { format!("fetching its files ({files})") } else { String::new() };
        let starting = Verdict::without_exit(TaskState::Starting, Reason::None, message);
        self.tell(&task_id, starting, false, now, actions);
        self.prepare(&task_id, actions);
    }

    /// The first half of a launch, up to a process that waits.
    fn prepare(&self, task_id: &TaskId, actions: &mut Vec<Action>) {
        let Some(Entry { row: Row { attempt, spec, .. }, .. }) = self.entries.get(task_id) else { return };
        actions.extend([
            Action::MakeSandbox { task_id: task_id.clone(), attempt: attempt.clone(), spec: spec.clone() },
            Action::MakeCgroups { task_id: task_id.clone(), attempt: attempt.clone(), spec: spec.clone() },
            Action::RegisterMeter { task_id: task_id.clone(), attempt: attempt.clone() },
        ]);
        let (task_id, attempt, spec) = (task_id.clone(), attempt.clone(), spec.clone());
        actions.push(match spec.fetches.is_empty() {
            true => Action::Spawn { task_id, attempt, spec },
            // The process comes when the files are there; the kernel counts what they cost for the task.
            false => Action::Fetch { task_id, attempt, spec },
        });
    }

    pub(crate) fn fetched(&mut self, task_id: &TaskId, now: Now, actions: &mut Vec<Action>) {
        let Some(Entry { row, .. }) = self.entries.get(task_id) else { return };
        if row.phase != Phase::Preparing {
            return;
        }
        match row.kill {
            Some(kill) => {
                let verdict = Verdict::killed(kill, &row.spec, None, None);
                self.end(task_id, None, verdict, now, actions);
            }
            None => actions.push(Action::Spawn {
                task_id: task_id.clone(),
                attempt: row.attempt.clone(),
                spec: row.spec.clone(),
            }),
        }
    }

    pub(crate) fn fetch_failed(
        &mut self,
        task_id: &TaskId,
        message: String,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(Entry { row, .. }) = self.entries.get(task_id) else { return };
        if row.phase != Phase::Preparing {
            return;
        }
        let verdict = match row.kill {
            Some(kill) => Verdict::killed(kill, &row.spec, None, None),
            None => Verdict::without_exit(TaskState::Failed, Reason::FetchFailed, message),
        };
        self.end(task_id, None, verdict, now, actions);
    }

    /// Goes on with a task whose launch was under way when the agent stopped: nothing of it has begun.
    pub(crate) fn begin_anew(&mut self, task_id: &TaskId, now: Now, actions: &mut Vec<Action>) {
        let Some(Row { kill, launches, spec, .. }) = self.row(task_id) else { return };
        let (kill, launches) = (*kill, *launches);
        let verdict = match kill {
            Some(kill) => Verdict::killed(kill, spec, None, None),
            None if launches < limits::LAUNCHES_MAX => {
                self.prepare_anew(task_id, now, actions);
                return;
            }
            None => {
                let message = format!("the agent stopped {launches} times while it prepared the task");
                Verdict::without_exit(TaskState::Dropped, Reason::LaunchFailed, message)
            }
        };
        self.end(task_id, None, verdict, now, actions);
    }

    fn prepare_anew(&mut self, task_id: &TaskId, now: Now, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        let row = &mut entry.row;
        let left = std::mem::replace(&mut row.attempt, attempt_name(task_id, now.wall));
        row.phase = Phase::Preparing;
        row.launches += 1;
        // A crash before the removal leaves an attempt that no row names, which is removed at the next start.
        actions.extend([
            Action::WriteRecord(Box::new(row.clone())),
            Action::RemoveStrayCgroups { attempt: left.clone() },
            Action::RemoveStraySandbox { attempt: left },
        ]);
        self.prepare(task_id, actions);
    }

    pub(crate) fn prepared(
        &mut self,
        task_id: &TaskId,
        process: ProcessId,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        if entry.row.phase != Phase::Preparing {
            return;
        }
        if let Some(kill) = entry.row.kill {
            let verdict = Verdict::killed(kill, &entry.row.spec, None, None);
            self.end(task_id, Some(process), verdict, now, actions);
            return;
        }
        entry.row.phase = Phase::Releasing { process };
        entry.is_in_hand = true;
        actions.extend([
            Action::WriteRecord(Box::new(entry.row.clone())),
            Action::RegisterProcess { task_id: task_id.clone(), process },
            Action::Release { task_id: task_id.clone() },
        ]);
    }

    pub(crate) fn launched(&mut self, task_id: &TaskId, now: Now, actions: &mut Vec<Action>) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        let was_in_hand = std::mem::replace(&mut entry.is_in_hand, true);
        let Phase::Releasing { process } = entry.row.phase else {
            // It was adopted: its timers count from here on.
            if entry.is_checked() {
                actions.push(Action::BeginChecks { task_id: task_id.clone() });
            }
            self.settle(task_id);
            return;
        };
        entry.row.phase = Phase::Running { process };
        // Nobody saw the command of an adopted one begin, and its process began a moment before.
        entry.row.began = Some(if was_in_hand { now.uptime } else { process.began() });
        let is_to_end = entry.row.kill.is_some();
        let is_checked = entry.is_checked();
        self.tell(task_id, Verdict::running(""), false, now, actions);
        if is_to_end {
            self.begin_kill(task_id, process, now, actions);
        } else if is_checked {
            actions.push(Action::BeginChecks { task_id: task_id.clone() });
        }
    }

    pub(crate) fn launch_failed(
        &mut self,
        task_id: &TaskId,
        reason: Reason,
        message: String,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get(task_id) else { return };
        match entry.row.phase {
            Phase::Preparing => {
                let verdict = match entry.row.kill {
                    Some(kill) => Verdict::killed(kill, &entry.row.spec, None, None),
                    None => Verdict::without_exit(TaskState::Failed, reason, message),
                };
                self.end_at_once(task_id, verdict, now, actions);
            }
            Phase::Releasing { .. } => self.exec_failed(task_id, reason, message, now, actions),
            Phase::Running { .. }
            | Phase::Ending { .. }
            | Phase::Lingering { .. }
            | Phase::Ended { .. }
            | Phase::Removing => {}
        }
    }

    pub(crate) fn exec_failed(
        &mut self,
        task_id: &TaskId,
        reason: Reason,
        message: String,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get(task_id) else { return };
        let Phase::Releasing { process } = entry.row.phase else { return };
        let verdict = match entry.row.kill {
            Some(kill) => Verdict::killed(kill, &entry.row.spec, None, None),
            None => Verdict::without_exit(TaskState::Failed, reason, message),
        };
        self.end(task_id, Some(process), verdict, now, actions);
    }
}
