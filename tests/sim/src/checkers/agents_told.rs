//! Whoever has tasks on an agent hears that it is lost, and that it is back.

use std::{collections::BTreeMap, ops::Bound};

use cluster::{Change, ClusterState, Command};
use model::{AgentId, Cursor, FrameworkEvent, FrameworkId};

use crate::{
    record::{Checker, Fact},
    time::Moment,
};

/// Remembers which agents were there.
#[derive(Default)]
pub struct AgentsAreToldOf {
    applied: u64,
    is_reachable: BTreeMap<AgentId, bool>,
}

impl Checker for AgentsAreToldOf {
    fn name(&self) -> &'static str {
        "agents_are_told_of"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Applied { index, entry, outcome, state, .. } if *index > self.applied => {
                self.applied = *index;
                for change in &outcome.changes {
                    let Change::Agent(id) = change else { continue };
                    let Some(agent) = state.agent(id) else { continue };
                    let before = self.is_reachable.insert(id.clone(), agent.is_reachable);
                    let event = match (before, agent.is_reachable, &entry.command) {
                        (Some(true), false, Command::MarkAgentUnreachable { .. }) => {
                            FrameworkEvent::AgentLost(id.clone())
                        }
                        (Some(false), true, Command::RegisterAgent { .. }) => {
                            FrameworkEvent::AgentBack(id.clone())
                        }
                        _other => continue,
                    };
                    for task in agent.tasks.iter().filter_map(|task| state.task(task)) {
                        if !is_told(&task.framework, *index, &event, state) {
                            return Err(format!(
                                "entry {index} does not tell {} of {event:?}",
                                task.framework
                            ));
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn is_told(framework: &FrameworkId, index: u64, event: &FrameworkEvent, state: &ClusterState) -> bool {
    let Some(record) = state.framework(framework).filter(|record| !record.is_built_in) else { return true };
    let first = Bound::Included(Cursor { index, ordinal: 0 });
    record.events.range((first, Bound::Unbounded)).any(|(_, told)| told.as_ref() == event)
}
