//! The first decisions after a start: record, kernel and disk side by side.

use std::collections::{BTreeMap, BTreeSet};

use model::{AgentId, Reason, TaskId, TaskState};

use crate::{
    Action, Confidence, Now, Phase, Row, Supervisor, Verdict,
    supervisor::{Entry, task_of_attempt},
};

/// What the agent found when it started.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Whether the host is still up since the rows were written: else no process of theirs lives.
    pub is_same_boot: bool,
    /// Tasks whose record can't be read.
    pub damaged: BTreeSet<TaskId>,
    /// Attempts that have a cgroup.
    pub cgroups: BTreeSet<String>,
    /// Attempts that have a sandbox.
    pub sandboxes: BTreeSet<String>,
}

impl Supervisor {
    /// Takes up what an earlier start of the agent left: adopts it, ends it or removes it.
    pub fn restore(agent_id: AgentId, rows: Vec<Row>, found: Found, now: Now) -> (Self, Vec<Action>) {
        let mut supervisor = Self::new(agent_id);
        let mut actions = Vec::new();
        let mut named = BTreeMap::new();
        for row in rows {
            named.insert(row.attempt.clone(), row.holds_resources());
            supervisor.restore_row(row, &found, now, &mut actions);
        }
        for attempt in &found.cgroups {
            match named.get(attempt) {
                // `restore_row` saw to it.
                Some(true) => {}
                // Ended, but the agent stopped before the last actions.
                Some(false) | None => {
                    actions.push(Action::RemoveStrayCgroups { attempt: attempt.clone() });
                }
            }
        }
        for attempt in &found.sandboxes {
            if !named.contains_key(attempt) {
                actions.push(Action::RemoveStraySandbox { attempt: attempt.clone() });
            }
        }
        // What lies here without a record may have begun, and was ended just now: it is never begun again.
        let strays =
            found.cgroups.iter().chain(&found.sandboxes).filter(|attempt| !named.contains_key(*attempt));
        let lost: BTreeSet<TaskId> = strays
            .filter_map(|attempt| task_of_attempt(attempt))
            .filter(|task_id| !supervisor.entries.contains_key(task_id))
            .collect();
        supervisor.damaged = found.damaged;
        supervisor.damaged.extend(lost);
        (supervisor, actions)
    }

    fn restore_row(&mut self, row: Row, found: &Found, now: Now, actions: &mut Vec<Action>) {
        let task_id = row.task_id.clone();
        let attempt = row.attempt.clone();
        let phase = row.phase.clone();
        let kill = row.kill;
        let spec = row.spec.clone();
        let shares_pids = row.spec.shared_namespaces.pid;
        let signal = row.spec.kill_signal;
        let has_secrets = !row.spec.secrets.is_empty();
        let mut entry = Entry::new(row);
        // An agent that stopped while it removed the sandbox begins that again in due time.
        if phase == Phase::Removing {
            entry.row.phase = Phase::Ended { at: now.wall };
        }
        // It waits for the answer of its adoption, if there is one.
        entry.is_in_hand = false;
        // No deadline was ever further away; that of an earlier version is by another clock.
        if let Some(kill) = &mut entry.row.kill {
            let grace = entry.row.spec.kill_grace;
            kill.deadline = kill.deadline.min(now.uptime + grace.max(model::KILL_GRACE_DEFAULT));
        }
        self.entries.insert(task_id.clone(), entry);
        self.settle(&task_id);
        if !found.is_same_boot {
            self.restore_after_reboot(&task_id, phase, now, actions);
            return;
        }
        match phase {
            // The held process, if there was one, ended when the agent did: nothing has begun.
            Phase::Preparing if has_secrets => {
                if let Some(entry) = self.entries.get_mut(&task_id) {
                    entry.awaits_secrets = kill.is_none();
                }
                if kill.is_some() {
                    self.begin_anew(&task_id, now, actions);
                }
            }
            Phase::Preparing => self.begin_anew(&task_id, now, actions),
            Phase::Releasing { process } => {
                let confidence = if shares_pids { Confidence::Doubtful } else { Confidence::ToldByInit };
                actions.push(Action::Adopt { task_id, attempt, process, confidence, spec });
            }
            Phase::Running { process } => {
                let task = task_id.clone();
                let confidence = Confidence::Confirmed;
                actions.push(Action::Adopt { task_id: task, attempt, process, confidence, spec });
                // The signal may not have been sent; a second one does less harm than none.
                if kill.is_some_and(|kill| kill.deadline > now.uptime) {
                    actions.push(Action::Terminate { task_id, process, signal });
                }
            }
            Phase::Ending { .. } | Phase::Lingering { .. } => self.kill_all(&task_id, now, actions),
            Phase::Ended { .. } | Phase::Removing => {}
        }
    }

    /// No process survived. A final status that was made still counts; the others' is the leader's to
    /// make, because it hears of the boot before it hears of the task.
    fn restore_after_reboot(&mut self, task_id: &TaskId, phase: Phase, now: Now, actions: &mut Vec<Action>) {
        let verdict = match phase {
            Phase::Preparing | Phase::Releasing { .. } | Phase::Running { .. } => {
                let message = "the agent's host was restarted";
                Verdict::without_exit(TaskState::Gone, Reason::AgentRebooted, message)
            }
            Phase::Ending { verdict, .. } => verdict,
            Phase::Lingering { .. } => {
                // Its cgroup went with the boot: the same status once more, released.
                actions.extend(
                    self.handle(crate::Event::Emptied { task_id: task_id.clone(), usage: None }, now),
                );
                return;
            }
            Phase::Ended { .. } | Phase::Removing => return,
        };
        self.end_at_once(task_id, verdict, now, actions);
    }
}
