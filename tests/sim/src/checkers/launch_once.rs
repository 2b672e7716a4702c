//! A task id is launched at most once: in the log, and on all machines together.

use std::collections::BTreeMap;

use cluster::Answer;
use model::TaskId;

use crate::{
    record::{Checker, Fact},
    time::Moment,
};

/// Remembers every launch.
#[derive(Default)]
pub struct LaunchOnce {
    began: BTreeMap<TaskId, usize>,
    launched: BTreeMap<TaskId, u64>,
    applied: u64,
}

impl Checker for LaunchOnce {
    fn name(&self) -> &'static str {
        "launch_once"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Began { agent, task, .. } => match self.began.insert((*task).clone(), *agent) {
                None => Ok(()),
                Some(before) => {
                    Err(format!("{task} began on agent {agent}, and had begun on agent {before}"))
                }
            },
            Fact::Applied { index, outcome, entry, .. } if *index > self.applied => {
                self.applied = *index;
                let Ok(Answer::Launched(results)) = &outcome.answer else { return Ok(()) };
                for (task, _) in results.iter().filter(|(_, refusal)| refusal.is_none()) {
                    // A repeated request gets its first answer.
                    let is_new = outcome.changes.contains(&cluster::Change::Task(task.clone()));
                    if !is_new {
                        continue;
                    }
                    if let Some(before) = self.launched.insert(task.clone(), *index) {
                        return Err(format!("{task} was launched by entry {before}, and again by {entry:?}"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
