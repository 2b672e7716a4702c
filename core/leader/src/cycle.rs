//! The round of offers: run when something changed, within milliseconds, and not more often than useful.

use std::collections::BTreeMap;

use cluster::ClusterState;
use model::{AgentId, FrameworkId, Resources, Timestamp, limits};

use crate::{
    demand::Appetite,
    machine::{Effect, Leader},
    messages::{Demand, OfferMessage, ToFramework},
    offers::{Offer, Promise},
};

/// When the next round is due, and what the last one held back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cycle {
    is_touched: bool,
    not_before: Timestamp,
    pub(crate) held_back: Vec<String>,
}

impl Cycle {
    /// Something changed that may lead to other offers.
    pub(crate) fn touch(&mut self) {
        self.is_touched = true;
    }

    pub(crate) fn due_at(&self) -> Option<Timestamp> {
        self.is_touched.then_some(self.not_before)
    }
}

impl Leader {
    pub(crate) fn cycle(&mut self, state: &ClusterState, now: Timestamp) {
        if self.cycle.due_at().is_none_or(|at| at > now) {
            return;
        }
        self.cycle.is_touched = false;
        self.cycle.not_before = now + self.config.cycle_interval;
        self.counts.cycles += 1;
        if self.offers.count() >= limits::OFFERS_MAX {
            self.cycle.held_back =
                vec![format!("{} offers are outstanding, as many as may be", limits::OFFERS_MAX)];
            return;
        }
        let agents = self.offerable(state);
        let hungry = self.hungry();
        let mut made: BTreeMap<FrameworkId, Vec<OfferMessage>> = BTreeMap::new();
        for promise in self.solve(&agents, &hungry, state) {
            let lease = self.config.offer_lease;
            let Some(offer) = self.offers.make(promise, now, lease).cloned() else { continue };
            self.counts.offers_made += 1;
            if self.run_framework.as_ref() == Some(&offer.framework) {
                self.runner.hear_offer(&offer);
            } else {
                made.entry(offer.framework.clone()).or_default().push(message(&offer, state, lease));
            }
        }
        for (framework, offers) in made {
            if let Some(subscription) = self.subscribers.of_framework(&framework).cloned() {
                let message = ToFramework::Offers(offers);
                self.effects.push(Effect::ToFramework { subscription, message });
            }
        }
    }

    /// Agents that can launch now, with their epoch and what is free and not promised.
    fn offerable(&self, state: &ClusterState) -> Vec<(AgentId, u64, Resources)> {
        self.sessions
            .registered()
            .filter_map(|(id, _, epoch)| {
                let agent = state.agent(id).filter(|agent| agent.is_reachable && agent.epoch == epoch)?;
                let free = match self.offers.offered_on(id) {
                    Some(offered) => agent.free().minus_at_most(offered),
                    None => agent.free(),
                };
                Some((id.clone(), epoch, free))
            })
            .collect()
    }

    /// Frameworks that may be sent offers and want some.
    fn hungry(&self) -> Vec<(FrameworkId, Appetite)> {
        let run = self.run_framework.iter();
        run.chain(self.subscribers.up_to_date().map(|(framework, _)| framework))
            .filter_map(|id| {
                let appetite = self.unmet(id);
                appetite.is_hungry().then(|| (id.clone(), appetite))
            })
            .collect()
    }

    /// What a framework wants beyond the offers that it holds.
    fn unmet(&self, framework: &FrameworkId) -> Appetite {
        match self.interests.appetites.get(framework) {
            Some(Appetite::Unlimited) => Appetite::Unlimited,
            Some(Appetite::Suppressed) | None => Appetite::Suppressed,
            Some(Appetite::Stated(demands)) => {
                let mut demands: Vec<Demand> = demands.clone();
                // Offers in use are already taken off the demand, task by task.
                for offer in self.offers.of_framework(framework).filter(|offer| !offer.is_in_use) {
                    let mut left = offer.resources.clone();
                    for demand in &mut demands {
                        while demand.count > 0
                            && let Some(rest) = left.minus(&demand.shape)
                        {
                            left = rest;
                            demand.count -= 1;
                        }
                    }
                }
                demands.retain(|demand| demand.count > 0);
                Appetite::Stated(demands)
            }
        }
    }

    /// Interim: first come, first served.
    fn solve(
        &mut self,
        agents: &[(AgentId, u64, Resources)],
        hungry: &[(FrameworkId, Appetite)],
        state: &ClusterState,
    ) -> Vec<Promise> {
        let mut hungry = hungry.to_vec();
        let mut promises = Vec::new();
        for (agent, epoch, free) in agents {
            let mut free = free.clone();
            for (framework, appetite) in &mut hungry {
                let is_filtered = self
                    .filters
                    .of(framework)
                    .any(|(filtered, filter)| filtered == agent && filter.resources.contains(&free));
                if is_filtered || free.cpus_milli == 0 || free.mem_mib == 0 {
                    continue;
                }
                let Some(record) = state.framework(framework) else { continue };
                let mut slice = Resources::default();
                match appetite {
                    Appetite::Unlimited => slice = std::mem::take(&mut free),
                    Appetite::Suppressed => {}
                    Appetite::Stated(demands) => {
                        for demand in demands {
                            while demand.count > 0
                                && let Some(rest) = free.minus(&demand.shape)
                            {
                                free = rest;
                                slice = slice.plus(&demand.shape);
                                demand.count -= 1;
                            }
                        }
                    }
                }
                if !slice.is_empty() {
                    promises.push(Promise {
                        framework: framework.clone(),
                        agent: agent.clone(),
                        epoch: *epoch,
                        role: record.info.role.clone(),
                        resources: slice,
                    });
                }
            }
        }
        promises
    }
}

fn message(offer: &Offer, state: &ClusterState, lease: model::Duration) -> OfferMessage {
    let facts = state.agent(&offer.agent).map(|agent| &agent.facts);
    OfferMessage {
        offer: offer.id.clone(),
        agent: offer.agent.clone(),
        hostname: facts.map(|facts| facts.hostname.clone()).unwrap_or_default(),
        role: offer.role.clone(),
        resources: offer.resources.clone(),
        attributes: facts.map(|facts| facts.attributes.clone()).unwrap_or_default(),
        lease,
    }
}
