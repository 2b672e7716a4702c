//! The loop: one event at a time in, one turn of `core/leader` for many events, effects out.
//!
//! A turn takes in what is there, up to a bound, and settles it together: so statuses of many tasks become
//! one command, and many changes one round of offers. Proposals are in flight side by side.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use ::leader::{CallId, Config, Counts, Effect, Input, Leader, ProposeError, Reply, SessionId, Ticket};
use cluster::{Answer, ClusterState, Entry};
use futures::{
    FutureExt,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use model::{Refusal, RefusalCode, SubscriptionId, Timestamp};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    feed::{FeedReader, News},
    handle::{Busy, Heard, LeaderHandle, Request},
    messages::{Attachment, Call, OfferView, SoftView, Subscription, ToAgent, ToFramework},
    streams::{Outlet, Signal},
};

/// Calls that wait for the loop: one turn's worth for many clients; beyond it they hear *busy*.
const REQUESTS_WAITING_MAX: usize = 4096;
/// Messages of agents that wait for the loop; beyond it their streams wait.
const HEARD_WAITING_MAX: usize = 4096;
/// Events that one turn takes in before it is settled.
const TURN_EVENTS_MAX: usize = 512;
/// How often streams are looked at for readers that don't read.
const STREAMS_LOOKED_AT_INTERVAL: Duration = Duration::from_secs(1);

/// Where commands go: the log, and the encoding before it.
pub trait Log: Send + Sync + 'static {
    /// Answers when the entry was applied and the state with its effect was published.
    fn propose(
        &self,
        entry: Entry,
    ) -> impl Future<Output = Result<Result<Answer, Refusal>, ProposeError>> + Send + 'static;
}

/// Whether this member leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its state holds all that earlier leaders were promised.
    Leads {
        term: u64,
    },
    Follows,
}

/// Gauges and counters of the loop, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub is_leader: bool,
    pub term: u64,
    pub offers_outstanding: u64,
    pub sessions_open: u64,
    pub subscriptions_open: u64,
    pub proposals_in_flight: u64,
    /// Silent agents that are not marked unreachable, because too many are silent together.
    pub agents_held_back: u64,
    pub turns_total: u64,
    /// Streams that were ended because nobody read them.
    pub streams_too_slow_total: u64,
    /// Calls that were told *busy*.
    pub calls_busy_total: u64,
    /// Since this process started.
    pub counts: Counts,
}

type Proposed = (Ticket, Result<Result<Answer, Refusal>, ProposeError>);

/// The actor.
pub struct LeaderLoop<L> {
    config: Config,
    log: L,
    feed: FeedReader,
    standing: watch::Receiver<Standing>,
    requests: mpsc::Receiver<Request>,
    heard: mpsc::Receiver<Heard>,
    figures: watch::Sender<Figures>,
    busy: Arc<Busy>,
    stop: CancellationToken,
    next_call: u64,
    /// Counts of earlier leaderships.
    counts_before: Counts,
}

/// Whatever can wake the loop while it leads.
enum Event {
    Stop,
    Standing,
    Proposed(Proposed),
    News,
    Heard(Heard),
    Request(Request),
    Framework(Signal<SubscriptionId>),
    Agent(Signal<SessionId>),
    Time,
}

/// What the loop holds during one leadership.
struct Leading {
    leader: Leader,
    state: ClusterState,
    clock: Clock,
    proposals: FuturesUnordered<BoxFuture<'static, Proposed>>,
    calls: BTreeMap<CallId, Waiting>,
    frameworks: BTreeMap<SubscriptionId, Outlet<SubscriptionId, ToFramework>>,
    agents: BTreeMap<SessionId, Outlet<SessionId, ToAgent>>,
    framework_signals: FuturesUnordered<BoxFuture<'static, Signal<SubscriptionId>>>,
    agent_signals: FuturesUnordered<BoxFuture<'static, Signal<SessionId>>>,
    streams_looked_at: Instant,
    too_slow: u64,
}

/// Who waits for the answer of a call.
enum Waiting {
    Reply(oneshot::Sender<Result<Reply, Refusal>>),
    Subscription(oneshot::Sender<Result<Subscription, Refusal>>),
    Attachment(oneshot::Sender<Result<Attachment, Refusal>>),
}

