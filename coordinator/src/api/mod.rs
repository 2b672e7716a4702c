//! Questions in, answers out, no rules of their own.
//!
//! `serve.rs` owns the sockets, `guard.rs` says who asks, `caller.rs` what that one may, `relay.rs` which member
//! answers, `reads.rs` how fresh the answer is; `grpc/` and `rest.rs` answer: each method is one call of a handle and a conversion. `error.rs` is the one table of statuses.
//! Nothing here knows how a thing is done.

mod caller;
pub mod error;
mod grpc;
mod guard;
mod reads;
mod relay;
mod rest;
mod serve;

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use model::{Refusal, RefusalCode};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    auth::Token,
    leader::LeaderHandle,
    machine::AgreedLog,
    metrics::{KindLabel, Metrics, Page},
    raft::RaftHandle,
    security::Security,
    versions::Versions,
};

pub(crate) use caller::Caller;
pub use guard::Peer;
use reads::Consistency;
pub use serve::{BindError, Listeners};

/// Longest time from a request's head to the head of its answer. Streams go on after that.
///
/// Longer than the leader's own patience, so that its answer comes first.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(45);

/// The same between members, whose snapshots may be long on their way; they know their own patience.
const MEMBER_ANSWER_TIME_MAX: Duration = Duration::from_secs(600);

/// What every method needs.
#[derive(Clone)]
pub(crate) struct Context {
    pub leader: LeaderHandle,
    pub raft: RaftHandle,
    pub metrics: Arc<Metrics>,
    /// Ends every stream.
    pub stop: CancellationToken,
    /// Owns what a stream does beside answering.
    pub tasks: TaskTracker,
    pub channels: Arc<grpc::channel::Channels>,
    /// Where join tokens are proposed.
    pub log: AgreedLog,
    /// `None`: plain text is spoken.
    pub security: Option<Arc<Security>>,
    /// Handed over to new members.
    pub token: Token,
    pub versions: Versions,
}

/// What callers are known by.
#[derive(Clone)]
pub struct Access {
    pub token: Token,
    /// In lower case.
    pub allowed_hosts: Vec<String>,
    pub security: Option<Arc<Security>>,
}

/// Everything that answers requests; cheap to clone.
#[derive(Clone)]
pub struct Api {
    context: Context,
    guard: Arc<guard::Guard>,
    page: Arc<Page>,
    grpc: axum::Router,
    relay: relay::Relay,
}

impl Api {
    pub fn new(
        leader: LeaderHandle,
        raft: RaftHandle,
        metrics: Arc<Metrics>,
        access: Access,
        versions: Versions,
        stop: CancellationToken,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let Access { token, allowed_hosts, security } = access;
        let page = Arc::new(Page::new(&metrics, leader.clone(), raft.clone()));
        let tls = security.as_ref().map(|security| security.tls().client());
        let credential = match tls {
            Some(_) => None,
            None => HeaderValue::try_from(format!("Bearer {}", token.reveal())).ok(),
        };
        let guard = Arc::new(guard::Guard::new(token.clone(), allowed_hosts, tls.is_some()));
        let context = Context {
            leader,
            log: AgreedLog::new(raft.clone()),
            raft,
            metrics,
            stop,
            tasks: TaskTracker::new(),
            channels: Arc::default(),
            security,
            token,
            versions,
        };
        let grpc = grpc::routes(&context)?;
        Ok(Self { context, guard, page, grpc, relay: relay::Relay::new(tls, credential) })
    }

    /// Answers one request of a peer; never fails, because a no is an answer.
    async fn answer(&self, peer: &Peer, mut request: Request<Incoming>) -> Response<Body> {
        let is_grpc = (request.headers().get(header::CONTENT_TYPE))
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/grpc"));
        let kind = if is_grpc { "grpc" } else { "http" };
        self.context.metrics.requests.get_or_create(&KindLabel { kind }).inc();
        let checked = self.guard.check(peer, &request);
        // What a caller may not say of itself is gone before anyone could read it.
        request.headers_mut().remove(relay::CALLER_KEY);
        let caller = match checked {
            Ok(caller) => caller,
            Err(refusal) => return self.refuse(is_grpc, &request, &refusal),
        };
        let is_between_members = request.uri().path().starts_with(relay::MEMBERS_SERVICE);
        let answer = async {
            match is_grpc {
                true => self.answer_grpc(caller, request).await,
                false => rest::answer(&self.context, &self.page, &request),
            }
        };
        let patience = if is_between_members { MEMBER_ANSWER_TIME_MAX } else { ANSWER_TIME_MAX };
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                let refusal = Refusal::new(
                    RefusalCode::OutcomeUnknown,
                    format!(
                        "the request was not complete, or had no answer, within {} s",
                        patience.as_secs()
                    ),
                );
                self.context.metrics.refused(refusal.code);
                error::status(&refusal).into_http()
            }
        }
    }

    fn refuse(&self, is_grpc: bool, request: &Request<Incoming>, refusal: &Refusal) -> Response<Body> {
        self.context.metrics.refused(refusal.code);
        tracing::debug!(code = refusal.code.as_str(), path = request.uri().path(), "refused a request");
        match is_grpc {
            true => error::status(refusal).into_http(),
            false => error::response(refusal, &format!("can't answer {}", rest::shown(request))),
        }
    }

    async fn answer_grpc(&self, caller: Caller, mut request: Request<Incoming>) -> Response<Body> {
        let raft = &self.context.raft;
        let routed = match reads::wanted(&request) {
            Ok(Consistency::Local) => Ok((relay::Route::Here, Consistency::Local)),
            Ok(wanted) => self.relay.route(raft, &request).await.map(|route| (route, wanted)),
            Err(refusal) => Err(refusal),
        };
        let passed = match routed {
            Ok((relay::Route::Here, wanted)) => {
                request.extensions_mut().insert(caller);
                self.answer_as_fresh(request, wanted).await
            }
            Ok((relay::Route::There(leader, address), _)) => {
                self.relay.pass(raft, leader, &address, &caller, request).await
            }
            Err(refusal) => Err(refusal),
        };
        // The leader has counted what it refused.
        passed.unwrap_or_else(|refusal| {
            self.context.metrics.refused(refusal.code);
            error::status(&refusal).into_http()
        })
    }

    /// Answers here, once the state is as fresh as the caller wants it.
    async fn answer_as_fresh(
        &self,
        request: Request<Incoming>,
        wanted: Consistency,
    ) -> Result<Response<Body>, Refusal> {
        let raft = &self.context.raft;
        match wanted {
            Consistency::Leader => return Ok(self.answer_here(request).await),
            Consistency::Linearizable => reads::until_linearizable(raft).await?,
            Consistency::Local => {}
        }
        // Before the answer is made: it is at least so fresh.
        let freshness = raft.freshness().await;
        let mut answer = self.answer_here(request).await;
        if let Ok(freshness) = freshness {
            reads::state_freshness(raft, freshness, &mut answer);
        }
        Ok(answer)
    }

    async fn answer_here(&self, request: Request<Incoming>) -> Response<Body> {
        let answer = match self.grpc.clone().oneshot(request.map(Body::new)).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let answer = error::with_code(answer);
        if let Some(code) = answer.headers().get(error::CODE_KEY).and_then(|code| code.to_str().ok())
            && let Some(code) = RefusalCode::ALL.iter().find(|known| known.as_str() == code)
        {
            self.context.metrics.refused(*code);
        }
        answer
    }
}
