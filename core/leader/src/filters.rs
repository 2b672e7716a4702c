//! What frameworks declined, and for how long they don't want to see it again.
//!
//! A filter holds while the agent has no more free than what was declined: when more is freed, the
//! framework is asked again.

use std::collections::{BTreeMap, BTreeSet};

use model::{AgentId, FrameworkId, Resources, Timestamp, limits};

/// One refusal of one agent's resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub until: Timestamp,
    /// What was declined, and whatever is less.
    pub resources: Resources,
}

/// All filters, by framework and agent.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    by_framework: BTreeMap<FrameworkId, BTreeMap<AgentId, Filter>>,
    ending: BTreeSet<(Timestamp, FrameworkId, AgentId)>,
}

impl Filters {
    /// Replaces what the framework said of this agent before.
    pub fn set(&mut self, framework: &FrameworkId, agent: &AgentId, filter: Filter) {
        let filters = self.by_framework.entry(framework.clone()).or_default();
        if filters.len() >= limits::FILTERS_PER_FRAMEWORK_MAX && !filters.contains_key(agent) {
            // Forgetting a filter costs one offer that is declined again.
            return;
        }
        self.ending.insert((filter.until, framework.clone(), agent.clone()));
        if let Some(old) = filters.insert(agent.clone(), filter.clone())
            && old.until != filter.until
        {
            self.ending.remove(&(old.until, framework.clone(), agent.clone()));
        }
    }

    /// Drops everything that the framework declined. Answers whether there was anything.
    pub fn clear(&mut self, framework: &FrameworkId) -> bool {
        let Some(filters) = self.by_framework.remove(framework) else { return false };
        for (agent, filter) in filters {
            self.ending.remove(&(filter.until, framework.clone(), agent));
        }
        true
    }

    /// Drops what has ended. Answers whether there was anything.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let mut is_any = false;
        while let Some((until, _, _)) = self.ending.first()
            && *until <= now
        {
            let Some((_, framework, agent)) = self.ending.pop_first() else { break };
            is_any = true;
            if let Some(filters) = self.by_framework.get_mut(&framework) {
                filters.remove(&agent);
                if filters.is_empty() {
                    self.by_framework.remove(&framework);
                }
            }
        }
        is_any
    }

    pub fn next_end(&self) -> Option<Timestamp> {
        self.ending.first().map(|(until, _, _)| *until)
    }

    /// The filters of one framework.
    pub fn of(&self, framework: &FrameworkId) -> impl Iterator<Item = (&AgentId, &Filter)> {
        self.by_framework.get(framework).into_iter().flatten()
    }
}
