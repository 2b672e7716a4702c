//! Rounds over all running tasks: measuring them and trimming their output, each on a thread of its own.
//!
//! Holds the latest figures of each, and the sums of those that ended.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use model::{Figure, FrameworkId, Kind, Subject, TaskId, TaskSpec};
use supervisor::{Event, ProcessEnd, Row};
use tokio::sync::mpsc;

use crate::{
    clock,
    execute::{Directories, Executor, Outcome, Times, chain},
    history::{self, History},
    meter::{Files, Meter, Target, Watch},
    sys::{
        CgroupId, CgroupName, Layout, Pressure,
        bpf::{Measure, Measures},
        disk,
    },
};

/// How often outputs are looked at: a task that writes 1 GB/s gets this much ahead of its limit.
const TRIM_INTERVAL_MIN: Duration = Duration::from_millis(250);

/// And how seldom at most, however many there are: `logs --since` is exact to about a second.
const TRIM_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A round over outputs may take this part of the time: 1 % of a core.
const TRIM_SHARE: u32 = 100;

/// How often the disk of tasks is measured: so long may one go on that outgrows its own. And how often it is asked
/// which processes of a group have ended that aren't the end of the group.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A running task.
#[derive(Debug, Clone)]
pub struct Live {
    pub framework_id: FrameworkId,
    pub attempt: String,
    /// Zero: it asked for none, and is not held to any.
    disk_mib: u64,
    /// Absent until the first round.
    cgroup: Option<CgroupId>,
    /// Those inside it.
    members: Vec<CgroupId>,
    /// Present: it is a group.
    group: Option<Arc<TaskSpec>>,
}

/// What a task used, when it was last looked at.
#[derive(Debug, Clone)]
pub struct Sample {
    pub framework_id: FrameworkId,
    pub usage: model::Usage,
}

/// Sums over tasks that ended since the agent's start, of every figure that only grows.
pub type Totals = BTreeMap<Figure, u64>;

/// All figures at one moment.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    pub live: BTreeMap<TaskId, Sample>,
    /// The whole host; absent until the first round.
    pub host: Option<model::Usage>,
    pub ended: Totals,
}

/// What the two threads share with the actor.
#[derive(Default)]
pub struct Rounds {
    state: Mutex<State>,
    history: Mutex<History>,
    stop: Condvar,
}

#[derive(Default)]
struct State {
    live: BTreeMap<TaskId, Live>,
    samples: Samples,
    is_over: bool,
}

impl Rounds {
    /// Starts measuring a task.
    pub fn begin(&self, row: &Row) {
        let live = Live {
            framework_id: row.framework_id.clone(),
            attempt: row.attempt.clone(),
            disk_mib: row.spec.resources.disk_mib,
            cgroup: None,
            members: Vec::new(),
            group: (!row.spec.processes.is_empty()).then(|| row.spec.clone()),
        };
        self.lock().live.entry(row.task_id.clone()).or_insert(live);
    }

    /// Stops measuring it; its last figures go into the sums.
    pub fn end(&self, task_id: &TaskId, last: Option<&model::Usage>) {
        self.history().end(&Subject::Task(task_id.clone()), last, clock::now());
        let mut state = self.lock();
        state.live.remove(task_id);
        let sample = state.samples.live.remove(task_id);
        let sampled = sample.map(|sample| sample.usage).unwrap_or_default();
        for figure in Figure::ALL.into_iter().filter(|figure| figure.kind() == Kind::Counter) {
            // Two sources may differ by a hair; sums never go back.
            let used = last.and_then(|last| last.get(figure)).max(sampled.get(figure));
            if let Some(used) = used {
                *state.samples.ended.entry(figure).or_default() += used;
            }
        }
    }

    pub fn samples(&self) -> Samples {
        self.lock().samples.clone()
    }

    /// The latest figures of the host and of each running task, as the leader hears them.
    pub fn usages(&self) -> Vec<(Subject, model::Usage)> {
        let state = self.lock();
        let host = state.samples.host.iter().map(|usage| (Subject::Host, usage.clone()));
        let tasks = state.samples.live.iter();
        host.chain(tasks.map(|(id, sample)| (Subject::Task(id.clone()), sample.usage.clone()))).collect()
    }

