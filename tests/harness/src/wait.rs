//! Waiting for a condition, with one patience for the whole suite.

use std::time::{Duration, Instant};

/// How many times longer than on a host anything may take here.
pub fn slowness() -> u32 {
    if crate::is_guest() { 5 } else { 1 }
}

/// How long anything may take before a test gives up.
pub fn patience() -> Duration {
    Duration::from_secs(60) * slowness()
}

/// Waits until `is_so`; panics with `what` when patience ends.
pub async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited {:?} in vain until {what}", patience());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
