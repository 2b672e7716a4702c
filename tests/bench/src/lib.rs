//! The numbers that we promise, each beside its peer in one run.
//!
//! One module for each; what they print goes into `docs/benchmarks.md` with the command that made it.
//! Absolute times on a shared machine prove nothing: look at ratios and their spread.
#![allow(clippy::print_stdout, reason = "what benchmarks print is their result")]

pub mod agent;
pub mod failover;
pub mod fleet;
mod frameworks;
pub mod launch;
pub mod meter;
mod peers;
mod process;
pub mod simulated;
pub mod usage;
pub mod writes;
