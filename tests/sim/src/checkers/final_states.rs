//! A final state never changes, and what is over is only forgotten when its framework knows.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Change, ClusterState, Task};
use model::{FrameworkEvent, FrameworkId, TaskId, TaskState};

use crate::{
    record::{Checker, Fact},
    time::Moment,
};

/// As the log had it last.
struct Known {
    state: TaskState,
    is_released: bool,
    framework: FrameworkId,
}

/// Remembers the state of every task in the log.
#[derive(Default)]
pub struct FinalStatesStay {
    applied: u64,
    states: BTreeMap<TaskId, Known>,
    heard: BTreeSet<TaskId>,
}

impl Checker for FinalStatesStay {
    fn name(&self) -> &'static str {
        "final_states_stay"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Heard { event: FrameworkEvent::Status(status), .. } if status.state.is_final() => {
                self.heard.insert(status.task_id.clone());
                Ok(())
            }
            Fact::Applied { index, outcome, state, entry, .. } if *index > self.applied => {
                self.applied = *index;
                for change in &outcome.changes {
                    let Change::Task(id) = change else { continue };
                    match state.task(id) {
                        Some(task) => self.changed(id, task),
                        None => self.forgotten(id, state),
                    }
                    .map_err(|why| format!("{why}, by {entry:?}"))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl FinalStatesStay {
    fn changed(&mut self, id: &TaskId, task: &Task) -> Result<(), String> {
        let (state, is_released) = (task.state, task.is_released);
        let now = Known { state, is_released, framework: task.framework.clone() };
        match self.states.insert(id.clone(), now) {
            Some(before) if before.state.is_final() && before.state != state => {
                Err(format!("{id} was {:?} and became {state:?}", before.state))
            }
            Some(before) if before.is_released && !is_released => {
                Err(format!("{id} was released and is not any more"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn forgotten(&self, id: &TaskId, cluster: &ClusterState) -> Result<(), String> {
        let Some(Known { state, is_released, framework }) = self.states.get(id) else { return Ok(()) };
        if !state.is_final() || !is_released {
            return Err(format!("{id} was forgotten while it was {state:?}, released: {is_released}"));
        }
        let has_listener = cluster.framework(framework).is_some_and(|one| !one.is_built_in);
        if has_listener && !self.heard.contains(id) {
            return Err(format!("{id} was forgotten before its framework heard of its end"));
        }
        Ok(())
    }
}
