//! The host of `core/leader`, as the coordinator's loop is one: it feeds the machine and does what it says.
//!
//! Like the loop it takes in many inputs, then settles them together, and sees the state that was published before
//! an answer. How late it is with all of that is a matter of chance.

use std::collections::{BTreeMap, VecDeque};

use cluster::{Change, ClusterState};
use leader::{Call, CallId, Effect, FromAgent, Input, Leader, SessionId};
use model::{Duration, Refusal, RefusalCode, SubscriptionId, Timestamp};

use super::{Member, Wake, consensus::Role};
use crate::{
    agent,
    network::{Conn, Down, Up},
    record::Fact,
    stage::{Place, Stage},
    time::Moment,
};

/// One leadership.
pub(super) struct Leading {
    leader: Leader,
    /// As the loop has seen it last.
    state: ClusterState,
    changes: Vec<Change>,
    is_news: bool,
    /// The state changed in ways that were not listed.
    is_restored: bool,
    inbox: VecDeque<Input>,
    turn_at: Option<Moment>,
    next_call: u64,
    calls: BTreeMap<CallId, Waiting>,
    sessions: BTreeMap<SessionId, Conn>,
    subscriptions: BTreeMap<SubscriptionId, Conn>,
    streams: BTreeMap<Conn, Stream>,
    /// Wall time is read once, then counted on by the clock that doesn't jump.
    wall: Timestamp,
    since: Duration,
}

enum Waiting {
    Answer { place: Place, life: u32, number: u64 },
    Stream(Conn),
}

enum Stream {
    Opening,
    Session(SessionId),
    Subscription(SubscriptionId),
}

impl Leading {
    pub(super) fn term(&self) -> u64 {
        self.leader.term()
    }

    pub(super) fn take(&mut self, input: Input) {
        self.inbox.push_back(input);
    }

    pub(super) fn learn(&mut self, changes: Vec<Change>) {
        self.is_news = true;
        self.changes.extend(changes);
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.calls.is_empty() && self.inbox.is_empty() && self.leader.proposals_in_flight() == 0
    }
}

impl Member {
    pub(super) fn lead(&mut self, term: u64, stage: &mut Stage) {
        let wall = self.clock.wall(stage.now);
        let since = self.clock.uptime(stage.now);
        stage.trace.line(stage.now, || format!("m{} begins to lead term {term}", self.number));
        stage.record.note(stage.now, &Fact::Leads { member: self.number });
        let mut leader = Leader::new(self.config.clone(), term, &self.state, wall);
        let version = cluster::VERSION_SUPPORTED;
        leader.handle(Input::Supported { version }, &self.state, wall);
        self.leading = Some(Leading {
            leader,
            state: self.state.clone(),
            changes: Vec::new(),
            is_news: false,
            is_restored: false,
            inbox: VecDeque::new(),
            turn_at: None,
            // Ids of calls go on counting through the life of a process.
            next_call: term << 32,
            calls: BTreeMap::new(),
            sessions: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            streams: BTreeMap::new(),
            wall,
            since,
        });
        self.poke(stage);
    }

    /// Ends the leadership of the host, if there is one.
    pub(super) fn end_leading(&mut self, stage: &mut Stage) {
        let Some(mut leading) = self.leading.take() else { return };
        stage.trace.line(stage.now, || format!("m{} leads no more", self.number));
        // It may have proposed in a later term before it heard of its end; the next one counts its tickets anew.
        self.tickets.clear();
        let effects = leading.leader.step_down();
        self.perform(effects, &mut leading, stage);
        for conn in leading.streams.into_keys() {
            stage.hang_up(self.place(), conn);
        }
    }

    pub(super) fn restored(&mut self) {
        if let Some(leading) = &mut self.leading {
            leading.is_news = true;
            leading.is_restored = true;
        }
    }

    fn leading_now(&self, leading: &Leading, stage: &Stage) -> Timestamp {
        leading.wall + self.clock.uptime(stage.now).saturating_sub(leading.since)
    }

