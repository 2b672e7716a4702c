//! Calls that only the leader can answer, passed on to it by a member that doesn't lead.
//!
//! Passes heads and bodies on as they are, streams included, and looks into neither: whoever is attached to a
//! member stays attached to it, whoever leads. A call is passed on once; a second member that isn't the leader
//! refuses it, so that no call goes round in circles. How long one waits for a leader is bounded, and what a leader
//! hasn't answered when another one leads ends with a status that says so.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use identity::Connector;
use model::{Refusal, RefusalCode};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::{error, guard::Asker};
use crate::raft::{MemberId, RaftHandle};

/// Says that a call was passed on, and by whom.
const RELAYED_KEY: &str = "muster-relayed-by";

/// For whom a member passes a call on; believed of members alone.
pub(super) const CALLER_KEY: &str = "muster-caller";

/// How far the log was when the certificate of that one was made.
pub(super) const MADE_KEY: &str = "muster-caller-made";

/// What members say to each other.
pub(super) const MEMBERS_SERVICE: &str = "/muster.members.v1.";

/// What any member answers from what it knows itself: how the cluster is, and what the members say to each
/// other.
const OWN_PATHS: [&str; 2] =
    ["/muster.operator.v1.Operator/ListMembers", "/muster.operator.v1.Operator/GetStatus"];
const OWN_SERVICES: [&str; 3] = [MEMBERS_SERVICE, "/grpc.health.v1.", "/grpc.reflection.v1."];

/// How long a call waits until somebody leads: some elections. Callers try again after that.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// A leader that can't be reached is replaced within this, or it is another who should be asked. Whoever was told at
/// once would ask again at once, and then ever more rarely, and come late to the next leader.
const REPLACED_PATIENCE: Duration = Duration::from_secs(2);
/// A leader from which nothing is heard for so long is asked whether it lives …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// … and must answer within this, or every stream through here ends.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls over one connection to the leader, which takes a few more: beyond that another connection is made. Each
/// agent is one call that lasts.
const CALLS_PER_CONNECTION_MAX: usize = 200;

/// The way to the leader; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Relay {
    connector: Connector,
    links: Arc<Mutex<Vec<Link>>>,
    /// Shown for callers that need no credential here, where plain text is spoken.
    credential: Option<HeaderValue>,
    stop: CancellationToken,
}

/// One connection, to whoever leads.
#[derive(Debug)]
struct Link {
    client: Client<Connector, Body>,
    /// Held by each call that is under way.
    calls: Arc<()>,
}

/// Who answers a call.
pub(super) enum Route {
    Here,
    /// The leader, and its host:port.
    There(MemberId, String),
}

impl Relay {
    pub(super) fn new(
        tls: Option<Arc<ClientConfig>>,
        credential: Option<HeaderValue>,
        stop: CancellationToken,
    ) -> Self {
        let connector = Connector::new(tls, CONNECT_PATIENCE);
        Self { connector, links: Arc::default(), credential, stop }
    }

    /// A connection that takes one more call, which shall hold what comes with it.
    fn link(&self) -> (Client<Connector, Body>, Arc<()>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = |link: &Link| Arc::strong_count(&link.calls) - 1;
        // Those that were made for a crowd go with it, from the end.
        while links.len() > 1 && links.last().is_some_and(|link| under_way(link) == 0) {
            links.pop();
        }
        if let Some(link) = links.iter().find(|link| under_way(link) < CALLS_PER_CONNECTION_MAX) {
            return (link.client.clone(), link.calls.clone());
        }
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(self.connector.clone());
        let link = Link { client: client.clone(), calls: Arc::default() };
        let calls = link.calls.clone();
        links.push(link);
        (client, calls)
    }

