//! Who comes into a cluster that speaks TLS, who doesn't, and what each is told.

use std::{path::Path, process::Command};

use harness::{Cluster, ClusterOptions, Daemon, Residue, program, wait_until};
use muster_client::types::{TaskState, exit::How};
use nix::sys::signal::Signal;

use crate::{cluster, metrics::get, script};

fn secured(members: usize, agents: usize) -> ClusterOptions {
    ClusterOptions { has_tls: true, members, agents, ..ClusterOptions::default() }
}

/// An agent beside those of the cluster, with a data directory and a join token of its own.
fn joiner(cluster: &Cluster, servers: &str, name: &str, token: &Path) -> Daemon {
    let folder = cluster.directory().join(name);
    let text = |path: &Path| path.display().to_string();
    let mut command = Command::new(program("muster-agent"));
    command.args(["--coordinator", servers, "--join-token-file", &text(token)]);
    command.args(["--data-dir", &text(&folder), "--listen", "127.0.0.1:0"]);
    command.args(["--cgroup-parent", &format!("{}-{name}", cluster.cgroup_parent())]);
    Daemon::start(name, command, &cluster.directory().join(format!("{name}.log")))
}

/// Waits until the agent has said something, and ends it.
async fn until_said(cluster: &Cluster, mut agent: Daemon, name: &str, what: &str) {
    wait_until(&format!("agent {name} says that {what}"), async || {
        let said = agent.log().contains(what);
        assert!(said || agent.is_alive(), "{name} ended without it:\n{}", agent.log_tail());
        said
    })
    .await;
    println!("{}", agent.log_tail().lines().last().unwrap_or_default());
    if agent.is_alive() {
        agent.kill();
    }
    // Its group stays for the tasks of an agent that comes back; this one never does.
    let cgroup_parent = format!("{}-{name}", cluster.cgroup_parent());
    Residue { cgroup_parent, directory: cluster.directory().join(name) }.sweep();
}

