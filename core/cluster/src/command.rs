//! What can be asked of the agreed state.

use std::sync::Arc;

use model::{
    AgentId, Attributes, ClusterId, ClusterTime, Cursor, Duration, FrameworkId, RequestId, Resources,
    RoleName, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp,
};

use crate::{
    access::{ACCESS_SINCE, AccessChange},
    join_token::{JOIN_LIFE_SINCE, JoinKind},
    kept,
    state::{AGENT_CARE_SINCE, CLUSTER_TIME_SINCE},
};

/// One entry of the log: a command, and the times that its proposer saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// For people to read; no deadline may depend on it, because the next leader's clock may say anything.
    pub at: Timestamp,
    /// Counts from [`crate::CLUSTER_TIME_SINCE`] on.
    pub counted: ClusterTime,
    pub command: Command,
}

/// Something that the leader proposes.
///
/// A command with a request id may be proposed again: the repeat gets the first answer and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Begins the cluster: its id, its first version and the built-in framework `run`.
    Initialize { cluster: ClusterId },
    /// Lets all members use what a newer version brings. All of them must support it already.
    RaiseVersion { version: u32 },

    /// Makes a framework known. The id is the proposer's choice and must be new.
    RegisterFramework { framework: FrameworkId, info: FrameworkInfo, request: Option<RequestId> },
    /// Changes what a framework says of itself; tasks that run already keep their role.
    UpdateFramework { framework: FrameworkId, info: FrameworkInfo, request: Option<RequestId> },
    /// A framework has a subscription.
    ConnectFramework { framework: FrameworkId },
    /// A framework lost its subscription; its failover timeout counts from the entry's cluster time.
    DisconnectFramework { framework: FrameworkId },
    /// Ends a framework: live tasks get a kill order and the id is never used again.
    TearDownFramework { framework: FrameworkId, request: Option<RequestId> },
    /// All durable events up to the cursor were handled.
    AcknowledgeEvents { framework: FrameworkId, cursor: Cursor },

    /// An agent said hello. Answers its new epoch.
    ///
    /// A new boot id ends every task of the agent that isn't known to have ended otherwise.
    /// `tasks` are all that the agent has a record of.
    RegisterAgent { agent: AgentId, facts: AgentFacts, tasks: Vec<KnownTask> },
    /// An agent was silent for too long in this epoch; its tasks become UNREACHABLE.
    MarkAgentUnreachable { agent: AgentId, epoch: u64 },
    /// An operator takes an agent out of use: nothing more is launched there. Its tasks run on, or end too.
    DeactivateAgent { agent: AgentId, tasks: DeactivatedTasks, request: Option<RequestId> },
    /// An operator takes a deactivated agent into use again.
    ActivateAgent { agent: AgentId, request: Option<RequestId> },
    /// An operator knows that the agent never comes back: its tasks are GONE, and so is its id.
    MarkAgentGone { agent: AgentId, request: Option<RequestId> },

    /// Launches tasks on what was offered, judged one by one.
    Launch {
        framework: FrameworkId,
        request: Option<RequestId>,
        agent: AgentId,
        /// Of the agent when the offer was made.
        epoch: u64,
        /// Which the tasks count against.
        role: RoleName,
        /// What all the offers hold together.
        offered: Resources,
        tasks: Vec<Arc<TaskSpec>>,
    },
    /// Wishes the end of a task; one that waits ends at once.
    Kill {
        by: KillBy,
        task: TaskId,
        /// Absent: the task's own.
        grace: Option<Duration>,
        request: Option<RequestId>,
    },
    /// What an agent reported in this epoch.
    RecordStatuses { agent: AgentId, epoch: u64, statuses: Vec<TaskStatus> },

    /// Lets tasks wait for an offer to the built-in framework `run`: all of them or none.
    SubmitRun { request: Option<RequestId>, tasks: Vec<Arc<TaskSpec>> },
    /// Sets the weight of a role, in thousandths.
    SetRole { role: RoleName, weight_milli: u64, request: Option<RequestId> },
    /// Lets somebody come into the cluster once. The token's id is the proposer's choice.
    CreateJoinToken {
        token: String,
        /// SHA-256 of the secret, which the log never holds.
        digest: [u8; 32],
        kind: JoinKind,
        /// The only one who may use it; needed for an id that is there already.
        only_for: Option<String>,
        /// For people, where `life` is given.
        expires_at: Timestamp,
        /// By the cluster's time, from [`crate::JOIN_LIFE_SINCE`] on; before, the wall clock of whoever led when the
        /// token was used decided.
        life: Option<Duration>,
    },
    /// Nobody may use the token any more.
    RevokeJoinToken { token: String },
    /// Somebody comes in. The same key may ask again, because its answer may have been lost.
    UseJoinToken {
        token: String,
        digest: [u8; 32],
        kind: JoinKind,
        /// The agent's or member's id.
        name: String,
        /// SHA-256 of the public key that is to be certified.
        key: [u8; 32],
    },
    /// Changes who may do what.
    Access(AccessChange),
    /// Drops finished tasks, oldest first: those above `keep`, and those that ended before `before`, or before
    /// `counted_before`. Leaders of today leave `before` out, because it is by a wall clock.
    Prune { keep: u64, before: Option<Timestamp>, counted_before: Option<ClusterTime> },
    /// Changes nothing but the cluster's time, so that the next leader counts on from here.
    CountTime,
}

