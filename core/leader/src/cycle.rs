//! The round of offers: run when something changed, within milliseconds, and not more often than useful.

use std::collections::BTreeMap;

use allocator::{
    AgentView, Allocation, DemandView, Explanation, FilterView, FrameworkView, Hold, Inputs, NewOffer,
    RoleView, WishView,
};
use cluster::{Availability, ClusterState};
use model::{Amounts, FrameworkId, Resources, RoleName, Timestamp, limits};

use crate::{
    config::CYCLE_INTERVAL_PER_AGENT,
    demand::Appetite,
    machine::Leader,
    messages::{Demand, OfferMessage, ToFramework},
    offers::{Offer, Promise},
};

/// When the next round is due, and what the last one held back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cycle {
    is_touched: bool,
    not_before: Timestamp,
    pub(crate) held_back: Vec<Explanation>,
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
        let agents = u32::try_from(state.agents().len()).unwrap_or(u32::MAX);
        let interval = CYCLE_INTERVAL_PER_AGENT.saturating_mul(agents).max(self.config.cycle_interval);
        self.cycle.not_before = now + interval;
        self.counts.cycles += 1;
        let allocation = self.allocate(state, now);
        self.cycle.held_back = allocation.held_back;
        let lease = self.config.offer_lease;
        let mut made: BTreeMap<FrameworkId, Vec<OfferMessage>> = BTreeMap::new();
        for NewOffer { framework, role, agent, resources } in allocation.offers {
            let Some((_, epoch)) = self.sessions.registered_of(&agent) else { continue };
            let promise = Promise { framework, agent, epoch, role, resources };
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
                self.tell_framework(&subscription, ToFramework::Offers(offers));
            }
        }
    }

    /// Shows the allocator what it may know, and nothing else.
    fn allocate(&self, state: &ClusterState, now: Timestamp) -> Allocation {
        let mut total = Amounts::default();
        let mut agents = Vec::with_capacity(state.agents().len());
        for (id, agent) in state.agents() {
            total.add(&agent.facts.total);
            let free = match self.offers.offered_on(id) {
                Some(offered) => agent.free().minus_at_most(offered),
                None => agent.free(),
            };
            let is_here = agent.is_reachable
                && self.sessions.registered_of(id).is_some_and(|(_, epoch)| epoch == agent.epoch)
                && !self.liveness.is_silent(id, now, self.config.agent_timeout);
            let hold = match agent.availability {
                _ if !is_here => Some(Hold::Unreachable),
                Availability::Deactivated => Some(Hold::Deactivated),
                Availability::Active => None,
            };
            agents.push(AgentView { agent: id, attributes: &agent.facts.attributes, free, hold });
        }
        let mut offered_by_role: BTreeMap<&RoleName, Vec<&Resources>> = BTreeMap::new();
        for offer in self.offers.iter() {
            offered_by_role.entry(&offer.role).or_default().push(&offer.resources);
        }
        let hungry: Vec<(&FrameworkId, Appetite)> = self.hungry();
        let mut roles: BTreeMap<&RoleName, RoleView<'_>> = BTreeMap::new();
        let mut frameworks = Vec::with_capacity(hungry.len());
        for (id, appetite) in &hungry {
            let Some(record) = state.framework(id) else { continue };
            let role = &record.info.role;
            roles.entry(role).or_insert_with(|| {
                let allocated = state.allocated_by_role(role).cloned().unwrap_or_default();
                let allocated = both(allocated, offered_by_role.get(role).into_iter().flatten().copied());
                RoleView { role, weight_milli: state.weight_milli(role), allocated }
            });
            let allocated =
                state.share_of_framework(id).map(|share| share.allocated.clone()).unwrap_or_default();
            frameworks.push(FrameworkView {
                framework: id,
                role,
                allocated: both(allocated, self.offers.of_framework(id).map(|offer| &offer.resources)),
                wish: wish(appetite),
                filters: self
                    .filters
                    .of(id)
                    .map(|(agent, filter)| FilterView { agent, refused: &filter.resources })
                    .collect(),
            });
        }
        allocator::allocate(&Inputs {
            total: &total,
            agents,
            roles: roles.into_values().collect(),
            frameworks,
            offers_max: limits::OFFERS_MAX.saturating_sub(self.offers.count()),
        })
    }

    /// Frameworks that may be sent offers, with what they want beyond the offers that they hold.
    ///
    /// Those that want nothing more are left out; those that asked for no offers stay, to be explained.
    fn hungry(&self) -> Vec<(&FrameworkId, Appetite)> {
        let run = self.run_framework.iter();
        run.chain(self.subscribers.up_to_date().map(|(framework, _)| framework))
            .filter_map(|id| {
                let offers = self.offers.of_framework(id).filter(|offer| !offer.is_in_use);
                let appetite = self.interests.appetites.get(id)?.beyond(offers.map(|offer| &offer.resources));
                let is_sated = matches!(&appetite, Appetite::Stated(demands) if demands.is_empty());
                (!is_sated).then_some((id, appetite))
            })
            .collect()
    }
}

fn both<'a>(mut allocated: Amounts, offered: impl Iterator<Item = &'a Resources>) -> Amounts {
    offered.for_each(|offered| allocated.add(offered));
    allocated
}

fn wish(appetite: &Appetite) -> WishView<'_> {
    match appetite {
        Appetite::Unlimited => WishView::Unlimited,
        Appetite::Suppressed => WishView::Nothing,
        Appetite::Stated(demands) => WishView::Stated(
            demands
                .iter()
                .map(|Demand { shape, count, constraints }| DemandView { shape, count: *count, constraints })
                .collect(),
        ),
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
