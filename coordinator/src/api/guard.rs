//! Who may ask: decided from the head of a request, before anything else of it is read.
//!
//! A host name that isn't ours means that a name was rebound to this machine; an origin that isn't
//! ours means a web page. Both are refused before the credential is looked at, so that a browser
//! that somehow holds it can't use it either.

use std::net::IpAddr;

use cluster::{Access, ClusterState};
use http::{HeaderMap, Method, Request, header, uri::Authority};
use identity::{Identity, NameError, Shown, UserToken, now, show_time};
use model::{ClusterTime, Refusal, RefusalCode, UserName};
use subtle::ConstantTimeEq as _;

use super::{
    caller::Caller,
    relay::{CALLER_KEY, MADE_KEY, MEMBERS_SERVICE},
};
use crate::{auth::Token, raft::FROM_MEMBER_KEY};

/// How a request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP on loopback: any user of this machine, and any program that a browser runs.
    Loopback,
    /// Over the Unix socket, which only its owner can open.
    Socket,
    /// Over TLS, with what was shown.
    Tls { shown: Shown, is_loopback: bool },
    /// In plain text, where TLS is spoken.
    Plain,
}

/// What requests are checked against.
#[derive(Debug)]
pub(super) struct Guard {
    token: Token,
    /// In lower case.
    allowed_hosts: Vec<String>,
    /// Whether the port speaks TLS: then only a certificate makes a member or an agent.
    has_tls: bool,
}

/// Who asks, and by what one knows whether it may go on asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asker {
    pub caller: Caller,
    /// How far the log was when the caller's certificate was made; without one, the end.
    pub made: u64,
    /// A member passed it on, which is its audit log's to tell of.
    pub is_passed_on: bool,
}

impl Asker {
    fn new(caller: Caller) -> Self {
        Self { caller, made: u64::MAX, is_passed_on: false }
    }

    /// Whether the caller may (still) ask for this: it is there, its credential counts, and its duties allow it.
    pub(super) fn stands(&self, path: &str, access: &Access, counted: ClusterTime) -> Result<(), Refusal> {
        self.counts(access, counted)?;
        self.caller.may(path, access)
    }

    /// Whether the credential counts.
    fn counts(&self, access: &Access, counted: ClusterTime) -> Result<(), Refusal> {
        match &self.caller {
            Caller::Known(identity) | Caller::Late(identity) => {
                check_certificate(identity, self.made, access)?;
            }
            Caller::Token { user, token } => {
                let known = access.tokens.get(token).filter(|known| known.user == *user);
                if known.is_none_or(|known| known.expires_at <= counted) {
                    return Err(unauthenticated(&format!(
                        "the token of user `{user}` was revoked or has expired; make another with `muster user \
                         token {user}`"
                    )));
                }
            }
            Caller::Owner | Caller::Operator | Caller::Nobody => {}
        }
        Ok(())
    }

    /// Whether there is anything that could end what this caller has open.
    pub(super) fn is_revocable(&self) -> bool {
        match self.caller {
            Caller::Known(_) | Caller::Late(_) | Caller::Token { .. } => true,
            Caller::Owner | Caller::Operator | Caller::Nobody => false,
        }
    }
}

/// Refuses a certificate that was made before its name was revoked, and that of a user who isn't there.
fn check_certificate(identity: &Identity, made: u64, access: &Access) -> Result<(), Refusal> {
    let refused = |why: String| Err(Refusal::new(RefusalCode::CertificateRefused, why));
    if access.is_revoked(&identity.to_string(), made) {
        return refused(match identity {
            Identity::Agent(id) => format!(
                "the certificate of {identity} was revoked; if it may come back, join again with a token (`muster token \
                 create agent --only-for {id}`)"
            ),
            Identity::Member(id) => format!(
                "the certificate of {identity} was revoked; if it may come back, join again with a token (`muster token \
                 create member --only-for {id}`)"
            ),
            Identity::User(name) => format!(
                "the certificate of {identity} was revoked; make another with `muster user certificate {name}`"
            ),
        });
    }
    if let Identity::User(name) = identity
        && !name.parse::<UserName>().is_ok_and(|name| access.users.contains_key(&name))
    {
        return refused(format!("there is no user `{name}` any more; see `muster user list`"));
    }
    Ok(())
}