    /// What a task or the host used lately.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets both threads end.
    pub fn stop(&self) {
        self.lock().is_over = true;
        self.stop.notify_all();
    }

    /// Starts the thread that measures.
    pub fn measure(
        self: &Arc<Self>,
        executor: Arc<Executor>,
        meter: Meter,
        measures: Measures,
    ) -> std::io::Result<JoinHandle<()>> {
        let rounds = self.clone();
        thread::Builder::new()
            .name("meter".to_owned())
            .spawn(move || rounds.measure_all(&executor, meter, measures))
    }

    /// Starts the thread that trims outputs and notes how they grow.
    pub fn trim(self: &Arc<Self>, executor: Arc<Executor>) -> std::io::Result<JoinHandle<()>> {
        let rounds = self.clone();
        thread::Builder::new().name("trim".to_owned()).spawn(move || {
            let mut times = Times::default();
            let mut interval = TRIM_INTERVAL_MIN;
            while !rounds.wait(interval) {
                let began = Instant::now();
                let tasks: Vec<(String, Option<Arc<TaskSpec>>)> = {
                    let state = rounds.lock();
                    state.live.values().map(|live| (live.attempt.clone(), live.group.clone())).collect()
                };
                for (attempt, group) in &tasks {
                    executor.look_at_output(attempt, group.as_deref(), &mut times);
                }
                times.forget_others();
                let slow = began.elapsed().saturating_mul(TRIM_SHARE);
                interval = slow.clamp(TRIM_INTERVAL_MIN, TRIM_INTERVAL_MAX);
            }
        })
    }

    /// Starts the thread that looks how much disk the tasks use, and which processes of groups have ended; it ends
    /// with those who hear of it.
    pub fn look(
        self: &Arc<Self>,
        executor: Arc<Executor>,
        outcomes: mpsc::Sender<Outcome>,
    ) -> std::io::Result<JoinHandle<()>> {
        let rounds = self.clone();
        thread::Builder::new().name("look".to_owned()).spawn(move || {
            let mut told = BTreeMap::new();
            while !rounds.wait(LOOK_INTERVAL) && !outcomes.is_closed() {
                let outgrown = rounds.outgrown(executor.directories());
                let outgrown = outgrown.into_iter().map(|task_id| Event::DiskOutgrown { task_id });
                for event in outgrown.chain(rounds.ended_of_groups(&executor, &mut told)) {
                    // Who no longer hears of it is about to be gone.
                    let _ = outcomes.blocking_send(Outcome::Event(event));
                }
            }
        })
    }

    /// What is news of groups that go on; `told` was told before.
    fn ended_of_groups(
        &self,
        executor: &Executor,
        told: &mut BTreeMap<TaskId, Vec<ProcessEnd>>,
    ) -> Vec<Event> {
        let groups: BTreeMap<TaskId, String> = {
            let state = self.lock();
            let groups = state.live.iter().filter(|(_, live)| live.group.is_some());
            groups.map(|(task_id, live)| (task_id.clone(), live.attempt.clone())).collect()
        };
        told.retain(|task_id, _| groups.contains_key(task_id));
        let mut news = Vec::new();
        for (task_id, attempt) in groups {
            let processes = executor.ends(&task_id, &attempt);
            if told.get(&task_id).map_or(&[][..], Vec::as_slice) != processes {
                told.insert(task_id.clone(), processes.clone());
                news.push(Event::ProcessesEnded { task_id, processes });
            }
        }
        news
    }

    /// Running tasks whose files take more than they asked for.
    fn outgrown(&self, directories: &Directories) -> Vec<TaskId> {
        let limited: Vec<(TaskId, Live)> = {
            let state = self.lock();
            let live = state.live.iter().filter(|(_, live)| live.disk_mib > 0);
            live.map(|(task_id, live)| (task_id.clone(), live.clone())).collect()
        };
        let is_outgrown = |task_id: &TaskId, live: &Live| {
            let (sandbox, tmp) = (directories.sandbox(&live.attempt), directories.tmp(&live.attempt));
            match disk::used(&[&sandbox, &tmp]) {
                Ok(used) => used.is_too_deep || used.bytes > live.disk_mib.saturating_mul(1 << 20),
                Err(error) => {
                    tracing::warn!(%task_id, error = chain(&error), "can't measure a task's disk");
                    false
                }
            }
        };
        limited.into_iter().filter(|(id, live)| is_outgrown(id, live)).map(|(id, _)| id).collect()
    }

