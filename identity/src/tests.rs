//! Handshakes over loopback: who is believed, and what is said to whoever isn't.

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::net::TcpListener;

use crate::*;

const HOUR: Duration = Duration::from_secs(3600);

fn tls(authority: &Authority, name: &str, life: Duration) -> Tls {
    let credential = authority.issue(&name.parse().unwrap(), life, &["localhost".to_owned()], 7).unwrap();
    Tls::new(authority.certificate().clone(), &credential).unwrap()
}

/// One handshake: what the server saw, and what the client was told.
async fn meet(
    server: &Tls,
    client: Option<Arc<ClientConfig>>,
) -> (Result<Shown, String>, Result<(), String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answering = async {
        let (stream, _) = listener.accept().await.unwrap();
        server.accept(stream).await.map(|(_, shown)| shown).map_err(|error| error.to_string())
    };
    let connector = Connector::new(client, Duration::from_secs(10));
    let dialling = async { connector.dial(&address).await.map(drop).map_err(|error| error.to_string()) };
    tokio::join!(answering, dialling)
}

fn named(shown: &Result<Shown, String>) -> String {
    match shown {
        Ok(Shown::Valid { identity, .. }) => format!("valid {identity}"),
        Ok(Shown::Expired { identity, .. }) => format!("expired {identity}"),
        Ok(Shown::Nothing) => "nothing".to_owned(),
        Ok(Shown::Refused(why)) => format!("refused: {why}"),
        Err(error) => format!("no handshake: {error}"),
    }
}

#[tokio::test]
async fn both_sides_know_who_the_other_is() {
    let authority = Authority::make().unwrap();
    let member = tls(&authority, "member/1", HOUR);
    for name in ["agent/a1", "member/2", "user/ann"] {
        let (shown, told) = meet(&member, Some(tls(&authority, name, HOUR).client())).await;
        assert_eq!(named(&shown), format!("valid {name}"));
        told.unwrap();
    }
    let (shown, told) = meet(&member, Some(trusting(authority.certificate().clone()).unwrap())).await;
    assert_eq!(named(&shown), "nothing");
    told.unwrap();
}

#[tokio::test]
async fn a_joiner_believes_the_fingerprint_alone() {
    let authority = Authority::make().unwrap();
    let member = tls(&authority, "member/1", HOUR);
    let right = pinned(fingerprint(authority.certificate())).unwrap();
    let (shown, told) = meet(&member, Some(right)).await;
    assert_eq!(named(&shown), "nothing");
    told.unwrap();
    // Neither another authority nor the leaf itself is what was pinned.
    let leaf = authority.issue(&Identity::Member(1), HOUR, &[], 7).unwrap();
    for wrong in [fingerprint(Authority::make().unwrap().certificate()), fingerprint(&leaf.certificate)] {
        let (_, told) = meet(&member, Some(pinned(wrong).unwrap())).await;
        assert!(told.unwrap_err().contains("of another cluster"));
    }
}

#[tokio::test]
async fn whoever_is_of_another_cluster_is_told_so() {
    let (ours, theirs) = (Authority::make().unwrap(), Authority::make().unwrap());
    let member = tls(&ours, "member/1", HOUR);
    // The client notices first …
    let (_, told) = meet(&member, Some(tls(&theirs, "agent/a1", HOUR).client())).await;
    assert!(told.unwrap_err().contains("what answers there is of another cluster"));
    // … and one that doesn't look is seen through.
    let stranger = theirs.issue(&Identity::Agent("a1".into()), HOUR, &[], 7).unwrap();
    let mixed = Tls::new(ours.certificate().clone(), &stranger).unwrap();
    let (shown, _) = meet(&member, Some(mixed.client())).await;
    assert_eq!(
        named(&shown),
        "refused: the certificate of agent/a1 is not of this cluster; join this one with a token of it"
    );
}

#[tokio::test]
async fn only_a_member_answers_as_a_coordinator() {
    let authority = Authority::make().unwrap();
    let agent = tls(&authority, "agent/a1", HOUR);
    let (_, told) = meet(&agent, Some(tls(&authority, "agent/a2", HOUR).client())).await;
    told.unwrap_err();
}

#[tokio::test]
async fn a_certificate_ends_and_is_exchanged_without_a_restart() {
    let authority = Authority::make().unwrap();
    let member = tls(&authority, "member/1", HOUR);
    let agent = tls(&authority, "agent/a1", Duration::from_secs(1));
    let end = agent.facts().not_after;
    while now() <= end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (shown, _) = meet(&member, Some(agent.client())).await;
    assert_eq!(named(&shown), "expired agent/a1");
    let fresh = authority.issue(&Identity::Agent("a1".into()), HOUR, &[], 7).unwrap();
    agent.exchange(&fresh).unwrap();
    let (shown, _) = meet(&member, Some(agent.client())).await;
    assert_eq!(named(&shown), "valid agent/a1");
    // One that ended and is of another cluster is only the latter.
    let theirs =
        Authority::make().unwrap().issue(&Identity::Agent("a1".into()), Duration::ZERO, &[], 7).unwrap();
    agent.exchange(&theirs).unwrap();
    let (shown, _) = meet(&member, Some(agent.client())).await;
    assert!(named(&shown).contains("not of this cluster"), "{shown:?}");
}

#[tokio::test]
async fn plain_text_and_tls_do_not_understand_each_other() {
    let authority = Authority::make().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answering = async {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    };
    let connector = Connector::new(Some(tls(&authority, "agent/a1", HOUR).client()), Duration::from_secs(10));
    let (_stream, dialled) = tokio::join!(answering, connector.dial(&address));
    let told = dialled.err().unwrap().to_string();
    assert!(told.contains("speaks no TLS"), "{told}");
}

#[test]
fn a_request_names_nobody_whatever_it_wishes() {
    let authority = Authority::make().unwrap();
    let request = Request::make().unwrap().to_der().unwrap();
    let certificate = authority.sign(&request, &Identity::Agent("a1".into()), HOUR, &[], 7).unwrap();
    assert_eq!(Facts::read(&certificate).unwrap().identity, Identity::Agent("a1".into()));
    assert_eq!(request_key(&request).unwrap(), request_key(&request).unwrap());
    let mut broken = request.clone();
    *broken.last_mut().unwrap() ^= 1;
    authority.sign(&broken, &Identity::Agent("a1".into()), HOUR, &[], 7).unwrap_err();
    Facts::read(authority.certificate()).unwrap_err();
}