/// How long after its end a certificate may be renewed, in seconds: a cluster that was away, or a host that was
/// off, comes back without anyone's help.
const RENEWED_LATE_MAX: i64 = 30 * 24 * 3600;

/// What answers on loopback without the credential.
const OPEN_PATHS: [&str; 2] = ["/health", "/metrics"];

impl Guard {
    pub(super) fn new(token: Token, allowed_hosts: Vec<String>, has_tls: bool) -> Self {
        Self { token, allowed_hosts, has_tls }
    }

    /// Says who asks.
    ///
    /// Refuses a foreign host or origin (OriginRefused), a credential that isn't known (Unauthenticated), plain text
    /// where TLS is spoken (TlsNeeded), and a certificate that doesn't count (CertificateRefused).
    pub(super) fn identify<B>(
        &self,
        peer: &Peer,
        request: &Request<B>,
        state: &ClusterState,
    ) -> Result<Asker, Refusal> {
        match peer {
            // Whoever could open the socket is its owner, and no browser can.
            Peer::Socket if self.has_tls => Ok(Asker::new(Caller::Operator)),
            Peer::Socket => Ok(Asker::new(Caller::Owner)),
            Peer::Plain => Err(Refusal::new(
                RefusalCode::TlsNeeded,
                "this port speaks TLS alone; write https:// instead of http://, and take whatever was sent in plain \
                 text for read by others",
            )),
            Peer::Loopback => {
                let authority = authority(request)?;
                self.check_host(&authority)?;
                check_origin(request.headers(), &authority)?;
                if is_open(request) {
                    return Ok(Asker::new(Caller::Nobody));
                }
                if let Some(user) = self.token_holder(request.headers(), state)? {
                    return Ok(Asker::new(user));
                }
                // Another member has the token, too.
                let passed_on =
                    request.headers().get(CALLER_KEY).map(|text| text.to_str().unwrap_or_default());
                Ok(match passed_on.map(str::parse) {
                    Some(Ok(caller @ Caller::Token { .. })) => {
                        Asker { is_passed_on: true, ..Asker::new(caller) }
                    }
                    Some(Ok(_) | Err(_)) => Asker { is_passed_on: true, ..Asker::new(Caller::Owner) },
                    None => Asker::new(Caller::Owner),
                })
            }
            Peer::Tls { shown, is_loopback: _ } => {
                // A name that was rebound has no certificate of ours, so the host is not looked at.
                check_origin(request.headers(), &authority(request)?)?;
                self.asker(shown, request.headers(), state)
            }
        }
    }

    /// Says whether that one may ask for this.
    ///
    /// Refuses a caller without a credential (Unauthenticated), one whose credential counts no more (Unauthenticated,
    /// CertificateRefused), and what is somebody else's to ask (NotPermitted).
    pub(super) fn judge<B>(
        &self,
        peer: &Peer,
        request: &Request<B>,
        asker: &Asker,
        state: &ClusterState,
    ) -> Result<(), Refusal> {
        if is_open(request) {
            let is_loopback = matches!(peer, Peer::Loopback | Peer::Tls { is_loopback: true, shown: _ });
            // Whoever is known may read it from anywhere.
            if is_loopback || asker.caller != Caller::Nobody {
                return asker.counts(state.access(), state.counted());
            }
        }
        let path = request.uri().path();
        asker.stands(path, state.access(), state.counted())?;
        if path.starts_with(MEMBERS_SERVICE) {
            check_member(&asker.caller, request.headers())?;
        }
        Ok(())
    }

    #[cfg(test)]
    fn check<B>(&self, peer: &Peer, request: &Request<B>) -> Result<Asker, Refusal> {
        let state = ClusterState::new();
        let asker = self.identify(peer, request, &state)?;
        self.judge(peer, request, &asker, &state).map(|()| asker)
    }

