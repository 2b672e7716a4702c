//! The thin loop around `core/leader`: feeds it time and events, and proposes what it decides.
//!
//! Decides nothing itself. [`LeaderHandle`] is what the rest of the daemon may ask, [`Feed`] is where the
//! state machine reports, [`Log`] is where commands go; [`LeaderLoop`] stands between them.

mod actor;
mod feed;
mod handle;
pub mod messages;
mod streams;
#[cfg(test)]
mod tests;

pub use ::leader::{Config, Counts, ProposeError};
pub use actor::{Figures, LeaderLoop, Log, Standing};
pub use feed::{Applied, Feed, FeedReader, feed};
pub use handle::LeaderHandle;
