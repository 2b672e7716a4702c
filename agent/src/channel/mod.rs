//! Conversations with tasks: the agent's half of each channel, from its first frame to its last.
//!
//! Opens one connection for each, so that a slow reader of one holds nothing else up, and holds a few frames at
//! most. Asks the actor what the task is; the kernel's part is `sys`'. Keeps nothing.
//! Start at [`Channels::serve`].

mod exec;
mod files;
mod frames;
mod freeze;
mod incoming;
mod input;
mod profile;
mod signal;

use std::{sync::Arc, time::Duration};

use model::{RefusalCode, TaskId, limits};
use proto::{
    agent::v1::agent_session_client::AgentSessionClient,
    channel::v1::{self as wire, Frame, frame, open::Purpose},
};
use supervisor::{Phase, Row};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use crate::{
    actor::Request as Question,
    execute::{Executor, chain},
    metrics::{Metrics, PurposeLabel},
    session,
};

use frames::{framed, purpose_name};
use input::Inputs;
use profile::Profiles;

/// How long the coordinator may take to answer: it gives up itself after ten seconds.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to take the last frame.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(10);
/// Frames that wait to be written.
const FRAMES_WAITING_MAX: usize = 4;

/// Opens the agent's halves.
pub struct Channels {
    coordinators: session::Coordinators,
    executor: Arc<Executor>,
    metrics: Arc<Metrics>,
    permits: Semaphore,
    profiles: Profiles,
    inputs: Inputs,
}

/// What one conversation works with.
struct Talk<'a> {
    executor: &'a Arc<Executor>,
    actor: &'a mpsc::Sender<Question>,
    task: Row,
    incoming: &'a mut Streaming<Frame>,
    outgoing: &'a mpsc::Sender<Frame>,
}

/// Why a conversation ends without its purpose done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told to the caller.
    Refused { code: RefusalCode, message: String },
    /// There is nobody to be told.
    CallerGone,
}

impl Failure {
    fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }
}

impl Channels {
    pub fn new(coordinators: session::Coordinators, executor: Arc<Executor>, metrics: Arc<Metrics>) -> Self {
        let permits = Semaphore::new(limits::CHANNELS_PER_AGENT_MAX);
        let profiles = Profiles::default();
        let inputs = Inputs::default();
        Self { coordinators, executor, metrics, permits, profiles, inputs }
    }

    /// One channel, until either side ends it. Dropped in the middle, it ends what it began.
    pub(crate) async fn serve(&self, channel_id: Vec<u8>, task_id: TaskId, actor: mpsc::Sender<Question>) {
        let Ok(_permit) = self.permits.try_acquire() else {
            // The leader keeps to the same bound; it hears nothing, and gives up.
            tracing::warn!(%task_id, "too many channels are open");
            return;
        };
        let (outgoing, frames) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut incoming = match self.join(channel_id, &outgoing, frames).await {
            Ok(incoming) => incoming,
            Err(why) => {
                tracing::warn!(%task_id, error = why, "can't open a channel to the coordinator");
                return;
            }
        };
        self.metrics.channels_open.inc();
        let _open = Open(&self.metrics);
        let last = match self.talk(&task_id, &actor, &mut incoming, &outgoing).await {
            Ok(ended) => frame::Frame::Ended(ended),
            Err(Failure::CallerGone) => {
                tracing::info!(%task_id, "the other side of a channel is gone");
                return;
            }
            Err(Failure::Refused { code, message }) => {
                tracing::info!(%task_id, code = code.as_str(), error = message, "a channel ends early");
                let code = code.as_str().to_owned();
                frame::Frame::Failed(wire::Failed { code, message })
            }
        };
        if outgoing.send(framed(last)).await.is_err() {
            return;
        }
        drop(outgoing);
        // Ending the stream before the coordinator has read the last frame could lose it.
        let _ =
            timeout(FAREWELL_PATIENCE, async { while let Ok(Some(_)) = incoming.message().await {} }).await;
    }

