//! Starting a task's first process, and more processes inside a task that runs.

mod birth;
pub mod capability;
mod child;
mod paths;
mod prepare;
pub mod seccomp;
mod together;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use model::{Duration, Rlimit, RlimitKind, StopSignal};

pub use paths::PathMount;
pub(super) use prepare::Launcher;

use rustix::thread::CapabilitySet;

use super::{CgroupName, Identity, Process, SysError};
use seccomp::Seccomp;

/// Everything that a task's first process is made of.
#[derive(Debug, Clone)]
pub struct LaunchRequest {
    pub cgroup: CgroupName,
    /// The command; the first is looked up in the PATH of `env` unless it holds a slash.
    pub argv: Vec<OsString>,
    /// All of it; nothing is added.
    pub env: Vec<(OsString, OsString)>,
    pub identity: Identity,
    /// Absolute, as the task sees it.
    pub cwd: PathBuf,
    /// The task's own directory; seen by it at the same path.
    pub sandbox: PathBuf,
    /// Becomes the task's /tmp; absent: it shares the host's.
    pub tmp: Option<PathBuf>,
    /// Becomes a pipe with this name, which its init keeps open; absent: nothing. Not for groups, nor without an
    /// init.
    pub stdin: Option<PathBuf>,
    /// Made if absent, appended to.
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    /// Where the exit status is recorded, whoever lives to see it. Must not be inside the sandbox.
    pub exit_file: PathBuf,
    pub namespaces: Namespaces,
    /// Files and directories that the task must not see; absent ones are skipped.
    pub hidden: Vec<PathBuf>,
    pub extras: Extras,
    /// Present: its processes are started instead of the command, and `stdout` and `stderr` get nothing.
    pub group: Option<LaunchGroup>,
}

/// Several processes that begin and end together.
#[derive(Debug, Clone)]
pub struct LaunchGroup {
    pub members: Vec<LaunchMember>,
    /// What the others get when one ends whose end is that of all, and how long it may take.
    pub kill_signal: StopSignal,
    pub kill_grace: Duration,
}

/// One of them. Its control groups were made with the task's.
#[derive(Debug, Clone)]
pub struct LaunchMember {
    pub name: String,
    pub argv: Vec<OsString>,
    /// All of it; nothing is added.
    pub env: Vec<(OsString, OsString)>,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    pub is_essential: bool,
}

/// What only some tasks ask for.
#[derive(Debug, Clone)]
pub struct Extras {
    /// Others than what every task gets.
    pub rlimits: BTreeMap<RlimitKind, Rlimit>,
    /// Absent: what every task gets.
    pub oom_score_adjust: Option<u16>,
    /// Beyond those of every task.
    pub capabilities: CapabilitySet,
    pub seccomp: Seccomp,
    pub mounts: Vec<PathMount>,
    pub secrets: Option<Secrets>,
}

/// Files in memory that only the task's user reads. They are in its mount namespace and nowhere else, and memory
/// of this kind is never swapped out.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// As the task sees it; beside its sandbox, so that it is hidden from others with it.
    pub directory: PathBuf,
    pub files: Vec<model::Secret>,
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            rlimits: BTreeMap::new(),
            oom_score_adjust: None,
            capabilities: CapabilitySet::empty(),
            seccomp: Seccomp::Default,
            mounts: Vec::new(),
            secrets: None,
        }
    }
}

/// One more process in a task that runs: as its first one, but for command, variables and place.
#[derive(Debug)]
pub struct EnterRequest {
    /// As the task was launched, with the command, the variables and the working directory of the newcomer.
    pub launch: LaunchRequest,
    /// The task's first process.
    pub target: Process,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// All three are one terminal, which shall control the newcomer's session.
    pub has_terminal: bool,
}

/// Which namespaces are the task's own. It always has a mount namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces {
    pub pid: bool,
    pub ipc: bool,
    /// With nothing in it but loopback, which is up.
    pub network: bool,
}

/// A process that waits in its groups and namespaces for the word to become the command.
///
/// Dropped without [`Held::release`], the process ends by itself; the caller still owes the
/// removal of the cgroup and may ask [`super::Sys::ending`] to reap it.
pub struct Held {
    process: Process,
    release: Box<dyn FnOnce() -> Result<(), ReleaseError> + Send>,
}

