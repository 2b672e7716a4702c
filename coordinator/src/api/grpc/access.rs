//! The part of `muster.operator.v1` about who may do what: users, their tokens and certificates, duties.

use cluster::{AccessChange, Command};
use identity::{Identity, UserToken, request_key};
use model::{Refusal, RefusalCode, Target};
use proto::operator::v1 as wire;
use tonic::Status;

use super::{
    invalid,
    joining::{now, propose, security, unmade},
    refused,
};
use crate::{api::Context, convert::access as convert};

async fn change(context: &Context, change: AccessChange) -> Result<(), Status> {
    propose(context, Command::Access(change)).await.map(|_done| ()).map_err(refused)
}

pub(super) fn list_users(context: &Context) -> wire::ListUsersResponse {
    convert::to_users(&context.leader.state(), now())
}

pub(super) async fn set_user(
    context: &Context,
    request: wire::SetUserRequest,
) -> Result<wire::SetUserResponse, Status> {
    change(context, convert::set_user(request).map_err(invalid("set the user"))?).await?;
    Ok(wire::SetUserResponse {})
}

pub(super) async fn remove_user(
    context: &Context,
    request: wire::RemoveUserRequest,
) -> Result<wire::RemoveUserResponse, Status> {
    let wire::RemoveUserRequest { user } = request;
    let user = codec::id("user", &user).map_err(invalid("remove the user"))?;
    change(context, AccessChange::RemoveUser { user }).await?;
    Ok(wire::RemoveUserResponse {})
}

pub(super) async fn create_token(
    context: &Context,
    request: wire::CreateUserTokenRequest,
) -> Result<wire::CreateUserTokenResponse, Status> {
    let (user, life) = convert::create_token(request).map_err(invalid("make a token"))?;
    let token = UserToken::draw();
    let added = AccessChange::AddToken { user, token: token.id.clone(), digest: token.digest(), life };
    change(context, added).await?;
    let state = context.leader.state();
    let record = state.access().tokens.get(&token.id);
    let view = record.map(|record| convert::to_token(&token.id, record, &state, now()));
    Ok(wire::CreateUserTokenResponse { token: view, secret: token.reveal() })
}

pub(super) async fn revoke_token(
    context: &Context,
    request: wire::RevokeUserTokenRequest,
) -> Result<wire::RevokeUserTokenResponse, Status> {
    let wire::RevokeUserTokenRequest { token_id } = request;
    change(context, AccessChange::RevokeToken { token: token_id }).await?;
    Ok(wire::RevokeUserTokenResponse {})
}

pub(super) fn certify(
    context: &Context,
    request: &wire::CertifyUserRequest,
) -> Result<wire::CertifyUserResponse, Status> {
    let wire::CertifyUserRequest { user, request, ttl_ms } = request;
    let (user, life) = convert::certify(user, *ttl_ms).map_err(invalid("make a certificate"))?;
    let security = security(context).map_err(refused)?;
    let state = context.leader.state();
    if !state.access().users.contains_key(&user) {
        return Err(refused(Refusal::new(
            RefusalCode::UserUnknown,
            format!(
                "The certificate was not made: there is no user `{user}`. Make it with `muster user add {user}`."
            ),
        )));
    }
    request_key(request).map_err(|_| {
        refused(Refusal::new(RefusalCode::InvalidArgument, "the request for a certificate makes no sense"))
    })?;
    let identity = Identity::User(user.to_string());
    let made = security.certify(request, &identity, Some(life), state.applied());
    Ok(wire::CertifyUserResponse {
        certificate: made.map_err(|error| refused(unmade(&error)))?.into(),
        authority: security.authority().certificate().to_vec().into(),
    })
}

pub(super) fn policy(context: &Context) -> wire::GetPolicyResponse {
    convert::to_policy(context.leader.state().access())
}

pub(super) async fn set_duty(
    context: &Context,
    request: wire::SetDutyRequest,
) -> Result<wire::SetDutyResponse, Status> {
    change(context, convert::set_duty(request).map_err(invalid("set the duty"))?).await?;
    Ok(wire::SetDutyResponse {})
}

pub(super) fn test_policy(
    context: &Context,
    request: wire::TestPolicyRequest,
) -> Result<wire::TestPolicyResponse, Status> {
    let convert::Question { user, verb, role, framework } =
        convert::question(request).map_err(invalid("test the policy"))?;
    let state = context.leader.state();
    if !state.access().users.contains_key(&user) {
        let message = format!("There is no user `{user}`. See `muster user list`.");
        return Err(refused(Refusal::new(RefusalCode::UserUnknown, message)));
    }
    // Whoever names a framework means its role, too.
    let known = framework.as_ref().and_then(|framework| state.framework(framework));
    let role = role.or_else(|| known.map(|framework| framework.info.role.clone()));
    let target = Target { role: role.as_ref(), framework: framework.as_ref() };
    Ok(match state.access().may(&user, verb, target) {
        Ok(()) => wire::TestPolicyResponse { is_allowed: true, why: String::new() },
        Err(denied) => wire::TestPolicyResponse { is_allowed: false, why: denied.to_string() },
    })
}

/// Refuses a member that has a seat (InvalidArgument): without it the cluster may have no majority.
pub(super) async fn revoke(
    context: &Context,
    request: wire::RevokeCertificatesRequest,
) -> Result<wire::RevokeCertificatesResponse, Status> {
    let identity = convert::revoke(request).map_err(invalid("revoke certificates"))?;
    if let Identity::Member(id) = identity
        && context.raft.seats().iter().any(|seat| seat.id == id)
    {
        return Err(refused(Refusal::new(
            RefusalCode::InvalidArgument,
            format!(
                "the certificates of {identity} were not revoked: it has a seat; remove it first with `muster member \
                 remove {id}`"
            ),
        )));
    }
    change(context, AccessChange::RevokeCertificates { name: identity.to_string() }).await?;
    tracing::info!(%identity, "revoked all certificates of a name");
    Ok(wire::RevokeCertificatesResponse {})
}

pub(super) fn list_revoked(context: &Context) -> wire::ListRevokedCertificatesResponse {
    convert::to_revoked(context.leader.state().access())
}
