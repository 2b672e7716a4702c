//! Processes that enter a task later, and tasks that stand still.
//!
//! Each process that enters is written down before it may begin, so that the next agent can end what this one
//! could not.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use model::{Exit, TaskId};
use rustix::pipe::{PipeFlags, pipe_with};
use supervisor::Row;
use tokio::task::spawn_blocking;

use super::{ExecuteError, Executor, chain, name};
use crate::sys::{
    CgroupId, CgroupName, EnterRequest, Process, ProcessId, ReleaseError, Signal, SpawnError, Sys, SysError,
    terminal::{self, Size, Terminal},
};

/// What is to be executed in a task.
#[derive(Debug, Clone)]
pub struct EnterWish {
    pub argv: Vec<OsString>,
    /// Added to the task's own; wins over it.
    pub env: Vec<(OsString, OsString)>,
    /// Relative to the task's own.
    pub cwd: Option<PathBuf>,
    pub terminal: Option<Size>,
    pub has_input: bool,
}

/// What entered, and our ends of its streams.
pub struct Entered {
    pub session: EnteredSession,
    pub streams: Streams,
}

/// Our ends.
#[derive(Debug)]
pub enum Streams {
    Terminal { near: OwnedFd, has_input: bool },
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
}

/// Why nothing entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    #[error("the task does not run (any more)")]
    NotRunning,
    #[error("the task is frozen; let it go on with `muster task thaw`")]
    Frozen,
    #[error("can't prepare what the task was launched with")]
    Request(#[source] ExecuteError),
    #[error("can't make a terminal or pipes")]
    Terminal(#[source] io::Error),
    #[error("can't start a process in the task")]
    Spawn(#[source] SpawnError),
    #[error("can't write down what entered, in {}", path.display())]
    Record { path: PathBuf, source: io::Error },
    #[error("can't begin the command")]
    Release(#[source] ReleaseError),
}

/// A process that entered, and the session that it leads. Dropped, it ends at once with all of its session.
pub struct EnteredSession {
    sys: Arc<dyn Sys>,
    group: CgroupName,
    process: Process,
    record: PathBuf,
    is_closed: std::sync::atomic::AtomicBool,
}

impl EnteredSession {
    /// Waits for the end of the process, not of its session.
    pub async fn ended(&self) {
        if let Err(error) = self.process.ended().await {
            tracing::warn!(error = chain(&error), "can't wait for a process");
        }
    }

    pub fn signal(&self, number: u32) {
        let number = u8::try_from(number).unwrap_or(0);
        if let Err(error) = self.sys.signal_group(self.process.id(), number) {
            tracing::debug!(error = chain(&error), "can't pass a signal on");
        }
    }

    /// Ends what is left of the session, and says how its leader ended.
    pub async fn close(&self, patience: Duration) -> Option<Exit> {
        let (sys, group, process) = (self.sys.clone(), self.group.clone(), self.process.clone());
        let closed = spawn_blocking(move || close(&*sys, &group, &process, patience)).await;
        self.is_closed.store(true, std::sync::atomic::Ordering::Relaxed);
        forget(&self.record);
        closed.unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "what entered a task may go on");
            None
        })
    }
}

impl Drop for EnteredSession {
    fn drop(&mut self) {
        if !self.is_closed.load(std::sync::atomic::Ordering::Relaxed) {
            // Milliseconds, and only when the agent stops in the middle of a conversation.
            close(&*self.sys, &self.group, &self.process, Duration::ZERO);
            forget(&self.record);
        }
    }
}

fn close(sys: &dyn Sys, group: &CgroupName, process: &Process, patience: Duration) -> Option<Exit> {
    if let Err(error) = sys.end_session(group, process.id(), patience) {
        tracing::warn!(error = chain(&error), "something that entered a task may go on");
    }
    // Last: until it is reaped nobody else can have its number.
    sys.reap(process).unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "can't ask how a process ended");
        None
    })
}

fn forget(record: &Path) {
    if let Err(error) = fs::remove_file(record)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "a record of what entered a task stays");
    }
}

impl Executor {
    /// Starts a process in a task's groups and namespaces, with the task's rights. Blocks until it is the command.
    pub fn enter(&self, row: &Row, wish: EnterWish) -> Result<Entered, EnterError> {
        let target = self.lock().processes.get(&row.task_id).cloned().ok_or(EnterError::NotRunning)?;
        let mut launch = self.launch_request(&row.attempt, &row.spec).map_err(EnterError::Request)?;
        let group = launch.cgroup.clone();
        if self.sys.is_frozen(&group).unwrap_or(false) {
            return Err(EnterError::Frozen);
        }
        let EnterWish { argv, env, cwd, terminal, has_input } = wish;
        launch.argv = argv;
        launch.group = None;
        if let Some(cwd) = cwd {
            launch.cwd = launch.cwd.join(cwd);
        }
        for (name, value) in env {
            launch.env.retain(|(known, _)| *known != name);
            launch.env.push((name, value));
        }
        let has_terminal = terminal.is_some();
        let (streams, [stdin, stdout, stderr]) = match terminal {
            Some(size) => {
                let Terminal { near, far } =
                    terminal::open(size, &launch.identity).map_err(EnterError::Terminal)?;
                let copy = || far.try_clone().map_err(EnterError::Terminal);
                let theirs = [copy()?, copy()?, far.try_clone().map_err(EnterError::Terminal)?];
                (Streams::Terminal { near, has_input }, theirs)
            }
            None => pipes(has_input).map_err(EnterError::Terminal)?,
        };
        let request = EnterRequest { launch, target, stdin, stdout, stderr, has_terminal };
        let held = self.sys.enter(request).map_err(EnterError::Spawn)?;
        let process = held.process().clone();
        let record = self.directories.entered(&row.attempt).join(record_name(process.id()));
        write_record(&record).map_err(|source| EnterError::Record { path: record.clone(), source })?;
        let session =
            EnteredSession { sys: self.sys.clone(), group, process, record, is_closed: false.into() };
        let (_process, released) = held.release();
        released.map_err(EnterError::Release)?;
        Ok(Entered { session, streams })
    }