impl<L: Log> LeaderLoop<L> {
    /// Makes the loop, to be run by its owner, and the way to it.
    pub fn new(
        config: Config,
        log: L,
        feed: FeedReader,
        standing: watch::Receiver<Standing>,
        stop: CancellationToken,
    ) -> (Self, LeaderHandle) {
        let (requests, requests_reader) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (heard, heard_reader) = mpsc::channel(HEARD_WAITING_MAX);
        let (figures, figures_reader) = watch::channel(Figures::default());
        let busy = Arc::new(Busy::default());
        let handle = LeaderHandle {
            requests,
            heard,
            state: feed.state.clone(),
            changed: feed.changed.clone(),
            figures: figures_reader,
            busy: busy.clone(),
        };
        let actor = Self {
            config,
            log,
            feed,
            standing,
            requests: requests_reader,
            heard: heard_reader,
            figures,
            busy,
            stop,
            next_call: 0,
            counts_before: Counts::default(),
        };
        (actor, handle)
    }

    /// Runs until told to stop, or until nobody can tell any more whether this member leads.
    pub async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let standing = *self.standing.borrow_and_update();
            let goes_on = match standing {
                Standing::Leads { term } => self.lead(term).await,
                Standing::Follows => self.follow().await,
            };
            if !goes_on {
                break;
            }
        }
    }

    /// Refuses everything until the standing changes. Answers whether to go on.
    async fn follow(&mut self) -> bool {
        self.figures.send_modify(|figures| {
            let Figures { turns_total, streams_too_slow_total, calls_busy_total, counts, .. } = *figures;
            *figures = Figures {
                turns_total,
                streams_too_slow_total,
                calls_busy_total,
                counts,
                ..Figures::default()
            };
        });
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return false,
                changed = self.standing.changed() => return changed.is_ok(),
                Some(request) = self.requests.recv() => refuse(request, &no_leader()),
                // Sessions belong to a leadership that is over.
                Some(_) = self.heard.recv() => {}
            }
        }
    }

    /// Leads until the standing changes. Answers whether to go on.
    async fn lead(&mut self, term: u64) -> bool {
        // What came before is in the state; only what comes from now on is news.
        let state = match self.feed.take() {
            Some(news) => news.state,
            None => self.feed.latest(),
        };
        let clock = Clock::start();
        tracing::info!(term, log_index = state.applied(), "leading");
        let mut leading = Leading {
            leader: Leader::new(self.config.clone(), term, &state, clock.now()),
            state,
            clock,
            proposals: FuturesUnordered::new(),
            calls: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            agents: BTreeMap::new(),
            framework_signals: FuturesUnordered::new(),
            agent_signals: FuturesUnordered::new(),
            streams_looked_at: Instant::now(),
            too_slow: 0,
        };
        let goes_on = loop {
            self.settle(&mut leading);
            let event = self.next_event(&mut leading).await;
            if let Some(goes_on) = self.take_in(event, &mut leading) {
                break goes_on;
            }
            let mut goes_on = None;
            for _ in 1..TURN_EVENTS_MAX {
                let Some(event) = self.next_event(&mut leading).now_or_never() else { break };
                let is_time = matches!(event, Event::Time);
                goes_on = self.take_in(event, &mut leading);
                if goes_on.is_some() || is_time {
                    break;
                }
            }
            if let Some(goes_on) = goes_on {
                break goes_on;
            }
        };
        tracing::info!(term, "not leading any more");
        let effects = leading.leader.step_down();
        self.perform(effects, &mut leading);
        self.counts_before = sum(self.counts_before, leading.leader.counts());
        goes_on
    }

    /// Each arm is safe to drop: channels and futures keep what was not taken.
    async fn next_event(&mut self, leading: &mut Leading) -> Event {
        let wake = leading.clock.instant(leading.leader.wake_at());
        tokio::select! {
            () = self.stop.cancelled() => Event::Stop,
            // An error means that the sender is gone; the loop then looks and stops.
            _changed = self.standing.changed() => Event::Standing,
            Some(proposed) = leading.proposals.next() => Event::Proposed(proposed),
            () = self.feed.ready() => Event::News,
            Some(heard) = self.heard.recv() => Event::Heard(heard),
            Some(request) = self.requests.recv() => Event::Request(request),
            Some(signal) = leading.framework_signals.next() => Event::Framework(signal),
            Some(signal) = leading.agent_signals.next() => Event::Agent(signal),
            () = tokio::time::sleep_until(wake) => Event::Time,
        }
    }

    /// Hands one event to the machine. Answers whether to go on when the leadership ends with it.
    fn take_in(&mut self, event: Event, leading: &mut Leading) -> Option<bool> {
        match event {
            Event::Stop => return Some(false),
            Event::Standing => {
                let now = self.standing.has_changed().map(|_| *self.standing.borrow_and_update());
                return match now {
                    Ok(Standing::Leads { term }) if term == leading.leader.term() => None,
                    Ok(Standing::Leads { .. } | Standing::Follows) => Some(true),
                    Err(_sender_gone) => Some(false),
                };
            }
            Event::Proposed((ticket, result)) => {
                // The state that has the effect was published before the answer went out.
                self.take_news(leading);
                leading.handle(Input::Answered { ticket, result });
            }
            Event::News => self.take_news(leading),
            Event::Heard(Heard::Said { session, message }) => {
                leading.handle(Input::Said { session, message })
            }
            Event::Heard(Heard::Gone { session }) => leading.handle(Input::SessionGone { session }),
            Event::Request(request) => self.take_request(request, leading),
            Event::Framework(signal) => leading.framework_signal(signal),
            Event::Agent(signal) => leading.agent_signal(signal),
            Event::Time => leading.handle(Input::Tick),
        }
        None
    }

    fn take_news(&mut self, leading: &mut Leading) {
        let Some(News { state, changes }) = self.feed.take() else { return };
        leading.state = state;
        leading.handle(match changes {
            Some(changes) => Input::Applied { changes },
            None => Input::Restored,
        });
    }

    fn take_request(&mut self, request: Request, leading: &mut Leading) {
        let (what, waiting) = match request {
            Request::Soft { reply } => {
                // Whoever asked may have gone; then nobody wants the answer.
                let _ = reply.send(Ok(leading.soft_view()));
                return;
            }
            Request::Counted { reply } => {
                let _ = reply.send(Ok(leading.leader.counted(leading.clock.now())));
                return;
            }
            Request::Supported { version } => {
                leading.handle(Input::Supported { version });
                return;
            }
            Request::Call { call, reply } => (call, Waiting::Reply(reply)),
            Request::Subscribe { params, reply } => (Call::Subscribe(params), Waiting::Subscription(reply)),
            Request::Attach { hello, reply } => (Call::Attach(*hello), Waiting::Attachment(reply)),
        };
        self.next_call += 1;
        let call = CallId(self.next_call);
        leading.calls.insert(call, waiting);
        leading.handle(Input::Call { call, what });
    }

    fn settle(&mut self, leading: &mut Leading) {
        leading.look_at_streams();
        let effects = leading.leader.settle(&leading.state, leading.clock.now());
        self.perform(effects, leading);
        let counts = sum(self.counts_before, leading.leader.counts());
        let held_back = leading.leader.agents_held_back() as u64;
        if held_back > 0 && self.figures.borrow().agents_held_back == 0 {
            tracing::warn!(
                agents = held_back,
                "many agents are silent at once, so no more are marked unreachable now: look for what they have in \
                 common, and if they are truly lost, say `muster agent mark-unreachable --all-silent`"
            );
        }
        let (too_slow, busy) = (std::mem::take(&mut leading.too_slow), self.busy.count());
        self.figures.send_modify(|figures| {
            *figures = Figures {
                is_leader: true,
                term: leading.leader.term(),
                offers_outstanding: leading.leader.offers_outstanding() as u64,
                sessions_open: leading.leader.sessions_open() as u64,
                subscriptions_open: leading.leader.subscriptions_open() as u64,
                proposals_in_flight: leading.leader.proposals_in_flight() as u64,
                agents_held_back: held_back,
                turns_total: figures.turns_total + 1,
                streams_too_slow_total: figures.streams_too_slow_total + too_slow,
                calls_busy_total: busy,
                counts,
            };
        });
    }

    fn perform(&self, effects: Vec<Effect>, leading: &mut Leading) {
        for effect in effects {
            match effect {
                Effect::Propose { ticket, entry } => {
                    let answer = self.log.propose(entry);
                    leading.proposals.push(answer.map(move |result| (ticket, result)).boxed());
                }
                Effect::Answer { call, answer } => leading.answer(call, answer),
                Effect::OpenSubscription { call, framework, subscription } => {
                    let (outlet, events) = Outlet::new(subscription.clone());
                    leading.framework_signals.push(outlet.closed());
                    leading.frameworks.insert(subscription.clone(), outlet);
                    if let Some(Waiting::Subscription(reply)) = leading.calls.remove(&call) {
                        // Whoever asked may have gone; then the channel is closed, which is noticed.
                        let _ = reply.send(Ok(Subscription { framework, subscription, events }));
                    }
                }
                Effect::ToFramework { subscription, message } => {
                    let Some(outlet) = leading.frameworks.get_mut(&subscription) else { continue };
                    match outlet.send(message) {
                        Ok(room) => leading.framework_signals.extend(room),
                        Err(_too_slow) => leading.drop_framework(&subscription),
                    }
                }
                Effect::TellWhenDrained { subscription } => {
                    if let Some(outlet) = leading.frameworks.get(&subscription) {
                        leading.framework_signals.push(outlet.drained());
                    }
                }
                Effect::CloseSubscription { subscription } => {
                    leading.frameworks.remove(&subscription);
                }
                Effect::OpenSession { call, session } => {
                    let (outlet, messages) = Outlet::new(session);
                    leading.agent_signals.push(outlet.closed());
                    leading.agents.insert(session, outlet);
                    if let Some(Waiting::Attachment(reply)) = leading.calls.remove(&call) {
                        // As above.
                        let _ = reply.send(Ok(Attachment { session, messages }));
                    }
                }
                Effect::ToAgent { session, message } => {
                    let Some(outlet) = leading.agents.get_mut(&session) else { continue };
                    match outlet.send(message) {
                        Ok(room) => leading.agent_signals.extend(room),
                        Err(_too_slow) => leading.drop_agent(session),
                    }
                }
                Effect::CloseSession { session } => {
                    leading.agents.remove(&session);
                }
            }
        }
    }
}

