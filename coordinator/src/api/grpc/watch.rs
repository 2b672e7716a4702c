//! Watching tasks: the view of each, then again whenever it is another, until all are over.
//!
//! Levels, not edges: a reader that is slow, or a task that is fast, skips the views in between.
//! Holds the ids that are left and the records last seen, never a queue of views.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use cluster::Task;
use futures::stream;
use model::TaskId;
use proto::operator::v1 as wire;
use tokio::{sync::watch, time::Instant};
use tonic::Status;

use super::{
    Answers,
    operator::{unknown_task, view},
    stream_over,
};
use crate::{api::Context, metrics::OpenStream};

/// Least time between two looks: many entries in a row cost one look.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How often the reasons of waiting tasks are read, which are no part of the state.
const REASONS_INTERVAL: Duration = Duration::from_secs(1);

struct Watcher {
    context: Context,
    changed: watch::Receiver<u64>,
    /// What was shown last of each task that is not over.
    left: BTreeMap<TaskId, Shown>,
    /// To be shown now; each at most once.
    ready: VecDeque<TaskId>,
    reasons: BTreeMap<TaskId, Vec<String>>,
    reasons_at: Instant,
    _counted: OpenStream,
}

/// The version of a task that was shown last.
#[derive(Debug, Clone, PartialEq)]
enum Shown {
    Nothing,
    /// With these reasons.
    Waiting(Vec<String>),
    Record(Arc<Task>),
}

/// Refuses ids that nobody knows (TaskUnknown).
pub(super) fn watch(context: Context, tasks: Vec<TaskId>) -> Result<Answers<wire::TaskView>, Status> {
    let state = context.leader.state();
    if let Some(stranger) =
        tasks.iter().find(|task| state.task(task).is_none() && state.waiting(task).is_none())
    {
        return Err(unknown_task(stranger));
    }
    let watcher = Watcher {
        changed: context.leader.changed(),
        left: tasks.into_iter().map(|task| (task, Shown::Nothing)).collect(),
        ready: VecDeque::new(),
        reasons: BTreeMap::new(),
        reasons_at: Instant::now(),
        _counted: context.metrics.stream_opened("watch"),
        context,
    };
    Ok(Box::pin(stream::unfold(Some(watcher), |watcher| async move {
        let mut watcher = watcher?;
        match watcher.next().await? {
            Ok(view) => Some((Ok(view), Some(watcher))),
            Err(status) => Some((Err(status), None)),
        }
    })))
}

impl Watcher {
    /// `None` when all tasks are over and shown.
    async fn next(&mut self) -> Option<Result<wire::TaskView, Status>> {
        loop {
            let state = self.context.leader.state();
            while let Some(task) = self.ready.pop_front() {
                if let Some(view) = view(&state, &task, &self.reasons) {
                    self.note(&task, &state);
                    return Some(Ok(view));
                }
                // Forgotten since: its last view was that of its end.
                self.left.remove(&task);
            }
            self.changed.mark_unchanged();
            if self.is_any_waiting() && self.reasons_at <= Instant::now() {
                // A member that leads no more keeps the reasons that it had.
                if let Ok(soft) = self.context.leader.soft().await {
                    self.reasons = soft.waiting_because;
                    self.reasons.retain(|task, _| self.left.contains_key(task));
                }
                self.reasons_at = Instant::now() + REASONS_INTERVAL;
            }
            self.look();
            if !self.ready.is_empty() {
                continue;
            }
            if self.left.is_empty() {
                return None;
            }
            if let Err(over) = self.wait().await {
                return Some(Err(over));
            }
        }
    }

    fn is_any_waiting(&self) -> bool {
        self.left.values().any(|shown| matches!(shown, Shown::Waiting(_) | Shown::Nothing))
    }

    /// What the latest state shows of a task.
    fn now(&self, task: &TaskId, state: &cluster::ClusterState) -> Shown {
        match (state.tasks().get(task), state.waiting(task)) {
            (Some(record), _) => Shown::Record(record.clone()),
            (None, Some(_)) => Shown::Waiting(self.reasons.get(task).cloned().unwrap_or_default()),
            (None, None) => Shown::Nothing,
        }
    }

    fn look(&mut self) {
        let state = self.context.leader.state();
        let changed: Vec<_> = (self.left.iter())
            .filter(|(task, shown)| match (shown, state.tasks().get(*task)) {
                // The same record, whatever it holds: no need to look into it.
                (Shown::Record(shown), Some(now)) => !Arc::ptr_eq(shown, now),
                (Shown::Nothing | Shown::Waiting(_), _) | (Shown::Record(_), None) => {
                    **shown == Shown::Nothing || **shown != self.now(task, &state)
                }
            })
            .map(|(task, _)| task.clone())
            .collect();
        self.ready.extend(changed);
    }

    /// Remembers what is being shown, and forgets a task that is over.
    fn note(&mut self, task: &TaskId, state: &cluster::ClusterState) {
        let now = self.now(task, state);
        if matches!(&now, Shown::Record(record) if record.is_over()) {
            self.left.remove(task);
        } else {
            self.left.insert(task.clone(), now);
        }
    }

    async fn wait(&mut self) -> Result<(), Status> {
        let stop = self.context.stop.clone();
        let pause = async {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if self.is_any_waiting() {
                let _either = tokio::time::timeout_at(self.reasons_at, self.changed.clone().changed()).await;
                return Ok(());
            }
            // A clone sees what changed during the pause as well.
            self.changed.clone().changed().await.map_err(|_gone| stream_over())
        };
        tokio::select! {
            () = stop.cancelled() => Err(stream_over()),
            waited = pause => waited,
        }
    }
}
