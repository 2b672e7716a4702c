//! Asks tasks how they are, as their specs say.
//!
//! Each checked task has a loop of its own, which asks ([`probe`]) and hands every answer to the actor. What the
//! answers come to is `supervisor`'s to decide. Keeps nothing; a task that is adopted is asked anew.
//!
//! ## Design
//!
//! A thousand checks must not ask in the same moment, nor all at once when an agent starts: the first question
//! comes after a random part of the interval (of a second at most for a task that has just begun), and each
//! later one a little sooner or later than the interval says. So many questions are under way at once and no
//! more; what waits for its turn is late, never failed.
//! A frozen task is not asked, and what it failed to answer while it was frozen is not held against it.

pub(crate) mod probe;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use model::{HealthCheck, Probe, TaskId};
use supervisor::Row;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    execute::{Executor, chain},
};

use probe::{ProbeError, Prober};

/// Answers that wait for the actor.
const ANSWERS_MAX: usize = 1024;
/// Questions over the network that are under way at once: each holds a socket.
const CONNECTIONS_MAX: usize = 256;
/// Commands that are under way at once: each costs as much as a launch.
const COMMANDS_MAX: usize = 16;
/// By how much of the interval a question comes sooner or later, at most.
const JITTER: f64 = 0.05;
/// How soon a task that has just begun is asked first.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// How long commands under way may take to be ended when the agent stops.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What a task answered.
#[derive(Debug)]
pub struct Answer {
    pub task_id: TaskId,
    /// Absent: it is well.
    pub failure: Option<String>,
}

/// Every check that goes on.
pub struct Checks {
    shared: Arc<Shared>,
    stops: BTreeMap<TaskId, CancellationToken>,
    loops: JoinSet<()>,
}

struct Shared {
    executor: Arc<Executor>,
    prober: Prober,
    connections: Semaphore,
    commands: Semaphore,
    answers: mpsc::Sender<Answer>,
}

impl Checks {
    pub fn new(executor: Arc<Executor>) -> (Self, mpsc::Receiver<Answer>) {
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        let shared = Shared {
            prober: Prober::new(executor.clone()),
            executor,
            connections: Semaphore::new(CONNECTIONS_MAX),
            commands: Semaphore::new(COMMANDS_MAX),
            answers,
        };
        (Self { shared: Arc::new(shared), stops: BTreeMap::new(), loops: JoinSet::new() }, receiver)
    }

    /// Asks from now on. A task without a check is left alone.
    pub fn begin(&mut self, row: &Row) {
        // Loops that ended are let go of.
        while self.loops.try_join_next().is_some() {}
        let Some(check) = row.spec.health_check.clone() else { return };
        let stop = CancellationToken::new();
        if let Some(before) = self.stops.insert(row.task_id.clone(), stop.clone()) {
            before.cancel();
        }
        self.loops.spawn(self.shared.clone().ask_on(Arc::new(row.clone()), check, stop));
    }

    pub fn end(&mut self, task_id: &TaskId) {
        if let Some(stop) = self.stops.remove(task_id) {
            stop.cancel();
        }
    }

    /// Ends them all; tasks go on.
    pub async fn stop(&mut self) {
        std::mem::take(&mut self.stops).values().for_each(CancellationToken::cancel);
        let ended = timeout(STOP_PATIENCE, async { while self.loops.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            // The next agent ends what entered its tasks.
            tracing::warn!("some health checks would not end");
        }
    }
}

impl Shared {
    async fn ask_on(self: Arc<Self>, row: Arc<Row>, check: HealthCheck, stop: CancellationToken) {
        let age = clock::uptime().since(row.began.unwrap_or_default());
        let within = if age < check.interval { check.interval.min(FIRST_WITHIN) } else { check.interval };
        let mut due = Instant::now() + within.mul_f64(rand::random_range(0.0..1.0));
        let permits = match check.probe {
            Probe::Command { .. } => &self.commands,
            Probe::Http { .. } | Probe::Tcp { .. } | Probe::Grpc { .. } => &self.connections,
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(due) => {}
            }
            due += check.interval.mul_f64(rand::random_range(1.0 - JITTER..1.0 + JITTER));
            // After a pause of the whole machine nothing is made up for.
            due = due.max(Instant::now());
            let permit = tokio::select! {
                () = stop.cancelled() => return,
                permit = permits.acquire() => permit,
            };
            if self.executor.is_frozen(&row.task_id) {
                continue;
            }
            // Nothing is undone where it is dropped in the middle, but for commands, which hear of the stop.
            let asked = tokio::select! {
                asked = self.prober.ask(&row, &check, &stop) => asked,
                () = stop.cancelled(), if !matches!(check.probe, Probe::Command { .. }) => return,
            };
            drop(permit);
            let failure = match asked {
                Ok(()) => None,
                Err(ProbeError::Stopped) => return,
                Err(error) => Some(chain(&error)),
            };
            if failure.is_some() && self.executor.is_frozen(&row.task_id) {
                continue;
            }
            tracing::trace!(task_id = %row.task_id, failure, "a health check was answered");
            let answer = Answer { task_id: row.task_id.clone(), failure };
            if self.answers.send(answer).await.is_err() {
                return;
            }
        }
    }
}
