//! `muster dev`: one command to start, nothing left at the end, everything there at the next start.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use harness::{Residue, is_privileged, program, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

struct Dev {
    child: Child,
    listen: String,
    token: String,
}

impl Dev {
    async fn start(data: &Path, parent: &str, flags: &[&str]) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (listen, agent) = (free(), free());
        let said = fs::File::create(data.join("said")).unwrap();
        let child = Command::new(program("muster"))
            .args([
                "dev",
                "--data-dir",
                data.to_str().unwrap(),
                "--listen",
                &listen,
                "--agent-listen",
                &agent,
            ])
            .args(["--cgroup-parent", parent])
            .args(flags)
            .stdin(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut dev = Self { child, listen, token: data.join("coordinator/token").display().to_string() };
        wait_until("muster dev is up", async || {
            let said = fs::read_to_string(data.join("said")).unwrap();
            assert!(dev.child.try_wait().unwrap().is_none(), "it ended:\n{said}");
            said.contains("Muster is up")
        })
        .await;
        dev
    }

    fn muster(&self, arguments: &[&str]) -> String {
        let output = Command::new(program("muster"))
            .args(["--server", &format!("http://{}", self.listen), "--token-file", &self.token])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn end(mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        let status = tokio::task::spawn_blocking(move || self.child.wait().unwrap()).await.unwrap();
        assert!(status.success(), "muster dev ended with {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_leaves_nothing_and_comes_back_with_its_state() {
    if !is_privileged("dev_leaves_nothing_and_comes_back_with_its_state") {
        return;
    }
    let data = std::env::temp_dir().join(format!("muster-test-dev-{}", std::process::id()));
    fs::create_dir_all(&data).unwrap();
    let parent = format!("muster-test-dev-{}", std::process::id());
    let residue = Residue { cgroup_parent: parent.clone(), directory: data.clone() };

    let dev = Dev::start(&data, &parent, &[]).await;
    let over = dev.muster(&["run", "--name", "short", "--", "echo", "hi"]);
    assert_eq!(over, "hi\n");
    let id = dev.muster(&["run", "--detach", "--name", "long", "--", "sleep", "100000"]).trim().to_owned();
    wait_until("the task runs", async || dev.muster(&["task", "show", &id]).contains("running")).await;
    dev.end().await;
    assert_eq!(residue.find(), Vec::<String>::new());

    // The second start knows the first one's tasks; with --keep they go on at its end.
    let dev = Dev::start(&data, &parent, &["--keep"]).await;
    let tasks = dev.muster(&["task", "list"]);
    assert!(tasks.contains("finished") && tasks.contains(&id), "{tasks}");
    let kept = dev.muster(&["run", "--detach", "--name", "kept", "--", "sleep", "100000"]).trim().to_owned();
    wait_until("the task runs", async || dev.muster(&["task", "show", &kept]).contains("running")).await;
    dev.end().await;
    assert!(residue.find().iter().any(|line| line.starts_with("process:")), "--keep ended the task");

    let dev = Dev::start(&data, &parent, &[]).await;
    assert!(dev.muster(&["task", "show", &kept]).contains("running"));
    dev.end().await;
    let left = residue.find();
    residue.sweep();
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(left, Vec::<String>::new());
}