    /// Who asks over TLS.
    fn asker(&self, shown: &Shown, headers: &HeaderMap, state: &ClusterState) -> Result<Asker, Refusal> {
        match shown {
            Shown::Refused(why) => Err(Refusal::new(RefusalCode::CertificateRefused, why.clone())),
            Shown::Expired { identity, not_after, made: _ } if now() - not_after > RENEWED_LATE_MAX => {
                Err(Refusal::new(
                    RefusalCode::CertificateRefused,
                    format!(
                        "the certificate of {identity} ended at {}, too long ago to be renewed; join again with a token \
                     (`muster token create agent --only-for ID`)",
                        show_time(*not_after)
                    ),
                ))
            }
            Shown::Expired { identity, not_after: _, made } => {
                Ok(Asker { made: *made, ..Asker::new(Caller::Late(identity.clone())) })
            }
            Shown::Valid { identity: identity @ Identity::Member(_), not_after: _, made } => {
                check_certificate(identity, *made, state.access())?;
                let header = |key| headers.get(key).map(|text| text.to_str().unwrap_or_default());
                // One that doesn't say so has judged the certificate itself.
                let made = match header(CALLER_KEY) {
                    Some(_) => header(MADE_KEY).and_then(|made| made.parse().ok()).unwrap_or(u64::MAX),
                    None => *made,
                };
                match header(CALLER_KEY).map(str::parse) {
                    Some(Ok(caller)) => Ok(Asker { caller, made, is_passed_on: true }),
                    Some(Err(error)) => {
                        Err(Refusal::new(RefusalCode::CertificateRefused, NameError::to_string(&error)))
                    }
                    None => Ok(Asker { caller: Caller::Known(identity.clone()), made, is_passed_on: false }),
                }
            }
            Shown::Valid { identity, not_after: _, made } => {
                Ok(Asker { made: *made, ..Asker::new(Caller::Known(identity.clone())) })
            }
            Shown::Nothing if headers.contains_key(header::AUTHORIZATION) => {
                Ok(Asker::new(self.token_holder(headers, state)?.unwrap_or(Caller::Operator)))
            }
            Shown::Nothing => Ok(Asker::new(Caller::Nobody)),
        }
    }

    fn check_host(&self, authority: &Authority) -> Result<(), Refusal> {
        let host = authority.host().to_ascii_lowercase();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback =
            host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if is_loopback || self.allowed_hosts.contains(&host) {
            return Ok(());
        }
        Err(foreign(format!("the request is for host `{}`, which isn't served here", host.escape_debug())))
    }

    /// Whose token is shown: a user's, or `None` for the operators' own. Refuses with Unauthenticated.
    fn token_holder(&self, headers: &HeaderMap, state: &ClusterState) -> Result<Option<Caller>, Refusal> {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let Some(first) = shown.next() else {
            return Err(unauthenticated("the request shows no credential"));
        };
        let token = first.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let refused = || unauthenticated("the request shows a credential that isn't valid here");
        let token = token.filter(|_| shown.next().is_none()).ok_or_else(refused)?;
        if self.token.is(token) {
            return Ok(None);
        }
        let token: UserToken = token.parse().map_err(|_| refused())?;
        match state.access().tokens.get(&token.id) {
            // Which ids there are may be told from the time that this takes; an id lets nobody in.
            Some(known) if bool::from(known.digest.ct_eq(&token.digest())) => {
                Ok(Some(Caller::Token { user: known.user.clone(), token: token.id }))
            }
            Some(_) | None => Err(unauthenticated(
                "the token is not known here: it was revoked, has expired, or is of another cluster; make another with \
                 `muster user token NAME`",
            )),
        }
    }
}

/// Whether it is a page that answers on loopback without the credential.
fn is_open<B>(request: &Request<B>) -> bool {
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    is_reading && OPEN_PATHS.contains(&request.uri().path())
}

