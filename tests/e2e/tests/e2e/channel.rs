//! Conversations with tasks: exec, files, freeze; and what is left when either side dies in the middle.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use harness::{Cluster, little_cpu, wait_until};
use muster_client::{
    ClientError, ExecOptions, ExecOutput, Said,
    types::{Resources, TaskSpec, TaskState, exit::How},
};
use nix::sys::signal::Signal;

use crate::{cluster, running::find_folder, script};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn sh(command: &str) -> ExecOptions {
    ExecOptions { command: ["sh", "-c", command].map(String::from).to_vec(), ..ExecOptions::default() }
}

/// A running task that does nothing but wait.
async fn sleeper(cluster: &Cluster) -> String {
    let mut spec = script("echo up; while :; do sleep 0.1; done");
    spec.pids_limit = Some(16);
    spec.cpu_limit_milli = Some(2000);
    spec.env = BTreeMap::from([("COLOUR".to_owned(), "green".to_owned())]);
    let id = cluster.run(spec, 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    id
}

async fn exec(cluster: &Cluster, id: &str, command: &str) -> ExecOutput {
    cluster.connection().exec_output(id, sh(command), Vec::new()).await.unwrap()
}

fn code(error: &ClientError) -> &str {
    error.code()
}

/// Processes of a task, by their v2 cgroup, that have this word among their arguments.
fn processes(cluster: &Cluster, id: &str, word: &str) -> Vec<String> {
    let attempt = find_folder(cluster, id).file_name().unwrap().to_string_lossy().into_owned();
    let group = cgroup2_root().join(cluster.cgroup_parent()).join(attempt);
    let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.lines()
        .filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
        })
        .map(str::to_owned)
        .collect()
}

