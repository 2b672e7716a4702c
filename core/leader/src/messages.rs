//! What the leader hears and says: calls and their replies, and the messages of both kinds of stream.
//!
//! Plain data in terms of `model`; the daemon's `convert` turns it into wire messages and back.

use cluster::{AgentFacts, DeactivatedTasks, FrameworkInfo, KnownTask};
use model::{
    AgentId, Attribute, Attributes, ClusterId, Cursor, Digests, Duration, FrameworkEvent, FrameworkId,
    KillOrder, OfferId, Refusal, RequestId, Resources, RoleName, Subject, SubscriptionId, TaskId, TaskSpec,
    TaskStatus, Timestamp, Usage, UsageReport,
};
use std::{fmt, sync::Arc};

/// One opened stream of an agent, new with each attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One conversation with a task; random, so that nobody else's agent can answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub [u8; 16]);

/// Who calls: a framework through one of its subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub framework: FrameworkId,
    pub subscription: SubscriptionId,
    /// Makes the call safe to repeat.
    pub request: Option<RequestId>,
}

/// What a framework says when it opens its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeParams {
    pub info: FrameworkInfo,
    /// Absent: a new framework.
    pub framework: Option<FrameworkId>,
    /// The last durable event that was handled; absent: everything that is kept.
    pub cursor: Option<Cursor>,
    /// Makes a repeated first subscription return the same framework.
    pub request: Option<RequestId>,
}

/// So many tasks of this shape could be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    pub shape: Resources,
    pub count: u32,
    /// Only agents that have all of these.
    pub constraints: Vec<Attribute>,
}

/// Which of a task's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A wish to read a piece of a task's kept output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRequest {
    pub task: TaskId,
    pub stream: OutputStream,
    pub offset: u64,
    /// Begins so many bytes before the end instead of at `offset`.
    pub tail: Option<u64>,
    /// Begins with what is not older than this instead.
    pub newer_than: Option<Duration>,
    pub limit: u32,
    /// How long to wait for data when there is none yet.
    pub wait: Duration,
    /// Of which process of a task group.
    pub process: Option<String>,
}

/// A piece of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Of the first byte of `data` in the whole output.
    pub offset: u64,
    pub data: Vec<u8>,
    /// Nothing more will be written, and `data` reaches the end.
    pub is_end: bool,
}

/// A wish to read what a task or host used lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRequest {
    pub subject: Subject,
    /// Points from then on.
    pub since: Timestamp,
    /// Least time between two points.
    pub step: Duration,
}

/// One question or wish, from a framework, a person or a new agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Subscribe(SubscribeParams),
    Accept {
        caller: Caller,
        offers: Vec<OfferId>,
        tasks: Vec<TaskSpec>,
        refuse: Duration,
    },
    Decline {
        caller: Caller,
        offers: Vec<OfferId>,
        refuse: Duration,
    },
    SetDemand {
        caller: Caller,
        demands: Vec<Demand>,
    },
    Suppress {
        caller: Caller,
    },
    Revive {
        caller: Caller,
    },
    Kill {
        caller: Caller,
        task: TaskId,
        grace: Option<Duration>,
    },
    Reconcile {
        caller: Caller,
        tasks: Vec<TaskId>,
    },
    Acknowledge {
        caller: Caller,
        cursor: Cursor,
    },
    UpdateFramework {
        caller: Caller,
        info: FrameworkInfo,
    },
    Teardown {
        caller: Caller,
    },
    Attach(Hello),
    Run {
        request: RequestId,
        tasks: Vec<TaskSpec>,
    },
    KillTask {
        request: RequestId,
        task: TaskId,
        grace: Option<Duration>,
    },
    TeardownFramework {
        request: RequestId,
        framework: FrameworkId,
    },
    SetRole {
        request: RequestId,
        role: RoleName,
        weight_milli: u64,
    },
    DeactivateAgent {
        request: RequestId,
        agent: AgentId,
        tasks: DeactivatedTasks,
    },
    ActivateAgent {
        request: RequestId,
        agent: AgentId,
    },
    MarkAgentGone {
        request: RequestId,
        agent: AgentId,
    },
    /// An operator confirms that these don't answer, however many they are; none named: all that are silent.
    ConfirmUnreachable {
        agents: Vec<AgentId>,
    },
    ReadOutput(OutputRequest),
    /// What each of these used last, as its agent reported it.
    ReadUsage(Vec<(AgentId, Subject)>),
    ReadHistory {
        agent: AgentId,
        history: HistoryRequest,
    },
    OpenChannel {
        channel: ChannelId,
        task: TaskId,
    },
    /// Whether a task stands still.
    IsFrozen(TaskId),
}

