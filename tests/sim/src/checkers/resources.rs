//! Resources are conserved: in the log, in what a leader promises, and on the machines.

use std::collections::BTreeMap;

use cluster::{Change, ClusterState, Task};
use model::{AgentId, Resources};

use crate::{
    parameters::Parameters,
    record::{Checker, Fact},
    time::Moment,
};

/// Promises are looked at after so many turns, and after more where offers are more than this.
const SETTLED_LOOKED_AT: usize = 4;

/// All tasks are looked at after so many entries, and after more where tasks are more than this.
const ALL_LOOKED_AT: usize = 32;

/// Adds everything up by itself.
pub struct ResourcesConserved {
    total: Resources,
    applied: u64,
    /// When all tasks are looked at again.
    all_from: u64,
    turns: u64,
    /// When promises are looked at again.
    settled_from: u64,
    /// What holds resources on each machine, by attempt.
    held: BTreeMap<usize, BTreeMap<String, Resources>>,
}

impl ResourcesConserved {
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            total: parameters.agent_total(),
            applied: 0,
            all_from: 0,
            turns: 0,
            settled_from: 0,
            held: BTreeMap::new(),
        }
    }

    fn allocated(&mut self, id: &AgentId, state: &ClusterState) -> Result<Resources, String> {
        let mut sum = Resources::default();
        let mut add = |task: &Task| {
            if task.agent.as_ref() == Some(id) && !(task.state.is_final() && task.is_released) {
                sum = sum.plus(&task.spec.resources);
            }
        };
        // All tasks are many; those that the agent is said to have are right if the sum is, now and then.
        match state.agent(id) {
            Some(agent) if state.applied() < self.all_from => {
                agent.tasks.iter().filter_map(|task| state.task(task)).for_each(&mut add);
            }
            Some(_) | None => {
                self.all_from = state.applied() + state.tasks().len().max(ALL_LOOKED_AT) as u64;
                state.tasks().values().for_each(|task| add(task));
            }
        }
        if !self.total.contains(&sum) {
            return Err(format!("agent {id} has {}, and {sum} are allocated", self.total));
        }
        Ok(sum)
    }
}

impl Checker for ResourcesConserved {
    fn name(&self) -> &'static str {
        "resources_conserved"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Applied { index, outcome, state, .. } if *index > self.applied => {
                self.applied = *index;
                for change in &outcome.changes {
                    let Change::Agent(id) = change else { continue };
                    let sum = self.allocated(id, state)?;
                    let Some(agent) = state.agent(id) else { continue };
                    if agent.allocated != sum {
                        return Err(format!("agent {id} counts {}, and its tasks {sum}", agent.allocated));
                    }
                }
                Ok(())
            }
            Fact::Settled { leader, state, .. } => {
                self.turns += 1;
                if self.turns < self.settled_from {
                    return Ok(());
                }
                self.settled_from = self.turns + leader.offers_outstanding().max(SETTLED_LOOKED_AT) as u64;
                let mut promised: BTreeMap<AgentId, Resources> = BTreeMap::new();
                for offer in leader.offers().filter(|offer| !offer.is_in_use) {
                    let sum = promised.entry(offer.agent.clone()).or_default();
                    *sum = sum.plus(&offer.resources);
                }
                for (id, offered) in promised {
                    let allocated = state.agent(&id).map(|agent| agent.allocated.clone()).unwrap_or_default();
                    if !self.total.contains(&allocated.plus(&offered)) {
                        return Err(format!(
                            "agent {id} has {}; {allocated} are allocated and {offered} offered",
                            self.total
                        ));
                    }
                }
                Ok(())
            }
            Fact::Began { agent, attempt, resources, task } => {
                let held = self.held.entry(*agent).or_default();
                held.insert((*attempt).to_owned(), (*resources).clone());
                let sum = held.values().fold(Resources::default(), |sum, one| sum.plus(one));
                if !self.total.contains(&sum) {
                    return Err(format!("with {task}, tasks that need {sum} run on agent {agent}"));
                }
                Ok(())
            }
            Fact::Emptied { agent, attempt } => {
                self.held.entry(*agent).or_default().remove(*attempt);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
