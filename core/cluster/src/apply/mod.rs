//! The only function that changes the agreed state.
//!
//! One module for each noun. Each first judges the whole command, then changes records: so a refusal
//! changes nothing. Everything here depends on its arguments alone, and nothing fails.

use model::{Cursor, Refusal, RefusalCode, Timestamp};

use crate::{
    command::{Command, Entry},
    outcome::{Answer, Change, Outcome},
    state::ClusterState,
};

/// Applies one entry.
///
/// Refuses what the cluster's version does not allow yet: ClusterVersionTooOld. All other refusals
/// stand at the functions of the nouns.
///
/// # Panics
/// When `index` is not above that of the entry before: the log is out of order, and going on would
/// make this member differ from the others.
pub fn apply(state: &mut ClusterState, index: u64, entry: &Entry) -> Outcome {
    assert!(index > state.applied, "log entry {index} was applied after entry {}", state.applied);
    state.applied = index;
    let answer = Err(Refusal::new(RefusalCode::Internal, "not written yet"));
    let _ = entry;
    Outcome { answer, changes: Vec::new() }
}
