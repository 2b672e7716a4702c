//! What the API and the leader say to each other, in terms of `model`.
//!
//! Everything that the pure machine knows comes from `core/leader`; here are the streams around it.

use std::collections::BTreeMap;

use model::{
    AgentId, Duration, FrameworkId, OfferId, Resources, RoleName, SubscriptionId, TaskId, Timestamp,
};
use tokio::sync::mpsc;

pub use ::leader::{
    Assignment, Call, Caller, ChannelId, Demand, FromAgent, Hello, HistoryRequest, Known, OfferMessage,
    OutputChunk, OutputRequest, OutputStream, Reply, SessionId, SubscribeParams, ToAgent, ToFramework,
};

/// An opened event stream of a framework. It ends when the sender is gone; before that comes
/// `Replaced` or `Ended`, unless the framework did not read. Dropping it disconnects the framework.
#[derive(Debug)]
pub struct Subscription {
    pub framework: FrameworkId,
    pub subscription: SubscriptionId,
    /// `Subscribed` comes first.
    pub events: mpsc::Receiver<ToFramework>,
}

/// An opened session of an agent. Dropping the receiver ends it, as `LeaderHandle::agent_gone` does.
#[derive(Debug)]
pub struct Attachment {
    pub session: SessionId,
    /// `Welcome` or `Refused` comes first.
    pub messages: mpsc::Receiver<ToAgent>,
}

/// What only the leader's memory knows.
#[derive(Debug, Clone, Default)]
pub struct SoftView {
    pub term: u64,
    pub offers: Vec<OfferView>,
    /// Agents with a session that answers.
    pub sessions: BTreeMap<AgentId, SessionId>,
    /// Agents that are silent for too long and not marked unreachable yet, with how long.
    pub silent: BTreeMap<AgentId, Duration>,
    /// Why agents or frameworks were held back in the last round, one line each.
    pub held_back: Vec<String>,
    /// Why tasks of `run` wait, one line for each thing in the way.
    pub waiting_because: BTreeMap<TaskId, Vec<String>>,
}

/// An outstanding offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferView {
    pub offer: OfferId,
    pub framework: FrameworkId,
    pub agent: AgentId,
    pub role: RoleName,
    pub resources: Resources,
    pub expires_at: Timestamp,
}
