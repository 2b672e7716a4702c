//! Who may do what: `AccessChange` and its records in `muster.log.v1`, and their part of `muster.operator.v1`.

use std::{collections::BTreeMap, time::Duration};

use cluster::{Access, AccessChange, ClusterState, Revocation, User, UserToken};
use codec::{Invalid, each, id, micros, required};
use identity::Identity;
use model::{
    BUILT_IN_DUTIES, ClusterTime, DutyName, FrameworkId, Grant, RoleName, Timestamp, UserName, Verb,
};
use proto::{log::v1 as wire, operator::v1 as operator};

use super::log::digest_of;

/// Whoever needs a token for longer makes another; one that nobody uses any more ends.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Revocations are kept for longer than any certificate may live.
const CERTIFICATE_LIFE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
const LIFE_MIN: Duration = Duration::from_secs(1);

pub(super) fn to_change(change: &AccessChange) -> wire::AccessChange {
    use wire::access_change::Change;
    let change = match change {
        AccessChange::SetUser { user, duties } => {
            Change::SetUser(wire::SetUser { user: user.to_string(), duties: texts(duties) })
        }
        AccessChange::RemoveUser { user } => Change::RemoveUser(wire::RemoveUser { user: user.to_string() }),
        AccessChange::AddToken { user, token, digest, life } => Change::AddToken(wire::AddUserToken {
            user: user.to_string(),
            token_id: token.clone(),
            digest: digest.to_vec().into(),
            life_us: micros(*life),
        }),
        AccessChange::RevokeToken { token } => {
            Change::RevokeToken(wire::RevokeUserToken { token_id: token.clone() })
        }
        AccessChange::SetDuty { duty, grants } => {
            Change::SetDuty(wire::SetDuty { duty: duty.to_string(), grants: texts(grants) })
        }
        AccessChange::RevokeCertificates { name } => {
            Change::RevokeCertificates(wire::RevokeCertificates { name: name.clone() })
        }
    };
    wire::AccessChange { change: Some(change) }
}

pub(super) fn change(change: wire::AccessChange) -> Result<AccessChange, Invalid> {
    use wire::access_change::Change;
    let wire::AccessChange { change } = change;
    Ok(match required("change", change)? {
        Change::SetUser(wire::SetUser { user, duties }) => {
            AccessChange::SetUser { user: id("user", &user)?, duties: each("duties", duties, duty)? }
        }
        Change::RemoveUser(wire::RemoveUser { user }) => {
            AccessChange::RemoveUser { user: id("user", &user)? }
        }
        Change::AddToken(wire::AddUserToken { user, token_id, digest, life_us }) => AccessChange::AddToken {
            user: id("user", &user)?,
            token: token_id,
            digest: digest_of("digest", &digest)?,
            life: Duration::from_micros(life_us),
        },
        Change::RevokeToken(wire::RevokeUserToken { token_id }) => {
            AccessChange::RevokeToken { token: token_id }
        }
        Change::SetDuty(wire::SetDuty { duty, grants }) => {
            AccessChange::SetDuty { duty: id("duty", &duty)?, grants: each("grants", grants, grant)? }
        }
        Change::RevokeCertificates(wire::RevokeCertificates { name }) => {
            AccessChange::RevokeCertificates { name }
        }
    })
}

/// Absent while there is nothing: then a snapshot is as it was before there were users.
pub(super) fn to_access(access: &Access) -> Option<wire::AccessRecord> {
    let Access { users, tokens, duties, revoked } = access;
    let record = wire::AccessRecord {
        users: (users.iter())
            .map(|(user, User { duties, created_at })| wire::UserRecord {
                user: user.to_string(),
                duties: texts(duties),
                created_at_us: created_at.0,
            })
            .collect(),
        tokens: (tokens.iter())
            .map(|(token, UserToken { user, digest, created_at, expires_at })| wire::UserTokenRecord {
                token_id: token.clone(),
                user: user.to_string(),
                digest: digest.to_vec().into(),
                created_at_us: created_at.0,
                expires_counted_us: expires_at.0,
            })
            .collect(),
        duties: (duties.iter())
            .map(|(duty, grants)| wire::SetDuty { duty: duty.to_string(), grants: texts(grants) })
            .collect(),
        revoked: (revoked.iter())
            .map(|(name, Revocation { index, at, counted })| wire::RevocationRecord {
                name: name.clone(),
                index: *index,
                at_us: at.0,
                counted_us: counted.0,
            })
            .collect(),
    };
    (record != wire::AccessRecord::default()).then_some(record)
}

