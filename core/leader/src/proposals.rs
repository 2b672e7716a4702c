//! What was proposed to the log and has no answer yet.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{FrameworkInfo, Task};
use model::{
    AgentId, Cursor, Duration, FrameworkId, OfferId, Refusal, RefusalCode, RequestId, TaskId, TaskStatus,
};

use crate::{
    config::LAUNCHES_UNKNOWN_MAX,
    messages::{Demand, SessionId},
};

/// Names one proposal; its answer comes back with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names one call of the daemon; its answer goes back with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Why a proposal has no answer from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written.
    #[error("this member doesn't lead")]
    NotLeader,
    /// Nothing was written; try again later.
    #[error("too many commands wait for the log")]
    Busy,
    /// Nothing was written, and never will be.
    #[error("the command has {bytes} bytes, more than {max}")]
    TooLarge { bytes: usize, max: usize },
    /// It may have been applied, or may yet be.
    #[error("the fate of the command is unknown")]
    Unknown,
}

impl ProposeError {
    /// What the caller is told.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::NotLeader => Refusal::new(
                RefusalCode::NoLeader,
                "not done: this member has just lost the leadership; try again in a moment",
            ),
            Self::Busy => Refusal::new(
                RefusalCode::Busy,
                "not done: too many commands wait for the log; try again in a moment",
            ),
            Self::TooLarge { bytes, max } => Refusal::new(
                RefusalCode::InvalidArgument,
                format!(
                    "not done: it would take {bytes} bytes of the log, more than the {max} of one entry; ask for less at once"
                ),
            ),
            Self::Unknown => Refusal::new(
                RefusalCode::OutcomeUnknown,
                "whether it was done is not known, because the leadership was lost meanwhile; repeat with the same request id",
            ),
        }
    }
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    Daemon(CallId),
    /// The built-in framework, and which of its calls.
    Run(u64),
}

/// What to do when the answer comes.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    Initialize,
    RaiseVersion,
    RegisterFramework {
        call: CallId,
        cursor: Option<Cursor>,
    },
    Subscribe {
        opening: Opening,
    },
    /// The log learns whether the framework has a subscription.
    Connection {
        framework: FrameworkId,
    },
    EndFramework {
        framework: FrameworkId,
    },
    Acknowledge {
        framework: FrameworkId,
    },
    Launch(Launching),
    RegisterAgent {
        session: SessionId,
    },
    MarkUnreachable {
        agent: AgentId,
    },
    Record {
        session: SessionId,
        statuses: Vec<TaskStatus>,
    },
    Prune,
    /// The log learns what was counted.
    CountTime,
    /// Only the answer matters.
    Pass {
        asker: Asker,
    },
}

/// A subscription that the log has to be told of before it opens.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) call: CallId,
    pub(crate) framework: FrameworkId,
    pub(crate) cursor: Option<Cursor>,
    /// Still to be told.
    pub(crate) info: Option<FrameworkInfo>,
}

/// An accept that the log judges.
#[derive(Debug, Clone)]
pub(crate) struct Launching {
    /// More than one when the call was repeated meanwhile.
    pub(crate) askers: Vec<Asker>,
    pub(crate) framework: FrameworkId,
    pub(crate) agent: AgentId,
    pub(crate) request: Option<RequestId>,
    pub(crate) offers: Vec<OfferId>,
    pub(crate) offered: model::Resources,
    pub(crate) refuse: Duration,
    /// What each task took from the demand, in the order of the tasks.
    pub(crate) taken: Vec<(TaskId, model::Resources, Option<Demand>)>,
}

/// All proposals in flight.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proposals {
    next: u64,
    in_flight: BTreeMap<Ticket, Purpose>,
    launches: BTreeMap<(FrameworkId, RequestId), Ticket>,
    /// Accepts that may yet be applied, though nobody will say so.
    unknown: BTreeSet<(FrameworkId, RequestId)>,
}

impl Proposals {
    pub(crate) fn begin(&mut self, purpose: Purpose) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        if let Purpose::Launch(launching) = &purpose
            && let Some(request) = &launching.request
        {
            self.launches.insert((launching.framework.clone(), request.clone()), ticket);
        }
        self.in_flight.insert(ticket, purpose);
        ticket
    }

    pub(crate) fn end(&mut self, ticket: Ticket) -> Option<Purpose> {
        let purpose = self.in_flight.remove(&ticket)?;
        if let Purpose::Launch(launching) = &purpose
            && let Some(request) = &launching.request
        {
            self.launches.remove(&(launching.framework.clone(), request.clone()));
        }
        Some(purpose)
    }

    /// Lets one more asker wait for an accept that is in flight. Answers whether there is one.
    pub(crate) fn join_launch(&mut self, framework: &FrameworkId, request: &RequestId, asker: Asker) -> bool {
        let Some(ticket) = self.launches.get(&(framework.clone(), request.clone())) else { return false };
        let Some(Purpose::Launch(launching)) = self.in_flight.get_mut(ticket) else { return false };
        launching.askers.push(asker);
        true
    }

    /// The fate of an accept is unknown: in this leadership nobody may call it refused.
    pub(crate) fn launch_is_unknown(&mut self, framework: FrameworkId, request: RequestId) {
        self.unknown.insert((framework, request));
        if self.unknown.len() > LAUNCHES_UNKNOWN_MAX {
            self.unknown.pop_first();
        }
    }

    pub(crate) fn is_launch_unknown(&self, framework: &FrameworkId, request: &RequestId) -> bool {
        self.unknown.contains(&(framework.clone(), request.clone()))
    }

    pub(crate) fn tickets(&self) -> Vec<Ticket> {
        self.in_flight.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }
}

/// The status that answers a reconciliation: the latest, not numbered, because it is no news.
pub(crate) fn reconciled(task: &Task) -> TaskStatus {
    let status = task.latest_status();
    let reason = match status.reason {
        model::Reason::None => model::Reason::Reconciliation,
        known => known,
    };
    TaskStatus { sequence: 0, reason, ..status }
}
