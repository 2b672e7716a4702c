//! The one interpreter of actions: it does them, and undoes them in reverse when a launch fails.
//!
//! Decides nothing: what to do is `supervisor`'s, how the kernel is asked is `sys`'.
//! Start at [`Executor::execute`], the one `match`; [`lanes`] runs plans on a bounded pool of threads.

mod directories;
mod enter;
mod gpus;
mod group;
pub mod lanes;
mod launch;
mod offered;
mod ports;
pub(crate) mod profiles;
mod recorder;
mod remove;
mod times;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::{Exit, Reason, TaskId, TaskSpec, Usage};
use supervisor::{Action, Confidence, Event, ProcessId};
use tokio::sync::oneshot;

use crate::{
    checkpoint::{Change, Checkpoint, CheckpointError},
    clock,
    fetch::{self, Fetcher},
    meter,
    sys::{
        CgroupId, CgroupName, Ending, Held, IdentityError, Process, ReleaseError, Signal, SpawnError, Sys,
        SysError, UserPolicy, Watch,
        bpf::{Counted, PortPolicy},
    },
};

pub use directories::Directories;
pub use enter::{EnterError, EnterWish, Entered, EnteredSession, Streams};
pub use recorder::Recorder;
pub use remove::remove_tree;
pub use times::{Times, offset_since};

use gpus::Gpus;
use profiles::Profiles;

/// How long a thread waits for a killed cgroup to be empty before it lets others watch it: most are at once.
const EMPTY_PATIENCE: Duration = Duration::from_millis(20);

/// What the operator decided about tasks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who a task runs as when its spec names nobody.
    pub default_user: String,
    pub users: UserPolicy,
    /// Most processes and threads of a task whose spec says nothing.
    pub pids_limit: u32,
    /// What no task may see.
    pub hidden: Vec<PathBuf>,
    /// Bytes of each output that are kept.
    pub output_bytes_max: u64,
    /// Of the host, which shares of it are judged by.
    pub memory_mib: u64,
    pub rights: Rights,
    pub port_policy: PortPolicy,
}

/// What tasks may ask for because the operator says so; by default nothing.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    /// By name: lower case, without `cap_`.
    pub capabilities: BTreeSet<String>,
    /// Whether a task may go without a profile of system calls.
    pub may_be_unconfined: bool,
    /// The profile of a task whose spec names none: `default`, `unconfined`, or one of the operator's. Absent: `default`.
    pub default_seccomp: Option<String>,
    /// Where the operator's profiles are.
    pub seccomp_dir: PathBuf,
    /// Host paths that tasks may see.
    pub mounts: Vec<AllowedPath>,
    /// Devices, or directories of them.
    pub devices: Vec<AllowedPath>,
    /// Each is one GPU, and one task's at a time. Empty: GPUs are only counted.
    pub gpus: Vec<PathBuf>,
    /// What every task with a GPU needs beside it.
    pub gpu_common: Vec<PathBuf>,
}

/// A path that the operator lets tasks use, with what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedPath {
    pub path: PathBuf,
    pub is_writable: bool,
}

impl Rights {
    /// What allows this mount; the longest path counts.
    fn mount(&self, mount: &model::Mount) -> Option<&AllowedPath> {
        allowing(&self.mounts, &mount.host_path, mount.is_writable)
    }

    fn allows_device(&self, device: &model::Device) -> bool {
        allowing(&self.devices, &device.path, device.is_writable).is_some()
    }
}

/// What allows a path, and writing where that is wanted; the longest path counts.
fn allowing<'a>(allowed: &'a [AllowedPath], path: &str, is_writable: bool) -> Option<&'a AllowedPath> {
    let above = allowed.iter().filter(|allowed| Path::new(path).starts_with(&allowed.path));
    let nearest = above.max_by_key(|allowed| allowed.path.components().count())?;
    (nearest.is_writable || !is_writable).then_some(nearest)
}

