//! Who asks, and what each may ask: one pure function, [`Caller::may`].
//!
//! A member that passes a call on says for whom (`relay.rs`); it is believed, because a member could decide it
//! by itself.

use std::{fmt, str::FromStr};

use cluster::Access;
use identity::{Identity, NameError};
use model::{Refusal, RefusalCode, Target, UserName, Verb};

use super::{
    methods::{Asks, Reach, method},
    permit::{self, Permit},
};

/// Who asks, after the guard has looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The owner of the one machine on which plain text is spoken: whoever has the token or the socket.
    Owner,
    /// Whoever has the token or the socket of a cluster that speaks TLS.
    Operator,
    /// Who the certificate says.
    Known(Identity),
    /// A user, by one of its tokens.
    Token { user: UserName, token: String },
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
            Self::Token { user, token } => write!(formatter, "token:{token}/{user}"),
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
            Some(("token", rest)) => match rest.split_once('/').map(|(token, user)| (token, user.parse())) {
                Some((token, Ok(user))) => Ok(Self::Token { user, token: token.to_owned() }),
                Some((_, Err(_))) | None => Ok(Self::Nobody),
            },
            _ if text == "operator" => Ok(Self::Operator),
            _ => Ok(Self::Nobody),
        }
    }
}

impl Caller {
    /// Whether the caller may ask for what stands at this path. What its message names is looked at later
    /// (`permit.rs`).
    ///
    /// Refuses with Unauthenticated whoever is nobody, with CertificateRefused one that is late, and with
    /// NotPermitted everyone else.
    pub fn may(&self, path: &str, access: &Access) -> Result<(), Refusal> {
        let asks = method(path).asks;
        let no = |why: String| Err(Refusal::new(RefusalCode::NotPermitted, why));
        match (self, asks) {
            (Self::Owner, _) | (_, Asks::Join) => Ok(()),
            (Self::Late(Identity::Agent(_)) | Self::Known(Identity::Agent(_)), Asks::Renew) => Ok(()),
            (Self::Known(Identity::User(_)), Asks::Renew) => Ok(()),
            (Self::Known(Identity::Agent(_)), Asks::Agents) => Ok(()),
            (Self::Known(Identity::Member(_)), Asks::Members) => Ok(()),
            (Self::Operator | Self::Known(Identity::Member(_)), Asks::People(..)) => Ok(()),
            (Self::Known(Identity::User(_)) | Self::Token { .. }, Asks::People(verb, reach)) => {
                match self.permit() {
                    Permit::User(user) => may_user(&user, verb, reach, access),
                    Permit::All | Permit::Nothing => no(format!("{} is no user's name", self.shown())),
                }
            }
            (Self::Nobody, _) => Err(Refusal::new(
                RefusalCode::Unauthenticated,
                "the request shows no credential: neither a certificate nor a token",
            )),
            (Self::Late(identity), _) => Err(Refusal::new(
                RefusalCode::CertificateRefused,
                format!("the certificate of {identity} has ended; renew it, or join again with a new token"),
            )),
            (who, Asks::Members) => {
                no(format!("{} can't speak as a member; only a member's certificate lets one", who.shown()))
            }
            (who, Asks::Agents) => no(format!(
                "{} can't speak as an agent; join with a token (`muster token create agent`)",
                who.shown()
            )),
            (who, Asks::Renew) => no(format!("{} has no certificate to be renewed here", who.shown())),
            (who, Asks::People(..)) => no(format!(
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

    /// Whom the policy judges, once the message was read.
    pub(super) fn permit(&self) -> Permit {
        match self {
            Self::Owner | Self::Operator | Self::Known(Identity::Member(_)) => Permit::All,
            Self::Known(Identity::User(name)) => name.parse().map_or(Permit::Nothing, Permit::User),
            Self::Token { user, token: _ } => Permit::User(user.clone()),
            Self::Known(Identity::Agent(_)) | Self::Late(_) | Self::Nobody => Permit::Nothing,
        }
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Owner => "the owner".to_owned(),
            Self::Operator => "an operator".to_owned(),
            Self::Known(identity) | Self::Late(identity) => identity.to_string(),
            Self::Token { user, token: _ } => format!("user/{user}"),
            Self::Nobody => "nobody".to_owned(),
        }
    }
}

fn may_user(user: &UserName, verb: Verb, reach: Reach, access: &Access) -> Result<(), Refusal> {
    let judged = match reach {
        Reach::Cluster => access.may(user, verb, Target::CLUSTER),
        Reach::Named => access.may_anywhere(user, verb),
    };
    judged.map_err(|denied| permit::refusal(user, &denied))
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
            Caller::Token { user: "bob".parse().unwrap(), token: "7f".to_owned() },
            Caller::Late(agent),
            Caller::Nobody,
        ]
    }

    /// Ann may look, and Bob may run tasks of one role; nobody else has a duty.
    fn access() -> Access {
        let user = |duty: &str| cluster::User {
            duties: vec![duty.parse().unwrap()],
            created_at: model::Timestamp::EPOCH,
        };
        Access {
            users: [("ann", "viewer"), ("bob", "runner")]
                .into_iter()
                .map(|(name, duty)| (name.parse().unwrap(), user(duty)))
                .collect(),
            duties: [("runner".parse().unwrap(), vec!["run:role=web".parse().unwrap()])]
                .into_iter()
                .collect(),
            ..Access::default()
        }
    }

    #[test]
    fn the_whole_table() {
        let paths = [
            "/muster.members.v1.Members/Append",
            "/muster.agent.v1.AgentSession/Attach",
            "/muster.join.v1.Joining/Join",
            "/muster.join.v1.Joining/Renew",
            "/muster.operator.v1.Operator/Run",
            "/muster.operator.v1.Operator/ListAgents",
            "/muster.operator.v1.Operator/SetUser",
            "/muster.scheduler.v1.Scheduler/Subscribe",
            "/",
        ];
        let mut table = String::new();
        for path in paths {
            let who = callers().into_iter().filter(|caller| caller.may(path, &access()).is_ok());
            let who: Vec<_> = who.map(|caller| caller.to_string()).collect();
            table += &format!("{path}: {}\n", who.join(", "));
        }
        expect![[r#"
            /muster.members.v1.Members/Append: owner, known:member/2
            /muster.agent.v1.AgentSession/Attach: owner, known:agent/a1
            /muster.join.v1.Joining/Join: owner, operator, known:member/2, known:agent/a1, known:user/ann, token:7f/bob, late:agent/a1, nobody
            /muster.join.v1.Joining/Renew: owner, known:agent/a1, known:user/ann, late:agent/a1
            /muster.operator.v1.Operator/Run: owner, operator, known:member/2, token:7f/bob
            /muster.operator.v1.Operator/ListAgents: owner, operator, known:member/2, known:user/ann
            /muster.operator.v1.Operator/SetUser: owner, operator, known:member/2
            /muster.scheduler.v1.Scheduler/Subscribe: owner, operator, known:member/2
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
