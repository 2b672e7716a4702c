//! A framework's side of the scheduler API: one event stream that heals by itself.
//!
//! The wire delivers at least once; [`Framework::next`] yields each status once.

use std::{collections::BTreeMap, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use proto::{
    scheduler::v1::{
        AcceptRequest, AcknowledgeRequest, Caller, Cursor, DeclineRequest, Demand, Event as WireEvent,
        FrameworkInfo, KillRequest, Launch, LaunchResult, Offer, Operation, ReconcileRequest,
        SetDemandRequest, SubscribeRequest, TeardownRequest, event, operation,
    },
    types::v1::{TaskSpec, TaskState, TaskStatus},
};
use tonic::Streaming;

use crate::{
    ClientError, Connection,
    connection::{SchedulerClient, retries},
    new_request_id,
};

/// How long a stream that is over may take to say so.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(2);

/// How a framework presents itself.
#[derive(Debug, Clone, Default)]
pub struct FrameworkOptions {
    pub info: FrameworkInfo,
    /// The id to resume; absent: a new framework.
    pub framework_id: Option<String>,
    /// With an id: the last durable event that was handled.
    pub cursor: Option<Cursor>,
}

/// One thing that a framework hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The stream is open, for the first time or again; outstanding offers of before are void.
    Subscribed,
    Offers(Vec<Offer>),
    Rescinded {
        offer_id: String,
        reason: String,
    },
    /// A new status of a task; never the same one twice.
    Status(Box<TaskStatus>),
    AgentLost {
        agent_id: String,
    },
    AgentBack {
        agent_id: String,
    },
}

/// What came of one task in an accept.
pub type Launched = LaunchResult;

/// A subscribed framework.
pub struct Framework {
    connection: Connection,
    client: SchedulerClient,
    info: FrameworkInfo,
    framework_id: String,
    subscription_id: String,
    /// The last durable event that `next` returned.
    cursor: Option<Cursor>,
    stream: Option<Streaming<WireEvent>>,
    /// Highest sequence seen, by task; final tasks leave when their event is acknowledged.
    seen: BTreeMap<String, u64>,
    ended: Vec<String>,
    /// Statuses of a `Compacted` answer that `next` has not returned yet.
    pending: Vec<Event>,
}

impl Framework {
    /// Registers a new framework, or resumes one.
    pub async fn subscribe(connection: &Connection, options: FrameworkOptions) -> Result<Self, ClientError> {
        let mut framework = Self {
            connection: connection.clone(),
            client: connection.scheduler(),
            info: options.info,
            framework_id: options.framework_id.unwrap_or_default(),
            subscription_id: String::new(),
            cursor: options.cursor,
            stream: None,
            seen: BTreeMap::new(),
            ended: Vec::new(),
            pending: Vec::new(),
        };
        // A lost answer must not leave a second framework behind.
        framework.connect(&new_request_id()).await?;
        Ok(framework)
    }

    pub fn id(&self) -> &str {
        &self.framework_id
    }