/// Does actions; shared by the threads of the pool.
pub struct Executor {
    pub(crate) sys: Arc<dyn Sys>,
    recorder: Option<Arc<dyn Recorder>>,
    checkpoint: Arc<Checkpoint>,
    directories: Directories,
    settings: Settings,
    profiles: Profiles,
    gpus: Gpus,
    fetcher: Fetcher,
    state: Mutex<State>,
}

/// What lives between two actions of a task.
#[derive(Default)]
struct State {
    /// Spawned and not yet released.
    held: BTreeMap<TaskId, Held>,
    /// Released or adopted, until their cgroup is removed.
    processes: BTreeMap<TaskId, Process>,
    /// Adopted without proof that they ever ran the command.
    doubtful: BTreeSet<TaskId>,
    cgroups: BTreeMap<CgroupId, TaskId>,
    /// Specs of task groups, from their launch or adoption until their cgroups are removed.
    groups: BTreeMap<TaskId, Arc<TaskSpec>>,
    /// Those that stand still, with their attempts.
    frozen: BTreeMap<TaskId, String>,
}

/// What an action led to.
#[derive(Debug)]
pub enum Outcome {
    Event(Event),
    /// A process to be watched for its end.
    Process {
        task_id: TaskId,
        process: Process,
    },
    /// A cgroup that isn't empty yet.
    NotEmpty {
        task_id: TaskId,
        attempt: String,
        watch: Watch,
    },
    /// Files are on their way.
    Fetching {
        task_id: TaskId,
        done: oneshot::Receiver<fetch::Outcome>,
    },
    /// Nothing runs any more of an attempt that no row names.
    StrayRemoved {
        attempt: String,
    },
    /// To be done again in a while.
    Later(Action),
}

