//! Virtual time, and the clocks of those who live in it.

use std::{fmt, ops::Add};

use model::{Duration, Timestamp};

/// True time, in microseconds since the run began. Nobody inside the world can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub u64);

impl Moment {
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:>6}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A clock that is wrong: it drifts, and its wall time may be set.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Millionths by which it is too fast (or too slow, below zero).
    pub drift: i64,
    /// What its wall time is ahead of everyone's, in microseconds.
    pub offset: i64,
}

/// Wall time when the run begins, where nobody's clock is wrong.
const WALL_START: i64 = 1_800_000_000_000_000;
const MILLION: i64 = 1_000_000;

impl Clock {
    /// Counts on whatever happens; only its pace is wrong.
    pub fn uptime(&self, now: Moment) -> Duration {
        let now = i128::from(now.0) * i128::from(MILLION + self.drift) / i128::from(MILLION);
        Duration::from_micros(u64::try_from(now).unwrap_or(0))
    }

    pub fn wall(&self, now: Moment) -> Timestamp {
        let uptime = i64::try_from(self.uptime(now).as_micros()).unwrap_or(i64::MAX);
        Timestamp(WALL_START + self.offset + uptime)
    }

    /// How long it truly takes until this clock has counted `span`.
    pub fn truly(&self, span: Duration) -> Duration {
        let span = span.as_micros().saturating_mul(1_000_000);
        let pace = u128::try_from(MILLION + self.drift).unwrap_or(1);
        Duration::from_micros(u64::try_from(span.div_ceil(pace)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_a_wrong_clock_waits_long_enough() {
        for drift in [-50_000, -1, 0, 1, 50_000] {
            let clock = Clock { drift, offset: 0 };
            for span in [1, 7, 1_000_003] {
                let span = Duration::from_micros(span);
                let later = Moment(12_345) + clock.truly(span) + Duration::from_micros(1);
                assert!(clock.uptime(later) >= clock.uptime(Moment(12_345)) + span, "{drift} {span:?}");
            }
        }
    }
}
