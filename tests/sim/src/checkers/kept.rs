//! A finished task can be looked at for as long as was set.

use std::collections::BTreeMap;

use cluster::Change;
use model::{Duration, TaskId, limits};

use crate::{
    parameters::Parameters,
    record::{Checker, Fact},
    time::Moment,
};

/// From when its end was proposed until it is in the log.
const UNDER_WAY_MAX: Duration = Duration::from_secs(60);
/// Members' clocks count right, but for less than one part of so many.
const PARTS_WRONG: u32 = 1000;

/// Remembers when each task was over.
pub struct FinishedAreKept {
    applied: u64,
    kept: Duration,
    over: BTreeMap<TaskId, Moment>,
}

impl FinishedAreKept {
    pub fn new(parameters: &Parameters) -> Self {
        let kept = parameters.finished_tasks_kept;
        Self { applied: 0, kept: kept - kept / PARTS_WRONG, over: BTreeMap::new() }
    }
}

impl Checker for FinishedAreKept {
    fn name(&self) -> &'static str {
        "finished_are_kept"
    }

    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Applied { index, outcome, state, .. } if *index > self.applied => {
                self.applied = *index;
                let are_too_many = self.over.len() >= limits::FINISHED_TASKS_KEPT_MAX;
                for change in &outcome.changes {
                    let Change::Task(id) = change else { continue };
                    if let Some(task) = state.task(id) {
                        if task.is_over() {
                            self.over.entry(id.clone()).or_insert(now);
                        }
                        continue;
                    }
                    let Some(over) = self.over.remove(id) else { continue };
                    let long = now.since(over);
                    if long + UNDER_WAY_MAX < self.kept && !are_too_many {
                        return Err(format!(
                            "{id} was forgotten {long:?} after its end, and {:?} were set",
                            self.kept
                        ));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
