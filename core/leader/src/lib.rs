//! What only the leader does: liveness, offers, streams and proposals, as a machine without I/O.

mod messages;

pub use messages::{
    Assignment, Call, Caller, Demand, FromAgent, Hello, OfferMessage, OutputChunk, OutputRequest,
    OutputStream, Reply, SessionId, SubscribeParams, ToAgent, ToFramework,
};
