//! The one owner of the task table: everything that happens to a task passes through its loop.
//!
//! Feeds the supervisor with what the leader says and what this host shows, stores and reports what it
//! answers, and hands the rest to the pool. Never blocks on the kernel, and decides nothing itself.
//! Start at [`Actor::run`]; whatever can wake it is a line in [`Wake`].

mod adoption;
mod link;
mod output;
mod rounds;
mod strays;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use model::{ClusterId, Figure, Health, TaskId, TaskState, Usage};
use supervisor::{Action, Event, Phase, Row, Supervisor};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    channel::Channels,
    checkpoint::{Change, Checkpoint, CheckpointError, Identity},
    clock,
    execute::{
        ExecuteError, Executor, Outcome, chain,
        lanes::{Job, Lanes, OUTCOMES_MAX, THREADS},
    },
    fetch,
    health::{Answer, Checks},
    metrics::{Metrics, OutcomeLabel, PortLabel},
    session::{SessionEvent, ToLeader},
    sys::{
        Process, Watch,
        bpf::{EventStream, OomEvent, PortEvent, PortHow, Record},
    },
};

use adoption::Adoption;
use link::Link;
pub use rounds::{Live, Rounds, Sample, Samples, Totals};
use strays::Strays;

/// Requests that wait for the actor.
const REQUESTS_MAX: usize = 256;
/// Session events that wait for it; the stream stops being read when it is that far behind.
pub const SESSION_EVENTS_MAX: usize = 256;
/// Statuses in one message.
const STATUSES_PER_MESSAGE: usize = 256;
/// How often the leader hears of usage, unless it wants to hear more rarely.
const USAGE_INTERVAL: Duration = Duration::from_secs(2);
/// How often the room on the disk is looked at, and as often one ended task goes while it is short.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// Whatever it wants.
const USAGE_INTERVAL_MAX: Duration = Duration::from_secs(300);
/// Readings of output under way at once.
const READS_MAX: usize = 1024;
/// A process that could not be reached is looked for again after this.
const LATER: Duration = Duration::from_secs(1);
/// How long launches under way may take to be finished when the agent stops.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// How long ended tasks may take to be gone, beyond their own grace.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How long the leader may take to acknowledge the last statuses.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(3);

/// How the agent is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Not yet.
    No,
    /// Tasks go on, and the next start adopts them.
    LeaveTasks,
    /// Tasks end, and nothing of them remains.
    EndTasks,
}

