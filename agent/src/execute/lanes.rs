//! A bounded pool of threads; what is done for one task is done in order.
//!
//! Each task has a lane, and each lane at most one thread. Lanes that end something go before those that
//! launch, so that a burst of launches doesn't keep resources from being freed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use model::TaskId;
use supervisor::Action;
use tokio::sync::mpsc;

use super::{Executor, Outcome};
use crate::sys::{Process, Watch};

/// Threads that launch and end tasks: they wait for the kernel more than they compute.
pub const THREADS: usize = 8;

/// Outcomes that the actor has not taken yet; a full queue makes threads wait, not forget.
pub const OUTCOMES_MAX: usize = 1024;

/// What a thread does in one go.
#[derive(Debug)]
pub enum Job {
    Plan(Vec<Action>),
    CollectExit { task_id: TaskId, attempt: String, process: Process },
    LookWhetherEmpty { task_id: TaskId, attempt: String, watch: Watch },
}

impl Job {
    fn is_launch(&self) -> bool {
        // A held process is nearly there, so its release goes before new ones.
        let launches = |action: &Action| matches!(action, Action::MakeSandbox { .. });
        match self {
            Self::Plan(plan) => plan.iter().any(launches),
            Self::CollectExit { .. } | Self::LookWhetherEmpty { .. } => false,
        }
    }
}

/// The pool. Dropping it ends the threads after what they have to do.
pub struct Lanes {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<String, VecDeque<Job>>,
    /// Lanes with work and no thread, most urgent first.
    ready: VecDeque<String>,
    busy: BTreeSet<String>,
    is_over: bool,
}

impl Lanes {
    /// Starts the threads. Outcomes go to `outcomes`, in order for each lane.
    pub fn start(
        executor: &Arc<Executor>,
        threads: usize,
        outcomes: &mpsc::Sender<Outcome>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), wake: Condvar::new() });
        let started: std::io::Result<Vec<_>> = (0..threads)
            .map(|number| {
                let (shared, executor, outcomes) = (shared.clone(), executor.clone(), outcomes.clone());
                thread::Builder::new()
                    .name(format!("lane-{number}"))
                    .spawn(move || work(&shared, &executor, &outcomes))
            })
            .collect();
        Ok(Self { shared, threads: started? })
    }

    /// Puts a job at the end of a lane. Never waits.
    pub fn submit(&self, lane: &str, job: Job) {
        let mut state = self.shared.lock();
        let is_launch = job.is_launch();
        let is_new = !state.waiting.contains_key(lane) && !state.busy.contains(lane);
        state.waiting.entry(lane.to_owned()).or_default().push_back(job);
        if is_new {
            match is_launch {
                true => state.ready.push_back(lane.to_owned()),
                false => state.ready.push_front(lane.to_owned()),
            }
            self.shared.wake.notify_one();
        }
    }

    /// Lets the threads finish what they do and what waits, and waits for them. Outcomes are dropped by now.
    pub fn stop(mut self) {
        self.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the pool panicked");
            }
        }
    }

    fn end(&self) {
        self.shared.lock().is_over = true;
        self.shared.wake.notify_all();
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; `None` at the end.
    fn take(&self) -> Option<(String, Job)> {
        let mut state = self.lock();
        loop {
            if let Some(lane) = state.ready.pop_front() {
                let job = state.waiting.get_mut(&lane).and_then(VecDeque::pop_front);
                if let Some(job) = job {
                    state.busy.insert(lane.clone());
                    return Some((lane, job));
                }
                state.waiting.remove(&lane);
                continue;
            }
            if state.is_over && state.busy.is_empty() {
                self.wake.notify_all();
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, lane: String) {
        let mut state = self.lock();
        state.busy.remove(&lane);
        let next = state.waiting.get(&lane).and_then(VecDeque::front).map(Job::is_launch);
        match next {
            Some(true) => state.ready.push_back(lane),
            Some(false) => state.ready.push_front(lane),
            None => {
                state.waiting.remove(&lane);
                if state.is_over {
                    self.wake.notify_all();
                }
                return;
            }
        }
        self.wake.notify_one();
    }
}

fn work(shared: &Shared, executor: &Executor, outcomes: &mpsc::Sender<Outcome>) {
    while let Some((lane, job)) = shared.take() {
        let done = match job {
            Job::Plan(plan) => executor.execute_plan(&plan),
            Job::CollectExit { task_id, attempt, process } => {
                vec![executor.collect_exit(&task_id, &attempt, &process)]
            }
            Job::LookWhetherEmpty { task_id, attempt, watch } => {
                vec![executor.look_whether_empty(&task_id, &attempt, watch)]
            }
        };
        for outcome in done {
            // Without an actor, the record knows enough for the next start.
            let _ = outcomes.blocking_send(outcome);
        }
        shared.done(lane);
    }
}
