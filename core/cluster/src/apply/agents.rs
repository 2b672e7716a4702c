//! Agents register, fall silent and come back; their tasks follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{AgentId, FrameworkEvent, FrameworkId, Reason, Refusal, RefusalCode, TaskId, TaskState, limits};

use super::{Step, invalid, tasks::News};
use crate::{
    command::{AgentFacts, KnownTask},
    outcome::{Answer, Change},
    state::{Agent, ClusterState, Task},
};

impl ClusterState {
    /// Refuses AgentGone and AgentUnknown; `attempted` is what can't be done.
    pub(crate) fn known_agent(&self, id: &AgentId, attempted: &str) -> Result<&Arc<Agent>, Refusal> {
        if let Some(agent) = self.agents.get(id) {
            return Ok(agent);
        }
        Err(if self.agent_gone_at(id).is_some() {
            Refusal::new(
                RefusalCode::AgentGone,
                format!(
                    "{attempted}: an operator said that agent `{id}` is gone, and its id is never used again. \
                     Give the host's agent an empty data directory, so that it comes back under a new id."
                ),
            )
        } else {
            Refusal::new(
                RefusalCode::AgentUnknown,
                format!("{attempted}: no agent has the id `{id}`. Look at the list of agents."),
            )
        })
    }

    /// The agent, when it is in this epoch.
    ///
    /// Refuses AgentUnknown, AgentGone, EpochStale and AgentUnreachable; `attempted` is what can't be done.
    pub(crate) fn current_agent(&self, id: &AgentId, epoch: u64, attempted: &str) -> Result<&Agent, Refusal> {
        let agent = self.known_agent(id, attempted)?;
        if agent.epoch != epoch {
            return Err(Refusal::new(
                RefusalCode::EpochStale,
                format!(
                    "{attempted}: agent `{id}` is in epoch {}, and this was made for epoch {epoch}. \
                     Try again with what the agent has now.",
                    agent.epoch
                ),
            ));
        }
        if !agent.is_reachable {
            return Err(Refusal::new(
                RefusalCode::AgentUnreachable,
                format!(
                    "{attempted}: agent `{id}` does not answer. Wait until it registers anew, or use another."
                ),
            ));
        }
        Ok(agent)
    }
}

impl Step<'_> {
    /// Refuses the id of one that is gone (AgentGone), facts out of bounds (InvalidArgument) and more than [`limits::AGENTS_MAX`] agents (Busy).
    pub(super) fn register_agent(
        &mut self,
        id: &AgentId,
        facts: &AgentFacts,
        known: &[KnownTask],
    ) -> Result<Answer, Refusal> {
        check(id, facts)?;
        let before = self.state.agents.get(id).cloned();
        if self.state.agent_gone_at(id).is_some() {
            self.state.known_agent(id, &format!("Agent `{id}` was not registered"))?;
        }
        let count = u64::try_from(self.state.agents.len()).unwrap_or(u64::MAX);
        if before.is_none() && count >= limits::AGENTS_MAX {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "Agent `{id}` was not registered: there are {count}, the most that are allowed. \
                     Add it to another cluster."
                ),
            ));
        }
        let epoch = before.as_ref().map_or(1, |agent| agent.epoch + 1);
        let agent = Agent {
            facts: Arc::new(facts.clone()),
            epoch,
            is_reachable: true,
            availability: before.as_ref().map(|agent| agent.availability).unwrap_or_default(),
            registered_at: self.at,
            changed_at: self.at,
            allocated: before.as_ref().map(|agent| agent.allocated.clone()).unwrap_or_default(),
            tasks: before.as_ref().map(|agent| agent.tasks.clone()).unwrap_or_default(),
        };
        self.state.agents.insert(id.clone(), Arc::new(agent));
        self.agent_changed(id);
        if let Some(before) = before {
            if !before.is_reachable {
                self.tell_frameworks(&before, FrameworkEvent::AgentBack(id.clone()));
            }
            let has_rebooted = before.facts.boot_id != facts.boot_id;
            self.meet_again(&before, has_rebooted, known);
        }
        Ok(Answer::AgentRegistered { epoch })
    }

    /// Brings the tasks of an agent in line with what it has a record of.
    fn meet_again(&mut self, before: &Agent, has_rebooted: bool, known: &[KnownTask]) {
        let known: BTreeMap<&TaskId, &KnownTask> = known.iter().map(|known| (&known.task, known)).collect();
        for id in &before.tasks {
            let Some(task) = self.state.tasks.get(id) else { continue };
            match fate(task, has_rebooted, known.get(id).copied()) {
                Fate::AsItIs => {}
                Fate::Released => self.release(id),
                Fate::Back(state) => self.say(
                    id,
                    News { state, reason: Reason::None, message: "Its agent is back.", is_released: false },
                ),
                Fate::Gone(reason, message) => {
                    self.say(id, News { state: TaskState::Gone, reason, message, is_released: true });
                }
            }
        }
    }

    /// Refuses AgentUnknown, AgentGone, and EpochStale when the agent registered anew since. A repeat changes nothing.
    pub(super) fn mark_agent_unreachable(&mut self, id: &AgentId, epoch: u64) -> Result<Answer, Refusal> {
        if self.state.agent(id).is_some_and(|agent| agent.epoch == epoch && !agent.is_reachable) {
            return Ok(Answer::Done);
        }
        self.state.current_agent(id, epoch, &format!("Agent `{id}` was not marked unreachable"))?;
        let Some(agent) = self.state.agents.get_mut(id) else { return Ok(Answer::Done) };
        let record = Arc::make_mut(agent);
        record.is_reachable = false;
        record.changed_at = self.at;
        let agent = agent.clone();
        self.agent_changed(id);
        self.tell_frameworks(&agent, FrameworkEvent::AgentLost(id.clone()));
        let news = News {
            state: TaskState::Unreachable,
            reason: Reason::AgentUnreachable,
            message: "Its agent does not answer; the task may come back with it.",
            is_released: false,
        };
        for task in &agent.tasks {
            self.say(task, news);
        }
        Ok(Answer::Done)
    }

    /// Tells every framework that has something on this agent.
    pub(super) fn tell_frameworks(&mut self, agent: &Agent, event: FrameworkEvent) {
        let framework_of = |task| self.state.task(task).map(|task| task.framework.clone());
        let frameworks: BTreeSet<FrameworkId> = agent.tasks.iter().filter_map(framework_of).collect();
        for framework in &frameworks {
            self.publish(framework, event.clone());
        }
    }

    pub(super) fn agent_changed(&mut self, id: &AgentId) {
        self.changes.push(Change::Agent(id.clone()));
    }
}

