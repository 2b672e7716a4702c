//! What operators say of agents: taken out of use, into use again, or gone for good.

use std::sync::Arc;

use model::{AgentId, FrameworkEvent, Reason, Refusal, RequestId, TaskState, limits};

use super::{Step, tasks::News};
use crate::{answers::Asked, command::DeactivatedTasks, outcome::Answer, state::Availability};

impl Step<'_> {
    /// Safe to repeat; a repeat with [`DeactivatedTasks::End`] may hurry the ends of tasks.
    ///
    /// Refuses AgentUnknown and AgentGone.
    pub(super) fn deactivate_agent(
        &mut self,
        id: &AgentId,
        tasks: DeactivatedTasks,
        request: Option<&RequestId>,
    ) -> Result<Answer, Refusal> {
        let asked = Asked::DeactivateAgent(id.clone());
        if let Some(first) = self.state.answers.repeat(request, &asked)? {
            return Ok(first);
        }
        let agent = self.state.known_agent(id, &format!("Agent `{id}` was not deactivated"))?;
        let live = agent.tasks.clone();
        self.set_availability(id, Availability::Deactivated);
        match tasks {
            DeactivatedTasks::RunOn => {}
            DeactivatedTasks::End { grace } => {
                for task in &live {
                    self.order_kill(task, grace);
                }
            }
        }
        self.state.answers.keep(self.index, request, asked, &Answer::Done);
        Ok(Answer::Done)
    }

    /// Refuses AgentUnknown and AgentGone.
    pub(super) fn activate_agent(
        &mut self,
        id: &AgentId,
        request: Option<&RequestId>,
    ) -> Result<Answer, Refusal> {
        let asked = Asked::ActivateAgent(id.clone());
        if let Some(first) = self.state.answers.repeat(request, &asked)? {
            return Ok(first);
        }
        self.state.known_agent(id, &format!("Agent `{id}` was not activated"))?;
        self.set_availability(id, Availability::Active);
        self.state.answers.keep(self.index, request, asked, &Answer::Done);
        Ok(Answer::Done)
    }

    /// Ends what the log knows of an agent. Whatever still runs there is ended when the agent asks to come back.
    ///
    /// One that is gone already stays so. Refuses AgentUnknown.
    pub(super) fn mark_agent_gone(
        &mut self,
        id: &AgentId,
        request: Option<&RequestId>,
    ) -> Result<Answer, Refusal> {
        let asked = Asked::MarkAgentGone(id.clone());
        if let Some(first) = self.state.answers.repeat(request, &asked)? {
            return Ok(first);
        }
        if self.state.agent_gone_at(id).is_none() {
            let agent = self.state.known_agent(id, &format!("Agent `{id}` was not marked as gone"))?.clone();
            if agent.is_reachable {
                self.tell_frameworks(&agent, FrameworkEvent::AgentLost(id.clone()));
            }
            let news = News {
                state: TaskState::Gone,
                reason: Reason::AgentGone,
                message: "An operator said that its agent never comes back.",
                is_released: true,
            };
            for task in &agent.tasks {
                self.say(task, news);
                // One that had ended already, and whose cgroup nobody will ever look at.
                self.release(task);
            }
            self.state.agents.remove(id);
            self.remember_gone(id);
            self.agent_changed(id);
        }
        self.state.answers.keep(self.index, request, asked, &Answer::Done);
        Ok(Answer::Done)
    }

    fn remember_gone(&mut self, id: &AgentId) {
        self.state.gone_agents.insert(id.clone(), (self.index, self.at));
        self.state.index.gone_agents.insert(self.index, id.clone());
        while self.state.gone_agents.len() > limits::GONE_AGENTS_KEPT_MAX
            && let Some((index, oldest)) = self.state.index.gone_agents.get_min().cloned()
        {
            self.state.index.gone_agents.remove(&index);
            self.state.gone_agents.remove(&oldest);
        }
    }

    fn set_availability(&mut self, id: &AgentId, availability: Availability) {
        let Some(agent) = self.state.agents.get_mut(id).filter(|agent| agent.availability != availability)
        else {
            return;
        };
        let record = Arc::make_mut(agent);
        record.availability = availability;
        record.changed_at = self.at;
        self.agent_changed(id);
    }
}