impl Held {
    pub fn new(
        process: Process,
        release: impl FnOnce() -> Result<(), ReleaseError> + Send + 'static,
    ) -> Self {
        Self { process, release: Box::new(release) }
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Lets it run, and waits until it has become the command or failed to (bounded: it fails
    /// after 30 s without an answer). After a failure the process is ending or has ended.
    pub fn release(self) -> (Process, Result<(), ReleaseError>) {
        let Self { process, release } = self;
        let outcome = release();
        (process, outcome)
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("process", &self.process).finish_non_exhaustive()
    }
}

/// Why no process could be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("can't enter the task's namespaces")]
    Enter(#[source] io::Error),
    /// A path, argument or variable holds a NUL byte.
    #[error("{what} holds a NUL byte")]
    Nul { what: &'static str },
    #[error("can't open {} for the task", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("can't show the task {}", path.display())]
    HostPath { path: PathBuf, source: io::Error },
    #[error("no task may see {}: the agent's own files are in it, or it is hidden from tasks", path.display())]
    HostPathHidden { path: PathBuf },
    #[error("there is nothing to mount on at {}, and only in the sandbox and in /tmp can it be made", path.display())]
    MountPoint { path: PathBuf, source: io::Error },
    #[error("can't {what} for the task")]
    Prepare { what: &'static str, source: io::Error },
    #[error("can't start a process in the control group {cgroup}")]
    Clone { cgroup: CgroupName, source: io::Error },
    #[error("can't use the task's control group")]
    Cgroup(#[source] SysError),
}

/// Why a started process did not become the command.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The last step was the command itself: the user can mend this.
    #[error("can't run `{command}`")]
    Exec { command: String, source: io::Error },
    /// Something before it: the host is at fault, or the working directory.
    #[error("can't prepare the task's process: {step}")]
    Step { step: LaunchStep, source: io::Error },
    #[error("the task's process ended before it became the command")]
    Ended,
    #[error("the task's process did not become the command within {seconds} s")]
    TimedOut { seconds: u64 },
    #[error("can't talk to the task's process")]
    Pipe { source: io::Error },
    /// One process of a group, and so none of them.
    #[error("the process `{name}` can't begin, and so none of its group does")]
    Member {
        name: String,
        #[source]
        error: Box<Self>,
    },
}

impl ReleaseError {
    /// Whether the command is at fault, and so the user can mend it.
    pub fn is_of_command(&self) -> bool {
        match self {
            Self::Exec { .. } => true,
            Self::Member { error, .. } => error.is_of_command(),
            Self::Step { .. } | Self::Ended | Self::TimedOut { .. } | Self::Pipe { .. } => false,
        }
    }
}

/// What a task's first process does before it is the command, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchStep {
    Descriptors,
    JoinCgroup,
    Session,
    JoinNamespaces,
    Network,
    PrivateMounts,
    KeepSandbox,
    MountProc,
    HidePath,
    MountTmp,
    MountShm,
    ShowSandbox,
    ShowPath,
    Secrets,
    ReadOnly,
    Limits,
    Capabilities,
    Groups,
    User,
    NoNewPrivileges,
    WorkingDirectory,
    Filter,
    Init,
    Fork,
    Exec,
}

impl LaunchStep {
    /// In the order of their numbers; `agent/init/main.rs` knows those of `Fork` and `Exec`.
    pub const ALL: &[Self] = &[
        Self::Descriptors,
        Self::JoinCgroup,
        Self::Session,
        Self::JoinNamespaces,
        Self::Network,
        Self::PrivateMounts,
        Self::KeepSandbox,
        Self::MountProc,
        Self::HidePath,
        Self::MountTmp,
        Self::MountShm,
        Self::ShowSandbox,
        Self::ShowPath,
        Self::Secrets,
        Self::ReadOnly,
        Self::Limits,
        Self::Capabilities,
        Self::Groups,
        Self::User,
        Self::NoNewPrivileges,
        Self::WorkingDirectory,
        Self::Filter,
        Self::Init,
        Self::Fork,
        Self::Exec,
    ];

    /// As it travels through the status pipe.
    fn number(self) -> u32 {
        self as u32
    }

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|step| step.number() == number)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Descriptors => "arrange its descriptors",
            Self::JoinCgroup => "join its control groups",
            Self::Session => "start a session",
            Self::JoinNamespaces => "enter the task's namespaces",
            Self::Network => "bring its loopback up",
            Self::PrivateMounts => "make its mounts private",
            Self::KeepSandbox => "take hold of its sandbox",
            Self::MountProc => "mount /proc",
            Self::HidePath => "hide what it must not see",
            Self::MountTmp => "mount /tmp",
            Self::MountShm => "mount /dev/shm",
            Self::ShowSandbox => "mount its sandbox",
            Self::ShowPath => "mount a path of the host",
            Self::Secrets => "write its secrets",
            Self::ReadOnly => "make mounts read-only",
            Self::Limits => "set its process limits",
            Self::Capabilities => "drop capabilities",
            Self::Groups => "set its groups",
            Self::User => "set its user",
            Self::NoNewPrivileges => "forbid new privileges",
            Self::WorkingDirectory => "enter its working directory",
            Self::Filter => "install its filter of system calls",
            Self::Init => "become its init",
            Self::Fork => "start a process",
            Self::Exec => "become the command",
        }
    }
}

impl std::fmt::Display for LaunchStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_the_numbers_that_the_init_knows() {
        for (position, step) in LaunchStep::ALL.iter().enumerate() {
            assert_eq!(step.number() as usize, position);
            assert_eq!(LaunchStep::from_number(step.number()), Some(*step));
        }
        assert_eq!((LaunchStep::Fork.number(), LaunchStep::Exec.number()), (23, 24));
    }
}