impl Command {
    /// The version that a program must know to apply the command; one that doesn't must stop before it and
    /// be upgraded.
    pub fn program_version_needed(&self) -> u32 {
        match self {
            Self::RaiseVersion { version } => *version,
            command => command.version_needed(),
        }
    }

    /// The cluster version from which on the command may stand in the log.
    pub fn version_needed(&self) -> u32 {
        match self {
            Self::Initialize { .. } => 0,
            Self::RaiseVersion { .. }
            | Self::RegisterFramework { .. }
            | Self::UpdateFramework { .. }
            | Self::ConnectFramework { .. }
            | Self::DisconnectFramework { .. }
            | Self::TearDownFramework { .. }
            | Self::AcknowledgeEvents { .. }
            | Self::RegisterAgent { .. }
            | Self::MarkAgentUnreachable { .. }
            | Self::Kill { .. }
            | Self::SetRole { .. }
            | Self::Prune { counted_before: None, .. } => 1,
            Self::Prune { counted_before: Some(_), .. } | Self::CountTime => CLUSTER_TIME_SINCE,
            Self::CreateJoinToken { life: Some(_), .. } => JOIN_LIFE_SINCE,
            Self::CreateJoinToken { life: None, .. }
            | Self::RevokeJoinToken { .. }
            | Self::UseJoinToken { .. } => 4,
            Self::DeactivateAgent { .. } | Self::ActivateAgent { .. } | Self::MarkAgentGone { .. } => {
                AGENT_CARE_SINCE
            }
            Self::Access(_) => ACCESS_SINCE,
            Self::RecordStatuses { statuses, .. } => kept::statuses_since(statuses),
            Self::Launch { tasks, .. } | Self::SubmitRun { tasks, .. } => kept::specs_since(tasks),
        }
    }
}

/// What a framework says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameworkInfo {
    /// For people.
    pub name: String,
    /// Which its tasks count against.
    pub role: RoleName,
    /// How long its tasks outlive a lost subscription.
    pub failover_timeout: Duration,
}

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFacts {
    pub hostname: String,
    /// The kernel's boot id: a change means that no process survived.
    pub boot_id: String,
    /// Where its metrics are, host:port.
    pub address: String,
    pub version: String,
    pub total: Resources,
    pub attributes: Attributes,
    /// What the host can't do, one line each.
    pub limitations: Vec<String>,
}

/// A task that an agent has a record of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTask {
    pub task: TaskId,
    /// Of its latest status; 0 before the first.
    pub sequence: u64,
    pub state: TaskState,
}

/// What becomes of the tasks of an agent that is taken out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeactivatedTasks {
    RunOn,
    /// Each gets a kill order with this grace, or its own.
    End {
        grace: Option<Duration>,
    },
}

/// Who wishes the end of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillBy {
    /// May only kill its own.
    Framework(FrameworkId),
    Operator,
}
