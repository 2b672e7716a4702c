//! Agents without a host: the agent's real session over real gRPC, and tasks that are nothing but a deadline.
//!
//! What they were told and what they said is in a [`Ledger`], by which the cluster can be judged.
//! Many fit in one process, each with a connection of its own; a process may open so many files and no more,
//! so [`Herd`] starts several.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent::session::{Coordinators, Facts, FromLeader, Greeting, Session, SessionEvent, ToLeader};
use anyhow::{Context as _, Result, ensure};
use model::{
    AgentId, Exit, FrameworkId, Reason, Reporter, Subject, TaskId, TaskState, TaskStatus, Timestamp, Usage,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use supervisor::{Assignment, KnownTask};
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::frameworks::{CPUS_MILLI, MEM_MIB};
use crate::usage::go_on;

/// Events of one session that wait for its agent.
const EVENTS_WAITING: usize = 64;
/// The name of a variable of a task's environment: how many milliseconds it takes.
pub(crate) const LIFE_KEY: &str = "LIFE_MS";
/// Tasks that find room on an agent unless told otherwise.
pub(crate) const ROOM: usize = 800;
/// What an agent has beyond that: too little for a task, and enough to be offered.
const REST_CPUS_MILLI: u64 = 15;
const REST_MEM_MIB: u64 = 64;

/// What the agents of one process saw.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// How often each task began, and the sequences of what was said of it.
    pub(crate) tasks: BTreeMap<String, (u32, Vec<u64>)>,
}

/// Shared by the agents of one process.
pub(crate) type SharedLedger = Arc<Mutex<Ledger>>;

/// Where agents go, and which.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Members' URLs
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// The credential
    #[arg(long)]
    token_file: PathBuf,
    /// Number of the first one
    #[arg(long)]
    first: usize,
    /// How many
    #[arg(long)]
    count: usize,
    /// Tasks that find room on each
    #[arg(long, default_value_t = ROOM)]
    room: usize,
}

/// Runs agents until standard input ends.
pub fn run(args: &Args) -> Result<()> {
    // Each has a connection.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    ensure!(
        most > args.count as u64 + 64,
        "this process may open {most} files only; start fewer agents in it"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let Args { servers, token_file, first, count, room } = args;
        let agents = start(servers, token_file, *first, *count, *room, &SharedLedger::default())?;
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop));
        ended.await?;
        agents.stop.cancel();
        anyhow::Ok(())
    })?;
    // Thousands of connections need not be closed one by one.
    runtime.shutdown_background();
    Ok(())
}

