//! The one place of the agent that reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use model::Timestamp;

/// Now, by the host's wall clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