async fn said(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.muster_output(arguments).await;
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_agents_prove_themselves_and_plain_text_is_refused() {
    let mut cluster = cluster!(secured(3, 1));
    let leader = cluster.until_members().await;
    let brief = cluster.run(script("exit 7"), 1).await.remove(0);
    let long = cluster.run(script("sleep 100000"), 1).await.remove(0);
    let status = cluster.until_released(&brief).await.status.unwrap();
    assert_eq!(status.exit.unwrap().how, Some(How::Code(7)), "{status:?}");
    // Through a follower, which passes it on as another's, and through the socket of one.
    let follower = leader % 3 + 1;
    let through = format!("https://{}", cluster.member_address(follower));
    let exec = ["task", "exec", &long, "--", "echo", "inside"];
    cluster.until_state(&long, TaskState::Running).await;
    let inside = said(&cluster, &[&["--server", &through], &exec[..]].concat()).await;
    assert_eq!(inside, "inside\n");
    let folder = if follower == 1 { "coordinator".to_owned() } else { format!("coordinator-{follower}") };
    let socket = format!("unix:{}", cluster.directory().join(folder).join("api.sock").display());
    let listed = said(&cluster, &["--server", &socket, "agent", "list"]).await;
    assert!(listed.contains("reachable"), "{listed}");

    let (head, body) = get(cluster.address(), "/health");
    assert!(head.starts_with("HTTP/1.1 400") && body.contains("code:  tls-needed"), "{head}\n{body}");
    let plain = format!("http://{}", cluster.address());
    let refused = said(&cluster, &["--server", &plain, "status"]).await;
    assert!(refused.contains("this port speaks TLS alone") && refused.contains("tls-needed"), "{refused}");

    cluster.member(leader).kill();
    let next = cluster.run(script("exit 0"), 1).await.remove(0);
    assert_eq!(cluster.until_released(&next).await.state(), TaskState::Finished);
    assert_eq!(cluster.task(&long).await.state(), TaskState::Running);
    cluster.restart_member(leader);
    cluster.until_members().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_lets_one_in_once() {
    let cluster = cluster!(secured(1, 1));
    let servers = cluster.servers();
    let used = cluster.join_token("agent-0");
    let second = joiner(&cluster, &servers, "second", &used);
    until_said(&cluster, second, "second", "has used the token already").await;

    let short = cluster.join_token("short");
    let made = cluster.muster_output(&["token", "create", "agent", "--ttl", "1s"]).await;
    std::fs::write(&short, &made.stdout).unwrap();
    wait_until("the token has expired", async || {
        said(&cluster, &["token", "list"]).await.contains("expired")
    })
    .await;
    let late = joiner(&cluster, &servers, "late", &short);
    until_said(&cluster, late, "late", "the token has expired").await;

    let revoked = cluster.join_token("revoked");
    cluster.make_token("agent", &revoked).await;
    let text = std::fs::read_to_string(&revoked).unwrap();
    let id = text.split('-').nth(1).unwrap();
    said(&cluster, &["token", "revoke", id]).await;
    let out = joiner(&cluster, &servers, "out", &revoked);
    until_said(&cluster, out, "out", "the token was revoked").await;

    let member = cluster.join_token("member");
    cluster.make_token("member", &member).await;
    let wrong = joiner(&cluster, &servers, "wrong", &member);
    until_said(&cluster, wrong, "wrong", "the token is for a member").await;

    // Whoever takes another's name needs a token that was made for it.
    let fresh = cluster.join_token("fresh");
    cluster.make_token("agent", &fresh).await;
    let name = std::fs::read_to_string(cluster.agent_dir(0).join("agent-id")).unwrap();
    let folder = cluster.directory().join("thief");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("agent-id"), &name).unwrap();
    let thief = joiner(&cluster, &servers, "thief", &fresh);
    until_said(&cluster, thief, "thief", "an agent of this id is there already").await;

    let listed = said(&cluster, &["token", "list"]).await;
    println!("{listed}");
    assert!(listed.contains(name.trim()), "{listed}");
    assert_eq!(listed.lines().filter(|line| line.contains("open")).count(), 2, "{listed}");
    assert_eq!(listed.lines().filter(|line| line.contains("revoked")).count(), 1, "{listed}");
    for path in [&used, &short, &revoked] {
        let secret = std::fs::read_to_string(path).unwrap();
        assert!(!listed.contains(secret.trim().split('-').nth(2).unwrap()), "a list shows no secrets");
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_another_authority() {
    let cluster = cluster!(secured(1, 1));
    let other = Cluster::start(secured(1, 1)).await;
    // A token of one at the door of the other: the joiner notices by the fingerprint, and says no secret.
    let token = cluster.join_token("stray");
    cluster.make_token("agent", &token).await;
    let stray = joiner(&cluster, &other.servers(), "stray", &token);
    until_said(&cluster, stray, "stray", "what answers there is of another cluster").await;
    let listed = said(&cluster, &["token", "list"]).await;
    assert!(listed.contains("open"), "{listed}");
    // A certificate of one at the door of the other.
    let mut command = cluster.muster();
    command.env("MUSTER_SERVER", other.servers()).args(["status"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(refused.contains("what answers there is of another cluster"), "{refused}");
    cluster.finish().await;
    other.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_and_tasks_do_not_notice() {
    let mut options = secured(3, 1);
    options.coordinator_flags = vec!["--certificate-life".to_owned(), "6s".to_owned()];
    let mut cluster = cluster!(options);
    let long = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&long, TaskState::Running).await;
    let mut ended = Vec::new();
    for round in 1..=3 {
        // Some end while connections end with the certificates that opened them.
        ended.extend(cluster.run(script("sleep 1; exit 7"), 2).await);
        let agent = &cluster.agents[0];
        wait_until("the agent's certificate is renewed", async || {
            agent.log().matches("renewed this agent's certificate").count() >= round
        })
        .await;
    }
    for id in &ended {
        let status = cluster.until_released(id).await.status.unwrap();
        assert_eq!(status.exit.unwrap().how, Some(How::Code(7)), "{status:?}");
    }
    assert_eq!(cluster.task(&long).await.state(), TaskState::Running);
    let renewed = cluster.member(1).log().matches("renewed this member's certificate").count();
    assert!(renewed >= 2, "{}", cluster.member(1).log_tail());

    // An agent that was away longer than its certificate lives comes back by itself.
    let status = cluster.agents[0].end(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    let before = cluster.agents[0].log().len();
    let certificate = cluster.agent_dir(0).join("tls/identity.pem");
    let age = || std::fs::metadata(&certificate).unwrap().modified().unwrap().elapsed().unwrap_or_default();
    wait_until("the certificate has ended", async || age().as_secs() > 7).await;
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let log = cluster.agents[0].log();
    assert!(log[before..].contains("renewed this agent's certificate"), "{}", &log[before..]);
    assert_eq!(cluster.task(&long).await.state(), TaskState::Running);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_beyond_this_machine_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("muster-coordinator"));
    // Documentation's own addresses (RFC 5737): bound by nobody, and refused before that matters.
    command.args(["--listen", "0.0.0.0:0", "--advertise", "192.0.2.1:5050", "--data-dir"]).arg(folder.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(told.contains("code:  tls-needed") && told.contains("muster-coordinator init"), "{told}");
}
