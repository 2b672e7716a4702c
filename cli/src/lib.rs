//! The typed client: what the `muster` command, tests and frameworks in Rust share.
//!
//! Finds the cluster and the credential, keeps a connection, turns refusals into [`ClientError`].
//! Start at [`Connection::open`], then [`Connection::operator`] or [`Framework::subscribe`].

mod channel;
mod connection;
mod consistency;
mod error;
mod framework;

pub use channel::{Channel, CopyError, ExecOptions, ExecOutput, Over, Profiled, Said, Sender};
pub use connection::{
    Address, Connection, Credential, Head, Locator, OperatorClient, SchedulerClient, new_request_id,
};
pub use consistency::{Consistency, Freshness};
pub use error::{ClientError, ErrorKind};
pub use framework::{Event, Framework, FrameworkOptions, Launched, is_final};
pub use proto::{
    channel::v1 as channels, operator::v1 as operator, scheduler::v1 as scheduler, types::v1 as types,
};
