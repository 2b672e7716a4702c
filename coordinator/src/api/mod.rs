//! Questions in, answers out, no rules of their own.
//!
//! `serve.rs` owns the sockets, `guard.rs` says who asks, `caller.rs` what that one may, `relay.rs` which member
//! answers, `methods.rs` whom each method is for, `audited.rs` what the audit log says of it, `reads.rs` how fresh the
//! answer is; `grpc/` and `rest.rs` answer: each method is one call of a handle and a conversion. `error.rs` is the one table of statuses.
//! Nothing here knows how a thing is done.

mod audited;
mod caller;
pub mod error;
mod grpc;
mod guard;
mod methods;
mod permit;
mod reads;
mod relay;
mod rest;
mod serve;
mod standing;

use std::{sync::Arc, time::Duration};

use axum::body::{Body, HttpBody as _};
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use model::{Refusal, RefusalCode};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    audit::Audit,
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

/// How far the log was when the caller's credential was found to count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted(u64);

/// What callers are known by.
#[derive(Clone)]
pub struct Access {
    pub token: Token,
    /// In lower case.
    pub allowed_hosts: Vec<String>,
    pub security: Option<Arc<Security>>,
    /// Where it is written down who changed what.
    pub audit: Audit,
}

/// Everything that answers requests; cheap to clone.
#[derive(Clone)]
pub struct Api {
    context: Context,
    guard: Arc<guard::Guard>,
    page: Arc<Page>,
    grpc: axum::Router,
    relay: relay::Relay,
    audit: Audit,
    standings: standing::Standings,
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
        let Access { token, allowed_hosts, security, audit } = access;
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
        let (standings, reader) = tokio::sync::watch::channel(0);
        let followed = standing::follow(context.leader.clone(), standings, context.stop.clone());
        context.tasks.spawn(followed);
        let relay = relay::Relay::new(tls, credential, context.stop.clone());
        Ok(Self { context, guard, page, grpc, relay, audit, standings: reader })
    }

    /// Answers one request of a peer; never fails, because a no is an answer.
    async fn answer(&self, arrived: &serve::Origin, mut request: Request<Incoming>) -> Response<Body> {
        let is_grpc = (request.headers().get(header::CONTENT_TYPE))
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/grpc"));
        let kind = if is_grpc { "grpc" } else { "http" };
        self.context.metrics.requests.get_or_create(&KindLabel { kind }).inc();
        let state = self.context.leader.state();
        let identified = self.guard.identify(&arrived.peer, &request, &state);
        let judged = match &identified {
            Ok(asker) => self.guard.judge(&arrived.peer, &request, asker, &state),
            Err(refusal) => Err(refusal.clone()),
        };
        let counted = Counted(state.applied());
        drop(state);
        // What a caller may not say of itself is gone before anyone could read it.
        for key in [relay::CALLER_KEY, relay::MADE_KEY] {
            request.headers_mut().remove(key);
        }
        let path = request.uri().path().to_owned();
        // The member that passed a call on tells of it.
        let is_passed_on = identified.as_ref().is_ok_and(|asker| asker.is_passed_on);
        let is_told = methods::method(&path).is_change && is_grpc && !is_passed_on;
        let asker = match (identified, judged) {
            (Ok(asker), Ok(())) => asker,
            (identified, Err(refusal)) => {
                if is_told {
                    let who = identified.ok().map(|asker| asker.caller);
                    self.audit.tell(audited::refused(who.as_ref(), arrived, &path, &refusal));
                }
                return self.refuse(is_grpc, &request, &refusal);
            }
            (Err(refusal), Ok(())) => return self.refuse(is_grpc, &request, &refusal),
        };
        let is_between_members = path.starts_with(relay::MEMBERS_SERVICE);
        let caller = asker.caller.clone();
        let (mut request, copy) = match is_told {
            true => {
                let (copied, copy) = audited::copied(request.map(Body::new));
                (copied, Some(copy))
            }
            false => (request.map(Body::new), None),
        };
        let answer = async {
            match is_grpc {
                true => {
                    request.extensions_mut().insert(counted);
                    self.answer_grpc(asker, &path, request).await
                }
                false => rest::answer(&self.context, &self.page, &request),
            }
        };
        let patience = if is_between_members { MEMBER_ANSWER_TIME_MAX } else { ANSWER_TIME_MAX };
        let answer = match tokio::time::timeout(patience, answer).await {
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
        };
        if let Some(copy) = copy {
            self.audit.tell(audited::answered(
                &caller,
                &arrived.address,
                &path,
                &copy.message(),
                answer.headers(),
            ));
        }
        answer
    }

    fn refuse(&self, is_grpc: bool, request: &Request<Incoming>, refusal: &Refusal) -> Response<Body> {
        self.context.metrics.refused(refusal.code);
        tracing::debug!(code = refusal.code.as_str(), path = request.uri().path(), "refused a request");
        match is_grpc {
            true => error::status(refusal).into_http(),
            false => error::response(refusal, &format!("can't answer {}", rest::shown(request))),
        }
    }

    async fn answer_grpc(
        &self,
        asker: guard::Asker,
        path: &str,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let ended = || {
            let leader = self.context.leader.clone();
            standing::ended(asker.clone(), path.to_owned(), leader, self.standings.clone())
        };
        if asker.is_revocable() {
            request = request.map(|body| Body::new(standing::Sent::new(body, ended())));
        }
        let raft = &self.context.raft;
        let routed = match reads::wanted(&request) {
            Ok(Consistency::Local) => Ok((relay::Route::Here, Consistency::Local)),
            Ok(wanted) => self.relay.route(raft, path, request.headers()).await.map(|route| (route, wanted)),
            Err(refusal) => Err(refusal),
        };
        let passed = match routed {
            Ok((relay::Route::Here, wanted)) => {
                request.extensions_mut().insert(asker.caller.clone());
                self.answer_as_fresh(request, wanted).await
            }
            Ok((relay::Route::There(leader, address), _)) => {
                self.relay.pass(raft, leader, &address, &asker, request).await
            }
            Err(refusal) => Err(refusal),
        };
        // The leader has counted what it refused.
        let answer = passed.unwrap_or_else(|refusal| {
            self.context.metrics.refused(refusal.code);
            error::status(&refusal).into_http()
        });
        match asker.is_revocable() && !answer.body().is_end_stream() {
            true => answer.map(|body| Body::new(standing::Watched::new(body, ended()))),
            false => answer,
        }
    }

    /// Answers here, once the state is as fresh as the caller wants it.
    async fn answer_as_fresh(
        &self,
        request: Request<Body>,
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

    async fn answer_here(&self, request: Request<Body>) -> Response<Body> {
        let answer = match self.grpc.clone().oneshot(request).await {
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
