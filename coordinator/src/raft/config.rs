//! What a member needs to know before it can start.

use std::{path::PathBuf, sync::Arc, time::Duration};

use openraft::SnapshotPolicy;
use tonic::metadata::{Ascii, MetadataValue};

use super::{error::OpenError, types::MemberId};

/// Everything that [`super::Raft::open`] wants to know.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// Ours alone: one member, one directory, one process.
    pub data_dir: PathBuf,
    /// `None` takes what the directory says, and makes a new id for a pristine one.
    pub cluster_id: Option<String>,
    pub member_id: MemberId,
    /// Where other members reach this one, host:port.
    pub address: String,
    /// Shown to other members with every call.
    pub credential: Option<MetadataValue<Ascii>>,
    /// How other members are spoken to; `None`: in plain text.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub timing: Timing,
    /// The newest version of what is in the log that this member reads: told to whoever asks.
    pub version_supported: u32,
    /// Entries between two snapshots. A start applies at most this many and those of one snapshot's
    /// making: at some 300 000 entries a second, 10 000 are 30 ms.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot, so that a follower that was away briefly needs no snapshot.
    pub kept_entries: u64,
}

impl RaftConfig {
    pub fn new(data_dir: impl Into<PathBuf>, member_id: MemberId, address: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            cluster_id: None,
            member_id,
            address: address.into(),
            credential: None,
            tls: None,
            timing: Timing::default(),
            version_supported: 0,
            snapshot_entries: 10_000,
            kept_entries: 2_000,
        }
    }

    pub(super) fn openraft(&self) -> Result<Arc<openraft::Config>, OpenError> {
        let config = openraft::Config {
            cluster_name: self.cluster_id.clone().unwrap_or_default(),
            heartbeat_interval: millis(self.timing.heartbeat),
            election_timeout_min: millis(self.timing.election_min),
            election_timeout_max: millis(self.timing.election_max),
            enable_pre_vote: Some(true),
            reset_backoff_on_transfer_leader: Some(true),
            // See `## Design`: a new term for each start.
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries.max(1)),
            max_in_snapshot_log_to_keep: self.kept_entries,
            // One record of what was purged for many entries.
            purge_batch_size: (self.snapshot_entries / 4).clamp(1, 256),
            // A follower further behind than this gets a snapshot. Must exceed the distance of two
            // snapshots, or snapshots would be sent to followers that keep up.
            replication_lag_threshold: self.snapshot_entries.saturating_mul(2).max(1),
            install_snapshot_timeout: 10_000,
            api_batch_linger_ms: 0,
            ..openraft::Config::default()
        };
        let config = config.validate().map_err(|source| OpenError::Timing { source: source.into() })?;
        Ok(Arc::new(config))
    }
}

/// How fast members notice each other's absence.
///
/// A follower stands for election when it heard nothing for the lease (`election_max`) and a time
/// drawn between the two bounds.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Also bounds how stale a lease can be; two heartbeats may be lost before anyone stands.
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
}

impl Timing {
    /// For members of which none stands before the leader was silent for so long.
    pub fn of(election_timeout: Duration) -> Self {
        Self {
            heartbeat: election_timeout / 4,
            election_min: election_timeout,
            election_max: election_timeout * 2,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::of(Duration::from_millis(400))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
