//! The verbs `backup` and `restore`: what one does with the data directory of a coordinator that doesn't run.

use std::{path::Path, sync::Arc};

use cluster::ClusterState;

use crate::{
    config::Config,
    daemon::FailureCode,
    leader::feed,
    machine::StateMachine,
    metrics::Metrics,
    raft::{self, BackupError, RestoreError, Saved},
};

/// Why a verb was not carried out, with what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("can't save the state")]
    Backup(#[source] BackupError),
    #[error("can't restore the state")]
    Restore(#[source] RestoreError),
}

impl RecoveryError {
    pub fn code(&self) -> FailureCode {
        match self {
            Self::Backup(BackupError::Open(_)) => FailureCode::DataDirDamaged,
            Self::Backup(_) => FailureCode::BackupFailed,
            Self::Restore(_) => FailureCode::RestoreFailed,
        }
    }

    /// What the operator can do about it.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Backup(BackupError::Open(error)) => error.next(),
            Self::Backup(BackupError::Pristine { .. } | BackupError::Empty { .. }) => {
                "name the data directory of a member that was in the cluster"
            }
            Self::Backup(BackupError::Write { .. }) => {
                "name a file that isn't there yet, in a directory with space left"
            }
            Self::Backup(_) => "see the cause; another member's directory may be whole",
            Self::Restore(RestoreError::Read { .. } | RestoreError::Nameless { .. }) => {
                "name a file that `muster backup` or `muster-coordinator backup` wrote; another copy may be whole"
            }
            Self::Restore(RestoreError::Newer { .. } | RestoreError::Machine { .. }) => {
                "take the release that wrote the backup, or a newer one"
            }
            Self::Restore(RestoreError::Occupied { .. }) => {
                "name a data directory that isn't there yet or is empty; nothing is ever overwritten"
            }
            Self::Restore(RestoreError::Make { .. } | RestoreError::Begin { .. }) => {
                "check that the path is writable and has space left"
            }
        }
    }
}

/// Saves what a stopped coordinator has on disk; gives what to tell.
pub async fn backup(config: &Config, file: &Path) -> Result<String, RecoveryError> {
    let saved = raft::save_stopped(&config.data_dir, machine(), file).await.map_err(RecoveryError::Backup)?;
    Ok(told("saved", &saved, file))
}

/// Makes the data directory of a coordinator that is alone in its cluster; gives what to tell.
pub fn restore(config: &Config, file: &Path) -> Result<String, RecoveryError> {
    let address = config.advertise.unwrap_or(config.listen).to_string();
    let restored = raft::restore(file, machine(), &config.data_dir, config.member_id, &address)
        .map_err(RecoveryError::Restore)?;
    let told = told("restored", &restored, &config.data_dir);
    let next = "start it alone, with the same settings; then let others join with empty data directories";
    Ok(format!("{told}{next}\n"))
}

fn told(what: &str, saved: &Saved, path: &Path) -> String {
    let Saved { cluster_id, last_index, bytes } = saved;
    format!("{what} cluster {cluster_id} up to entry {last_index}: {bytes} bytes in {}\n", path.display())
}

/// A machine that nobody listens to.
fn machine() -> StateMachine {
    let (feed, _reader) = feed(0, ClusterState::new());
    StateMachine::new(feed, Arc::new(Metrics::new()))
}
