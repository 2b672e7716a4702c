//! Who asks, and what each may ask: one pure function, [`Caller::may`].
//!
//! A member that passes a call on says for whom (`relay.rs`); it is believed, because a member could decide it
//! by itself.

use std::{fmt, str::FromStr};

use identity::{Identity, NameError};
use model::{Refusal, RefusalCode};

/// Who asks, after the guard has looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The owner of the one machine on which plain text is spoken: whoever has the token or the socket.
    Owner,
    /// Whoever has the token or the socket of a cluster that speaks TLS.
    Operator,
    /// Who the certificate says.
    Known(Identity),
    /// Whose certificate ended; it may be renewed.
    Late(Identity),
    /// Whoever reads what is open to all, or brings a join token.
    Nobody,
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => formatter.write_str("owner"),
            Self::Operator => formatter.write_str("operator"),
            Self::Known(identity) => write!(formatter, "known:{identity}"),
            Self::Late(identity) => write!(formatter, "late:{identity}"),
            Self::Nobody => formatter.write_str("nobody"),
        }
    }
}

impl FromStr for Caller {
    type Err = NameError;

    /// Reads what another member wrote. Nobody is an owner where members speak TLS.
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once(':') {
            Some(("known", identity)) => identity.parse().map(Self::Known),
            Some(("late", identity)) => identity.parse().map(Self::Late),
            _ if text == "operator" => Ok(Self::Operator),
            _ => Ok(Self::Nobody),
        }
    }
}

/// What one may ask for, by the path of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Area {
    /// What members say to each other.
    Members,
    /// What agents say.
    Agents,
    Join,
    Renew,
    /// Everything else: for people and frameworks.
    People,
}

fn area(path: &str) -> Area {
    match path {
        "/muster.join.v1.Joining/Join" => Area::Join,
        "/muster.join.v1.Joining/Renew" => Area::Renew,
        path if path.starts_with("/muster.members.v1.") => Area::Members,
        path if path.starts_with("/muster.agent.v1.") => Area::Agents,
        _ => Area::People,
    }
}

impl Caller {
    /// Whether the caller may ask for what stands at this path.
    ///
    /// Refuses with Unauthenticated whoever is nobody, with CertificateRefused one that is late, and with
    /// NotPermitted everyone else.
    pub fn may(&self, path: &str) -> Result<(), Refusal> {
        let area = area(path);
        let no = |why: String| Err(Refusal::new(RefusalCode::NotPermitted, why));
        match (self, area) {
            (Self::Owner, _) | (_, Area::Join) => Ok(()),
            (Self::Late(Identity::Agent(_)) | Self::Known(Identity::Agent(_)), Area::Renew) => Ok(()),
            (Self::Known(Identity::Agent(_)), Area::Agents) => Ok(()),
            (Self::Known(Identity::Member(_)), Area::Members) => Ok(()),
            (Self::Operator | Self::Known(Identity::Member(_) | Identity::User(_)), Area::People) => Ok(()),
            (Self::Nobody, _) => Err(Refusal::new(
                RefusalCode::Unauthenticated,
                "the request shows no credential: neither a certificate nor a token",
            )),
            (Self::Late(identity), _) => Err(Refusal::new(
                RefusalCode::CertificateRefused,
                format!("the certificate of {identity} has ended; renew it, or join again with a new token"),
            )),
            (who, Area::Members) => {
                no(format!("{} can't speak as a member; only a member's certificate lets one", who.shown()))
            }
            (who, Area::Agents) => no(format!(
                "{} can't speak as an agent; join with a token (`muster token create agent`)",
                who.shown()
            )),
            (who, Area::Renew) => no(format!("{} has no certificate to be renewed here", who.shown())),
            (who, Area::People) => no(format!(
                "{} can't ask for this; it is for people and frameworks, with their own credentials",
                who.shown()
            )),
        }
    }

    /// Whether this caller may speak as an agent of this id. Refuses with NotPermitted.
    pub fn may_be_agent(&self, id: &str) -> Result<(), Refusal> {
        match self {
            Self::Owner => Ok(()),
            Self::Known(Identity::Agent(own)) if own == id => Ok(()),
            who => Err(Refusal::new(
                RefusalCode::NotPermitted,
                format!(
                    "{} can't speak as agent `{id}`; give each agent a data directory of its own, or join again \
                     with a token for this id",
                    who.shown()
                ),
            )),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Owner => "the owner".to_owned(),
            Self::Operator => "an operator".to_owned(),
            Self::Known(identity) | Self::Late(identity) => identity.to_string(),
            Self::Nobody => "nobody".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn callers() -> Vec<Caller> {
        let agent = Identity::Agent("a1".to_owned());
        vec![
            Caller::Owner,
            Caller::Operator,
            Caller::Known(Identity::Member(2)),
            Caller::Known(agent.clone()),
            Caller::Known(Identity::User("ann".to_owned())),
            Caller::Late(agent),
            Caller::Nobody,
        ]
    }

    #[test]
    fn the_whole_table() {
        let paths = [
            "/muster.members.v1.Members/Append",
            "/muster.agent.v1.AgentSession/Attach",
            "/muster.join.v1.Joining/Join",
            "/muster.join.v1.Joining/Renew",
            "/muster.operator.v1.Operator/Run",
            "/muster.scheduler.v1.Scheduler/Subscribe",
            "/",
        ];
        let mut table = String::new();
        for path in paths {
            let who = callers().into_iter().filter(|caller| caller.may(path).is_ok());
            let who: Vec<_> = who.map(|caller| caller.to_string()).collect();
            table += &format!("{path}: {}\n", who.join(", "));
        }
        expect![[r#"
            /muster.members.v1.Members/Append: owner, known:member/2
            /muster.agent.v1.AgentSession/Attach: owner, known:agent/a1
            /muster.join.v1.Joining/Join: owner, operator, known:member/2, known:agent/a1, known:user/ann, late:agent/a1, nobody
            /muster.join.v1.Joining/Renew: owner, known:agent/a1, late:agent/a1
            /muster.operator.v1.Operator/Run: owner, operator, known:member/2, known:user/ann
            /muster.scheduler.v1.Scheduler/Subscribe: owner, operator, known:member/2, known:user/ann
            /: owner, operator, known:member/2, known:user/ann
        "#]]
        .assert_eq(&table);
    }

    #[test]
    fn an_agent_speaks_for_itself_alone() {
        let speak = |caller: &Caller| caller.may_be_agent("a1").is_ok();
        let who: Vec<_> = callers().iter().filter(|caller| speak(caller)).map(Caller::to_string).collect();
        assert_eq!(who, ["owner", "known:agent/a1"]);
        let other = Caller::Known(Identity::Agent("a2".to_owned())).may_be_agent("a1").unwrap_err();
        expect!["agent/a2 can't speak as agent `a1`; give each agent a data directory of its own, or join again with a token for this id"].assert_eq(&other.message);
    }

    #[test]
    fn a_caller_that_was_passed_on_is_the_same_but_never_the_owner() {
        for caller in callers() {
            let read: Caller = caller.to_string().parse().unwrap();
            let expected = if caller == Caller::Owner { Caller::Nobody } else { caller };
            assert_eq!(read, expected);
        }
    }
}