/// Why the actor can't go on. Its tasks can.
#[derive(Debug, thiserror::Error)]
pub enum ActorError {
    #[error("can't start the threads that launch tasks")]
    Threads(#[source] std::io::Error),
    #[error("can't store what is decided")]
    Store(#[source] ExecuteError),
    #[error("can't store which cluster this agent belongs to")]
    Identity(#[source] CheckpointError),
    #[error("this agent belongs to the cluster {ours}, and the coordinator is of {theirs}")]
    ClusterForeign { ours: ClusterId, theirs: ClusterId },
    #[error("the coordinator's cluster id is not valid")]
    ClusterId(#[source] model::IdError),
}

/// What others may ask.
pub(crate) enum Request {
    /// Where a task's output is, and whether more may come.
    Output {
        task_id: TaskId,
        answer: oneshot::Sender<Option<output::Place>>,
    },
    Snapshot {
        answer: oneshot::Sender<Snapshot>,
    },
    /// What is known of a task.
    Row {
        task_id: TaskId,
        answer: oneshot::Sender<Option<Row>>,
    },
    /// A task was frozen or thawed.
    LookFrozen,
}

/// The actor at one moment, for metrics and `inspect`.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Rows by state, ended ones while they are kept.
    pub states: BTreeMap<TaskState, u64>,
    /// Those with a health check that run.
    pub healths: BTreeMap<Health, u64>,
    pub statuses_unacknowledged: u64,
    pub is_connected: bool,
    /// One line for each row.
    pub rows: Vec<String>,
}

/// Asks the actor. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
}

impl Handle {
    /// `None` when the actor is gone or has too much to do.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (answer, snapshot) = oneshot::channel();
        self.requests.try_send(Request::Snapshot { answer }).ok()?;
        snapshot.await.ok()
    }
}

/// Everything that the actor is made of.
pub struct Parts {
    pub supervisor: Supervisor,
    /// What the restored table asks for first.
    pub actions: Vec<Action>,
    /// When the agent was started.
    pub began: std::time::Instant,
    pub executor: Arc<Executor>,
    pub checkpoint: Arc<Checkpoint>,
    pub identity: Identity,
    pub metrics: Arc<Metrics>,
    pub rounds: Arc<Rounds>,
    pub channels: Arc<Channels>,
    pub oom: Option<EventStream<OomEvent>>,
    /// Absent where nobody looks.
    pub ports: Option<EventStream<PortEvent>>,
    pub session: mpsc::Receiver<SessionEvent>,
    pub stop: watch::Receiver<Stop>,
}

/// Owns the task table.
pub struct Actor {
    supervisor: Supervisor,
    first: Vec<Action>,
    adoption: Adoption,
    strays: Strays,
    executor: Arc<Executor>,
    lanes: Lanes,
    checkpoint: Arc<Checkpoint>,
    identity: Identity,
    metrics: Arc<Metrics>,
    rounds: Arc<Rounds>,
    channels: Arc<Channels>,
    checks: Checks,
    answers: mpsc::Receiver<Answer>,
    oom: Option<EventStream<OomEvent>>,
    ports: Option<EventStream<PortEvent>>,
    session: mpsc::Receiver<SessionEvent>,
    stop: watch::Receiver<Stop>,
    outcomes: mpsc::Receiver<Outcome>,
    requests: mpsc::Receiver<Request>,
    handle: Handle,
    link: Option<Link>,
    watchers: JoinSet<Watched>,
    /// Watchers of cgroups that aren't empty: one for each task.
    lingering: BTreeMap<TaskId, AbortHandle>,
    reads: JoinSet<()>,
    /// As the leader of this session wants it.
    usage_interval: Duration,
    talks: JoinSet<()>,
}

/// What a watcher saw.
enum Watched {
    Readable { task_id: TaskId, process: Process },
    MaybeEmpty { task_id: TaskId, attempt: String, watch: Watch },
    Fetched { task_id: TaskId, outcome: fetch::Outcome },
    Again(Action),
}

/// Whatever can wake the actor.
enum Wake {
    Session(SessionEvent),
    Outcome(Outcome),
    Watched(Watched),
    Answered(Answer),
    OutOfMemory(OomEvent),
    Port(PortEvent),
    Request(Request),
    Timer,
    UsageDue,
    DiskDue,
    StraysDue,
    Stop,
}

impl Actor {
    pub fn new(parts: Parts) -> Result<(Self, Handle), ActorError> {
        let Parts {
            supervisor,
            actions,
            began,
            executor,
            checkpoint,
            identity,
            metrics,
            rounds,
            channels,
            oom,
            ports,
            session,
            stop,
        } = parts;
        let (done, outcomes) = mpsc::channel(OUTCOMES_MAX);
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let lanes = Lanes::start(&executor, THREADS, &done).map_err(ActorError::Threads)?;
        // It ends with this actor's channel of outcomes, or the rounds'.
        rounds.look(executor.clone(), done.clone()).map_err(ActorError::Threads)?;
        let handle = Handle { requests: sender };
        let (checks, answers) = Checks::new(executor.clone());
        let actor = Self {
            supervisor,
            adoption: Adoption::new(began, &actions),
            strays: Strays::new(&actions),
            first: actions,
            executor,
            lanes,
            checkpoint,
            identity,
            metrics,
            rounds,
            channels,
            checks,
            answers,
            oom,
            ports,
            session,
            stop,
            outcomes,
            requests,
            handle: handle.clone(),
            link: None,
            watchers: JoinSet::new(),
            lingering: BTreeMap::new(),
            reads: JoinSet::new(),
            usage_interval: USAGE_INTERVAL,
            talks: JoinSet::new(),
        };
        Ok((actor, handle))
    }