/// Agents of this process; they stop when dropped.
pub(crate) struct Agents {
    stop: CancellationToken,
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn start(
    servers: &[String],
    token_file: &std::path::Path,
    first: usize,
    count: usize,
    room: usize,
    ledger: &SharedLedger,
) -> Result<Agents> {
    let stop = CancellationToken::new();
    for number in first..first + count {
        let mut servers = servers.to_vec();
        let places = servers.len().max(1);
        servers.rotate_left(number % places);
        let (events, heard) = mpsc::channel(EVENTS_WAITING);
        let session = Session {
            coordinators: Coordinators::plain(&servers, token_file.to_owned())?,
            facts: facts(number, room),
            events,
        };
        let agent = Agent {
            id: AgentId::new(&format!("simulated-{number}"))?,
            tasks: BTreeMap::new(),
            ends: BinaryHeap::new(),
            link: None,
            generation: 0,
            report: None,
            ledger: ledger.clone(),
        };
        let session_stop = stop.clone();
        tokio::spawn(async move {
            if let Err(refused) = session.run(session_stop).await {
                println!("FAILED: agent {number}: {refused}");
            }
        });
        tokio::spawn(agent.run(heard, stop.clone()));
    }
    Ok(Agents { stop })
}

fn facts(number: usize, room: usize) -> Facts {
    Facts {
        agent_id: format!("simulated-{number}"),
        hostname: format!("simulated-{number}"),
        boot_id: "the only one".to_owned(),
        address: "127.0.0.1:9".to_owned(),
        total: codec::to_resources(&total(room as u64)),
        attributes: Vec::new(),
        limitations: Vec::new(),
    }
}

fn total(room: u64) -> model::Resources {
    model::Resources {
        cpus_milli: room * CPUS_MILLI + REST_CPUS_MILLI,
        mem_mib: room * MEM_MIB + REST_MEM_MIB,
        ..model::Resources::default()
    }
}

struct Task {
    framework: FrameworkId,
    /// What was said and is not in the log yet, oldest first.
    unacknowledged: Vec<TaskStatus>,
    sequence: u64,
    state: TaskState,
    usage: Usage,
}

/// Usage that is told while a session lasts.
struct Report {
    every: Duration,
    next: Instant,
    reporter: Reporter,
}

struct Agent {
    id: AgentId,
    tasks: BTreeMap<TaskId, Task>,
    ends: BinaryHeap<Reverse<(Instant, TaskId)>>,
    link: Option<mpsc::Sender<ToLeader>>,
    generation: u64,
    report: Option<Report>,
    ledger: SharedLedger,
}

impl Agent {
    async fn run(mut self, mut heard: mpsc::Receiver<SessionEvent>, stop: CancellationToken) {
        loop {
            let end = self.ends.peek().map(|Reverse((at, _))| *at);
            let report = self.report.as_ref().map(|report| report.next);
            let next = end.into_iter().chain(report).min();
            let wake = async {
                match next {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                event = heard.recv() => match event {
                    Some(event) => self.hear(event),
                    None => return,
                },
                () = wake => {}
            }
            let now = Instant::now();
            while self.ends.peek().is_some_and(|Reverse((at, _))| *at <= now)
                && let Some(Reverse((_, task_id))) = self.ends.pop()
            {
                self.end(&task_id, TaskState::Finished, Reason::CommandExited);
            }
            self.report_usage(now);
        }
    }

    fn hear(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Opening { generation, link, greeting } => {
                self.generation = generation;
                self.link = Some(link);
                let tasks = self.tasks.iter().map(|(task_id, task)| KnownTask {
                    task_id: task_id.clone(),
                    sequence: task.sequence,
                    state: task.state,
                    awaits_word: false,
                });
                // A session that was given up asks no more.
                let _ = greeting.send(Greeting { cluster_id: None, tasks: tasks.collect() });
            }
            SessionEvent::Said { generation, message } if generation == self.generation => {
                self.hear_leader(message)
            }
            SessionEvent::Said { .. } => {}
            SessionEvent::Closed { generation } => {
                if generation == self.generation {
                    self.link = None;
                    self.report = None;
                }
            }
        }
    }

    fn hear_leader(&mut self, message: FromLeader) {
        match message {
            FromLeader::Welcomed { cluster_id: _, epoch: _, assignments, unchanged } => {
                self.welcomed(assignments, &unchanged);
            }
            FromLeader::Launch(assignments) => {
                assignments.into_iter().for_each(|assignment| self.assigned(assignment));
            }
            FromLeader::Kill { task_id, grace: _ } => {
                self.end(&task_id, TaskState::Killed, Reason::KillRequested)
            }
            FromLeader::Acknowledge(tasks) => {
                for (task_id, sequence) in tasks {
                    self.acknowledged(&task_id, sequence);
                }
            }
            FromLeader::UsagePace { interval } => {
                let next = Instant::now() + interval;
                match &mut self.report {
                    Some(report) => (report.every, report.next) = (interval, next),
                    None => {
                        self.report = Some(Report { every: interval, next, reporter: Reporter::default() })
                    }
                }
            }
            // Nobody asks in these benchmarks.
            FromLeader::ReadOutput(_) | FromLeader::ReadHistory { .. } | FromLeader::OpenChannel { .. } => {}
        }
    }

    fn welcomed(&mut self, assignments: Vec<Assignment>, unchanged: &[KnownTask]) {
        // A task that isn't listed is over for the leader.
        let assigned = assignments.iter().map(|assignment| assignment.spec.task_id.clone());
        let listed: std::collections::BTreeSet<TaskId> =
            assigned.chain(unchanged.iter().map(|known| known.task_id.clone())).collect();
        self.tasks.retain(|task_id, _| listed.contains(task_id));
        let mut again = Vec::new();
        for known in unchanged {
            self.acknowledged(&known.task_id, known.sequence);
            if let Some(task) = self.tasks.get(&known.task_id) {
                again.extend(task.unacknowledged.iter().cloned());
            }
        }
        for assignment in assignments {
            let task_id = assignment.spec.task_id.clone();
            let recorded = assignment.recorded_sequence;
            if !self.tasks.contains_key(&task_id) {
                self.assigned(assignment);
                continue;
            }
            self.acknowledged(&task_id, recorded);
            if let Some(task) = self.tasks.get(&task_id) {
                again.extend(task.unacknowledged.iter().cloned());
            }
        }
        self.say(ToLeader::Statuses(again));
    }

