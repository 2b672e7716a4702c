//! Those who use the cluster: frameworks and an operator, each careful in the way that the API asks for.
//!
//! Whatever changes something carries a request id and is repeated, at whichever member, until there is an answer.

mod framework;
mod operator;

use std::collections::BTreeMap;

use leader::{Call, Reply};
use model::{Duration, Exit, Refusal, RefusalCode, RequestId, Resources, SubscriptionId, TaskId, TaskSpec};

pub use framework::{Framework, SLICE_MILLI};
pub use operator::Operator;

use crate::{
    agent::Work,
    chance::Chance,
    network::{Conn, Down},
    record::Fact,
    stage::{Place, Stage, What},
};

/// What can happen to a client.
#[derive(Debug)]
pub enum Wake {
    Down {
        conn: Conn,
        message: Down,
    },
    Gone {
        conn: Conn,
    },
    Answered {
        number: u64,
        member: usize,
        answer: Box<Result<Reply, Refusal>>,
    },
    /// It has waited long enough for an answer.
    Again {
        number: u64,
        tries: u32,
    },
    Connect,
    /// It looks whether its stream still lives.
    Look {
        conn: Conn,
    },
    /// It does the next thing that it wants.
    Act,
}

/// How long a client waits for an answer before it asks again.
const PATIENCE: Duration = Duration::from_secs(8);

/// Calls that one client has in flight.
const PENDING_MAX: usize = 10;

/// Calls that have no answer yet.
#[derive(Debug, Default)]
struct Calls {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// The member that answered last.
    member: usize,
}

#[derive(Debug)]
struct Pending {
    call: Call,
    /// Whom it asks.
    member: usize,
    /// How often it is or was about to be asked: of several timers only the latest counts.
    tries: u32,
}

/// What an answer is worth.
enum Heard {
    /// It is final.
    Over(Box<Call>, Result<Reply, Refusal>),
    /// The call is repeated, or was nobody's.
    NotYet,
    /// This subscription is over; the call is repeated with the next one.
    Replaced,
}

impl Calls {
    fn ask(&mut self, place: Place, call: Call, stage: &mut Stage) {
        self.next += 1;
        let number = self.next;
        stage.record.note(stage.now, &Fact::Wished { number, call: &call });
        self.pending.insert(number, Pending { call, member: self.member, tries: 0 });
        self.send(place, number, stage);
    }

    fn send(&mut self, place: Place, number: u64, stage: &mut Stage) {
        let Some(Pending { call, member, .. }) = self.pending.get(&number) else { return };
        stage.trace.line(stage.now, || format!("{place:?} asks m{member} {number}: {call:?}"));
        stage.ask(place, *member, number, call.clone());
        self.try_again(place, number, PATIENCE, stage);
    }

    fn try_again(&mut self, place: Place, number: u64, delay: Duration, stage: &mut Stage) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        pending.tries += 1;
        stage.later(place, delay, What::Client(Wake::Again { number, tries: pending.tries }));
    }

    /// Asks again what may be asked again, and forgets the rest.
    fn again(
        &mut self,
        place: Place,
        (number, tries): (u64, u32),
        subscription: Option<&SubscriptionId>,
        stage: &mut Stage,
    ) {
        let Some(pending) = self.pending.get_mut(&number).filter(|pending| pending.tries == tries) else {
            return;
        };
        let call = &mut pending.call;
        if request_of(call).is_none() {
            self.pending.remove(&number);
            return;
        }
        match caller_of(call) {
            Some(caller) => match subscription {
                Some(subscription) => {
                    *caller = subscription.clone();
                    pending.member = self.member;
                }
                // It goes on when there is one.
                None => return self.try_again(place, number, PATIENCE, stage),
            },
            None => pending.member = (pending.member + 1) % stage.parameters.members,
        }
        self.send(place, number, stage);
    }

    fn answered(
        &mut self,
        place: Place,
        number: u64,
        member: usize,
        answer: Result<Reply, Refusal>,
        stage: &mut Stage,
    ) -> Heard {
        let Some(Pending { call, .. }) = self.pending.get(&number) else { return Heard::NotYet };
        stage.trace.line(stage.now, || format!("{place:?} hears of {number}: {answer:?}"));
        let is_repeatable = request_of(call).is_some();
        let heard = match answer.as_ref().err().map(|refusal| refusal.code) {
            Some(RefusalCode::NoLeader | RefusalCode::Busy | RefusalCode::OutcomeUnknown) => {
                let delay = stage.chance.span(Duration::from_millis(50), Duration::from_secs(1));
                self.try_again(place, number, delay, stage);
                Some(Heard::NotYet)
            }
            Some(RefusalCode::SubscriptionReplaced) => Some(Heard::Replaced),
            Some(_) | None => None,
        };
        if let Some(heard) = heard {
            if !is_repeatable {
                self.pending.remove(&number);
            }
            return heard;
        }
        self.member = member;
        let Some(Pending { call, .. }) = self.pending.remove(&number) else { return Heard::NotYet };
        stage.record.note(stage.now, &Fact::Answered { number, call: &call, answer: &answer });
        Heard::Over(Box::new(call), answer)
    }

    /// What a client that stops has not written down.
    fn forget_careless(&mut self) {
        self.pending.retain(|_, pending| request_of(&pending.call).is_some());
    }

    /// Asks everything again that has no answer.
    fn resume(&mut self, place: Place, stage: &mut Stage) {
        for number in self.pending.keys().copied().collect::<Vec<_>>() {
            let delay = stage.chance.span(Duration::ZERO, Duration::from_secs(1));
            self.try_again(place, number, delay, stage);
        }
    }

    /// Whether more should wait until some have an answer: the log remembers answers, but not without bound.
    fn is_busy(&self) -> bool {
        self.pending.len() >= PENDING_MAX
    }

    /// Calls that are repeated until they have an answer.
    fn unanswered(&self) -> impl Iterator<Item = &Call> {
        self.pending.values().map(|pending| &pending.call).filter(|call| request_of(call).is_some())
    }
}