    /// Runs until it is told to stop, and then until what must be finished is.
    pub async fn run(mut self) -> Result<(), ActorError> {
        let first = std::mem::take(&mut self.first);
        self.perform(first)?;
        // Only now: whoever stops before this must find again that its rows are of an earlier boot.
        self.checkpoint.write_identity(&self.identity).map_err(ActorError::Identity)?;
        let mut usage_due = Instant::now();
        let mut disk_due = Instant::now();
        let mut stop = Stop::No;
        let mut deadline = None;
        loop {
            let wake = tokio::select! {
                wake = self.next(usage_due, disk_due) => wake,
                () = until(deadline) => break,
            };
            match wake {
                Wake::Stop => {
                    let told = *self.stop.borrow_and_update();
                    if told != stop {
                        stop = told;
                        deadline = self.begin_stop(stop)?;
                    }
                }
                other => {
                    if matches!(other, Wake::UsageDue) {
                        usage_due = Instant::now() + self.usage_interval;
                    }
                    if matches!(other, Wake::DiskDue) {
                        disk_due = Instant::now() + DISK_INTERVAL;
                    }
                    self.handle(other)?;
                }
            }
            match stop {
                Stop::No => {}
                Stop::LeaveTasks if self.has_launches() => {}
                Stop::LeaveTasks => break,
                Stop::EndTasks if !self.supervisor.is_idle() => {}
                // The tasks are gone; the last statuses may still be on their way.
                Stop::EndTasks if self.is_heard_out() => break,
                Stop::EndTasks => {
                    let farewell = Instant::now() + FAREWELL_PATIENCE;
                    deadline = Some(deadline.map_or(farewell, |before: Instant| before.min(farewell)));
                }
            }
        }
        self.checks.stop().await;
        self.finish(stop);
        Ok(())
    }

    async fn next(&mut self, usage_due: Instant, disk_due: Instant) -> Wake {
        let timer = self.supervisor.next_wake(clock::moment()).map(|span| Instant::now() + span);
        // What is lost when another arm is taken: nothing. Channels, sets and intervals keep what they
        // have, and the OOM stream says so of itself.
        tokio::select! {
            // In the kernel's order: what killed a task before its end.
            biased;
            Some(event) = next(&mut self.oom) => Wake::OutOfMemory(event),
            Some(event) = next(&mut self.ports) => Wake::Port(event),
            Some(outcome) = self.outcomes.recv() => Wake::Outcome(outcome),
            Some(Ok(watched)) = self.watchers.join_next() => Wake::Watched(watched),
            Some(event) = self.session.recv() => Wake::Session(event),
            Some(answer) = self.answers.recv() => Wake::Answered(answer),
            Some(request) = self.requests.recv() => Wake::Request(request),
            () = until(timer) => Wake::Timer,
            () = until(self.strays.next_wake()) => Wake::StraysDue,
            () = sleep_until(usage_due) => Wake::UsageDue,
            () = sleep_until(disk_due) => Wake::DiskDue,
            Ok(()) = self.stop.changed() => Wake::Stop,
            Some(_) = self.reads.join_next(), if !self.reads.is_empty() => Wake::Timer,
            Some(_) = self.talks.join_next(), if !self.talks.is_empty() => Wake::Timer,
        }
    }

    fn handle(&mut self, wake: Wake) -> Result<(), ActorError> {
        match wake {
            Wake::Session(event) => self.session_event(event),
            Wake::Outcome(outcome) => self.outcome(outcome),
            Wake::Watched(watched) => self.watched(watched),
            Wake::Answered(answer) => self.answered(answer),
            Wake::OutOfMemory(event) => self.out_of_memory(&event),
            Wake::Port(event) => self.port_used(&event),
            Wake::Request(request) => {
                self.request(request);
                Ok(())
            }
            Wake::Timer => self.decide(Event::Tick),
            Wake::UsageDue => {
                self.report_usage();
                self.report_frozen();
                Ok(())
            }
            Wake::DiskDue => self.look_at_disk(),
            Wake::StraysDue => {
                self.greet();
                Ok(())
            }
            // `run` sees to it.
            Wake::Stop => Ok(()),
        }
    }

