//! Outstanding offers: who was promised what, until when.
//!
//! An offer ends once: accepted, declined, expired or rescinded. While the log judges an accept its offers
//! are in use, and what they hold stays taken. Nothing here is in the log: losing it costs a retry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{AgentId, Duration, FrameworkId, OfferId, Refusal, RefusalCode, Resources, RoleName, Timestamp};

use crate::config::{OFFERS_PER_CALL_MAX, OFFERS_REMEMBERED_MAX};

/// Resources of one agent, promised to one framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub id: OfferId,
    pub framework: FrameworkId,
    pub agent: AgentId,
    /// Of the agent when the offer was made.
    pub epoch: u64,
    pub role: RoleName,
    pub resources: Resources,
    pub expires_at: Timestamp,
    /// The log judges an accept of it.
    pub is_in_use: bool,
}

/// How an offer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Accepted,
    Declined,
    Expired,
    Rescinded(&'static str),
}

/// Offers that an Accept may use, taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Together {
    pub agent: AgentId,
    pub epoch: u64,
    pub role: RoleName,
    pub resources: Resources,
}

/// Every outstanding offer.
#[derive(Debug, Clone)]
pub struct Offers {
    term: u64,
    next: u64,
    by_id: BTreeMap<OfferId, Offer>,
    by_agent: BTreeMap<AgentId, OnAgent>,
    by_framework: BTreeMap<FrameworkId, BTreeSet<OfferId>>,
    expiring: BTreeSet<(Timestamp, OfferId)>,
    endings: BTreeMap<OfferId, Ending>,
    endings_order: VecDeque<OfferId>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OnAgent {
    offers: BTreeSet<OfferId>,
    /// Sum of the offers.
    resources: Resources,
}

/// What an offer promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    pub framework: FrameworkId,
    pub agent: AgentId,
    pub epoch: u64,
    pub role: RoleName,
    pub resources: Resources,
}

impl Offers {
    pub fn new(term: u64) -> Self {
        Self {
            term,
            next: 1,
            by_id: BTreeMap::new(),
            by_agent: BTreeMap::new(),
            by_framework: BTreeMap::new(),
            expiring: BTreeSet::new(),
            endings: BTreeMap::new(),
            endings_order: VecDeque::new(),
        }
    }

    /// Makes an offer. Its id names the leader's term, so that a later leader knows it as foreign.
    pub fn make(&mut self, promise: Promise, now: Timestamp, lease: Duration) -> Option<&Offer> {
        let id = OfferId::new(&format!("{}-{}", self.term, self.next)).ok()?;
        self.next += 1;
        let Promise { framework, agent, epoch, role, resources } = promise;
        let expires_at = now + lease;
        let on_agent = self.by_agent.entry(agent.clone()).or_default();
        on_agent.resources = on_agent.resources.plus(&resources);
        on_agent.offers.insert(id.clone());
        self.by_framework.entry(framework.clone()).or_default().insert(id.clone());
        self.expiring.insert((expires_at, id.clone()));
        let offer =
            Offer { id: id.clone(), framework, agent, epoch, role, resources, expires_at, is_in_use: false };
        Some(self.by_id.entry(id).or_insert(offer))
    }

    /// Judges whether the framework may use these offers together now.
    ///
    /// Refuses none at all and repeated ones (InvalidArgument), what isn't there any more (OfferUnknown),
    /// somebody else's (OfferNotYours), and those of several agents or roles (OffersMixed).
    pub fn judge(
        &self,
        framework: &FrameworkId,
        ids: &[OfferId],
        now: Timestamp,
    ) -> Result<Together, Refusal> {
        if ids.is_empty() {
            return Err(Refusal::new(
                RefusalCode::InvalidArgument,
                "can't accept: no offer is named; name at least one",
            ));
        }
        check_count(ids)?;
        let mut seen = BTreeSet::new();
        let mut together: Option<Together> = None;
        for id in ids {
            if !seen.insert(id) {
                return Err(Refusal::new(
                    RefusalCode::InvalidArgument,
                    format!("can't accept: offer `{id}` is named twice; name each offer once"),
                ));
            }
            let offer = self.usable(framework, id, now)?;
            match &mut together {
                None => {
                    together = Some(Together {
                        agent: offer.agent.clone(),
                        epoch: offer.epoch,
                        role: offer.role.clone(),
                        resources: offer.resources.clone(),
                    });
                }
                Some(sum) => {
                    if sum.agent != offer.agent || sum.role != offer.role || sum.epoch != offer.epoch {
                        return Err(Refusal::new(
                            RefusalCode::OffersMixed,
                            format!(
                                "can't accept: offer `{id}` is of agent `{}` and role `{}`, the others of agent \
                                 `{}` and role `{}`; accept the offers of each agent by themselves",
                                offer.agent, offer.role, sum.agent, sum.role
                            ),
                        ));
                    }
                    sum.resources = sum.resources.plus(&offer.resources);
                }
            }
        }
        together.ok_or_else(|| Refusal::new(RefusalCode::Internal, "can't accept: no offer was judged"))
    }

