//! Several coordinators: any of them answers, the lead goes from one to another, and tasks don't notice.

use std::time::Instant;

use harness::{Cluster, ClusterOptions, Node, page, program, wait_until};
use muster_client::{
    operator::{GetStatusRequest, ListMembersRequest, MemberView},
    types::{TaskState, exit::How},
};
use nix::sys::signal::Signal;

use crate::{cluster, script};

fn three() -> ClusterOptions {
    ClusterOptions { members: 3, ..ClusterOptions::default() }
}

/// What `muster` prints when it is told of one member only.
async fn through(cluster: &Cluster, member: usize, arguments: &[&str]) -> String {
    let mut all = vec!["--server", cluster.member_address(member)];
    all.extend(arguments);
    let output = cluster.muster_output(&all).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn a_follower(leader: usize) -> usize {
    leader % 3 + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn any_member_answers() {
    let mut cluster = cluster!(three());
    let leader = cluster.until_members().await;
    let follower = a_follower(leader);
    // A whole run: streams in both directions pass through the follower.
    let said =
        through(&cluster, follower, &["run", "--cpus", "0.1", "--mem", "32MiB", "--", "echo", "hello"]).await;
    assert!(said.contains("hello"), "{said}");
    let task = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;
    let said = through(&cluster, follower, &["task", "exec", &task, "--", "echo", "inside"]).await;
    assert_eq!(said, "inside\n");
    let members = through(&cluster, leader, &["member", "list"]).await;
    println!("{members}");
    assert_eq!(members.lines().filter(|line| line.contains("voter")).count(), 2, "{members}");
    cluster.finish().await;
}

/// Tasks of which agents told nothing when they attached to this member.
fn spared(cluster: &Cluster, member: usize) -> f64 {
    let name = "muster_coordinator_known_tasks_spared_total";
    page::figure(cluster.member_address(member), name).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_and_tasks_do_not_notice() {
    let mut cluster = cluster!(three());
    let long = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&long, TaskState::Running).await;
    for round in 0..3 {
        let leader = cluster.until_members().await;
        // These end while nobody leads.
        let brief = cluster.run(script("sleep 0.5; exit 7"), 3).await;
        for id in &brief {
            cluster.until_state(id, TaskState::Running).await;
        }
        cluster.member(leader).kill();
        let killed = Instant::now();
        let next = cluster.run(script("exit 0"), 1).await.remove(0);
        println!("round {round}: a run was taken {:?} after member {leader} was killed", killed.elapsed());
        for id in &brief {
            let status = cluster.until_released(id).await.status.unwrap();
            assert_eq!(status.exit.unwrap().how, Some(How::Code(7)), "{status:?}");
        }
        assert_eq!(cluster.until_released(&next).await.state(), TaskState::Finished);
        cluster.restart_member(leader);
    }
    let view = cluster.task(&long).await;
    assert_eq!(view.state(), TaskState::Running);
    // Nothing is news any more: the agent says digests, and need not tell of the task.
    let leader = cluster.until_members().await;
    let before: Vec<f64> = (1..=3).map(|member| spared(&cluster, member)).collect();
    cluster.member(leader).kill();
    cluster.restart_member(leader);
    let next = cluster.until_members().await;
    let base = if next == leader { 0.0 } else { before[next - 1] };
    wait_until("the next leader is spared the task", async || spared(&cluster, next) > base).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over_first() {
    let mut cluster = cluster!(three());
    let leader = cluster.until_members().await;
    let begun = Instant::now();
    let status = cluster.member(leader).end(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    assert!(
        cluster.member(leader).log().contains("handed over the lead"),
        "{}",
        cluster.member(leader).log_tail()
    );
    let task = cluster.run(script("exit 0"), 1).await.remove(0);
    println!("a run was taken {:?} after member {leader} was told to stop", begun.elapsed());
    assert_eq!(cluster.until_released(&task).await.state(), TaskState::Finished);
    cluster.restart_member(leader);
    cluster.until_members().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_promised_and_nothing_is_lost() {
    let mut cluster = cluster!(three());
    let leader = cluster.until_members().await;
    let task = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;
    let (second, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.member(second).kill();
    cluster.member(third).kill();
    let refused = cluster.muster_output(&["run", "--cpus", "0.1", "--mem", "32MiB", "--", "true"]).await;
    assert!(!refused.status.success());
    println!("{}", String::from_utf8_lossy(&refused.stderr));
    cluster.restart_member(second);
    cluster.restart_member(third);
    cluster.until_members().await;
    let next = cluster.run(script("exit 0"), 1).await.remove(0);
    assert_eq!(cluster.until_released(&next).await.state(), TaskState::Finished);
    assert_eq!(cluster.task(&task).await.state(), TaskState::Running);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_member_answers_reads_and_says_how_fresh_they_are() {
    let mut cluster = cluster!(three());
    let leader = cluster.until_members().await;
    let follower = a_follower(leader);
    let task = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;
    let read = async |cluster: &Cluster, consistency: &str, arguments: &[&str]| {
        let mut all = vec!["--server", cluster.member_address(follower), "--consistency", consistency];
        all.extend(arguments);
        let output = cluster.muster_output(&all).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    // Passed on to the leader, which asks the others first.
    let (done, listed, told) = read(&cluster, "linearizable", &["task", "list"]).await;
    assert!(done && listed.contains(&task), "{listed}{told}");
    assert!(told.contains(&format!("as member {leader} knows it: entry ")), "{told}");
    let (done, _, told) = read(&cluster, "local", &["task", "kill", &task]).await;
    assert!(!done && told.contains("code:  invalid-argument"), "{told}");

    // Alone it promises nothing, but shows what it knows.
    for other in (1..=3).filter(|member| *member != follower) {
        cluster.member(other).kill();
    }
    let (done, listed, told) = read(&cluster, "local", &["task", "list"]).await;
    assert!(done && listed.contains(&task), "{listed}{told}");
    assert!(told.contains(&format!("as member {follower} knows it: entry ")), "{told}");
    println!("{told}");
    let (done, _, told) = read(&cluster, "linearizable", &["task", "list"]).await;
    assert!(!done && told.contains("code:  no-leader"), "{told}");
    for other in (1..=3).filter(|member| *member != follower) {
        cluster.restart_member(other);
    }
    cluster.until_members().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_while_the_cluster_works() {
    let mut cluster = cluster!(three());
    let leader = cluster.until_members().await;
    let gone = a_follower(leader).to_string();
    through(&cluster, leader, &["member", "remove", &gone]).await;
    let refused = cluster.muster_output(&["member", "remove", &gone]).await;
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains(&format!("there is no member {gone}")), "{message}");
    // It still runs, and asks for its seat again when it is started again.
    let daemon = cluster.member(gone.parse().unwrap());
    let _ = daemon.end(Signal::SIGTERM).await;
    cluster.restart_member(gone.parse().unwrap());
    cluster.until_members().await;
    let to = a_follower(leader).to_string();
    let said = through(&cluster, leader, &["member", "transfer", &to]).await;
    assert_eq!(said, format!("member {to} leads\n"));
    wait_until("the new leader leads", async || cluster.until_members().await.to_string() == to).await;
    tokio::time::timeout(harness::patience(), cluster.finish()).await.unwrap();
}

/// The cluster's version, and what each member reads, as the leader knows it.
async fn versions(cluster: &Cluster) -> (u32, Vec<Option<u32>>) {
    for member in 1..=3 {
        let connection = cluster.connection_to_member(member);
        let status = connection.operator().get_status(GetStatusRequest {}).await;
        let members = connection.operator().list_members(ListMembersRequest {}).await;
        let (Ok(status), Ok(members)) = (status, members) else { continue };
        let members = members.into_inner();
        let leads = |one: &&MemberView| one.member_id == members.member_id && one.is_leader;
        if members.members.iter().any(|one| leads(&one)) {
            let reads = members.members.iter().map(|one| one.cluster_version_supported).collect();
            return (status.into_inner().cluster_version, reads);
        }
    }
    (0, Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_rises_when_the_last_member_reads_the_next_one() {
    // As an earlier program, which knows no more than this.
    let earlier =
        |member| (Node::Member(member), "MUSTER_COORDINATOR_CLUSTER_VERSION_MAX".to_owned(), "1".to_owned());
    let mut cluster =
        cluster!(ClusterOptions { node_env: vec![earlier(1), earlier(2), earlier(3)], ..three() });
    wait_until("all say what they read", async || versions(&cluster).await == (1, vec![Some(1); 3])).await;
    let task = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;
    for member in [3, 2] {
        cluster.set_node_env(vec![earlier(1), earlier(2)]);
        if member == 2 {
            cluster.set_node_env(vec![earlier(1)]);
        }
        let status = cluster.member(member).end(Signal::SIGTERM).await;
        assert!(status.success(), "{status}");
        cluster.restart_member(member);
        cluster.until_members().await;
        cluster.run(script("exit 0"), 1).await;
    }
    let mut seen = (0, Vec::new());
    wait_until("two read the next one", async || {
        seen = versions(&cluster).await;
        seen.1.len() == 3 && seen.1.iter().flatten().filter(|reads| **reads > 1).count() == 2
    })
    .await;
    assert_eq!((seen.0, seen.1[0]), (1, Some(1)), "one still reads the first alone");

    let status = cluster.member(1).end(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    cluster.set_node_env(Vec::new());
    cluster.restart_member(1);
    wait_until("the version rises", async || {
        let (version, reads) = versions(&cluster).await;
        version > 1 && reads == vec![Some(version); 3]
    })
    .await;
    assert_eq!(cluster.task(&task).await.state(), TaskState::Running);

    // Nobody comes in who could not read the log.
    cluster.set_node_env(vec![earlier(2)]);
    let leader = cluster.until_members().await;
    through(&cluster, leader, &["member", "remove", "2"]).await;
    let _ = cluster.member(2).end(Signal::SIGTERM).await;
    cluster.restart_member(2);
    wait_until("it is refused", async || cluster.member(2).log().contains("reads cluster version 1 at most"))
        .await;
    println!("{}", cluster.member(2).log_tail());
    cluster.finish().await;
}

/// What `muster-coordinator` prints when it does something else than run.
async fn coordinator(arguments: &[&str]) -> Result<String, String> {
    let output =
        tokio::process::Command::new(program("muster-coordinator")).args(arguments).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_majority_is_replaced_by_what_one_member_has_and_tasks_run_on() {
    let mut cluster = cluster!(three());
    cluster.until_members().await;
    let task = cluster.run(script("sleep 100000"), 1).await.remove(0);
    cluster.until_state(&task, TaskState::Running).await;
    (1..=3).for_each(|member| cluster.member(member).kill());

    // Of two members the disks are gone, too.
    let folder = cluster.directory().to_owned();
    let (old, new) = (folder.join("coordinator.old"), folder.join("coordinator"));
    std::fs::rename(&new, &old).unwrap();
    for lost in ["coordinator-2", "coordinator-3"] {
        std::fs::remove_dir_all(folder.join(lost)).unwrap();
    }
    let file = folder.join("saved").display().to_string();
    let said = coordinator(&["backup", "--data-dir", old.to_str().unwrap(), &file]).await.unwrap();
    println!("{said}");
    let into = ["--listen", cluster.member_address(1), "--data-dir", new.to_str().unwrap()];
    let restore = [&["restore", &file][..], &into].concat();
    println!("{}", coordinator(&restore).await.unwrap());
    let refused = coordinator(&restore).await.unwrap_err();
    assert!(refused.contains("is not empty") && refused.contains("restore-failed"), "{refused}");
    std::fs::copy(old.join("token"), new.join("token")).unwrap();

    // Alone first: the others join what leads already.
    cluster.restart_member(1);
    cluster.until_agents().await;
    (2..=3).for_each(|member| cluster.restart_member(member));
    cluster.until_members().await;
    let next = cluster.run(script("exit 0"), 1).await.remove(0);
    assert_eq!(cluster.until_released(&next).await.state(), TaskState::Finished);
    assert_eq!(cluster.task(&task).await.state(), TaskState::Running);

    // And of one that runs.
    let file = folder.join("running").display().to_string();
    let saved = cluster.muster_output(&["backup", &file]).await;
    let told = String::from_utf8_lossy(&saved.stderr).into_owned();
    assert!(saved.status.success() && told.contains("saved everything up to entry"), "{told}");
    let refused = cluster.muster_output(&["backup", &file]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let elsewhere = folder.join("elsewhere").display().to_string();
    let advertised = "192.0.2.7:5050";
    let restore = ["restore", &file, "--data-dir", &elsewhere, "--advertise", advertised];
    println!("{}", coordinator(&restore).await.unwrap());
    let snapshot = std::fs::read(folder.join("elsewhere/snapshot")).unwrap();
    let is_there = snapshot.windows(advertised.len()).any(|window| window == advertised.as_bytes());
    assert!(is_there, "the others are told where the member is reached");
    cluster.finish().await;
}
