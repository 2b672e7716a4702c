//! Finished tasks are kept for people to look at, but not for ever.

use model::{ClusterTime, Refusal, Timestamp, limits};

use super::Step;
use crate::outcome::Answer;

impl Step<'_> {
    /// Drops tasks that are over and whose framework knows it, oldest first: those above `keep`, and those
    /// that ended before either bound; at most [`limits::PRUNED_PER_ENTRY_MAX`] at once. Refuses nothing.
    pub(super) fn prune(
        &mut self,
        keep: u64,
        before: Option<Timestamp>,
        counted_before: Option<ClusterTime>,
    ) -> Result<Answer, Refusal> {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let mut dropped = 0;
        while dropped < limits::PRUNED_PER_ENTRY_MAX
            && let Some((counted, ended_at, _)) = self.state.index.prunable.get_min()
        {
            let is_old = before.is_some_and(|before| *ended_at < before)
                || counted_before.is_some_and(|before| *counted < before);
            if !is_old && self.state.index.prunable.len() <= keep {
                break;
            }
            let Some((_, _, id)) = self.state.index.prunable.remove_min() else { break };
            self.state.tasks.remove(&id);
            self.task_changed(&id);
            dropped += 1;
        }
        Ok(Answer::Pruned { tasks: u64::try_from(dropped).unwrap_or(u64::MAX) })
    }
}