    /// The framework's own offer, if it can still be used.
    fn usable(&self, framework: &FrameworkId, id: &OfferId, now: Timestamp) -> Result<&Offer, Refusal> {
        let Some(offer) = self.by_id.get(id) else {
            if term_of(id).is_some_and(|term| term > self.term) {
                // What came of it is known there: a word of a deposed leader would be taken for the last one.
                return Err(Refusal::new(
                    RefusalCode::NoLeader,
                    format!(
                        "can't use offer `{id}`: a later leader made it; connect again to reach that one"
                    ),
                ));
            }
            return Err(Refusal::new(
                RefusalCode::OfferUnknown,
                format!("can't use offer `{id}`: {}; wait for new offers", self.fate(id)),
            ));
        };
        if offer.framework != *framework {
            return Err(Refusal::new(
                RefusalCode::OfferNotYours,
                format!("can't use offer `{id}`: it was made to another framework; use your own offers"),
            ));
        }
        let gone = |why: &str| {
            Err(Refusal::new(
                RefusalCode::OfferUnknown,
                format!("can't use offer `{id}`: {why}; wait for new offers"),
            ))
        };
        if offer.is_in_use {
            return gone("it was accepted already");
        }
        if offer.expires_at <= now {
            return gone("its lease is over");
        }
        Ok(offer)
    }

    fn fate(&self, id: &OfferId) -> String {
        match self.endings.get(id) {
            Some(Ending::Accepted) => "it was accepted already".to_owned(),
            Some(Ending::Declined) => "it was declined".to_owned(),
            Some(Ending::Expired) => "its lease is over".to_owned(),
            Some(Ending::Rescinded(why)) => format!("it was rescinded: {why}"),
            None if term_of(id).is_some_and(|term| term < self.term) => {
                "it was made by an earlier leader".to_owned()
            }
            None => "there is no such offer".to_owned(),
        }
    }

    /// Those of `ids` that the framework may decline; others are gone already, or never its own.
    ///
    /// Refuses somebody else's offer (OfferNotYours) and changes nothing then.
    pub fn declinable(&self, framework: &FrameworkId, ids: &[OfferId]) -> Result<Vec<OfferId>, Refusal> {
        check_count(ids)?;
        let mut declinable = Vec::new();
        for id in ids.iter().collect::<BTreeSet<_>>() {
            let Some(offer) = self.by_id.get(id) else { continue };
            if offer.framework != *framework {
                return Err(Refusal::new(
                    RefusalCode::OfferNotYours,
                    format!("can't decline offer `{id}`: it was made to another framework"),
                ));
            }
            if !offer.is_in_use {
                declinable.push(id.clone());
            }
        }
        Ok(declinable)
    }

    /// From now on only the log's answer ends these offers.
    pub fn use_up(&mut self, ids: &[OfferId]) {
        for id in ids {
            if let Some(offer) = self.by_id.get_mut(id) {
                offer.is_in_use = true;
                self.expiring.remove(&(offer.expires_at, id.clone()));
            }
        }
    }

