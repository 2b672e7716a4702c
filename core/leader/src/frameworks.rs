//! Frameworks: their streams, and what the log knows of their connection.
//!
//! A subscription remembers which durable event was sent last, and is sent what the state holds after it:
//! so events come after their commit, in order, once. Offers only follow when all of them were sent.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Answer, ClusterState, Command, EventsAfter, Framework, FrameworkState};
use model::{Cursor, FrameworkId, Refusal, RefusalCode, SubscriptionId, Timestamp};

use crate::{
    calls::{built_in, ended, known_framework},
    config::{ACKNOWLEDGE_INTERVAL, EVENTS_UNREAD_MAX, RETRY_AFTER},
    demand::Appetite,
    machine::{Effect, Leader},
    messages::{Caller, SubscribeParams, ToFramework},
    offers::Ending,
    proposals::{Asker, CallId, Opening, Purpose},
};

/// One opened stream of a framework.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) framework: FrameworkId,
    /// The last durable event that was sent.
    sent: Cursor,
    /// How many more may be sent before the framework has read them.
    window: usize,
    /// Whether all durable events were sent.
    pub(crate) is_up_to_date: bool,
    heartbeat_at: Timestamp,
}

/// Every open subscription; one for each framework.
#[derive(Debug, Clone)]
pub(crate) struct Subscribers {
    term: u64,
    next: u64,
    by_id: BTreeMap<SubscriptionId, Subscriber>,
    by_framework: BTreeMap<FrameworkId, SubscriptionId>,
}

impl Subscribers {
    pub(crate) fn new(term: u64) -> Self {
        Self { term, next: 1, by_id: BTreeMap::new(), by_framework: BTreeMap::new() }
    }

    pub(crate) fn of_framework(&self, framework: &FrameworkId) -> Option<&SubscriptionId> {
        self.by_framework.get(framework)
    }

    pub(crate) fn get(&self, subscription: &SubscriptionId) -> Option<&Subscriber> {
        self.by_id.get(subscription)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn ids(&self) -> Vec<SubscriptionId> {
        self.by_id.keys().cloned().collect()
    }

    pub(crate) fn frameworks(&self) -> impl Iterator<Item = &FrameworkId> {
        self.by_framework.keys()
    }

    /// Subscriptions that have been sent all durable events, and may be sent offers.
    pub(crate) fn up_to_date(&self) -> impl Iterator<Item = (&FrameworkId, &SubscriptionId)> {
        self.by_framework
            .iter()
            .filter(|(_, id)| self.by_id.get(*id).is_some_and(|subscriber| subscriber.is_up_to_date))
    }
}

/// What the leader knows of frameworks beside their streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interests {
    pub(crate) appetites: BTreeMap<FrameworkId, Appetite>,
    /// The log is being told whether they are connected.
    pub(crate) connecting: BTreeSet<FrameworkId>,
    /// The log is being told to end them.
    pub(crate) ending: BTreeSet<FrameworkId>,
    /// Frameworks that subscribed in this term: their absence is their own.
    met: BTreeSet<FrameworkId>,
    /// Subscriptions that wait for the log.
    opening: BTreeMap<FrameworkId, u32>,
    acknowledgements: BTreeMap<FrameworkId, Acknowledgement>,
    /// Frameworks whose acknowledgement the log should hear.
    unacknowledged: BTreeSet<FrameworkId>,
}

/// What a framework has acknowledged, on its way to the log.
#[derive(Debug, Clone, Default)]
struct Acknowledgement {
    cursor: Cursor,
    is_in_flight: bool,
    not_before: Timestamp,
}

impl Interests {
    /// Whether nobody is about to subscribe, and the end isn't under way.
    pub(crate) fn may_end(&self, framework: &FrameworkId) -> bool {
        !self.opening.contains_key(framework) && !self.ending.contains(framework)
    }

    fn opened(&mut self, framework: &FrameworkId) {
        if let Some(count) = self.opening.get_mut(framework) {
            *count -= 1;
            if *count == 0 {
                self.opening.remove(framework);
            }
        }
    }

    fn forget(&mut self, framework: &FrameworkId) {
        self.appetites.remove(framework);
        self.met.remove(framework);
        self.acknowledgements.remove(framework);
        self.unacknowledged.remove(framework);
    }
}

