//! Tasks are launched, killed and reported on.

use std::sync::Arc;

use model::{
    AgentId, Duration, FrameworkEvent, FrameworkId, KillOrder, Reason, Refusal, RefusalCode, RequestId,
    Resources, RoleName, TaskId, TaskSpec, TaskState, TaskStatus, limits,
};

use super::{Step, invalid, shortened};
use crate::{
    answers::Asked,
    command::KillBy,
    outcome::{Answer, Change},
    state::{Agent, Availability, Framework, RUN_FRAMEWORK, Task},
};

/// Whose launch, and where.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub framework: &'a FrameworkId,
    pub role: &'a RoleName,
    pub agent: &'a AgentId,
    pub epoch: u64,
}

/// A status that the log makes by itself.
#[derive(Clone, Copy)]
pub(super) struct News {
    pub state: TaskState,
    pub reason: Reason,
    pub message: &'static str,
    pub is_released: bool,
}

impl Step<'_> {
    /// Launches what fits, task by task; each that doesn't has its refusal in the answer:
    /// InvalidArgument, TaskIdTaken, TaskUnknown (no longer waiting), ExceedsOffer, AgentLacksResources,
    /// AgentUnknown, AgentGone, AgentUnreachable, AgentDeactivated, EpochStale, Busy.
    ///
    /// Refuses as a whole unknown and ended frameworks, and more tasks than one Accept may hold (InvalidArgument).
    pub(super) fn launch(
        &mut self,
        place: Place<'_>,
        request: Option<&RequestId>,
        offered: &Resources,
        specs: &[Arc<TaskSpec>],
    ) -> Result<Answer, Refusal> {
        let framework = self.state.known_framework(place.framework, "No task was launched")?;
        if let Some(first) = framework.answers.repeat(request, &Asked::Launch)? {
            return Ok(first);
        }
        if specs.len() > limits::TASKS_PER_ACCEPT_MAX {
            return Err(invalid(format!(
                "No task was launched: {} tasks in one request are more than the {} that are allowed. \
                 Use several requests.",
                specs.len(),
                limits::TASKS_PER_ACCEPT_MAX
            )));
        }
        let mut left = offered.clone();
        let mut results = Vec::with_capacity(specs.len());
        for spec in specs {
            let judged = self.judge(place, &left, spec);
            if judged.is_ok() {
                left = left.minus_at_most(&spec.resources);
                self.start(place, spec);
            }
            results.push((spec.task_id.clone(), judged.err()));
        }
        if results.iter().any(|(_, refusal)| refusal.is_none()) {
            self.agent_changed(place.agent);
        }
        Ok(self.keep_answer(place.framework, request, Asked::Launch, Answer::Launched(results)))
    }

    /// Whether this task may be launched on what is left of the offers; changes nothing.
    fn judge(&self, place: Place<'_>, left: &Resources, spec: &TaskSpec) -> Result<(), Refusal> {
        let id = &spec.task_id;
        let attempted = format!("Task `{id}` was not launched");
        let Some(framework) = self.state.framework(place.framework) else { return Ok(()) };
        check_spec(spec, &attempted)?;
        self.check_id(framework, place.framework, id, &attempted)?;
        if framework.finals_pending() >= limits::FINALS_UNACKNOWLEDGED_MAX {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "{attempted}: its framework has {} final statuses that it did not acknowledge. \
                     Acknowledge events as they are handled.",
                    framework.finals_pending()
                ),
            ));
        }
        let need = &spec.resources;
        if !left.contains(need) {
            return Err(Refusal::new(
                RefusalCode::ExceedsOffer,
                format!(
                    "{attempted}: it needs {need}, and the offers have {left} left. \
                     Ask for no more than was offered, or use more offers of this agent."
                ),
            ));
        }
        let agent = self.state.current_agent(place.agent, place.epoch, &attempted)?;
        match agent.availability {
            Availability::Active => {}
            Availability::Deactivated => {
                return Err(Refusal::new(
                    RefusalCode::AgentDeactivated,
                    format!(
                        "{attempted}: an operator took agent `{}` out of use. Wait for another offer.",
                        place.agent
                    ),
                ));
            }
        }
        let free = agent.free();
        if !free.contains(need) {
            return Err(Refusal::new(
                RefusalCode::AgentLacksResources,
                format!(
                    "{attempted}: it needs {need}, and agent `{}` has {free} left. Wait for another offer.",
                    place.agent
                ),
            ));
        }
        if agent.tasks.len() >= limits::TASKS_PER_AGENT_MAX {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "{attempted}: agent `{}` has {} tasks, the most that are allowed. Use another agent.",
                    place.agent,
                    agent.tasks.len()
                ),
            ));
        }
        Ok(())
    }

    /// Refuses an id that is known already (TaskIdTaken), and for `run` one that doesn't wait (TaskUnknown).
    fn check_id(
        &self,
        framework: &Framework,
        framework_id: &FrameworkId,
        id: &TaskId,
        attempted: &str,
    ) -> Result<(), Refusal> {
        let is_run = framework.is_built_in && framework_id.as_str() == RUN_FRAMEWORK;
        let is_waiting = self.state.index.waiting.contains_key(id);
        if self.state.tasks.contains_key(id) || is_waiting && !is_run {
            return Err(taken(id, attempted));
        }
        if is_run && !is_waiting {
            return Err(Refusal::new(
                RefusalCode::TaskUnknown,
                format!(
                    "{attempted}: it does not wait any more. Submit it again under another id if it is wanted."
                ),
            ));
        }
        Ok(())
    }

    /// Makes the record of a task that was judged.
    ///
    /// # Panics
    /// When the agent has more allocated than it has after it had not before: going on would promise
    /// the same resources twice.
    fn start(&mut self, place: Place<'_>, spec: &Arc<TaskSpec>) {
        let was_overdrawn = self.state.agent(place.agent).is_some_and(Agent::is_overdrawn);
        let waited = self.take_from_queue(&spec.task_id);
        let created_at = waited.as_ref().map_or(self.at, |waiting| waiting.submitted_at);
        // The queue's copy is the same in all but rare cases; sharing it saves memory.
        let spec = match waited {
            Some(waiting) if waiting.spec == *spec => waiting.spec,
            Some(_) | None => spec.clone(),
        };
        self.insert_task(Task {
            spec,
            framework: place.framework.clone(),
            role: place.role.clone(),
            agent: Some(place.agent.clone()),
            epoch: place.epoch,
            state: TaskState::Staging,
            kill: None,
            is_released: false,
            status: None,
            recorded_sequence: 0,
            created_at,
            changed_at: self.at,
            changed_counted: self.state.counted,
        });
        let is_overdrawn = self.state.agent(place.agent).is_none_or(Agent::is_overdrawn);
        assert!(was_overdrawn || !is_overdrawn, "more was launched on an agent than it has");
    }

    pub(super) fn insert_task(&mut self, task: Task) {
        let id = task.spec.task_id.clone();
        self.state.index_task(&task);
        self.state.tasks.insert(id.clone(), Arc::new(task));
        self.task_changed(&id);
    }

    /// Final tasks stay as they are; one that waits is KILLED at once.
    ///
    /// Refuses unknown tasks (TaskUnknown), those of another framework (TaskNotYours), unknown and ended
    /// frameworks, and a grace above a day (InvalidArgument).
    pub(super) fn kill(
        &mut self,
        by: &KillBy,
        id: &TaskId,
        grace: Option<Duration>,
        request: Option<&RequestId>,
    ) -> Result<Answer, Refusal> {
        let attempted = format!("Task `{id}` was not killed");
        let asked = Asked::Kill(id.clone());
        let window = match by {
            KillBy::Framework(framework) => &self.state.known_framework(framework, &attempted)?.answers,
            KillBy::Operator => &self.state.answers,
        };
        if let Some(first) = window.repeat(request, &asked)? {
            return Ok(first);
        }
        if grace.is_some_and(|grace| grace > Duration::from_millis(limits::KILL_GRACE_MS_MAX)) {
            return Err(invalid(format!(
                "{attempted}: its grace is longer than a day. Ask for a shorter one."
            )));
        }
        let is_waiting = self.state.index.waiting.contains_key(id);
        let owner = match self.state.task(id) {
            Some(task) => task.framework.as_str(),
            None if is_waiting => RUN_FRAMEWORK,
            None => {
                return Err(Refusal::new(
                    RefusalCode::TaskUnknown,
                    format!("{attempted}: no task has this id. Look at the list of tasks."),
                ));
            }
        };
        if let KillBy::Framework(framework) = by
            && framework.as_str() != owner
        {
            return Err(Refusal::new(
                RefusalCode::TaskNotYours,
                format!(
                    "{attempted}: it belongs to framework `{owner}`, not to `{framework}`. \
                     A framework can kill its own tasks only."
                ),
            ));
        }
        if is_waiting {
            self.kill_waiting(id);
        } else {
            self.order_kill(id, grace);
        }
        match by {
            KillBy::Framework(framework) => Ok(self.keep_answer(framework, request, asked, Answer::Done)),
            KillBy::Operator => {
                self.state.answers.keep(self.index, request, asked, &Answer::Done);
                Ok(Answer::Done)
            }
        }
    }

    /// Sets a kill order; a later one may hurry an earlier one, never slow it down.
    pub(super) fn order_kill(&mut self, id: &TaskId, grace: Option<Duration>) {
        let counted = self.state.counted;
        let Some(task) = self.state.tasks.get_mut(id) else { return };
        if task.state.is_final() {
            return;
        }
        let grace = grace.unwrap_or(task.spec.kill_grace);
        let grace = task.kill.map_or(grace, |order| order.grace.min(grace));
        if task.kill != Some(KillOrder { grace }) {
            let task = Arc::make_mut(task);
            task.kill = Some(KillOrder { grace });
            task.changed_at = self.at;
            task.changed_counted = counted;
            self.task_changed(id);
        }
    }

    /// Records what an agent reported; what is recorded already, or of tasks that nobody knows any more,
    /// counts as recorded, so that the agent may forget it.
    ///
    /// Refuses AgentUnknown, EpochStale and AgentUnreachable.
    pub(super) fn record_statuses(
        &mut self,
        agent: &AgentId,
        epoch: u64,
        statuses: &[TaskStatus],
    ) -> Result<Answer, Refusal> {
        self.state.current_agent(agent, epoch, "The statuses were not recorded")?;
        let recorded = statuses.iter().map(|status| (status.task_id.clone(), self.record(agent, status)));
        Ok(Answer::Recorded(recorded.collect()))
    }

    /// Records one status, and says up to where its task's are recorded.
    fn record(&mut self, agent: &AgentId, status: &TaskStatus) -> u64 {
        let id = &status.task_id;
        let Some(task) = self.state.tasks.get_mut(id).filter(|task| task.agent.as_ref() == Some(agent))
        else {
            return status.sequence;
        };
        let recorded = task.recorded_sequence;
        if status.sequence <= recorded {
            if status.is_released {
                self.release(id);
            }
            return recorded;
        }
        Arc::make_mut(task).recorded_sequence = status.sequence;
        let Some(state) = next_state(task, status) else {
            if status.is_released {
                self.release(id);
            }
            return status.sequence;
        };
        let is_orphan = !self.state.frameworks.contains_key(&task.framework);
        let reason = match status.reason {
            Reason::KillRequested if is_orphan => Reason::FrameworkTornDown,
            reason => reason,
        };
        let status = TaskStatus {
            agent_id: Some(agent.clone()),
            state,
            reason,
            message: shortened(&status.message, limits::MESSAGE_BYTES_MAX),
            ..status.clone()
        };
        let recorded = status.sequence;
        self.transition(status);
        recorded
    }

    /// Gives a task a status of the log's own, if its state allows it.
    pub(super) fn say(&mut self, id: &TaskId, news: News) {
        let Some(task) = self.state.task(id).filter(|task| task.state.can_become(news.state)) else { return };
        self.transition(TaskStatus {
            task_id: id.clone(),
            framework_id: task.framework.clone(),
            agent_id: task.agent.clone(),
            state: news.state,
            reason: news.reason,
            message: news.message.to_owned(),
            exit: None,
            at: self.at,
            sequence: 0,
            is_released: news.is_released,
            usage: None,
            health: None,
        });
    }

    /// The one place where a task's state changes. The status gets its number here.
    fn transition(&mut self, status: TaskStatus) {
        let counted = self.state.counted;
        let id = status.task_id.clone();
        let Some(task) = self.state.tasks.get_mut(&id) else { return };
        let task = Arc::make_mut(task);
        let is_released = status.is_released && status.state.is_final();
        let status = TaskStatus {
            framework_id: task.framework.clone(),
            sequence: task.sequence() + 1,
            is_released,
            ..status
        };
        task.state = status.state;
        task.changed_at = self.at;
        task.changed_counted = counted;
        task.status = Some(status.clone());
        let framework = task.framework.clone();
        self.task_changed(&id);
        self.publish(&framework, FrameworkEvent::Status(status));
        if is_released {
            self.release(&id);
        }
    }

    /// The resources of a final task are free again: a fact beside the state, of which no event tells.
    pub(super) fn release(&mut self, id: &TaskId) {
        let counted = self.state.counted;
        let Some(task) =
            self.state.tasks.get_mut(id).filter(|task| task.state.is_final() && !task.is_released)
        else {
            return;
        };
        let record = Arc::make_mut(task);
        record.is_released = true;
        record.changed_at = self.at;
        record.changed_counted = counted;
        let task = task.clone();
        self.state.index_released(&task);
        self.task_changed(id);
        if let Some(agent) = &task.agent {
            self.changes.push(Change::Agent(agent.clone()));
        }
    }
}

