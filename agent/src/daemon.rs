//! The agent as a whole: start-up is one list, shutdown is that list reversed.
//!
//! Puts the parts together and owns them; decides nothing. A part that fails stops the daemon, and the tasks
//! go on. Start at [`Daemon::start`].

mod take_up;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle as Thread,
    time::{Duration, Instant},
};

use model::{AgentId, IdError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use supervisor::{KillBudget, Supervisor};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    actor::{self, Actor, ActorError, Parts, Rounds, Stop},
    channel::Channels,
    checkpoint::{Checkpoint, CheckpointError, Identity, Lock, LockError, ensure_data_dir},
    clock,
    config::Config,
    execute::{Directories, Executor, Recorder, Rights, Settings, chain},
    fetch::{self, Cache, CacheError, Fetcher},
    host,
    http::Http,
    meter::{Counters, Meter, Watch},
    metrics::{FetchMetrics, Metrics, Page},
    session::{AddressError, Coordinators, Facts, Passport, Session, SessionError},
    sys::{
        Kernel, KernelConfig, Sys, SysError, UserPolicy,
        bpf::{self, Availability, PortPolicy, Programs},
    },
    systemd,
};

/// Why the agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the agent makes cgroups, mounts and processes of other users, which only root may")]
    NotRoot,
    #[error("can't listen on {listen}")]
    Listen { listen: SocketAddr, source: io::Error },
    #[error("can't take the data directory")]
    Lock(#[source] LockError),
    #[error("can't use the data directory")]
    Checkpoint(#[source] CheckpointError),
    #[error("can't make {}", path.display())]
    MakeDirectory { path: PathBuf, source: io::Error },
    #[error("can't read what is in {}", path.display())]
    ReadDirectory { path: PathBuf, source: io::Error },
    #[error("can't use this host's kernel")]
    Kernel(#[source] SysError),
    #[error("can't name this agent")]
    Identity(#[source] IdError),
    #[error("the resources that are set can't be offered")]
    Resources(#[source] model::ResourcesError),
    #[error("can't use the address of the coordinators")]
    Coordinator(#[source] AddressError),
    #[error("can't start a thread")]
    Thread(#[source] io::Error),
    #[error("can't use the cache of fetched files")]
    Cache(#[source] CacheError),
    #[error("can't start the actor")]
    Actor(#[source] ActorError),
}

/// Why the agent stopped although nobody had told it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the task table can't be kept")]
    Actor(#[source] ActorError),
    #[error("the coordinator does not want this agent")]
    Session(#[source] SessionError),
    #[error("the HTTP server has failed")]
    Http(#[source] io::Error),
    #[error("a part of the agent panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Every stable code of an agent that failed; each has a page in `docs/errors/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    ConfigInvalid,
    RootNeeded,
    PortTaken,
    DataDirInUse,
    DataDirUnusable,
    DataDirDamaged,
    DataDirTooNew,
    ClusterForeign,
    AgentRefused,
    AgentGone,
    StartFailed,
    AgentFailed,
}

impl FailureCode {
    pub const ALL: &[Self] = &[
        Self::ConfigInvalid,
        Self::RootNeeded,
        Self::PortTaken,
        Self::DataDirInUse,
        Self::DataDirUnusable,
        Self::DataDirDamaged,
        Self::DataDirTooNew,
        Self::ClusterForeign,
        Self::AgentRefused,
        Self::AgentGone,
        Self::StartFailed,
        Self::AgentFailed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigInvalid => "config-invalid",
            Self::RootNeeded => "root-needed",
            Self::PortTaken => "port-taken",
            Self::DataDirInUse => "data-dir-in-use",
            Self::DataDirUnusable => "data-dir-unusable",
            Self::DataDirDamaged => "data-dir-damaged",
            Self::DataDirTooNew => "data-dir-too-new",
            Self::ClusterForeign => "cluster-foreign",
            Self::AgentRefused => "agent-refused",
            Self::AgentGone => "agent-gone",
            Self::StartFailed => "start-failed",
            Self::AgentFailed => "agent-failed",
        }
    }
}

impl StartError {
    pub fn code(&self) -> FailureCode {
        match self {
            Self::NotRoot => FailureCode::RootNeeded,
            Self::Listen { .. } => FailureCode::PortTaken,
            Self::Lock(LockError::Held { .. }) => FailureCode::DataDirInUse,
            Self::Lock(LockError::Open { .. } | LockError::Lock { .. })
            | Self::MakeDirectory { .. }
            | Self::ReadDirectory { .. }
            | Self::Cache(_)
            | Self::Checkpoint(CheckpointError::MakeDirectory { .. } | CheckpointError::Format { .. }) => {
                FailureCode::DataDirUnusable
            }
            Self::Checkpoint(CheckpointError::TooNew { .. }) => FailureCode::DataDirTooNew,
            Self::Checkpoint(
                CheckpointError::Open { .. }
                | CheckpointError::Read { .. }
                | CheckpointError::Write { .. }
                | CheckpointError::Closed
                | CheckpointError::Identity { .. },
            ) => FailureCode::DataDirDamaged,
            Self::Resources(_) | Self::Coordinator(_) => FailureCode::ConfigInvalid,
            Self::Kernel(_) | Self::Identity(_) | Self::Thread(_) | Self::Actor(_) => {
                FailureCode::StartFailed
            }
        }
    }

    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::NotRoot => "run it as root".to_owned(),
            Self::Listen { listen, .. } => format!(
                "end what listens on port {} (`ss -ltnp` shows it), or choose another with `--listen`",
                listen.port()
            ),
            Self::Lock(LockError::Held { .. }) => {
                "end the other agent, or give this one a data directory of its own with `--data-dir`".to_owned()
            }
            Self::Lock(_) | Self::MakeDirectory { .. } | Self::ReadDirectory { .. } | Self::Cache(_) => {
                "check who owns the data directory and what mode it has".to_owned()
            }
            Self::Checkpoint(CheckpointError::TooNew { .. }) => {
                "install the release that wrote it, or a newer one; its tasks go on, and are taken up again".to_owned()
            }
            Self::Checkpoint(_) => {
                "check the disk; if the data is lost, move the directory away: tasks of it are then reported GONE"
                    .to_owned()
            }
            Self::Kernel(_) => "`muster-agent doctor` shows what this host offers".to_owned(),
            Self::Coordinator(_) => "write `--coordinator` like http://127.0.0.1:5050".to_owned(),
            Self::Resources(_) => "change `--cpus`, `--mem`, `--disk` or `--ports`".to_owned(),
            Self::Identity(_) | Self::Thread(_) | Self::Actor(_) => "see the cause".to_owned(),
        }
    }
}

impl RunError {
    pub fn code(&self) -> FailureCode {
        match self {
            Self::Actor(ActorError::ClusterForeign { .. }) => FailureCode::ClusterForeign,
            Self::Session(SessionError::Refused { code, .. }) if code == "cluster-foreign" => {
                FailureCode::ClusterForeign
            }
            Self::Session(SessionError::Refused { code, .. }) if code == "agent-gone" => {
                FailureCode::AgentGone
            }
            Self::Session(SessionError::Refused { .. }) => FailureCode::AgentRefused,
            Self::Actor(
                ActorError::Threads(_)
                | ActorError::Store(_)
                | ActorError::Identity(_)
                | ActorError::ClusterId(_),
            )
            | Self::Http(_)
            | Self::Panicked(_) => FailureCode::AgentFailed,
        }
    }

    /// Whether the same would come of every other start, until an operator changes something.
    pub fn is_for_good(&self) -> bool {
        matches!(
            self.code(),
            FailureCode::ClusterForeign | FailureCode::AgentGone | FailureCode::AgentRefused
        )
    }

    pub fn next(&self) -> String {
        match self.code() {
            FailureCode::ClusterForeign => {
                "point the agent at its own cluster, or give it an empty data directory; its tasks go on"
                    .to_owned()
            }
            FailureCode::AgentGone => {
                "its tasks were ended; to use this host again, move its data directory away, and \
                                       it comes back as a new agent"
                    .to_owned()
            }
            FailureCode::AgentRefused => "do what the coordinator says; the agent's tasks go on".to_owned(),
            _ => "see the log above and start it again: its tasks go on, and are taken up again".to_owned(),
        }
    }
}

/// What a start would do first, one action for each line; does none of it.
///
/// Refuses while an agent runs, because the rows are its to read.
pub fn plan(config: &Config) -> Result<Vec<String>, StartError> {
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    ensure_data_dir(&config.data_dir).map_err(StartError::Checkpoint)?;
    let _lock = Lock::take(&config.data_dir).map_err(StartError::Lock)?;
    let checkpoint = Checkpoint::open(&config.data_dir).map_err(StartError::Checkpoint)?;
    let directories = Directories::new(&config.data_dir);
    make_directory(directories.tasks())?;
    let kernel = Kernel::open(&kernel_config(config)).map_err(StartError::Kernel)?;
    let Some(identity) = checkpoint.identity().map_err(StartError::Checkpoint)? else {
        return Ok(Vec::new());
    };
    let is_same_boot = identity.boot_id == kernel.boot_id().map_err(StartError::Kernel)?.0;
    let loaded = checkpoint.load().map_err(StartError::Checkpoint)?;
    let found = take_up::look_around(&kernel, &directories, &loaded, is_same_boot)?;
    if found.cgroups.is_empty() {
        // Opening the kernel made the parent group, and no agent runs that would use it.
        kernel.close().map_err(StartError::Kernel)?;
    }
    let (_, actions) = Supervisor::restore(identity.agent_id, loaded.rows, found, clock::moment());
    Ok(actions.iter().map(ToString::to_string).collect())
}

/// The running agent.
pub struct Daemon {
    config: Config,
    _lock: Lock,
    kernel: Arc<Kernel>,
    programs: Option<Arc<Programs>>,
    rounds: Arc<Rounds>,
    threads: Vec<Thread<()>>,
    actor: JoinHandle<Result<(), ActorError>>,
    actor_stop: watch::Sender<Stop>,
    http: JoinHandle<io::Result<()>>,
    http_stop: CancellationToken,
    session: JoinHandle<Result<(), SessionError>>,
    session_stop: CancellationToken,
    watchdog: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts every part, in order.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let began = Instant::now();
        if !rustix::process::geteuid().is_root() {
            return Err(StartError::NotRoot);
        }
        raise_descriptors();
        // First what another agent may hold, so that two never get in each other's way.
        let listen = config.listen;
        let listener =
            TcpListener::bind(listen).await.map_err(|source| StartError::Listen { listen, source })?;
        ensure_data_dir(&config.data_dir).map_err(StartError::Checkpoint)?;
        let lock = Lock::take(&config.data_dir).map_err(StartError::Lock)?;
        let directories = Directories::new(&config.data_dir);
        let (checkpoint, kernel, programs) = take_up::open(config, &directories, began)?;

        let (identity, is_same_boot) = identify(config, &checkpoint, kernel.as_ref())?;
        let loaded = checkpoint.load().map_err(StartError::Checkpoint)?;
        for (key, error) in &loaded.errors {
            tracing::error!(task_id = key.as_str(), error = chain(error), "a task's record can't be read");
        }
        let found = take_up::look_around_and_sweep(
            &kernel,
            programs.as_deref(),
            &directories,
            &loaded,
            is_same_boot,
        )?;
        let held: Vec<supervisor::Row> =
            loaded.rows.iter().filter(|row| row.holds_resources()).cloned().collect();
        let count = loaded.rows.len();
        let (supervisor, actions) =
            Supervisor::restore(identity.agent_id.clone(), loaded.rows, found, clock::moment());
        let supervisor = supervisor
            .with_kill_budget(KillBudget::new(config.unhealthy_kills_per_minute, Duration::from_secs(60)));
        tracing::info!(
            agent_id = %identity.agent_id,
            tasks = count,
            is_same_boot,
            elapsed_ms = began.elapsed().as_millis() as u64,
            "took up what an earlier agent left"
        );

        let total = host::resources(config, &kernel.abilities().huge_pages);
        total.check().map_err(StartError::Resources)?;
        let mut limitations = kernel.limitations();
        limitations.extend(program_limitations(programs.as_deref()));
        for limitation in &limitations {
            tracing::warn!(limitation = limitation.as_str(), "this host can't do everything");
        }
        let recorder = programs.clone().map(|programs| programs as Arc<dyn Recorder>);
        let metrics = Arc::new(Metrics::default());
        let fetcher = open_fetcher(config, kernel.clone(), metrics.fetch.clone())?;
        let executor = Arc::new(Executor::new(
            kernel.clone(),
            recorder,
            checkpoint.clone(),
            directories,
            settings(config),
            fetcher,
        ));
        executor.guard_ports_again(&held);
        let rounds = Arc::new(Rounds::default());
        let counters = programs.clone().map(|programs| programs as Arc<dyn Counters>);
        let watch = Arc::new(Watch::new(programs.clone(), kernel.clone()));
        let threads = vec![
            rounds
                .measure(executor.clone(), Meter::new(counters), config.measures)
                .map_err(StartError::Thread)?,
            rounds.trim(executor.clone()).map_err(StartError::Thread)?,
            rounds.watch(watch.clone()).map_err(StartError::Thread)?,
        ];
        let coordinators = coordinators(config, &identity)?;
        let channels = Arc::new(Channels::new(coordinators.clone(), executor.clone(), metrics.clone()));
        let (events, session_events) = mpsc::channel(actor::SESSION_EVENTS_MAX);
        let (actor_stop, stop) = watch::channel(Stop::No);
        let facts = Facts {
            agent_id: identity.agent_id.as_str().to_owned(),
            hostname: config.hostname.clone().unwrap_or_else(host::hostname),
            boot_id: identity.boot_id.clone(),
            address: listener.local_addr().unwrap_or(listen).to_string(),
            total: codec::to_resources(&total),
            attributes: config
                .attributes
                .iter()
                .map(|(name, value)| proto::types::v1::Attribute { name: name.clone(), value: value.clone() })
                .collect(),
            limitations,
        };
        let parts = Parts {
            supervisor,
            actions,
            began,
            executor,
            checkpoint,
            identity,
            metrics: metrics.clone(),
            rounds: rounds.clone(),
            channels,
            oom: programs.as_deref().and_then(|it| stream(it.oom_events(), "no news of the OOM killer")),
            ports: programs.as_deref().and_then(|it| stream(it.port_events(), "no news of ports")),
            session: session_events,
            stop,
        };
        let (actor, handle) = Actor::new(parts).map_err(StartError::Actor)?;
        let actor = tokio::spawn(actor.run());
        step(began, "actor");

        let watchdog = systemd::feed_watchdog(handle.clone());
        let http_stop = CancellationToken::new();
        let http = Http {
            handle,
            page: Page::new(&metrics, rounds.clone(), programs.clone(), watch),
            token: std::fs::read_to_string(&config.token_file).ok().map(|token| token.trim().to_owned()),
        };
        let http = tokio::spawn(http.serve(listener, http_stop.clone()));
        let session_stop = CancellationToken::new();
        let session = Session { coordinators, facts, events };
        let session = tokio::spawn(session.run(session_stop.clone()));
        tracing::info!(
            resources = %total,
            listen = %listen,
            layout = kernel.layout().as_str(),
            elapsed_ms = began.elapsed().as_millis() as u64,
            "the agent is up"
        );
        systemd::say_ready();
        Ok(Self {
            config: config.clone(),
            _lock: lock,
            kernel,
            programs,
            rounds,
            threads,
            actor,
            actor_stop,
            http,
            http_stop,
            session,
            session_stop,
            watchdog,
        })
    }

    /// Runs until it is told to stop or a part fails, and then stops everything in reverse.
    pub async fn run(mut self, mut stop: watch::Receiver<Stop>) -> Result<(), RunError> {
        let mut told = Stop::No;
        let failure = tokio::select! {
            told_now = async {
                // The sender outlives the daemon.
                let told = stop.wait_for(|stop| *stop != Stop::No).await.map(|stop| *stop);
                told.unwrap_or(Stop::LeaveTasks)
            } => {
                told = told_now;
                None
            }
            ended = &mut self.actor => Some(flatten(ended, RunError::Actor)),
            ended = &mut self.session => Some(flatten(ended, RunError::Session)),
            ended = &mut self.http => Some(flatten(ended, RunError::Http)),
        };
        let outcome = failure.unwrap_or(Ok(()));
        self.stop(told, outcome).await
    }

    async fn stop(mut self, told: Stop, outcome: Result<(), RunError>) -> Result<(), RunError> {
        let mut outcome = outcome;
        systemd::say_stopping();
        if let Some(watchdog) = self.watchdog.take() {
            // The end has its own deadline: systemd's for stopping.
            watchdog.abort();
        }
        // Who is gone has no tasks: others took their place long ago.
        let is_gone = outcome.as_ref().is_err_and(|error| error.code() == FailureCode::AgentGone);
        let how = if is_gone || told == Stop::EndTasks { Stop::EndTasks } else { Stop::LeaveTasks };
        // With the tasks the last statuses go out, too; without them nothing new may come in.
        if how == Stop::LeaveTasks {
            self.end_session().await;
        }
        self.actor_stop.send_replace(how);
        if !self.actor.is_finished() {
            let ended = flatten((&mut self.actor).await, RunError::Actor);
            outcome = outcome.and(ended);
        }
        self.end_session().await;
        self.http_stop.cancel();
        if !self.http.is_finished() {
            // Long polls don't exist here; what is under way ends at once.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), &mut self.http).await;
            self.http.abort();
        }
        self.rounds.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread panicked");
            }
        }
        if how == Stop::EndTasks {
            self.leave_nothing();
        }
        tracing::info!("the agent has stopped");
        outcome
    }

    async fn end_session(&mut self) {
        self.session_stop.cancel();
        if !self.session.is_finished() {
            // Its error was the reason to stop, or came while we stop.
            let _ = (&mut self.session).await;
        }
    }

    /// Removes what only makes sense with tasks: the parent group, pins and mounts. Data stays.
    fn leave_nothing(&mut self) {
        if let Err(error) = self.kernel.close() {
            tracing::error!(error = chain(&error), "something of the tasks remains");
        }
        drop(self.programs.take());
        // Also where none runs: an earlier agent's may be pinned there.
        if let Err(error) = bpf::remove(&self.config.bpf_path()) {
            tracing::error!(error = chain(&error), "pins of the kernel programs remain");
        }
    }
}

fn flatten<E>(
    ended: Result<Result<(), E>, tokio::task::JoinError>,
    wrap: fn(E) -> RunError,
) -> Result<(), RunError> {
    ended.map_err(RunError::Panicked)?.map_err(wrap)
}

fn step(began: Instant, name: &'static str) {
    tracing::info!(step = name, elapsed_ms = began.elapsed().as_millis() as u64, "started");
}

/// A task costs a descriptor or two, and the soft limit is often 1024.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
}

pub fn kernel_config(config: &Config) -> KernelConfig {
    KernelConfig {
        cgroup_parent: config.cgroup_parent.clone(),
        own_cgroup2: config.data_dir.join("cgroup2"),
        output_dir: Directories::new(&config.data_dir).tasks().to_owned(),
    }
}

/// `None` where the host can't run any, which `doctor` and the agent's limitations say.
fn open_programs(config: &Config, kernel: &Kernel) -> Option<Arc<Programs>> {
    let options = bpf::Options {
        measures: config.measures,
        guards_ports: config.port_policy != PortPolicy::Off,
        cgroup: Some(kernel.cgroups().v2_parent().to_owned()),
        charges_block_io: kernel.cgroups().charges_block_io(),
        ..bpf::Options::default()
    };
    match Programs::open(&config.bpf_path(), options) {
        Ok(programs) => Some(Arc::new(programs)),
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "no kernel program runs; usage comes from cgroup files alone"
            );
            None
        }
    }
}

pub fn program_limitations(programs: Option<&Programs>) -> Vec<String> {
    let Some(programs) = programs else {
        let all = "no kernel program runs here: CPU time comes from cgroup files, and exit statuses may be lost \
                   while no agent runs";
        return vec![all.to_owned()];
    };
    programs
        .availability()
        .into_iter()
        .filter_map(|(program, availability)| match availability {
            Availability::Attached | Availability::Off => None,
            Availability::Unavailable(why) => Some(format!("the kernel program {program} can't run: {why}")),
        })
        .collect()
}

fn stream<T: bpf::Record>(
    events: Result<bpf::Events<T>, bpf::BpfError>,
    lost: &str,
) -> Option<bpf::EventStream<T>> {
    // What is absent is said among the limitations.
    match events.ok()?.stream() {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, lost, "can't wait for a kernel program");
            None
        }
    }
}