/// For which host the request is: HTTP/2 says it in the URI, HTTP/1.1 in a header.
fn authority<B>(request: &Request<B>) -> Result<Authority, Refusal> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let header = match (named.next(), named.next()) {
        (Some(host), None) => {
            let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            Some(host.ok_or_else(|| foreign("the request's host is no host".to_owned()))?)
        }
        (None, _) => None,
        (Some(_), Some(_)) => return Err(foreign("the request names several hosts".to_owned())),
    };
    let authority = match (request.uri().authority(), header) {
        (Some(uri), Some(header)) if !uri.as_str().eq_ignore_ascii_case(header.as_str()) => {
            return Err(foreign("the request names two hosts".to_owned()));
        }
        (Some(uri), _) => uri.clone(),
        (None, Some(header)) => header,
        (None, None) => return Err(foreign("the request names no host".to_owned())),
    };
    if authority.as_str().contains('@') {
        return Err(foreign("the request's host holds a user".to_owned()));
    }
    Ok(authority)
}

/// Browsers say where a request's page is from; other clients say nothing.
fn check_origin(headers: &HeaderMap, authority: &Authority) -> Result<(), Refusal> {
    let ours = [format!("http://{authority}"), format!("https://{authority}")];
    for origin in headers.get_all(header::ORIGIN) {
        if !ours.iter().any(|ours| origin.as_bytes().eq_ignore_ascii_case(ours.as_bytes())) {
            return Err(foreign("the request comes from a web page of another origin".to_owned()));
        }
    }
    for site in headers.get_all("sec-fetch-site") {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return Err(foreign("the request comes from a web page of another site".to_owned()));
        }
    }
    Ok(())
}

/// A member speaks to members as itself. Refuses with NotPermitted.
fn check_member(caller: &Caller, headers: &HeaderMap) -> Result<(), Refusal> {
    let Caller::Known(Identity::Member(id)) = caller else { return Ok(()) };
    let said = headers.get(FROM_MEMBER_KEY).and_then(|said| said.to_str().ok()).unwrap_or_default();
    if said.parse() == Ok(*id) {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::NotPermitted,
        format!(
            "the certificate is that of member {id}, and the call says that it comes from member {said:?}"
        ),
    ))
}

fn unauthenticated(why: &str) -> Refusal {
    Refusal::new(RefusalCode::Unauthenticated, why)
}

