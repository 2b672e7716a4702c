//! The way to the leader's loop for everyone else in the daemon.
//!
//! Every call goes through a bounded queue: when it is full the answer is `Busy`, when this member
//! does not lead it is `NoLeader`, and when the answer takes too long it is `OutcomeUnknown`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cluster::{ClusterState, DeactivatedTasks, FrameworkInfo};
use model::{
    AgentId, ClusterTime, Cursor, FrameworkId, OfferId, Refusal, RefusalCode, RequestId, RoleName, Subject,
    TaskId, TaskSpec, TaskStatus, Usage,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    actor::Figures,
    messages::{
        Attachment, Call, Caller, ChannelId, Demand, FromAgent, Hello, HistoryRequest, OutputChunk,
        OutputRequest, Reply, SessionId, SoftView, SubscribeParams, Subscription,
    },
};

/// Longest wait for an answer that needs the log.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// What a handle asks of the loop.
#[derive(Debug)]
pub(super) enum Request {
    Call { call: Call, reply: oneshot::Sender<Result<Reply, Refusal>> },
    Subscribe { params: SubscribeParams, reply: oneshot::Sender<Result<Subscription, Refusal>> },
    Attach { hello: Box<Hello>, reply: oneshot::Sender<Result<Attachment, Refusal>> },
    Soft { reply: oneshot::Sender<Result<SoftView, Refusal>> },
    Counted { reply: oneshot::Sender<Result<ClusterTime, Refusal>> },
    Supported { version: u32 },
}

/// What the sessions of agents tell the loop; never dropped for want of room: the agent waits.
#[derive(Debug)]
pub(super) enum Heard {
    Said { session: SessionId, message: FromAgent },
    Gone { session: SessionId },
}

/// The handle: cheap to clone.
#[derive(Debug, Clone)]
pub struct LeaderHandle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) heard: mpsc::Sender<Heard>,
    pub(super) state: watch::Receiver<(u64, ClusterState)>,
    pub(super) changed: watch::Receiver<u64>,
    pub(super) figures: watch::Receiver<Figures>,
    pub(super) busy: Arc<Busy>,
}

/// How many calls were told *busy*.
#[derive(Debug, Default)]
pub(super) struct Busy(AtomicU64);

impl Busy {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl LeaderHandle {
    /// Opens a framework's event stream; a newer one replaces an older.
    pub async fn subscribe(&self, params: SubscribeParams) -> Result<Subscription, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.ask("subscribe", Request::Subscribe { params, reply }, answer, ANSWER_TIME_MAX).await
    }

