//! Bounds of what is fetched, each with its reason.

use std::time::Duration;

/// Fetching processes at once: each is a process with megabytes, and they share one link and one disk. The
/// others wait in the order in which they came.
pub const FETCHING_MAX: usize = 32;
/// How long all files of one task may take together; the user whose link is slower than that fetches himself.
pub const TASK_PATIENCE: Duration = Duration::from_secs(3600);

/// How long a server may take to accept a connection and agree on TLS: a lost SYN is sent again after 1, 3 and 7 s.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may be silent, before its answer and within it.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);
/// What must have come after each such span since the last look; less is no download but a way to hold a place.
pub const BYTES_PER_SILENCE_MIN: u64 = 8 << 10;
/// Redirects, as curl's default is 50 and browsers' 20; mirrors need two or three.
pub const REDIRECTS_MAX: u32 = 10;
/// Attempts in a row that bring nothing. With waits of 0.2 s, doubling, that is about 6 s of a server's restart.
pub const IDLE_ATTEMPTS_MAX: usize = 5;
/// Attempts at all, so that a server that breaks off after each byte is given up.
pub const ATTEMPTS_MAX: u32 = 64;
/// The first wait between attempts, and the longest.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// Files, directories and links in one archive: a Linux kernel has 90 000, a large JavaScript tree 500 000.
pub const ENTRIES_MAX: u64 = 1_000_000;
/// What an entry takes on disk at least, so that empty files count, too.
pub const ENTRY_BYTES_MIN: u64 = 4096;
/// PATH_MAX of Linux: a longer path can't be opened in one go by whoever wants to use it.
pub const PATH_BYTES_MAX: usize = 4096;
/// NAME_MAX of every filesystem that matters.
pub const NAME_BYTES_MAX: usize = 255;
/// Directories within each other; Java packages with tests have 20.
pub const DEPTH_MAX: usize = 64;
/// Extended headers (long names, times, owners) of one tar entry.
pub const HEADER_BYTES_MAX: u64 = 64 << 10;
/// The window of a compressed stream: `xz -9` has 64 MiB, `zstd -19` 8 MiB and `--long` 128 MiB.
pub const WINDOW_BYTES_MAX: u64 = 128 << 20;

/// One message between the agent and its process: a URL and a path at most, and their frames.
pub const MESSAGE_BYTES_MAX: usize = 32 << 10;

const _: () = assert!(MESSAGE_BYTES_MAX > 2 * model::limits::PATH_BYTES_MAX + 4096);
