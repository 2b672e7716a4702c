//! `muster.join.v1`, and the operators' side of it: who comes into the cluster, and gets a certificate.
//!
//! A token counts once because the log says so; the certificate is made by the member that leads, after that.

use cluster::{Answer, Command, Entry, JOIN_LIFE_SINCE, JoinKind};
use identity::{Identity, JoinToken, request_key};
use model::{Refusal, RefusalCode, Timestamp};
use proto::{
    join::v1::{self as wire, joining_server::Joining},
    operator::v1 as operator,
};
use tonic::{Request, Response, Status};

use super::{invalid, refused};
use crate::{
    api::{Caller, Context, Counted},
    convert::join as convert,
    leader::{Log as _, ProposeError},
    security::Security,
};

pub(super) struct JoiningApi {
    context: Context,
}

impl JoiningApi {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    async fn let_in(&self, request: wire::JoinRequest) -> Result<wire::JoinResponse, Refusal> {
        let wire::JoinRequest { token, request, who } = request;
        let security = security(&self.context)?;
        let joiner = convert::joiner(who).map_err(Refusal::from)?;
        let convert::Joiner { kind, name, identity } = joiner;
        let no = |why: &str| {
            let message = format!("The {} `{name}` did not join: {why}.", kind.as_str());
            Err(Refusal::new(RefusalCode::JoinTokenRefused, message))
        };
        let Ok(token) = token.parse::<JoinToken>() else {
            return no("what it brought is no token; copy the whole line that `muster token create` printed");
        };
        if token.authority != security.fingerprint() {
            return no("the token is of another cluster");
        }
        let key = request_key(&request).map_err(|_| {
            Refusal::new(RefusalCode::InvalidArgument, "the request for a certificate makes no sense")
        })?;
        if let Identity::Member(id) = identity {
            self.check_seat(id, &token.id)?;
        }
        let digest = token.digest();
        let used = Command::UseJoinToken { token: token.id.clone(), digest, kind, name: name.clone(), key };
        propose(&self.context, used).await?;
        // The token's use is in the state by now, so the certificate is of after any revocation before it.
        let made = self.context.leader.state().applied();
        let certificate =
            security.certify(&request, &identity, None, made).map_err(|error| unmade(&error))?;
        tracing::info!(%identity, token = token.id, "let in with a join token");
        let trust = match kind {
            JoinKind::Agent => None,
            JoinKind::Member => Some(wire::join_response::Trust {
                authority_key: security.authority().key().secret_pkcs8_der().to_vec().into(),
                operator_token: self.context.token.reveal().to_owned(),
            }),
        };
        Ok(wire::JoinResponse {
            certificate: certificate.into(),
            authority: security.authority().certificate().to_vec().into(),
            cluster_id: self.context.raft.cluster_id().to_owned(),
            trust,
        })
    }

    /// Whoever forgot its votes could vote twice: an id that votes needs a token of its own.
    fn check_seat(&self, id: u64, token: &str) -> Result<(), Refusal> {
        let state = self.context.leader.state();
        let is_bound = state.join_tokens().get(token).is_some_and(|token| token.only_for.is_some());
        let votes = self.context.raft.seats().iter().any(|seat| seat.id == id && seat.votes);
        if is_bound || !votes {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalCode::MemberIdTaken,
            format!(
                "member {id} did not join: there is one already; choose another `--member-id`, or remove that one \
                 first"
            ),
        ))
    }

    fn renewed(
        &self,
        caller: Option<&Caller>,
        counted: Option<Counted>,
        request: &[u8],
    ) -> Result<wire::RenewResponse, Refusal> {
        let security = security(&self.context)?;
        let Some(
            Caller::Known(identity @ (Identity::Agent(_) | Identity::User(_)))
            | Caller::Late(identity @ Identity::Agent(_)),
        ) = caller
        else {
            let message = "there is no certificate to be renewed; join with a token instead";
            return Err(Refusal::new(RefusalCode::NotPermitted, message));
        };
        // Not later than the caller was found to count, or what was revoked in between would come back by this.
        let Some(Counted(made)) = counted else {
            return Err(Refusal::new(RefusalCode::Internal, "it is not known how far the log was"));
        };
        let certificate = security.certify(request, identity, None, made).map_err(|error| unmade(&error))?;
        tracing::info!(%identity, "renewed a certificate");
        Ok(wire::RenewResponse { certificate: certificate.into() })
    }
}

