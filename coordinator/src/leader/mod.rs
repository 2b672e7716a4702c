//! The thin loop around `core/leader`: feeds it time and events, and proposes what it decides.
//!
//! Start at [`LeaderHandle`] for what the rest of the daemon may ask.

mod handle;
pub mod messages;

pub use handle::LeaderHandle;
