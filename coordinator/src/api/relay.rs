//! Calls that only the leader can answer, passed on to it by a member that doesn't lead.
//!
//! Passes heads and bodies on as they are, streams included, and looks into neither: whoever is attached to a
//! member stays attached to it, whoever leads. A call is passed on once; a second member that isn't the leader
//! refuses it, so that no call goes round in circles. How long one waits for a leader is bounded.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use model::{Refusal, RefusalCode};

use crate::raft::RaftHandle;

/// Says that a call was passed on, and by whom.
const RELAYED_KEY: &str = "muster-relayed-by";

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
/// A leader from which nothing is heard for so long is asked whether it lives …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// … and must answer within this, or every stream through here ends.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The way to the leader; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Relay {
    client: Client<HttpConnector, Body>,
}

/// Who answers a call.
pub(super) enum Route {
    Here,
    /// The leader's host:port.
    There(String),
}

impl Relay {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_PATIENCE));
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        Self { client }
    }

    /// Decides who answers; waits a while where nobody leads.
    ///
    /// Refuses with NoLeader.
    pub(super) async fn route<B>(&self, raft: &RaftHandle, request: &Request<B>) -> Result<Route, Refusal> {
        let path = request.uri().path();
        if OWN_PATHS.contains(&path) || OWN_SERVICES.iter().any(|service| path.starts_with(service)) {
            return Ok(Route::Here);
        }
        let mut leadership = raft.leadership();
        let own = raft.member_id();
        let known =
            leadership.wait_for(|now| now.is_leader || now.leader.is_some_and(|leader| leader != own));
        let Ok(Ok(now)) =
            tokio::time::timeout(LEADER_PATIENCE, known).await.map(|known| known.map(|now| *now))
        else {
            return Err(no_leader("nobody leads the cluster now"));
        };
        if now.is_leader {
            return Ok(Route::Here);
        }
        if request.headers().contains_key(RELAYED_KEY) {
            return Err(no_leader("the lead has just gone to another member"));
        }
        match raft.leader_address() {
            Some(address) => Ok(Route::There(address)),
            None => Err(no_leader("the leader's address is not known here yet")),
        }
    }

    /// Has the leader answer. Refuses with NoLeader where it can't be reached.
    pub(super) async fn pass(
        &self,
        raft: &RaftHandle,
        leader: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme("http").authority(leader).path_and_query(path).build();
        head.uri = uri.map_err(|_| no_leader("the leader's address makes no sense"))?;
        // The other side is the leader now.
        head.headers.remove(header::HOST);
        head.headers.insert(RELAYED_KEY, HeaderValue::from(raft.member_id()));
        match self.client.request(Request::from_parts(head, Body::new(body))).await {
            Ok(answer) => Ok(answer.map(Body::new)),
            Err(error) => {
                tracing::debug!(leader, %error, "can't pass a call on");
                Err(no_leader("the leader did not answer"))
            }
        }
    }
}

fn no_leader(why: &str) -> Refusal {
    Refusal::new(
        RefusalCode::NoLeader,
        format!("this member can't answer, because {why}; try again in a moment"),
    )
}
