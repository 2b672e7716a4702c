//! What the answers of a task's health check come to, and how many tasks may be killed for theirs.
//!
//! [`Judge`] hears every answer and says when the health changes; [`KillBudget`] keeps a fault of the host, which
//! makes many tasks look unhealthy at once, from ending them all. Neither asks anything: that is the agent's.

use std::collections::VecDeque;

use model::{Duration, Health, HealthCheck};

use crate::Uptime;

/// Hears the answers of one task's health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    health: Health,
    /// Passes or failures in a row, whichever came last.
    run: Run,
    has_passed: bool,
    /// Whether its kill was withheld and somebody was told.
    pub(crate) is_spared: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Passes(u32),
    Failures(u32),
}

impl Judge {
    /// Goes on from what was told last; the runs begin anew.
    pub fn new(told: Health) -> Self {
        let has_passed = told != Health::Unknown;
        Self { health: told, run: Run::Failures(0), has_passed, is_spared: false }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// One answer, so long after the command began. Says the health if it is another now.
    pub fn hear(&mut self, check: &HealthCheck, age: Duration, is_passed: bool) -> Option<Health> {
        let counts = is_passed || self.has_passed || age >= check.start_period;
        if !counts {
            return None;
        }
        self.has_passed |= is_passed;
        self.run = match (is_passed, self.run) {
            (true, Run::Passes(before)) => Run::Passes(before.saturating_add(1)),
            (true, Run::Failures(_)) => Run::Passes(1),
            (false, Run::Failures(before)) => Run::Failures(before.saturating_add(1)),
            (false, Run::Passes(_)) => Run::Failures(1),
        };
        let health = match self.run {
            Run::Passes(passes) if passes >= check.successes_min => Health::Healthy,
            Run::Failures(failures) if failures >= check.failures_max => Health::Unhealthy,
            Run::Passes(_) | Run::Failures(_) => self.health,
        };
        if health == self.health {
            return None;
        }
        self.health = health;
        self.is_spared = false;
        Some(health)
    }
}

/// How many unhealthy tasks may be killed in a while, over all tasks of the agent.
///
/// Kept in memory: an agent that restarts begins with all of it.
#[derive(Debug, Clone)]
pub struct KillBudget {
    kills_max: u32,
    window: Duration,
    /// When, oldest first; none is older than the window.
    kills: VecDeque<Uptime>,
}

impl KillBudget {
    pub fn new(kills_max: u32, window: Duration) -> Self {
        Self { kills_max, window, kills: VecDeque::new() }
    }

    /// Takes one kill, if there is one left.
    pub fn take(&mut self, now: Uptime) -> bool {
        while self.kills.front().is_some_and(|at| now.since(*at) >= self.window) {
            self.kills.pop_front();
        }
        let is_left = u32::try_from(self.kills.len()).is_ok_and(|spent| spent < self.kills_max);
        if is_left {
            self.kills.push_back(now);
        }
        is_left
    }
}

impl Default for KillBudget {
    /// None at all: whoever wants kills says how many.
    fn default() -> Self {
        Self::new(0, Duration::ZERO)
    }
}
