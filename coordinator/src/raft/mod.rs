//! openraft's traits over disk and network; knows bytes, not meaning.
//!
//! [`Raft::open`] takes a data directory and a [`Machine`], and gives a [`RaftHandle`] for the rest
//! of the daemon and a [`Raft`] to run. Never looks inside a command; that is the machine's.
//! Start at `member.rs`; `log/` holds the store, `snapshot.rs` the snapshot file.
//!
//! ## Design
//!
//! - **Group commit.** openraft appends while an fsync is under way; entries are readable from
//!   memory at once, and one thread (`log/writer.rs`) writes whatever has queued up as one atomic
//!   batch with one fdatasync, then completes all its callbacks. Votes go the same way, so votes
//!   and entries reach the disk in the order in which openraft gave them.
//! - **A log that lost its end is noticed.** Each entry is framed with its index, its term, its own
//!   checksum and that of the entry before. How far the disk got is kept in a second file
//!   (`log/watermark.rs`), because a store that drops its tail would drop a mark inside it, too.
//! - **A new term for each start.** openraft could let a restarted leader resume its old term. We
//!   don't: whoever sees the same term sees the same leadership, so offers can carry it.
//! - **Leading means caught up.** [`Leadership::is_leader`] turns true only when the first entry of
//!   the member's own term was applied, so that its state holds all that was ever acknowledged.
//! - **Answers come after the state.** [`Machine::published`] runs before the answers of its batch
//!   go out, so whoever got an answer reads a state that has its effect.
//!
//! Given up: a start reads and checks the whole log that isn't purged yet (some ten thousand
//! entries, well under a second), and the state machine lives in memory, rebuilt from snapshot and
//! log.

mod aside;
mod backup;
mod config;
pub(crate) mod decoders;
mod directory;
mod error;
mod limits;
mod log;
mod machine;
mod member;
mod membership;
mod network;
mod observe;
mod record;
mod snapshot;
mod state;
mod succession;
mod types;

#[cfg(test)]
mod tests;

pub use backup::{Backup, BackupError, RestoreError, Saved, restore, save_stopped};
pub use config::{RaftConfig, Timing};
pub use directory::{is_pristine, make as make_directory};
pub use error::{InitializeError, OpenError, ProposeError, ReadError, StopError};
pub use machine::{Machine, MachineError};
pub use member::{Freshness, Leadership, Raft, RaftHandle};
pub use membership::{Seat, SeatError};
pub use network::{FROM_MEMBER_KEY, Peers, Service};
pub use observe::{Figures, Instruments, Role};
pub use types::MemberId;