    /// Keeps room for records: lets go of ended tasks while the disk is short, and takes the reserve back
    /// when it isn't.
    fn look_at_disk(&mut self) -> Result<(), ActorError> {
        let reserve = self.checkpoint.reserve();
        match reserve.is_disk_short() {
            Ok(true) => {
                self.metrics.disk_short.inc();
                return self.decide(Event::DiskShort);
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(error = chain(&error), "can't see how full the disk is"),
        }
        if let Err(error) = reserve.ensure() {
            tracing::warn!(error = chain(&error), "can't keep room for records");
        }
        Ok(())
    }

    fn decide(&mut self, event: Event) -> Result<(), ActorError> {
        let actions = self.supervisor.handle(event, clock::moment());
        self.perform(actions)
    }

    /// Stores first, then tells, then acts. The supervisor's order within each kind is kept, and a
    /// record that is stored early is never wrong.
    fn perform(&mut self, actions: Vec<Action>) -> Result<(), ActorError> {
        if actions.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change<'_>> = actions
            .iter()
            .filter_map(|action| match action {
                Action::WriteRecord(row) => Some(Change::Write(row)),
                Action::Forget { task_id } => Some(Change::Forget(task_id)),
                _ => None,
            })
            .collect();
        if !changes.is_empty() {
            self.executor.store(changes).map_err(ActorError::Store)?;
        }
        let mut statuses = Vec::new();
        let mut plan: Vec<Action> = Vec::new();
        for action in actions {
            if let Action::Report(status) = action {
                tracing::info!(
                    task_id = %status.task_id,
                    state = status.state.as_str(),
                    sequence = status.sequence,
                    reason = ?status.reason,
                    health = status.health.map(Health::as_str),
                    is_released = status.is_released,
                    "task"
                );
                statuses.push(*status);
                continue;
            }
            if action.is_immediate() {
                tracing::debug!(%action, "action");
                self.see_to_checks(&action);
                continue;
            }
            // What follows for the same task is one plan, which fails and is undone as one.
            if plan.last().is_some_and(|last| lane(last) != lane(&action)) {
                self.submit(std::mem::take(&mut plan));
            }
            plan.push(action);
        }
        self.submit(plan);
        let mut statuses = statuses.into_iter().peekable();
        while statuses.peek().is_some() {
            self.say(ToLeader::Statuses(statuses.by_ref().take(STATUSES_PER_MESSAGE).collect()));
        }
        Ok(())
    }

    /// What is immediate and neither stored nor told.
    fn see_to_checks(&mut self, action: &Action) {
        match action {
            Action::BeginChecks { task_id } => {
                if let Some(row) = self.supervisor.row(task_id) {
                    self.checks.begin(row);
                }
            }
            Action::EndChecks { task_id } => self.checks.end(task_id),
            Action::Spare { task_id } => {
                self.metrics.health_kills_withheld.inc();
                tracing::warn!(
                    %task_id,
                    "an unhealthy task goes on: too many were killed in the last minute"
                );
            }
            _ => {}
        }
    }

    fn answered(&mut self, answer: Answer) -> Result<(), ActorError> {
        let Answer { task_id, failure } = answer;
        let outcome = if failure.is_none() { "passed" } else { "failed" };
        self.metrics.health_probes.get_or_create(&OutcomeLabel { outcome }).inc();
        self.decide(Event::Probed { task_id, failure })
    }

    fn submit(&self, plan: Vec<Action>) {
        if let Some(lane) = plan.first().map(lane) {
            self.lanes.submit(&lane, Job::Plan(plan));
        }
    }

    fn outcome(&mut self, outcome: Outcome) -> Result<(), ActorError> {
        match outcome {
            Outcome::Event(event) => {
                self.note(&event);
                self.decide(event)
            }
            Outcome::Process { task_id, process } => {
                if let Some(row) = self.supervisor.row(&task_id) {
                    self.rounds.begin(row);
                }
                self.watchers.spawn(async move {
                    or_later(process.ended()).await;
                    Watched::Readable { task_id, process }
                });
                Ok(())
            }
            Outcome::NotEmpty { task_id, attempt, watch } => {
                let name = task_id.clone();
                let watcher = self.watchers.spawn(async move {
                    or_later(watch.changed()).await;
                    Watched::MaybeEmpty { task_id, attempt, watch }
                });
                if let Some(older) = self.lingering.insert(name, watcher) {
                    older.abort();
                }
                Ok(())
            }
            Outcome::Fetching { task_id, done } => {
                self.watchers.spawn(async move {
                    // Its thread always answers, unless it panicked.
                    let lost = || Err("the agent's thread that fetches is lost".to_owned());
                    Watched::Fetched { task_id, outcome: done.await.unwrap_or_else(|_| lost()) }
                });
                Ok(())
            }
            Outcome::StrayRemoved { attempt } => {
                self.strays.removed(&attempt);
                self.greet();
                Ok(())
            }
            Outcome::Later(action) => {
                self.watchers.spawn(async move {
                    sleep(LATER).await;
                    Watched::Again(action)
                });
                Ok(())
            }
        }
    }

    /// What metrics and rounds want to know of an event.
    fn note(&mut self, event: &Event) {
        self.adoption.note(event, &self.metrics);
        match event {
            Event::Launched { task_id } => {
                let row = self.supervisor.row(task_id);
                if let Some(row) = row.filter(|row| matches!(row.phase, Phase::Releasing { .. })) {
                    let took = clock::now().since(row.assigned_at);
                    self.metrics.task_launch.observe(took.as_secs_f64());
                }
            }
            Event::LaunchFailed { .. } | Event::ExecFailed { .. } | Event::FetchFailed { .. } => {
                self.metrics.launches_failed.inc();
            }
            Event::Emptied { task_id, usage } => {
                self.lingering.remove(task_id);
                self.rounds.end(task_id, usage.as_ref());
            }
            Event::Welcomed { .. }
            | Event::Assigned { .. }
            | Event::KillOrdered { .. }
            | Event::Acknowledged { .. }
            | Event::Prepared { .. }
            | Event::Fetched { .. }
            | Event::NeverBegun { .. }
            | Event::Exited { .. }
            | Event::ProcessesEnded { .. }
            | Event::OutOfMemory { .. }
            | Event::PortUsed { .. }
            | Event::DiskOutgrown { .. }
            | Event::Probed { .. }
            | Event::SandboxRemoved { .. }
            | Event::DiskShort
            | Event::EndAll
            | Event::Tick => {}
        }
    }

    fn watched(&mut self, watched: Watched) -> Result<(), ActorError> {
        match watched {
            Watched::Fetched { task_id, outcome } => {
                let event = match outcome {
                    Ok(()) => Event::Fetched { task_id },
                    Err(message) => Event::FetchFailed { task_id, message },
                };
                self.note(&event);
                return self.decide(event);
            }
            Watched::Readable { task_id, process } => {
                let Some(row) = self.supervisor.row(&task_id) else { return Ok(()) };
                let attempt = row.attempt.clone();
                let lane = task_id.as_str().to_owned();
                self.lanes.submit(&lane, Job::CollectExit { task_id, attempt, process });
            }
            Watched::MaybeEmpty { task_id, attempt, watch } => {
                let lane = task_id.as_str().to_owned();
                self.lanes.submit(&lane, Job::LookWhetherEmpty { task_id, attempt, watch });
            }
            Watched::Again(action) => self.submit(vec![action]),
        }
        Ok(())
    }

    fn out_of_memory(&mut self, event: &OomEvent) -> Result<(), ActorError> {
        let Some(task_id) = self.executor.task_of(event.cgroup) else { return Ok(()) };
        let usage = Usage::new(clock::now())
            .with(Figure::MemoryBytes, event.memory_bytes)
            .with(Figure::MemoryLimitBytes, event.memory_bytes_limit);
        self.decide(Event::OutOfMemory { task_id, usage })
    }

    fn port_used(&mut self, event: &PortEvent) -> Result<(), ActorError> {
        let Some(task_id) = self.executor.task_of(event.cgroup) else { return Ok(()) };
        let port = event.to_string();
        tracing::info!(%task_id, port, "a task uses a port that it has not declared");
        let how = PortLabel { how: if event.how == PortHow::Refused { "refused" } else { "reported" } };
        self.metrics.ports_undeclared.get_or_create(&how).inc();
        self.decide(Event::PortUsed { task_id, port })
    }

    /// Tells the leader which tasks stand still, where it does not know.
    fn report_frozen(&mut self) {
        let frozen = self.executor.frozen();
        let Some(link) = self.link.as_mut().filter(|link| link.is_welcomed && link.frozen != frozen) else {
            return;
        };
        link.frozen.clone_from(&frozen);
        self.say(ToLeader::Frozen(frozen));
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Row { task_id, answer } => {
                // Whoever asked may be gone.
                let _ = answer.send(self.supervisor.row(&task_id).cloned());
            }
            Request::LookFrozen => self.report_frozen(),
            Request::Output { task_id, answer } => {
                let place = self.supervisor.row(&task_id).map(|row| output::Place {
                    attempt: row.attempt.clone(),
                    is_over: !row.holds_resources(),
                });
                // Whoever asked may be gone.
                let _ = answer.send(place);
            }
            Request::Snapshot { answer } => {
                // As above.
                let _ = answer.send(self.snapshot());
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            is_connected: self.link.as_ref().is_some_and(|link| link.is_welcomed),
            ..Snapshot::default()
        };
        for row in self.supervisor.rows() {
            *snapshot.states.entry(row.state()).or_default() += 1;
            if let Some(health) = row.health() {
                *snapshot.healths.entry(health).or_default() += 1;
            }
            snapshot.statuses_unacknowledged += row.unacknowledged().count() as u64;
            snapshot.rows.push(format!("{} {} {row}", row.task_id, row.attempt));
        }
        snapshot
    }

    fn report_usage(&mut self) {
        let Some(link) = self.link.as_mut().filter(|link| link.is_welcomed) else { return };
        if link.sender.capacity() < link.sender.max_capacity() / 2 {
            // Statuses go first; the next report says what this one would have said.
            return;
        }
        let usages = self.rounds.usages();
        for report in link.reporter.report(usages.iter().map(|(subject, usage)| (subject, usage))) {
            self.say(ToLeader::Usage(report));
        }
    }

    fn begin_stop(&mut self, stop: Stop) -> Result<Option<Instant>, ActorError> {
        match stop {
            Stop::No => Ok(None),
            Stop::LeaveTasks => {
                // Nothing new comes from here on.
                self.link = None;
                Ok(Some(Instant::now() + LEAVE_PATIENCE))
            }
            Stop::EndTasks => {
                let graces = self.supervisor.rows().filter(|row| row.is_live());
                let grace = graces.map(|row| row.spec.kill_grace).max().unwrap_or_default();
                self.decide(Event::EndAll)?;
                Ok(Some(Instant::now() + grace + END_PATIENCE))
            }
        }
    }

    /// Those that only wait for their files are left to the next start, which prepares them anew.
    fn has_launches(&self) -> bool {
        let fetcher = self.executor.fetcher();
        self.supervisor.rows().any(|row| match row.phase {
            Phase::Preparing => !fetcher.is_fetching(&row.attempt),
            Phase::Releasing { .. } => true,
            Phase::Running { .. }
            | Phase::Ending { .. }
            | Phase::Lingering { .. }
            | Phase::Ended { .. }
            | Phase::Removing => false,
        })
    }

    fn is_heard_out(&self) -> bool {
        let is_connected = self.link.as_ref().is_some_and(|link| link.is_welcomed);
        !is_connected || self.supervisor.rows().all(Row::is_acknowledged)
    }

    fn finish(self, stop: Stop) {
        let left = self.supervisor.rows().filter(|row| row.holds_resources()).count();
        match stop {
            Stop::EndTasks if left > 0 => {
                tracing::error!(left, "tasks would not end in time; the next start of the agent ends them");
            }
            _ => tracing::info!(tasks = left, "the agent leaves"),
        }
        // Threads that have an outcome to deliver must not wait for a reader that is gone.
        drop(self.outcomes);
        self.lanes.stop();
        self.executor.fetcher().stop();
    }
}

/// One lane for each task, and one for each stray.
fn lane(action: &Action) -> String {
    match action {
        Action::RemoveStrayCgroups { attempt } | Action::RemoveStraySandbox { attempt } => attempt.clone(),
        other => other.task_id().map(|task_id| task_id.as_str().to_owned()).unwrap_or_default(),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn next<T: Record>(events: &mut Option<EventStream<T>>) -> Option<T> {
    loop {
        match events {
            Some(stream) => match stream.next().await {
                Ok(event) => return Some(event),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "no news of a kernel program from here on");
                    *events = None;
                }
            },
            None => std::future::pending().await,
        }
    }
}

/// An error is a wake, too: the thread that looks then says what is wrong.
async fn or_later(waited: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = waited.await {
        tracing::warn!(error = chain(&error), "can't wait for a descriptor");
        sleep(LATER).await;
    }
}
