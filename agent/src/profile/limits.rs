//! Bounds of one profile, each with its reason.

use std::time::Duration;

/// How often stacks are taken out of the kernel: a tenth of what its ring holds.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of one look: all that the largest ring holds.
pub const STACKS_PER_LOOK_MAX: usize = 16 << 10;
/// Of all different stacks together; a task that makes a new one each time can't fill the agent.
pub const STACK_BYTES_MAX: usize = 16 << 20;
/// What one costs beside its addresses.
pub const STACK_OVERHEAD_BYTES: usize = 96;
/// Processes whose mappings are read; stacks of further ones are kept without names.
pub const PROCESSES_MAX: usize = 512;
/// How often mappings of a process are read that runs where nothing was mapped: code made at run time stays unknown.
pub const LOOKS_PER_PROCESS_MAX: u32 = 20;
/// Mappings of one process that hold code. A JVM has a few hundred.
pub const MAPPINGS_MAX: usize = 4096;
/// Of `/proc/PID/maps`, which a task can make long.
pub const MAPS_BYTES_MAX: u64 = 8 << 20;
/// Programs and libraries, each with an open descriptor.
pub const MODULES_MAX: usize = 256;
/// What a name may have; C++ has longer ones, which nobody reads.
pub const NAME_LETTERS_MAX: usize = 160;
/// The same before it is made readable.
pub const SYMBOL_BYTES_MAX: usize = 2048;
/// Addresses in one question, so that the longest answer fits into a message.
pub const ADDRESSES_PER_QUESTION_MAX: usize = 40;
/// How long naming may take; what has no name then is shown as a place in its program.
pub const NAMING_PATIENCE: Duration = Duration::from_secs(20);
/// Symbols of one program that are looked at.
pub const SYMBOLS_MAX: u64 = 8 << 20;
/// Segments and sections of one program.
pub const HEADERS_MAX: usize = 4096;

// An answer of nothing but the longest names, in JSON, fits: a letter takes at most four bytes, or six escaped.
const _: () = assert!(
    ADDRESSES_PER_QUESTION_MAX * (NAME_LETTERS_MAX * 4 + 16) < crate::fetch::limits::MESSAGE_BYTES_MAX
);
