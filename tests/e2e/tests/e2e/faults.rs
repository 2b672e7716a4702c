//! What goes wrong on a host: the disk is full or closed, descriptors run out, records are lost.

use std::{fs, path::Path, process::Stdio};

use harness::{Cluster, ClusterOptions, Residue, page, wait_until};
use muster_client::types::{Reason, TaskSpec, TaskState};

use crate::{cluster, script};

fn with_disk(mib: u64) -> ClusterOptions {
    ClusterOptions { agent_disk_mib: Some(mib), ..ClusterOptions::default() }
}

fn free_bytes(path: &Path) -> u64 {
    let found = nix::sys::statvfs::statvfs(path).unwrap();
    found.blocks_available() * found.fragment_size()
}

async fn start(cluster: &Cluster, text: &str) -> String {
    let id = cluster.run(script(text), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    id
}

async fn kill(cluster: &Cluster, id: &str) {
    let output = cluster.muster_output(&["task", "kill", id, "--grace", "200ms"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Processes of the tasks, by number and command line.
fn processes(residue: &Residue) -> Vec<String> {
    residue.find().into_iter().filter(|line| line.starts_with("process:")).collect()
}

/// The same, when so many tasks have come to their last command.
async fn sleeping(cluster: &Cluster, count: usize) -> Vec<String> {
    // Behind the word and the number; an init's own line is that of its command before it became another.
    let sleeps = |line: &&String| line.splitn(3, ' ').nth(2) == Some("sleep 100000 ");
    let mut found = Vec::new();
    wait_until("every task sleeps", async || {
        found = processes(&cluster.residue());
        found.len() == 2 * count && found.iter().filter(sleeps).count() == count
    })
    .await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_neither_kills_nor_statuses() {
    let mut cluster = cluster!(with_disk(64));
    let witness = start(&cluster, "exec sleep 100000").await;
    let filler = start(&cluster, "cat /dev/zero > big 2>/dev/null; exec sleep 100000").await;
    let place = cluster.agent_dir(0);
    wait_until("the disk is full", async || free_bytes(&place) < 1 << 20).await;
    // An end must be told, whatever became of the launch.
    let unlucky = cluster.run(script("exit 7"), 1).await.remove(0);
    let unlucky = cluster.until_released(&unlucky).await;
    assert_eq!(unlucky.state(), TaskState::Failed, "{:?}", unlucky.status);
    cluster.agents[0].assert_alive();
    // The one who did it can be ended, and with him goes what he wrote.
    kill(&cluster, &filler).await;
    let filler = cluster.until_released(&filler).await;
    assert_eq!(filler.state(), TaskState::Killed, "{:?}", filler.status);
    wait_until("there is room again", async || free_bytes(&place) > 16 << 20).await;
    let lucky = cluster.run(script("exit 7"), 1).await.remove(0);
    let status = cluster.until_released(&lucky).await.status.unwrap();
    assert_eq!(status.reason(), Reason::CommandExited, "{status:?}");
    assert_eq!(cluster.task(&witness).await.state(), TaskState::Running);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_starts_on_a_full_disk_with_its_tasks() {
    let mut cluster = cluster!(with_disk(64));
    let witness = start(&cluster, "exec sleep 100000").await;
    let filler = start(&cluster, "cat /dev/zero > big 2>/dev/null; exec sleep 100000").await;
    let place = cluster.agent_dir(0);
    wait_until("the disk is full", async || free_bytes(&place) < 1 << 20).await;
    let before = sleeping(&cluster, 2).await;
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let address = cluster.agent_address(0).to_owned();
    wait_until("both tasks are adopted", async || {
        page::figure(&address, "muster_agent_adopted_tasks") == Some(2.0)
    })
    .await;
    assert_eq!(processes(&cluster.residue()), before);
    for task in [witness, filler] {
        kill(&cluster, &task).await;
        assert_eq!(cluster.until_released(&task).await.state(), TaskState::Killed);
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_start_where_it_cannot_write() {
    let mut cluster = cluster!(with_disk(32));
    let directory = cluster.agent_dir(0);
    let status = cluster.agents[0].end(nix::sys::signal::Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    cluster.disk().set_read_only(true);
    let mut command = std::process::Command::new(harness::program("muster-agent"));
    command.arg("--data-dir").arg(&directory).arg("--token-file").arg(cluster.token_file());
    command.args(["--cgroup-parent", cluster.cgroup_parent(), "--listen", "127.0.0.1:0"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("Read-only file system") && said.contains("next:"), "{said}");
    cluster.disk().set_read_only(false);
    cluster.restart_agent(0);
    cluster.until_agents().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_descriptors_refuses_launches_and_recovers() {
    use nix::libc;
    let mut cluster = cluster!();
    let witness = start(&cluster, "exec sleep 100000").await;
    let agent = cluster.agents[0].pid();
    let held = fs::read_dir(format!("/proc/{agent}/fd")).unwrap().count() as u64;
    let before = limit_descriptors(agent.as_raw(), held + 2);
    let unlucky = cluster.run(script("exit 7"), 1).await.remove(0);
    let unlucky = cluster.until_released(&unlucky).await;
    let status = unlucky.status.clone().unwrap();
    assert_eq!((unlucky.state(), status.reason()), (TaskState::Failed, Reason::LaunchFailed), "{status:?}");
    assert!(
        status.message.contains(&std::io::Error::from_raw_os_error(libc::EMFILE).to_string()),
        "{status:?}"
    );
    limit_descriptors(agent.as_raw(), before);
    let lucky = cluster.run(script("exit 7"), 1).await.remove(0);
    let status = cluster.until_released(&lucky).await.status.unwrap();
    assert_eq!(status.reason(), Reason::CommandExited, "{status:?}");
    cluster.agents[0].assert_alive();
    assert_eq!(cluster.task(&witness).await.state(), TaskState::Running);
    cluster.finish().await;
}

/// Sets the soft limit of another process with the command that every Debian has; gives what it was.
fn limit_descriptors(process: i32, limit: u64) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let before = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    let mut command = std::process::Command::new("prlimit");
    command.args([format!("--pid={process}"), format!("--nofile={limit}:")]);
    let output = command.output().expect("util-linux is everywhere");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_lost_checkpoint_are_told_as_gone_and_leave_nothing() {
    let mut cluster = cluster!();
    let tasks = [start(&cluster, "exec sleep 100000").await, start(&cluster, "exec sleep 100000").await];
    cluster.agents[0].kill();
    assert_eq!(processes(&cluster.residue()).len(), 4, "two inits and two commands run on");
    fs::remove_dir_all(cluster.agent_dir(0).join("checkpoint")).unwrap();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    for id in &tasks {
        let task = cluster.until_released(id).await;
        let status = task.status.clone().unwrap();
        assert_eq!((task.state(), status.reason()), (TaskState::Gone, Reason::AgentLostTask), "{status:?}");
    }
    // Released means that nothing of them runs: the agent ends it before it says Hello.
    assert_eq!(processes(&cluster.residue()), Vec::<String>::new());
    // The agent is who it was.
    let agents = cluster.muster_output(&["agent", "list", "--output", "json"]).await;
    let agents: serde_json::Value = serde_json::from_slice(&agents.stdout).unwrap();
    assert_eq!(agents.as_array().map(Vec::len), Some(1), "{agents}");
    let next = cluster.run(TaskSpec { ..script("exit 7") }, 1).await.remove(0);
    assert_eq!(cluster.until_released(&next).await.status.unwrap().reason(), Reason::CommandExited);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_damaged_checkpoint_refuses_to_start_and_tasks_run_on() {
    let mut cluster = cluster!();
    let task = start(&cluster, "exec sleep 100000").await;
    let before = sleeping(&cluster, 1).await;
    cluster.agents[0].kill();
    let checkpoint = cluster.agent_dir(0).join("checkpoint");
    let aside = cluster.agent_dir(0).join("aside");
    // Nothing that the store could take for its own.
    for entry in fs::read_dir(&checkpoint).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
            fs::write(entry.path(), b"garbage").unwrap();
        }
    }
    cluster.restart_agent(0);
    wait_until("the agent gives up", async || !cluster.agents[0].is_alive()).await;
    let log = cluster.agents[0].log();
    assert!(log.contains("next:") && log.contains("checkpoint"), "{log}");
    assert_eq!(processes(&cluster.residue()), before, "it ends nothing that it knows nothing of");
    // What the message asks for.
    fs::rename(&checkpoint, &aside).unwrap();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let task = cluster.until_released(&task).await;
    assert_eq!(task.state(), TaskState::Gone, "{:?}", task.status);
    cluster.finish().await;
}

/// A score by which the kernel chooses whom to end when memory is gone: the higher, the sooner.
fn oom_score_adjust(process: &str) -> i32 {
    let path = format!("/proc/{process}/oom_score_adj");
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// Until it is dropped, the machine has little memory: the rest is set aside as huge pages, which costs it no time.
struct Scarce {
    before: String,
}

impl Scarce {
    const PAGES: &str = "/proc/sys/vm/nr_hugepages";

    fn leave(bytes: u64) -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
        let available: u64 = line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10;
        let before = fs::read_to_string(Self::PAGES).unwrap();
        let pages = before.trim().parse::<u64>().unwrap() + (available.saturating_sub(bytes) >> 21);
        fs::write(Self::PAGES, pages.to_string()).unwrap();
        Self { before }
    }
}

impl Drop for Scarce {
    fn drop(&mut self) {
        // The machine is the test's own and ends with it.
        let _ = fs::write(Self::PAGES, &self.before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_host_runs_out_of_memory_a_task_goes_and_never_the_agent() {
    // More than the machine has, as an operator who overcommits would say.
    let flags = ["--mem", "64GiB"].map(String::from);
    let mut cluster = cluster!(ClusterOptions { agent_flags: flags.to_vec(), ..ClusterOptions::default() });
    let witness = start(&cluster, "exec sleep 100000").await;
    let agent = oom_score_adjust(&cluster.agents[0].pid().to_string());
    let tasks = processes(&cluster.residue());
    assert_eq!(tasks.len(), 2, "an init and a command: {tasks:?}");
    for task in &tasks {
        let task = oom_score_adjust(task.split(' ').nth(1).unwrap());
        assert!(task >= agent + 200, "a task has {task}, and the agent {agent}");
    }
    if !harness::is_guest() {
        println!("skipped: the memory of a host with others on it is not filled; the scores are right");
        return cluster.finish().await;
    }
    let _scarce = Scarce::leave(256 << 20);
    let mut greedy = script("exec tail /dev/zero");
    let resources = greedy.resources.as_mut().unwrap();
    (resources.mem_mib, resources.cpus_milli) = (32 << 10, 1000);
    let greedy = cluster.run(greedy, 1).await.remove(0);
    let task = cluster.until_released(&greedy).await;
    let status = task.status.unwrap();
    println!("{}", status.message);
    assert_eq!(
        (task.state, status.reason()),
        (TaskState::Failed.into(), Reason::CommandSignaled),
        "{status:?}"
    );
    assert!(status.message.contains("the host ran out of memory"), "{}", status.message);
    cluster.agents[0].assert_alive();
    cluster.coordinator.assert_alive();
    assert_eq!(cluster.task(&witness).await.state(), TaskState::Running);
    let next = cluster.run(script("exit 7"), 1).await.remove(0);
    assert_eq!(cluster.until_released(&next).await.status.unwrap().reason(), Reason::CommandExited);
    cluster.finish().await;
}
