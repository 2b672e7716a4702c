//! The one place of the agent that reads the host's clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use model::{Duration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use supervisor::{Now, Uptime};

/// Now, by the host's wall clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Now, by both clocks.
pub fn moment() -> Now {
    Now { wall: now(), uptime: uptime() }
}

/// Since boot, sleep included: the clock of `/proc/PID/stat`.
pub fn uptime() -> Uptime {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Uptime(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
}