/// The good answer to a [`Call`]; Subscribe and Attach are answered by an opened stream instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// To Accept: one for each task, in order.
    Launched(Vec<(TaskId, Option<Refusal>)>),
    /// To Reconcile.
    Statuses(Vec<TaskStatus>),
    /// To Run.
    Submitted(Vec<TaskId>),
    /// To ReadOutput.
    Output(OutputChunk),
    /// To ReadUsage: one for each, in order.
    Usage(Vec<Option<Usage>>),
    /// To ReadHistory: oldest first.
    History(Vec<Usage>),
    /// To OpenChannel: the agent that was told of it.
    Told(AgentId),
    /// To ConfirmUnreachable: those that are being marked.
    Confirmed(Vec<AgentId>),
    /// To IsFrozen; `None` where nobody can tell now.
    Frozen(Option<bool>),
}

/// What a framework hears on its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToFramework {
    /// Always the first.
    Subscribed {
        framework: FrameworkId,
        subscription: SubscriptionId,
        heartbeat_interval: Duration,
    },
    /// Durable: committed, in order, once for each subscription.
    Durable {
        cursor: Cursor,
        event: FrameworkEvent,
    },
    /// The cursor was older than the kept history: the latest status of every known task instead.
    Compacted {
        statuses: Vec<TaskStatus>,
        cursor: Cursor,
    },
    Offers(Vec<OfferMessage>),
    Rescind {
        offer: OfferId,
        reason: &'static str,
    },
    Heartbeat,
    /// Always the last: another instance subscribed.
    Replaced,
    /// Always the last: why the stream ends.
    Ended(Refusal),
}

/// An offer as its framework sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferMessage {
    pub offer: OfferId,
    pub agent: AgentId,
    pub hostname: String,
    pub role: RoleName,
    pub resources: Resources,
    pub attributes: Attributes,
    pub lease: Duration,
}

/// What an agent says when it opens its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub agent: AgentId,
    /// Which cluster the agent belongs to; absent at its very first attach.
    pub cluster: Option<ClusterId>,
    pub facts: AgentFacts,
    pub tasks: Known,
}

/// Every task that an agent has a record of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    All(Vec<KnownTask>),
    /// Those that differ from what the leader knows are asked for.
    Digests(Digests),
}

/// What an agent says after Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromAgent {
    Heartbeat,
    Updates(Vec<TaskStatus>),
    Usage(UsageReport),
    /// `Err`: why there is none.
    History {
        request: u64,
        result: Result<Vec<Usage>, String>,
    },
    /// `Err`: why the output can't be read.
    Output {
        request: u64,
        result: Result<OutputChunk, String>,
    },
    /// All of its tasks that stand still.
    Frozen(Vec<TaskId>),
    /// Answers ReadKnown.
    Known(Vec<KnownTask>),
}

/// What an agent hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// Before Welcome, at most once, if Hello had digests: the tasks of these buckets are not as the leader knows them.
    ReadKnown {
        buckets: Vec<u32>,
    },
    /// Before anything else but ReadKnown, once the registration is committed.
    Welcome {
        cluster: ClusterId,
        epoch: u64,
        term: u64,
        /// The agent's tasks that are not both final and released. Of those in `unchanged`: only what shall end.
        assignments: Vec<Assignment>,
        /// Buckets of Hello's digests with exactly the tasks that the leader knows.
        unchanged: Vec<u32>,
        heartbeat_interval: Duration,
    },
    Launch(Vec<Assignment>),
    Kill {
        task: TaskId,
        grace: Duration,
    },
    /// Statuses up to these sequences are in the log.
    Acknowledge(Vec<(TaskId, u64)>),
    ReadOutput {
        request: u64,
        output: OutputRequest,
    },
    ReadHistory {
        request: u64,
        history: HistoryRequest,
    },
    /// How often to report usage from now on.
    UsagePace {
        interval: Duration,
    },
    /// Somebody wants to talk with a task: the agent opens the channel's other half.
    OpenChannel {
        channel: ChannelId,
        task: TaskId,
    },
    Heartbeat,
    /// Always the last. `is_final`: the agent must not try again by itself.
    Refused {
        refusal: Refusal,
        is_final: bool,
    },
}

/// A task that the agent shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub framework: FrameworkId,
    pub spec: Arc<TaskSpec>,
    /// Present: the task shall end.
    pub kill: Option<KillOrder>,
    /// Statuses up to it need not be sent again.
    pub recorded_sequence: u64,
}
