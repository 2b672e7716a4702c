//! The machine itself: one input in, effects out; what many inputs caused is settled together.
//!
//! [`Leader::handle`] takes what happened, [`Leader::settle`] does what follows from all of it. Orders to agents,
//! events to frameworks and the connection of frameworks are derived as levels from the state, so that a
//! change that was missed or came twice does no harm.

use std::collections::BTreeSet;

use cluster::{
    Answer, CLUSTER_TIME_SINCE, Change, ClusterState, Command, Entry, FrameworkState, RUN_FRAMEWORK,
};
use model::{AgentId, ClusterTime, FrameworkId, Refusal, RefusalCode, SubscriptionId, TaskId, Timestamp};

use crate::{
    agents::Sessions,
    config::{Config, HOUSEKEEPING_INTERVAL, TIME_UNTOLD_MAX},
    cycle::Cycle,
    filters::Filters,
    frameworks::{Interests, Subscribers},
    liveness::Liveness,
    messages::{Call, FromAgent, Reply, SessionId, ToAgent, ToFramework},
    offers::{Ending, Offers},
    outputs::Reads,
    proposals::{Asker, CallId, Proposals, ProposeError, Purpose, Ticket},
    runner::Runner,
    usage::Histories,
};

/// What can happen to the leader.
#[derive(Debug, Clone)]
pub enum Input {
    /// Somebody asks; exactly one answer or opened stream follows.
    Call { call: CallId, what: Call },
    /// Every member reads cluster versions up to this one; 0: nobody knows. Until it was told, the leader raises nothing.
    Supported { version: u32 },
    /// An agent said something.
    Said { session: SessionId, message: FromAgent },
    /// An agent's stream has ended, or could not be written to.
    SessionGone { session: SessionId },
    /// A framework's stream has ended, or could not be written to.
    SubscriptionGone { subscription: SubscriptionId },
    /// A framework has read what it was sent, as [`Effect::TellWhenDrained`] asked.
    Drained { subscription: SubscriptionId },
    /// The log went on: the state that comes with this input has these changes.
    Applied { changes: Vec<Change> },
    /// The state changed in ways that were not listed: by a snapshot, or by more than can be listed.
    Restored,
    /// A proposal is over. The state that comes with this input must have its effect already.
    Answered { ticket: Ticket, result: Result<Result<Answer, Refusal>, ProposeError> },
    /// Time has passed.
    Tick,
}

/// What the leader wants done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Propose {
        ticket: Ticket,
        entry: Entry,
    },
    Answer {
        call: CallId,
        answer: Result<Reply, Refusal>,
    },
    /// Answers a Subscribe: messages follow.
    OpenSubscription {
        call: CallId,
        framework: FrameworkId,
        subscription: SubscriptionId,
    },
    ToFramework {
        subscription: SubscriptionId,
        message: ToFramework,
    },
    /// Tell when the framework has read what it was sent so far.
    TellWhenDrained {
        subscription: SubscriptionId,
    },
    CloseSubscription {
        subscription: SubscriptionId,
    },
    /// Answers an Attach: messages follow.
    OpenSession {
        call: CallId,
        session: SessionId,
    },
    ToAgent {
        session: SessionId,
        message: ToAgent,
    },
    CloseSession {
        session: SessionId,
    },
}

/// What happened since this leadership began, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub cycles: u64,
    pub offers_made: u64,
    pub offers_accepted: u64,
    pub offers_declined: u64,
    pub offers_expired: u64,
    pub offers_rescinded: u64,
    pub tasks_launched: u64,
    pub launches_refused: u64,
    pub statuses_recorded: u64,
    pub agents_marked_unreachable: u64,
    pub subscriptions_replaced: u64,
    /// Tasks of which agents told at their attach.
    pub known_tasks_told: u64,
    /// Those of which they need not, because their digests had said enough.
    pub known_tasks_spared: u64,
}