    fn assigned(&mut self, assignment: Assignment) {
        let task_id = assignment.spec.task_id.clone();
        if self.tasks.contains_key(&task_id) {
            return;
        }
        let life = assignment.spec.env.get(LIFE_KEY).and_then(|text| text.parse().ok());
        {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.tasks.entry(task_id.as_str().to_owned()).or_default().0 += 1;
        }
        let task = Task {
            framework: assignment.framework_id,
            unacknowledged: Vec::new(),
            sequence: assignment.recorded_sequence,
            state: TaskState::Staging,
            usage: Usage::default(),
        };
        self.tasks.insert(task_id.clone(), task);
        if let Some(life) = life {
            self.ends.push(Reverse((Instant::now() + Duration::from_millis(life), task_id.clone())));
        }
        self.tell(&task_id, TaskState::Running, Reason::None);
        if assignment.kill.is_some() {
            self.end(&task_id, TaskState::Killed, Reason::KillRequested);
        }
    }

    fn end(&mut self, task_id: &TaskId, state: TaskState, reason: Reason) {
        if self.tasks.get(task_id).is_some_and(|task| task.state == TaskState::Running) {
            self.tell(task_id, state, reason);
        }
    }

    fn tell(&mut self, task_id: &TaskId, state: TaskState, reason: Reason) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        task.sequence += 1;
        task.state = state;
        let status = TaskStatus {
            task_id: task_id.clone(),
            framework_id: task.framework.clone(),
            agent_id: Some(self.id.clone()),
            state,
            reason,
            message: String::new(),
            exit: (state == TaskState::Finished).then_some(Exit::Code(0)),
            at: wall(),
            sequence: task.sequence,
            is_released: state != TaskState::Running,
            usage: None,
            health: None,
        };
        {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.tasks.entry(task_id.as_str().to_owned()).or_default().1.push(task.sequence);
        }
        task.unacknowledged.push(status.clone());
        self.say(ToLeader::Statuses(vec![status]));
    }

    fn acknowledged(&mut self, task_id: &TaskId, sequence: u64) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        task.unacknowledged.retain(|status| status.sequence > sequence);
        let is_over = !matches!(task.state, TaskState::Staging | TaskState::Running);
        if is_over && task.unacknowledged.is_empty() {
            self.tasks.remove(task_id);
        }
    }

    /// What is lost with a session is said again after the next welcome; a full link ends the session.
    fn say(&mut self, message: ToLeader) {
        let is_nothing = matches!(&message, ToLeader::Statuses(statuses) if statuses.is_empty());
        if !is_nothing
            && let Some(link) = &self.link
            && link.try_send(message).is_err()
        {
            self.link = None;
        }
    }

    fn report_usage(&mut self, now: Instant) {
        let Some(report) = self.report.as_mut().filter(|report| report.next <= now) else { return };
        report.next = now + report.every;
        let at = wall();
        let mut figures = BTreeMap::new();
        for (number, (task_id, task)) in self.tasks.iter_mut().enumerate() {
            go_on(&mut task.usage, at, number as u64);
            figures.insert(Subject::Task(task_id.clone()), task.usage.clone());
        }
        for said in report.reporter.report(&figures) {
            if let Some(link) = &self.link {
                // One that is lost here makes the leader end the session, as it would the real one.
                let _ = link.try_send(ToLeader::Usage(said));
            }
        }
    }
}

fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH + since
}

/// Processes full of agents.
#[derive(Default)]
pub(crate) struct Herd {
    processes: Vec<Child>,
    count: usize,
}

impl Herd {
    /// Starts processes until there are so many agents in all.
    pub(crate) fn grow(
        &mut self,
        servers: &str,
        token_file: &std::path::Path,
        to: usize,
        each: usize,
        room: usize,
    ) -> Result<()> {
        while self.count < to {
            let count = each.min(to - self.count);
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["simulated-agents", "--servers", servers, "--token-file"]).arg(token_file);
            command.args(["--first", &self.count.to_string(), "--count", &count.to_string()]);
            command.args(["--room", &room.to_string()]);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut child = child.context("can't start a process with agents")?;
            if let Some(said) = child.stdout.take() {
                // It ends with the process.
                std::thread::spawn(move || {
                    BufReader::new(said).lines().map_while(Result::ok).for_each(|line| println!("{line}"));
                });
            }
            self.processes.push(child);
            self.count += count;
        }
        Ok(())
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
