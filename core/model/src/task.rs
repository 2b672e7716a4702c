//! What has become of a task.

use crate::{AgentId, Duration, FrameworkId, TaskId, Timestamp, Usage};

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
    /// whose agent was unreachable, which returns to whatever it really is. A running task that says RUNNING
    /// once more, with another health, makes no step.
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
    /// It ran longer than its spec allows.
    RunTimeLimit,
    /// Its files outgrew its disk.
    DiskLimit,
    /// Its health check failed too often.
    Unhealthy,
    /// A file that it needs could not be had.
    FetchFailed,
    /// The agent can't or may not do what the spec asks for.
    SpecRefused,
    /// It listened on a port that it has not declared.
    PortNotDeclared,
}

impl Reason {
    pub const ALL: &[Self] = &[
        Self::None,
        Self::CommandExited,
        Self::CommandSignaled,
        Self::KillRequested,
        Self::MemoryLimit,
        Self::CommandNotExecutable,
        Self::UserRefused,
        Self::LaunchFailed,
        Self::ExitStatusUnknown,
        Self::AgentRebooted,
        Self::AgentUnreachable,
        Self::AgentGone,
        Self::AgentLostTask,
        Self::FrameworkTornDown,
        Self::Reconciliation,
        Self::TaskUnknown,
        Self::RunTimeLimit,
        Self::DiskLimit,
        Self::Unhealthy,
        Self::FetchFailed,
        Self::SpecRefused,
        Self::PortNotDeclared,
    ];
}

/// What the health check of a task says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// It was checked, and neither threshold is reached yet.
    Unknown,
    Healthy,
    Unhealthy,
}

impl Health {
    pub const ALL: &[Self] = &[Self::Unknown, Self::Healthy, Self::Unhealthy];

    /// As people and JSON see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
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
    /// Absent: the task has no health check, or isn't running.
    pub health: Option<Health>,
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
