//! Wire and log records to the model and back; nobody else knows both.
//!
//! What all packages share is `codec`'s, and so are the rules about single values; the files here are one
//! package each.

pub mod access;
pub mod agent;
pub mod channel;
pub mod join;
pub mod log;
pub mod operator;
pub mod scheduler;
mod snapshot;
#[cfg(test)]
pub(crate) mod testing;

pub use codec::Invalid;
pub use snapshot::{SnapshotError, decode_snapshot, encode_snapshot};