    /// Ends an offer; what it held is free again.
    pub fn end(&mut self, id: &OfferId, ending: Ending) -> Option<Offer> {
        let offer = self.by_id.remove(id)?;
        self.expiring.remove(&(offer.expires_at, id.clone()));
        if let Some(on_agent) = self.by_agent.get_mut(&offer.agent) {
            on_agent.offers.remove(id);
            on_agent.resources = on_agent.resources.minus_at_most(&offer.resources);
            if on_agent.offers.is_empty() {
                self.by_agent.remove(&offer.agent);
            }
        }
        if let Some(offers) = self.by_framework.get_mut(&offer.framework) {
            offers.remove(id);
            if offers.is_empty() {
                self.by_framework.remove(&offer.framework);
            }
        }
        if self.endings.insert(id.clone(), ending).is_none() {
            self.endings_order.push_back(id.clone());
        }
        if self.endings_order.len() > OFFERS_REMEMBERED_MAX
            && let Some(oldest) = self.endings_order.pop_front()
        {
            self.endings.remove(&oldest);
        }
        Some(offer)
    }

    /// Offers whose lease is over.
    pub fn expired(&self, now: Timestamp) -> Vec<OfferId> {
        self.expiring.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| id.clone()).collect()
    }

    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Offers of an agent that nobody accepted yet.
    pub fn idle_of_agent(&self, agent: &AgentId) -> Vec<OfferId> {
        self.idle(self.by_agent.get(agent).map(|on_agent| &on_agent.offers))
    }

    /// Offers to a framework that it did not accept yet.
    pub fn idle_of_framework(&self, framework: &FrameworkId) -> Vec<OfferId> {
        self.idle(self.by_framework.get(framework))
    }

    fn idle(&self, ids: Option<&BTreeSet<OfferId>>) -> Vec<OfferId> {
        let is_idle = |id: &&OfferId| self.by_id.get(*id).is_some_and(|offer| !offer.is_in_use);
        ids.into_iter().flatten().filter(is_idle).cloned().collect()
    }

    /// What is promised of an agent, offers in use included.
    pub fn offered_on(&self, agent: &AgentId) -> Option<&Resources> {
        self.by_agent.get(agent).map(|on_agent| &on_agent.resources)
    }

    /// Every offer to a framework, those in use included.
    pub fn of_framework<'a>(&'a self, framework: &FrameworkId) -> impl Iterator<Item = &'a Offer> {
        self.by_framework.get(framework).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Offer> {
        self.by_id.values()
    }

    pub fn get(&self, id: &OfferId) -> Option<&Offer> {
        self.by_id.get(id)
    }

    pub fn count(&self) -> usize {
        self.by_id.len()
    }
}

/// What is derived from the offers.
/// Of the leader that made it.
fn term_of(id: &OfferId) -> Option<u64> {
    id.as_str().split_once('-').and_then(|(term, _)| term.parse().ok())
}

#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Indices {
    by_agent: BTreeMap<AgentId, OnAgent>,
    by_framework: BTreeMap<FrameworkId, BTreeSet<OfferId>>,
    expiring: BTreeSet<(Timestamp, OfferId)>,
}

#[cfg(test)]
impl Offers {
    pub fn indices(&self) -> Indices {
        Indices {
            by_agent: self.by_agent.clone(),
            by_framework: self.by_framework.clone(),
            expiring: self.expiring.clone(),
        }
    }

    pub fn rebuilt(&self) -> Indices {
        let mut indices = Indices::default();
        for (id, offer) in &self.by_id {
            let on_agent = indices.by_agent.entry(offer.agent.clone()).or_default();
            on_agent.offers.insert(id.clone());
            on_agent.resources = on_agent.resources.plus(&offer.resources);
            indices.by_framework.entry(offer.framework.clone()).or_default().insert(id.clone());
            if !offer.is_in_use {
                indices.expiring.insert((offer.expires_at, id.clone()));
            }
        }
        indices
    }
}

fn check_count(ids: &[OfferId]) -> Result<(), Refusal> {
    if ids.len() > OFFERS_PER_CALL_MAX {
        return Err(Refusal::new(
            RefusalCode::InvalidArgument,
            format!("{} offers are named in one call; at most {OFFERS_PER_CALL_MAX} are allowed", ids.len()),
        ));
    }
    Ok(())
}
