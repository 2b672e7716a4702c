//! Tasks: what a user wants to run, and what has become of it.

use std::collections::BTreeMap;

use crate::{AgentId, Duration, FrameworkId, Resources, ResourcesError, TaskId, Timestamp, Usage, limits};

/// What a user wants to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    pub task_id: TaskId,
    /// For people; need not be unique.
    pub name: String,
    /// Taken from the offer and counted against the role.
    pub resources: Resources,
    /// The program and its arguments.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Name or number; absent: the agent's default user.
    pub user: Option<String>,
    /// Absolute, or relative to the sandbox; absent: the sandbox.
    pub cwd: Option<String>,
    /// Hard limit in thousandths of a core; absent: the request itself.
    pub cpu_limit_milli: Option<u64>,
    /// Most processes and threads; absent: the agent's default.
    pub pids_limit: Option<u32>,
    /// How long SIGTERM may take.
    pub kill_grace: Duration,
    pub labels: BTreeMap<String, String>,
    pub shared_namespaces: SharedNamespaces,
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
    #[error("a task needs at least {min} MiB of memory; {mib} were asked for", min = limits::TASK_MEM_MIB_MIN)]
    MemTooLittle { mib: u64 },
    #[error("the cpu limit of {limit} thousandths is below the {request} that are asked for")]
    CpuLimitBelowRequest { limit: u64, request: u64 },
    #[error("a pids limit must be from 1 to {max}; {limit} was asked for", max = limits::PIDS_MAX)]
    PidsLimit { limit: u32 },
    #[error("a kill grace of {ms} ms is longer than a day")]
    KillGrace { ms: u128 },
    #[error("resources can't be met")]
    Resources(#[source] ResourcesError),
}

impl TaskSpec {
    /// Checks every bound; what passes can be launched by any agent that has the resources.
    pub fn check(&self) -> Result<(), SpecError> {
        check_size("the name", self.name.len(), limits::DISPLAY_NAME_BYTES_MAX)?;
        self.resources.check().map_err(SpecError::Resources)?;
        if self.resources.cpus_milli < limits::CPU_LIMIT_MILLI_MIN {
            return Err(SpecError::CpusTooFew { milli: self.resources.cpus_milli });
        }
        if self.resources.mem_mib < limits::TASK_MEM_MIB_MIN {
            return Err(SpecError::MemTooLittle { mib: self.resources.mem_mib });
        }
        self.check_command()?;
        self.check_env()?;
        for (what, text) in [("the user", &self.user), ("the working directory", &self.cwd)] {
            let Some(text) = text else { continue };
            check_size(what, text.len(), limits::PATH_BYTES_MAX)?;
            check_nul(what, text)?;
        }
        if let Some(limit) = self.cpu_limit_milli
            && limit < self.resources.cpus_milli
        {
            return Err(SpecError::CpuLimitBelowRequest { limit, request: self.resources.cpus_milli });
        }
        if let Some(limit) = self.cpu_limit_milli
            && limit > limits::CPUS_MILLI_MAX
        {
            let max = limits::CPUS_MILLI_MAX;
            let error =
                ResourcesError::TooMuch { what: "cpu limit (in thousandths)".to_owned(), value: limit, max };
            return Err(SpecError::Resources(error));
        }
        if let Some(limit) = self.pids_limit
            && (limit == 0 || limit > limits::PIDS_MAX)
        {
            return Err(SpecError::PidsLimit { limit });
        }
        if self.kill_grace.as_millis() > limits::KILL_GRACE_MS_MAX.into() {
            return Err(SpecError::KillGrace { ms: self.kill_grace.as_millis() });
        }
        check_count("labels", self.labels.len(), limits::ATTRIBUTES_MAX)?;
        for (name, value) in &self.labels {
            check_size("a label's name", name.len(), limits::NAME_BYTES_MAX)?;
            check_size("a label's value", value.len(), limits::VALUE_BYTES_MAX)?;
        }
        Ok(())
    }

    /// The hard limit on CPU, in thousandths of a core.
    pub fn cpu_limit(&self) -> u64 {
        self.cpu_limit_milli.unwrap_or(self.resources.cpus_milli)
    }

    fn check_command(&self) -> Result<(), SpecError> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err(SpecError::NoCommand);
        }
        check_count("arguments", self.command.len(), limits::ARGUMENTS_MAX)?;
        let size = self.command.iter().map(|argument| argument.len() + 1).sum();
        check_size("the command", size, limits::ARGUMENT_BYTES_MAX)?;
        self.command.iter().try_for_each(|argument| check_nul("the command", argument))
    }

    fn check_env(&self) -> Result<(), SpecError> {
        check_count("environment variables", self.env.len(), limits::ARGUMENTS_MAX)?;
        let size = self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        check_size("the environment", size, limits::ARGUMENT_BYTES_MAX)?;
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') {
                return Err(SpecError::VariableName { name: name.escape_debug().to_string() });
            }
            check_nul("the environment", name)?;
            check_nul("the environment", value)?;
        }
        Ok(())
    }
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

