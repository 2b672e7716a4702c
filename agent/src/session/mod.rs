//! The agent's half of the conversation with the leader: one stream, opened anew whenever it breaks.
//!
//! Carries messages between the wire and the actor, which alone knows what they mean. Keeps nothing:
//! what the leader has not acknowledged stays in the checkpoint, and is said again after each Welcome.
//! Start at [`Session::run`].

mod coordinators;
pub(crate) mod messages;
mod passport;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use model::ClusterId;
use proto::agent::v1::{
    self as wire, agent_session_client::AgentSessionClient, from_agent, to_agent::Message as Said,
};
use rand::RngExt as _;
use supervisor::Known;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, interval, sleep, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use crate::execute::chain;

pub use coordinators::{AddressError, Coordinators, Proof};
pub use messages::{Chunk, FromLeader, Greeting, OutputAnswer, OutputRequest, Stream, ToLeader};
pub use passport::{Passport, PassportError};

/// Messages that wait to be written; when the leader is that far behind, the session begins anew.
pub const LINK_MAX: usize = 1024;

/// How long the Welcome may take: the leader commits a log entry for it.
const WELCOME_PATIENCE: Duration = Duration::from_secs(30);
/// The silence that a leader may keep, in its own heartbeat intervals.
const SILENT_HEARTBEATS_MAX: u32 = 4;
/// First and longest pause before another attempt; the real one is drawn between a half and the whole, and the
/// first after a session below the whole.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Attempts that failed for each line of the log.
const FAILURES_PER_LINE: u64 = 16;
/// A Welcome holds the specs of all tasks.
const MESSAGE_BYTES_MAX: usize = 512 << 20;

/// What an agent says of itself, the same in every Hello of this start.
#[derive(Debug, Clone)]
pub struct Facts {
    pub agent_id: String,
    pub hostname: String,
    pub boot_id: String,
    pub address: String,
    pub total: proto::types::v1::Resources,
    pub attributes: Vec<proto::types::v1::Attribute>,
    pub limitations: Vec<String>,
}

/// What the actor hears of a session. An older session's events are dropped by its generation.
#[derive(Debug)]
pub enum SessionEvent {
    /// A stream is being opened; the answer is what Hello needs. Messages for the leader go to `link`.
    Opening {
        generation: u64,
        link: mpsc::Sender<ToLeader>,
        greeting: oneshot::Sender<Greeting>,
    },
    Said {
        generation: u64,
        message: FromLeader,
    },
    Closed {
        generation: u64,
    },
}

/// Why the session will not be tried again.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the coordinator refused this agent for good: {message} (code {code})")]
    Refused { code: String, message: String },
}

