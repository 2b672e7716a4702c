//! A framework: it subscribes again with id and cursor, accepts and declines, kills, asks, and acknowledges.

use std::collections::BTreeMap;

use cluster::FrameworkInfo;
use leader::{Call, Caller, Demand, OfferMessage, Reply, SubscribeParams, ToFramework};
use model::{
    Cursor, Duration, Exit, FrameworkEvent, FrameworkId, RefusalCode, RequestId, Resources, RoleName,
    SubscriptionId, TaskId, TaskSpec, TaskState, TaskStatus,
};

use super::{Calls, Heard, Wake, Work, any_work, spec};
use crate::{
    network::{Conn, Down, Up},
    record::Fact,
    stage::{Phase, Place, Stage, What},
    time::Moment,
};

/// Thousandths of a core that a task needs at least, and all do in the calm.
pub const SLICE_MILLI: u64 = 500;
/// Heartbeats of the leader that may be missing.
const SILENT_HEARTBEATS_MAX: u32 = 3;
/// How often a framework that fills everything looks for offers.
const FILL_PAUSE: Duration = Duration::from_millis(10);
/// How often a framework looks for a subscription.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(15);

struct Stream {
    conn: Conn,
    subscription: Option<SubscriptionId>,
    heartbeat: Duration,
    heard_at: Moment,
}

/// One framework.
pub struct Framework {
    number: usize,
    role: RoleName,
    pub is_up: bool,
    // Written down, and so there after a crash.
    /// How often it had to begin as a new one.
    generation: u32,
    id: Option<FrameworkId>,
    stored: Cursor,
    /// Its tasks, and the latest state that it knows of each.
    tasks: BTreeMap<TaskId, Option<TaskState>>,
    next_name: u64,
    calls: Calls,
    // In memory.
    handled: Cursor,
    stream: Option<Stream>,
    offers: Vec<OfferMessage>,
    next_member: usize,
    /// What it has said of its appetite in the calm.
    has_spoken: Option<Phase>,
    /// Tasks that it has not killed in the calm yet.
    to_end: Vec<TaskId>,
}

impl Framework {
    pub fn new(number: usize, role: RoleName) -> Self {
        Self {
            number,
            role,
            is_up: false,
            generation: 0,
            id: None,
            stored: Cursor::START,
            tasks: BTreeMap::new(),
            next_name: 0,
            calls: Calls::default(),
            handled: Cursor::START,
            stream: None,
            offers: Vec::new(),
            next_member: 0,
            has_spoken: None,
            to_end: Vec::new(),
        }
    }

    fn place(&self) -> Place {
        Place::Framework(self.number)
    }

    fn later(&self, stage: &mut Stage, delay: Duration, wake: Wake) {
        stage.later(self.place(), delay, What::Client(wake));
    }

    pub fn id(&self) -> Option<&FrameworkId> {
        self.id.as_ref()
    }

    pub fn role(&self) -> &RoleName {
        &self.role
    }

    pub fn wake(&mut self, wake: Wake, stage: &mut Stage) {
        if !self.is_up {
            return;
        }
        match wake {
            Wake::Down { conn, message } => {
                if stage.arrives(self.place(), conn) {
                    self.down(conn, message, stage);
                }
            }
            Wake::Gone { conn } => {
                stage.gone(self.place(), conn);
                self.stream_over(conn, stage);
            }
            Wake::Answered { number, member, answer } => {
                match self.calls.answered(self.place(), number, member, *answer, stage) {
                    Heard::Over(call, answer) => self.answered(*call, answer, stage),
                    Heard::NotYet => {}
                    Heard::Replaced => {
                        if let Some(conn) = self.stream.as_ref().map(|stream| stream.conn) {
                            self.give_up(conn, stage);
                        }
                    }
                }
            }
            Wake::Again { number, tries } => {
                let subscription = self.subscription();
                self.calls.again(self.place(), (number, tries), subscription.as_ref(), stage);
            }
            Wake::Connect => self.connect(stage),
            Wake::Look { conn } => self.look(conn, stage),
            Wake::Act => {
                self.act(stage);
                let pace = stage.parameters.client_pace;
                let delay = match stage.phase {
                    Phase::Trouble => stage.chance.uneven_span(pace / 8, pace * 2),
                    Phase::Calm | Phase::Fair => Duration::from_secs(1),
                    Phase::Full => FILL_PAUSE,
                };
                self.later(stage, delay, Wake::Act);
            }
        }
    }

