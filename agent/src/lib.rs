//! The daemon on every machine: it runs what the leader assigned, and says what it sees.
//!
//! Decisions are `supervisor`'s; `execute` does them, and only `sys` touches the kernel.
//! Start at [`daemon`], which puts the parts together, or at [`actor`], which owns the task table.

pub mod actor;
pub mod channel;
pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod convert;
pub mod daemon;
#[doc(hidden)]
pub mod decoders;
pub mod doctor;
pub mod execute;
pub mod fetch;
pub mod health;
pub mod history;
pub mod host;
pub mod http;
pub mod inspect;
pub mod meter;
pub mod metrics;
pub mod paper;
pub mod privileges;
pub mod profile;
pub mod session;
#[expect(unsafe_code, reason = "kernel calls that no safe wrapper offers; see the module's header")]
pub mod sys;
pub mod systemd;