impl Leading {
    fn handle(&mut self, input: Input) {
        self.leader.handle(input, &self.state, self.clock.now());
    }

    fn answer(&mut self, call: CallId, answer: Result<Reply, Refusal>) {
        let Some(waiting) = self.calls.remove(&call) else { return };
        let wrong = || Refusal::new(RefusalCode::Internal, "a stream was asked for and an answer came");
        // Whoever asked may have gone; then nobody wants the answer.
        match waiting {
            Waiting::Reply(reply) => drop(reply.send(answer)),
            Waiting::Subscription(reply) => drop(reply.send(Err(answer.err().unwrap_or_else(wrong)))),
            Waiting::Attachment(reply) => drop(reply.send(Err(answer.err().unwrap_or_else(wrong)))),
        }
    }

    fn framework_signal(&mut self, signal: Signal<SubscriptionId>) {
        match signal {
            Signal::Room(id) => {
                let room = self.frameworks.get_mut(&id).and_then(Outlet::flush);
                self.framework_signals.extend(room);
            }
            Signal::Drained(subscription) => self.handle(Input::Drained { subscription }),
            Signal::Closed(subscription) => {
                self.frameworks.remove(&subscription);
                self.handle(Input::SubscriptionGone { subscription });
            }
            Signal::Ended => {}
        }
    }

