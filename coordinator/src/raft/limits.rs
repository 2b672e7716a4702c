//! How much may wait or be held, each with the sum that justifies it.

use std::time::Duration;

/// One command. The API takes messages of 4 MiB; a batch of status updates stays below this.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// What proposals that aren't answered yet may weigh together; beyond it, callers get *busy*.
/// openraft, the writer and the apply loop hold at most this much each.
pub const PROPOSALS_BYTES_MAX: usize = 64 << 20;

/// What a proposal weighs beside its bytes, so that 64 MiB are at most 64 Ki proposals.
pub const PROPOSAL_BYTES_OVERHEAD: usize = 1 << 10;

/// Operations between openraft and the writer thread. Each append holds up to 4 Ki entries of
/// proposals that are counted above, so this bounds only the number of envelopes.
pub const WRITER_QUEUE_MAX: usize = 1 << 10;

/// What one fdatasync may carry: 8 MiB are a few milliseconds on a slow disk.
pub const GROUP_BYTES_MAX: usize = 8 << 20;

/// A disk that takes longer for one write is broken or overloaded: thousands of times what a slow one needs, and
/// less than people wait for an answer.
pub const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// Entries kept in memory after they reached the disk, for apply and for followers that keep up:
/// a second at 8 Ki commits/s. Entries that aren't on disk yet always stay.
pub const TAIL_ENTRIES_MAX: usize = 8 << 10;

/// The same in bytes, for large commands.
pub const TAIL_BYTES_MAX: usize = 16 << 20;

/// What one read of the log gives to one follower.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// Entries that are applied before the state is published and the answers go out. openraft may
/// hand over everything that is committed at once, which after a restart is the whole log.
pub const APPLY_ENTRIES_MAX: usize = 1 << 10;

/// Entries that one purge removes in one batch, so that appends wait at most a few milliseconds.
pub const PURGE_ENTRIES_MAX: u64 = 1 << 10;

/// One message between members: what one read of the log gives, which may end with a command of any size.
pub const MESSAGE_BYTES_MAX: usize = 2 * COMMAND_BYTES_MAX;

/// One piece of a snapshot on its way to another member.
pub const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;

/// Broken streams that are still to be looked after: each of a few members has two.
pub const STREAMS_BROKEN_MAX: usize = 32;

const _: () = assert!(READ_BYTES_MAX + COMMAND_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX + PROPOSAL_BYTES_OVERHEAD <= PROPOSALS_BYTES_MAX);
// A semaphore counts in u32.
const _: () = assert!(PROPOSALS_BYTES_MAX <= u32::MAX as usize);
