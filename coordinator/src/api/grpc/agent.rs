//! `muster.agent.v1`: the sessions of agents.

use futures::stream;
use model::{Refusal, RefusalCode};
use proto::{
    agent::v1::{self as wire, agent_session_server::AgentSession},
    channel::v1::Frame,
};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, channel, invalid, refused, stream_over};
use crate::{
    api::{Caller, Context, error::status},
    convert::agent::{self as convert, Heard},
    leader::messages::{Attachment, SessionId, ToAgent},
    metrics::OpenStream,
};

pub(super) struct AgentApi {
    context: Context,
}

impl AgentApi {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl AgentSession for AgentApi {
    type AttachStream = Answers<wire::ToAgent>;
    type AttachByDigestStream = Answers<wire::ToAgent>;
    type ChannelStream = Answers<Frame>;

    async fn channel(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ChannelStream>, Status> {
        channel::join(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn attach(
        &self,
        request: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.open(request).await
    }

    /// That it is here says that digests are understood; the hello says whether they are used.
    async fn attach_by_digest(
        &self,
        request: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Self::AttachByDigestStream>, Status> {
        self.open(request).await
    }
}

impl AgentApi {
    async fn open(
        &self,
        request: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Answers<wire::ToAgent>>, Status> {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Nobody);
        let mut incoming = request.into_inner();
        let first = incoming.message().await?;
        let hello = match first.map(convert::heard).transpose().map_err(invalid("attach the agent"))? {
            Some(Heard::Hello(hello)) => *hello,
            Some(Heard::Message(_)) | None => {
                let message = "can't attach the agent: its first message must be Hello";
                return Err(status(&Refusal::new(RefusalCode::InvalidArgument, message)));
            }
        };
        caller.may_be_agent(hello.agent.as_str()).map_err(refused)?;
        let Attachment { session, messages } =
            self.context.leader.attach_agent(hello).await.map_err(refused)?;
        let (fault, faulted) = oneshot::channel();
        let over = CancellationToken::new();
        let listening = listen(self.context.clone(), session, incoming, fault, over.clone());
        self.context.tasks.spawn(listening);
        let open = Open {
            messages,
            faulted: Some(faulted),
            stop: self.context.stop.clone(),
            _counted: self.context.metrics.stream_opened("agent"),
            _over: over.drop_guard(),
        };
        Ok(Response::new(answers(open)))
    }
}

/// Passes on what the agent says until one side ends the session.
async fn listen(
    context: Context,
    session: SessionId,
    mut incoming: Streaming<wire::FromAgent>,
    fault: oneshot::Sender<Status>,
    over: CancellationToken,
) {
    let why = loop {
        let message = tokio::select! {
            () = over.cancelled() => break None,
            () = context.stop.cancelled() => break None,
            message = incoming.message() => message,
        };
        let heard = match message {
            Ok(Some(message)) => convert::heard(message).map_err(invalid("read the agent's message")),
            // The agent closed its side, or the connection is gone.
            Ok(None) => break None,
            Err(error) => Err(error),
        };
        let said = match heard {
            Ok(Heard::Message(message)) => context.leader.agent_said(session, message).await.map_err(refused),
            Ok(Heard::Hello(_)) => {
                let message = "can't read the agent's message: Hello may come only once";
                Err(status(&Refusal::new(RefusalCode::InvalidArgument, message)))
            }
            Err(status) => Err(status),
        };
        if let Err(status) = said {
            tracing::warn!(%session, error = %status.message(), "an agent's session ends");
            break Some(status);
        }
    };
    if let Some(why) = why {
        // Whoever would pass it on may be gone already.
        let _ = fault.send(why);
    }
    // The leader's loop is gone only when the daemon stops, and forgets sessions then anyway.
    let _ = context.leader.agent_gone(session).await;
}

/// What an open session holds; dropping it ends the listening side.
struct Open {
    messages: tokio::sync::mpsc::Receiver<ToAgent>,
    /// `None` once nothing can go wrong there any more.
    faulted: Option<oneshot::Receiver<Status>>,
    stop: CancellationToken,
    _counted: OpenStream,
    _over: DropGuard,
}

fn answers(open: Open) -> Answers<wire::ToAgent> {
    Box::pin(stream::unfold(Some(open), |open| async move {
        let mut open = open?;
        loop {
            let faulted = async {
                match open.faulted.as_mut() {
                    Some(faulted) => faulted.await.ok(),
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                biased;
                () = open.stop.cancelled() => return Some((Err(stream_over()), None)),
                fault = faulted => match fault {
                    Some(fault) => return Some((Err(fault), None)),
                    None => {
                        open.faulted = None;
                        continue;
                    }
                },
                message = open.messages.recv() => message,
            };
            let Some(message) = message else { return Some((Err(stream_over()), None)) };
            let is_last = match &message {
                ToAgent::Refused { .. } => true,
                ToAgent::ReadKnown { .. }
                | ToAgent::Welcome { .. }
                | ToAgent::Launch(_)
                | ToAgent::Kill { .. }
                | ToAgent::Acknowledge(_)
                | ToAgent::ReadOutput { .. }
                | ToAgent::ReadHistory { .. }
                | ToAgent::UsagePace { .. }
                | ToAgent::OpenChannel { .. }
                | ToAgent::Heartbeat => false,
            };
            return Some((Ok(convert::to_agent(message)), (!is_last).then_some(open)));
        }
    }))
}
