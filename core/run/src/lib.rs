//! The built-in framework `run`: it owns one-off tasks, and places them on offers like a remote framework.
//!
//! Never sees the allocator and changes nothing: it says what it would accept, decline and demand.
//! Start at [`decide`]; [`explain`] says why a task still waits.

mod decide;
mod explain;

#[cfg(test)]
mod testing;

pub use decide::{Accept, Decision, Offer, Wish, decide, demand};
pub use explain::{Room, explain};
