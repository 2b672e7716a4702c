//! What an agent need not say of its tasks when it attaches, and what it need not be told.
//!
//! Its digests say which buckets of tasks are to it what they are to the leader: only the others are asked for, and only
//! of them the Welcome speaks. The log hears of all tasks, as if the agent had listed them, so no rule of `apply`
//! depends on the way; and the agent is registered, with all that follows for tasks it lacks, when every bucket is known.
//!
//! ## Design
//!
//! Digests are compared twice: with the state before the registration, to know what to ask for, and with the state after
//! it, to know what to say. What happened in between makes a bucket differ, and then all of it is said.

use cluster::{AgentFacts, ClusterState, Command, KnownTask};
use model::{AgentId, Digests, KnownRow, TaskId, Timestamp};

use crate::{
    machine::{Effect, Leader},
    messages::{SessionId, ToAgent},
    proposals::Purpose,
};

/// A hello of which some buckets are awaited.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    facts: AgentFacts,
    digests: Digests,
    buckets: Vec<u32>,
    /// The tasks of all other buckets: the agent has these, and no more.
    same: Vec<KnownTask>,
}

impl Leader {
    /// Registers the agent if nothing differs, and asks it for what does.
    pub(crate) fn compare_known(
        &mut self,
        session: SessionId,
        agent: AgentId,
        facts: AgentFacts,
        digests: Digests,
        state: &ClusterState,
        now: Timestamp,
    ) {
        let known = known(state, &agent);
        let buckets = differing(&digests, &known);
        let is_same = |task: &KnownTask| !buckets.contains(&digests.bucket_of(&task.task));
        let same: Vec<KnownTask> = known.into_iter().filter(is_same).collect();
        self.counts.known_tasks_spared += same.len() as u64;
        if buckets.is_empty() {
            let command = Command::RegisterAgent { agent, facts, tasks: same };
            return self.propose(Purpose::RegisterAgent { session }, command, now);
        }
        let message = ToAgent::ReadKnown { buckets: buckets.clone() };
        self.sessions.ask(session, Asked { facts, digests, buckets, same });
        self.effects.push(Effect::ToAgent { session, message });
    }

    /// The agent has told what it was asked for. An answer that nobody awaits changes nothing.
    pub(crate) fn known_told(&mut self, session: SessionId, told: Vec<KnownTask>, now: Timestamp) {
        let Some((agent, asked)) = self.sessions.take_asked(session) else { return };
        self.counts.known_tasks_told += told.len() as u64;
        let Asked { facts, digests, buckets, same: mut tasks } = asked;
        tasks.extend(told.into_iter().filter(|task| buckets.contains(&digests.bucket_of(&task.task))));
        let command = Command::RegisterAgent { agent, facts, tasks };
        self.propose(Purpose::RegisterAgent { session }, command, now);
    }
}

/// Buckets of an agent's hello that hold exactly the tasks that the leader knows.
pub(crate) fn unchanged(digests: &Digests, state: &ClusterState, agent: &AgentId) -> Vec<u32> {
    let differing = differing(digests, &known(state, agent));
    (0..).take(digests.buckets()).filter(|bucket| !differing.contains(bucket)).collect()
}

fn differing(theirs: &Digests, known: &[KnownTask]) -> Vec<u32> {
    theirs.differing(&Digests::of(known.iter().map(row), theirs.buckets()))
}

fn row(known: &KnownTask) -> KnownRow<'_> {
    let KnownTask { task, sequence, state } = known;
    KnownRow { task_id: task, sequence: *sequence, state: *state, awaits_word: false }
}

/// The tasks of an agent, as it would list them if it knew what the leader does.
fn known(state: &ClusterState, agent: &AgentId) -> Vec<KnownTask> {
    let row = |task: &TaskId| {
        let record = state.task(task)?;
        Some(KnownTask { task: task.clone(), sequence: record.recorded_sequence, state: record.state })
    };
    state.agent(agent).map(|agent| agent.tasks.iter().filter_map(row).collect()).unwrap_or_default()
}
