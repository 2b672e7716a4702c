//! `muster dev`: a whole cluster on this machine, for as long as the command runs.
//!
//! Start-up is a list; the end is that list reversed. What the daemons say goes to files, warnings to the screen.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use muster_client::{
    Connection, Locator,
    operator::{GetStatusRequest, ListAgentsRequest},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    arguments::Dev,
    output::with_progress,
    report::{Attempted, Failure},
};

const ATTEMPTED: &str = "start a cluster on this machine";
/// A daemon that does not answer by then has a problem that its log tells.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Killing tasks may take their grace; a daemon that takes longer is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub async fn dev(options: Dev) -> Result<ExitCode, Failure> {
    if !geteuid().is_root() {
        return Err(Failure::new(
            ATTEMPTED,
            "the agent makes cgroups, mounts and loads kernel programs, which only root may",
        )
        .next("run it as root: sudo muster dev")
        .code("root-needed"));
    }
    let mut interrupts = Interrupts::new()?;
    make_private(&options.data_dir)?;
    let coordinator_dir = options.data_dir.join("coordinator");
    let token = coordinator_dir.join("token");

    let mut coordinator = Daemon::start("muster-coordinator", &options.data_dir, |command| {
        command.arg("--listen").arg(&options.listen).arg("--data-dir").arg(&coordinator_dir);
    })?;
    let locator = Locator {
        address: Some(format!("http://{}", options.listen)),
        token_file: Some(token.clone()),
        ..Locator::default()
    };
    let up = async { coordinator.until("answer", || is_leading(&locator)).await };
    let is_up = tokio::select! {
        up = with_progress("waiting for the coordinator", up) => up,
        () = interrupts.next() => Err(interrupted()),
    };
    if let Err(failure) = is_up {
        coordinator.stop().await?;
        return Err(failure);
    }

    let mut agent = Daemon::start("muster-agent", &options.data_dir, |command| {
        command.arg("--coordinator").arg(format!("http://{}", options.listen));
        command.arg("--token-file").arg(&token).arg("--data-dir").arg(options.data_dir.join("agent"));
        command.arg("--listen").arg(&options.agent_listen).arg("--cgroup-parent").arg(&options.cgroup_parent);
        if !options.keep {
            command.arg("--end-tasks-on-exit");
        }
    })?;
    let up = async { agent.until("register", || has_agent(&locator)).await };
    let is_up = tokio::select! {
        up = with_progress("waiting for the agent", up) => up,
        () = interrupts.next() => Err(interrupted()),
    };
    let outcome = match is_up {
        Ok(()) => {
            welcome(&options, &token);
            tokio::select! {
                () = interrupts.next() => Ok(()),
                status = agent.ended() => Err(agent.died(status)),
                status = coordinator.ended() => Err(coordinator.died(status)),
            }
        }
        Err(failure) => Err(failure),
    };

    let what = if options.keep {
        "stopping; tasks go on"
    } else {
        "ending the tasks, the agent and the coordinator"
    };
    eprintln!("{what}");
    let agent_end = with_progress("waiting for the agent to end", agent.stop()).await;
    let coordinator_end = with_progress("waiting for the coordinator to end", coordinator.stop()).await;
    outcome?;
    agent_end?;
    coordinator_end?;
    Ok(ExitCode::SUCCESS)
}

fn welcome(options: &Dev, token: &Path) {
    // What the command finds by itself need not be typed.
    let defaults = options.listen == "127.0.0.1:5050" && options.data_dir == Path::new("/var/lib/muster-dev");
    let program =
        std::env::current_exe().map_or_else(|_| "muster".to_owned(), |path| path.display().to_string());
    let muster = if defaults {
        program
    } else {
        format!("MUSTER_SERVER=http://{} MUSTER_TOKEN_FILE={} {program}", options.listen, token.display())
    };
    eprintln!(
        "Muster is up: one coordinator at http://{}, one agent at http://{}.

Try, in another terminal (as root):
  {muster} run --cpus 0.5 --mem 64MiB --name hello -- sh -c 'echo hi; sleep 2; exit 3'
  {muster} status
  {muster} task list
  curl http://{}/metrics

State and logs are in {}. Ctrl-C ends everything{}.",
        options.listen,
        options.agent_listen,
        options.agent_listen,
        options.data_dir.display(),
        if options.keep { " but the tasks" } else { "" },
    );
}

fn interrupted() -> Failure {
    Failure::new(ATTEMPTED, "it was interrupted").code("interrupted")
}