/// Who the agent is, and whether the host is still up since it was last here.
///
/// Another boot is not written down here: that is the actor's, when the rows of the earlier one are brought up to date.
/// The coordinators, and how the agent proves itself to them.
fn coordinators(config: &Config, identity: &Identity) -> Result<Coordinators, StartError> {
    let urls = &config.coordinator;
    let made = if config.speaks_tls() {
        Coordinators::secured(urls, |endpoints| {
            let (agent_id, token) = (identity.agent_id.as_str(), config.join_token_file.clone());
            Passport::new(agent_id, &config.data_dir, token, endpoints)
        })
    } else {
        Coordinators::plain(urls, config.token_file.clone())
    };
    made.map_err(StartError::Coordinator)
}

fn identify(
    config: &Config,
    checkpoint: &Checkpoint,
    kernel: &Kernel,
) -> Result<(Identity, bool), StartError> {
    let boot_id = kernel.boot_id().map_err(StartError::Kernel)?.0;
    let found = checkpoint.identity().map_err(StartError::Checkpoint)?;
    let name_file = NameFile::new(&config.data_dir);
    let is_same_boot = found.as_ref().is_some_and(|found| found.boot_id == boot_id);
    let is_new = found.is_none();
    let identity = match found {
        Some(found) => Identity { boot_id, ..found },
        None => {
            let agent_id = match name_file.read() {
                Some(agent_id) => {
                    tracing::warn!(%agent_id, "the checkpoint is new, and the agent is not: what ran here is lost");
                    agent_id
                }
                None => {
                    let name = config.hostname.clone().unwrap_or_else(host::hostname);
                    AgentId::new(&agent_name(&name)).map_err(StartError::Identity)?
                }
            };
            Identity { agent_id, cluster_id: None, boot_id }
        }
    };
    if let Err(error) = name_file.write(&identity.agent_id) {
        tracing::warn!(error = chain(&error), "can't write the agent's name beside its checkpoint");
    }
    if is_new {
        checkpoint.write_identity(&identity).map_err(StartError::Checkpoint)?;
    }
    Ok((identity, is_same_boot))
}

