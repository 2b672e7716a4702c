//! The seat of the built-in framework `run`: it hears and says what a remote framework would.
//!
//! It has a subscription of its own making and uses Accept, Decline and SetDemand through the same
//! checks as everyone else; only its decisions come from `core/run` instead of the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cluster::ClusterState;
use model::{Duration, OfferId, Refusal, SubscriptionId, TaskId, TaskSpec, Timestamp};

use crate::{
    config::{REFUSED_TASK_PAUSE, RUN_LOOKED_AT_MAX},
    machine::Leader,
    messages::{Call, Caller, Demand, Reply},
    offers::Offer,
    proposals::Asker,
};

/// How long `run` doesn't want to see again what it has no use for; a new demand ends that.
const DECLINE_PAUSE: Duration = Duration::from_secs(5);

/// What `run` has on its mind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runner {
    next_call: u64,
    /// Tasks whose launch the log judges, by call.
    placing: BTreeMap<u64, Vec<TaskId>>,
    /// The same tasks.
    placed: BTreeSet<TaskId>,
    /// Offers that were made and not answered yet.
    held: Vec<run::Offer>,
    /// Tasks that the log refused: until when they are left alone, and why.
    troubles: BTreeMap<TaskId, Trouble>,
    /// What was said last; absent when launches have changed what is left of it.
    demand: Option<Vec<run::Wish>>,
    is_touched: bool,
}

#[derive(Debug, Clone)]
struct Trouble {
    until: Timestamp,
    refusal: Refusal,
}

impl Runner {
    /// The queue may have changed.
    pub(crate) fn touch(&mut self) {
        self.is_touched = true;
    }

    pub(crate) fn hear_offer(&mut self, offer: &Offer) {
        self.held.push(run::Offer {
            id: offer.id.clone(),
            agent: offer.agent.clone(),
            resources: offer.resources.clone(),
        });
    }

    pub(crate) fn hear_answer(&mut self, call: u64, answer: Result<Reply, Refusal>) {
        let Some(tasks) = self.placing.remove(&call) else { return };
        let refusal_of = |place: usize| match &answer {
            Ok(Reply::Launched(results)) => results.get(place).and_then(|(_, refusal)| refusal.clone()),
            Ok(_other) => None,
            Err(refusal) => Some(refusal.clone()),
        };
        for (place, task) in tasks.into_iter().enumerate() {
            self.placed.remove(&task);
            if let Some(refusal) = refusal_of(place) {
                // When it may be tried again is decided where there is a clock.
                self.troubles.insert(task, Trouble { until: Timestamp::EPOCH, refusal });
                self.demand = None;
            }
        }
        self.is_touched = true;
    }

    pub(crate) fn next_retry(&self) -> Option<Timestamp> {
        self.troubles.values().map(|trouble| trouble.until).min()
    }

    /// What may be placed now, oldest first.
    fn queue(&self, state: &ClusterState) -> Vec<Arc<TaskSpec>> {
        state
            .queue()
            .values()
            .map(|waiting| &waiting.spec)
            .filter(|spec| !self.placed.contains(&spec.task_id) && !self.troubles.contains_key(&spec.task_id))
            .take(RUN_LOOKED_AT_MAX)
            .cloned()
            .collect()
    }

    fn settle_troubles(&mut self, state: &ClusterState, now: Timestamp) {
        for trouble in self.troubles.values_mut() {
            if trouble.until == Timestamp::EPOCH {
                trouble.until = now + REFUSED_TASK_PAUSE;
            }
        }
        let before = self.troubles.len();
        self.troubles.retain(|task, trouble| trouble.until > now && state.waiting(task).is_some());
        self.is_touched |= self.troubles.len() != before;
    }
}

