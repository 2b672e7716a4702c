//! The daemon that agrees and allocates.
//!
//! The binary in `main.rs` puts the parts together; they are a library so that tests can.

pub mod raft;