/// What a status of an agent makes of a task, or `None` when it tells nothing new.
///
/// An end is always believed: a DROPPED after it ran can't be, so it is FAILED.
fn next_state(task: &Task, status: &TaskStatus) -> Option<TaskState> {
    let (now, reported) = (task.state, status.state);
    if matches!(reported, TaskState::Staging | TaskState::Unreachable) {
        // Not for an agent to say.
        return None;
    }
    // A task that runs on may feel better or worse, or use a port that it has not declared; a group that runs on
    // may have lost a process. Everything else that was ever said twice told nothing new, and replays as that.
    let (health, message) = task.status.as_ref().map_or((None, ""), |last| (last.health, &last.message));
    let is_health_news = status.health.is_some() && status.health != health;
    let is_group_news = !task.spec.processes.is_empty() && status.message != message;
    let is_port_news = status.reason == Reason::PortNotDeclared && status.message != message;
    let is_news = reported == TaskState::Running && (is_health_news || is_group_news || is_port_news);
    if now.can_become(reported) || now == reported && is_news {
        return Some(reported);
    }
    (reported.is_final() && !now.is_final()).then_some(TaskState::Failed)
}

/// Refuses a spec that can't be run anywhere: InvalidArgument.
pub(super) fn check_spec(spec: &TaskSpec, attempted: &str) -> Result<(), Refusal> {
    let Err(error) = spec.check() else { return Ok(()) };
    let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    Err(invalid(format!("{attempted}: {error}{cause}. Correct its spec.")))
}