pub(super) fn access(record: wire::AccessRecord) -> Result<Access, Invalid> {
    let wire::AccessRecord { users, tokens, duties, revoked } = record;
    let users = each("users", users, |record| {
        let wire::UserRecord { user, duties, created_at_us } = record;
        let record = User { duties: each("duties", duties, duty)?, created_at: Timestamp(created_at_us) };
        Ok((id::<UserName>("user", &user)?, record))
    })?;
    let tokens = each("tokens", tokens, |record| {
        let wire::UserTokenRecord { token_id, user, digest, created_at_us, expires_counted_us } = record;
        let record = UserToken {
            user: id("user", &user)?,
            digest: digest_of("digest", &digest)?,
            created_at: Timestamp(created_at_us),
            expires_at: ClusterTime(expires_counted_us),
        };
        Ok((token_id, record))
    })?;
    let duties = each("duties", duties, |record| {
        let wire::SetDuty { duty, grants } = record;
        Ok((id::<DutyName>("duty", &duty)?, each("grants", grants, grant)?))
    })?;
    let revoked = each("revoked", revoked, |record| {
        let wire::RevocationRecord { name, index, at_us, counted_us } = record;
        Ok((name, Revocation { index, at: Timestamp(at_us), counted: ClusterTime(counted_us) }))
    })?;
    Ok(Access {
        users: users.into_iter().collect(),
        tokens: tokens.into_iter().collect(),
        duties: duties.into_iter().collect(),
        revoked: revoked.into_iter().collect(),
    })
}

fn texts<T: ToString>(things: &[T]) -> Vec<String> {
    things.iter().map(ToString::to_string).collect()
}

fn duty(text: String) -> Result<DutyName, Invalid> {
    id("", &text)
}

fn grant(text: String) -> Result<Grant, Invalid> {
    text.parse().map_err(|error: model::GrantError| Invalid::new("", error.to_string()))
}

pub fn set_user(request: operator::SetUserRequest) -> Result<AccessChange, Invalid> {
    let operator::SetUserRequest { user, duties } = request;
    Ok(AccessChange::SetUser { user: id("user", &user)?, duties: each("duties", duties, duty)? })
}

pub fn set_duty(request: operator::SetDutyRequest) -> Result<AccessChange, Invalid> {
    let operator::SetDutyRequest { duty, grants } = request;
    Ok(AccessChange::SetDuty { duty: id("duty", &duty)?, grants: each("grants", grants, grant)? })
}

/// For whom a token is to be, and for how long.
pub fn create_token(request: operator::CreateUserTokenRequest) -> Result<(UserName, Duration), Invalid> {
    let operator::CreateUserTokenRequest { user, ttl_ms } = request;
    let life = Duration::from_millis(ttl_ms);
    if !(LIFE_MIN..=TOKEN_LIFE_MAX).contains(&life) {
        return Err(Invalid::new("ttl_ms", "is not between a second and 366 days"));
    }
    Ok((id("user", &user)?, life))
}

/// For whom a certificate is to be, and for how long.
pub fn certify(user: &str, ttl_ms: u64) -> Result<(UserName, Duration), Invalid> {
    let life = Duration::from_millis(ttl_ms);
    if !(LIFE_MIN..=CERTIFICATE_LIFE_MAX).contains(&life) {
        return Err(Invalid::new("ttl_ms", "is not between a second and 90 days"));
    }
    Ok((id("user", user)?, life))
}

/// Whose certificates are to be revoked.
pub fn revoke(request: operator::RevokeCertificatesRequest) -> Result<Identity, Invalid> {
    let operator::RevokeCertificatesRequest { name } = request;
    let no = || Invalid::new("name", "is no name in a certificate: write agent/ID, user/NAME or member/ID");
    let identity: Identity = name.parse().map_err(|_| no())?;
    // `member/01` is member 1 all the same.
    if identity.to_string() == name { Ok(identity) } else { Err(no()) }
}

/// Somebody who may want something.
#[derive(Debug)]
pub struct Question {
    pub user: UserName,
    pub verb: Verb,
    pub role: Option<RoleName>,
    pub framework: Option<FrameworkId>,
}

pub fn question(request: operator::TestPolicyRequest) -> Result<Question, Invalid> {
    let operator::TestPolicyRequest { user, verb, role, framework } = request;
    let known = Verb::ALL.iter().copied().find(|known| known.as_str() == verb);
    Ok(Question {
        user: id("user", &user)?,
        verb: known.ok_or_else(|| {
            Invalid::new("verb", "is none: there are view, run, kill, exec, schedule and manage")
        })?,
        role: codec::optional_id("role", &role)?,
        framework: codec::optional_id("framework", &framework)?,
    })
}

/// All users with their tokens. The ends of tokens are shown by the wall clock of the moment.
pub fn to_users(state: &ClusterState, now: Timestamp) -> operator::ListUsersResponse {
    let access = state.access();
    let mut tokens: BTreeMap<&UserName, Vec<operator::UserTokenView>> = BTreeMap::new();
    for (token, record) in &access.tokens {
        tokens.entry(&record.user).or_default().push(to_token(token, record, state, now));
    }
    let users = access.users.iter().map(|(user, record)| operator::UserView {
        user: user.to_string(),
        duties: texts(&record.duties),
        created_at_us: record.created_at.0,
        tokens: tokens.remove(user).unwrap_or_default(),
    });
    operator::ListUsersResponse { users: users.collect() }
}

