//! No agent's task dies of a coordinator's fault: who kills a task has a wish of its owner to show.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Command, DeactivatedTasks};
use leader::Call;
use model::{AgentId, Duration, FrameworkId, TaskId};

use crate::{
    parameters::Parameters,
    record::{Checker, Fact},
    time::Moment,
};

/// Members' clocks may be set to anything, but count right: they are wrong by less than one part of so many.
const PARTS_WRONG: u32 = 1000;

/// Remembers who wished the end of what.
pub struct TasksSurvive {
    applied: u64,
    failover_timeout: Duration,
    /// Tasks whose end somebody wished.
    wished: BTreeSet<TaskId>,
    /// Frameworks whose end somebody wished, or that stayed away for too long.
    ended: BTreeSet<FrameworkId>,
    owner: BTreeMap<TaskId, FrameworkId>,
    place: BTreeMap<TaskId, AgentId>,
    /// Agents that an operator drained, or of which one said that they are gone.
    given_up: BTreeSet<AgentId>,
    /// When each framework was last seen on its stream.
    seen: BTreeMap<FrameworkId, Moment>,
}

impl TasksSurvive {
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            applied: 0,
            failover_timeout: parameters.failover_timeout,
            wished: BTreeSet::new(),
            ended: BTreeSet::new(),
            owner: BTreeMap::new(),
            place: BTreeMap::new(),
            given_up: BTreeSet::new(),
            seen: BTreeMap::new(),
        }
    }
}

impl Checker for TasksSurvive {
    fn name(&self) -> &'static str {
        "tasks_survive"
    }

    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Wished { call: Call::Kill { task, .. } | Call::KillTask { task, .. }, .. } => {
                self.wished.insert((*task).clone());
                Ok(())
            }
            Fact::Wished { call: Call::TeardownFramework { framework, .. }, .. } => {
                self.ended.insert((*framework).clone());
                Ok(())
            }
            Fact::Wished {
                call:
                    Call::MarkAgentGone { agent, .. }
                    | Call::DeactivateAgent { agent, tasks: DeactivatedTasks::End { .. }, .. },
                ..
            } => {
                self.given_up.insert(agent.clone());
                Ok(())
            }
            Fact::Subscribed { framework, .. }
            | Fact::Heard { framework, .. }
            | Fact::Offered { framework, .. } => {
                self.seen.insert((*framework).clone(), now);
                Ok(())
            }
            Fact::Applied { index, entry, outcome, .. } if *index > self.applied => {
                self.applied = *index;
                if outcome.answer.is_err() {
                    return Ok(());
                }
                match &entry.command {
                    Command::Launch { framework, tasks, agent, .. } => {
                        let placed = tasks.iter().map(|task| (task.task_id.clone(), agent.clone()));
                        self.place.extend(placed);
                        let owned = tasks.iter().map(|task| (task.task_id.clone(), framework.clone()));
                        self.owner.extend(owned);
                        Ok(())
                    }
                    Command::TearDownFramework { framework, request: None } => {
                        let seen = self.seen.get(framework).copied().unwrap_or_default();
                        // One leader writes down when it began, and another one may count on.
                        let miscounted = self.failover_timeout / PARTS_WRONG;
                        if now.since(seen) + miscounted < self.failover_timeout {
                            let away = now.since(seen);
                            return Err(format!("{framework} was torn down after {away:?} of absence"));
                        }
                        self.ended.insert(framework.clone());
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            Fact::Over { agent, task, is_killed: true, exit: _ } => {
                let is_orphan = self.owner.get(*task).is_some_and(|owner| self.ended.contains(owner));
                let is_given_up = self.place.get(*task).is_some_and(|place| self.given_up.contains(place));
                if self.wished.contains(*task) || is_orphan || is_given_up {
                    return Ok(());
                }
                Err(format!("agent {agent} killed {task}, and nobody had wished that"))
            }
            _ => Ok(()),
        }
    }
}