    /// Sees to it that the loop has a turn soon.
    pub(super) fn poke(&mut self, stage: &mut Stage) {
        let most = if stage.misfortune(10) { Duration::from_secs(2) } else { Duration::from_millis(2) };
        let delay = stage.chance.uneven_span(Duration::from_micros(10), most);
        self.turn_after(delay, stage);
    }

    fn turn_after(&mut self, delay: Duration, stage: &mut Stage) {
        let at = stage.now + delay;
        let Some(leading) = &mut self.leading else { return };
        if leading.turn_at.is_none_or(|before| at < before) {
            leading.turn_at = Some(at);
            self.later(stage, delay, Wake::Turn);
        }
    }

    /// One turn of the loop.
    pub(super) fn turn(&mut self, stage: &mut Stage) {
        let Some(mut leading) =
            self.leading.take_if(|leading| leading.turn_at.is_some_and(|at| at <= stage.now))
        else {
            return;
        };
        leading.turn_at = None;
        let now = self.leading_now(&leading, stage);
        let has_answers = leading.inbox.iter().any(|input| matches!(input, Input::Answered { .. }));
        // News and other events race; but an answer never comes before the state that it speaks of.
        let is_late = leading.is_news && !has_answers && stage.misfortune(200);
        if leading.is_news && !is_late {
            leading.is_news = false;
            leading.state = self.state.clone();
            let changes = std::mem::take(&mut leading.changes);
            // More changes than a feed holds are not listed.
            let is_unlisted = std::mem::take(&mut leading.is_restored) || stage.misfortune(10);
            let input = if is_unlisted { Input::Restored } else { Input::Applied { changes } };
            leading.leader.handle(input, &leading.state, now);
        }
        for input in std::mem::take(&mut leading.inbox) {
            leading.leader.handle(input, &leading.state, now);
        }
        leading.leader.handle(Input::Tick, &leading.state, now);
        let effects = leading.leader.settle(&leading.state, now);
        // What a deposed leader promises is void, because it has no log to keep it.
        if matches!(self.role, Role::Leads { .. }) && leading.term() == self.disk.term {
            let fact = Fact::Settled { leader: &leading.leader, state: &leading.state };
            stage.record.note(stage.now, &fact);
        }
        let wake = leading.leader.wake_at().since(now).max(Duration::from_micros(1));
        self.perform(effects, &mut leading, stage);
        let is_more = !leading.inbox.is_empty() || is_late;
        self.leading = Some(leading);
        let wake = self.clock.truly(wake) + Duration::from_micros(1);
        self.turn_after(wake, stage);
        if is_more {
            self.poke(stage);
        }
    }

    fn perform(&mut self, effects: Vec<Effect>, leading: &mut Leading, stage: &mut Stage) {
        let place = self.place();
        for effect in effects {
            stage.trace.line(stage.now, || format!("m{} {effect:?}", self.number));
            match effect {
                Effect::Propose { ticket, entry } => {
                    stage.record.note(stage.now, &Fact::Proposed { member: self.number, entry: &entry });
                    if let Err(error) = self.propose(ticket, entry, stage) {
                        leading.take(Input::Answered { ticket, result: Err(error) });
                    }
                }
                Effect::Answer { call, answer } => match leading.calls.remove(&call) {
                    Some(Waiting::Answer { place, life, number }) => {
                        stage.answer(self.number, place, life, number, answer);
                    }
                    Some(Waiting::Stream(conn)) => {
                        leading.streams.remove(&conn);
                        let why = answer.err().unwrap_or_else(|| {
                            Refusal::new(RefusalCode::Internal, "a stream was asked for and an answer came")
                        });
                        stage.send_down(conn, Down::Refused(why));
                        stage.hang_up(place, conn);
                    }
                    None => {
                        let why = format!("a call was answered twice, or by nobody's wish: {answer:?}");
                        stage.record.fail(stage.now, "calls_answered", why);
                    }
                },
                Effect::OpenSubscription { call, framework: _, subscription } => {
                    if let Some(conn) = leading.opened(call, Stream::Subscription(subscription.clone())) {
                        leading.subscriptions.insert(subscription, conn);
                    }
                }
                Effect::ToFramework { subscription, message } => {
                    if let Some(conn) = leading.subscriptions.get(&subscription) {
                        stage.send_down(*conn, Down::ToFramework(Box::new(message)));
                    }
                }
                Effect::TellWhenDrained { subscription } => {
                    if let Some(conn) = leading.subscriptions.get(&subscription) {
                        stage.send_down(*conn, Down::TellWhenDrained(subscription));
                    }
                }
                Effect::CloseSubscription { subscription } => {
                    if let Some(conn) = leading.subscriptions.remove(&subscription) {
                        leading.streams.remove(&conn);
                        stage.hang_up(place, conn);
                    }
                }
                Effect::OpenSession { call, session } => {
                    if let Some(conn) = leading.opened(call, Stream::Session(session)) {
                        leading.sessions.insert(session, conn);
                    }
                }
                Effect::ToAgent { session, message } => {
                    if let Some(conn) = leading.sessions.get(&session) {
                        stage.send_down(*conn, Down::ToAgent(Box::new(message)));
                    }
                }
                Effect::CloseSession { session } => {
                    if let Some(conn) = leading.sessions.remove(&session) {
                        leading.streams.remove(&conn);
                        stage.hang_up(place, conn);
                    }
                }
            }
        }
    }

