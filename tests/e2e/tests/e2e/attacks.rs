//! Hostile tasks: each attack is contained, and neither agent nor neighbour notices.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use harness::{Cluster, ClusterOptions};
use muster_client::types::{TaskSpec, TaskState};

use crate::{cluster, running::find_folder, script};

/// Lets loose everything that `tests/attacker` knows, beside a neighbour, and answers what it said.
async fn attack(cluster: &Cluster, spec: TaskSpec) -> String {
    let neighbour = cluster.run(script("exec sleep 31415"), 1).await.remove(0);
    cluster.until_state(&neighbour, TaskState::Running).await;
    let program = Program::new();
    let neighbour_directory = find_folder(cluster, &neighbour);
    let arguments = [
        program.0.display().to_string(),
        cluster.agents[0].pid().to_string(),
        host_process(&neighbour).await.to_string(),
        cluster.token_file().display().to_string(),
        neighbour_directory.display().to_string(),
        cluster.cgroup_parent().to_owned(),
    ];
    let id = cluster.run(TaskSpec { command: arguments.to_vec(), ..spec }, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    let output = cluster.muster_output(&["task", "logs", &id]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    cluster.until_state(&neighbour, TaskState::Running).await;
    let killed = cluster.muster_output(&["task", "kill", &neighbour]).await;
    assert!(killed.status.success(), "{killed:?}");
    cluster.until_released(&neighbour).await;
    said
}

/// The attacker where every task can execute it: not in /tmp, of which each task has its own, nor in a
/// build's folder, which may be closed to others.
pub struct Program(pub PathBuf);

impl Program {
    pub fn new() -> Self {
        let path = PathBuf::from(format!(
            "/var/tmp/muster-attacker-{}-{}",
            std::process::id(),
            muster_client::new_request_id()
        ));
        fs::copy(harness::program("attacker"), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What can't be removed now is a file in a folder for such files.
        let _ = fs::remove_file(&self.0);
    }
}

/// The number that the host gives the command of a task.
async fn host_process(task: &str) -> u32 {
    let is_of_task = |process: &u32| {
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
        let line = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
        groups.contains(&format!("task-{task}.")) && line.starts_with("sleep")
    };
    let mut found = None;
    harness::wait_until("the neighbour sleeps", async || {
        let entries = fs::read_dir("/proc").unwrap();
        let mut processes = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        found = processes.find(is_of_task);
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn assert_contained(said: &str) {
    let with = |word: &str| said.lines().filter(|line| line.starts_with(word)).collect::<Vec<_>>();
    assert_eq!(with("escaped"), Vec::<&str>::new(), "{said}");
    let count: usize = said
        .lines()
        .find_map(|line| line.strip_suffix(" attacks"))
        .expect("it says how many there were")
        .parse()
        .unwrap();
    assert_eq!(with("contained").len() + with("absent").len(), count, "{said}");
    // What this kernel has not can't be attacked, but most of it is there.
    assert!(with("absent").len() < 6, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_task_is_contained() {
    let cluster = cluster!();
    let said = attack(&cluster, script("")).await;
    assert_contained(&said);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_task_of_root_is_contained() {
    let flags = vec!["--allow-root-tasks".to_owned()];
    let cluster = cluster!(ClusterOptions { agent_flags: flags, ..ClusterOptions::default() });
    let said = attack(&cluster, TaskSpec { user: Some("root".to_owned()), ..script("") }).await;
    assert_contained(&said);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_nests_directories_without_end_leaves_nothing() {
    let cluster = cluster!();
    // Deeper than the agent's stack, table of descriptors or any path may be.
    let thousands = if harness::is_guest() { 2 } else { 15 };
    let nest = format!(
        "thousand=$(printf 'd/%.0s' $(seq 1000)); i=0
         while [ $i -lt {thousands} ]; do mkdir -p $thousand; cd $thousand; i=$((i+1)); done; echo deep"
    );
    let mut spec = script(&nest);
    spec.resources.as_mut().unwrap().cpus_milli = 900;
    let id = cluster.run(spec, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    // It ends with all its tasks, and removes what they left.
    cluster.finish().await;
}
