//! The two clocks: one for what is told to others, one for what is waited for.

use std::ops::Add;

use model::{Duration, Timestamp};

/// Time since the host's boot, sleep included. Nobody sets it, and it means nothing after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uptime(pub Duration);

impl Uptime {
    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Uptime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// The moment of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// May be set, also backwards: for statuses, names, and what is kept beyond a boot.
    pub wall: Timestamp,
    /// Every deadline of a running task is by this one.
    pub uptime: Uptime,
}

impl Add<Duration> for Now {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self { wall: self.wall + span, uptime: self.uptime + span }
    }
}
