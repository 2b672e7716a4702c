//! The pages that Prometheus scrapes.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use muster_client::types::TaskState;

use crate::{cluster, script};

/// One HTTP/1.1 request over a socket of our own; gives status line with headers, and body.
pub fn request(address: &str, head: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    // The server may reset the connection after a refusal; what came until then is the answer.
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

pub fn get(address: &str, path: &str) -> (String, String) {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}"))
}

/// The body of a page; absent while nobody listens.
pub fn try_get(address: &str, path: &str) -> Option<String> {
    TcpStream::connect(address).ok()?;
    Some(get(address, path).1)
}

fn has_promtool() -> bool {
    let has = Command::new("promtool")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !has {
        println!("skipped: promtool is not installed (`cargo xtask setup` installs it)");
    }
    has
}

fn check_with_promtool(page: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "promtool says: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_pages_please_promtool() {
    let cluster = cluster!();
    let id = cluster.run(script("sleep 1000"), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    let mut page = String::new();
    harness::wait_until("the task is on the agent's page", async || {
        page = get(cluster.agent_address(0), "/metrics").1;
        page.contains(&id) && page.contains("memory")
    })
    .await;
    let (_, coordinator) = get(cluster.address(), "/metrics");
    for word in ["offers", "log", "apply"] {
        assert!(coordinator.contains(word), "nothing about {word} on the coordinator's page:\n{coordinator}");
    }
    for word in ["cpu", "throttled", "memory", "oom", "processes", "lost", "launch"] {
        assert!(page.contains(word), "nothing about {word} on the agent's page:\n{page}");
    }
    if has_promtool() {
        check_with_promtool(&page);
        check_with_promtool(&coordinator);
    }
    cluster.finish().await;
}
