//! What truly happened, as an observer outside the system sees it, and the checkers that judge it.

use std::sync::Arc;

use cluster::{ClusterState, Entry, KnownTask, Outcome};
use leader::{Call, Leader, OfferMessage, Reply};
use model::{AgentId, Cursor, Exit, FrameworkEvent, FrameworkId, Refusal, Resources, TaskId, TaskStatus};
use supervisor::Row;

use crate::time::Moment;

/// One thing that happened.
pub enum Fact<'a> {
    /// A member applied an entry; `state` has its effect.
    Applied {
        member: usize,
        index: u64,
        entry: &'a Arc<Entry>,
        outcome: &'a Outcome,
        state: &'a ClusterState,
    },
    /// A member wrote its state down and read it again.
    Snapshot {
        member: usize,
        state: &'a ClusterState,
        restored: &'a ClusterState,
    },
    /// A member goes on from a snapshot.
    Restored {
        member: usize,
        state: &'a ClusterState,
    },
    /// A member begins to lead.
    Leads {
        member: usize,
    },
    /// A leader wants this to be in the log.
    Proposed {
        member: usize,
        entry: &'a Entry,
    },
    /// A leader got something from an agent, in an open session.
    Spoke {
        member: usize,
        agent: &'a AgentId,
    },
    /// A leader has done what followed from its inputs.
    Settled {
        leader: &'a Leader,
        state: &'a ClusterState,
    },
    /// A task's command began to run.
    Began {
        agent: usize,
        task: &'a TaskId,
        attempt: &'a str,
        resources: &'a Resources,
    },
    /// The main process of a task that had begun is over; whether its agent ended it, and how, if anyone can know.
    Over {
        agent: usize,
        task: &'a TaskId,
        is_killed: bool,
        exit: Option<Exit>,
    },
    /// Nothing is left in an attempt's cgroup.
    Emptied {
        agent: usize,
        attempt: &'a str,
    },
    /// An agent says hello, and knows this of its tasks, in whatever form it says so.
    SaidHello {
        agent: &'a AgentId,
        tasks: &'a [KnownTask],
    },
    /// An agent has this in its checkpoint.
    Stored {
        agent: usize,
        row: &'a Row,
    },
    Subscribed {
        framework: &'a FrameworkId,
    },
    /// A framework has handled an event, perhaps once more.
    Heard {
        framework: &'a FrameworkId,
        cursor: Cursor,
        event: &'a FrameworkEvent,
    },
    Compacted {
        framework: &'a FrameworkId,
        statuses: &'a [TaskStatus],
        cursor: Cursor,
    },
    Offered {
        framework: &'a FrameworkId,
        offer: &'a OfferMessage,
    },
    Reconciled {
        statuses: &'a [TaskStatus],
    },
    /// Somebody asks for something, for the first time.
    Wished {
        /// The client's own count of its calls.
        number: u64,
        call: &'a Call,
    },
    /// The final answer to a call.
    Answered {
        number: u64,
        call: &'a Call,
        answer: &'a Result<Reply, Refusal>,
    },
}

/// How the world is when everything should have come to its end.
pub struct End<'a> {
    /// Of every member.
    pub states: Vec<&'a ClusterState>,
}

/// Judges one invariant, from a history of its own.
pub trait Checker {
    fn name(&self) -> &'static str;

    /// Says what is wrong.
    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String>;

    /// The same, in the calm after everything.
    fn conclude(&mut self, end: &End<'_>) -> Result<(), String> {
        let _nothing = end;
        Ok(())
    }
}

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at: Moment,
    pub invariant: String,
    pub why: String,
}

/// Shows every fact to every checker, and keeps the first complaint.
pub struct Record {
    checkers: Vec<Box<dyn Checker>>,
    pub violation: Option<Violation>,
}

impl Record {
    pub fn new(checkers: Vec<Box<dyn Checker>>) -> Self {
        Self { checkers, violation: None }
    }

    pub fn note(&mut self, now: Moment, fact: &Fact<'_>) {
        for place in 0..self.checkers.len() {
            let Some(checker) = self.checkers.get_mut(place) else { return };
            if let Err(why) = checker.note(now, fact) {
                let invariant = checker.name();
                self.fail(now, invariant, why);
            }
        }
    }

    pub fn conclude(&mut self, now: Moment, end: &End<'_>) {
        for place in 0..self.checkers.len() {
            let Some(checker) = self.checkers.get_mut(place) else { return };
            if let Err(why) = checker.conclude(end) {
                let invariant = checker.name();
                self.fail(now, invariant, why);
            }
        }
    }

    /// Something that isn't any checker's alone is wrong.
    pub fn fail(&mut self, at: Moment, invariant: &str, why: String) {
        let violation = Violation { at, invariant: invariant.to_owned(), why };
        self.violation.get_or_insert(violation);
    }
}