    fn agent_signal(&mut self, signal: Signal<SessionId>) {
        match signal {
            Signal::Room(id) => {
                let room = self.agents.get_mut(&id).and_then(Outlet::flush);
                self.agent_signals.extend(room);
            }
            Signal::Closed(session) => {
                self.agents.remove(&session);
                self.handle(Input::SessionGone { session });
            }
            Signal::Drained(_) | Signal::Ended => {}
        }
    }

    /// Ends streams whose readers have not read for too long.
    fn look_at_streams(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.streams_looked_at) < STREAMS_LOOKED_AT_INTERVAL {
            return;
        }
        self.streams_looked_at = now;
        let slow: Vec<_> = self
            .frameworks
            .iter()
            .filter(|(_, outlet)| outlet.is_too_slow(now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in slow {
            self.drop_framework(&id);
        }
        let slow: Vec<_> =
            self.agents.iter().filter(|(_, outlet)| outlet.is_too_slow(now)).map(|(id, _)| *id).collect();
        for id in slow {
            self.drop_agent(id);
        }
    }

    fn drop_framework(&mut self, subscription: &SubscriptionId) {
        tracing::warn!(%subscription, "a framework does not read its events, so its stream ends");
        self.too_slow += 1;
        self.frameworks.remove(subscription);
        self.handle(Input::SubscriptionGone { subscription: subscription.clone() });
    }

    fn drop_agent(&mut self, session: SessionId) {
        tracing::warn!(%session, "an agent does not read its orders, so its session ends");
        self.too_slow += 1;
        self.agents.remove(&session);
        self.handle(Input::SessionGone { session });
    }

    fn soft_view(&self) -> SoftView {
        let view = self.leader.view(&self.state);
        SoftView {
            term: view.term,
            offers: view
                .offers
                .into_iter()
                .map(|offer| OfferView {
                    offer: offer.id,
                    framework: offer.framework,
                    agent: offer.agent,
                    role: offer.role,
                    resources: offer.resources,
                    expires_at: offer.expires_at,
                })
                .collect(),
            sessions: view.sessions,
            silent: self.leader.silent_agents(self.clock.now()),
            held_back: view.held_back,
            waiting_because: view.waiting_because,
        }
    }
}

/// Wall time that never goes back: read once, then counted on by the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Clock {
    wall: Timestamp,
    at: Instant,
}