fn foreign(why: String) -> Refusal {
    Refusal::new(RefusalCode::OriginRefused, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    /// Lines like `GET http://127.0.0.1:5050/health; host: x; origin: y`, with `TOKEN` for the token.
    fn check(requests: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_make(&dir.path().join("token")).unwrap();
        let guard = Guard::new(token.clone(), vec!["muster.example".to_owned()], false);
        let mut verdicts = String::new();
        for line in requests.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut parts = line.split("; ");
            let (method, uri) = parts.next().unwrap().split_once(' ').unwrap();
            let mut request = Request::builder().method(method).uri(uri);
            for part in parts {
                let (name, value) = part.split_once(": ").unwrap();
                request = request.header(name, value.replace("TOKEN", token.reveal()));
            }
            let verdict = match guard.check(&Peer::Loopback, &request.body(()).unwrap()) {
                Ok(_) => "may".to_owned(),
                Err(refusal) => format!("{}: {refusal}", refusal.code),
            };
            verdicts += &format!("{line}\n    {verdict}\n");
        }
        verdicts
    }

    #[test]
    fn who_may_ask() {
        let verdicts = check(
            "GET /health; host: 127.0.0.1:5050
             GET /health; host: localhost:5050
             GET /metrics; host: [::1]:5050
             HEAD /metrics; host: muster.example
             POST /health; host: 127.0.0.1
             GET /health/; host: 127.0.0.1
             GET /; host: 127.0.0.1:5050
             GET /; host: 127.0.0.1:5050; authorization: Bearer TOKEN
             GET /; host: 127.0.0.1:5050; authorization: bearer TOKEN
             GET /; host: 127.0.0.1:5050; authorization: Basic TOKEN
             GET /; host: 127.0.0.1:5050; authorization: Bearer 00
             GET /; host: 127.0.0.1:5050; authorization: Bearer TOKEN; authorization: Bearer TOKEN
             POST http://127.0.0.1:5050/x; authorization: Bearer TOKEN
             GET /health
             GET /health; host: evil.example:5050
             GET /health; host: 127.0.0.1.evil.example
             GET /health; host: 127.0.0.1; host: 127.0.0.1
             GET http://127.0.0.1/health; host: evil.example
             GET /health; host: evil@127.0.0.1
             GET /health; host: 10.0.0.1
             GET /health; host: 127.0.0.1:5050; origin: http://evil.example
             GET /health; host: 127.0.0.1:5050; origin: null
             GET /health; host: 127.0.0.1:5050; origin: http://127.0.0.1:5051
             GET /health; host: 127.0.0.1:5050; origin: http://127.0.0.1:5050
             GET /health; host: 127.0.0.1:5050; sec-fetch-site: cross-site
             GET /health; host: 127.0.0.1:5050; sec-fetch-site: none",
        );
        expect![[r#"
            GET /health; host: 127.0.0.1:5050
                may
            GET /health; host: localhost:5050
                may
            GET /metrics; host: [::1]:5050
                may
            HEAD /metrics; host: muster.example
                may
            POST /health; host: 127.0.0.1
                unauthenticated: the request shows no credential
            GET /health/; host: 127.0.0.1
                unauthenticated: the request shows no credential
            GET /; host: 127.0.0.1:5050
                unauthenticated: the request shows no credential
            GET /; host: 127.0.0.1:5050; authorization: Bearer TOKEN
                may
            GET /; host: 127.0.0.1:5050; authorization: bearer TOKEN
                may
            GET /; host: 127.0.0.1:5050; authorization: Basic TOKEN
                unauthenticated: the request shows a credential that isn't valid here
            GET /; host: 127.0.0.1:5050; authorization: Bearer 00
                unauthenticated: the request shows a credential that isn't valid here
            GET /; host: 127.0.0.1:5050; authorization: Bearer TOKEN; authorization: Bearer TOKEN
                unauthenticated: the request shows a credential that isn't valid here
            POST http://127.0.0.1:5050/x; authorization: Bearer TOKEN
                may
            GET /health
                origin-refused: the request names no host
            GET /health; host: evil.example:5050
                origin-refused: the request is for host `evil.example`, which isn't served here
            GET /health; host: 127.0.0.1.evil.example
                origin-refused: the request is for host `127.0.0.1.evil.example`, which isn't served here
            GET /health; host: 127.0.0.1; host: 127.0.0.1
                origin-refused: the request names several hosts
            GET http://127.0.0.1/health; host: evil.example
                origin-refused: the request names two hosts
            GET /health; host: evil@127.0.0.1
                origin-refused: the request's host holds a user
            GET /health; host: 10.0.0.1
                origin-refused: the request is for host `10.0.0.1`, which isn't served here
            GET /health; host: 127.0.0.1:5050; origin: http://evil.example
                origin-refused: the request comes from a web page of another origin
            GET /health; host: 127.0.0.1:5050; origin: null
                origin-refused: the request comes from a web page of another origin
            GET /health; host: 127.0.0.1:5050; origin: http://127.0.0.1:5051
                origin-refused: the request comes from a web page of another origin
            GET /health; host: 127.0.0.1:5050; origin: http://127.0.0.1:5050
                may
            GET /health; host: 127.0.0.1:5050; sec-fetch-site: cross-site
                origin-refused: the request comes from a web page of another site
            GET /health; host: 127.0.0.1:5050; sec-fetch-site: none
                may
        "#]]
        .assert_eq(&verdicts);
    }

    #[test]
    fn the_socket_needs_no_credential() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_make(&dir.path().join("token")).unwrap();
        let request = Request::builder().uri("/x").body(()).unwrap();
        let guard = Guard::new(token.clone(), Vec::new(), false);
        assert_eq!(guard.check(&Peer::Socket, &request), Ok(Asker::new(Caller::Owner)));
        let guard = Guard::new(token, Vec::new(), true);
        assert_eq!(guard.check(&Peer::Socket, &request), Ok(Asker::new(Caller::Operator)));
    }

    #[test]
    fn over_tls_one_is_who_the_certificate_says() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_make(&dir.path().join("token")).unwrap();
        let guard = Guard::new(token.clone(), Vec::new(), true);
        let valid = |name: &str| Shown::Valid { identity: name.parse().unwrap(), not_after: 7, made: 7 };
        let check = |shown: &Shown, is_loopback: bool, path: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().uri(format!("http://10.0.0.1:5050{path}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let peer = Peer::Tls { shown: shown.clone(), is_loopback };
            match guard.check(&peer, &request.body(()).unwrap()) {
                Ok(asker) => asker.caller.to_string(),
                Err(refusal) => format!("{}: {refusal}", refusal.code),
            }
        };
        const RUN: &str = "/muster.operator.v1.Operator/Run";
        const ATTACH: &str = "/muster.agent.v1.AgentSession/Attach";
        const VOTE: &str = "/muster.members.v1.Members/Vote";
        let bearer = format!("Bearer {}", token.reveal());
        let (agent, member) = (valid("agent/a1"), valid("member/2"));
        let ended = |not_after| Shown::Expired { identity: Identity::Agent("a1".into()), not_after, made: 7 };
        let expired = ended(now() - 60);
        let said = [
            check(&agent, false, ATTACH, &[]),
            check(&agent, false, RUN, &[]),
            check(&agent, false, ATTACH, &[(CALLER_KEY, "known:agent/a2")]),
            check(&member, false, ATTACH, &[(CALLER_KEY, "known:agent/a2")]),
            check(&member, false, RUN, &[(CALLER_KEY, "nobody")]),
            check(&member, false, VOTE, &[(FROM_MEMBER_KEY, "2")]),
            check(&member, false, VOTE, &[(FROM_MEMBER_KEY, "3")]),
            check(&member, false, VOTE, &[(FROM_MEMBER_KEY, "2"), (CALLER_KEY, "operator")]),
            check(&Shown::Nothing, false, RUN, &[("authorization", &bearer)]),
            check(&Shown::Nothing, false, ATTACH, &[("authorization", &bearer)]),
            check(&Shown::Nothing, false, RUN, &[("authorization", "Bearer 0")]),
            check(&Shown::Nothing, false, RUN, &[]),
            check(&Shown::Nothing, false, "/health", &[]),
            check(&Shown::Nothing, true, "/health", &[]),
            check(&expired, false, ATTACH, &[]),
            check(&expired, false, "/muster.join.v1.Joining/Renew", &[]),
            check(&ended(7), false, "/muster.join.v1.Joining/Renew", &[]),
            check(&Shown::Refused("no".into()), false, "/muster.join.v1.Joining/Join", &[]),
        ];
        expect![[r#"
            known:agent/a1
            not-permitted: agent/a1 can't ask for this; it is for people and frameworks, with their own credentials
            known:agent/a1
            known:agent/a2
            unauthenticated: the request shows no credential: neither a certificate nor a token
            known:member/2
            not-permitted: the certificate is that of member 2, and the call says that it comes from member "3"
            not-permitted: an operator can't speak as a member; only a member's certificate lets one
            operator
            not-permitted: an operator can't speak as an agent; join with a token (`muster token create agent`)
            unauthenticated: the request shows a credential that isn't valid here
            unauthenticated: the request shows no credential: neither a certificate nor a token
            unauthenticated: the request shows no credential: neither a certificate nor a token
            nobody
            certificate-refused: the certificate of agent/a1 has ended; renew it, or join again with a new token
            late:agent/a1
            certificate-refused: the certificate of agent/a1 ended at Jan  1 00:00:07 1970 +00:00, too long ago to be renewed; join again with a token (`muster token create agent --only-for ID`)
            certificate-refused: no"#]]
        .assert_eq(&said.join("\n"));
        let plain = guard.check(&Peer::Plain, &Request::builder().uri("/health").body(()).unwrap());
        assert_eq!(plain.unwrap_err().code, RefusalCode::TlsNeeded);
    }
}