/// Why an action could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("can't store the task's record")]
    Checkpoint(#[source] CheckpointError),
    #[error("can't make {}", path.display())]
    MakeDirectory { path: PathBuf, source: io::Error },
    #[error("can't remove {}", path.display())]
    RemoveDirectory { path: PathBuf, source: io::Error },
    #[error("{why}")]
    Refused { why: String },
    #[error("no GPU for the task")]
    Gpus(#[source] gpus::GpuError),
    #[error("no user for the task")]
    User(#[source] IdentityError),
    #[error("can't use the task's cgroup")]
    Cgroup(#[source] SysError),
    #[error("can't start the task's process")]
    Spawn(#[source] SpawnError),
    #[error("can't begin the command")]
    Release(#[source] ReleaseError),
    #[error("the task's process is not held any more")]
    NotHeld,
    #[error("can't begin to fetch the task's files")]
    Fetch(#[source] io::Error),
    #[error("can't reach the task's process")]
    Process(#[source] SysError),
}

impl ExecuteError {
    fn reason(&self) -> Reason {
        match self {
            Self::User(
                IdentityError::Unknown { .. }
                | IdentityError::Refused { .. }
                | IdentityError::UnknownGroup { .. }
                | IdentityError::RefusedGroup { .. },
            ) => Reason::UserRefused,
            Self::Release(error) if error.is_of_command() => Reason::CommandNotExecutable,
            Self::Refused { .. }
            | Self::Spawn(
                SpawnError::HostPath { .. }
                | SpawnError::HostPathHidden { .. }
                | SpawnError::MountPoint { .. },
            ) => Reason::SpecRefused,
            Self::User(IdentityError::Lookup { .. })
            | Self::Release(_)
            | Self::Gpus(_)
            | Self::Checkpoint(_)
            | Self::MakeDirectory { .. }
            | Self::RemoveDirectory { .. }
            | Self::Cgroup(_)
            | Self::Spawn(_)
            | Self::NotHeld
            | Self::Fetch(_)
            | Self::Process(_) => Reason::LaunchFailed,
        }
    }

    /// The causes without the outermost frame, where that says nothing to whoever launched the task.
    fn for_people(&self) -> String {
        match self {
            Self::User(source) => chain(source),
            Self::Release(source) => chain(source),
            Self::Checkpoint(_)
            | Self::Gpus(_)
            | Self::MakeDirectory { .. }
            | Self::RemoveDirectory { .. }
            | Self::Cgroup(_)
            | Self::Refused { .. }
            | Self::Spawn(_)
            | Self::NotHeld
            | Self::Fetch(_)
            | Self::Process(_) => chain(self),
        }
    }
}

impl Executor {
    pub fn new(
        sys: Arc<dyn Sys>,
        recorder: Option<Arc<dyn Recorder>>,
        checkpoint: Arc<Checkpoint>,
        directories: Directories,
        settings: Settings,
        fetcher: Fetcher,
    ) -> Self {
        let state = Mutex::new(State::default());
        let profiles = Profiles::new(&settings.rights.seccomp_dir);
        Self {
            sys,
            recorder,
            checkpoint,
            directories,
            settings,
            profiles,
            fetcher,
            gpus: Gpus::default(),
            state,
        }
    }

    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// The task whose v2 cgroup this is.
    pub fn task_of(&self, cgroup: CgroupId) -> Option<TaskId> {
        self.lock().cgroups.get(&cgroup).cloned()
    }

    /// Does the actions of one task in order. When one fails that a launch can't do without, what was
    /// done of this plan is undone in reverse, and the failure is among the outcomes.
    pub fn execute_plan(&self, plan: &[Action]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for (place, action) in plan.iter().enumerate() {
            tracing::debug!(%action, "action");
            let error = match self.execute(action) {
                Ok(done) => {
                    outcomes.extend(done);
                    continue;
                }
                Err(error) => error,
            };
            if let Some(failure) = self.failure(action, &error) {
                tracing::info!(%action, error = chain(&error), "a launch failed and is undone");
                // The failed action too: it may have been half done.
                for done in plan.iter().take(place + 1).rev() {
                    self.undo(done);
                }
                outcomes.push(failure);
                return outcomes;
            }
            tracing::warn!(%action, error = chain(&error), "an action failed");
        }
        outcomes
    }

    fn undo(&self, action: &Action) {
        let Some(undo) = action.undo() else { return };
        if let Err(error) = self.execute(&undo) {
            tracing::warn!(action = %undo, error = chain(&error), "an undo failed; the next start sweeps");
        }
    }

    /// The outcome of a failed action, where the plan must end with it.
    fn failure(&self, action: &Action, error: &ExecuteError) -> Option<Outcome> {
        let launch_failed = |task_id: &TaskId| {
            Some(Outcome::Event(Event::LaunchFailed {
                task_id: task_id.clone(),
                reason: error.reason(),
                message: error.for_people(),
            }))
        };
        match action {
            Action::MakeSandbox { task_id, .. }
            | Action::MakeCgroups { task_id, .. }
            | Action::Fetch { task_id, .. }
            | Action::Spawn { task_id, .. } => launch_failed(task_id),
            Action::Release { task_id } => match error.reason() {
                Reason::CommandNotExecutable => Some(Outcome::Event(Event::ExecFailed {
                    task_id: task_id.clone(),
                    message: error.for_people(),
                })),
                _ => launch_failed(task_id),
            },
            // A task that isn't measured is a task all the same, and so is one whose exit status may be lost.
            Action::RegisterMeter { .. } | Action::RegisterProcess { .. } => None,
            // Looked for again in a while, because a process is never given up.
            Action::Adopt { .. } | Action::RemoveStrayCgroups { .. } => Some(Outcome::Later(action.clone())),
            // The sweeper of the next start removes what stays.
            Action::RemoveSandbox { task_id, .. } => {
                Some(Outcome::Event(Event::SandboxRemoved { task_id: task_id.clone() }))
            }
            // The supervisor kills again in a second.
            Action::KillAll { .. } | Action::Terminate { .. } => None,
            Action::CancelFetch { .. }
            | Action::RemoveCgroups { .. }
            | Action::RemoveStraySandbox { .. }
            | Action::UnregisterMeter { .. }
            | Action::UnregisterProcess { .. }
            | Action::WriteRecord(_)
            | Action::Forget { .. }
            | Action::BeginChecks { .. }
            | Action::EndChecks { .. }
            | Action::Spare { .. }
            | Action::Report(_) => None,
        }
    }

    /// Does one action.
    fn execute(&self, action: &Action) -> Result<Vec<Outcome>, ExecuteError> {
        match action {
            Action::WriteRecord(row) => self.store([Change::Write(row)])?,
            Action::Forget { task_id } => self.store([Change::Forget(task_id)])?,
            Action::MakeSandbox { attempt, spec, .. } => self.make_sandbox(attempt, spec)?,
            Action::RemoveSandbox { task_id, attempt } => {
                remove_all(&self.directories.attempt(attempt))?;
                return Ok(vec![Outcome::Event(Event::SandboxRemoved { task_id: task_id.clone() })]);
            }
            Action::MakeCgroups { task_id, attempt, spec } => {
                let limits = self.limits(attempt, spec)?;
                let id = self.sys.create_cgroup(&name(attempt)?, &limits).map_err(ExecuteError::Cgroup)?;
                self.lock().cgroups.insert(id, task_id.clone());
                if !limits.members.is_empty() {
                    self.own_cgroups(task_id, attempt)?;
                }
                for id in self.sys.cgroup_ids(&name(attempt)?).map_err(ExecuteError::Cgroup)? {
                    self.guard_ports(task_id, id, spec);
                }
            }
            Action::RemoveCgroups { task_id, attempt } => {
                self.with_cgroup_ids(attempt, |recorder, id| {
                    if let Err(error) = recorder.unguard_ports(id) {
                        tracing::warn!(attempt, error = chain(&error), "the guard over a task's ports stays");
                    }
                })?;
                let group = self.group_of(task_id);
                self.forget_process(task_id);
                self.look_at_output_last(attempt, group.as_deref());
                self.sys.remove_cgroup(&name(attempt)?).map_err(ExecuteError::Cgroup)?;
                self.gpus.give_back(attempt);
            }
            Action::RegisterMeter { attempt, .. } => self.with_cgroup_ids(attempt, |recorder, id| {
                if let Err(error) = recorder.register_cgroup(id) {
                    tracing::warn!(attempt, error = chain(&error), "a task's cpu time is not metered");
                }
            })?,
            Action::UnregisterMeter { attempt, .. } => self.with_cgroup_ids(attempt, |recorder, id| {
                self.lock().cgroups.remove(&id);
                if let Err(error) = recorder.unregister_cgroup(id) {
                    tracing::warn!(attempt, error = chain(&error), "a cgroup stays in the meter's table");
                }
            })?,
            Action::Fetch { task_id, attempt, spec } => {
                let job = self.fetch_job(attempt, spec)?;
                let done = self.fetcher.begin(job).map_err(ExecuteError::Fetch)?;
                return Ok(vec![Outcome::Fetching { task_id: task_id.clone(), done }]);
            }
            Action::CancelFetch { attempt, .. } => self.fetcher.cancel(attempt),
            Action::Spawn { task_id, attempt, spec } => {
                self.note_group(task_id, spec);
                let request = self.launch_request(attempt, spec)?;
                let held = self.sys.spawn(&request).map_err(ExecuteError::Spawn)?;
                let process = process_id(held.process().id());
                self.lock().held.insert(task_id.clone(), held);
                return Ok(vec![Outcome::Event(Event::Prepared { task_id: task_id.clone(), process })]);
            }
            Action::RegisterProcess { task_id, process } => {
                if let Some(recorder) = &self.recorder
                    && let Err(error) = recorder.register_process(sys_process_id(*process))
                {
                    tracing::warn!(
                        %task_id,
                        error = chain(&error),
                        "a task's exit status would be lost while no agent runs"
                    );
                }
            }
            Action::UnregisterProcess { task_id, process } => {
                if let Some(recorder) = &self.recorder
                    && let Err(error) = recorder.unregister_process(sys_process_id(*process))
                {
                    tracing::warn!(%task_id, error = chain(&error), "a process stays in the table of exits");
                }
            }
            Action::Release { task_id } => return self.release(task_id),
            Action::Adopt { .. } => return self.adopt(action),
            Action::Terminate { task_id, signal, .. } => {
                self.thaw(task_id);
                let process = self.lock().processes.get(task_id).cloned();
                if let Some(process) = process {
                    self.sys.signal(&process, Signal::Stop(*signal)).map_err(ExecuteError::Process)?;
                }
            }
            Action::KillAll { task_id, attempt } => return self.kill_all(task_id, attempt),
            Action::RemoveStrayCgroups { attempt } => {
                self.remove_stray(attempt)?;
                self.gpus.give_back(attempt);
                return Ok(vec![Outcome::StrayRemoved { attempt: attempt.clone() }]);
            }
            Action::RemoveStraySandbox { attempt } => remove_all(&self.directories.attempt(attempt))?,
            // The actor tells the leader and asks the task; nothing of it is a thread's of the pool.
            Action::Report(_)
            | Action::BeginChecks { .. }
            | Action::EndChecks { .. }
            | Action::Spare { .. } => {}
        }
        Ok(Vec::new())
    }

    /// Stores changes of the rows: the actor's own actions, many at once.
    pub fn store<'a>(&self, changes: impl IntoIterator<Item = Change<'a>>) -> Result<(), ExecuteError> {
        self.checkpoint.commit(changes).map_err(ExecuteError::Checkpoint)
    }

    fn release(&self, task_id: &TaskId) -> Result<Vec<Outcome>, ExecuteError> {
        let held = self.lock().held.remove(task_id).ok_or(ExecuteError::NotHeld)?;
        let (process, released) = held.release();
        // Also after a failure, because somebody has to reap it.
        self.lock().processes.insert(task_id.clone(), process.clone());
        released.map_err(ExecuteError::Release)?;
        Ok(vec![
            Outcome::Event(Event::Launched { task_id: task_id.clone() }),
            Outcome::Process { task_id: task_id.clone(), process },
        ])
    }

    fn adopt(&self, action: &Action) -> Result<Vec<Outcome>, ExecuteError> {
        let Action::Adopt { task_id, attempt, process: id, confidence, spec } = action else {
            return Ok(Vec::new());
        };
        self.own_cgroups(task_id, attempt)?;
        self.note_group(task_id, spec);
        self.look_frozen(task_id, attempt);
        self.end_entered(attempt);
        self.directories.remove_incoming(attempt);
        if *confidence == Confidence::Doubtful {
            self.lock().doubtful.insert(task_id.clone());
        }
        let process = self.sys.reopen(sys_process_id(*id)).map_err(ExecuteError::Process)?;
        // Asked after the process: one that is gone writes nothing any more.
        let has_begun = match confidence {
            Confidence::Confirmed | Confidence::Doubtful => true,
            Confidence::ToldByInit => {
                self.sys.has_begun(&self.directories.exit_file(attempt)).map_err(ExecuteError::Process)?
            }
        };
        let Some(process) = process else {
            return Ok(vec![match has_begun {
                true => self.exited(task_id, attempt, *id, None),
                false => Outcome::Event(Event::NeverBegun { task_id: task_id.clone() }),
            }]);
        };
        if !has_begun {
            // It is about to end, or to begin; in a moment it can be told which.
            return Ok(vec![Outcome::Later(action.clone())]);
        }
        self.lock().processes.insert(task_id.clone(), process.clone());
        Ok(vec![
            Outcome::Event(Event::Launched { task_id: task_id.clone() }),
            Outcome::Process { task_id: task_id.clone(), process },
        ])
    }

    /// Finds out how a process ended whose descriptor became readable.
    pub fn collect_exit(&self, task_id: &TaskId, attempt: &str, process: &Process) -> Outcome {
        let id = process_id(process.id());
        let exit = match self.sys.ending(process, &self.directories.exit_file(attempt)) {
            Ok(Ending::Running) => {
                return Outcome::Process { task_id: task_id.clone(), process: process.clone() };
            }
            Ok(Ending::Ended(exit)) => Some(exit),
            Ok(Ending::EndedUnknown) => None,
            Err(error) => {
                tracing::warn!(%task_id, error = chain(&error), "can't ask how a task ended");
                None
            }
        };
        self.exited(task_id, attempt, id, exit)
    }

    /// `told`: how it ended, by those who can be asked about a process that we hold.
    fn exited(&self, task_id: &TaskId, attempt: &str, id: ProcessId, told: Option<Exit>) -> Outcome {
        let from_file =
            self.sys.read_exit_file(&self.directories.exit_file(attempt)).unwrap_or_else(|error| {
                tracing::warn!(%task_id, error = chain(&error), "can't read a task's exit record");
                None
            });
        let from_kernel = || self.recorder.as_ref().and_then(|recorder| recorder.exit(sys_process_id(id)));
        let other = || {
            let exit = told.or_else(from_kernel)?;
            // A held process ends with code 0 when its agent dies: that is no word about the command.
            let is_doubtful = self.lock().doubtful.contains(task_id) && exit == Exit::Code(0);
            (!is_doubtful).then_some(exit)
        };
        let exit = from_file.or_else(other);
        let processes = self.ends(task_id, attempt);
        Outcome::Event(Event::Exited {
            task_id: task_id.clone(),
            exit,
            usage: self.usage(attempt),
            processes,
        })
    }

    fn kill_all(&self, task_id: &TaskId, attempt: &str) -> Result<Vec<Outcome>, ExecuteError> {
        let held = self.lock().held.remove(task_id);
        if let Some(held) = held {
            let process = held.process().clone();
            // Its process ends by itself, and is reaped below.
            drop(held);
            self.lock().processes.insert(task_id.clone(), process);
        }
        let name = name(attempt)?;
        self.sys.kill_cgroup(&name).map_err(ExecuteError::Cgroup)?;
        let watch = self.sys.watch_cgroup(&name).map_err(ExecuteError::Cgroup)?;
        let is_empty = || self.sys.is_cgroup_empty(&name).map_err(ExecuteError::Cgroup);
        if !is_empty()? {
            // An error is seen again by the one who watches on.
            let _ = watch.wait(EMPTY_PATIENCE);
            watch.drain();
            if !is_empty()? {
                let (task_id, attempt) = (task_id.clone(), attempt.to_owned());
                return Ok(vec![Outcome::NotEmpty { task_id, attempt, watch }]);
            }
        }
        Ok(vec![self.emptied(task_id, attempt)])
    }

    /// Whether a cgroup that was killed is empty now.
    pub fn look_whether_empty(&self, task_id: &TaskId, attempt: &str, watch: Watch) -> Outcome {
        watch.drain();
        let is_empty =
            name(attempt).and_then(|name| self.sys.is_cgroup_empty(&name).map_err(ExecuteError::Cgroup));
        match is_empty {
            Ok(true) => self.emptied(task_id, attempt),
            Ok(false) => Outcome::NotEmpty { task_id: task_id.clone(), attempt: attempt.to_owned(), watch },
            Err(error) => {
                tracing::warn!(%task_id, error = chain(&error), "can't see whether a cgroup is empty");
                Outcome::NotEmpty { task_id: task_id.clone(), attempt: attempt.to_owned(), watch }
            }
        }
    }

    fn emptied(&self, task_id: &TaskId, attempt: &str) -> Outcome {
        let process = self.lock().processes.get(task_id).cloned();
        if let Some(process) = process
            && let Err(error) = self.sys.ending(&process, &self.directories.exit_file(attempt))
        {
            tracing::warn!(%task_id, error = chain(&error), "can't reap a task's process");
        }
        Outcome::Event(Event::Emptied { task_id: task_id.clone(), usage: self.usage(attempt) })
    }

    fn remove_stray(&self, attempt: &str) -> Result<(), ExecuteError> {
        let name = name(attempt)?;
        self.with_cgroup_ids(attempt, |recorder, id| {
            // What was never registered needs no word.
            let _ = recorder.unregister_cgroup(id);
        })?;
        self.sys.kill_cgroup(&name).map_err(ExecuteError::Cgroup)?;
        let watch = self.sys.watch_cgroup(&name).map_err(ExecuteError::Cgroup)?;
        if !self.sys.is_cgroup_empty(&name).map_err(ExecuteError::Cgroup)? {
            // Whether it became so is seen by the removal.
            let _ = watch.wait(Duration::from_secs(1));
        }
        self.sys.remove_cgroup(&name).map_err(ExecuteError::Cgroup)
    }

    /// What the task has used by now; `None` when nothing at all can be told.
    pub fn usage(&self, attempt: &str) -> Option<Usage> {
        let name = name(attempt).ok()?;
        let figures = self.sys.figures(&name).ok()?;
        let (mut cpu_ns, mut counted) = (None, Counted::default());
        if let Some(recorder) = &self.recorder {
            let ids = self.sys.cgroup_ids(&name).unwrap_or_default();
            let cpu = ids.iter().map(|id| recorder.cpu_ns(*id));
            cpu_ns = cpu.reduce(|one, two| Some(one? + two?)).flatten();
            counted = ids.iter().map(|id| recorder.counted(*id)).reduce(Counted::plus).unwrap_or_default();
        }
        Some(meter::last_usage(clock::now(), cpu_ns, &counted, figures))
    }

    /// As [`Executor::look_at_output`], when a task has ended: its last word is noted however soon.
    fn look_at_output_last(&self, attempt: &str, group: Option<&TaskSpec>) {
        self.look_at_each(attempt, group, |file, length| Times::note_last(file, length, clock::now()));
    }

    /// Frees the head of all outputs beyond what is kept, and notes how long they are.
    pub fn look_at_output(&self, attempt: &str, group: Option<&TaskSpec>, times: &mut Times) {
        self.look_at_each(attempt, group, |file, length| times.note(file, length, clock::now()));
    }

    fn look_at_each(
        &self,
        attempt: &str,
        group: Option<&TaskSpec>,
        mut note: impl FnMut(&Path, u64) -> std::io::Result<()>,
    ) {
        for file in self.directories.outputs(attempt, group) {
            let Ok(data) = fs::metadata(&file) else { continue };
            if let Err(error) = note(&file, data.len()) {
                tracing::warn!(attempt, error = chain(&error), "can't note when a task wrote");
            }
            let is_long = is_worth_trimming(&data, &self.settings);
            if is_long && let Err(error) = self.sys.trim_output(&file, self.settings.output_bytes_max) {
                tracing::warn!(attempt, error = chain(&error), "can't trim a task's output");
            }
        }
    }

    fn forget_process(&self, task_id: &TaskId) {
        let mut state = self.lock();
        state.processes.remove(task_id);
        state.doubtful.remove(task_id);
        state.groups.remove(task_id);
        state.frozen.remove(task_id);
    }

    fn with_cgroup_ids(
        &self,
        attempt: &str,
        tell: impl Fn(&dyn Recorder, CgroupId),
    ) -> Result<(), ExecuteError> {
        let Some(recorder) = &self.recorder else { return Ok(()) };
        let ids = self.sys.cgroup_ids(&name(attempt)?).map_err(ExecuteError::Cgroup)?;
        ids.into_iter().for_each(|id| tell(recorder.as_ref(), id));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only what is allocated counts: a trimmed head is a hole.
fn is_worth_trimming(data: &fs::Metadata, settings: &Settings) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    data.blocks().saturating_mul(512) > settings.output_bytes_max
}

fn remove_all(path: &Path) -> Result<(), ExecuteError> {
    remove_tree(path).map_err(|source| ExecuteError::RemoveDirectory { path: path.to_owned(), source })
}

fn name(attempt: &str) -> Result<CgroupName, ExecuteError> {
    CgroupName::new(attempt).map_err(ExecuteError::Cgroup)
}

fn process_id(id: crate::sys::ProcessId) -> ProcessId {
    let crate::sys::ProcessId { pid, start_ticks } = id;
    ProcessId { pid, start_ticks }
}

fn sys_process_id(id: ProcessId) -> crate::sys::ProcessId {
    let ProcessId { pid, start_ticks } = id;
    crate::sys::ProcessId { pid, start_ticks }
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
