//! Who is asked to end has as long for it as whoever asked has granted.

use std::collections::{BTreeMap, BTreeSet};

use cluster::Command;
use leader::Call;
use model::{AgentId, Duration, Exit, FrameworkId, TaskId};

use crate::{
    agent,
    record::{Checker, Fact},
    time::Moment,
};

/// Agents' clocks may be too fast by a twentieth.
const PACE: f64 = 0.94;

/// Remembers who was to end since when, and how soon at the earliest.
#[derive(Default)]
pub struct GracesAreGiven {
    /// What each task's spec says.
    usual: BTreeMap<TaskId, Duration>,
    /// The first wish, and the shortest grace of any.
    wished: BTreeMap<TaskId, (Moment, Duration)>,
    owner: BTreeMap<TaskId, FrameworkId>,
    /// Their tasks end for another reason.
    ended: BTreeSet<FrameworkId>,
    /// What runs there ends because an operator said so, with a grace of its own.
    emptied: BTreeSet<AgentId>,
}

impl GracesAreGiven {
    fn wish(&mut self, now: Moment, task: &TaskId, grace: Option<Duration>) {
        let usual = self.usual.get(task).copied().unwrap_or_default();
        let grace = grace.unwrap_or(usual);
        let (_, shortest) = self.wished.entry(task.clone()).or_insert((now, grace));
        *shortest = grace.min(*shortest);
    }
}

impl Checker for GracesAreGiven {
    fn name(&self) -> &'static str {
        "graces_are_given"
    }

    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Wished { call: Call::Accept { caller, tasks, .. }, .. } => {
                for spec in tasks {
                    self.usual.insert(spec.task_id.clone(), spec.kill_grace);
                    self.owner.insert(spec.task_id.clone(), caller.framework.clone());
                }
                Ok(())
            }
            Fact::Wished { call: Call::Run { tasks, .. }, .. } => {
                self.usual.extend(tasks.iter().map(|spec| (spec.task_id.clone(), spec.kill_grace)));
                Ok(())
            }
            Fact::Wished {
                call: Call::Kill { task, grace, .. } | Call::KillTask { task, grace, .. },
                ..
            } => {
                self.wish(now, task, *grace);
                Ok(())
            }
            Fact::Wished {
                call: Call::MarkAgentGone { agent, .. } | Call::DeactivateAgent { agent, .. },
                ..
            } => {
                self.emptied.insert(agent.clone());
                Ok(())
            }
            Fact::Proposed { entry, .. } => {
                if let Command::TearDownFramework { framework, .. } = &entry.command {
                    self.ended.insert(framework.clone());
                }
                Ok(())
            }
            Fact::Over { agent, task, is_killed: true, exit: Some(Exit::Signal(9)) } => {
                let is_emptied = agent::id_of(*agent).is_ok_and(|agent| self.emptied.contains(&agent));
                if is_emptied || self.owner.get(*task).is_some_and(|owner| self.ended.contains(owner)) {
                    return Ok(());
                }
                match self.wished.get(*task) {
                    Some((since, grace)) if now.since(*since) < grace.mul_f64(PACE) => Err(format!(
                        "agent {agent} killed {task} {:?} after the first wish, and it had {grace:?}",
                        now.since(*since)
                    )),
                    Some(_) | None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