/// What makes a call safe to repeat.
pub fn request_of(call: &Call) -> Option<&RequestId> {
    match call {
        Call::Accept { caller, .. }
        | Call::Kill { caller, .. }
        | Call::UpdateFramework { caller, .. }
        | Call::Teardown { caller }
        | Call::Decline { caller, .. }
        | Call::SetDemand { caller, .. }
        | Call::Suppress { caller }
        | Call::Revive { caller }
        | Call::Reconcile { caller, .. }
        | Call::Acknowledge { caller, .. } => caller.request.as_ref(),
        Call::Run { request, .. }
        | Call::KillTask { request, .. }
        | Call::TeardownFramework { request, .. }
        | Call::SetRole { request, .. }
        | Call::DeactivateAgent { request, .. }
        | Call::ActivateAgent { request, .. }
        | Call::MarkAgentGone { request, .. } => Some(request),
        Call::Subscribe(params) => params.request.as_ref(),
        Call::Attach(_)
        | Call::ConfirmUnreachable { .. }
        | Call::ReadOutput(_)
        | Call::ReadUsage(_)
        | Call::ReadHistory { .. }
        | Call::OpenChannel { .. }
        | Call::IsFrozen(_) => None,
    }
}

/// Through which subscription a framework calls.
fn caller_of(call: &mut Call) -> Option<&mut SubscriptionId> {
    match call {
        Call::Accept { caller, .. }
        | Call::Kill { caller, .. }
        | Call::UpdateFramework { caller, .. }
        | Call::Teardown { caller }
        | Call::Decline { caller, .. }
        | Call::SetDemand { caller, .. }
        | Call::Suppress { caller }
        | Call::Revive { caller }
        | Call::Reconcile { caller, .. }
        | Call::Acknowledge { caller, .. } => Some(&mut caller.subscription),
        Call::Run { .. }
        | Call::KillTask { .. }
        | Call::TeardownFramework { .. }
        | Call::SetRole { .. }
        | Call::DeactivateAgent { .. }
        | Call::ActivateAgent { .. }
        | Call::MarkAgentGone { .. }
        | Call::ConfirmUnreachable { .. }
        | Call::Subscribe(_)
        | Call::Attach(_)
        | Call::ReadOutput(_)
        | Call::ReadUsage(_)
        | Call::ReadHistory { .. }
        | Call::OpenChannel { .. }
        | Call::IsFrozen(_) => None,
    }
}

/// A task that needs `cpus_milli`, and what its command does.
fn spec(id: &str, cpus_milli: u64, work: Work) -> Option<TaskSpec> {
    let resources = Resources { cpus_milli, mem_mib: cpus_milli / 4, ..Resources::default() };
    Some(TaskSpec::new(TaskId::new(id).ok()?, resources, work.command()))
}

/// What a task's command does, drawn.
fn any_work(chance: &mut Chance, longest: Duration) -> Work {
    let span = chance.uneven_span(Duration::from_millis(1), longest);
    Work {
        span: (!chance.happens(100)).then_some(span),
        exit: if chance.happens(700) { Exit::Code(0) } else { Exit::Code(1) },
        is_deaf: chance.happens(100),
        lingers: if chance.happens(100) { Duration::from_millis(2500) } else { Duration::ZERO },
    }
}
