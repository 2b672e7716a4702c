//! Brings the files of a spec into the sandbox, before the command begins.
//!
//! What comes from a network and what is packed is hostile until it has been read. So nothing of it is read by the
//! agent: a process of its own does, in the task's cgroup, with the task's user and no rights beyond
//! ([`child`]). The agent ([`Fetcher`]) says what to fetch, keeps the cache, and takes nothing on trust: it hashes
//! what it keeps. Start at [`Fetcher::begin`]; why it is so stands in `docs/decisions/fetch-in-a-process.md`.

mod cache;
pub mod child;
pub(crate) mod decoders;
mod download;
mod failure;
mod fetcher;
pub mod limits;
mod local;
pub(crate) mod messages;
mod tree;
mod unpack;
mod url;

pub use cache::{Cache, CacheError};
pub use failure::Kind;
pub use fetcher::{Fetcher, Job, Outcome, Settings};
pub use messages::Allowed;
