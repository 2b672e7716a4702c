//! People and frameworks with credentials of their own: what each may do, how it ends, and what the audit log says.

use std::{collections::BTreeMap, path::Path, process::Output};

use harness::{Cluster, ClusterOptions, wait_until};
use muster_client::types::TaskState;

use crate::{cluster, script};

/// How `muster` proves who calls.
#[derive(Debug, Clone, Copy)]
enum By<'a> {
    Token(&'a Path),
    Certificate(&'a Path),
}

async fn muster_by(cluster: &Cluster, by: By<'_>, arguments: &[&str]) -> Output {
    let mut command = cluster.muster();
    match by {
        By::Token(path) => command.env("MUSTER_TOKEN_FILE", path),
        By::Certificate(path) => command.env_remove("MUSTER_TOKEN_FILE").env("MUSTER_CERTIFICATE_FILE", path),
    };
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

async fn said(cluster: &Cluster, by: By<'_>, arguments: &[&str]) -> String {
    told(&muster_by(cluster, by, arguments).await)
}

/// Does something as the operator, which must be done.
async fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.muster_output(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a token of a user, into a file.
async fn token_of(cluster: &Cluster, user: &str) -> std::path::PathBuf {
    let path = cluster.directory().join(format!("{user}.token"));
    std::fs::write(&path, done(cluster, &["user", "token", user]).await).unwrap();
    path
}

fn secured(members: usize) -> ClusterOptions {
    ClusterOptions { has_tls: true, members, agents: 1, ..ClusterOptions::default() }
}

/// What all members wrote down, by method, with who and what came of it.
fn audited(cluster: &Cluster, members: usize) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    for member in 1..=members {
        let text = std::fs::read_to_string(cluster.member_dir(member).join("audit/audit.log")).unwrap();
        lines.extend(text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()));
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_does_what_its_duties_grant_until_it_is_revoked() {
    let mut cluster = cluster!(secured(3));
    let leader = cluster.until_members().await;
    wait_until("the cluster knows users", async || {
        cluster.muster_output(&["user", "add", "ann", "--duty", "viewer"]).await.status.success()
    })
    .await;
    let ann = token_of(&cluster, "ann").await;
    let ann = By::Token(&ann);
    // A follower knows a token as soon as it has the entry.
    for member in 1..=3 {
        let through = format!("https://{}", cluster.member_address(member));
        wait_until("every member knows the token", async || {
            muster_by(&cluster, ann, &["--server", &through, "task", "list"]).await.status.success()
        })
        .await;
    }
    let task = cluster.run(script("echo up; sleep 100000"), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;

    // What a viewer may not, with a sentence, through each member.
    for member in 1..=3 {
        let through = format!("https://{}", cluster.member_address(member));
        let no = said(&cluster, ann, &["--server", &through, "task", "kill", &task]).await;
        assert!(no.contains("user `ann` may not do this: `kill`") && no.contains("not-permitted"), "{no}");
    }
    let no = said(&cluster, ann, &["user", "add", "ann", "--duty", "admin"]).await;
    assert!(no.contains("`manage` on the whole cluster is not granted"), "{no}");
    let no = said(&cluster, ann, &["task", "exec", &task, "--", "true"]).await;
    assert!(no.contains("`exec` on anything is not granted"), "{no}");
    assert_eq!(cluster.task(&task).await.state(), TaskState::Running);

    // A duty of one's own: of another role it grants nothing.
    done(&cluster, &["policy", "set", "web-killer", "view", "kill:role=web"]).await;
    done(&cluster, &["user", "add", "ann", "--duty", "web-killer"]).await;
    let mut kills = 3;
    wait_until("every member knows the duty", async || {
        kills += 1;
        let no = said(&cluster, ann, &["task", "kill", &task]).await;
        assert!(no.contains("not-permitted"), "{no}");
        no.contains("only kill:role=web")
    })
    .await;
    let asked = cluster.muster_output(&["policy", "test", "ann", "kill", "--role", "web"]).await;
    assert_eq!((told(&asked).as_str(), asked.status.code()), ("allowed\n", Some(0)));
    let asked = cluster.muster_output(&["policy", "test", "ann", "kill"]).await;
    assert_eq!(asked.status.code(), Some(1), "{}", told(&asked));

    // An open stream ends with the token, through a follower and at the leader.
    let mut follows = Vec::new();
    for member in [leader, leader % 3 + 1] {
        let through = format!("https://{}", cluster.member_address(member));
        let By::Token(path) = ann else { unreachable!() };
        let mut command = cluster.muster();
        command.env("MUSTER_TOKEN_FILE", path);
        command.args(["--server", &through, "task", "logs", "--follow", &task]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut follow = command.spawn().unwrap();
        let mut first = [0; 3];
        std::io::Read::read_exact(follow.stdout.as_mut().unwrap(), &mut first).unwrap();
        assert_eq!(&first, b"up\n", "it follows");
        follows.push(follow);
    }
    let listed = done(&cluster, &["user", "list", "--output", "json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["tokens"][0]["token_id"].as_str().unwrap();
    done(&cluster, &["user", "revoke", id]).await;
    for mut follow in follows {
        wait_until("the stream ends with the token", async || follow.try_wait().unwrap().is_some()).await;
        let output = follow.wait_with_output().unwrap();
        assert!(told(&output).contains("unauthenticated"), "{}", told(&output));
    }
    wait_until("no member knows the token", async || {
        let no = said(&cluster, ann, &["task", "list"]).await;
        no.contains("unauthenticated") && no.contains("revoked")
    })
    .await;

    // One that has expired, by the cluster's time.
    let brief = cluster.directory().join("brief.token");
    std::fs::write(&brief, done(&cluster, &["user", "token", "ann", "--ttl", "2s"]).await).unwrap();
    wait_until("the token has expired", async || {
        // What is proposed tells every member how late it is.
        done(&cluster, &["role", "set", "web", "--weight", "2"]).await;
        said(&cluster, By::Token(&brief), &["task", "list"]).await.contains("has expired")
    })
    .await;

    // Each change is one line, of the member that took it, and no line holds a secret.
    let lines = audited(&cluster, 3);
    let mut counts: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    for line in &lines {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        *counts.entry((text("method"), text("who"), text("outcome"))).or_default() += 1;
    }
    let count = |method: &str, who: &str, outcome: &str| {
        counts.get(&(method.to_owned(), who.to_owned(), outcome.to_owned())).copied().unwrap_or_default()
    };
    assert_eq!(count("operator.v1.Operator/Run", "an operator", "done"), 1, "{counts:#?}");
    // At the door, by the member that was asked, and by the leader once the message was read.
    assert_eq!(count("operator.v1.Operator/KillTask", "user/ann", "refused"), kills, "{counts:#?}");
    assert_eq!(count("operator.v1.Operator/SetUser", "user/ann", "refused"), 1, "{counts:#?}");
    assert_eq!(count("operator.v1.Operator/OpenChannel", "user/ann", "refused"), 1, "{counts:#?}");
    assert_eq!(count("operator.v1.Operator/SetDuty", "an operator", "done"), 1, "{counts:#?}");
    assert_eq!(count("operator.v1.Operator/CreateUserToken", "an operator", "done"), 2, "{counts:#?}");
    assert_eq!(count("operator.v1.Operator/RevokeUserToken", "an operator", "done"), 1, "{counts:#?}");
    let all = lines.iter().map(ToString::to_string).collect::<String>();
    let secret = std::fs::read_to_string(&brief).unwrap();
    assert!(!all.contains(secret.trim().rsplit('-').next().unwrap()), "the audit log holds no secret");
    let revoked = lines.iter().find(|line| line["method"] == "operator.v1.Operator/RevokeUserToken").unwrap();
    assert_eq!(revoked["what"]["token_id"], id);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_revoked_counts_no_more_at_once() {
    let mut cluster = cluster!(secured(1));
    let task = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;
    wait_until("the cluster knows users", async || {
        cluster.muster_output(&["user", "add", "bob", "--duty", "operator"]).await.status.success()
    })
    .await;

    // A user's: revoked, replaced by another, and ended with the user.
    let first = cluster.directory().join("first.pem");
    let text = |path: &Path| path.display().to_string();
    done(&cluster, &["user", "certificate", "bob", &text(&first)]).await;
    let listed = said(&cluster, By::Certificate(&first), &["agent", "list"]).await;
    assert!(listed.contains("reachable"), "{listed}");
    done(&cluster, &["certificate", "revoke", "user/bob"]).await;
    let no = said(&cluster, By::Certificate(&first), &["agent", "list"]).await;
    assert!(no.contains("certificate of user/bob was revoked") && no.contains("certificate-refused"), "{no}");
    let second = cluster.directory().join("second.pem");
    done(&cluster, &["user", "certificate", "bob", &text(&second)]).await;
    let listed = said(&cluster, By::Certificate(&second), &["agent", "list"]).await;
    assert!(listed.contains("reachable"), "{listed}");
    done(&cluster, &["user", "remove", "bob"]).await;
    done(&cluster, &["user", "add", "bob", "--duty", "admin"]).await;
    let no = said(&cluster, By::Certificate(&second), &["agent", "list"]).await;
    assert!(no.contains("certificate of user/bob was revoked"), "a later bob is another one: {no}");

    // An agent's, whose stream ends; it comes back with a token for its id, and its task has lived on.
    let agent = std::fs::read_to_string(cluster.agent_dir(0).join("agent-id")).unwrap();
    let agent = agent.trim();
    done(&cluster, &["certificate", "revoke", &format!("agent/{agent}")]).await;
    wait_until("the agent is told", async || cluster.agents[0].log().contains("was revoked")).await;
    let revoked = done(&cluster, &["certificate", "list"]).await;
    assert!(revoked.contains(agent) && revoked.contains("user/bob"), "{revoked}");
    let no = cluster.muster_output(&["certificate", "revoke", "member/1"]).await;
    assert!(told(&no).contains("it has a seat"), "{}", told(&no));
    let again = done(&cluster, &["token", "create", "agent", "--only-for", agent]).await;
    std::fs::write(cluster.join_token("agent-0"), again).unwrap();
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    wait_until("the agent is in again", async || {
        cluster.agents[0].log().matches("the cluster has let this agent in").count() == 2
    })
    .await;
    cluster.until_agents().await;
    assert_eq!(cluster.task(&task).await.state(), TaskState::Running);
    done(&cluster, &["task", "exec", &task, "--", "true"]).await;
    cluster.finish().await;
}