/// Ctrl-C and SIGTERM mean the same.
struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).attempted(ATTEMPTED)?,
            terminate: signal(SignalKind::terminate()).attempted(ATTEMPTED)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn make_private(directory: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o711).create(directory).map_err(|error| {
        Failure::new(ATTEMPTED, format!("can't make {}", directory.display())).because(error.to_string())
    })
}

async fn is_leading(locator: &Locator) -> bool {
    let Ok(connection) = Connection::open(locator) else { return false };
    let status = connection.operator().get_status(GetStatusRequest {}).await;
    status.is_ok_and(|status| status.into_inner().leader_id != 0)
}

async fn has_agent(locator: &Locator) -> bool {
    let Ok(connection) = Connection::open(locator) else { return false };
    let agents = connection.operator().list_agents(ListAgentsRequest {}).await;
    agents.is_ok_and(|agents| agents.into_inner().agents.iter().any(|agent| agent.is_reachable))
}

/// One daemon that this command started.
struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Copies what the daemon says; ends when the daemon does.
    reader: JoinHandle<()>,
}

impl Daemon {
    fn start(
        name: &'static str,
        data_dir: &Path,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self, Failure> {
        let beside = std::env::current_exe().attempted(ATTEMPTED)?.with_file_name(name);
        if !beside.exists() {
            return Err(Failure::new(ATTEMPTED, format!("there is no {}", beside.display()))
                .next("build all programs (`cargo xtask dev` does), or install the package that has it"));
        }
        let log = data_dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).map_err(|error| {
            Failure::new(ATTEMPTED, format!("can't write {}", log.display())).because(error.to_string())
        })?;
        let mut command = Command::new(&beside);
        configure(&mut command);
        // Its own process group: Ctrl-C comes to this command alone, which ends them in order.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Failure::new(ATTEMPTED, format!("can't start {}", beside.display())).because(error.to_string())
        })?;
        let stderr = child.stderr.take();
        let reader = tokio::spawn(async move {
            if let Some(stderr) = stderr {
                copy_log(name, stderr, file).await;
            }
        });
        Ok(Self { name, child, log, reader })
    }

    /// Waits until `is_so`; a daemon that ends meanwhile is a failure.
    async fn until<F, Fut>(&mut self, what: &str, is_so: F) -> Result<(), Failure>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = bool>,
    {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if is_so().await {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.died(Ok(status)));
            }
            if Instant::now() > deadline {
                let seconds = START_PATIENCE.as_secs();
                return Err(Failure::new(
                    ATTEMPTED,
                    format!("{} did not {what} within {seconds} s", self.name),
                )
                .next(format!("its log says more: {}", self.log.display())));
            }
            sleep(POLL).await;
        }
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// What to say when it ended by itself.
    fn died(&self, status: io::Result<ExitStatus>) -> Failure {
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let mut why = format!("{} ended: {how}", self.name);
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(6).collect();
        for line in last.into_iter().rev() {
            why += &format!("\n       {line}");
        }
        Failure::new(ATTEMPTED, why).next(format!("its log says more: {}", self.log.display()))
    }

    /// Asks it to end, and kills it when it does not.
    async fn stop(&mut self) -> Result<(), Failure> {
        let attempted = format!("stop {}", self.name);
        let failed = |why: String| Failure::new(&attempted, why);
        if let Some(id) = self.child.id() {
            let pid = Pid::from_raw(i32::try_from(id).map_err(|error| failed(error.to_string()))?);
            kill(pid, Signal::SIGTERM).map_err(|error| failed(error.to_string()))?;
            if timeout(STOP_PATIENCE, self.child.wait()).await.is_err() {
                self.child.kill().await.map_err(|error| failed(error.to_string()))?;
                return Err(failed(format!(
                    "it did not end within {} s and was killed",
                    STOP_PATIENCE.as_secs()
                ))
                .next(format!("its log says more: {}", self.log.display())));
            }
        }
        // The reader ends with the pipe; a grandchild that holds it must not hold us.
        if timeout(Duration::from_secs(1), &mut self.reader).await.is_err() {
            self.reader.abort();
        }
        Ok(())
    }
}

async fn copy_log(name: &str, stderr: impl tokio::io::AsyncRead + Unpin, mut file: File) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let text = String::from_utf8_lossy(&line);
        // A full disk must not stop the daemons: what can't be kept is still shown.
        let is_kept = writeln!(file, "{text}").is_ok();
        if !is_kept || text.contains(" WARN ") || text.contains("ERROR ") {
            eprintln!("{name}: {text}");
        }
    }
}
