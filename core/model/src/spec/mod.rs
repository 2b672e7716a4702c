//! What a user wants to run, and whether it can be run anywhere.
//!
//! [`TaskSpec::check`] holds every rule that needs no host; what one host can't or may not do is
//! refused there. Kernel limits are in `limits`, what a task finds on its disk in `files`,
//! how its health is judged in `health`, several processes in `processes`.

mod files;
mod health;
mod limits;
mod processes;

use std::collections::{BTreeMap, BTreeSet};

use crate::{Duration, Resources, ResourcesError, TaskId, limits as bounds};

pub use files::{Device, Fetch, Mount, Secret, SecretValue, Sha256};
pub use health::{HealthCheck, Probe};
pub use limits::{IoLimits, Rlimit, RlimitKind, StopSignal};
pub use processes::{ProcessSpec, is_process_name};

/// What a user wants to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    pub task_id: TaskId,
    /// For people; need not be unique.
    pub name: String,
    /// Taken from the offer and counted against the role.
    pub resources: Resources,
    /// The program and its arguments; empty where there are `processes`.
    pub command: Vec<String>,
    /// What it runs instead of one command.
    pub processes: Vec<ProcessSpec>,
    pub env: BTreeMap<String, String>,
    /// Name or number; absent: the agent's default user.
    pub user: Option<String>,
    /// Names or numbers; empty: the user's own.
    pub groups: Vec<String>,
    /// Absolute, or relative to the sandbox; absent: the sandbox.
    pub cwd: Option<String>,
    /// Hard limit in thousandths of a core; absent: the request itself.
    pub cpu_limit_milli: Option<u64>,
    /// Hard limit in MiB; absent: the request itself. What is above the request is the first to go
    /// when the host runs out of memory.
    pub mem_limit_mib: Option<u64>,
    /// Most processes and threads; absent: the agent's default.
    pub pids_limit: Option<u32>,
    /// Numbers of the only cores that it may use; empty: all.
    pub cpuset: BTreeSet<u32>,
    pub io: IoLimits,
    pub rlimits: BTreeMap<RlimitKind, Rlimit>,
    /// Added to the kernel's choice of whom to end for memory, 0 to 1000; absent: the agent's default.
    pub oom_score_adjust: Option<u16>,
    /// Counted from when the command begins; absent: no end.
    pub run_time_max: Option<Duration>,
    pub kill_signal: StopSignal,
    /// How long the kill signal may take.
    pub kill_grace: Duration,
    pub labels: BTreeMap<String, String>,
    pub shared_namespaces: SharedNamespaces,
    /// Whether it has a network of its own, with nothing in it but loopback.
    pub has_private_network: bool,
    /// Beyond the usual ones of every host.
    pub devices: Vec<Device>,
    pub mounts: Vec<Mount>,
    pub secrets: Vec<Secret>,
    /// In order; all are there before the command begins.
    pub fetches: Vec<Fetch>,
    /// Lower case, without `cap_`, beyond those of every task: `net_raw`.
    pub capabilities: BTreeSet<String>,
    /// Name of the profile of system calls; absent: the agent's default.
    pub seccomp: Option<String>,
    pub health_check: Option<HealthCheck>,
    /// Whether its stdin is a pipe that is written to by whoever attaches; otherwise stdin is empty.
    pub has_input: bool,
}

/// Namespaces that a task shares with its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SharedNamespaces {
    pub pid: bool,
    pub ipc: bool,
}