    pub fn restart(&mut self, stage: &mut Stage) {
        if self.is_up {
            return;
        }
        self.is_up = true;
        self.handled = self.stored;
        self.has_spoken = None;
        self.calls.forget_careless();
        self.calls.resume(self.place(), stage);
        self.later(stage, Duration::ZERO, Wake::Connect);
        self.later(stage, Duration::from_secs(1), Wake::Act);
    }

    pub fn crash(&mut self, stage: &mut Stage) {
        if !self.is_up {
            return;
        }
        stage.trace.line(stage.now, || format!("f{} crashes", self.number));
        self.is_up = false;
        stage.break_lines_of(self.place(), false);
        stage.end_life(self.place());
        self.stream = None;
        self.offers.clear();
    }

    fn connect(&mut self, stage: &mut Stage) {
        if self.stream.is_some() {
            return;
        }
        let Ok(request) = RequestId::new(&format!("f{}.{}", self.number, self.generation)) else { return };
        let params = SubscribeParams {
            info: FrameworkInfo {
                name: format!("f{}", self.number),
                role: self.role.clone(),
                failover_timeout: stage.parameters.failover_timeout,
            },
            framework: self.id.clone(),
            cursor: Some(self.handled),
            request: Some(request),
        };
        self.next_member = (self.next_member + 1) % stage.parameters.members;
        stage.trace.line(stage.now, || {
            format!("f{} subscribes at m{} after {:?}", self.number, self.next_member, self.handled)
        });
        let conn = stage.open(self.place(), self.next_member, Up::Subscribe(Box::new(params)));
        let heartbeat = SUBSCRIBE_PATIENCE / SILENT_HEARTBEATS_MAX;
        self.stream = Some(Stream { conn, subscription: None, heartbeat, heard_at: stage.now });
        self.later(stage, SUBSCRIBE_PATIENCE, Wake::Look { conn });
    }

    fn look(&mut self, conn: Conn, stage: &mut Stage) {
        let Some(stream) = self.stream.as_ref().filter(|stream| stream.conn == conn) else { return };
        if stage.now.since(stream.heard_at) >= stream.heartbeat * SILENT_HEARTBEATS_MAX {
            return self.give_up(conn, stage);
        }
        let delay = stream.heartbeat;
        self.later(stage, delay, Wake::Look { conn });
    }

    fn give_up(&mut self, conn: Conn, stage: &mut Stage) {
        stage.hang_up(self.place(), conn);
        self.stream_over(conn, stage);
    }

    fn stream_over(&mut self, conn: Conn, stage: &mut Stage) {
        let Some(stream) = self.stream.take_if(|stream| stream.conn == conn) else { return };
        if stream.subscription.is_some() {
            self.next_member = (self.next_member + stage.parameters.members - 1) % stage.parameters.members;
        }
        self.offers.clear();
        self.has_spoken = None;
        let delay = stage.chance.span(Duration::from_millis(10), CONNECT_PAUSE);
        self.later(stage, delay, Wake::Connect);
    }

    fn subscription(&self) -> Option<SubscriptionId> {
        self.stream.as_ref()?.subscription.clone()
    }