    async fn join(
        &self,
        channel_id: Vec<u8>,
        outgoing: &mpsc::Sender<Frame>,
        frames: mpsc::Receiver<Frame>,
    ) -> Result<Streaming<Frame>, String> {
        let credential = self.coordinators.credential().map_err(|error| chain(&error))?;
        let join = frame::Frame::Join(wire::Join { channel_id: channel_id.into() });
        outgoing.try_send(framed(join)).map_err(|error| error.to_string())?;
        let mut request = Request::new(ReceiverStream::new(frames));
        if let Some(credential) = credential {
            request.metadata_mut().insert("authorization", credential);
        }
        let joined = timeout(JOIN_PATIENCE, async {
            let connection = self.coordinators.connect(0).await.map_err(|error| chain(&error))?;
            let answer = AgentSessionClient::new(connection).channel(request).await;
            answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
        });
        joined.await.map_err(|_elapsed| "the coordinator did not answer in time".to_owned())?
    }

    async fn talk(
        &self,
        task_id: &TaskId,
        actor: &mpsc::Sender<Question>,
        incoming: &mut Streaming<Frame>,
        outgoing: &mpsc::Sender<Frame>,
    ) -> Result<wire::Ended, Failure> {
        let first = incoming.message().await.ok().flatten().and_then(|first| first.frame);
        let Some(frame::Frame::Open(open)) = first else { return Err(Failure::CallerGone) };
        let Some(purpose) = open.purpose else {
            let message = "this agent does not know what the channel is for; it may be of an older version";
            return Err(Failure::new(RefusalCode::ClusterVersionTooOld, message));
        };
        let purpose_label = PurposeLabel { purpose: purpose_name(&purpose) };
        self.metrics.channels_opened.get_or_create(&purpose_label).inc();
        tracing::info!(%task_id, purpose = purpose_label.purpose, "a channel to a task was opened");
        let task = ask_task(actor, task_id).await?;
        let talk = Talk { executor: &self.executor, actor, task, incoming, outgoing };
        match purpose {
            Purpose::Exec(wish) => talk.exec(wish).await,
            Purpose::ListFiles(wire::ListFiles { path }) => talk.list_files(path).await,
            Purpose::ReadFiles(wire::ReadFiles { path }) => talk.read_files(path).await,
            Purpose::WriteFiles(wire::WriteFiles { path }) => talk.write_files(path).await,
            Purpose::Freeze(wire::Freeze { is_frozen }) => talk.freeze(is_frozen).await,
            Purpose::Profile(wish) => talk.profile(wish, &self.profiles).await,
            Purpose::WriteInput(wire::WriteInput {}) => talk.write_input(&self.inputs).await,
            Purpose::SendSignal(wire::Signal { number }) => talk.send_signal(number).await,
        }
    }
}

/// Counts a channel as open.
struct Open<'a>(&'a Metrics);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.channels_open.dec();
    }
}

async fn ask_task(actor: &mpsc::Sender<Question>, task_id: &TaskId) -> Result<Row, Failure> {
    let stops = || Failure::new(RefusalCode::AgentUnreachable, "the agent stops");
    let (answer, row) = oneshot::channel();
    actor.send(Question::Row { task_id: task_id.clone(), answer }).await.map_err(|_| stops())?;
    let row = row.await.map_err(|_| stops())?;
    row.ok_or_else(|| {
        Failure::new(RefusalCode::SandboxGone, format!("the agent keeps nothing of task `{task_id}`"))
    })
}

impl Talk<'_> {
    /// Refuses a task that does not run, or is about to end.
    fn check_running(&self) -> Result<(), Failure> {
        let id = &self.task.task_id;
        let why = match &self.task.phase {
            Phase::Running { .. } if self.task.kill.is_none() => return Ok(()),
            Phase::Running { .. } => "is being killed",
            Phase::Preparing | Phase::Releasing { .. } => "is just being started; try again in a moment",
            Phase::Ending { .. } | Phase::Lingering { .. } => "is about to end",
            Phase::Ended { .. } | Phase::Removing => "is over",
        };
        Err(Failure::new(RefusalCode::TaskNotRunning, format!("task `{id}` {why}")))
    }

    async fn say(&self, frame: frame::Frame) -> Result<(), Failure> {
        self.outgoing.send(framed(frame)).await.map_err(|_| Failure::CallerGone)
    }

    async fn say_opened(&self) -> Result<(), Failure> {
        self.say(frame::Frame::Opened(wire::Opened {})).await
    }
}