/// The agent's name once more, outside of the checkpoint: when that is lost the agent stays who it is, and the
/// coordinator hears at once what became of its tasks, not after it has waited for an agent in vain.
struct NameFile(PathBuf);

impl NameFile {
    fn new(data_dir: &Path) -> Self {
        Self(data_dir.join("agent-id"))
    }

    fn read(&self) -> Option<AgentId> {
        AgentId::new(std::fs::read_to_string(&self.0).ok()?.trim()).ok()
    }

    fn write(&self, agent_id: &AgentId) -> io::Result<()> {
        if self.read().as_ref() == Some(agent_id) {
            return Ok(());
        }
        let fresh = self.0.with_extension("new");
        std::fs::write(&fresh, format!("{agent_id}\n"))?;
        std::fs::rename(&fresh, &self.0)
    }
}

/// The host's name, so that people know it, and eight random digits, so that it stays unique.
fn agent_name(hostname: &str) -> String {
    let plain: String = hostname
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-'))
        .take(64)
        .collect();
    let plain = plain.trim_start_matches(['.', '-']);
    let random = Uuid::new_v4().simple().to_string();
    let random = random.get(..8).unwrap_or_default();
    if plain.is_empty() { format!("agent-{random}") } else { format!("{plain}-{random}") }
}