/// Why one stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("can't read the token file {}", path.display())]
    ReadToken { path: PathBuf, source: io::Error },
    #[error("the token file {} holds no token", path.display())]
    Token { path: PathBuf },
    #[error("can't prove who this agent is")]
    Passport(#[source] PassportError),
    #[error("can't connect to the coordinator")]
    Connect(#[source] tonic::transport::Error),
    #[error("the coordinator did not answer in time")]
    Late,
    #[error("the coordinator said no: {}", .0.message())]
    Status(Box<Status>),
    #[error("the coordinator refused the session: {message} (code {code})")]
    Refused { code: String, message: String },
    #[error("the coordinator sent something else before its Welcome")]
    Order,
    #[error("the coordinator closed the stream")]
    Closed,
    #[error("the coordinator was silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the coordinator did not keep up with this agent")]
    Behind,
    #[error("the agent stops")]
    Stopping,
}

/// Opens streams until it is told to stop.
pub struct Session {
    pub coordinators: Coordinators,
    pub facts: Facts,
    pub events: mpsc::Sender<SessionEvent>,
}

impl Session {
    /// Ends when `stop` is cancelled, or when the coordinator refuses this agent for good.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SessionError> {
        tokio::select! {
            ended = self.streams(stop) => ended,
            never = self.coordinators.keep_fresh() => match never {},
        }
    }

    async fn streams(&self, stop: CancellationToken) -> Result<(), SessionError> {
        let mut pause = PAUSE_MIN;
        let mut failures = 0_u64;
        for generation in 1.. {
            let mut was_welcomed = false;
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.stream(generation, &mut was_welcomed) => ended,
            };
            // The actor may be gone already.
            let _ = self.events.send(SessionEvent::Closed { generation }).await;
            match ended {
                End::Final(code, message) => return Err(SessionError::Refused { code, message }),
                End::Again(StreamError::Stopping) => return Ok(()),
                End::Again(error) if was_welcomed => {
                    tracing::warn!(error = chain(&error), "lost the coordinator");
                    pause = PAUSE_MIN;
                    failures = 0;
                }
                End::Again(error) => {
                    // The first, and then about one in a minute: an hour without coordinator fits on a page.
                    if failures.is_multiple_of(FAILURES_PER_LINE) {
                        tracing::warn!(failures, error = chain(&error), "can't reach the coordinator");
                    } else {
                        tracing::debug!(failures, error = chain(&error), "can't reach the coordinator");
                    }
                    failures += 1;
                }
            }
            // Whoever lost a coordinator that it had needs only not to come with all others at once.
            let least = if was_welcomed { Duration::ZERO } else { pause / 2 };
            let drawn = rand::rng().random_range(least..=pause);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(drawn) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(())
    }

    /// One stream, from Hello to its end.
    async fn stream(&self, generation: u64, was_welcomed: &mut bool) -> End {
        match self.try_stream(generation, was_welcomed).await {
            Ok(refusal) => match refusal {
                wire::Refused { code, message, is_final: true } => End::Final(code, message),
                wire::Refused { code, message, is_final: false } => {
                    End::Again(StreamError::Refused { code, message })
                }
            },
            Err(StreamError::Passport(error)) => match error.verdict() {
                Some((code, message)) => End::Final(code, message),
                None => End::Again(StreamError::Passport(error)),
            },
            Err(error) => End::Again(error),
        }
    }

    async fn try_stream(
        &self,
        generation: u64,
        was_welcomed: &mut bool,
    ) -> Result<wire::Refused, StreamError> {
        let credential = self.coordinators.credential()?;
        let channel = self.coordinators.connect(generation - 1).await?;
        let (link, mut for_leader) = mpsc::channel(LINK_MAX);
        let (cluster_id, known) = self.greeting(generation, link).await?;
        let (out, mut incoming) = self.open(channel, credential, cluster_id, &known).await?;

        let deadline = Instant::now() + WELCOME_PATIENCE;
        let first = loop {
            let first = timeout_at(deadline, next(&mut incoming)).await.map_err(|_| StreamError::Late)??;
            match first {
                Said::ReadKnown(read) => {
                    tracing::debug!(buckets = ?read.buckets, "the coordinator asks for tasks");
                    self.send(&out, messages::read_known(read, &known)).await?;
                }
                first => break first,
            }
        };
        let heartbeat = match first {
            Said::Refused(refusal) => return Ok(refusal),
            Said::Welcome(welcome) => {
                let heartbeat = Duration::from_millis(welcome.heartbeat_interval_ms)
                    .clamp(Duration::from_millis(100), Duration::from_secs(60));
                tracing::info!(
                    epoch = welcome.epoch,
                    term = welcome.term,
                    tasks = known.tasks().len(),
                    told = welcome.assignments.len(),
                    "the coordinator knows this agent"
                );
                *was_welcomed = true;
                self.tell(generation, messages::welcomed(welcome, &known)).await?;
                drop(known);
                heartbeat
            }
            Said::Launch(_)
            | Said::Kill(_)
            | Said::Acknowledge(_)
            | Said::ReadOutput(_)
            | Said::ReadHistory(_)
            | Said::UsagePace(_)
            | Said::OpenChannel(_)
            | Said::ReadKnown(_)
            | Said::Heartbeat(_) => return Err(StreamError::Order),
        };
        // Twice as often as it must be, so that one may be late.
        let mut beat = interval(heartbeat / 2);
        let silence_max = heartbeat * SILENT_HEARTBEATS_MAX;
        let mut silent_since = Instant::now();
        loop {
            tokio::select! {
                said = next(&mut incoming) => {
                    silent_since = Instant::now();
                    match said? {
                        Said::Refused(refusal) => return Ok(refusal),
                        Said::Welcome(_) | Said::ReadKnown(_) => return Err(StreamError::Order),
                        Said::Heartbeat(wire::Heartbeat {}) => {}
                        Said::Launch(launch) => self.tell(generation, messages::launch(launch)).await?,
                        Said::Kill(kill) => self.tell(generation, messages::kill(kill)).await?,
                        Said::Acknowledge(acknowledge) => {
                            self.tell(generation, messages::acknowledge(acknowledge)).await?;
                        }
                        Said::ReadOutput(read) => self.tell(generation, messages::read_output(read)).await?,
                        Said::ReadHistory(read) => self.tell(generation, messages::read_history(read)).await?,
                        Said::UsagePace(pace) => self.tell(generation, messages::usage_pace(pace)).await?,
                        Said::OpenChannel(open) => {
                            self.tell(generation, messages::open_channel(open)).await?;
                        }
                    }
                }
                // Closed by the actor when the queue was full: what was lost is in the checkpoint.
                message = for_leader.recv() => {
                    let message = message.ok_or_else(|| match self.events.is_closed() {
                        true => StreamError::Stopping,
                        false => StreamError::Behind,
                    })?;
                    self.send(&out, messages::to_wire(message)).await?;
                }
                _ = beat.tick() => {
                    if silent_since.elapsed() > silence_max {
                        return Err(StreamError::Silent(silence_max));
                    }
                    self.send(&out, from_agent::Message::Heartbeat(wire::Heartbeat {})).await?;
                }
            }
        }
    }

    /// What the actor knows at this moment.
    async fn greeting(
        &self,
        generation: u64,
        link: mpsc::Sender<ToLeader>,
    ) -> Result<(Option<ClusterId>, Known), StreamError> {
        let (greeting, answer) = oneshot::channel();
        let opening = SessionEvent::Opening { generation, link, greeting };
        self.events.send(opening).await.map_err(|_| StreamError::Stopping)?;
        let Greeting { cluster_id, tasks } = answer.await.map_err(|_| StreamError::Stopping)?;
        Ok((cluster_id, Known::new(tasks)))
    }

    /// Says hello by digests, or with all tasks to a coordinator that is older than digests.
    async fn open(
        &self,
        channel: Channel,
        credential: Option<MetadataValue<Ascii>>,
        cluster_id: Option<ClusterId>,
        known: &Known,
    ) -> Result<(mpsc::Sender<wire::FromAgent>, Streaming<wire::ToAgent>), StreamError> {
        for how in [Telling::ByDigest, Telling::InFull] {
            let (out, outgoing) = mpsc::channel(16);
            let hello = self.hello(cluster_id.as_ref(), known, how);
            self.send(&out, from_agent::Message::Hello(hello)).await?;
            match attach(channel.clone(), credential.clone(), outgoing, how).await {
                Err(StreamError::Status(status))
                    if how == Telling::ByDigest && status.code() == Code::Unimplemented =>
                {
                    tracing::debug!("the coordinator is older than digests: it hears of all tasks");
                }
                opened => return opened.map(|incoming| (out, incoming)),
            }
        }
        Err(StreamError::Order)
    }

    fn hello(&self, cluster_id: Option<&ClusterId>, known: &Known, how: Telling) -> wire::Hello {
        let Facts { agent_id, hostname, boot_id, address, total, attributes, limitations } =
            self.facts.clone();
        let (tasks, digests) = match how {
            Telling::ByDigest => (Vec::new(), known.digests().to_bytes()),
            Telling::InFull => (known.tasks().iter().map(messages::known_task).collect(), Vec::new()),
        };
        wire::Hello {
            agent_id,
            cluster_id: cluster_id.map(|id| id.as_str().to_owned()).unwrap_or_default(),
            hostname,
            boot_id,
            address,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            total: Some(total),
            attributes,
            limitations,
            tasks,
            digests: digests.into(),
        }
    }

    async fn tell(&self, generation: u64, messages: Vec<FromLeader>) -> Result<(), StreamError> {
        for message in messages {
            let said = SessionEvent::Said { generation, message };
            self.events.send(said).await.map_err(|_| StreamError::Stopping)?;
        }
        Ok(())
    }

    async fn send(
        &self,
        out: &mpsc::Sender<wire::FromAgent>,
        message: from_agent::Message,
    ) -> Result<(), StreamError> {
        out.send(wire::FromAgent { message: Some(message) }).await.map_err(|_| StreamError::Closed)
    }
}