    /// Where to resume: the last durable event that `next` returned.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// The next event; waits, and reconnects when the stream breaks.
    ///
    /// Ends with [`ClientError::Replaced`] when another instance subscribed.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(event) = self.pending.pop() {
                return Ok(event);
            }
            let Some(stream) = &mut self.stream else {
                self.connect(&new_request_id()).await?;
                return Ok(Event::Subscribed);
            };
            match stream.message().await {
                Ok(Some(event)) => {
                    if let Some(event) = self.take(event)? {
                        return Ok(event);
                    }
                }
                Ok(None) => self.stream = None,
                Err(status) => {
                    let error = self.connection.error(&status);
                    if !error.may_pass() {
                        return Err(error);
                    }
                    self.stream = None;
                }
            }
        }
    }

    /// Launches tasks on offers of one agent; what is left over is declined.
    pub async fn accept(
        &mut self,
        offer_ids: Vec<String>,
        tasks: Vec<TaskSpec>,
        refuse: Option<Duration>,
    ) -> Result<Vec<Launched>, ClientError> {
        let launch = Operation { operation: Some(operation::Operation::Launch(Launch { tasks })) };
        let request = AcceptRequest {
            caller: Some(self.caller()),
            offer_ids,
            operations: vec![launch],
            refuse_ms: refuse.map(millis),
        };
        let answer = self.client.accept(request).await.map_err(|status| self.connection.error(&status))?;
        Ok(answer.into_inner().results)
    }

    /// Gives offers back.
    pub async fn decline(
        &mut self,
        offer_ids: Vec<String>,
        refuse: Option<Duration>,
    ) -> Result<(), ClientError> {
        let request =
            DeclineRequest { caller: Some(self.caller()), offer_ids, refuse_ms: refuse.map(millis) };
        self.client.decline(request).await.map_err(|status| self.connection.error(&status))?;
        Ok(())
    }

    /// Says what could be used now.
    pub async fn set_demand(&mut self, demands: Vec<Demand>) -> Result<(), ClientError> {
        let request = SetDemandRequest { caller: Some(self.caller()), demands };
        self.client.set_demand(request).await.map_err(|status| self.connection.error(&status))?;
        Ok(())
    }

    /// Asks for the end of a task.
    pub async fn kill(&mut self, task_id: &str) -> Result<(), ClientError> {
        let request =
            KillRequest { caller: Some(self.caller()), task_id: task_id.to_owned(), grace_ms: None };
        self.client.kill(request).await.map_err(|status| self.connection.error(&status))?;
        Ok(())
    }

    /// The latest status of some tasks, or of all that are not final.
    pub async fn reconcile(&mut self, task_ids: Vec<String>) -> Result<Vec<TaskStatus>, ClientError> {
        let request = ReconcileRequest { caller: Some(self.caller()), task_ids };
        let answer = self.client.reconcile(request).await.map_err(|status| self.connection.error(&status))?;
        Ok(answer.into_inner().statuses)
    }

    /// Confirms every durable event that `next` has returned.
    pub async fn acknowledge(&mut self) -> Result<(), ClientError> {
        let Some(cursor) = self.cursor else { return Ok(()) };
        let request = AcknowledgeRequest { caller: Some(self.caller()), cursor: Some(cursor) };
        self.client.acknowledge(request).await.map_err(|status| self.connection.error(&status))?;
        for task_id in self.ended.drain(..) {
            self.seen.remove(&task_id);
        }
        Ok(())
    }

    /// Ends the framework: its tasks are killed, and its id is never used again.
    ///
    /// Where the subscription was lost meanwhile, as with a coordinator that was restarted, it subscribes again
    /// first; but it does nothing once it has been told that a newer instance took over.
    pub async fn teardown(mut self) -> Result<(), ClientError> {
        let request_id = new_request_id();
        let mut delays = retries().build();
        loop {
            let caller = Caller { request_id: request_id.clone(), ..self.caller() };
            let error = match self.client.teardown(TeardownRequest { caller: Some(caller) }).await {
                Ok(_done) => return Ok(()),
                Err(status) => self.connection.error(&status),
            };
            let is_lost = error.code() == "subscription-replaced";
            if !is_lost && !error.may_pass() {
                return Err(error);
            }
            let Some(delay) = delays.next() else { return Err(error) };
            tokio::time::sleep(delay).await;
            if is_lost {
                self.read_to_the_end().await?;
                self.connect(&new_request_id()).await?;
            }
        }
    }

    /// Reads what is left of the stream, to hear whether a newer instance took over: [`ClientError::Replaced`].
    async fn read_to_the_end(&mut self) -> Result<(), ClientError> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        while let Ok(Ok(Some(event))) = tokio::time::timeout(LAST_WORD_PATIENCE, stream.message()).await {
            self.take(event)?;
        }
        Ok(())
    }

    /// Drops the event stream, as a broken network would; `next` opens it again.
    pub fn disconnect(&mut self) {
        self.stream = None;
    }

    fn caller(&self) -> Caller {
        Caller {
            framework_id: self.framework_id.clone(),
            subscription_id: self.subscription_id.clone(),
            request_id: new_request_id(),
        }
    }

    async fn connect(&mut self, request_id: &str) -> Result<(), ClientError> {
        // A framework waits for its cluster as long as it takes; only a clear no ends it.
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(2))
            .without_max_times()
            .with_jitter()
            .build();
        loop {
            match self.try_connect(request_id).await {
                Ok(()) => return Ok(()),
                Err(error) if error.may_pass() => {
                    tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(2))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_connect(&mut self, request_id: &str) -> Result<(), ClientError> {
        let request = SubscribeRequest {
            info: Some(self.info.clone()),
            framework_id: self.framework_id.clone(),
            cursor: self.cursor,
            request_id: request_id.to_owned(),
        };
        let failed = |connection: &Connection, status| connection.error(&status);
        let answer =
            self.client.subscribe(request).await.map_err(|status| failed(&self.connection, status))?;
        let mut stream = answer.into_inner();
        let first = stream.message().await.map_err(|status| failed(&self.connection, status))?;
        let Some(WireEvent { event: Some(event::Event::Subscribed(subscribed)), .. }) = first else {
            return Err(ClientError::Incomplete { what: "the Subscribed event" });
        };
        self.framework_id = subscribed.framework_id;
        self.subscription_id = subscribed.subscription_id;
        self.stream = Some(stream);
        Ok(())
    }

    /// Turns a wire event into ours, or `None` when it is nothing new.
    fn take(&mut self, wire: WireEvent) -> Result<Option<Event>, ClientError> {
        let place = wire.cursor.map(|cursor| (cursor.index, cursor.ordinal));
        let known = self.cursor.map(|cursor| (cursor.index, cursor.ordinal));
        if place.is_some() && place <= known {
            return Ok(None);
        }
        self.cursor = wire.cursor.or(self.cursor);
        let Some(event) = wire.event else { return Ok(None) };
        Ok(match event {
            event::Event::Subscribed(_) | event::Event::Heartbeat(_) => None,
            event::Event::Offers(offers) => Some(Event::Offers(offers.offers)),
            event::Event::Rescind(rescind) => {
                Some(Event::Rescinded { offer_id: rescind.offer_id, reason: rescind.reason })
            }
            event::Event::Status(status) => self.take_status(status),
            event::Event::AgentLost(lost) => Some(Event::AgentLost { agent_id: lost.agent_id }),
            event::Event::AgentBack(back) => Some(Event::AgentBack { agent_id: back.agent_id }),
            event::Event::Replaced(replaced) => {
                return Err(ClientError::Replaced { reason: replaced.reason });
            }
            event::Event::Compacted(compacted) => {
                self.cursor = compacted.cursor.or(self.cursor);
                for status in compacted.statuses.into_iter().rev() {
                    let event = self.take_status(status);
                    self.pending.extend(event);
                }
                None
            }
        })
    }

    fn take_status(&mut self, status: TaskStatus) -> Option<Event> {
        let seen = self.seen.entry(status.task_id.clone()).or_default();
        if status.sequence != 0 && status.sequence <= *seen {
            return None;
        }
        *seen = status.sequence;
        if is_final(status.state()) {
            self.ended.push(status.task_id.clone());
        }
        Some(Event::Status(Box::new(status)))
    }
}

/// Whether a task in this state never changes again.
pub fn is_final(state: TaskState) -> bool {
    match state {
        TaskState::Unspecified
        | TaskState::Waiting
        | TaskState::Staging
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Killing
        | TaskState::Unreachable => false,
        TaskState::Finished
        | TaskState::Failed
        | TaskState::Killed
        | TaskState::Error
        | TaskState::Dropped
        | TaskState::Gone => true,
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