fn make_directory(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)));
    made.map_err(|source| StartError::MakeDirectory { path: path.to_owned(), source })
}

fn open_fetcher(config: &Config, kernel: Arc<Kernel>, metrics: FetchMetrics) -> Result<Fetcher, StartError> {
    let cache = config.data_dir.join("cache");
    let cache = Cache::open(&cache, config.fetch_cache_size.0, metrics.clone()).map_err(StartError::Cache)?;
    let settings = fetch::Settings {
        directories: config.allow_fetch_from.clone(),
        bytes_max: config.fetch_size_limit.0,
    };
    Ok(Fetcher::new(kernel, Some(cache), settings, metrics))
}

fn settings(config: &Config) -> Settings {
    Settings {
        default_user: config.default_user.clone(),
        users: UserPolicy {
            is_root_allowed: config.allow_root_tasks,
            allowed: config.allowed_users.clone(),
            groups: config.allow_groups.clone(),
        },
        pids_limit: config.pids_limit,
        hidden: hidden(config),
        output_bytes_max: config.output_limit.0,
        memory_mib: host::memory_mib(),
        rights: Rights {
            capabilities: config.allow_capabilities.iter().cloned().collect(),
            may_be_unconfined: config.allow_unconfined,
            default_seccomp: Some(config.default_seccomp.clone()),
            seccomp_dir: config.seccomp_dir.clone(),
            mounts: config.allow_mounts.clone(),
            devices: config.allow_devices.clone(),
            gpus: config.gpu_devices.clone(),
            gpu_common: config.gpu_common_devices.clone(),
        },
        port_policy: config.port_policy,
    }
}