pub fn to_token(
    id: &str,
    token: &UserToken,
    state: &ClusterState,
    now: Timestamp,
) -> operator::UserTokenView {
    let UserToken { user: _, digest: _, created_at, expires_at } = token;
    let left = expires_at.since(state.counted());
    operator::UserTokenView {
        token_id: id.to_owned(),
        created_at_us: created_at.0,
        expires_at_us: (now + left).0,
        is_open: *expires_at > state.counted(),
    }
}

pub fn to_policy(access: &Access) -> operator::GetPolicyResponse {
    let built_in = BUILT_IN_DUTIES.iter().filter_map(|name| {
        let grants = model::built_in_duty(name)?;
        Some(operator::DutyView { duty: (*name).to_owned(), grants: texts(&grants), is_built_in: true })
    });
    let made = access.duties.iter().map(|(duty, grants)| operator::DutyView {
        duty: duty.to_string(),
        grants: texts(grants),
        is_built_in: false,
    });
    operator::GetPolicyResponse { duties: built_in.chain(made).collect() }
}

pub fn to_revoked(access: &Access) -> operator::ListRevokedCertificatesResponse {
    let revoked = access.revoked.iter().map(|(name, record)| {
        let Revocation { index: _, at, counted: _ } = record;
        operator::RevokedView { name: name.clone(), revoked_at_us: at.0 }
    });
    operator::ListRevokedCertificatesResponse { revoked: revoked.collect() }
}

#[cfg(test)]
pub(super) mod testing {
    //! Every change and record, for the round trips of `log.rs` and `snapshot.rs`.

    use super::*;
    use crate::convert::testing::life;
    use model::Scope;
    use proptest::{collection::vec, prelude::*, sample::select};

    fn user() -> impl Strategy<Value = UserName> {
        "[a-z][a-z0-9.]{0,8}".prop_map(|name| UserName::new(&name).unwrap())
    }

    fn duty() -> impl Strategy<Value = DutyName> {
        "[a-z][a-z0-9]{0,8}".prop_map(|name| DutyName::new(&name).unwrap())
    }

    fn grant() -> impl Strategy<Value = Grant> {
        let scope = prop_oneof![
            Just(Scope::Everything),
            "[a-z]{1,4}".prop_map(|role| Scope::Role(RoleName::new(&role).unwrap())),
            "[a-z]{1,4}".prop_map(|framework| Scope::Framework(FrameworkId::new(&framework).unwrap())),
        ];
        (select(Verb::ALL), scope).prop_map(|(verb, scope)| Grant { verb, scope })
    }

    pub(in crate::convert) fn change() -> impl Strategy<Value = AccessChange> {
        prop_oneof![
            (user(), vec(duty(), 0..3)).prop_map(|(user, duties)| AccessChange::SetUser { user, duties }),
            user().prop_map(|user| AccessChange::RemoveUser { user }),
            (user(), "[a-f0-9]{8}", any::<[u8; 32]>(), life()).prop_map(|(user, token, digest, life)| {
                AccessChange::AddToken { user, token, digest, life }
            }),
            "[a-f0-9]{8}".prop_map(|token| AccessChange::RevokeToken { token }),
            (duty(), vec(grant(), 0..3)).prop_map(|(duty, grants)| AccessChange::SetDuty { duty, grants }),
            "agent/[a-z]{1,4}".prop_map(|name| AccessChange::RevokeCertificates { name }),
        ]
    }

    pub(in crate::convert) fn access() -> impl Strategy<Value = Access> {
        let at = || any::<i64>().prop_map(Timestamp);
        let counted = || any::<u64>().prop_map(ClusterTime);
        let users = (user(), vec(duty(), 0..3), at())
            .prop_map(|(user, duties, created_at)| (user, User { duties, created_at }));
        let tokens = ("[a-f0-9]{8}", user(), any::<[u8; 32]>(), at(), counted()).prop_map(
            |(token, user, digest, created_at, expires_at)| {
                (token, UserToken { user, digest, created_at, expires_at })
            },
        );
        let revoked = ("agent/[a-z]{1,4}", any::<u64>(), at(), counted())
            .prop_map(|(name, index, at, counted)| (name, Revocation { index, at, counted }));
        (vec(users, 0..3), vec(tokens, 0..3), vec((duty(), vec(grant(), 0..3)), 0..3), vec(revoked, 0..3))
            .prop_map(|(users, tokens, duties, revoked)| Access {
                users: users.into_iter().collect(),
                tokens: tokens.into_iter().collect(),
                duties: duties.into_iter().collect(),
                revoked: revoked.into_iter().collect(),
            })
    }
}
