//! What came of a command.

use model::{AgentId, Cursor, FrameworkId, Refusal, RoleName, TaskId};

/// What came of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// A refusal changed nothing.
    pub answer: Result<Answer, Refusal>,
    /// What changed, in order; a record may stand here more than once.
    pub changes: Vec<Change>,
}

/// What a command that was honoured says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// The framework's id: on a repeat, that of the first time.
    FrameworkRegistered {
        framework: FrameworkId,
    },
    /// The agent's new epoch.
    AgentRegistered {
        epoch: u64,
    },
    /// One for each task, in order; `None` is launched.
    Launched(Vec<(TaskId, Option<Refusal>)>),
    /// Up to where the agent's statuses of each task are recorded now: the agent may forget those.
    Recorded(Vec<(TaskId, u64)>),
    Submitted(Vec<TaskId>),
    Pruned {
        tasks: u64,
    },
}

impl Answer {
    /// How many results it holds.
    pub(crate) fn items(&self) -> usize {
        match self {
            Self::Done
            | Self::FrameworkRegistered { .. }
            | Self::AgentRegistered { .. }
            | Self::Pruned { .. } => 1,
            Self::Launched(results) => results.len().max(1),
            Self::Recorded(tasks) => tasks.len().max(1),
            Self::Submitted(tasks) => tasks.len().max(1),
        }
    }
}

/// A record that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Task(TaskId),
    Agent(AgentId),
    Framework(FrameworkId),
    Role(RoleName),
    /// Who may do what.
    Access,
    /// The queue of the built-in framework `run`.
    Queue,
    /// A durable event was added.
    Event {
        framework: FrameworkId,
        cursor: Cursor,
    },
}