/// What no task sees, without what lies below another of it.
fn hidden(config: &Config) -> Vec<PathBuf> {
    let mut paths = config.hidden_paths.clone();
    paths.push(config.data_dir.clone());
    paths.push(config.token_file.clone());
    paths.extend(private_parent(&config.token_file));
    let mut paths: Vec<PathBuf> = paths.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect();
    // A directory comes before what is in it.
    paths.sort();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !kept.iter().any(|above| path.starts_with(above)) {
            kept.push(path);
        }
    }
    kept
}

/// The directory of a file, if it is root's alone: then what else is in there is no task's business either.
fn private_parent(file: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let parent = file.parent()?;
    let data = parent.metadata().ok()?;
    (data.uid() == 0 && data.mode() & 0o077 == 0).then(|| parent.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_agents_name_is_always_an_id() {
        for hostname in ["vm", "a.example", "-x-", "ä", "", "..", &"x".repeat(300)] {
            let name = agent_name(hostname);
            AgentId::new(&name).unwrap_or_else(|error| panic!("{hostname}: {error}"));
        }
        assert!(agent_name("vm").starts_with("vm-"));
    }

    #[test]
    fn what_is_hidden_is_hidden_once() {
        let config = Config {
            hidden_paths: vec!["/nowhere/muster".into(), "/nowhere/else".into()],
            data_dir: "/nowhere/muster/agent".into(),
            token_file: "/nowhere/muster/coordinator/token".into(),
            ..Config::default()
        };
        let paths = hidden(&config);
        assert_eq!(paths, [PathBuf::from("/nowhere/else"), "/nowhere/muster".into()]);
    }

    #[test]
    fn every_code_is_said_once() {
        let codes: BTreeSet<&str> = FailureCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), FailureCode::ALL.len());
    }
}
