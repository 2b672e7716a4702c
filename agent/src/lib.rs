//! The daemon on every machine: it runs what the leader assigned, and says what it sees.
//!
//! Decisions are `supervisor`'s; `execute` does them, and only `sys` touches the kernel.

pub mod checkpoint;
pub mod convert;
pub mod meter;
#[expect(unsafe_code, reason = "kernel calls that no safe wrapper offers; see the module's header")]
pub mod sys;
