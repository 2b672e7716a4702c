//! No final status is lost or contradicted, from the agent's checkpoint to the framework, and each task's are in order.

use std::collections::BTreeMap;

use cluster::Change;
use model::{FrameworkEvent, FrameworkId, Reason, TaskId, TaskState, TaskStatus};

use crate::{
    record::{Checker, End, Fact},
    time::Moment,
};

/// Remembers how each task ended according to its agent, the log and its framework.
#[derive(Default)]
pub struct StatusesKept {
    applied: u64,
    by_agent: BTreeMap<TaskId, TaskState>,
    by_log: BTreeMap<TaskId, (TaskState, Reason)>,
    /// Statuses that frameworks heard, by task: place is the sequence less one.
    heard: BTreeMap<TaskId, Vec<(TaskState, bool)>>,
    /// Frameworks for which a gap means nothing: they were shown a summary.
    summarized: BTreeMap<FrameworkId, ()>,
}

impl Checker for StatusesKept {
    fn name(&self) -> &'static str {
        "statuses_kept"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Stored { row, agent } => {
                let Some(last) = row.statuses.last().filter(|status| status.state.is_final()) else {
                    return Ok(());
                };
                match self.by_agent.insert(last.task_id.clone(), last.state) {
                    Some(before) if before != last.state => Err(format!(
                        "agent {agent} calls {} {:?}, and before {before:?}",
                        last.task_id, last.state
                    )),
                    Some(_) | None => Ok(()),
                }
            }
            Fact::Applied { index, outcome, state, .. } if *index > self.applied => {
                self.applied = *index;
                for change in &outcome.changes {
                    let Change::Task(id) = change else { continue };
                    let Some(task) = state.task(id).filter(|task| task.state.is_final()) else { continue };
                    let reason = task.latest_status().reason;
                    self.by_log.entry(id.clone()).or_insert((task.state, reason));
                    // An operator's word may be wrong, and holds all the same.
                    if let Some(told) = self.by_agent.get(id)
                        && *told != task.state
                        && reason != Reason::AgentGone
                    {
                        return Err(format!("{id} is {told:?} on its agent and {:?} in the log", task.state));
                    }
                }
                Ok(())
            }
            Fact::Heard { event: FrameworkEvent::Status(status), framework, .. } => {
                self.hear(framework, status)
            }
            Fact::Compacted { framework, statuses, .. } => {
                self.summarized.insert((*framework).clone(), ());
                statuses
                    .iter()
                    .filter(|status| status.state.is_final())
                    .try_for_each(|status| self.agree(status))
            }
            Fact::Reconciled { statuses, .. } => {
                let known = statuses.iter().filter(|status| status.reason != Reason::TaskUnknown);
                known.filter(|status| status.state.is_final()).try_for_each(|status| self.agree(status))
            }
            _ => Ok(()),
        }
    }

    fn conclude(&mut self, end: &End<'_>) -> Result<(), String> {
        let Some(state) = end.states.first() else { return Ok(()) };
        for (task, told) in &self.by_agent {
            if !self.by_log.contains_key(task) && state.task(task).is_some() {
                return Err(format!("{task} is {told:?} on its agent, and the log never heard of it"));
            }
        }
        Ok(())
    }
}

impl StatusesKept {
    /// Whether a final status is what the log has.
    fn agree(&self, status: &TaskStatus) -> Result<(), String> {
        match self.by_log.get(&status.task_id) {
            Some((state, _)) if *state == status.state => Ok(()),
            other => Err(format!("{} was called {:?}; in the log: {other:?}", status.task_id, status.state)),
        }
    }

    fn hear(&mut self, framework: &FrameworkId, status: &TaskStatus) -> Result<(), String> {
        if status.state.is_final() {
            self.agree(status)?;
        }
        let heard = self.heard.entry(status.task_id.clone()).or_default();
        let place = usize::try_from(status.sequence).unwrap_or(0);
        let said = (status.state, status.is_released);
        if place == 0 {
            return Err(format!("status {:?} of {} has no number", status.state, status.task_id));
        }
        if let Some(before) = heard.get(place - 1) {
            return match *before == said {
                true => Ok(()),
                false => Err(format!("status {place} of {} is {said:?}, and was {before:?}", status.task_id)),
            };
        }
        if heard.len() + 1 != place && !self.summarized.contains_key(framework) {
            let count = heard.len();
            return Err(format!("status {place} of {} came after {count} others", status.task_id));
        }
        if let Some((last, _)) = heard.last()
            && last.is_final()
        {
            return Err(format!("{} ended as {last:?}, and then came {said:?}", status.task_id));
        }
        heard.resize(place - 1, (TaskState::Staging, false));
        heard.push(said);
        Ok(())
    }
}
