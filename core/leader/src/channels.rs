//! Channels: which agent a conversation with a task goes to. What is said there passes the leader by.
//!
//! Also what agents say of tasks that stand still, which only the leader's memory knows.

use cluster::ClusterState;
use model::{AgentId, Refusal, RefusalCode, TaskId};

use crate::{
    agents::Sessions,
    machine::{Effect, Leader},
    messages::{ChannelId, ToAgent},
};

impl Leader {
    /// Tells the task's agent of a channel, and answers which agent that is.
    ///
    /// Refuses a task that nobody knows (TaskUnknown), that has no agent yet (TaskNotRunning) or never had
    /// one (SandboxGone), and one whose agent is not connected (AgentUnreachable).
    pub(crate) fn open_channel(
        &mut self,
        channel: ChannelId,
        task: &TaskId,
        state: &ClusterState,
    ) -> Result<AgentId, Refusal> {
        let (agent, session) = route(&self.sessions, task, state)?;
        let message = ToAgent::OpenChannel { channel, task: task.clone() };
        self.effects.push(Effect::ToAgent { session, message });
        Ok(agent)
    }

    /// Whether a task stands still; `None` where its agent is not connected, or the task is over.
    pub(crate) fn is_frozen(&self, task: &TaskId, state: &ClusterState) -> Option<bool> {
        let known = state.task(task).filter(|known| !known.is_over())?;
        self.sessions.is_frozen(known.agent.as_ref()?, task)
    }
}

fn route(
    sessions: &Sessions,
    task: &TaskId,
    state: &ClusterState,
) -> Result<(AgentId, crate::SessionId), Refusal> {
    let Some(known) = state.task(task) else {
        return Err(match state.waiting(task) {
            Some(_) => Refusal::new(
                RefusalCode::TaskNotRunning,
                format!("task `{task}` waits for an agent, so there is nothing to reach yet"),
            ),
            None => Refusal::new(
                RefusalCode::TaskUnknown,
                format!("no task has the id `{task}`; it was never there, or was forgotten after its end"),
            ),
        });
    };
    let Some(agent) = &known.agent else {
        let message = format!("task `{task}` ended before it was started, so it never had a sandbox");
        return Err(Refusal::new(RefusalCode::SandboxGone, message));
    };
    let Some((session, _)) = sessions.registered_of(agent) else {
        let message =
            format!("can't reach task `{task}`: its agent `{agent}` isn't connected now; try again later");
        return Err(Refusal::new(RefusalCode::AgentUnreachable, message));
    };
    Ok((agent.clone(), session))
}