fn cgroup2_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find(|fields| fields[2] == "cgroup2").map(|fields| fields[1].into()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_inside_the_task_and_ends_with_the_exit_code() {
    let cluster = cluster!();
    let id = sleeper(&cluster).await;
    let output = exec(&cluster, &id, "echo out; echo err >&2; exit 7").await;
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("out\n", "err\n"));
    assert_eq!(output.exit, Some(How::Code(7)));
    let output = exec(&cluster, &id, "kill -9 $$").await;
    assert_eq!(output.exit, Some(How::Signal(9)));

    // The task's namespaces, user, variables and directory; no rights beyond the task's.
    let output =
        exec(&cluster, &id, "readlink /proc/1/exe; id -u; echo $COLOUR; pwd; ls -d /proc/[0-9]* | wc -l")
            .await;
    let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(lines[lines.len() - 4..][..2], ["65534", "green"], "{output:?}");
    assert_eq!(lines[lines.len() - 2], find_folder(&cluster, &id).join("sandbox").display().to_string());
    let seen: u32 = lines[lines.len() - 1].trim().parse().unwrap();
    assert!(seen < 16, "it sees {seen} processes");
    let output = exec(&cluster, &id, "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status").await;
    let status = text(&output.stdout);
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    // And no descriptor of the agent's.
    let output = exec(&cluster, &id, "ls /proc/self/fd | tr '\\n' ' '").await;
    assert_eq!(text(&output.stdout), "0 1 2 3 ", "the fourth is of ls itself");

    // Input to its end, of a size that no pipe holds.
    let input: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let options = ExecOptions { has_input: true, ..sh("sha256sum") };
    let output = cluster.connection().exec_output(&id, options.clone(), input.clone()).await.unwrap();
    let options = ExecOptions { has_input: true, ..sh("cat") };
    let back = cluster.connection().exec_output(&id, options, input.clone()).await.unwrap();
    assert_eq!(output.exit, Some(How::Code(0)));
    assert!(back.stdout == input, "{} of {} bytes came back", back.stdout.len(), input.len());

    // The command line does the same.
    let output = cluster.muster_output(&["task", "exec", &id, "--", "sh", "-c", "echo hi; exit 3"]).await;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(3), "hi\n"));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_refused_with_a_reason() {
    let cluster = cluster!();
    let id = sleeper(&cluster).await;
    let connection = cluster.connection();
    let command = |words: &[&str]| ExecOptions {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        ..ExecOptions::default()
    };
    let error = connection.exec(&id, command(&["/no/such/program"])).await.err().unwrap();
    assert_eq!(code(&error), "exec-failed", "{error}");
    let there = ExecOptions { cwd: Some("/no/such/place".to_owned()), ..sh("true") };
    let error = connection.exec(&id, there).await.err().unwrap();
    assert_eq!(code(&error), "exec-failed", "{error}");
    let error = connection.exec(&id, command(&[])).await.err().unwrap();
    assert_eq!(code(&error), "invalid-argument", "{error}");
    let error = connection.exec("no-such-task", sh("true")).await.err().unwrap();
    assert_eq!(code(&error), "task-unknown", "{error}");

    let over = cluster.run(script("exit 0"), 1).await.remove(0);
    cluster.until_released(&over).await;
    let error = connection.exec(&over, sh("true")).await.err().unwrap();
    assert_eq!(code(&error), "task-not-running", "{error}");

    // The bound on conversations with one task; one that ends makes room.
    let mut open = Vec::new();
    let error = loop {
        match connection.exec(&id, command(&["sleep", "1000"])).await {
            Ok(channel) => open.push(channel),
            Err(error) => break error,
        }
    };
    assert_eq!((code(&error), open.len()), ("busy", 8), "{error}");
    open.pop();
    wait_until("there is room again", async || {
        connection.exec_output(&id, sh("true"), Vec::new()).await.is_ok()
    })
    .await;
    drop(open);
    wait_until("what was executed has ended", async || processes(&cluster, &id, "1000").is_empty()).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_counts_in_the_tasks_limits_and_ends_with_it() {
    let cluster = cluster!();
    let id = sleeper(&cluster).await;
    // Sixteen processes at most, in all.
    let output =
        exec(&cluster, &id, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 900 & done; wait")
            .await;
    assert!(text(&output.stderr).contains("fork"), "{output:?}");
    assert_ne!(output.exit, Some(How::Code(0)));
    // What was left in its session ended with it; the task goes on.
    wait_until("the session is empty", async || processes(&cluster, &id, "900").is_empty()).await;
    assert_eq!(cluster.task(&id).await.state(), TaskState::Running);
    // 32 MiB for all of the task.
    let output = exec(&cluster, &id, "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c").await;
    assert_ne!(text(&output.stdout).trim(), "90000000", "{output:?}");

    let mut channel = cluster.connection().exec(&id, sh("exec sleep 800")).await.unwrap();
    cluster.muster_output(&["task", "kill", &id]).await;
    let end = channel.next().await;
    assert_eq!(end.unwrap(), Said::Ended(Some(How::Signal(9))), "the task's end is its end");
    cluster.until_released(&id).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_has_a_terminal_of_the_right_size() {
    let cluster = cluster!();
    let id = sleeper(&cluster).await;
    let script = "tty; stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done";
    let options = ExecOptions { terminal: Some((33, 101)), has_input: true, ..sh(script) };
    let mut channel = cluster.connection().exec(&id, options).await.unwrap();
    let mut output = String::new();
    let mut is_told = false;
    let exit = loop {
        match channel.next().await.unwrap() {
            Said::Data { data, .. } => output += &text(&data),
            Said::Ended(exit) => break exit,
            Said::Files { .. } => panic!("files"),
        }
        if output.contains("ready") && !is_told {
            is_told = true;
            channel.sender().resize(44, 120).await.unwrap();
        }
    };
    let lines: Vec<&str> = output.split("\r\n").collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{output}");
    assert_eq!(lines[1..4], ["33 101", "ready", "44 120"], "{output}");
    assert_eq!(exit, Some(How::Code(5)));

    // Ctrl-C at the terminal goes to the command, and its end ends the conversation.
    let options =
        ExecOptions { terminal: Some((24, 80)), has_input: true, ..sh("echo ready; exec sleep 700") };
    let mut channel = cluster.connection().exec(&id, options).await.unwrap();
    while !matches!(channel.next().await.unwrap(), Said::Data { data, .. } if text(&data).contains("ready")) {
    }
    channel.sender().data(b"\x03").await.unwrap();
    let exit = loop {
        if let Said::Ended(exit) = channel.next().await.unwrap() {
            break exit;
        }
    };
    assert_eq!(exit, Some(How::Signal(2)));

    // Without one, a signal is passed on.
    let mut channel = cluster.connection().exec(&id, sh("echo ready; exec sleep 700")).await.unwrap();
    while !matches!(channel.next().await.unwrap(), Said::Data { .. }) {}
    channel.sender().signal(15).await.unwrap();
    assert_eq!(channel.next().await.unwrap(), Said::Ended(Some(How::Signal(15))));
    cluster.finish().await;
}

/// `muster task exec -i`, with something in the task that hangs on: it ignores SIGHUP and the end of its input.
fn stubborn(cluster: &Cluster, id: &str, number: &str) -> Child {
    let mut command = cluster.muster();
    let script = format!("trap '' HUP TERM; echo ready; while :; do sleep {number}; done");
    let child = command
        .args(["task", "exec", "-i", id, "--", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_leaves_nothing_in_the_task() {
    let cluster = cluster!();
    let id = sleeper(&cluster).await;
    let mut child = stubborn(&cluster, &id, "600");
    wait_until("it runs", async || !processes(&cluster, &id, "600").is_empty()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("it is gone", async || processes(&cluster, &id, "600").is_empty()).await;
    assert_eq!(cluster.task(&id).await.state(), TaskState::Running);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_during_an_exec_ends_it_at_its_return() {
    let mut cluster = cluster!();
    let id = sleeper(&cluster).await;
    let mut child = stubborn(&cluster, &id, "500");
    wait_until("it runs", async || !processes(&cluster, &id, "500").is_empty()).await;
    cluster.agents[0].kill();
    let status = tokio::task::spawn_blocking(move || {
        let mut stderr = Vec::new();
        let status = child.wait().unwrap();
        if let Some(mut pipe) = child.stderr.take() {
            pipe.read_to_end(&mut stderr).unwrap();
        }
        status
    });
    assert_ne!(status.await.unwrap().code(), Some(0), "the caller hears of it");
    cluster.restart_agent(0);
    cluster.until_agents().await;
    wait_until("it is gone", async || processes(&cluster, &id, "500").is_empty()).await;
    // The task noticed nothing.
    assert_eq!(cluster.task(&id).await.state(), TaskState::Running);
    assert_eq!(text(&exec(&cluster, &id, "echo still here").await.stdout), "still here\n");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_dies_during_an_exec_and_nothing_is_left() {
    let mut cluster = cluster!();
    let id = sleeper(&cluster).await;
    let mut child = stubborn(&cluster, &id, "400");
    wait_until("it runs", async || !processes(&cluster, &id, "400").is_empty()).await;
    cluster.coordinator.kill();
    assert_ne!(tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap().code(), Some(0));
    wait_until("it is gone", async || processes(&cluster, &id, "400").is_empty()).await;
    cluster.restart_coordinator().await;
    cluster.until_agents().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_back_as_they_were() {
    let cluster = cluster!();
    let id = sleeper(&cluster).await;
    let here = cluster.directory().join("here");
    let strange = "späße -rf \n; $(x)";
    fs::create_dir_all(here.join("tree/empty")).unwrap();
    fs::write(here.join("tree").join(strange), "strange").unwrap();
    fs::write(here.join("tree/large"), vec![42; 5_000_000]).unwrap();
    symlink("/etc/shadow", here.join("tree/link")).unwrap();
    let there = format!("{id}:");
    let tree = here.join("tree").display().to_string();
    let copied = cluster.muster_output(&["task", "cp", &tree, &there]).await;
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    let sandbox = find_folder(&cluster, &id).join("sandbox");
    assert_eq!(fs::metadata(sandbox.join("tree/large")).unwrap().uid(), 65534, "it is the task's user's");
    let output = exec(&cluster, &id, "wc -c < tree/large; echo more > tree/more; rm tree/large").await;
    assert_eq!(text(&output.stdout).trim(), "5000000", "{output:?}");

    let back = here.join("back").display().to_string();
    let copied = cluster.muster_output(&["task", "cp", &format!("{id}:tree"), &back]).await;
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    assert_eq!(fs::read_to_string(here.join("back").join(strange)).unwrap(), "strange");
    assert_eq!(fs::read_to_string(here.join("back/more")).unwrap(), "more\n");
    assert_eq!(fs::read_link(here.join("back/link")).unwrap(), Path::new("/etc/shadow"));
    assert!(here.join("back/empty").is_dir() && !here.join("back/large").exists());

    // What leads out of the sandbox is refused, and nothing of it is read.
    exec(&cluster, &id, "ln -s /etc etc; ln -s ../exit up; mkfifo pipe; ln -s /proc/1/root root").await;
    for path in ["etc/hostname", "up", "pipe", "root/etc/hostname", "../stdout", "/etc/hostname"] {
        let output = cluster.muster_output(&["task", "cp", &format!("{id}:{path}"), &back]).await;
        assert!(text(&output.stderr).contains("code:  file-refused"), "{path}: {}", text(&output.stderr));
    }
    let small = here.join("small").display().to_string();
    fs::write(&small, "small").unwrap();
    for path in ["etc/evil", "../evil", "etc", "/etc/evil"] {
        let output = cluster.muster_output(&["task", "cp", &small, &format!("{id}:{path}")]).await;
        assert!(text(&output.stderr).contains("code:  file-refused"), "{path}: {}", text(&output.stderr));
    }
    assert!(!Path::new("/etc/evil").exists() && !sandbox.join("../evil").exists());
    let output = cluster.muster_output(&["task", "cp", &format!("{id}:nothing"), &back]).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));

    // What is larger than the task's disk is refused whole, with what would have fitted.
    let disk = Resources { cpus_milli: little_cpu(), mem_mib: 32, disk_mib: 2, ..Resources::default() };
    let spec = TaskSpec { resources: Some(disk), ..script("exec sleep 1000") };
    let narrow = cluster.run(spec, 1).await.remove(0);
    cluster.until_state(&narrow, TaskState::Running).await;
    let output = cluster.muster_output(&["task", "cp", &tree, &format!("{narrow}:")]).await;
    assert!(text(&output.stderr).contains("code:  file-refused"), "{}", text(&output.stderr));
    let folder = find_folder(&cluster, &narrow);
    assert_eq!(fs::read_dir(folder.join("sandbox")).unwrap().count(), 0);
    let names = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("incoming")).collect();
    assert!(left.is_empty(), "{left:?}");
    let copied = cluster.muster_output(&["task", "cp", &small, &format!("{narrow}:")]).await;
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    cluster.muster_output(&["task", "kill", &narrow]).await;

    // A list says what is there, of a task that is over, too.
    let files = |path: &'static str| {
        let (cluster, id) = (&cluster, &id);
        async move {
            let output = cluster.muster_output(&["--output", "json", "task", "files", id, path]).await;
            assert!(output.status.success(), "{}", text(&output.stderr));
            let files: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let name =
                |file: &serde_json::Value| format!("{} {}", file["name"], file["kind"]).replace('"', "");
            files.as_array().unwrap().iter().map(name).collect::<Vec<_>>()
        }
    };
    assert_eq!(files("").await, ["etc link", "pipe other", "root link", "tree directory", "up link"]);
    cluster.muster_output(&["task", "kill", &id]).await;
    cluster.until_released(&id).await;
    assert_eq!(files("tree/more").await, ["more file"]);
    let output = cluster.muster_output(&["task", "cp", &small, &there]).await;
    assert!(text(&output.stderr).contains("code:  task-not-running"), "{}", text(&output.stderr));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_task_stands_still_through_a_restart_and_can_be_killed() {
    let mut cluster = cluster!();
    let id =
        cluster.run(script("trap 'exit 9' TERM; while :; do echo tick; sleep 0.02; done"), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    let stdout = find_folder(&cluster, &id).join("stdout");
    let length = || fs::metadata(&stdout).unwrap().len();
    wait_until("it ticks", async || length() > 0).await;
    let output = cluster.muster_output(&["task", "freeze", &id]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let frozen_at = length();
    let is_shown = async |cluster: &Cluster| {
        let output = cluster.muster_output(&["--output", "json", "task", "show", &id]).await;
        let view: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        view["is_frozen"].as_bool()
    };
    assert_eq!(is_shown(&cluster).await, Some(true));
    let error = cluster.connection().exec(&id, sh("true")).await.err().unwrap();
    assert_eq!(code(&error), "task-not-running", "{error}");

    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    wait_until("the new agent has told", async || is_shown(&cluster).await == Some(true)).await;
    assert_eq!(length(), frozen_at, "it has not moved");

    let output = cluster.muster_output(&["task", "thaw", &id]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    wait_until("it ticks again", async || length() > frozen_at).await;
    wait_until("it is shown", async || is_shown(&cluster).await == Some(false)).await;

    // A kill thaws it, so that it can end as it wants to.
    cluster.muster_output(&["task", "freeze", &id]).await;
    cluster.muster_output(&["task", "kill", &id]).await;
    let task = cluster.until_released(&id).await;
    assert_eq!(task.status.unwrap().exit.unwrap().how, Some(How::Code(9)));
    let error = cluster.connection().set_frozen(&id, true).await.unwrap_err();
    assert_eq!(code(&error), "task-not-running", "{error}");
    cluster.finish().await;
}

/// What `attach --stdin` does with this input, or as long as its stdin stays open.
fn attach(cluster: &Cluster, id: &str) -> Child {
    let mut command = cluster.muster();
    command.args(["task", "attach", "--stdin", id]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_outlives_who_writes_it_and_the_agent_and_ends_when_it_is_told() {
    let mut cluster = cluster!();
    let spec = TaskSpec {
        stdin: true,
        ..script("while read -r line; do echo \"got $line\"; done; echo over; exit 3")
    };
    let id = cluster.run(spec, 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    let stdout = find_folder(&cluster, &id).join("stdout");
    let written = || fs::read_to_string(&stdout).unwrap();

    // Who leaves without a word has not ended it; a second at a time is refused.
    let mut first = attach(&cluster, &id);
    first.stdin.as_ref().unwrap().write_all(b"one\n").unwrap();
    wait_until("it reads", async || written() == "got one\n").await;
    let refused = cluster.connection().write_input(&id).await.err().unwrap();
    assert_eq!(code(&refused), "input-refused", "{refused}");
    first.kill().unwrap();
    first.wait().unwrap();

    // Nor has the agent by its death.
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let mut next = None;
    wait_until("the input is free again", async || {
        next = cluster.connection().write_input(&id).await.ok();
        next.is_some()
    })
    .await;
    let next = next.unwrap();
    next.sender().data(b"two\n").await.unwrap();
    wait_until("it reads on", async || written() == "got one\ngot two\n").await;
    drop(next);
    assert_eq!(cluster.task(&id).await.state(), TaskState::Running);

    // The end of stdin is the end of the input, and the task's last words are shown.
    let mut last = None;
    wait_until("the input is free again", async || {
        let mut child = attach(&cluster, &id);
        child.stdin.take().unwrap().write_all(b"three\nfour").unwrap();
        let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        let is_refused = text(&output.stderr).contains("input-refused");
        last = Some(output);
        !is_refused
    })
    .await;
    let last = last.unwrap();
    assert_eq!(text(&last.stdout), "got three\nover\n", "{}", text(&last.stderr));
    assert_eq!(last.status.code(), Some(3), "{}", text(&last.stderr));
    cluster.until_released(&id).await;

    // In one go; an input that no pipe holds; and a task that reads none of it.
    let lines = "line\n".repeat(100_000);
    for (command, input, expected) in
        [("wc -l", lines.as_str(), "100000\n"), ("exec <&-; echo deaf", lines.as_str(), "deaf\n")]
    {
        let mut child = cluster.muster();
        child.args(["run", "--stdin", "--cpus", "0.2", "--", "sh", "-c", command]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
        let output = tokio::task::spawn_blocking(move || {
            // Nobody needs to read it all.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        assert_eq!((text(&output.stdout).trim_start(), output.status.code()), (expected, Some(0)));
    }

    // Those who did not ask for one have none.
    let plain = sleeper(&cluster).await;
    let refused = cluster.connection().write_input(&plain).await.err().unwrap();
    assert_eq!(code(&refused), "input-refused", "{refused}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_shows_what_comes_and_ends_with_the_task() {
    let cluster = cluster!();
    let text_of_script = "echo before; while [ ! -e go ]; do echo tick; echo tock >&2; sleep 0.05; done; \
                          echo after; echo err >&2; exit 4";
    let id = cluster.run(script(text_of_script), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    let folder = find_folder(&cluster, &id);
    wait_until("it wrote", async || fs::metadata(folder.join("stdout")).is_ok_and(|data| data.len() > 0))
        .await;
    let mut command = cluster.muster();
    let child = command.args(["task", "attach", &id]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let attached = tokio::task::spawn_blocking(move || {
        let (mut stdout, mut stderr) = (BufReader::new(stdout), BufReader::new(stderr));
        let (mut out, mut err) = (String::new(), String::new());
        // Something of both, so that both are followed; then the end.
        stdout.read_line(&mut out).unwrap();
        stderr.read_line(&mut err).unwrap();
        fs::write(folder.join("sandbox/go"), "").unwrap();
        stdout.read_to_string(&mut out).unwrap();
        stderr.read_to_string(&mut err).unwrap();
        (out, err, child.wait().unwrap())
    });
    let (out, err, status) = attached.await.unwrap();
    assert!(out.ends_with("tick\nafter\n") && !out.contains("before"), "{out}");
    assert!(err.contains("tock\nerr\n"), "{err}");
    assert_eq!(status.code(), Some(4));

    // Ctrl-C only stops looking.
    let other = sleeper(&cluster).await;
    let mut child = cluster.muster().args(["task", "attach", &other]).spawn().unwrap();
    wait_until("it is followed", async || {
        harness::page::figure(cluster.address(), "muster_coordinator_streams_open{stream=\"output\"}")
            == Some(2.0)
    })
    .await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT)
        .unwrap();
    assert!(tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap().success());
    assert_eq!(cluster.task(&other).await.state(), TaskState::Running);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_can_be_asked_by_time_and_by_pattern() {
    let cluster = cluster!();
    // Two bursts, as far apart as the test says.
    let script_text = "echo first error; echo first fine; while [ ! -e go ]; do sleep 0.05; done; \
                       echo second error; echo second fine; printf 'no newline error'; while :; do sleep 1; done";
    let id = cluster.run(script(script_text), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    let folder = find_folder(&cluster, &id);
    // Each note is a time and a length, of eight bytes each.
    let noted = || {
        let notes = fs::read(folder.join("stdout.times")).ok()?;
        Some(u64::from_le_bytes(notes.last_chunk::<8>().copied()?))
    };
    wait_until("the first burst was noted", async || noted() == Some(23)).await;
    let noted_at = std::time::Instant::now();
    // What is looked for is younger than this, and what is not is older: notes are a second apart. Half of it is
    // for the command to start.
    let apart = harness::patience() / 15;
    wait_until("it is old", async || noted_at.elapsed() >= apart).await;
    fs::write(folder.join("sandbox/go"), "").unwrap();
    let released_at = std::time::Instant::now();
    wait_until("the second burst was noted", async || noted() == Some(64)).await;
    let logs = async |more: &[&str]| {
        let output = cluster.muster_output(&[&["task", "logs", &id][..], more].concat()).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let since = || format!("{}ms", (released_at.elapsed() + apart / 2).as_millis());
    assert_eq!(logs(&["--since", &since()]).await, "second error\nsecond fine\nno newline error");
    assert_eq!(logs(&["--since", "1h"]).await, logs(&[]).await);
    assert_eq!(logs(&["--grep", "err.r$"]).await, "first error\nsecond error\nno newline error");
    assert_eq!(logs(&["--since", &since(), "--grep", "^second"]).await, "second error\nsecond fine\n");
    let output = cluster.muster_output(&["task", "logs", &id, "--grep", "("]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    // Of a task that is over nothing is new.
    cluster.muster_output(&["task", "kill", &id, "--grace", "100ms"]).await;
    cluster.until_released(&id).await;
    assert_eq!(logs(&["--since", "1ms"]).await, "");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_command_of_a_task() {
    let cluster = cluster!();
    let spec = script("trap 'echo heard' HUP; echo up; while :; do sleep 0.05; done");
    let id = cluster.run(spec, 1).await.remove(0);
    let wrote = async |word: &str| {
        let output = cluster.muster_output(&["task", "logs", &id]).await;
        text(&output.stdout).contains(word)
    };
    wait_until("it listens", async || wrote("up").await).await;
    // Its first words may be heard before its state is.
    cluster.until_state(&id, TaskState::Running).await;
    let sent = cluster.muster_output(&["task", "signal", &id, "SIGHUP"]).await;
    assert!(sent.status.success(), "{sent:?}");
    wait_until("the signal is heard", async || wrote("heard").await).await;
    let stopped = cluster.muster_output(&["task", "signal", &id, "STOP"]).await;
    assert!(text(&stopped.stderr).contains("freeze the task instead"), "{stopped:?}");
    let sent = cluster.muster_output(&["task", "signal", &id, "USR1"]).await;
    assert!(sent.status.success(), "{sent:?}");
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Failed);
    let exit = task.status.and_then(|status| status.exit).and_then(|exit| exit.how);
    assert_eq!(exit, Some(How::Signal(10)));
    let late = cluster.muster_output(&["task", "signal", &id, "HUP"]).await;
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    cluster.finish().await;
}