/// The leader of one term.
#[derive(Debug, Clone)]
pub struct Leader {
    pub(crate) config: Config,
    pub(crate) term: u64,
    pub(crate) began_at: Timestamp,
    /// What the leaders before this one counted.
    counted_before: ClusterTime,
    /// The log is being told what was counted.
    is_telling_time: bool,
    /// The newest cluster version that all members read; 0 until that was told.
    version_supported: u32,
    is_raising_version: bool,
    is_beginning_cluster: bool,
    pub(crate) run_framework: Option<FrameworkId>,
    pub(crate) proposals: Proposals,
    pub(crate) sessions: Sessions,
    pub(crate) liveness: Liveness,
    pub(crate) subscribers: Subscribers,
    pub(crate) interests: Interests,
    pub(crate) offers: Offers,
    pub(crate) filters: Filters,
    pub(crate) cycle: Cycle,
    pub(crate) runner: Runner,
    pub(crate) reads: Reads,
    pub(crate) histories: Histories,
    pub(crate) counts: Counts,
    pub(crate) touched: Touched,
    pub(crate) housekeeping_at: Timestamp,
    pub(crate) effects: Vec<Effect>,
}

/// What may have to be looked at again when the turn is settled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touched {
    pub(crate) tasks: BTreeSet<TaskId>,
    pub(crate) agents: BTreeSet<AgentId>,
    pub(crate) frameworks: BTreeSet<FrameworkId>,
}

impl Leader {
    /// Begins a leadership. The state must hold all that earlier leaders were promised.
    pub fn new(config: Config, term: u64, state: &ClusterState, now: Timestamp) -> Self {
        let mut leader = Self {
            term,
            began_at: now,
            counted_before: state.counted(),
            is_telling_time: false,
            version_supported: 0,
            is_raising_version: false,
            is_beginning_cluster: false,
            run_framework: FrameworkId::new(RUN_FRAMEWORK).ok(),
            proposals: Proposals::default(),
            sessions: Sessions::new(term),
            liveness: Liveness::default(),
            subscribers: Subscribers::new(term),
            interests: Interests::default(),
            offers: Offers::new(term),
            filters: Filters::default(),
            cycle: Cycle::default(),
            runner: Runner::default(),
            reads: Reads::default(),
            histories: Histories::default(),
            counts: Counts::default(),
            touched: Touched::default(),
            housekeeping_at: now,
            effects: Vec::new(),
            config,
        };
        leader.touch_everything(state, now);
        let away = state.agents().iter().filter(|(_, agent)| !agent.is_reachable).map(|(id, _)| id);
        leader.liveness.begin(away, now);
        leader
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, state: &ClusterState, now: Timestamp) {
        self.wake(now);
        match input {
            Input::Call { call, what } => self.call(Asker::Daemon(call), what, state, now),
            Input::Supported { version } => {
                self.version_supported = version;
                self.raise_version(state, now);
            }
            Input::Said { session, message } => self.agent_said(session, message, now),
            Input::SessionGone { session } => self.end_session(session, None),
            Input::SubscriptionGone { subscription } => self.end_subscription(&subscription, None),
            Input::Drained { subscription } => self.subscription_drained(&subscription),
            Input::Applied { changes } => {
                for change in changes {
                    self.note_change(change, state, now);
                }
            }
            Input::Restored => self.touch_everything(state, now),
            Input::Answered { ticket, result } => self.answered(ticket, result, state, now),
            Input::Tick => {}
        }
    }

    /// Does what follows from everything that was handled, and says what is to be done.
    pub fn settle(&mut self, state: &ClusterState, now: Timestamp) -> Vec<Effect> {
        self.wake(now);
        self.expire_offers(now);
        self.reads_overdue(now);
        self.histories_overdue(now);
        if self.housekeeping_at <= now {
            self.housekeeping_at = now + HOUSEKEEPING_INTERVAL;
            self.begin_cluster(state, now);
            self.raise_version(state, now);
            self.keep_house(state, now);
        }
        self.settle_agents(state, now);
        self.settle_frameworks(state, now);
        self.record_statuses(state, now);
        self.dispatch_reads(state, now);
        self.run_speaks(state, now);
        self.cycle(state, now);
        self.run_decides(state, now);
        std::mem::take(&mut self.effects)
    }

