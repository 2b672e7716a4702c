//! Task groups: several processes that are one task.

use harness::{Cluster, wait_until};
use muster_client::types::{Exit, Process, Reason, SharedNamespaces, TaskSpec, TaskState, exit};

use crate::{cluster, running::find_folder, script};

/// A group of shell scripts by name; a name that ends in `?` is of one that isn't essential.
fn group(scripts: &[(&str, &str)]) -> TaskSpec {
    let process = |(name, script): &(&str, &str)| Process {
        name: name.trim_end_matches('?').to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        essential: (name.ends_with('?')).then_some(false),
        ..Process::default()
    };
    let mut spec = TaskSpec {
        name: "group".to_owned(),
        command: Vec::new(),
        processes: scripts.iter().map(process).collect(),
        ..script("")
    };
    let resources = spec.resources.as_mut().unwrap();
    (resources.cpus_milli, resources.mem_mib) = (200, 64);
    spec
}

fn code(code: i32) -> Option<Exit> {
    Some(Exit { how: Some(exit::How::Code(code)) })
}

async fn logs(cluster: &Cluster, id: &str, more: &[&str]) -> String {
    let arguments = [&["task", "logs", id], more].concat();
    let output = cluster.muster_output(&arguments).await;
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

async fn until_said(cluster: &Cluster, id: &str, message: &str) {
    wait_until("the status says it", async || {
        cluster.task(id).await.status.is_some_and(|status| status.message.contains(message))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_a_group_talk_over_loopback_and_share_their_sandbox() {
    let cluster = cluster!();
    let server = "echo 'in the sandbox' > file; echo hello | busybox nc -l -p 7070; sleep 1000";
    let client = "until said=$(busybox nc 127.0.0.1 7070 < /dev/null); do sleep 0.05; done; \
        echo $said; cat file; exit 3";
    let spec = TaskSpec { private_network: true, ..group(&[("server", server), ("client", client)]) };
    let id = cluster.run(spec, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    let status = task.status.unwrap();
    assert_eq!(
        (task.state, status.reason()),
        (TaskState::Failed.into(), Reason::CommandExited),
        "{status:?}"
    );
    assert_eq!((status.message.as_str(), status.exit), ("the process `client` exited with code 3", code(3)));
    assert_eq!(logs(&cluster, &id, &["--process", "client"]).await, "hello\nin the sandbox\n");
    let told = logs(&cluster, &id, &[]).await;
    assert!(told.contains("it is a group; name one of its processes: client, server"), "{told}");
    let told = logs(&cluster, &id, &["--process", "other"]).await;
    assert!(told.contains("it has no process `other`; it has client, server"), "{told}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_outgrows_its_memory_is_told() {
    let cluster = cluster!();
    let mut spec = group(&[("eater", "head -c 200000000 /dev/zero | tail"), ("other", "sleep 1000")]);
    spec.processes[0].mem_limit_mib = Some(16);
    spec.processes[0].cpu_limit_milli = Some(50);
    let id = cluster.run(spec, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    let status = task.status.unwrap();
    assert_eq!((task.state, status.reason()), (TaskState::Failed.into(), Reason::MemoryLimit), "{status:?}");
    let expected = "the process `eater` reached its memory limit of 16 MiB; the kernel killed 1 process";
    assert_eq!(status.message, expected);
    let usage = status.usage.unwrap();
    // Of the whole, which was not at its end.
    assert_eq!((usage.oom_kills, usage.memory_limit_bytes), (Some(1), Some(64 << 20)));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_essential_ends_alone_and_is_told() {
    let cluster = cluster!();
    let main = "until [ -e go ]; do sleep 0.05; done; exit 0";
    let id =
        cluster.run(group(&[("main", main), ("aside?", "exit 7"), ("well?", "exit 0")]), 1).await.remove(0);
    until_said(&cluster, &id, "the process `aside` exited with code 7").await;
    assert_eq!(cluster.task(&id).await.state(), TaskState::Running);
    let usage = wait_for_usage(&cluster, &id).await;
    assert!(usage > 0);
    std::fs::write(find_folder(&cluster, &id).join("sandbox/go"), "").unwrap();
    let task = cluster.until_released(&id).await;
    let status = task.status.unwrap();
    assert_eq!((task.state, status.exit), (TaskState::Finished.into(), code(0)));
    assert_eq!(status.message, "the process `aside` exited with code 7");
    cluster.finish().await;
}

/// CPU time of the whole, measured while it runs.
async fn wait_for_usage(cluster: &Cluster, id: &str) -> u64 {
    let mut found = 0;
    wait_until("the whole is measured", async || {
        let usage = crate::limits::usage(cluster, id).await;
        // The init, the shell, and what it has just started.
        let Some(usage) = usage.filter(|usage| usage.threads.is_some_and(|threads| threads >= 2)) else {
            return false;
        };
        found = usage.cpu_ns.unwrap_or(0);
        usage.memory_bytes.is_some_and(|bytes| bytes > 0)
    })
    .await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_killed_together_and_exec_enters_it() {
    let cluster = cluster!();
    let polite = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let spec = TaskSpec { kill_grace_ms: Some(1000), ..group(&[("polite", polite), ("stubborn", stubborn)]) };
    let id = cluster.run(spec, 1).await.remove(0);
    for name in ["polite", "stubborn"] {
        wait_until("both are ready", async || logs(&cluster, &id, &["--process", name]).await == "ready\n")
            .await;
    }
    let seen =
        cluster.muster_output(&["task", "exec", &id, "--", "sh", "-c", "echo /proc/[0-9]*; pwd"]).await;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    // The init and both processes; the others are the newcomer and what the two have started.
    let has = |place: &str| seen.split_whitespace().any(|word| word == place);
    assert!(["/proc/1", "/proc/2", "/proc/3"].iter().all(|place| has(place)), "{seen}");
    assert!(seen.trim_end().ends_with("/sandbox"), "{seen}");
    assert!(cluster.muster_output(&["task", "kill", &id]).await.status.success());
    let task = cluster.until_released(&id).await;
    let status = task.status.unwrap();
    assert_eq!(
        (task.state, status.reason()),
        (TaskState::Killed.into(), Reason::KillRequested),
        "{status:?}"
    );
    assert_eq!(logs(&cluster, &id, &["--process", "polite"]).await, "ready\nasked\n");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_survives_its_agent_and_its_end_is_exact() {
    let mut cluster = cluster!();
    let wait = |name: &str, code: i32| format!("until [ -e {name} ]; do sleep 0.05; done; exit {code}");
    let (first, second) = (wait("first", 7), wait("second", 5));
    let both = group(&[("main", &second), ("aside?", &first)]);
    let lasting = cluster.run(both.clone(), 1).await.remove(0);
    let ending = cluster.run(both, 1).await.remove(0);
    for id in [&lasting, &ending] {
        cluster.until_state(id, TaskState::Running).await;
    }
    cluster.agents[0].kill();
    // One ends while nobody looks, of the other only what isn't essential.
    for (id, files) in [(&lasting, &["first"][..]), (&ending, &["first", "second"][..])] {
        let sandbox = find_folder(&cluster, id).join("sandbox");
        files.iter().for_each(|file| std::fs::write(sandbox.join(file), "").unwrap());
    }
    cluster.restart_agent(0);
    let status = cluster.until_released(&ending).await.status.unwrap();
    assert_eq!((status.state(), status.exit), (TaskState::Failed, code(5)), "{status:?}");
    assert!(status.message.starts_with("the process `main` exited with code 5"), "{}", status.message);
    until_said(&cluster, &lasting, "the process `aside` exited with code 7").await;
    assert_eq!(cluster.task(&lasting).await.state(), TaskState::Running);
    std::fs::write(find_folder(&cluster, &lasting).join("sandbox/second"), "").unwrap();
    let status = cluster.until_released(&lasting).await.status.unwrap();
    let expected = "the process `main` exited with code 5; the process `aside` exited with code 7";
    assert_eq!((status.message.as_str(), status.exit), (expected, code(5)));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_group_that_can_not_begin_nothing_does() {
    let cluster = cluster!();
    let mut spec = group(&[("one", "echo begun"), ("two", "")]);
    spec.processes[1].command = vec!["muster-no-such-program".to_owned()];
    let id = cluster.run(spec, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    let status = task.status.unwrap();
    let told = (task.state, status.reason());
    assert_eq!(told, (TaskState::Failed.into(), Reason::CommandNotExecutable), "{status:?}");
    let expected =
        "the process `two` can't begin, and so none of its group does: can't run `muster-no-such-program`: ";
    assert!(status.message.starts_with(expected), "{}", status.message);
    assert_eq!(logs(&cluster, &id, &["--process", "one"]).await, "");

    let sound = || group(&[("one", "true"), ("two", "true")]);
    let with = |change: fn(&mut TaskSpec)| {
        let mut spec = sound();
        change(&mut spec);
        spec
    };
    for (spec, rule) in [
        (with(|spec| spec.command = vec!["true".to_owned()]), "a command or processes"),
        (with(|spec| spec.processes[1].name = "one".to_owned()), "names `one` twice"),
        (with(|spec| spec.processes[1].name = "Two".to_owned()), "the name of a process `Two` is not"),
        (
            with(|spec| spec.processes[1].command.clear()),
            "the process `two` breaks a rule: the command is empty",
        ),
        (with(|spec| spec.processes[1].mem_limit_mib = Some(65)), "of 65 is above the 64 of the whole"),
        (
            with(|spec| spec.shared_namespaces = Some(SharedNamespaces { pid: true, ipc: false })),
            "need a process namespace of their own",
        ),
    ] {
        let request = muster_client::operator::RunRequest {
            request_id: muster_client::new_request_id(),
            spec: Some(spec),
            count: Some(1),
        };
        let answer =
            cluster.connection().call(async |mut operator| operator.run(request.clone()).await).await;
        let refusal = answer.expect_err("it breaks a rule").to_string();
        assert!(refusal.contains(rule), "{refusal}");
    }
    cluster.finish().await;
}
