//! `muster run` as a person uses it.

use std::{io::Read, process::Stdio};

use harness::wait_until;
use muster_client::types::{Reason, TaskState};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{cluster, script};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn run_streams_output_and_ends_with_the_exit_code() {
    let cluster = cluster!();
    let output = cluster
        .muster_output(&[
            "run",
            "--cpus",
            "0.5",
            "--mem",
            "64MiB",
            "--name",
            "hello",
            "--",
            "sh",
            "-c",
            "echo hi; echo oh >&2; exit 3",
        ])
        .await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "hi\n");
    assert_eq!(text(&output.stderr), "oh\n");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_while_the_task_runs() {
    let cluster = cluster!();
    let mut command = cluster.muster();
    command.args([
        "run",
        "--",
        "sh",
        "-c",
        "echo first; while [ ! -e go ]; do sleep 0.05; done; echo second",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let first = tokio::task::spawn_blocking(move || {
        let mut first = [0; 6];
        stdout.read_exact(&mut first).unwrap();
        (first, stdout)
    });
    let (first, mut stdout) = first.await.unwrap();
    assert_eq!(&first, b"first\n");
    let id = cluster.tasks(true).await[0].spec.clone().unwrap().task_id;
    std::fs::write(find_folder(&cluster, &id).join("sandbox/go"), "").unwrap();
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        rest
    });
    assert_eq!(rest.await.unwrap(), "second\n");
    assert!(child.wait().unwrap().success());
    cluster.finish().await;
}

/// What the agent keeps of a task: `sandbox/`, `stdout`, `stderr`.
pub fn find_folder(cluster: &harness::Cluster, task_id: &str) -> std::path::PathBuf {
    let tasks = cluster.agent_dir(0).join("tasks");
    let entries = std::fs::read_dir(&tasks).unwrap();
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!("task-{task_id}.")))
        .unwrap_or_else(|| panic!("nothing of {task_id} in {}", tasks.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_kills_the_task() {
    let cluster = cluster!();
    let mut command = cluster.muster();
    let mut child = command.args(["run", "--", "sleep", "1000"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the task runs", async || {
        cluster.tasks(true).await.iter().any(|task| task.state() == TaskState::Running)
    })
    .await;
    let id = cluster.tasks(true).await[0].spec.clone().unwrap().task_id;
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(128 + 15), "a killed task's command ended by SIGTERM");
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Killed);
    assert_eq!(task.status.unwrap().reason(), Reason::KillRequested);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_tasks_are_summed_up() {
    let cluster = cluster!();
    let run = ["run", "--cpus", "0.05", "--mem", "16MiB", "--count", "20", "--name", "many", "--"];
    let output = cluster.muster_output(&[&run[..], &["echo", "hi"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).ends_with("20 tasks: 20 finished\n"), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert_eq!(stdout.lines().filter(|line| line.ends_with(" | hi")).count(), 20, "{stdout}");

    let output = cluster.muster_output(&[&run[..], &["false"]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).ends_with("20 tasks: 20 failed\n"), "{}", text(&output.stderr));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detach_prints_the_id() {
    let cluster = cluster!();
    let output = cluster.muster_output(&["run", "--detach", "--name", "hello", "--", "true"]).await;
    let id = text(&output.stdout).trim().to_owned();
    assert!(id.starts_with("hello"), "{id}");
    assert_eq!(cluster.until_released(&id).await.state(), TaskState::Finished);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn env_user_and_cwd_are_what_was_asked() {
    let cluster = cluster!();
    let run = ["run", "--env", "GREETING=hello world", "--user", "nobody", "--cwd", "/usr", "--"];
    let output =
        cluster.muster_output(&[&run[..], &["sh", "-c", "echo \"$GREETING\"; id -un; pwd"]].concat()).await;
    assert_eq!(text(&output.stdout), "hello world\nnobody\n/usr\n", "{}", text(&output.stderr));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fits_nowhere_says_why_it_waits() {
    let cluster = cluster!();
    let mut command = cluster.muster();
    command.args(["run", "--cpus", "4096", "--", "true"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let line = tokio::task::spawn_blocking(move || {
        let mut line = Vec::new();
        let mut byte = [0];
        while stderr.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        (text(&line), stderr)
    });
    let (line, _stderr) = line.await.unwrap();
    assert!(line.starts_with("waiting: ") && line.contains("4096 cpus"), "{line}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    wait_until("nothing waits", async || cluster.tasks(true).await.is_empty()).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_verbs_answer() {
    let cluster = cluster!();
    let id = cluster.run(script("echo one; echo two; sleep 1000"), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    for arguments in [
        &["status"][..],
        &["task", "list"],
        &["task", "show", &id],
        &["task", "usage"],
        &["agent", "list"],
        &["agent", "usage"],
        &["top", "--once"],
        &["top", "--once", "--agents", "--sort", "mem"],
        &["framework", "list"],
        &["offer", "list"],
        &["role", "list"],
    ] {
        let output = cluster.muster_output(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stdout.is_empty(), "{arguments:?} says nothing");
        let json = cluster.muster_output(&[arguments, &["--output", "json"]].concat()).await;
        serde_json::from_slice::<serde_json::Value>(&json.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?} prints no JSON: {error}"));
    }
    wait_until("the output is there", async || {
        text(&cluster.muster_output(&["task", "logs", &id]).await.stdout) == "one\ntwo\n"
    })
    .await;
    let output = cluster.muster_output(&["task", "kill", &id, "--grace", "1s"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(cluster.until_released(&id).await.state(), TaskState::Killed);
    let output = cluster.muster_output(&["task", "show", "no-such-task"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("code:  task-unknown"), "{}", text(&output.stderr));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_cluster_is_exit_code_four() {
    let mut command = std::process::Command::new(harness::program("muster"));
    // Port 1 on loopback: nothing listens there.
    command.args(["--server", "http://127.0.0.1:1", "--token-file", "/dev/null", "status"]);
    let started = std::time::Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("error: can't show the cluster's status\nwhy:   "));
    assert!(started.elapsed() < harness::patience(), "it gave up only after {:?}", started.elapsed());
}
