//! Join tokens and those who come with them: `muster.join.v1` and its part of `muster.operator.v1`.

use std::time::Duration;

use cluster::{JoinKind, JoinToken, JoinTokenEnd, JoinTokenUse};
use codec::Invalid;
use identity::Identity;
use model::{AgentId, ClusterTime, Timestamp};
use proto::{join::v1 as join, operator::v1 as wire};

/// Longer than any installation takes; whoever needs more makes another token.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const TTL_MIN: Duration = Duration::from_secs(1);

/// What a new token is to be.
#[derive(Debug)]
pub struct TokenWish {
    pub kind: JoinKind,
    pub only_for: Option<String>,
    pub ttl: Duration,
}

pub fn create(request: wire::CreateJoinTokenRequest) -> Result<TokenWish, Invalid> {
    let wire::CreateJoinTokenRequest { kind, ttl_ms, only_for } = request;
    let kind = match wire::JoinKind::try_from(kind) {
        Ok(wire::JoinKind::Agent) => JoinKind::Agent,
        Ok(wire::JoinKind::Member) => JoinKind::Member,
        Ok(wire::JoinKind::Unspecified) | Err(_) => {
            return Err(Invalid::new("kind", "says neither agent nor member"));
        }
    };
    let ttl = Duration::from_millis(ttl_ms);
    if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Err(Invalid::new("ttl_ms", "is not between a second and 30 days"));
    }
    let only_for = Some(only_for).filter(|name| !name.is_empty());
    if let Some(name) = &only_for {
        check_name(kind, "only_for", name)?;
    }
    Ok(TokenWish { kind, only_for, ttl })
}

fn check_name(kind: JoinKind, field: &str, name: &str) -> Result<(), Invalid> {
    let is_name = match kind {
        JoinKind::Agent => AgentId::new(name).is_ok(),
        JoinKind::Member => name.parse::<u64>().is_ok_and(|id| id > 0),
    };
    if is_name { Ok(()) } else { Err(Invalid::new(field, format!("is no id of {}", kind.one()))) }
}

pub fn to_view(id: &str, token: &JoinToken, counted: ClusterTime, now: Timestamp) -> wire::JoinTokenView {
    let JoinToken { digest: _, kind, only_for, created_at, expires_at, until: _, end } = token;
    let (used_by, used_at_us) = match end {
        Some(JoinTokenEnd::Used(JoinTokenUse { name, key: _, at })) => (name.clone(), at.0),
        Some(JoinTokenEnd::Revoked { .. }) | None => (String::new(), 0),
    };
    let kind = match kind {
        JoinKind::Agent => wire::JoinKind::Agent,
        JoinKind::Member => wire::JoinKind::Member,
    };
    wire::JoinTokenView {
        token_id: id.to_owned(),
        kind: kind.into(),
        only_for: only_for.clone().unwrap_or_default(),
        created_at_us: created_at.0,
        expires_at_us: expires_at.0,
        used_by,
        used_at_us,
        is_revoked: matches!(end, Some(JoinTokenEnd::Revoked { .. })),
        is_open: end.is_none() && !token.has_expired(counted, now),
    }
}

/// Who comes with a token.
#[derive(Debug)]
pub struct Joiner {
    pub kind: JoinKind,
    pub name: String,
    pub identity: Identity,
}

pub fn joiner(who: Option<join::join_request::Who>) -> Result<Joiner, Invalid> {
    use join::join_request::{Member, Who};
    let (kind, name, identity) = match who {
        Some(Who::AgentId(id)) => (JoinKind::Agent, id.clone(), Identity::Agent(id)),
        Some(Who::Member(Member { member_id, address: _ })) => {
            (JoinKind::Member, member_id.to_string(), Identity::Member(member_id))
        }
        None => return Err(Invalid::new("who", "is missing")),
    };
    check_name(kind, "who", &name)?;
    Ok(Joiner { kind, name, identity })
}
