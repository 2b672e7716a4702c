//! When each agent was last heard of, and which have been silent for too long.

use std::collections::{BTreeMap, BTreeSet};

use model::{AgentId, Duration, Timestamp};

use crate::config::AGENTS_MARKED_AT_ONCE_MAX;

/// Watches the agents that the log calls reachable.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    heard: BTreeMap<AgentId, Timestamp>,
    /// The log is being told that they are unreachable.
    marking: BTreeSet<AgentId>,
}

impl Liveness {
    /// Begins to watch an agent; does nothing when it is watched already.
    pub fn watch(&mut self, agent: &AgentId, now: Timestamp) {
        if !self.heard.contains_key(agent) {
            self.heard.insert(agent.clone(), now);
        }
    }

    pub fn forget(&mut self, agent: &AgentId) {
        self.heard.remove(agent);
    }

    pub fn heard_from(&mut self, agent: &AgentId, now: Timestamp) {
        self.heard.insert(agent.clone(), now);
    }

    /// Agents to be marked unreachable now: the longest silent first, and not all at once.
    pub fn overdue(&self, now: Timestamp, timeout: Duration) -> Vec<AgentId> {
        let room = AGENTS_MARKED_AT_ONCE_MAX.saturating_sub(self.marking.len());
        let mut silent: Vec<_> = self
            .heard
            .iter()
            .filter(|(agent, heard)| now.since(**heard) >= timeout && !self.marking.contains(*agent))
            .map(|(agent, heard)| (*heard, agent.clone()))
            .collect();
        silent.sort();
        silent.into_iter().take(room).map(|(_, agent)| agent).collect()
    }

    pub fn marking(&mut self, agent: &AgentId) {
        self.marking.insert(agent.clone());
    }

    pub fn marked(&mut self, agent: &AgentId) {
        self.marking.remove(agent);
    }

    pub fn silence(&self, agent: &AgentId, now: Timestamp) -> Option<Duration> {
        self.heard.get(agent).map(|heard| now.since(*heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: usize) -> AgentId {
        AgentId::new(&format!("a{number:04}")).unwrap()
    }

    #[test]
    fn the_longest_silent_are_marked_first_and_not_all_at_once() {
        let mut liveness = Liveness::default();
        for number in 0..200 {
            liveness.watch(&agent(number), Timestamp(200 - number as i64));
        }
        let timeout = Duration::from_secs(30);
        let now = Timestamp::EPOCH + timeout;
        assert!(liveness.overdue(now, timeout).is_empty());
        let now = Timestamp(200) + timeout;
        let overdue = liveness.overdue(now, timeout);
        assert_eq!(overdue.len(), AGENTS_MARKED_AT_ONCE_MAX);
        assert_eq!(overdue[0], agent(199));
        overdue.iter().for_each(|agent| liveness.marking(agent));
        assert!(liveness.overdue(now, timeout).is_empty());
        liveness.marked(&overdue[0]);
        liveness.forget(&overdue[0]);
        assert_eq!(liveness.overdue(now, timeout).len(), 1);
    }

    #[test]
    fn an_agent_that_speaks_is_not_overdue() {
        let mut liveness = Liveness::default();
        let timeout = Duration::from_secs(30);
        liveness.watch(&agent(1), Timestamp::EPOCH);
        liveness.heard_from(&agent(1), Timestamp::EPOCH + Duration::from_secs(5));
        liveness.watch(&agent(1), Timestamp::EPOCH + Duration::from_secs(1));
        assert!(liveness.overdue(Timestamp::EPOCH + Duration::from_secs(34), timeout).is_empty());
        assert_eq!(liveness.overdue(Timestamp::EPOCH + Duration::from_secs(35), timeout), [agent(1)]);
    }
}
