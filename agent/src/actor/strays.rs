//! What still runs here without a record: the leader hears of this agent when that has ended.
//!
//! A registration tells the leader which tasks the agent knows; it calls the others gone and gives their
//! resources away. So nothing of theirs may run by then. A process that won't die doesn't hold the agent
//! back for good, because its other tasks have something to say, too.

use std::{collections::BTreeSet, time::Duration};

use supervisor::Action;
use tokio::{sync::oneshot, time::Instant};

use crate::session::Greeting;

/// How long the first Hello waits for them.
const PATIENCE: Duration = Duration::from_secs(30);

/// The cgroups without a record that were there at the start, until each is removed.
pub struct Strays {
    left: BTreeSet<String>,
    /// When the leader is told all the same.
    deadline: Instant,
    /// A session that waits.
    asking: Option<oneshot::Sender<Greeting>>,
}

impl Strays {
    /// Takes note of what the restored table wants removed.
    pub fn new(actions: &[Action]) -> Self {
        let left = actions.iter().filter_map(|action| match action {
            Action::RemoveStrayCgroups { attempt } => Some(attempt.clone()),
            _ => None,
        });
        Self { left: left.collect(), deadline: Instant::now() + PATIENCE, asking: None }
    }

    /// Keeps a question that is to be answered later. An older one was that of a session that is over.
    pub fn ask(&mut self, greeting: oneshot::Sender<Greeting>) {
        self.asking = Some(greeting);
    }

    pub fn removed(&mut self, attempt: &str) {
        self.left.remove(attempt);
    }

    /// When to look again although nothing was removed.
    pub fn next_wake(&self) -> Option<Instant> {
        self.asking.as_ref().map(|_| self.deadline)
    }

    /// The question, when it is time to answer it.
    pub fn due(&mut self) -> Option<oneshot::Sender<Greeting>> {
        let is_late = Instant::now() >= self.deadline;
        if !self.left.is_empty() && !is_late {
            return None;
        }
        if !self.left.is_empty() && self.asking.is_some() {
            tracing::error!(
                left = ?self.left,
                "processes of lost tasks won't end; the leader may give their resources away"
            );
        }
        self.asking.take()
    }
}
