//! Tasks that don't want to end, or want too much.

use std::fs;

use harness::{Cluster, is_guest};
use muster_client::types::{Reason, TaskSpec, TaskState};

use crate::{cluster, running::find_folder, script};

/// Starts a task and kills it when it has said `ready`.
async fn kill_when_ready(cluster: &Cluster, spec: TaskSpec) -> muster_client::operator::TaskView {
    let id = cluster.run(spec, 1).await.remove(0);
    harness::wait_until("the task is ready", async || {
        let view = cluster.task(&id).await;
        assert!(!muster_client::is_final(view.state()), "it ended too early: {:?}", view.status);
        cluster.muster_output(&["task", "logs", &id]).await.stdout.starts_with(b"ready")
    })
    .await;
    let output = cluster.muster_output(&["task", "kill", &id, "--grace", "500ms"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.until_released(&id).await
}

/// Processes of the cluster's tasks, by their command lines.
fn processes(cluster: &Cluster) -> Vec<String> {
    cluster.residue().find().into_iter().filter(|line| line.starts_with("process:")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_in_its_task() {
    let cluster = cluster!();
    let bomb = script("echo ready; bomb() { bomb | bomb & }; while :; do bomb 2>/dev/null; sleep 0.1; done");
    let limit = if is_guest() { 32 } else { 128 };
    let task = kill_when_ready(&cluster, TaskSpec { pids_limit: Some(limit), ..bomb }).await;
    assert_eq!(task.state(), TaskState::Killed, "{:?}", task.status);
    assert_eq!(processes(&cluster), Vec::<String>::new());
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_of_output_does_not_fill_the_disk() {
    let cluster = cluster!();
    let size: u64 = if is_guest() { 64 << 20 } else { 1 << 30 };
    let mut spec = script(&format!("head -c {size} /dev/zero | tr '\\0' x; echo end"));
    spec.resources.as_mut().unwrap().cpus_milli = 900;
    let id = cluster.run(spec, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    let file = find_folder(&cluster, &id).join("stdout");
    harness::wait_until("the output is trimmed", async || {
        let facts = fs::metadata(&file).unwrap();
        std::os::unix::fs::MetadataExt::blocks(&facts) * 512 <= 24 << 20
    })
    .await;
    let output = cluster.muster_output(&["task", "logs", &id, "--tail", "5"]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "xend\n");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ignores_sigterm_is_killed_after_its_grace() {
    let cluster = cluster!();
    let stubborn = script("trap '' TERM; echo ready; while :; do sleep 0.05; done");
    let task = kill_when_ready(&cluster, stubborn).await;
    let status = task.status.clone().unwrap();
    assert_eq!((task.state(), status.reason()), (TaskState::Killed, Reason::KillRequested), "{status:?}");
    assert_eq!(processes(&cluster), Vec::<String>::new());
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_forks_twice_ends_with_its_task() {
    let cluster = cluster!();
    let daemon = script("( (sleep 1000 & ) & ); echo ready; sleep 0.2");
    let id = cluster.run(daemon, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    assert_eq!(processes(&cluster), Vec::<String>::new());
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_in_a_new_session_ends_with_its_task() {
    let cluster = cluster!();
    let task = kill_when_ready(&cluster, script("setsid sleep 1000 & echo ready; sleep 1000")).await;
    assert_eq!(task.state(), TaskState::Killed, "{:?}", task.status);
    assert_eq!(processes(&cluster), Vec::<String>::new());
    cluster.finish().await;
}
