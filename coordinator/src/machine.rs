//! Raft's bytes and the agreed state: both ends of the log.
//!
//! [`StateMachine`] applies what was agreed on and publishes the state; [`AgreedLog`] proposes what
//! the leader's loop decided. Neither decides anything. An entry that this build can't read stops
//! the member: whoever skips an entry has another state than everyone else.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use cluster::{Answer, Change, ClusterState, Entry};
use model::{Refusal, RefusalCode};

use crate::{
    convert::{self, SnapshotError, log::LogError},
    leader::{Applied, Feed, Log, ProposeError},
    metrics::Metrics,
    raft::{self, Machine, MachineError, RaftHandle},
};

/// The state that Raft's entries build, and those who want to hear of it.
pub struct StateMachine {
    state: ClusterState,
    /// Since the last publication.
    changes: Vec<Change>,
    feed: Feed,
    metrics: Arc<Metrics>,
    beyond: Beyond,
}

/// The version that an entry or a snapshot needs and this program doesn't know, once one came.
pub type Beyond = Arc<OnceLock<u32>>;

impl StateMachine {
    pub fn new(feed: Feed, metrics: Arc<Metrics>) -> Self {
        Self { state: ClusterState::new(), changes: Vec::new(), feed, metrics, beyond: Beyond::default() }
    }

    /// To be asked when the member has stopped: what stopped it says it in words alone.
    pub fn beyond(&self) -> Beyond {
        self.beyond.clone()
    }

    fn note_beyond(&self, version: u32) {
        // The first one stopped the member.
        let _ = self.beyond.set(version);
    }
}

impl Machine for StateMachine {
    fn apply(&mut self, index: u64, _term: u64, command: &[u8]) -> Result<Vec<u8>, MachineError> {
        let began = Instant::now();
        let entry = convert::log::decode_entry(command).map_err(|error| {
            if let LogError::TooNew { version } = error {
                self.note_beyond(version);
            }
            refused("a log entry", command, error)
        })?;
        let outcome = cluster::apply(&mut self.state, index, &entry);
        self.changes.extend(outcome.changes);
        let answer = convert::log::encode_answer(&outcome.answer);
        self.metrics.apply_seconds.observe(began.elapsed().as_secs_f64());
        Ok(answer)
    }

    fn published(&mut self, last_applied: u64) {
        self.feed.publish(Applied {
            index: last_applied,
            changes: std::mem::take(&mut self.changes),
            state: self.state.clone(),
        });
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let state = self.state.clone();
        Box::new(move || convert::encode_snapshot(&state))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        self.state = convert::decode_snapshot(bytes).map_err(|error| {
            if let SnapshotError::TooNew { version } = error {
                self.note_beyond(version);
            }
            refused("a snapshot", bytes, error)
        })?;
        self.changes.clear();
        self.feed.restored(self.state.applied(), self.state.clone());
        Ok(())
    }
}

fn refused(
    what: &'static str,
    bytes: &[u8],
    source: impl std::error::Error + Send + Sync + 'static,
) -> MachineError {
    MachineError { what, bytes: bytes.len(), source: source.into() }
}

/// Where the leader's loop proposes.
#[derive(Clone)]
pub struct AgreedLog {
    raft: RaftHandle,
}

impl AgreedLog {
    pub fn new(raft: RaftHandle) -> Self {
        Self { raft }
    }
}

impl Log for AgreedLog {
    fn propose(
        &self,
        entry: Entry,
    ) -> impl Future<Output = Result<Result<Answer, Refusal>, ProposeError>> + Send + 'static {
        let raft = self.raft.clone();
        async move {
            let answer = raft.propose(convert::log::encode_entry(&entry)).await.map_err(propose_error)?;
            Ok(convert::log::decode_answer(&answer).unwrap_or_else(|error| Err(unreadable(&error))))
        }
    }
}

fn propose_error(error: raft::ProposeError) -> ProposeError {
    match error {
        raft::ProposeError::NotLeader { leader: _ } | raft::ProposeError::Stopped => ProposeError::NotLeader,
        raft::ProposeError::Busy => ProposeError::Busy,
        raft::ProposeError::TooLarge { bytes, max } => ProposeError::TooLarge { bytes, max },
        raft::ProposeError::Unknown => ProposeError::Unknown,
    }
}

fn unreadable(error: &LogError) -> Refusal {
    let message = format!("the log's answer can't be read ({error}); the command was applied");
    tracing::error!(error = %error, "an answer of the log can't be read");
    Refusal::new(RefusalCode::Internal, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::feed;
    use cluster::Command;
    use model::{ClusterId, Timestamp};

    fn machine() -> StateMachine {
        let (feed, _reader) = feed(0, ClusterState::new());
        StateMachine::new(feed, Arc::new(Metrics::new()))
    }

    fn entry(command: Command) -> Vec<u8> {
        convert::log::encode_entry(&Entry { at: Timestamp(7), counted: model::ClusterTime::ZERO, command })
    }

    fn initialize() -> Vec<u8> {
        entry(Command::Initialize { cluster: ClusterId::new("c1").unwrap() })
    }

    #[test]
    fn a_snapshot_restores_the_state() {
        let mut first = machine();
        first.apply(1, 1, &initialize()).unwrap();
        let mut second = machine();
        second.restore(&first.snapshot()()).unwrap();
        assert_eq!(second.state, first.state);
        assert_eq!(second.state.cluster().unwrap().as_str(), "c1");
    }

    #[test]
    fn what_a_newer_program_wrote_is_refused_and_changes_nothing() {
        use prost::Message as _;
        let mut machine = machine();
        machine.apply(1, 1, &initialize()).unwrap();
        let before = machine.state.clone();
        let version = cluster::VERSION_SUPPORTED + 1;
        let newer =
            proto::log::v1::LogEntry { version, at_us: 1, counted_us: 0, command: None }.encode_to_vec();
        let error = machine.apply(2, 1, &newer).unwrap_err();
        assert!(error.source.to_string().contains("needs cluster version"), "{}", error.source);
        let newer = proto::log::v1::Snapshot { version, ..Default::default() }.encode_to_vec();
        let error = machine.restore(&newer).unwrap_err();
        assert!(error.source.to_string().contains("has cluster version"), "{}", error.source);
        machine.apply(2, 1, b"\xff\xff").unwrap_err();
        assert_eq!(machine.state, before);
    }
}