    pub(super) fn take_call(&mut self, place: Place, life: u32, number: u64, call: Call, stage: &mut Stage) {
        let Some(leading) = &mut self.leading else { return };
        leading.call(Waiting::Answer { place, life, number }, call);
        self.poke(stage);
    }

    pub(super) fn hear(&mut self, conn: Conn, from: Place, message: Up, stage: &mut Stage) {
        let Some(leading) = &mut self.leading else { return };
        match message {
            Up::Hello(hello) => {
                leading.streams.insert(conn, Stream::Opening);
                leading.call(Waiting::Stream(conn), Call::Attach(*hello));
            }
            Up::Subscribe(params) => {
                leading.streams.insert(conn, Stream::Opening);
                leading.call(Waiting::Stream(conn), Call::Subscribe(*params));
            }
            Up::Said(message) => {
                let Some(Stream::Session(session)) = leading.streams.get(&conn) else { return };
                let (session, message): (_, FromAgent) = (*session, *message);
                if let Place::Agent(number) = from
                    && let Ok(agent) = agent::id_of(number)
                {
                    stage.record.note(stage.now, &Fact::Spoke { member: self.number, agent: &agent });
                }
                leading.take(Input::Said { session, message });
            }
            Up::Drained(subscription) => leading.take(Input::Drained { subscription }),
            Up::End => {
                stage.gone(self.place(), conn);
                return self.stream_gone(conn, stage);
            }
        }
        self.poke(stage);
    }

    pub(super) fn stream_gone(&mut self, conn: Conn, stage: &mut Stage) {
        let Some(leading) = &mut self.leading else { return };
        match leading.streams.remove(&conn) {
            Some(Stream::Session(session)) => {
                leading.sessions.remove(&session);
                leading.take(Input::SessionGone { session });
            }
            Some(Stream::Subscription(subscription)) => {
                leading.subscriptions.remove(&subscription);
                leading.take(Input::SubscriptionGone { subscription });
            }
            // It is noticed when the stream is opened.
            Some(Stream::Opening) | None => {}
        }
        self.poke(stage);
    }
}

impl Leading {
    fn call(&mut self, waiting: Waiting, what: Call) {
        self.next_call += 1;
        let call = CallId(self.next_call);
        self.calls.insert(call, waiting);
        self.take(Input::Call { call, what });
    }

    /// The stream that waited for this; of one that has ended meanwhile the machine hears at once.
    fn opened(&mut self, call: CallId, stream: Stream) -> Option<Conn> {
        let Some(Waiting::Stream(conn)) = self.calls.remove(&call) else { return None };
        if let Some(known) = self.streams.get_mut(&conn) {
            *known = stream;
            return Some(conn);
        }
        let gone = match stream {
            Stream::Session(session) => Input::SessionGone { session },
            Stream::Subscription(subscription) => Input::SubscriptionGone { subscription },
            Stream::Opening => return None,
        };
        self.take(gone);
        None
    }
}
