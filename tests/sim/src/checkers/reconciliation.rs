//! Whoever asks how his tasks are is told, of each of them, and none that has long been known is called unknown.

use std::collections::BTreeMap;

use cluster::Change;
use leader::{Call, Reply};
use model::{Duration, FrameworkId, Reason, TaskId, TaskStatus};

use crate::{
    record::{Checker, Fact},
    time::Moment,
};

/// Whoever answers may have stood still, and not know yet that others lead.
const LAG_MAX: Duration = Duration::from_secs(60);

struct Known {
    framework: FrameworkId,
    since: Moment,
    is_live: bool,
}

/// Remembers which tasks the log has.
#[derive(Default)]
pub struct ReconciliationAnswers {
    applied: u64,
    known: BTreeMap<TaskId, Known>,
}

impl Checker for ReconciliationAnswers {
    fn name(&self) -> &'static str {
        "reconciliation_answers"
    }

    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Applied { index, outcome, state, .. } if *index > self.applied => {
                self.applied = *index;
                for change in &outcome.changes {
                    let Change::Task(id) = change else { continue };
                    let Some(task) = state.task(id) else {
                        self.known.remove(id);
                        continue;
                    };
                    let framework = task.framework.clone();
                    let known = self.known.entry(id.clone());
                    let known = known.or_insert(Known { framework, since: now, is_live: true });
                    known.is_live = !task.state.is_final();
                }
                Ok(())
            }
            Fact::Answered {
                call: Call::Reconcile { caller, tasks },
                answer: Ok(Reply::Statuses(statuses)),
                ..
            } => self.judge(now, &caller.framework, tasks, statuses),
            _ => Ok(()),
        }
    }
}

impl ReconciliationAnswers {
    fn judge(
        &self,
        now: Moment,
        framework: &FrameworkId,
        tasks: &[TaskId],
        statuses: &[TaskStatus],
    ) -> Result<(), String> {
        let told: BTreeMap<&TaskId, &TaskStatus> =
            statuses.iter().map(|status| (&status.task_id, status)).collect();
        if let Some(missing) = tasks.iter().find(|task| !told.contains_key(task)) {
            return Err(format!("{framework} asked for {missing}, and was told nothing"));
        }
        let is_due = |(_, known): &(&TaskId, &Known)| {
            known.framework == *framework && now.since(known.since) > LAG_MAX && known.is_live
        };
        for (task, _) in self.known.iter().filter(is_due) {
            match told.get(task) {
                Some(status) if status.reason == Reason::TaskUnknown => {
                    return Err(format!(
                        "{framework} asked for {task}, which lives, and it was called unknown"
                    ));
                }
                None if tasks.is_empty() => {
                    return Err(format!("{framework} asked for all that lives, and {task} was left out"));
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }
}