    /// A leader is late when its process or its host stood still.
    fn wake(&mut self, now: Timestamp) {
        let late = now.since(self.housekeeping_at);
        if late >= HOUSEKEEPING_INTERVAL {
            self.liveness.slept(late, now);
            self.housekeeping_at = now;
        }
    }

    /// When to settle next if nothing else happens.
    pub fn wake_at(&self) -> Timestamp {
        let mut at = self.housekeeping_at;
        for other in [
            self.offers.next_expiry(),
            self.filters.next_end(),
            self.cycle.due_at(),
            self.reads.next_end(),
            self.histories.next_end(),
            self.sessions.next_retry(),
            self.runner.next_retry(),
            self.next_acknowledgement(),
        ] {
            at = at.min(other.unwrap_or(at));
        }
        at
    }

    /// Ends the leadership: everyone who waits is told, and every stream ends.
    pub fn step_down(&mut self) -> Vec<Effect> {
        let lost = || {
            Refusal::new(
                RefusalCode::NoLeader,
                "this member doesn't lead any more; connect again to reach the new leader",
            )
        };
        for ticket in self.proposals.tickets() {
            let Some(purpose) = self.proposals.end(ticket) else { continue };
            for call in waiting_calls(&purpose) {
                self.answer(Asker::Daemon(call), Err(ProposeError::Unknown.refusal()));
            }
        }
        for call in self.reads.calls().into_iter().chain(self.histories.calls()) {
            self.answer(Asker::Daemon(call), Err(lost()));
        }
        for subscription in self.subscribers.ids() {
            self.end_subscription(&subscription, Some(ToFramework::Ended(lost())));
        }
        for session in self.sessions.ids() {
            self.end_session(session, Some(ToAgent::Refused { refusal: lost(), is_final: false }));
        }
        std::mem::take(&mut self.effects)
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    /// How many proposals have no answer yet.
    pub fn proposals_in_flight(&self) -> usize {
        self.proposals.len()
    }

    fn begin_cluster(&mut self, state: &ClusterState, now: Timestamp) {
        if state.cluster().is_none() && !self.is_beginning_cluster {
            self.is_beginning_cluster = true;
            let cluster = self.config.cluster_new.clone();
            self.propose(Purpose::Initialize, Command::Initialize { cluster }, now);
        }
    }

    /// A member that does not read a version stops at the first entry that needs it: so all must.
    fn raise_version(&mut self, state: &ClusterState, now: Timestamp) {
        let version = self.version_supported;
        if state.version() > 0 && state.version() < version && !self.is_raising_version {
            self.is_raising_version = true;
            self.propose(Purpose::RaiseVersion, Command::RaiseVersion { version }, now);
        }
    }

    fn touch_everything(&mut self, state: &ClusterState, now: Timestamp) {
        self.touched.frameworks.extend(state.frameworks().keys().cloned());
        self.touched.frameworks.extend(self.subscribers.frameworks().cloned());
        for (id, agent) in state.agents() {
            self.touched.agents.insert(id.clone());
            self.touched.tasks.extend(agent.tasks.iter().cloned());
            if agent.is_reachable {
                self.liveness.watch(id, now);
            }
        }
        self.touched.tasks.extend(self.sessions.told_tasks());
        self.runner.touch();
        self.cycle.touch();
    }

    fn note_change(&mut self, change: Change, state: &ClusterState, now: Timestamp) {
        match change {
            Change::Task(task) => {
                if state.task(&task).is_none_or(|task| task.is_over()) {
                    self.cycle.touch();
                }
                self.touched.tasks.insert(task);
            }
            Change::Agent(agent) => {
                match state.agent(&agent) {
                    Some(record) if record.is_reachable => self.liveness.watch(&agent, now),
                    Some(_) | None => self.liveness.forget(&agent),
                }
                self.touched.agents.insert(agent);
                self.cycle.touch();
            }
            // Most are acknowledgements; what matters to offers touches the cycle where it is answered.
            Change::Framework(framework) => {
                self.touched.frameworks.insert(framework);
            }
            Change::Role(_) => self.cycle.touch(),
            // Who asks is judged before the leader hears of it.
            Change::Access => {}
            Change::Queue => self.runner.touch(),
            Change::Event { framework, cursor: _ } => {
                self.touched.frameworks.insert(framework);
            }
        }
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        result: Result<Result<Answer, Refusal>, ProposeError>,
        state: &ClusterState,
        now: Timestamp,
    ) {
        let Some(purpose) = self.proposals.end(ticket) else { return };
        let flat = match &result {
            Ok(answer) => answer.clone(),
            Err(error) => Err(error.refusal()),
        };
        match purpose {
            Purpose::Initialize => {
                self.is_beginning_cluster = false;
                self.touch_everything(state, now);
                self.raise_version(state, now);
            }
            // One that failed is tried again by the next housekeeping.
            Purpose::RaiseVersion => self.is_raising_version = false,
            Purpose::Prune => {}
            Purpose::CountTime => self.is_telling_time = false,
            Purpose::RegisterFramework { call, cursor } => {
                self.framework_registered(call, cursor, flat, state, now);
            }
            Purpose::Subscribe { opening } => self.opening_answered(opening, flat, state, now),
            Purpose::Connection { framework } => {
                self.interests.connecting.remove(&framework);
                self.touched.frameworks.insert(framework);
            }
            Purpose::EndFramework { framework } => {
                self.interests.ending.remove(&framework);
                self.touched.frameworks.insert(framework);
            }
            Purpose::Acknowledge { framework } => self.acknowledged(framework, result.is_ok(), now),
            Purpose::Launch(launching) => self.launched(launching, flat, state, now),
            Purpose::RegisterAgent { session } => self.agent_registered(session, flat, state),
            Purpose::MarkUnreachable { agent } => {
                self.liveness.marked(&agent, flat.is_ok(), now);
                if flat.is_ok() {
                    self.counts.agents_marked_unreachable += 1;
                }
            }
            Purpose::Record { session, statuses } => self.recorded(session, statuses, result, now),
            Purpose::Pass { asker } => {
                self.cycle.touch();
                let reply = flat.map(|answer| match answer {
                    Answer::Submitted(tasks) => Reply::Submitted(tasks),
                    Answer::Launched(results) => Reply::Launched(results),
                    Answer::Done
                    | Answer::FrameworkRegistered { .. }
                    | Answer::AgentRegistered { .. }
                    | Answer::Recorded(_)
                    | Answer::Pruned { .. } => Reply::Done,
                });
                self.answer(asker, reply);
            }
        }
    }

    /// Looks for silence and timeouts.
    fn keep_house(&mut self, state: &ClusterState, now: Timestamp) {
        if state.cluster().is_none() {
            return;
        }
        self.mark_silent_agents(state, now);
        self.heartbeat_agents(now);
        self.pace_reports();
        self.heartbeat_frameworks(now);
        self.look_after_frameworks(state, now);
        let is_counting = state.version() >= CLUSTER_TIME_SINCE;
        let counted_before = is_counting.then(|| self.counted(now) - self.config.finished_tasks_kept);
        let is_stale = state.prunable_since().is_some_and(|since| Some(since) < counted_before);
        if state.is_prune_due() || is_stale {
            let keep = model::limits::FINISHED_TASKS_KEPT_MAX as u64;
            let command = Command::Prune { keep, before: None, counted_before };
            self.propose(Purpose::Prune, command, now);
        }
        if is_counting {
            self.tell_time(state, now);
        }
    }

    /// What the leaders have counted together until now.
    pub fn counted(&self, now: Timestamp) -> ClusterTime {
        self.counted_before + now.since(self.began_at)
    }

    /// Lets the log know what was counted, where a deadline depends on it and nothing else was proposed for long:
    /// the next leader counts on from what the log knows.
    fn tell_time(&mut self, state: &ClusterState, now: Timestamp) {
        let is_away = |framework: &cluster::Framework| match framework.state {
            FrameworkState::Connected => false,
            FrameworkState::Disconnected { .. } => !framework.is_built_in,
        };
        let is_due = self.counted(now).since(state.counted()) >= TIME_UNTOLD_MAX;
        if is_due
            && !self.is_telling_time
            && (state.prunable_count() > 0
                || !state.access().is_timeless()
                || state.has_open_join_tokens()
                || state.frameworks().values().any(|framework| is_away(framework)))
        {
            self.is_telling_time = true;
            self.propose(Purpose::CountTime, Command::CountTime, now);
        }
    }

    fn look_after_frameworks(&mut self, state: &ClusterState, now: Timestamp) {
        for (id, framework) in state.frameworks() {
            if framework.is_built_in || self.subscribers.of_framework(id).is_some() {
                continue;
            }
            match framework.state {
                FrameworkState::Connected => {
                    self.touched.frameworks.insert(id.clone());
                }
                FrameworkState::Disconnected { at: _, counted } => {
                    let is_over = counted + framework.info.failover_timeout <= self.counted(now);
                    if is_over && self.patient_until() <= now && self.interests.may_end(id) {
                        let command = Command::TearDownFramework { framework: id.clone(), request: None };
                        self.interests.ending.insert(id.clone());
                        self.propose(Purpose::EndFramework { framework: id.clone() }, command, now);
                    }
                }
            }
        }
    }

    /// Until when absence is the new leader's fault.
    pub(crate) fn patient_until(&self) -> Timestamp {
        self.began_at + self.config.patience
    }

    pub(crate) fn propose(&mut self, purpose: Purpose, command: Command, now: Timestamp) {
        let ticket = self.proposals.begin(purpose);
        let entry = Entry { at: now, counted: self.counted(now), command };
        self.effects.push(Effect::Propose { ticket, entry });
    }

    pub(crate) fn answer(&mut self, asker: Asker, answer: Result<Reply, Refusal>) {
        match asker {
            Asker::Daemon(call) => self.effects.push(Effect::Answer { call, answer }),
            Asker::Run(call) => self.runner.hear_answer(call, answer),
        }
    }

    /// Ends offers and lets their frameworks know.
    pub(crate) fn rescind(&mut self, offers: Vec<model::OfferId>, ending: Ending, reason: &'static str) {
        for id in offers {
            let Some(offer) = self.offers.end(&id, ending) else { continue };
            self.cycle.touch();
            if let Some(subscription) = self.subscribers.of_framework(&offer.framework) {
                let subscription = subscription.clone();
                self.tell_framework(&subscription, ToFramework::Rescind { offer: id, reason });
            }
        }
    }
}

fn waiting_calls(purpose: &Purpose) -> Vec<CallId> {
    let of = |asker: &Asker| match asker {
        Asker::Daemon(call) => Some(*call),
        Asker::Run(_) => None,
    };
    match purpose {
        Purpose::RegisterFramework { call, cursor: _ } => vec![*call],
        Purpose::Subscribe { opening } => vec![opening.call],
        Purpose::Launch(launching) => launching.askers.iter().filter_map(of).collect(),
        Purpose::Pass { asker } => of(asker).into_iter().collect(),
        Purpose::Initialize
        | Purpose::RaiseVersion
        | Purpose::Connection { .. }
        | Purpose::EndFramework { .. }
        | Purpose::Acknowledge { .. }
        | Purpose::RegisterAgent { .. }
        | Purpose::MarkUnreachable { .. }
        | Purpose::Record { .. }
        | Purpose::Prune
        | Purpose::CountTime => Vec::new(),
    }
}
