//! What only the leader does: liveness, offers, streams and proposals, as a machine without I/O.
//!
//! Facts and time go into [`Leader::handle`] and [`Leader::settle`], effects and reasons come out.
//! Never reads a clock, waits, or changes the agreed state: it proposes, and the log judges.
//! Start at `machine.rs`; everything in the leader's memory may be lost at the cost of a retry.

mod accepts;
mod agents;
mod calls;
mod channels;
pub mod config;
mod cycle;
mod demand;
mod filters;
mod frameworks;
mod liveness;
mod machine;
mod messages;
mod offers;
mod outputs;
mod proposals;
mod resync;
mod runner;
mod usage;
mod view;

pub use config::Config;
pub use machine::{Counts, Effect, Input, Leader};
pub use messages::{
    Assignment, Call, Caller, ChannelId, Demand, FromAgent, Hello, HistoryRequest, Known, OfferMessage,
    OutputChunk, OutputRequest, OutputStream, Reply, SessionId, SubscribeParams, ToAgent, ToFramework,
};
pub use offers::Offer;
pub use proposals::{CallId, ProposeError, Ticket};
pub use view::View;

#[cfg(test)]
mod tests;
