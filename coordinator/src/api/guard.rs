//! Who may ask: decided from the head of a request, before anything else of it is read.
//!
//! A host name that isn't ours means that a name was rebound to this machine; an origin that isn't
//! ours means a web page. Both are refused before the credential is looked at, so that a browser
//! that somehow holds it can't use it either.

use std::net::IpAddr;

use http::{HeaderMap, Method, Request, header, uri::Authority};
use model::{Refusal, RefusalCode};

use crate::auth::Token;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP on loopback: any user of this machine, and any program that a browser runs.
    Loopback,
    /// Over the Unix socket, which only its owner can open.
    Socket,
}

/// What requests are checked against.
#[derive(Debug)]
pub(super) struct Guard {
    token: Token,
    /// In lower case.
    allowed_hosts: Vec<String>,
}

/// What answers on loopback without the credential.
const OPEN_PATHS: [&str; 2] = ["/health", "/metrics"];

impl Guard {
    pub(super) fn new(token: Token, allowed_hosts: Vec<String>) -> Self {
        Self { token, allowed_hosts }
    }

    /// Refuses a foreign host or origin (OriginRefused), and a caller without the credential (Unauthenticated).
    pub(super) fn check<B>(&self, peer: Peer, request: &Request<B>) -> Result<(), Refusal> {
        match peer {
            // Whoever could open the socket is its owner, and no browser can.
            Peer::Socket => return Ok(()),
            Peer::Loopback => {}
        }
        let authority = authority(request)?;
        self.check_host(&authority)?;
        check_origin(request.headers(), &authority)?;
        let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
        if is_reading && OPEN_PATHS.contains(&request.uri().path()) {
            return Ok(());
        }
        self.check_token(request.headers())
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

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let refuse = |why: &str| Err(Refusal::new(RefusalCode::Unauthenticated, why));
        let Some(first) = shown.next() else { return refuse("the request shows no credential") };
        let token = first.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        match token {
            Some(token) if shown.next().is_none() && self.token.is(token) => Ok(()),
            Some(_) | None => refuse("the request shows a credential that isn't valid here"),
        }
    }
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
    let ours = format!("http://{authority}");
    for origin in headers.get_all(header::ORIGIN) {
        if !origin.as_bytes().eq_ignore_ascii_case(ours.as_bytes()) {
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
        let guard = Guard::new(token.clone(), vec!["muster.example".to_owned()]);
        let mut verdicts = String::new();
        for line in requests.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut parts = line.split("; ");
            let (method, uri) = parts.next().unwrap().split_once(' ').unwrap();
            let mut request = Request::builder().method(method).uri(uri);
            for part in parts {
                let (name, value) = part.split_once(": ").unwrap();
                request = request.header(name, value.replace("TOKEN", token.reveal()));
            }
            let verdict = match guard.check(Peer::Loopback, &request.body(()).unwrap()) {
                Ok(()) => "may".to_owned(),
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
        let guard = Guard::new(token, Vec::new());
        let request = Request::builder().uri("/x").body(()).unwrap();
        assert_eq!(guard.check(Peer::Socket, &request), Ok(()));
    }
}