enum End {
    /// Code and sentence.
    Final(String, String),
    Again(StreamError),
}

/// How the tasks are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    ByDigest,
    InFull,
}

async fn attach(
    channel: Channel,
    credential: Option<MetadataValue<Ascii>>,
    outgoing: mpsc::Receiver<wire::FromAgent>,
    how: Telling,
) -> Result<Streaming<wire::ToAgent>, StreamError> {
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(credential) = credential {
        request.metadata_mut().insert("authorization", credential);
    }
    let mut client = AgentSessionClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answer = async {
        match how {
            Telling::ByDigest => client.attach_by_digest(request).await,
            Telling::InFull => client.attach(request).await,
        }
    };
    let answer = timeout(WELCOME_PATIENCE, answer).await.map_err(|_| StreamError::Late)?;
    Ok(answer.map_err(|status| StreamError::Status(Box::new(status)))?.into_inner())
}

async fn next(incoming: &mut Streaming<wire::ToAgent>) -> Result<Said, StreamError> {
    let message = incoming.message().await.map_err(|status| StreamError::Status(Box::new(status)))?;
    // A message without content is one of a later version that this agent can't know.
    message.ok_or(StreamError::Closed)?.message.ok_or(StreamError::Order)
}

/// Read for each stream, so that a new token is taken up without a restart.
fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, StreamError> {
    let text = fs::read_to_string(path)
        .map_err(|source| StreamError::ReadToken { path: path.to_owned(), source })?;
    let none = || StreamError::Token { path: path.to_owned() };
    let token = text.trim();
    if token.is_empty() {
        return Err(none());
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| none())?;
    value.set_sensitive(true);
    Ok(value)
}
