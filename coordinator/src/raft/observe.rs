//! Figures for `/metrics`: gauges are read when asked for, histograms fill as things happen.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// What this member does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Candidate,
    Follower,
    Learner,
    Stopped,
}

/// One reading of a member's gauges and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub role: Role,
    pub term: u64,
    /// Of the last entry in the log. 0 also before the first.
    pub last_log_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    /// The last entry that the newest snapshot covers.
    pub snapshot_index: u64,
    /// The last entry that was removed because a snapshot covers it.
    pub purged_index: u64,
    /// Frames of all entries that are in the log.
    pub log_bytes: u64,
    /// Proposals that were told *busy* since the start.
    pub busy_total: u64,
    /// Bytes of proposals that wait for their answers, each with a fixed overhead.
    pub proposals_bytes: u64,
}

/// Distributions, to be registered by whoever owns the registry; clones share their counts.
#[derive(Debug, Clone)]
pub struct Instruments {
    /// Seconds that one group's write and fdatasync took.
    pub fsync_seconds: Histogram,
    /// Entries that one fdatasync made durable.
    pub group_entries: Histogram,
    /// Entries that were applied before one publication of the state.
    pub apply_entries: Histogram,
    /// Seconds that encoding and writing one snapshot took.
    pub snapshot_seconds: Histogram,
}

impl Default for Instruments {
    fn default() -> Self {
        Self {
            // 16 µs to 4.2 s.
            fsync_seconds: Histogram::new(exponential_buckets(0.000_016, 2.0, 19)),
            group_entries: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            apply_entries: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            // 1 ms to 65 s.
            snapshot_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
        }
    }
}

/// A count that several threads keep.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
