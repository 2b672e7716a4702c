//! The pages that Prometheus scrapes.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use harness::page;
use muster_client::types::TaskState;

use crate::{cluster, script};

/// A page of a daemon that listens.
pub fn get(address: &str, path: &str) -> (String, String) {
    page::get(address, path).expect("the daemon listens")
}

/// The answer to a request whose head is given byte by byte.
pub fn request(address: &str, head: &str) -> (String, String) {
    page::request(address, head).expect("the daemon listens")
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
