//! What an operator said of an agent holds: nothing is launched on one that is out of use, nobody comes back who is
//! gone, and no agent is either without an operator's word.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Answer, Command};
use leader::Call;
use model::{AgentId, TaskId};

use crate::{
    record::{Checker, Fact},
    time::Moment,
};

/// Remembers what operators wished, and what the log made of it.
#[derive(Default)]
pub struct OperatorsAreObeyed {
    applied: u64,
    /// By the agent and whether it shall be gone.
    wished: BTreeSet<(AgentId, bool)>,
    idle: BTreeSet<AgentId>,
    gone: BTreeSet<AgentId>,
    /// Where each task was launched.
    place: BTreeMap<TaskId, AgentId>,
}

impl Checker for OperatorsAreObeyed {
    fn name(&self) -> &'static str {
        "operators_are_obeyed"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Wished { call: Call::DeactivateAgent { agent, .. }, .. } => {
                self.wished.insert((agent.clone(), false));
                Ok(())
            }
            Fact::Wished { call: Call::MarkAgentGone { agent, .. }, .. } => {
                self.wished.insert((agent.clone(), true));
                Ok(())
            }
            Fact::Applied { index, entry, outcome, state, .. } if *index > self.applied => {
                self.applied = *index;
                let Ok(answer) = &outcome.answer else { return Ok(()) };
                // A repeat changes nothing, and so says nothing.
                let has_changed = !outcome.changes.is_empty();
                match (&entry.command, answer) {
                    (Command::DeactivateAgent { agent, .. }, _) if has_changed => {
                        if !self.wished.contains(&(agent.clone(), false)) {
                            return Err(format!("{agent} was taken out of use, and nobody had wished that"));
                        }
                        self.idle.insert(agent.clone());
                    }
                    (Command::ActivateAgent { agent, .. }, _) if has_changed => {
                        self.idle.remove(agent);
                    }
                    (Command::MarkAgentGone { agent, .. }, _) if has_changed => {
                        if !self.wished.contains(&(agent.clone(), true)) {
                            return Err(format!("{agent} was called gone, and nobody had wished that"));
                        }
                        self.gone.insert(agent.clone());
                        let mut here = self.place.iter().filter(|(_, place)| *place == agent);
                        if let Some((task, _)) =
                            here.find(|(task, _)| state.task(task).is_some_and(|task| !task.is_over()))
                        {
                            return Err(format!("{agent} is gone, and {task} is not"));
                        }
                    }
                    (Command::RegisterAgent { agent, .. }, _) if self.gone.contains(agent) => {
                        return Err(format!("{agent} was gone, and came back"));
                    }
                    (Command::Launch { agent, .. }, Answer::Launched(results)) if has_changed => {
                        let launched = results.iter().filter(|(_, refusal)| refusal.is_none());
                        for (task, _) in launched {
                            self.place.insert(task.clone(), agent.clone());
                            if self.idle.contains(agent) || self.gone.contains(agent) {
                                return Err(format!("{task} was launched on {agent}, which is out of use"));
                            }
                        }
                    }
                    _ => {}
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