    /// Ends what entered the task by an earlier agent: nobody talks with it any more.
    pub(super) fn end_entered(&self, attempt: &str) {
        let directory = self.directories.entered(attempt);
        let Ok(entries) = fs::read_dir(&directory) else { return };
        let Ok(group) = name(attempt) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if let Some(leader) = path.file_name().and_then(|name| parse_record(name.to_str()?)) {
                tracing::info!(
                    attempt,
                    pid = leader.pid,
                    "what entered a task by the earlier agent is ended"
                );
                if let Err(error) = self.sys.end_session(&group, leader, Duration::ZERO) {
                    tracing::warn!(error = chain(&error), "something that entered a task may go on");
                }
            }
            forget(&path);
        }
    }

    /// Stops a task where it stands, or lets it go on.
    pub fn set_frozen(&self, task_id: &TaskId, attempt: &str, is_frozen: bool) -> Result<(), ExecuteError> {
        self.sys.set_frozen(&name(attempt)?, is_frozen).map_err(ExecuteError::Cgroup)?;
        let mut state = self.lock();
        match is_frozen {
            true => drop(state.frozen.insert(task_id.clone(), attempt.to_owned())),
            false => drop(state.frozen.remove(task_id)),
        }
        Ok(())
    }

    /// The main process of a task that runs.
    pub fn process(&self, task_id: &TaskId) -> Option<Process> {
        self.lock().processes.get(task_id).cloned()
    }

    /// Sends a signal to a task's command. One that stands still gets it when it goes on.
    pub fn send_signal(&self, task_id: &TaskId, number: u8) -> Result<(), SysError> {
        match self.process(task_id) {
            Some(process) => self.sys.signal(&process, Signal::Other(number)),
            None => Ok(()),
        }
    }

    /// Ends a task's input for good: first for its command, then for whoever would write more. A crash in between
    /// leaves a pipe that a next one may end again.
    pub fn end_input(&self, task_id: &TaskId, pipe: &Path) -> Result<(), ExecuteError> {
        if let Some(process) = self.process(task_id) {
            self.sys.end_input(&process).map_err(ExecuteError::Process)?;
        }
        match fs::remove_file(pipe) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ExecuteError::RemoveDirectory { path: pipe.to_owned(), source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The v2 group of a task; `None` where it has none.
    pub fn cgroup(&self, attempt: &str) -> Result<Option<CgroupId>, ExecuteError> {
        self.sys.cgroup_id(&name(attempt)?).map_err(ExecuteError::Cgroup)
    }

    /// Whether a task stands still.
    pub fn is_frozen(&self, task_id: &TaskId) -> bool {
        self.lock().frozen.contains_key(task_id)
    }

    /// Tasks that stand still.
    pub fn frozen(&self) -> BTreeSet<TaskId> {
        self.lock().frozen.keys().cloned().collect()
    }

    /// Before a signal that the task shall act on: one that stands still would not.
    pub(super) fn thaw(&self, task_id: &TaskId) {
        let attempt = self.lock().frozen.get(task_id).cloned();
        if let Some(attempt) = attempt
            && let Err(error) = self.set_frozen(task_id, &attempt, false)
        {
            tracing::warn!(%task_id, error = chain(&error), "a frozen task can't be thawed");
        }
    }

    /// Takes up what the kernel kept while no agent ran.
    pub(super) fn look_frozen(&self, task_id: &TaskId, attempt: &str) {
        let is_frozen = name(attempt).is_ok_and(|name| self.sys.is_frozen(&name).unwrap_or(false));
        if is_frozen {
            self.lock().frozen.insert(task_id.clone(), attempt.to_owned());
        }
    }
}

fn pipes(has_input: bool) -> io::Result<(Streams, [OwnedFd; 3])> {
    let pair = || pipe_with(PipeFlags::CLOEXEC);
    let (stdin_theirs, stdin) = match has_input {
        true => {
            let (theirs, ours) = pair()?;
            (theirs, Some(ours))
        }
        false => (fs::File::open("/dev/null")?.into(), None),
    };
    let (stdout, stdout_theirs) = pair()?;
    let (stderr, stderr_theirs) = pair()?;
    Ok((Streams::Pipes { stdin, stdout, stderr }, [stdin_theirs, stdout_theirs, stderr_theirs]))
}

fn write_record(record: &Path) -> io::Result<()> {
    if let Some(directory) = record.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(record, "")
}

fn record_name(id: ProcessId) -> String {
    format!("{}.{}", id.pid, id.start_ticks)
}

fn parse_record(name: &str) -> Option<ProcessId> {
    let (pid, start_ticks) = name.split_once('.')?;
    Some(ProcessId { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_process() {
        let id = ProcessId { pid: 4711, start_ticks: 123_456 };
        assert_eq!(parse_record(&record_name(id)), Some(id));
        assert_eq!(parse_record("x.y"), None);
    }
}