impl Leader {
    pub(crate) fn subscribe(
        &mut self,
        call: CallId,
        params: SubscribeParams,
        state: &ClusterState,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let SubscribeParams { info, framework, cursor, request } = params;
        if let Some(cursor) = cursor
            && cursor.index > state.applied()
        {
            return Err(Refusal::new(
                RefusalCode::InvalidArgument,
                format!(
                    "can't resume after event {}.{}: there is no such event yet; resume with the cursor of the \
                     last event that was handled",
                    cursor.index, cursor.ordinal
                ),
            ));
        }
        let Some(framework) = framework else {
            let framework = self.new_framework_id(state)?;
            let command = Command::RegisterFramework { framework, info, request };
            self.propose(Purpose::RegisterFramework { call, cursor }, command, now);
            return Ok(());
        };
        let record = known_framework(&framework, state)?;
        if record.is_built_in {
            return Err(built_in(&framework));
        }
        *self.interests.opening.entry(framework.clone()).or_default() += 1;
        let info = (record.info != info).then_some(info);
        self.go_on_opening(Opening { call, framework, cursor, info }, state, now);
        Ok(())
    }

    /// Ids are unique for ever: they name the cluster, and the term in which they were made.
    fn new_framework_id(&mut self, state: &ClusterState) -> Result<FrameworkId, Refusal> {
        let cluster: String =
            state.cluster().map(|id| id.as_str().chars().take(12).collect()).unwrap_or_default();
        let number = self.subscribers.next;
        self.subscribers.next += 1;
        FrameworkId::new(&format!("{cluster}-{}.{number}", self.term))
            .map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))
    }

    pub(crate) fn framework_registered(
        &mut self,
        call: CallId,
        cursor: Option<Cursor>,
        answer: Result<Answer, Refusal>,
        state: &ClusterState,
        now: Timestamp,
    ) {
        match answer {
            Ok(Answer::FrameworkRegistered { framework }) => {
                *self.interests.opening.entry(framework.clone()).or_default() += 1;
                self.go_on_opening(Opening { call, framework, cursor, info: None }, state, now);
            }
            Ok(other) => {
                let message = format!("the log gave a registration an answer of the wrong kind: {other:?}");
                self.answer(Asker::Daemon(call), Err(Refusal::new(RefusalCode::Internal, message)));
            }
            Err(refusal) => self.answer(Asker::Daemon(call), Err(refusal)),
        }
    }

    pub(crate) fn opening_answered(
        &mut self,
        opening: Opening,
        answer: Result<Answer, Refusal>,
        state: &ClusterState,
        now: Timestamp,
    ) {
        match answer {
            Ok(_done) => self.go_on_opening(opening, state, now),
            Err(refusal) => {
                self.interests.opened(&opening.framework);
                self.answer(Asker::Daemon(opening.call), Err(refusal));
            }
        }
    }

    /// Tells the log what it doesn't know yet, one thing at a time, then opens the stream.
    fn go_on_opening(&mut self, mut opening: Opening, state: &ClusterState, now: Timestamp) {
        let record = match known_framework(&opening.framework, state) {
            Ok(record) => record,
            Err(refusal) => {
                self.interests.opened(&opening.framework);
                return self.answer(Asker::Daemon(opening.call), Err(refusal));
            }
        };
        let framework = opening.framework.clone();
        if let Some(info) = opening.info.take() {
            let command = Command::UpdateFramework { framework, info, request: None };
            return self.propose(Purpose::Subscribe { opening }, command, now);
        }
        // That it is away may be on its way into the log: its absence would begin then, whatever comes now.
        if record.state == FrameworkState::Connected && !self.interests.connecting.contains(&framework) {
            return self.open_subscription(opening, now);
        }
        let command = Command::ConnectFramework { framework };
        self.propose(Purpose::Subscribe { opening }, command, now);
    }

    fn open_subscription(&mut self, opening: Opening, now: Timestamp) {
        let Opening { call, framework, cursor, info: _ } = opening;
        self.interests.opened(&framework);
        let number = self.subscribers.next;
        self.subscribers.next += 1;
        let subscription = match SubscriptionId::new(&format!("{}-{number}", self.subscribers.term)) {
            Ok(id) => id,
            Err(error) => {
                let refusal = Refusal::new(RefusalCode::Internal, error.to_string());
                return self.answer(Asker::Daemon(call), Err(refusal));
            }
        };
        if let Some(older) = self.subscribers.of_framework(&framework).cloned() {
            self.counts.subscriptions_replaced += 1;
            self.end_subscription(&older, Some(ToFramework::Replaced));
        }
        self.subscribers.by_framework.insert(framework.clone(), subscription.clone());
        self.subscribers.by_id.insert(
            subscription.clone(),
            Subscriber {
                framework: framework.clone(),
                sent: cursor.unwrap_or(Cursor::START),
                window: EVENTS_UNREAD_MAX,
                is_up_to_date: false,
                heartbeat_at: now + self.config.framework_heartbeat,
            },
        );
        self.interests.appetites.insert(framework.clone(), Appetite::Unlimited);
        self.interests.met.insert(framework.clone());
        self.effects.push(Effect::OpenSubscription {
            call,
            framework: framework.clone(),
            subscription: subscription.clone(),
        });
        let message = ToFramework::Subscribed {
            framework: framework.clone(),
            subscription: subscription.clone(),
            heartbeat_interval: self.config.framework_heartbeat,
        };
        self.tell_framework(&subscription, message);
        self.touched.frameworks.insert(framework);
        self.cycle.touch();
    }

    /// Ends a stream, with a last word if there is one. Its offers are void.
    pub(crate) fn end_subscription(&mut self, subscription: &SubscriptionId, last: Option<ToFramework>) {
        let Some(entry) = self.subscribers.by_id.remove(subscription) else { return };
        if self.subscribers.by_framework.get(&entry.framework) == Some(subscription) {
            self.subscribers.by_framework.remove(&entry.framework);
        }
        if let Some(message) = last {
            self.tell_framework(subscription, message);
        }
        self.effects.push(Effect::CloseSubscription { subscription: subscription.clone() });
        for id in self.offers.idle_of_framework(&entry.framework) {
            self.counts.offers_rescinded += 1;
            self.offers.end(&id, Ending::Rescinded("the subscription ended"));
        }
        self.interests.appetites.remove(&entry.framework);
        self.filters.clear(&entry.framework);
        self.touched.frameworks.insert(entry.framework);
        self.cycle.touch();
    }

    pub(crate) fn subscription_drained(&mut self, subscription: &SubscriptionId) {
        if let Some(entry) = self.subscribers.by_id.get_mut(subscription) {
            entry.window = EVENTS_UNREAD_MAX;
            self.touched.frameworks.insert(entry.framework.clone());
        }
    }

    pub(crate) fn tell_framework(&mut self, subscription: &SubscriptionId, message: ToFramework) {
        self.effects.push(Effect::ToFramework { subscription: subscription.clone(), message });
    }

    pub(crate) fn heartbeat_frameworks(&mut self, now: Timestamp) {
        let interval = self.config.framework_heartbeat;
        for (subscription, entry) in &mut self.subscribers.by_id {
            if entry.heartbeat_at <= now {
                entry.heartbeat_at = now + interval;
                self.effects.push(Effect::ToFramework {
                    subscription: subscription.clone(),
                    message: ToFramework::Heartbeat,
                });
            }
        }
    }

    /// Sends each touched framework the events that it lacks, and keeps the log's view of its connection true.
    pub(crate) fn settle_frameworks(&mut self, state: &ClusterState, now: Timestamp) {
        for id in std::mem::take(&mut self.touched.frameworks) {
            let subscription = self.subscribers.of_framework(&id).cloned();
            let Some(record) = state.framework(&id) else {
                if let Some(subscription) = subscription {
                    let refusal = ended(&id);
                    self.end_subscription(&subscription, Some(ToFramework::Ended(refusal)));
                    self.touched.frameworks.remove(&id);
                }
                self.interests.forget(&id);
                continue;
            };
            if record.is_built_in {
                continue;
            }
            if let Some(subscription) = &subscription {
                self.send_events(subscription, record, &id, state);
            }
            self.keep_connection(&id, record, subscription.is_some(), now);
        }
        self.propose_acknowledgements(now);
    }

    fn send_events(
        &mut self,
        subscription: &SubscriptionId,
        record: &Framework,
        framework: &FrameworkId,
        state: &ClusterState,
    ) {
        let Some(entry) = self.subscribers.by_id.get_mut(subscription) else { return };
        if entry.sent >= record.last_event() && record.compacted_to.is_none_or(|to| entry.sent >= to) {
            if !entry.is_up_to_date {
                entry.is_up_to_date = true;
                self.cycle.touch();
            }
            return;
        }
        entry.is_up_to_date = false;
        if entry.window == 0 {
            return;
        }
        let to = |message| Effect::ToFramework { subscription: subscription.clone(), message };
        match record.events_after(entry.sent, entry.window) {
            EventsAfter::Compacted { resume } => {
                entry.sent = resume;
                entry.window -= 1;
                let statuses = state
                    .tasks()
                    .values()
                    .filter(|task| task.framework == *framework)
                    .map(|task| task.latest_status())
                    .collect();
                self.effects.push(to(ToFramework::Compacted { statuses, cursor: resume }));
            }
            EventsAfter::Kept(events) => {
                entry.window = entry.window.saturating_sub(events.len());
                for (cursor, event) in events {
                    entry.sent = cursor;
                    let event = event.as_ref().clone();
                    self.effects.push(to(ToFramework::Durable { cursor, event }));
                }
            }
        }
        if entry.sent >= record.last_event() {
            entry.is_up_to_date = true;
            self.cycle.touch();
        }
        if entry.window == 0 {
            self.effects.push(Effect::TellWhenDrained { subscription: subscription.clone() });
        }
    }

    fn keep_connection(&mut self, id: &FrameworkId, record: &Framework, is_subscribed: bool, now: Timestamp) {
        if self.interests.connecting.contains(id) || self.interests.opening.contains_key(id) {
            return;
        }
        let framework = id.clone();
        let command = match record.state {
            FrameworkState::Connected if !is_subscribed => {
                // Under a new leader it needs a moment to come back.
                if now < self.patient_until() && !self.interests.met.contains(id) {
                    return;
                }
                Command::DisconnectFramework { framework }
            }
            FrameworkState::Disconnected { .. } if is_subscribed => Command::ConnectFramework { framework },
            FrameworkState::Connected | FrameworkState::Disconnected { .. } => return,
        };
        self.interests.connecting.insert(id.clone());
        self.propose(Purpose::Connection { framework: id.clone() }, command, now);
    }

    pub(crate) fn set_appetite(&mut self, framework: &FrameworkId, appetite: Appetite) {
        self.interests.appetites.insert(framework.clone(), appetite);
        self.filters.clear(framework);
        self.cycle.touch();
    }

    /// What came before is handled; the log hears of it soon, and the caller need not wait for that.
    pub(crate) fn acknowledge(&mut self, caller: &Caller, cursor: Cursor) -> Result<(), Refusal> {
        let sent = self.subscribers.get(&caller.subscription).map_or(Cursor::START, |entry| entry.sent);
        if cursor > sent {
            return Err(Refusal::new(
                RefusalCode::InvalidArgument,
                format!(
                    "can't acknowledge event {}.{}: this subscription was only sent events up to {}.{}",
                    cursor.index, cursor.ordinal, sent.index, sent.ordinal
                ),
            ));
        }
        let entry = self.interests.acknowledgements.entry(caller.framework.clone()).or_default();
        if cursor > entry.cursor {
            entry.cursor = cursor;
            self.interests.unacknowledged.insert(caller.framework.clone());
        }
        Ok(())
    }

    fn propose_acknowledgements(&mut self, now: Timestamp) {
        let mut commands = Vec::new();
        for framework in self.interests.unacknowledged.clone() {
            let Some(entry) = self.interests.acknowledgements.get_mut(&framework) else { continue };
            if entry.is_in_flight || entry.not_before > now {
                continue;
            }
            entry.is_in_flight = true;
            entry.not_before = now + ACKNOWLEDGE_INTERVAL;
            self.interests.unacknowledged.remove(&framework);
            commands.push((framework, entry.cursor));
        }
        for (framework, cursor) in commands {
            let command = Command::AcknowledgeEvents { framework: framework.clone(), cursor };
            self.propose(Purpose::Acknowledge { framework }, command, now);
        }
    }

    /// The log has heard of an acknowledgement, or had no room for it and will be told again.
    pub(crate) fn acknowledged(&mut self, framework: FrameworkId, is_heard: bool, now: Timestamp) {
        let Some(entry) = self.interests.acknowledgements.get_mut(&framework) else { return };
        entry.is_in_flight = false;
        if !is_heard {
            entry.not_before = now + RETRY_AFTER;
            self.interests.unacknowledged.insert(framework);
        }
    }

    /// When an acknowledgement that was put off may go to the log.
    pub(crate) fn next_acknowledgement(&self) -> Option<Timestamp> {
        let entries = &self.interests.acknowledgements;
        self.interests
            .unacknowledged
            .iter()
            .filter_map(|framework| entries.get(framework))
            .filter(|entry| !entry.is_in_flight)
            .map(|entry| entry.not_before)
            .min()
    }
}