#[tonic::async_trait]
impl Joining for JoiningApi {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        self.let_in(request.into_inner()).await.map(Response::new).map_err(refused)
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewResponse>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let counted = request.extensions().get::<Counted>().copied();
        let wire::RenewRequest { request } = request.into_inner();
        self.renewed(caller.as_ref(), counted, &request).map(Response::new).map_err(refused)
    }
}

pub(super) async fn create_token(
    context: &Context,
    request: operator::CreateJoinTokenRequest,
) -> Result<operator::CreateJoinTokenResponse, Status> {
    let wish = convert::create(request).map_err(invalid("make a join token"))?;
    let convert::TokenWish { kind, only_for, ttl } = wish;
    let token = JoinToken::draw(security(context).map_err(refused)?.fingerprint());
    let expires_at = now() + ttl;
    let life = (context.leader.state().version() >= JOIN_LIFE_SINCE).then_some(ttl);
    let command = Command::CreateJoinToken {
        token: token.id.clone(),
        digest: token.digest(),
        kind,
        only_for,
        expires_at,
        life,
    };
    propose(context, command).await.map_err(refused)?;
    tracing::info!(token = token.id, kind = kind.as_str(), "made a join token");
    let state = context.leader.state();
    let view = |record| convert::to_view(&token.id, record, state.counted(), now());
    let view = state.join_tokens().get(&token.id).map(view);
    Ok(operator::CreateJoinTokenResponse { token: view, secret: token.reveal() })
}

pub(super) async fn list_tokens(context: &Context) -> operator::ListJoinTokensResponse {
    let (state, now) = (context.leader.state(), now());
    // Another member knows what the log knows, which may be a minute old.
    let counted = context.leader.counted().await.unwrap_or_else(|_no_leader| state.counted());
    let tokens = state.join_tokens().iter().map(|(id, record)| convert::to_view(id, record, counted, now));
    operator::ListJoinTokensResponse { tokens: tokens.collect() }
}

pub(super) async fn revoke_token(
    context: &Context,
    request: operator::RevokeJoinTokenRequest,
) -> Result<operator::RevokeJoinTokenResponse, Status> {
    let operator::RevokeJoinTokenRequest { token_id } = request;
    propose(context, Command::RevokeJoinToken { token: token_id.clone() }).await.map_err(refused)?;
    tracing::info!(token = token_id, "revoked a join token");
    Ok(operator::RevokeJoinTokenResponse {})
}

/// Refuses with TlsNeeded where plain text is spoken: there is nothing to come into.
pub(super) fn security(context: &Context) -> Result<&Security, Refusal> {
    context.security.as_deref().ok_or_else(|| {
        Refusal::new(
            RefusalCode::TlsNeeded,
            "this cluster speaks plain text on one machine, where the token file lets one in; for more machines, run \
             `muster-coordinator init` and start the coordinator again",
        )
    })
}

pub(super) async fn propose(context: &Context, command: Command) -> Result<Answer, Refusal> {
    // Ends of tokens are reckoned from here: what the log knows may be old.
    let counted = context.leader.counted().await?;
    let entry = Entry { at: now(), counted, command };
    match context.log.propose(entry).await {
        Ok(answer) => answer,
        Err(error) => {
            let (code, why) = match error {
                ProposeError::NotLeader => {
                    (RefusalCode::NoLeader, "this member leads no more; try again in a moment")
                }
                ProposeError::Busy => {
                    (RefusalCode::Busy, "too much waits for the log; try again in a moment")
                }
                ProposeError::TooLarge { .. } => {
                    (RefusalCode::InvalidArgument, "it is too large for the log")
                }
                ProposeError::Unknown => {
                    (RefusalCode::OutcomeUnknown, "whether it was done is not known; look, or repeat it")
                }
            };
            Err(Refusal::new(code, why))
        }
    }
}

pub(super) fn unmade(error: &identity::AuthorityError) -> Refusal {
    tracing::error!(error = %error, "can't make a certificate");
    Refusal::new(RefusalCode::InvalidArgument, format!("the certificate can't be made: {error}"))
}

pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH + since
}
