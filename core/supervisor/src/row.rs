//! What the agent stores of one task.

use std::{fmt, sync::Arc};

use model::{Duration, FrameworkId, Health, Reason, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp};

use crate::{Uptime, Verdict, limits};

/// Which process, for as long as the machine is up: a pid may be used again, a pid with its start time isn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    pub pid: u32,
    /// Since boot, in hundredths of a second: field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

impl ProcessId {
    /// When it began, to a hundredth of a second.
    pub fn began(self) -> Uptime {
        Uptime(Duration::from_millis(self.start_ticks.saturating_mul(10)))
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.pid, self.start_ticks)
    }
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Recorded. Sandbox, cgroups and a held process may exist; the command has not begun.
    Preparing,
    /// The held process is recorded and may have been told to begin.
    Releasing { process: ProcessId },
    /// The command runs.
    Running { process: ProcessId },
    /// The main process is over; the rest of the cgroup is being killed. No final status was made yet.
    Ending { process: Option<ProcessId>, verdict: Verdict, since: Uptime },
    /// The final status was made; processes remain in the cgroup.
    Lingering { process: Option<ProcessId>, since: Uptime },
    /// The final status was made and the cgroup was seen empty. Kept for its statuses and its sandbox.
    Ended { at: Timestamp },
    /// As `Ended`, and the sandbox is being removed.
    Removing,
}

/// Why a task is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillCause {
    /// The leader said so.
    Ordered,
    /// The leader doesn't know the task.
    NotAssigned,
    /// The agent ends for good and takes its tasks along.
    AgentEnds,
    /// It has run as long as its spec allows.
    RunTimeLimit,
    /// Its files take more than the disk that it asked for.
    DiskLimit,
    /// Its health check failed too often.
    Unhealthy,
}

impl KillCause {
    /// As statuses tell it.
    pub fn reason(self) -> Reason {
        match self {
            Self::Ordered | Self::NotAssigned | Self::AgentEnds => Reason::KillRequested,
            Self::RunTimeLimit => Reason::RunTimeLimit,
            Self::DiskLimit => Reason::DiskLimit,
            Self::Unhealthy => Reason::Unhealthy,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::NotAssigned => "not assigned",
            Self::AgentEnds => "agent ends",
            Self::RunTimeLimit => "run time limit",
            Self::DiskLimit => "disk limit",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The end of a task under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    pub cause: KillCause,
    /// When SIGKILL follows the task's own kill signal.
    pub deadline: Uptime,
}

/// What the agent stores of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub task_id: TaskId,
    pub framework_id: FrameworkId,
    /// Without command, environment and labels once the task has ended.
    pub spec: Arc<TaskSpec>,
    /// Names the cgroups and the sandbox; new with each launch.
    pub attempt: String,
    pub phase: Phase,
    pub kill: Option<Kill>,
    /// The statuses that the leader has not acknowledged, and the latest in any case; oldest first.
    pub statuses: Vec<TaskStatus>,
    /// Of the latest status, or what the leader had recorded before the first.
    pub sequence: u64,
    /// Highest sequence that the leader has in its log. Stored lazily: a repeated status does no harm.
    pub acknowledged: u64,
    pub assigned_at: Timestamp,
    /// When the command began; absent before that.
    pub began: Option<Uptime>,
    /// How often its launch began; only one can have been released.
    pub launches: u32,
}

impl Row {
    /// The main process, where there may still be one to watch or to look up.
    pub fn process(&self) -> Option<ProcessId> {
        match &self.phase {
            Phase::Preparing | Phase::Ended { .. } | Phase::Removing => None,
            Phase::Releasing { process } | Phase::Running { process } => Some(*process),
            Phase::Ending { process, .. } | Phase::Lingering { process, .. } => *process,
        }
    }

    /// When it must end, if its spec says so.
    pub fn run_time_end(&self) -> Option<Uptime> {
        Some(self.began? + self.spec.run_time_max?)
    }

    /// As the leader should see the task.
    pub fn state(&self) -> TaskState {
        self.statuses.last().map_or(TaskState::Staging, |status| status.state)
    }

    /// Whether the command has not ended yet, as far as the agent knows.
    pub fn is_live(&self) -> bool {
        match self.phase {
            Phase::Preparing | Phase::Releasing { .. } | Phase::Running { .. } => true,
            Phase::Ending { .. } | Phase::Lingering { .. } | Phase::Ended { .. } | Phase::Removing => false,
        }
    }

    /// Whether it may still hold cgroups or processes.
    pub fn holds_resources(&self) -> bool {
        !matches!(self.phase, Phase::Ended { .. } | Phase::Removing)
    }

    /// Statuses that the leader has not acknowledged, oldest first.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &TaskStatus> {
        self.statuses.iter().filter(|status| status.sequence > self.acknowledged)
    }

    pub fn is_acknowledged(&self) -> bool {
        self.unacknowledged().next().is_none()
    }

    /// What was told last of its health; absent while it doesn't run, and without a check.
    pub fn health(&self) -> Option<Health> {
        self.statuses.last().and_then(|status| status.health)
    }

    /// Drops what the leader has, but for the latest.
    pub(crate) fn trim_statuses(&mut self) {
        let Some(latest) = self.statuses.last().map(|status| status.sequence) else { return };
        let acknowledged = self.acknowledged;
        self.statuses.retain(|status| status.sequence > acknowledged || status.sequence == latest);
        // Reached only by a leader that hands out an ended id again and again without acknowledging.
        let surplus = self.statuses.len().saturating_sub(limits::STATUSES_PER_TASK_MAX);
        self.statuses.drain(..surplus);
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.phase {
            Phase::Preparing => write!(formatter, "preparing")?,
            Phase::Releasing { process } => write!(formatter, "releasing {process}")?,
            Phase::Running { process } => write!(formatter, "running {process}")?,
            Phase::Ending { verdict, .. } => write!(formatter, "ending as {}", verdict.state.as_str())?,
            Phase::Lingering { .. } => write!(formatter, "lingering")?,
            Phase::Ended { .. } => write!(formatter, "ended")?,
            Phase::Removing => write!(formatter, "removing")?,
        }
        if let Some(kill) = self.kill {
            write!(formatter, ", kill {}", kill.cause.as_str())?;
        }
        for status in self.unacknowledged() {
            write!(formatter, ", #{} {}", status.sequence, status.state.as_str())?;
            if let Some(health) = status.health {
                write!(formatter, " {}", health.as_str())?;
            }
            if status.is_released {
                write!(formatter, " released")?;
            }
        }
        Ok(())
    }
}