    /// Starts the thread that looks after the kernel programs.
    pub fn watch(self: &Arc<Self>, watch: Arc<Watch>) -> std::io::Result<JoinHandle<()>> {
        let rounds = self.clone();
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            // Soon once, so that the first look at the page shows what is spent.
            let mut next_window = Instant::now();
            while !rounds.wait(Watch::LOOK_INTERVAL) {
                watch.mend();
                if Instant::now() < next_window {
                    continue;
                }
                next_window = Instant::now() + Watch::COST_INTERVAL;
                if let Some(window) = watch.begin_window() {
                    let is_over = rounds.wait(Watch::COST_WINDOW);
                    watch.end_window(window);
                    if is_over {
                        return;
                    }
                }
            }
        })
    }

    fn measure_all(&self, executor: &Executor, mut meter: Meter, measures: Measures) {
        // The first round soon: a task may be short.
        let mut pause = Duration::from_millis(100);
        while !self.wait(pause) {
            let live = self.with_ids(executor);
            let targets: Vec<Target> = live.iter().map(|(_, _, _, target)| target.clone()).collect();
            let names: Vec<Option<CgroupName>> =
                live.iter().map(|(_, live, _, _)| CgroupName::new(&live.attempt).ok()).collect();
            let at = clock::now();
            let sample = meter.sample(at, &targets, |index| {
                let Some(name) = names.get(index).and_then(Option::as_ref) else { return Files::default() };
                // A group that is gone has no figures; its task is about to be taken off the list.
                let figures = executor.sys.figures(name).unwrap_or_default();
                let pressure = if measures.has(Measure::Pressure) {
                    executor.sys.pressure(name)
                } else {
                    Pressure::default()
                };
                Files { figures, pressure }
            });
            if let Some(error) = sample.errors.first() {
                tracing::warn!(
                    errors = sample.errors.len(),
                    error = chain(error),
                    "some figures can't be measured"
                );
            }
            let host = history::host::usage(at);
            self.history().push(&Subject::Host, &host);
            let mut state = self.lock();
            state.samples.host = Some(host);
            for ((task_id, live, _, _), usage) in live.into_iter().zip(sample.usages) {
                // It may have ended since; then its last figures are in the sums already.
                if state.live.contains_key(&task_id) {
                    self.history().push(&Subject::Task(task_id.clone()), &usage);
                    let sample = Sample { framework_id: live.framework_id, usage };
                    state.samples.live.insert(task_id, sample);
                }
            }
            drop(state);
            pause = meter.interval();
        }
    }

    fn with_ids(&self, executor: &Executor) -> Vec<(TaskId, Live, CgroupId, Target)> {
        let live: Vec<(TaskId, Live)> =
            self.lock().live.iter().map(|(id, live)| (id.clone(), live.clone())).collect();
        let is_v2 = executor.sys.layout() == Layout::V2;
        let mut known = Vec::with_capacity(live.len());
        for (task_id, mut live) in live {
            let found = live.cgroup.or_else(|| {
                let name = CgroupName::new(&live.attempt).ok()?;
                let ids = executor.sys.cgroup_ids(&name).ok()?;
                let (id, members) = ids.split_first()?;
                if let Some(live) = self.lock().live.get_mut(&task_id) {
                    live.cgroup = Some(*id);
                    live.members = members.to_vec();
                }
                live.members = members.to_vec();
                Some(*id)
            });
            if let Some(cgroup) = found {
                // On v2 one group is both; elsewhere the meter finds out.
                let target = Target {
                    cgroup,
                    members: live.members.clone(),
                    memory_cgroup_id: is_v2.then_some(cgroup.0),
                };
                known.push((task_id, live, cgroup, target));
            }
        }
        known
    }

    /// Waits; true when it is over.
    fn wait(&self, span: Duration) -> bool {
        let state = self.lock();
        let waited = self.stop.wait_timeout_while(state, span, |state| !state.is_over);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_over
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