impl Clock {
    fn start() -> Self {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { wall: Timestamp::EPOCH + since_epoch, at: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        self.wall + self.at.elapsed()
    }

    fn instant(&self, time: Timestamp) -> Instant {
        self.at + time.since(self.wall)
    }
}

fn refuse(request: Request, refusal: &Refusal) {
    // Whoever asked may have gone; then nobody wants the answer.
    match request {
        Request::Call { call: _, reply } => drop(reply.send(Err(refusal.clone()))),
        Request::Subscribe { params: _, reply } => drop(reply.send(Err(refusal.clone()))),
        Request::Attach { hello: _, reply } => drop(reply.send(Err(refusal.clone()))),
        Request::Soft { reply } => drop(reply.send(Err(refusal.clone()))),
        Request::Counted { reply } => drop(reply.send(Err(refusal.clone()))),
        Request::Supported { version: _ } => {}
    }
}

fn no_leader() -> Refusal {
    Refusal::new(
        RefusalCode::NoLeader,
        "this member doesn't lead; try again in a moment, or ask another member",
    )
}

fn sum(before: Counts, now: Counts) -> Counts {
    Counts {
        cycles: before.cycles + now.cycles,
        offers_made: before.offers_made + now.offers_made,
        offers_accepted: before.offers_accepted + now.offers_accepted,
        offers_declined: before.offers_declined + now.offers_declined,
        offers_expired: before.offers_expired + now.offers_expired,
        offers_rescinded: before.offers_rescinded + now.offers_rescinded,
        tasks_launched: before.tasks_launched + now.tasks_launched,
        launches_refused: before.launches_refused + now.launches_refused,
        statuses_recorded: before.statuses_recorded + now.statuses_recorded,
        agents_marked_unreachable: before.agents_marked_unreachable + now.agents_marked_unreachable,
        subscriptions_replaced: before.subscriptions_replaced + now.subscriptions_replaced,
        known_tasks_told: before.known_tasks_told + now.known_tasks_told,
        known_tasks_spared: before.known_tasks_spared + now.known_tasks_spared,
    }
}
