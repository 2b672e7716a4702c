//! The daemon that agrees and allocates.
//!
//! The binary in `main.rs` puts the parts together; they are a library so that tests can.
//! Start at `daemon.rs`, whose start-up list names every part in order.

pub mod api;
pub mod audit;
pub mod auth;
pub mod config;
pub mod convert;
pub mod daemon;
#[doc(hidden)]
pub mod decoders;
pub mod join;
pub mod leader;
pub mod machine;
pub mod metrics;
pub mod paper;
pub mod raft;
pub mod recovery;
pub mod security;
#[cfg(test)]
mod upgrade;
pub mod versions;