impl Leader {
    /// `run` states what it could use.
    pub(crate) fn run_speaks(&mut self, state: &ClusterState, now: Timestamp) {
        self.runner.settle_troubles(state, now);
        if !std::mem::take(&mut self.runner.is_touched) {
            return;
        }
        let demand = run::demand(&self.runner.queue(state));
        if self.runner.demand.as_ref() == Some(&demand) {
            return;
        }
        let demands = demand
            .iter()
            .map(|wish| Demand { shape: wish.shape.clone(), count: wish.count, constraints: Vec::new() })
            .collect();
        self.runner.demand = Some(demand);
        let Some(caller) = self.run_caller() else { return };
        let asker = self.run_asker();
        self.call(asker, Call::SetDemand { caller, demands }, state, now);
    }

    /// `run` answers the offers that it was made.
    pub(crate) fn run_decides(&mut self, state: &ClusterState, now: Timestamp) {
        let held = std::mem::take(&mut self.runner.held);
        if held.is_empty() {
            return;
        }
        let held: Vec<_> = held.into_iter().filter(|offer| self.offers.get(&offer.id).is_some()).collect();
        let queue = self.runner.queue(state);
        let decision = run::decide(&queue, &held);
        for run::Accept { offers, tasks } in decision.accepts {
            self.run_accepts(offers, tasks, state, now);
        }
        if !decision.declines.is_empty()
            && let Some(caller) = self.run_caller()
        {
            let asker = self.run_asker();
            let call = Call::Decline { caller, offers: decision.declines, refuse: DECLINE_PAUSE };
            self.call(asker, call, state, now);
        }
    }

    fn run_accepts(
        &mut self,
        offers: Vec<OfferId>,
        tasks: Vec<Arc<TaskSpec>>,
        state: &ClusterState,
        now: Timestamp,
    ) {
        let Some(caller) = self.run_caller() else { return };
        let asker = self.run_asker();
        let ids: Vec<_> = tasks.iter().map(|task| task.task_id.clone()).collect();
        self.runner.placed.extend(ids.iter().cloned());
        self.runner.placing.insert(self.runner.next_call, ids);
        self.runner.demand = None;
        self.runner.is_touched = true;
        let tasks = tasks.iter().map(|task| task.as_ref().clone()).collect();
        // What is left over may be offered again at once: other tasks of the queue may want it.
        let call = Call::Accept { caller, offers, tasks, refuse: Duration::ZERO };
        self.call(asker, call, state, now);
    }

    fn run_asker(&mut self) -> Asker {
        self.runner.next_call += 1;
        Asker::Run(self.runner.next_call)
    }

    fn run_caller(&self) -> Option<Caller> {
        let framework = self.run_framework.clone()?;
        let subscription = SubscriptionId::new(framework.as_str()).ok()?;
        Some(Caller { framework, subscription, request: None })
    }

    /// Why tasks of `run` wait, one line for each thing in the way.
    pub fn waiting_because(&self, state: &ClusterState) -> BTreeMap<TaskId, Vec<String>> {
        let rooms: Vec<run::Room> = self
            .sessions
            .registered()
            .filter_map(|(id, _, _)| {
                let agent = state.agent(id)?;
                let offered = self.offers.offered_on(id).cloned().unwrap_or_default();
                let free = agent.free().minus_at_most(&offered);
                Some(run::Room { agent: id.clone(), total: agent.facts.total.clone(), free, offered })
            })
            .collect();
        let mut known: BTreeMap<&model::Resources, Vec<String>> = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        for waiting in state.queue().values().take(RUN_LOOKED_AT_MAX) {
            let (id, shape) = (&waiting.spec.task_id, &waiting.spec.resources);
            let lines = if self.runner.placed.contains(id) {
                vec!["an offer was accepted for it; the log is being written".to_owned()]
            } else if let Some(trouble) = self.runner.troubles.get(id) {
                vec![format!("its last launch was refused: {}", trouble.refusal)]
            } else {
                known.entry(shape).or_insert_with(|| run::explain(shape, &rooms)).clone()
            };
            reasons.insert(id.clone(), lines);
        }
        reasons
    }
}