/// Kill grace where the spec names none: long enough to end well, short enough to wait for.
pub const KILL_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// Why a spec can't be run anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{what} has {size} bytes; at most {max} are allowed")]
    TooLong { what: &'static str, size: usize, max: usize },
    #[error("{count} {what} are more than the {max} that are allowed")]
    TooMany { what: &'static str, count: usize, max: usize },
    #[error("the command is empty; name a program to run")]
    NoCommand,
    #[error("{what} holds a NUL byte, which no Linux program can be given")]
    Nul { what: &'static str },
    #[error("`{name}` can't name an environment variable: it is empty or holds `=`")]
    VariableName { name: String },
    #[error("a task needs at least 0.01 cpus; {milli} thousandths were asked for")]
    CpusTooFew { milli: u64 },
    #[error("a task needs at least {min} MiB of memory; {mib} were asked for", min = bounds::TASK_MEM_MIB_MIN)]
    MemTooLittle { mib: u64 },
    #[error("the cpu limit of {limit} thousandths is below the {request} that are asked for")]
    CpuLimitBelowRequest { limit: u64, request: u64 },
    #[error("the memory limit of {limit} MiB is below the {request} that are asked for")]
    MemLimitBelowRequest { limit: u64, request: u64 },
    #[error("a pids limit must be from 1 to {max}; {limit} was asked for", max = bounds::PIDS_MAX)]
    PidsLimit { limit: u32 },
    #[error("a kill grace of {ms} ms is longer than a day")]
    KillGrace { ms: u128 },
    #[error("{what} must be from {min} to {max}; {value} was asked for")]
    OutOfRange { what: &'static str, value: u64, min: u64, max: u64 },
    #[error("{what} `{found}` {rule}")]
    Breaks { what: &'static str, found: String, rule: &'static str },
    #[error("{what} names `{name}` twice")]
    Twice { what: &'static str, name: String },
    #[error("the soft limit on {kind} is above the hard limit of {hard}")]
    SoftAboveHard { kind: &'static str, hard: u64 },
    #[error("the health check names no port, and the task has declared none")]
    NoProbePort,
    #[error("a task has a command or processes, and this one has both")]
    CommandAndProcesses,
    #[error("several processes need a process namespace of their own, and this task shares the host's")]
    ProcessesOfHost,
    #[error("only one command in a process namespace of its own can have an input")]
    Input,
    #[error("{what} of {limit} is above the {whole} of the whole task")]
    AboveWhole { what: &'static str, limit: u64, whole: u64 },
    #[error("the process `{name}` breaks a rule")]
    Process {
        name: String,
        #[source]
        error: Box<Self>,
    },
    #[error("resources can't be met")]
    Resources(#[source] ResourcesError),
}

impl TaskSpec {
    /// A spec that asks for nothing beyond resources and a command.
    pub fn new(task_id: TaskId, resources: Resources, command: Vec<String>) -> Self {
        Self {
            task_id,
            name: String::new(),
            resources,
            command,
            processes: Vec::new(),
            env: BTreeMap::new(),
            user: None,
            groups: Vec::new(),
            cwd: None,
            cpu_limit_milli: None,
            mem_limit_mib: None,
            pids_limit: None,
            cpuset: BTreeSet::new(),
            io: IoLimits::default(),
            rlimits: BTreeMap::new(),
            oom_score_adjust: None,
            run_time_max: None,
            kill_signal: StopSignal::Term,
            kill_grace: KILL_GRACE_DEFAULT,
            labels: BTreeMap::new(),
            shared_namespaces: SharedNamespaces::default(),
            has_private_network: false,
            devices: Vec::new(),
            mounts: Vec::new(),
            secrets: Vec::new(),
            fetches: Vec::new(),
            capabilities: BTreeSet::new(),
            seccomp: None,
            health_check: None,
            has_input: false,
        }
    }

    /// Checks every bound; what passes can be launched by any agent that has the resources and
    /// offers what is asked for.
    pub fn check(&self) -> Result<(), SpecError> {
        check_size("the name", self.name.len(), bounds::DISPLAY_NAME_BYTES_MAX)?;
        self.resources.check().map_err(SpecError::Resources)?;
        check_env(&self.env)?;
        self.check_identity()?;
        self.check_limits()?;
        processes::check(self)?;
        self.check_input()?;
        self.check_end()?;
        self.check_files()?;
        if let Some(check) = &self.health_check {
            check.check(&self.resources)?;
        }
        check_count("labels", self.labels.len(), bounds::ATTRIBUTES_MAX)?;
        for (name, value) in &self.labels {
            check_size("a label's name", name.len(), bounds::NAME_BYTES_MAX)?;
            check_size("a label's value", value.len(), bounds::VALUE_BYTES_MAX)?;
        }
        Ok(())
    }

    /// The hard limit on CPU, in thousandths of a core.
    pub fn cpu_limit(&self) -> u64 {
        self.cpu_limit_milli.unwrap_or(self.resources.cpus_milli)
    }

    /// The hard limit on memory, in MiB.
    pub fn mem_limit(&self) -> u64 {
        self.mem_limit_mib.unwrap_or(self.resources.mem_mib)
    }

    /// Every string of its command or commands.
    pub fn arguments(&self) -> impl Iterator<Item = &String> {
        self.command.iter().chain(self.processes.iter().flat_map(|process| &process.command))
    }

    /// Every variable that it adds for its command or commands.
    pub fn variables(&self) -> impl Iterator<Item = (&String, &String)> {
        self.env.iter().chain(self.processes.iter().flat_map(|process| &process.env))
    }

    /// Whether it asks for nothing that cluster version 1 did not know.
    pub fn is_plain(&self) -> bool {
        let plain = Self::new(self.task_id.clone(), self.resources.clone(), self.command.clone());
        *self
            == Self {
                name: self.name.clone(),
                env: self.env.clone(),
                user: self.user.clone(),
                cwd: self.cwd.clone(),
                cpu_limit_milli: self.cpu_limit_milli,
                pids_limit: self.pids_limit,
                kill_grace: self.kill_grace,
                labels: self.labels.clone(),
                shared_namespaces: self.shared_namespaces,
                ..plain
            }
    }

    fn check_identity(&self) -> Result<(), SpecError> {
        for (what, text) in [("the user", &self.user), ("the working directory", &self.cwd)] {
            let Some(text) = text else { continue };
            check_size(what, text.len(), bounds::PATH_BYTES_MAX)?;
            check_nul(what, text)?;
        }
        check_count("groups", self.groups.len(), bounds::GROUPS_MAX)?;
        for group in &self.groups {
            check_size("a group", group.len(), bounds::NAME_BYTES_MAX)?;
            check_nul("a group", group)?;
        }
        check_count("capabilities", self.capabilities.len(), bounds::CAPABILITIES_MAX)?;
        for name in &self.capabilities {
            check_name("a capability", name)?;
        }
        self.seccomp.as_ref().map_or(Ok(()), |name| check_name("a seccomp profile", name))
    }

    fn check_limits(&self) -> Result<(), SpecError> {
        let Resources { cpus_milli, mem_mib, .. } = self.resources;
        if cpus_milli < bounds::CPU_LIMIT_MILLI_MIN {
            return Err(SpecError::CpusTooFew { milli: cpus_milli });
        }
        if mem_mib < bounds::TASK_MEM_MIB_MIN {
            return Err(SpecError::MemTooLittle { mib: mem_mib });
        }
        if self.cpu_limit() < cpus_milli {
            return Err(SpecError::CpuLimitBelowRequest { limit: self.cpu_limit(), request: cpus_milli });
        }
        if self.mem_limit() < mem_mib {
            return Err(SpecError::MemLimitBelowRequest { limit: self.mem_limit(), request: mem_mib });
        }
        for (what, value, max) in [
            ("cpu limit (in thousandths)", self.cpu_limit(), bounds::CPUS_MILLI_MAX),
            ("memory limit (in MiB)", self.mem_limit(), bounds::MIB_MAX),
        ] {
            if value > max {
                let error = ResourcesError::TooMuch { what: what.to_owned(), value, max };
                return Err(SpecError::Resources(error));
            }
        }
        if let Some(limit) = self.pids_limit
            && (limit == 0 || limit > bounds::PIDS_MAX)
        {
            return Err(SpecError::PidsLimit { limit });
        }
        if let Some(core) = self.cpuset.last() {
            check_range("a core's number", (*core).into(), 0, bounds::CORE_NUMBER_MAX.into())?;
        }
        if let Some(score) = self.oom_score_adjust {
            check_range("the OOM score", score.into(), 0, bounds::OOM_SCORE_ADJUST_MAX.into())?;
        }
        self.io.check()?;
        self.rlimits.iter().try_for_each(|(kind, limit)| limit.check(*kind))
    }

    fn check_end(&self) -> Result<(), SpecError> {
        if self.kill_grace.as_millis() > bounds::KILL_GRACE_MS_MAX.into() {
            return Err(SpecError::KillGrace { ms: self.kill_grace.as_millis() });
        }
        let Some(longest) = self.run_time_max else { return Ok(()) };
        let ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        check_range("the longest run time (in ms)", ms, 1, bounds::TIMEOUT_MS_MAX)
    }

    /// The init of a task with one command keeps its input open, so there must be one.
    fn check_input(&self) -> Result<(), SpecError> {
        let is_possible = self.processes.is_empty() && !self.shared_namespaces.pid;
        if self.has_input && !is_possible { Err(SpecError::Input) } else { Ok(()) }
    }

    fn check_files(&self) -> Result<(), SpecError> {
        files::check_devices(&self.devices)?;
        files::check_mounts(&self.mounts)?;
        files::check_secrets(&self.secrets)?;
        files::check_fetches(&self.fetches)
    }
}

fn check_command(command: &[String]) -> Result<(), SpecError> {
    if command.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    check_count("arguments", command.len(), bounds::ARGUMENTS_MAX)?;
    let size = command.iter().map(|argument| argument.len() + 1).sum();
    check_size("the command", size, bounds::ARGUMENT_BYTES_MAX)?;
    command.iter().try_for_each(|argument| check_nul("the command", argument))
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), SpecError> {
    check_count("environment variables", env.len(), bounds::ARGUMENTS_MAX)?;
    let size = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    check_size("the environment", size, bounds::ARGUMENT_BYTES_MAX)?;
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err(SpecError::VariableName { name: name.escape_debug().to_string() });
        }
        check_nul("the environment", name)?;
        check_nul("the environment", value)?;
    }
    Ok(())
}

fn check_size(what: &'static str, size: usize, max: usize) -> Result<(), SpecError> {
    if size > max {
        return Err(SpecError::TooLong { what, size, max });
    }
    Ok(())
}

fn check_count(what: &'static str, count: usize, max: usize) -> Result<(), SpecError> {
    if count > max {
        return Err(SpecError::TooMany { what, count, max });
    }
    Ok(())
}

fn check_nul(what: &'static str, text: &str) -> Result<(), SpecError> {
    if text.contains('\0') {
        return Err(SpecError::Nul { what });
    }
    Ok(())
}

fn check_range(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), SpecError> {
    if value < min || value > max {
        return Err(SpecError::OutOfRange { what, value, min, max });
    }
    Ok(())
}

/// Becomes part of a path or a lookup: short, and of harmless characters.
fn check_name(what: &'static str, name: &str) -> Result<(), SpecError> {
    check_size(what, name.len(), bounds::NAME_BYTES_MAX)?;
    let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_harmless) {
        let rule = "is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, beginning without a dot";
        return Err(SpecError::Breaks { what, found: shown(name), rule });
    }
    Ok(())
}

/// A text that can't be trusted, short enough for a message and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