/// The life of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Agreed; the agent may not know of it yet.
    Staging,
    /// The agent prepares it.
    Starting,
    /// The command runs.
    Running,
    /// It was asked to end and has not yet.
    Killing,
    /// Its agent does not answer; it may come back.
    Unreachable,
    /// Ended by itself with exit code 0.
    Finished,
    /// Ended otherwise.
    Failed,
    /// Ended because it was asked to.
    Killed,
    /// The spec can't be run anywhere.
    Error,
    /// Never started.
    Dropped,
    /// Its agent will not come back with it.
    Gone,
}

impl TaskState {
    pub const ALL: &[Self] = &[
        Self::Staging,
        Self::Starting,
        Self::Running,
        Self::Killing,
        Self::Unreachable,
        Self::Finished,
        Self::Failed,
        Self::Killed,
        Self::Error,
        Self::Dropped,
        Self::Gone,
    ];

    /// Whether it never changes again.
    pub fn is_final(self) -> bool {
        match self {
            Self::Staging | Self::Starting | Self::Running | Self::Killing | Self::Unreachable => false,
            Self::Finished | Self::Failed | Self::Killed | Self::Error | Self::Dropped | Self::Gone => true,
        }
    }

    /// Whether a status may take a task from this state to `next`.
    ///
    /// Steps may be skipped, because only the latest counts; nothing goes back, but for a task
    /// whose agent was unreachable, which returns to whatever it really is.
    pub fn can_become(self, next: Self) -> bool {
        match self {
            Self::Staging => next != Self::Staging,
            Self::Starting => !matches!(next, Self::Staging | Self::Starting),
            Self::Running => !matches!(next, Self::Staging | Self::Starting | Self::Running | Self::Dropped),
            Self::Killing => next.is_final() && next != Self::Dropped || next == Self::Unreachable,
            Self::Unreachable => !matches!(next, Self::Staging | Self::Unreachable),
            Self::Finished | Self::Failed | Self::Killed | Self::Error | Self::Dropped | Self::Gone => false,
        }
    }

    /// As people and JSON see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Killing => "killing",
            Self::Unreachable => "unreachable",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Error => "error",
            Self::Dropped => "dropped",
            Self::Gone => "gone",
        }
    }
}

/// Why a task is in its state. The meanings are those of Mesos' reasons where they exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Nothing to say beyond the state.
    None,
    CommandExited,
    CommandSignaled,
    KillRequested,
    MemoryLimit,
    CommandNotExecutable,
    UserRefused,
    LaunchFailed,
    ExitStatusUnknown,
    AgentRebooted,
    AgentUnreachable,
    AgentGone,
    AgentLostTask,
    FrameworkTornDown,
    Reconciliation,
    TaskUnknown,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// Exit code, 0 to 255.
    Code(u8),
    /// Number of the signal that ended it.
    Signal(u8),
}

/// The wish to end a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillOrder {
    /// How long SIGTERM may take before SIGKILL.
    pub grace: Duration,
}

/// One step in the life of a task, unique by task and sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    pub task_id: TaskId,
    pub framework_id: FrameworkId,
    pub agent_id: Option<AgentId>,
    pub state: TaskState,
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
    pub exit: Option<Exit>,
    /// By the clock of whoever made the status.
    pub at: Timestamp,
    /// Grows with each status of the task.
    pub sequence: u64,
    /// Whether the task's cgroup is empty and its resources are free again.
    pub is_released: bool,
    /// Figures of that moment.
    pub usage: Option<Usage>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_table_of_transitions() {
        let mut table = String::new();
        for from in TaskState::ALL {
            let next: Vec<_> = TaskState::ALL
                .iter()
                .filter(|next| from.can_become(**next))
                .map(|next| next.as_str())
                .collect();
            table += &format!("{:<11} -> {}\n", from.as_str(), next.join(" "));
        }
        expect![[r#"
            staging     -> starting running killing unreachable finished failed killed error dropped gone
            starting    -> running killing unreachable finished failed killed error dropped gone
            running     -> killing unreachable finished failed killed error gone
            killing     -> unreachable finished failed killed error gone
            unreachable -> starting running killing finished failed killed error dropped gone
            finished    -> 
            failed      -> 
            killed      -> 
            error       -> 
            dropped     -> 
            gone        -> 
        "#]]
        .assert_eq(&table);
    }

    #[test]
    fn a_final_state_never_changes() {
        for from in TaskState::ALL.iter().filter(|state| state.is_final()) {
            assert!(TaskState::ALL.iter().all(|next| !from.can_become(*next)));
        }
    }
}
