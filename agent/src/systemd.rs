//! What systemd is told when it started us: ready, alive, stopping.
//!
//! Says nothing where nobody asked (no `NOTIFY_SOCKET`, no `WATCHDOG_USEC`); see sd_notify(3).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::actor::Handle;

/// Signs of life in each watchdog interval: one may be late without an end.
const SIGNS_PER_INTERVAL: u32 = 3;

/// Who waits for us (`systemctl start`, a package's upgrade) may go on.
pub fn say_ready() {
    say(NotifyState::Ready);
}

/// The end has begun, and may take a while.
pub fn say_stopping() {
    say(NotifyState::Stopping);
}

/// Feeds the watchdog for as long as the actor, which owns the task table, answers.
///
/// `None` where nobody watches. Without an answer nothing is said, and systemd starts us anew: the tasks go on.
pub fn feed_watchdog(handle: Handle) -> Option<JoinHandle<()>> {
    let every = sd_notify::watchdog_enabled()?.checked_div(SIGNS_PER_INTERVAL)?;
    (every > Duration::ZERO).then(|| tokio::spawn(feed(handle, every)))
}

async fn feed(handle: Handle, every: Duration) {
    let mut due = interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match timeout(every, handle.snapshot()).await {
            Ok(Some(_)) => say(NotifyState::Watchdog),
            Ok(None) | Err(_) => tracing::warn!("the task table doesn't answer; the watchdog isn't fed"),
        }
    }
}

fn say(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "can't tell systemd how we are");
    }
}