    /// Decides who answers; waits a while where nobody leads.
    ///
    /// Refuses with NoLeader.
    pub(super) async fn route(
        &self,
        raft: &RaftHandle,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Route, Refusal> {
        if OWN_PATHS.contains(&path) || OWN_SERVICES.iter().any(|service| path.starts_with(service)) {
            return Ok(Route::Here);
        }
        let mut leadership = raft.leadership();
        let own = raft.member_id();
        let known = leadership.wait_for(|now| {
            now.is_leader && raft.has_quorum() || now.leader.is_some_and(|leader| leader != own)
        });
        let Ok(Ok(now)) =
            tokio::time::timeout(LEADER_PATIENCE, known).await.map(|known| known.map(|now| *now))
        else {
            return Err(no_leader("nobody leads the cluster now"));
        };
        if now.is_leader {
            return Ok(Route::Here);
        }
        if headers.contains_key(RELAYED_KEY) {
            return Err(no_leader("the lead has just gone to another member"));
        }
        match raft.leader_address() {
            Some(address) => Ok(Route::There(now.leader.unwrap_or(own), address)),
            None => Err(no_leader("the leader's address is not known here yet")),
        }
    }

    /// Has the leader answer. Refuses with NoLeader where it can't be reached, and with OutcomeUnknown where it
    /// was reached and gives no answer: the call may have been carried out.
    pub(super) async fn pass(
        &self,
        raft: &RaftHandle,
        leader: MemberId,
        address: &str,
        asker: &Asker,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme("http").authority(address).path_and_query(path).build();
        head.uri = uri.map_err(|_| no_leader("the leader's address makes no sense"))?;
        // The other side is the leader now.
        head.headers.remove(header::HOST);
        head.headers.insert(RELAYED_KEY, HeaderValue::from(raft.member_id()));
        match &self.credential {
            // Who came by the socket has shown none.
            Some(credential) => head.headers.insert(header::AUTHORIZATION, credential.clone()),
            // The token was shown here, and is nobody else's business.
            None => head.headers.remove(header::AUTHORIZATION),
        };
        let caller = HeaderValue::try_from(asker.caller.to_string());
        head.headers.insert(CALLER_KEY, caller.map_err(|_| no_leader("the caller's name makes no sense"))?);
        head.headers.insert(MADE_KEY, HeaderValue::from(asker.made));
        let mut replaced = replaced(raft, leader);
        let (client, call) = self.link();
        let answer = tokio::select! {
            answer = client.request(Request::from_parts(head, body)) => answer,
            () = &mut replaced => return Err(unknown()),
        };
        match answer {
            Ok(answer) => {
                let stopped = self.stop.clone().cancelled_owned().fuse().boxed();
                let state = Passed::Nothing;
                Ok(answer.map(|body| Body::new(Answer { body, replaced, stopped, state, _call: call })))
            }
            Err(error) => {
                tracing::debug!(leader, address, ?error, "can't pass a call on");
                if !error.is_connect() {
                    return Err(unknown());
                }
                // Either way the caller has to ask again.
                let _ = tokio::time::timeout(REPLACED_PATIENCE, replaced).await;
                Err(no_leader("the leader can't be reached"))
            }
        }
    }
}

/// Ready when another member leads. While nobody does, the one that was passed to may yet answer.
fn replaced(raft: &RaftHandle, leader: MemberId) -> BoxFuture<'static, ()> {
    let mut leadership = raft.leadership();
    let wait = async move {
        // An error means that this member stops, which ends its streams anyway.
        let _ = leadership.wait_for(|now| now.leader.is_some_and(|known| known != leader)).await;
    };
    wait.fuse().boxed()
}

/// What the leader answers. Where it breaks off, a status ends it instead of a broken stream, of which a caller could
/// not tell why it broke.
struct Answer {
    body: Incoming,
    replaced: BoxFuture<'static, ()>,
    /// This member stops. What has begun to be answered is a stream, for all that is known here, and ends then; of other
    /// calls the answer is waited for.
    stopped: BoxFuture<'static, ()>,
    state: Passed,
    /// Counts against its connection until it is dropped.
    _call: Arc<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    Nothing,
    Something,
    Everything,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.state == Passed::Everything {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.state = if frame.is_data() { Passed::Something } else { Passed::Everything };
                return Poll::Ready(Some(Ok(frame)));
            }
            // An answer that is complete ends with a status, as trailers or in its head.
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => tracing::debug!(%error, "the leader broke an answer off"),
            Poll::Pending => {
                let is_replaced = self.replaced.as_mut().poll(context).is_ready();
                let is_stream = self.state == Passed::Something;
                let is_over = is_replaced || is_stream && self.stopped.as_mut().poll(context).is_ready();
                if !is_over {
                    return Poll::Pending;
                }
            }
        }
        // A stream is opened again; of one answer that never began, nobody knows whether the call was carried out.
        let why = match self.state {
            Passed::Nothing => unknown(),
            Passed::Something | Passed::Everything => {
                no_leader("the way to the leader was lost while it answered")
            }
        };
        self.state = Passed::Everything;
        let mut trailers = HeaderMap::new();
        match error::status(&why).add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            // It can't be put into words: then the stream just ends, which a caller takes for an error too.
            Err(_status) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == Passed::Everything || self.body.is_end_stream()
    }
}

fn unknown() -> Refusal {
    Refusal::new(
        RefusalCode::OutcomeUnknown,
        "whether it was done is not known, because the leader was lost before it answered; repeat with the same \
         request id",
    )
}

fn no_leader(why: &str) -> Refusal {
    Refusal::new(
        RefusalCode::NoLeader,
        format!("this member can't answer, because {why}; try again in a moment"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_beyond_what_one_connection_takes_get_another_which_goes_with_them() {
        let relay = Relay::new(None, None, CancellationToken::new());
        let connections = || relay.links.lock().unwrap().len();
        let many: Vec<_> = (0..CALLS_PER_CONNECTION_MAX).map(|_| relay.link()).collect();
        assert_eq!(connections(), 1);
        let more: Vec<_> = (0..CALLS_PER_CONNECTION_MAX).map(|_| relay.link()).collect();
        assert_eq!(connections(), 2);
        let third = relay.link();
        assert_eq!(connections(), 3);
        drop((many, third));
        // There is room in the first one again, and the last one is empty.
        drop(relay.link());
        assert_eq!(connections(), 2);
        drop(more);
        drop(relay.link());
        assert_eq!(connections(), 1);
    }
}
