//! What is told of a task's end is what its main process came to.

use std::collections::BTreeMap;

use model::{Exit, FrameworkEvent, TaskId, TaskState, TaskStatus};

use crate::{
    record::{Checker, Fact},
    time::Moment,
};

/// Remembers how each main process ended; absent where nobody can know.
#[derive(Default)]
pub struct EndsAreTrue {
    ends: BTreeMap<TaskId, Option<Exit>>,
}

impl EndsAreTrue {
    fn judge(&self, status: &TaskStatus) -> Result<(), String> {
        let truth = self.ends.get(&status.task_id).copied();
        let is_lie = match (status.state, status.exit) {
            (TaskState::Finished, _) => truth != Some(Some(Exit::Code(0))),
            (_, Some(exit)) => truth != Some(Some(exit)),
            (_, None) => false,
        };
        match is_lie {
            true => Err(format!(
                "{} is told as {:?} {:?}; in truth: {truth:?}",
                status.task_id, status.state, status.exit
            )),
            false => Ok(()),
        }
    }
}

impl Checker for EndsAreTrue {
    fn name(&self) -> &'static str {
        "ends_are_true"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Over { task, exit, .. } => {
                self.ends.insert((*task).clone(), *exit);
                Ok(())
            }
            Fact::Heard { event: FrameworkEvent::Status(status), .. } if status.state.is_final() => {
                self.judge(status)
            }
            Fact::Compacted { statuses, .. } => statuses
                .iter()
                .filter(|status| status.state.is_final())
                .try_for_each(|status| self.judge(status)),
            _ => Ok(()),
        }
    }
}
