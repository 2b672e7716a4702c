//! Every call: who may make it, and where it goes on.
//!
//! What the log decides is proposed, and its answer is the caller's; the rest is answered at once.

use cluster::{ClusterState, Command, Framework, KillBy};
use model::{FrameworkId, Reason, Refusal, RefusalCode, TaskId, TaskState, TaskStatus, Timestamp};

use crate::{
    accepts::Using,
    config::RECONCILED_MAX,
    demand::Appetite,
    machine::Leader,
    messages::{Call, Caller, Reply},
    proposals::{Asker, CallId, Purpose, reconciled},
};

impl Leader {
    pub(crate) fn call(&mut self, asker: Asker, what: Call, state: &ClusterState, now: Timestamp) {
        if state.cluster().is_none() && !matches!(what, Call::Attach(_)) {
            let refusal =
                Refusal::new(RefusalCode::Busy, "the cluster is just being made; try again in a moment");
            return self.answer(asker, Err(refusal));
        }
        if let Err(refusal) = self.try_call(asker, what, state, now) {
            self.answer(asker, Err(refusal));
        }
    }

    /// Refuses at once, or sees to it that an answer comes.
    fn try_call(
        &mut self,
        asker: Asker,
        what: Call,
        state: &ClusterState,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        match what {
            Call::Subscribe(params) => self.subscribe(daemon(asker)?, params, state, now)?,
            Call::Attach(hello) => self.attach(daemon(asker)?, hello, state, now),
            Call::ReadOutput(request) => self.read_output(daemon(asker)?, request, state, now)?,
            Call::ReadUsage(subjects) => {
                let figures = self.usage_of(&subjects);
                self.answer(asker, Ok(Reply::Usage(figures)));
            }
            Call::ReadHistory { agent, history } => self.read_history(daemon(asker)?, agent, history, now)?,
            Call::OpenChannel { channel, task } => {
                let agent = self.open_channel(channel, &task, state)?;
                self.answer(asker, Ok(Reply::Told(agent)));
            }
            Call::IsFrozen(task) => {
                let is_frozen = self.is_frozen(&task, state);
                self.answer(asker, Ok(Reply::Frozen(is_frozen)));
            }
            Call::Accept { caller, offers, tasks, refuse } => {
                self.check_caller(asker, &caller, state)?;
                self.accept(asker, caller, Using { offers, tasks, refuse }, state, now)?;
            }
            Call::Decline { caller, offers, refuse } => {
                self.check_caller(asker, &caller, state)?;
                for id in self.offers.declinable(&caller.framework, &offers)? {
                    self.decline(&id, refuse, now);
                }
                self.answer(asker, Ok(Reply::Done));
            }
            Call::SetDemand { caller, demands } => {
                self.check_caller(asker, &caller, state)?;
                self.set_appetite(&caller.framework, Appetite::stated(demands)?);
                self.answer(asker, Ok(Reply::Done));
            }
            Call::Suppress { caller } => {
                self.check_caller(asker, &caller, state)?;
                self.interests.appetites.insert(caller.framework, Appetite::Suppressed);
                self.answer(asker, Ok(Reply::Done));
            }
            Call::Revive { caller } => {
                self.check_caller(asker, &caller, state)?;
                let appetite = match self.interests.appetites.remove(&caller.framework) {
                    None | Some(Appetite::Unlimited | Appetite::Suppressed) => Appetite::Unlimited,
                    Some(stated @ Appetite::Stated(_)) => stated,
                };
                self.set_appetite(&caller.framework, appetite);
                self.answer(asker, Ok(Reply::Done));
            }
            Call::Kill { caller, task, grace } => {
                self.check_caller(asker, &caller, state)?;
                let Caller { framework, subscription: _, request } = caller;
                let command = Command::Kill { by: KillBy::Framework(framework), task, grace, request };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::Reconcile { caller, tasks } => {
                self.check_caller(asker, &caller, state)?;
                let statuses = reconcile(&caller.framework, &tasks, state, now)?;
                self.answer(asker, Ok(Reply::Statuses(statuses)));
            }
            Call::Acknowledge { caller, cursor } => {
                self.check_caller(asker, &caller, state)?;
                self.acknowledge(&caller, cursor)?;
                self.answer(asker, Ok(Reply::Done));
            }
            Call::UpdateFramework { caller, info } => {
                self.check_caller(asker, &caller, state)?;
                let Caller { framework, subscription: _, request } = caller;
                let command = Command::UpdateFramework { framework, info, request };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::Teardown { caller } => {
                // A repeat comes when the framework has ended already; the log knows the first answer.
                if caller.request.is_none() || !state.has_ended(&caller.framework) {
                    self.check_caller(asker, &caller, state)?;
                }
                let Caller { framework, subscription: _, request } = caller;
                let command = Command::TearDownFramework { framework, request };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::Run { request, tasks } => {
                let tasks = tasks.into_iter().map(Into::into).collect();
                let command = Command::SubmitRun { request: Some(request), tasks };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::KillTask { request, task, grace } => {
                let command = Command::Kill { by: KillBy::Operator, task, grace, request: Some(request) };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::TeardownFramework { request, framework } => {
                let command = Command::TearDownFramework { framework, request: Some(request) };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::SetRole { request, role, weight_milli } => {
                let command = Command::SetRole { role, weight_milli, request: Some(request) };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::DeactivateAgent { request, agent, tasks } => {
                let command = Command::DeactivateAgent { agent, tasks, request: Some(request) };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::ActivateAgent { request, agent } => {
                let command = Command::ActivateAgent { agent, request: Some(request) };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::MarkAgentGone { request, agent } => {
                let command = Command::MarkAgentGone { agent, request: Some(request) };
                self.propose(Purpose::Pass { asker }, command, now);
            }
            Call::ConfirmUnreachable { agents } => {
                let confirmed = self.confirm_unreachable(agents, state, now)?;
                self.answer(asker, Ok(Reply::Confirmed(confirmed)));
            }
        }
        Ok(())
    }

    /// Refuses who is not the framework's newest subscription.
    fn check_caller(&self, asker: Asker, caller: &Caller, state: &ClusterState) -> Result<(), Refusal> {
        let framework = known_framework(&caller.framework, state)?;
        match asker {
            Asker::Run(_) => return Ok(()),
            Asker::Daemon(_) if framework.is_built_in => return Err(built_in(&caller.framework)),
            Asker::Daemon(_) => {}
        }
        if self.subscribers.of_framework(&caller.framework) != Some(&caller.subscription) {
            return Err(Refusal::new(
                RefusalCode::SubscriptionReplaced,
                format!(
                    "subscription `{}` of framework `{}` is over: it was lost, or another instance subscribed; \
                     subscribe again",
                    caller.subscription, caller.framework
                ),
            ));
        }
        Ok(())
    }
}

fn daemon(asker: Asker) -> Result<CallId, Refusal> {
    match asker {
        Asker::Daemon(call) => Ok(call),
        Asker::Run(_) => Err(Refusal::new(RefusalCode::Internal, "`run` can't make this call")),
    }
}

pub(crate) fn known_framework<'a>(
    id: &FrameworkId,
    state: &'a ClusterState,
) -> Result<&'a Framework, Refusal> {
    match state.framework(id) {
        Some(framework) => Ok(framework),
        None if state.has_ended(id) => Err(ended(id)),
        None => Err(Refusal::new(
            RefusalCode::FrameworkUnknown,
            format!("no framework has the id `{id}`; subscribe without an id to become a new one"),
        )),
    }
}

pub(crate) fn ended(id: &FrameworkId) -> Refusal {
    Refusal::new(
        RefusalCode::FrameworkEnded,
        format!("framework `{id}` was torn down; subscribe without an id to become a new one"),
    )
}

pub(crate) fn built_in(id: &FrameworkId) -> Refusal {
    Refusal::new(
        RefusalCode::FrameworkBuiltIn,
        format!("framework `{id}` is built in; only the coordinator speaks for it"),
    )
}

/// Latest statuses of the named tasks, or of all of the framework's tasks that are not final.
fn reconcile(
    framework: &FrameworkId,
    tasks: &[TaskId],
    state: &ClusterState,
    now: Timestamp,
) -> Result<Vec<TaskStatus>, Refusal> {
    if tasks.len() > RECONCILED_MAX {
        return Err(Refusal::new(
            RefusalCode::InvalidArgument,
            format!("can't reconcile {} tasks at once; name at most {RECONCILED_MAX}", tasks.len()),
        ));
    }
    if tasks.is_empty() {
        let Some(share) = state.share_of_framework(framework) else { return Ok(Vec::new()) };
        let live = share.tasks.iter().filter_map(|id| state.task(id));
        return Ok(live.filter(|task| !task.state.is_final()).map(reconciled).collect());
    }
    let status = |id: &TaskId| match state.task(id) {
        Some(task) if task.framework == *framework => reconciled(task),
        Some(_) | None => unknown_task(framework, id, now),
    };
    Ok(tasks.iter().map(status).collect())
}

/// Another framework's task is as unknown as one that never was.
fn unknown_task(framework: &FrameworkId, id: &TaskId, now: Timestamp) -> TaskStatus {
    TaskStatus {
        task_id: id.clone(),
        framework_id: framework.clone(),
        agent_id: None,
        state: TaskState::Gone,
        reason: Reason::TaskUnknown,
        message: "no task of this framework has this id, or it was forgotten after its end".to_owned(),
        exit: None,
        at: now,
        sequence: 0,
        is_released: true,
        usage: None,
        health: None,
    }
}