/// What becomes of a task when its agent registers anew.
enum Fate {
    AsItIs,
    /// It is final, and its cgroup can't be there any more.
    Released,
    /// It was unreachable and goes on in this state.
    Back(TaskState),
    Gone(Reason, &'static str),
}

fn fate(task: &Task, has_rebooted: bool, known: Option<&KnownTask>) -> Fate {
    if task.state.is_final() {
        return if has_rebooted || known.is_none() { Fate::Released } else { Fate::AsItIs };
    }
    match known {
        // How it ended is on its way, and is truer than anything that could be guessed here.
        Some(known) if known.state.is_final() && known.sequence > task.recorded_sequence => Fate::AsItIs,
        _ if has_rebooted => Fate::Gone(Reason::AgentRebooted, "Its agent's host was restarted."),
        Some(known) if known.state.is_final() => {
            Fate::Gone(Reason::AgentLostTask, "Its agent no longer has its last status.")
        }
        // The agent will not repeat a status that is recorded, so what it says here must do.
        Some(known) if known.sequence <= task.recorded_sequence && task.state == TaskState::Unreachable => {
            if task.state.can_become(known.state) {
                Fate::Back(known.state)
            } else {
                Fate::AsItIs
            }
        }
        Some(_) => Fate::AsItIs,
        None if task.recorded_sequence > 0 => {
            Fate::Gone(Reason::AgentLostTask, "Its agent has no record of it any more.")
        }
        // The agent never said anything of it: it can't have heard of it yet, and will.
        None => Fate::AsItIs,
    }
}

/// Refuses facts out of bounds: InvalidArgument.
fn check(id: &AgentId, facts: &AgentFacts) -> Result<(), Refusal> {
    let refuse = |why: String| {
        Err(invalid(format!("Agent `{id}` was not registered: {why}. Correct its configuration.")))
    };
    if let Err(error) = facts.total.check() {
        return refuse(error.to_string());
    }
    let texts = [
        ("host name", &facts.hostname),
        ("boot id", &facts.boot_id),
        ("address", &facts.address),
        ("version", &facts.version),
    ];
    for (what, text) in texts {
        if text.len() > limits::VALUE_BYTES_MAX {
            return refuse(format!(
                "its {what} has {} bytes of at most {}",
                text.len(),
                limits::VALUE_BYTES_MAX
            ));
        }
    }
    for (what, count, max) in [
        ("attributes", facts.attributes.len(), limits::ATTRIBUTES_MAX),
        ("limitations", facts.limitations.len(), limits::LIMITATIONS_MAX),
    ] {
        if count > max {
            return refuse(format!("it has {count} {what} of at most {max}"));
        }
    }
    for (name, value) in &facts.attributes {
        if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || value.len() > limits::VALUE_BYTES_MAX {
            return refuse(format!(
                "attribute `{}` has no name of 1 to {} bytes and value of at most {} bytes",
                name.chars().take(limits::NAME_BYTES_MAX).collect::<String>(),
                limits::NAME_BYTES_MAX,
                limits::VALUE_BYTES_MAX
            ));
        }
    }
    if facts.limitations.iter().any(|line| line.len() > limits::MESSAGE_BYTES_MAX) {
        return refuse(format!("one of its limitations has more than {} bytes", limits::MESSAGE_BYTES_MAX));
    }
    Ok(())
}