pub(super) fn taken(id: &TaskId, attempted: &str) -> Refusal {
    Refusal::new(
        RefusalCode::TaskIdTaken,
        format!("{attempted}: a task with the id `{id}` is known already. Choose another id."),
    )
}

#[cfg(test)]
mod tests {
    use model::{ClusterTime, ProcessSpec, Timestamp};

    use super::*;

    fn running(message: &str) -> TaskStatus {
        TaskStatus {
            task_id: TaskId::new("t").unwrap(),
            framework_id: FrameworkId::new("f").unwrap(),
            agent_id: None,
            state: TaskState::Running,
            reason: Reason::None,
            message: message.to_owned(),
            exit: None,
            at: Timestamp(0),
            sequence: 1,
            is_released: false,
            usage: None,
            health: None,
        }
    }

    #[test]
    fn of_a_running_task_only_groups_and_ports_are_news_in_words() {
        let id = TaskId::new("t").unwrap();
        let one = TaskSpec::new(id, Resources::default(), vec!["true".to_owned()]);
        let processes = vec![ProcessSpec::new("web", vec!["true".to_owned()])];
        let group = TaskSpec { command: Vec::new(), processes, ..one.clone() };
        let task = |spec: &TaskSpec, before: &str| Task {
            spec: Arc::new(spec.clone()),
            framework: FrameworkId::new("f").unwrap(),
            role: RoleName::new("default").unwrap(),
            agent: None,
            epoch: 1,
            state: TaskState::Running,
            kill: None,
            is_released: false,
            status: Some(running(before)),
            recorded_sequence: 1,
            created_at: Timestamp(0),
            changed_at: Timestamp(0),
            changed_counted: ClusterTime::ZERO,
        };
        let news =
            |spec: &TaskSpec, before: &str, after: &str| next_state(&task(spec, before), &running(after));
        assert_eq!(news(&one, "", "the process `log` exited with code 1"), None);
        assert_eq!(news(&group, "", "the process `log` exited with code 1"), Some(TaskState::Running));
        assert_eq!(news(&group, "as before", "as before"), None);

        let told = |before: &str, after: &str| {
            let after = TaskStatus { reason: Reason::PortNotDeclared, ..running(after) };
            next_state(&task(&one, before), &after)
        };
        assert_eq!(told("", "uses port 80"), Some(TaskState::Running));
        assert_eq!(told("uses port 80", "uses port 80"), None);
    }
}
