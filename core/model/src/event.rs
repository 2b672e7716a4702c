//! What a framework hears and may have to hear again.

use crate::{AgentId, TaskStatus};

/// Place of a durable event: the log entry that caused it, and its place among that entry's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor {
    pub index: u64,
    pub ordinal: u32,
}

impl Cursor {
    /// Before every event.
    pub const START: Self = Self { index: 0, ordinal: 0 };
}

/// A durable event: kept in the log's state until the framework acknowledges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameworkEvent {
    Status(TaskStatus),
    AgentLost(AgentId),
    AgentBack(AgentId),
}

impl FrameworkEvent {
    /// Whether losing it would lose the fate of a task.
    pub fn is_final_status(&self) -> bool {
        match self {
            Self::Status(status) => status.state.is_final(),
            Self::AgentLost(_) | Self::AgentBack(_) => false,
        }
    }
}
