//! The agreed state of a cluster, and [`apply`], the only function that changes it.
//!
//! Every member applies the same entries in the same order and has the same state.
//! Never reads a clock, draws a random number, or fails: what can't be honoured is a refusal.
//! Start at [`Command`] for what can be asked, at [`ClusterState`] for what is kept.

mod access;
mod answers;
mod apply;
mod command;
mod events;
mod index;
mod join_token;
pub mod kept;
mod outcome;
mod parts;
mod state;
#[cfg(test)]
mod tests;

pub use access::{ACCESS_SINCE, Access, AccessChange, Revocation, User, UserToken};
pub use answers::{Answers, Asked};
pub use apply::apply;
pub use command::{AgentFacts, Command, DeactivatedTasks, Entry, FrameworkInfo, KillBy, KnownTask};
pub use events::EventsAfter;
pub use index::Share;
pub use join_token::{JOIN_LIFE_SINCE, JoinKind, JoinToken, JoinTokenEnd, JoinTokenUse};
pub use outcome::{Answer, Change, Outcome};
pub use parts::{
    AgentPart, AnswerPart, EndedPart, FrameworkPart, GoneAgentPart, Parts, PartsError, RolePart, WaitingPart,
};
pub use state::{
    AGENT_CARE_SINCE, Agent, Availability, CLUSTER_TIME_SINCE, ClusterState, Framework, FrameworkState,
    RUN_FRAMEWORK, Role, Task, VERSION_SUPPORTED, WEIGHT_MILLI_DEFAULT, Waiting,
};
