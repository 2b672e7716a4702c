//! How long it took until the tasks that an earlier agent left were in hand again.

use std::{collections::BTreeSet, time::Instant};

use model::TaskId;
use supervisor::{Action, Event};

use crate::metrics::Metrics;

/// Watches the first actions after a start until the last one is answered.
pub struct Adoption {
    /// When the agent was started.
    began: Instant,
    tasks: usize,
    left: BTreeSet<TaskId>,
}

impl Adoption {
    pub fn new(began: Instant, actions: &[Action]) -> Self {
        let left: BTreeSet<TaskId> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Adopt { task_id, .. } => Some(task_id.clone()),
                _ => None,
            })
            .collect();
        Self { began, tasks: left.len(), left }
    }

    /// Notes the answer of one adoption; after the last one the figures are final.
    pub fn note(&mut self, event: &Event, metrics: &Metrics) {
        let (Event::Launched { task_id } | Event::NeverBegun { task_id } | Event::Exited { task_id, .. }) =
            event
        else {
            return;
        };
        if !self.left.remove(task_id) || !self.left.is_empty() {
            return;
        }
        let elapsed = self.began.elapsed();
        metrics.adopted_tasks.set(i64::try_from(self.tasks).unwrap_or(i64::MAX));
        metrics.adoption_seconds.set(elapsed.as_secs_f64());
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(tasks = self.tasks, elapsed_ms, "every task of the earlier agent is in hand");
    }
}