    /// Launches tasks on offers of one agent; each task has its own answer, in order.
    pub async fn accept(
        &self,
        caller: Caller,
        offers: Vec<OfferId>,
        tasks: Vec<TaskSpec>,
        refuse: Duration,
    ) -> Result<Vec<(TaskId, Option<Refusal>)>, Refusal> {
        match self.call("accept offers", Call::Accept { caller, offers, tasks, refuse }).await? {
            Reply::Launched(results) => Ok(results),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn decline(
        &self,
        caller: Caller,
        offers: Vec<OfferId>,
        refuse: Duration,
    ) -> Result<(), Refusal> {
        self.call_done("decline offers", Call::Decline { caller, offers, refuse }).await
    }

    pub async fn set_demand(&self, caller: Caller, demands: Vec<Demand>) -> Result<(), Refusal> {
        self.call_done("set the demand", Call::SetDemand { caller, demands }).await
    }

    pub async fn suppress(&self, caller: Caller) -> Result<(), Refusal> {
        self.call_done("suppress offers", Call::Suppress { caller }).await
    }

    pub async fn revive(&self, caller: Caller) -> Result<(), Refusal> {
        self.call_done("revive offers", Call::Revive { caller }).await
    }

    pub async fn kill(&self, caller: Caller, task: TaskId, grace: Option<Duration>) -> Result<(), Refusal> {
        self.call_done("kill the task", Call::Kill { caller, task, grace }).await
    }

    /// Latest statuses of the named tasks, or of all that are not final when none is named.
    pub async fn reconcile(&self, caller: Caller, tasks: Vec<TaskId>) -> Result<Vec<TaskStatus>, Refusal> {
        match self.call("reconcile", Call::Reconcile { caller, tasks }).await? {
            Reply::Statuses(statuses) => Ok(statuses),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn acknowledge(&self, caller: Caller, cursor: Cursor) -> Result<(), Refusal> {
        self.call_done("acknowledge events", Call::Acknowledge { caller, cursor }).await
    }

    pub async fn update_framework(&self, caller: Caller, info: FrameworkInfo) -> Result<(), Refusal> {
        self.call_done("update the framework", Call::UpdateFramework { caller, info }).await
    }

    pub async fn teardown(&self, caller: Caller) -> Result<(), Refusal> {
        self.call_done("tear down the framework", Call::Teardown { caller }).await
    }

    /// Opens an agent's session; a newer one ends an older of the same agent.
    pub async fn attach_agent(&self, hello: Hello) -> Result<Attachment, Refusal> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Attach { hello: Box::new(hello), reply };
        self.ask("attach the agent", request, answer, ANSWER_TIME_MAX).await
    }

    /// Passes on what an agent said. Waits while the loop is busy, so that the agent's stream does too.
    pub async fn agent_said(&self, session: SessionId, message: FromAgent) -> Result<(), Refusal> {
        self.heard.send(Heard::Said { session, message }).await.map_err(|_closed| stopped())
    }

    /// Says that an agent's stream has ended.
    pub async fn agent_gone(&self, session: SessionId) -> Result<(), Refusal> {
        self.heard.send(Heard::Gone { session }).await.map_err(|_closed| stopped())
    }

    /// Hands tasks to the built-in `run` framework.
    pub async fn run(&self, request: RequestId, tasks: Vec<TaskSpec>) -> Result<Vec<TaskId>, Refusal> {
        match self.call("run tasks", Call::Run { request, tasks }).await? {
            Reply::Submitted(ids) => Ok(ids),
            other => Err(unexpected(&other)),
        }
    }

    /// Kills any task, as an operator.
    pub async fn kill_task(
        &self,
        request: RequestId,
        task: TaskId,
        grace: Option<Duration>,
    ) -> Result<(), Refusal> {
        self.call_done("kill the task", Call::KillTask { request, task, grace }).await
    }

    /// Tears down any framework, as an operator.
    pub async fn teardown_framework(
        &self,
        request: RequestId,
        framework: FrameworkId,
    ) -> Result<(), Refusal> {
        self.call_done("tear down the framework", Call::TeardownFramework { request, framework }).await
    }

    pub async fn set_role(
        &self,
        request: RequestId,
        role: RoleName,
        weight_milli: u64,
    ) -> Result<(), Refusal> {
        self.call_done("set the role", Call::SetRole { request, role, weight_milli }).await
    }

    pub async fn deactivate_agent(
        &self,
        request: RequestId,
        agent: AgentId,
        tasks: DeactivatedTasks,
    ) -> Result<(), Refusal> {
        self.call_done("deactivate the agent", Call::DeactivateAgent { request, agent, tasks }).await
    }

    pub async fn activate_agent(&self, request: RequestId, agent: AgentId) -> Result<(), Refusal> {
        self.call_done("activate the agent", Call::ActivateAgent { request, agent }).await
    }

    pub async fn mark_agent_gone(&self, request: RequestId, agent: AgentId) -> Result<(), Refusal> {
        self.call_done("mark the agent as gone", Call::MarkAgentGone { request, agent }).await
    }

    /// Confirms that these agents, or all that are silent, don't answer; says which are being marked.
    pub async fn confirm_unreachable(&self, agents: Vec<AgentId>) -> Result<Vec<AgentId>, Refusal> {
        match self.call("mark agents unreachable", Call::ConfirmUnreachable { agents }).await? {
            Reply::Confirmed(agents) => Ok(agents),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads a piece of a task's output from its agent.
    pub async fn read_output(&self, request: OutputRequest) -> Result<OutputChunk, Refusal> {
        let patience = ANSWER_TIME_MAX.saturating_add(request.wait);
        match self.call_within("read the output", Call::ReadOutput(request), patience).await? {
            Reply::Output(chunk) => Ok(chunk),
            other => Err(unexpected(&other)),
        }
    }

    /// What each of these used last, as its agent reported it; `None` where nothing is known.
    pub async fn read_usage(&self, subjects: Vec<(AgentId, Subject)>) -> Result<Vec<Option<Usage>>, Refusal> {
        match self.call("read the usage", Call::ReadUsage(subjects)).await? {
            Reply::Usage(figures) => Ok(figures),
            other => Err(unexpected(&other)),
        }
    }

    /// Tells a task's agent to open its half of a channel; answers which agent that is.
    pub async fn open_channel(&self, channel: ChannelId, task: TaskId) -> Result<AgentId, Refusal> {
        match self.call("reach the task", Call::OpenChannel { channel, task }).await? {
            Reply::Told(agent) => Ok(agent),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads the figures of the last hour from an agent.
    pub async fn read_history(&self, agent: AgentId, history: HistoryRequest) -> Result<Vec<Usage>, Refusal> {
        match self.call("read the history of usage", Call::ReadHistory { agent, history }).await? {
            Reply::History(points) => Ok(points),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether a task stands still; `None` where nobody can tell now.
    pub async fn is_frozen(&self, task: TaskId) -> Result<Option<bool>, Refusal> {
        match self.call("ask whether the task stands still", Call::IsFrozen(task)).await? {
            Reply::Frozen(is_frozen) => Ok(is_frozen),
            other => Err(unexpected(&other)),
        }
    }

    /// The latest applied state: a cheap clone.
    pub fn state(&self) -> ClusterState {
        self.state.borrow().1.clone()
    }

    /// Tells of each newly applied log index; read [`Self::state`] after it changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// What only the leader's memory knows; refused on a member that doesn't lead.
    pub async fn soft(&self) -> Result<SoftView, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.ask("look into the leader's memory", Request::Soft { reply }, answer, ANSWER_TIME_MAX).await
    }

    /// The cluster's time as it is now; the log may know of an earlier one.
    pub async fn counted(&self) -> Result<ClusterTime, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.ask("ask for the cluster's time", Request::Counted { reply }, answer, ANSWER_TIME_MAX).await
    }

    /// Tells which cluster version every member reads, 0 if that isn't known. To be repeated until it has risen: what
    /// finds no room, or no leader, is dropped.
    pub fn tell_supported(&self, version: u32) {
        let _ = self.requests.try_send(Request::Supported { version });
    }

    /// Gauges and counters of the loop.
    pub fn figures(&self) -> Figures {
        let mut figures = *self.figures.borrow();
        figures.calls_busy_total = self.busy.count();
        figures
    }

    async fn call_done(&self, what: &'static str, call: Call) -> Result<(), Refusal> {
        match self.call(what, call).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn call(&self, what: &'static str, call: Call) -> Result<Reply, Refusal> {
        self.call_within(what, call, ANSWER_TIME_MAX).await
    }

    async fn call_within(
        &self,
        what: &'static str,
        call: Call,
        patience: Duration,
    ) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.ask(what, Request::Call { call, reply }, answer, patience).await
    }

    async fn ask<T>(
        &self,
        what: &'static str,
        request: Request,
        answer: oneshot::Receiver<Result<T, Refusal>>,
        patience: Duration,
    ) -> Result<T, Refusal> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.busy.0.fetch_add(1, Ordering::Relaxed);
                Refusal::new(
                    RefusalCode::Busy,
                    format!("can't {what}: too many calls wait for the leader; try again in a moment"),
                )
            }
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_dropped)) => Err(stopped()),
            Err(_elapsed) => Err(Refusal::new(
                RefusalCode::OutcomeUnknown,
                format!(
                    "tried to {what}, but no answer came within {} s; repeat the call with the same request id",
                    patience.as_secs()
                ),
            )),
        }
    }
}

fn unexpected(reply: &Reply) -> Refusal {
    Refusal::new(RefusalCode::Internal, format!("the leader gave an answer of the wrong kind: {reply:?}"))
}

fn stopped() -> Refusal {
    Refusal::new(
        RefusalCode::OutcomeUnknown,
        "the leader's loop has stopped, so whether this was done is not known; repeat with the same request id",
    )
}
