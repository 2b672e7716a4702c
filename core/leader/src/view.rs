//! What only the leader's memory knows, for people to look at.

use std::collections::BTreeMap;

use cluster::ClusterState;
use model::{AgentId, TaskId};

use crate::{machine::Leader, messages::SessionId, offers::Offer};

/// A look into the leader's memory.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub term: u64,
    pub offers: Vec<Offer>,
    /// Agents with a session that answers.
    pub sessions: BTreeMap<AgentId, SessionId>,
    /// Why agents or frameworks were held back in the last round, one line each.
    pub held_back: Vec<String>,
    /// Why tasks of `run` wait, one line for each thing in the way.
    pub waiting_because: BTreeMap<TaskId, Vec<String>>,
}

impl Leader {
    pub fn view(&self, state: &ClusterState) -> View {
        View {
            term: self.term,
            offers: self.offers.iter().cloned().collect(),
            sessions: self
                .sessions
                .registered()
                .map(|(agent, session, _)| (agent.clone(), session))
                .collect(),
            held_back: self.cycle.held_back.iter().map(ToString::to_string).collect(),
            waiting_because: self.waiting_because(state),
        }
    }

    /// Every offer that is outstanding or being accepted.
    pub fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.offers.iter()
    }

    pub fn offers_outstanding(&self) -> usize {
        self.offers.count()
    }

    pub fn sessions_open(&self) -> usize {
        self.sessions.len()
    }

    pub fn subscriptions_open(&self) -> usize {
        self.subscribers.len()
    }
}
