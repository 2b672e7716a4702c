//! When each agent was last heard of, and which have been silent for too long.

use std::collections::{BTreeMap, BTreeSet};

use model::{AgentId, Duration, Timestamp};

use crate::config::{AGENTS_MARKED_AT_ONCE_MAX, UNREACHABLE_IN_WINDOW_MIN, UNREACHABLE_WINDOW};

/// Watches the agents that the log calls reachable.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    heard: BTreeMap<AgentId, Timestamp>,
    /// The log is being told that they are unreachable; whether an operator had confirmed it.
    marking: BTreeMap<AgentId, bool>,
    /// An operator said that these don't answer, so no bound holds them back.
    confirmed: BTreeSet<AgentId>,
    /// When each was last marked without an operator's word, within the window; one that comes and goes counts once.
    marked_at: BTreeMap<AgentId, Timestamp>,
    held_back: usize,
}

impl Liveness {
    /// A leader knows of no marks before its own, so some of the agents that are unreachable count as marked just now:
    /// changing leaders must not make room for a switch's worth of agents each time. Some room stays all the same.
    pub fn begin<'a>(&mut self, unreachable: impl Iterator<Item = &'a AgentId>, now: Timestamp) {
        let counted = unreachable.take(UNREACHABLE_IN_WINDOW_MIN / 2);
        self.marked_at = counted.map(|agent| (agent.clone(), now)).collect();
    }

    /// Begins to watch an agent; does nothing when it is watched already.
    pub fn watch(&mut self, agent: &AgentId, now: Timestamp) {
        if !self.heard.contains_key(agent) {
            self.heard.insert(agent.clone(), now);
        }
    }

    pub fn forget(&mut self, agent: &AgentId) {
        self.heard.remove(agent);
        self.confirmed.remove(agent);
    }

    pub fn heard_from(&mut self, agent: &AgentId, now: Timestamp) {
        self.heard.insert(agent.clone(), now);
        self.confirmed.remove(agent);
    }

    /// The leader looked at nothing for so long: what agents said meanwhile may wait at its door, so that time is no
    /// silence of theirs.
    pub fn slept(&mut self, span: Duration, now: Timestamp) {
        for heard in self.heard.values_mut() {
            *heard = (*heard + span).min(now);
        }
    }

    /// Agents to be marked unreachable now: the longest silent first, no more than `max` within the window but for
    /// those that an operator confirmed, and not all at once.
    pub fn overdue(&mut self, now: Timestamp, timeout: Duration, max: usize) -> Vec<AgentId> {
        self.marked_at.retain(|_, at| now.since(*at) < UNREACHABLE_WINDOW);
        let takes_room = |(agent, is_confirmed): &(&AgentId, &bool)| {
            !**is_confirmed && !self.marked_at.contains_key(*agent)
        };
        let unconfirmed = self.marking.iter().filter(takes_room).count();
        let mut room = max.saturating_sub(self.marked_at.len() + unconfirmed);
        let mut turns = AGENTS_MARKED_AT_ONCE_MAX.saturating_sub(self.marking.len());
        self.held_back = 0;
        let mut overdue = Vec::new();
        for agent in self.silent(now, timeout) {
            let takes_room = !self.confirmed.contains(&agent) && !self.marked_at.contains_key(&agent);
            if takes_room && room == 0 {
                self.held_back += 1;
            } else if turns > 0 {
                turns -= 1;
                room -= usize::from(takes_room);
                overdue.push(agent);
            }
        }
        overdue
    }

    /// Agents that have said nothing for `timeout` and are not being marked: the longest silent first.
    pub fn silent(&self, now: Timestamp, timeout: Duration) -> Vec<AgentId> {
        let mut silent: Vec<_> = self
            .heard
            .iter()
            .filter(|(agent, heard)| now.since(**heard) >= timeout && !self.marking.contains_key(*agent))
            .map(|(agent, heard)| (*heard, agent.clone()))
            .collect();
        silent.sort();
        silent.into_iter().map(|(_, agent)| agent).collect()
    }

    pub fn is_silent(&self, agent: &AgentId, now: Timestamp, timeout: Duration) -> bool {
        self.silence(agent, now).is_some_and(|silence| silence >= timeout)
    }

    /// An operator said that this agent does not answer.
    pub fn confirm(&mut self, agent: &AgentId) {
        self.confirmed.insert(agent.clone());
    }

    pub fn marking(&mut self, agent: &AgentId) {
        self.marking.insert(agent.clone(), self.confirmed.contains(agent));
    }

    /// The log has answered.
    pub fn marked(&mut self, agent: &AgentId, is_marked: bool, now: Timestamp) {
        let is_confirmed = self.marking.remove(agent);
        if is_marked && is_confirmed == Some(false) {
            self.marked_at.insert(agent.clone(), now);
        }
    }

    /// How many silent agents the bound kept from being marked at the last look.
    pub fn held_back(&self) -> usize {
        self.held_back
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

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn silent(count: usize) -> Liveness {
        let mut liveness = Liveness::default();
        for number in 0..count {
            liveness.watch(&agent(number), Timestamp((count - number) as i64));
        }
        liveness
    }

    fn mark(liveness: &mut Liveness, agents: &[AgentId], now: Timestamp) {
        for agent in agents {
            liveness.marking(agent);
        }
        for agent in agents {
            // The state comes before the answer.
            liveness.forget(agent);
            liveness.marked(agent, true, now);
        }
    }

    #[test]
    fn the_longest_silent_are_marked_first_and_not_all_at_once() {
        let mut liveness = silent(200);
        let now = Timestamp::EPOCH + TIMEOUT;
        assert!(liveness.overdue(now, TIMEOUT, usize::MAX).is_empty());
        let now = Timestamp(200) + TIMEOUT;
        let overdue = liveness.overdue(now, TIMEOUT, usize::MAX);
        assert_eq!(overdue.len(), AGENTS_MARKED_AT_ONCE_MAX);
        assert_eq!(overdue[0], agent(199));
        overdue.iter().for_each(|agent| liveness.marking(agent));
        assert!(liveness.overdue(now, TIMEOUT, usize::MAX).is_empty());
        assert_eq!(liveness.held_back(), 0, "they only wait for their turn");
        liveness.marked(&overdue[0], true, now);
        liveness.forget(&overdue[0]);
        assert_eq!(liveness.overdue(now, TIMEOUT, usize::MAX).len(), 1);
    }

    #[test]
    fn a_dead_switch_takes_no_more_than_its_share_with_it() {
        let mut liveness = silent(40);
        let now = Timestamp(40) + TIMEOUT;
        let overdue = liveness.overdue(now, TIMEOUT, 5);
        assert_eq!((overdue.len(), liveness.held_back()), (5, 35));
        mark(&mut liveness, &overdue, now);
        assert!(liveness.overdue(now + TIMEOUT, TIMEOUT, 5).is_empty());
        let later = now + UNREACHABLE_WINDOW;
        assert_eq!(liveness.overdue(later, TIMEOUT, 5).len(), 5, "others have their turn in the next window");
    }

    #[test]
    fn what_an_operator_confirmed_is_marked_and_takes_nobodys_room() {
        let mut liveness = silent(40);
        let now = Timestamp(40) + TIMEOUT;
        (0..20).for_each(|number| liveness.confirm(&agent(number)));
        let overdue = liveness.overdue(now, TIMEOUT, 5);
        assert_eq!((overdue.len(), liveness.held_back()), (25, 15));
        mark(&mut liveness, &overdue, now);
        assert!(liveness.overdue(now, TIMEOUT, 5).is_empty());
        assert_eq!(liveness.overdue(now, TIMEOUT, 6).len(), 1, "only five took room");
        // One that spoke meanwhile needs a new word.
        liveness.confirm(&agent(21));
        liveness.heard_from(&agent(21), now);
        assert!(liveness.overdue(now + TIMEOUT, TIMEOUT, 5).is_empty());
    }

    #[test]
    fn an_agent_that_comes_and_goes_takes_room_once() {
        let mut liveness = Liveness::default();
        let mut now = Timestamp(0);
        for _ in 0..4 {
            liveness.watch(&agent(1), now);
            now = now + TIMEOUT;
            let overdue = liveness.overdue(now, TIMEOUT, 2);
            assert_eq!(overdue, [agent(1)]);
            mark(&mut liveness, &overdue, now);
        }
        liveness.watch(&agent(2), now);
        assert_eq!(liveness.overdue(now + TIMEOUT, TIMEOUT, 2), [agent(2)]);
    }

    #[test]
    fn a_mark_that_the_log_had_no_room_for_takes_no_room() {
        let mut liveness = silent(10);
        let now = Timestamp(10) + TIMEOUT;
        for _ in 0..3 {
            let overdue = liveness.overdue(now, TIMEOUT, 5);
            assert_eq!(overdue.len(), 5);
            overdue.iter().for_each(|agent| liveness.marking(agent));
            overdue.iter().for_each(|agent| liveness.marked(agent, false, now));
        }
    }

    #[test]
    fn a_new_leader_leaves_room_but_not_all_of_it() {
        let mut liveness = silent(10);
        let unreachable: Vec<_> = (100..200).map(agent).collect();
        liveness.begin(unreachable.iter(), Timestamp(10));
        let overdue = liveness.overdue(Timestamp(10) + TIMEOUT, TIMEOUT, UNREACHABLE_IN_WINDOW_MIN);
        assert_eq!(overdue.len(), UNREACHABLE_IN_WINDOW_MIN - UNREACHABLE_IN_WINDOW_MIN / 2);
    }

    #[test]
    fn an_agent_that_speaks_is_not_overdue() {
        let mut liveness = Liveness::default();
        let timeout = Duration::from_secs(30);
        liveness.watch(&agent(1), Timestamp::EPOCH);
        liveness.heard_from(&agent(1), Timestamp::EPOCH + Duration::from_secs(5));
        liveness.watch(&agent(1), Timestamp::EPOCH + Duration::from_secs(1));
        assert!(liveness.overdue(Timestamp::EPOCH + Duration::from_secs(34), timeout, 5).is_empty());
        assert_eq!(liveness.overdue(Timestamp::EPOCH + Duration::from_secs(35), timeout, 5), [agent(1)]);
    }
}