    fn down(&mut self, conn: Conn, message: Down, stage: &mut Stage) {
        let now = stage.now;
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.conn == conn) else { return };
        stream.heard_at = now;
        match message {
            Down::ToFramework(message) => self.hear(conn, *message, stage),
            Down::TellWhenDrained(subscription) => stage.send_up(conn, Up::Drained(subscription)),
            Down::Refused(refusal) => {
                if refusal.code == RefusalCode::FrameworkEnded {
                    self.begin_anew(stage);
                }
                self.give_up(conn, stage);
            }
            Down::End => {
                stage.gone(self.place(), conn);
                self.stream_over(conn, stage);
            }
            Down::ToAgent(_) => {}
        }
    }

    /// Its id is never used again, and its tasks are being ended.
    fn begin_anew(&mut self, stage: &mut Stage) {
        stage.trace.line(stage.now, || format!("f{} was torn down", self.number));
        self.generation += 1;
        self.id = None;
        self.stored = Cursor::START;
        self.handled = Cursor::START;
        self.tasks.clear();
        self.calls.pending.clear();
    }

    fn hear(&mut self, conn: Conn, message: ToFramework, stage: &mut Stage) {
        let now = stage.now;
        match message {
            ToFramework::Subscribed { framework, subscription, heartbeat_interval } => {
                let Some(stream) = &mut self.stream else { return };
                stream.heartbeat = heartbeat_interval;
                stream.subscription = Some(subscription);
                self.calls.member = self.next_member;
                stage.record.note(now, &Fact::Subscribed { framework: &framework });
                self.id = Some(framework);
                self.calls.resume(self.place(), stage);
                self.later(stage, heartbeat_interval, Wake::Look { conn });
            }
            ToFramework::Durable { cursor, event } => {
                let Some(framework) = &self.id else { return };
                stage.record.note(now, &Fact::Heard { framework, cursor, event: &event });
                self.handled = self.handled.max(cursor);
                if let FrameworkEvent::Status(status) = event {
                    self.know(&status);
                }
            }
            ToFramework::Compacted { statuses, cursor } => {
                let Some(framework) = &self.id else { return };
                stage.record.note(now, &Fact::Compacted { framework, statuses: &statuses, cursor });
                self.handled = self.handled.max(cursor);
                statuses.iter().for_each(|status| self.know(status));
            }
            ToFramework::Offers(offers) => {
                let Some(framework) = &self.id else { return };
                for offer in offers {
                    stage.record.note(now, &Fact::Offered { framework, offer: &offer });
                    self.offers.push(offer);
                }
            }
            ToFramework::Rescind { offer, reason: _ } => self.offers.retain(|known| known.offer != offer),
            ToFramework::Heartbeat => {}
            ToFramework::Replaced => {}
            ToFramework::Ended(refusal) => {
                if refusal.code == RefusalCode::FrameworkEnded {
                    self.begin_anew(stage);
                }
            }
        }
    }

    fn know(&mut self, status: &TaskStatus) {
        if let Some(state) = self.tasks.get_mut(&status.task_id) {
            *state = Some(status.state);
        }
    }

    fn answered(&mut self, call: Call, answer: Result<Reply, model::Refusal>, stage: &mut Stage) {
        match answer {
            Ok(Reply::Launched(results)) => {
                for (task, refusal) in results {
                    if refusal.is_some() {
                        self.tasks.remove(&task);
                    } else if self.has_spoken == Some(Phase::Calm) {
                        // Its end may have been asked for, and refused, before it was launched.
                        self.to_end.push(task);
                    }
                }
            }
            Ok(Reply::Statuses(statuses)) => {
                stage.record.note(stage.now, &Fact::Reconciled { statuses: &statuses });
            }
            Ok(_done) => {}
            Err(_refusal) => {
                if let Call::Accept { tasks, .. } = call {
                    for task in tasks {
                        self.tasks.remove(&task.task_id);
                    }
                }
            }
        }
    }

    fn caller(&mut self, is_repeatable: bool) -> Option<Caller> {
        let framework = self.id.clone()?;
        let subscription = self.subscription()?;
        self.next_name += 1;
        let request = format!("f{}-r{}", self.number, self.next_name);
        let request = if is_repeatable { RequestId::new(&request).ok() } else { None };
        Some(Caller { framework, subscription, request })
    }

    fn act(&mut self, stage: &mut Stage) {
        // One that was just torn down has a stream for a moment, and no id.
        if self.id.is_none() || self.subscription().is_none() || self.calls.is_busy() {
            return;
        }
        match stage.phase {
            Phase::Trouble => self.live(stage),
            Phase::Calm => self.end_all(stage),
            Phase::Fair => self.take_all(stage),
            Phase::Full => self.fill(stage),
        }
    }

    fn ask(&mut self, is_repeatable: bool, stage: &mut Stage, call: impl FnOnce(Caller) -> Call) {
        let Some(caller) = self.caller(is_repeatable) else { return };
        self.calls.ask(self.place(), call(caller), stage);
    }

    /// Something that a framework may do.
    fn live(&mut self, stage: &mut Stage) {
        match stage.chance.below(20) {
            0..=7 => {
                if self.offers.is_empty() {
                    return;
                }
                let place = stage.chance.place(self.offers.len());
                // Now and then an offer is used twice.
                let offer = match stage.chance.happens(50) {
                    true => self.offers[place].clone(),
                    false => self.offers.remove(place),
                };
                self.accept(offer, stage);
            }
            8 | 9 => {
                if self.offers.is_empty() {
                    return;
                }
                let place = stage.chance.place(self.offers.len());
                let offers = vec![self.offers.remove(place).offer];
                let refuse = stage.chance.span(Duration::ZERO, Duration::from_secs(10));
                self.ask(false, stage, |caller| Call::Decline { caller, offers, refuse });
            }
            10 | 11 => {
                let known: Vec<_> = self.tasks.keys().cloned().collect();
                let Some(task) = stage.chance.one_of(&known).cloned() else { return };
                let grace = stage.chance.happens(500).then(|| Duration::from_secs(stage.chance.below(4)));
                self.ask(true, stage, |caller| Call::Kill { caller, task, grace });
            }
            12 => {
                let count = u32::try_from(stage.chance.below(6)).unwrap_or(0);
                let shape = shape(SLICE_MILLI * stage.chance.between(1, 3));
                let demands = vec![Demand { shape, count, constraints: Vec::new() }];
                self.ask(false, stage, |caller| Call::SetDemand { caller, demands });
            }
            13 => self.ask(false, stage, |caller| Call::Suppress { caller }),
            14 | 15 => self.ask(false, stage, |caller| Call::Revive { caller }),
            16 => {
                let known: Vec<_> = self.tasks.keys().cloned().collect();
                let tasks = if stage.chance.happens(500) { Vec::new() } else { known };
                self.ask(false, stage, |caller| Call::Reconcile { caller, tasks });
            }
            17 | 18 => self.acknowledge(stage),
            _ => {
                // A new stream, as if the old one had been lost.
                if let Some(conn) = self.stream.as_ref().map(|stream| stream.conn) {
                    self.give_up(conn, stage);
                }
            }
        }
    }

    /// What came is written down first, then the leader may forget it.
    fn acknowledge(&mut self, stage: &mut Stage) {
        self.stored = self.handled;
        let cursor = self.stored;
        self.ask(false, stage, |caller| Call::Acknowledge { caller, cursor });
    }

    fn accept(&mut self, offer: OfferMessage, stage: &mut Stage) {
        let mut tasks = Vec::new();
        let mut left = offer.resources.cpus_milli;
        for _ in 0..stage.chance.between(1, 3) {
            // Some ask for more than there is.
            let cpus_milli = SLICE_MILLI * stage.chance.between(1, 4);
            if cpus_milli > left && !stage.chance.happens(100) {
                continue;
            }
            left = left.saturating_sub(cpus_milli);
            let longest = stage.parameters.work;
            let work = any_work(&mut stage.chance, longest);
            tasks.extend(self.new_task(cpus_milli, work));
        }
        let offers = vec![offer.offer];
        let refuse = stage.chance.span(Duration::ZERO, Duration::from_secs(5));
        self.ask(true, stage, |caller| Call::Accept { caller, offers, tasks, refuse });
    }

    fn new_task(&mut self, cpus_milli: u64, work: Work) -> Option<TaskSpec> {
        self.next_name += 1;
        let spec = spec(&format!("f{}-{}", self.number, self.next_name), cpus_milli, work)?;
        self.tasks.insert(spec.task_id.clone(), None);
        Some(spec)
    }

    /// In the calm: nothing new, and everything old ends.
    fn end_all(&mut self, stage: &mut Stage) {
        if self.has_spoken != Some(Phase::Calm) {
            self.has_spoken = Some(Phase::Calm);
            self.ask(false, stage, |caller| Call::Suppress { caller });
            let live = self.tasks.iter().filter(|(_, state)| !state.is_some_and(TaskState::is_final));
            self.to_end = live.map(|(task, _)| task.clone()).collect();
        }
        while !self.calls.is_busy()
            && let Some(task) = self.to_end.pop()
        {
            let grace = Some(Duration::from_secs(1));
            self.ask(true, stage, |caller| Call::Kill { caller, task, grace });
        }
        if !self.offers.is_empty() {
            let offers = self.offers.drain(..).map(|offer| offer.offer).collect();
            self.ask(false, stage, |caller| Call::Decline { caller, offers, refuse: Duration::ZERO });
        }
        if self.stored < self.handled || stage.chance.happens(200) {
            self.acknowledge(stage);
        }
    }

    /// In the end: as much as it can get, in equal slices, again and again.
    fn take_all(&mut self, stage: &mut Stage) {
        if self.has_spoken != Some(Phase::Fair) {
            self.has_spoken = Some(Phase::Fair);
            let demands = vec![Demand { shape: shape(SLICE_MILLI), count: 10_000, constraints: Vec::new() }];
            self.ask(false, stage, |caller| Call::SetDemand { caller, demands });
        }
        for offer in std::mem::take(&mut self.offers) {
            let count = offer.resources.cpus_milli / SLICE_MILLI;
            let mut tasks = Vec::new();
            for _ in 0..count {
                let span = stage.chance.span(Duration::from_millis(500), Duration::from_secs(3));
                let (exit, lingers) = (Exit::Code(0), Duration::ZERO);
                let work = Work { span: Some(span), exit, is_deaf: false, lingers };
                tasks.extend(self.new_task(SLICE_MILLI, work));
            }
            let offers = vec![offer.offer];
            self.ask(true, stage, |caller| Call::Accept { caller, offers, tasks, refuse: Duration::ZERO });
        }
        self.acknowledge(stage);
    }

    /// Takes whatever it is offered, and lets it go on for ever.
    fn fill(&mut self, stage: &mut Stage) {
        while !self.calls.is_busy()
            && let Some(offer) = self.offers.pop()
        {
            let mut tasks = Vec::new();
            for _ in 0..offer.resources.cpus_milli / SLICE_MILLI {
                let work = Work { span: None, exit: Exit::Code(0), is_deaf: false, lingers: Duration::ZERO };
                tasks.extend(self.new_task(SLICE_MILLI, work));
            }
            let offers = vec![offer.offer];
            self.ask(true, stage, |caller| Call::Accept { caller, offers, tasks, refuse: Duration::ZERO });
        }
        if self.stored < self.handled && !self.calls.is_busy() {
            self.acknowledge(stage);
        }
    }

    /// What it still waits for, in words.
    pub fn residue(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.subscription().is_none() {
            left.push(format!("framework {}: no subscription", self.number));
        }
        for (task, state) in &self.tasks {
            if !state.is_some_and(TaskState::is_final) {
                left.push(format!("framework {}: {task} is {state:?}", self.number));
            }
        }
        left.extend(
            self.calls.unanswered().map(|call| format!("framework {}: no answer to {call:?}", self.number)),
        );
        left
    }
}

fn shape(cpus_milli: u64) -> Resources {
    Resources { cpus_milli, mem_mib: cpus_milli / 4, ..Resources::default() }
}
