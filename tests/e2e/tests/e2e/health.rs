//! Tasks that outlive their time or their health.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Cluster, ClusterOptions, page, slowness, wait_until};
use muster_client::types::{
    CommandProbe, Health, HealthCheck, HttpProbe, KillSignal, Reason, TaskSpec, TaskState, TcpProbe, exit,
    health_check::Probe,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{cluster, running::find_folder, script};

/// So many milliseconds on a host, and more where everything takes longer.
fn millis(on_a_host: u64) -> Option<u64> {
    Some(on_a_host * u64::from(slowness()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_too_long_fails_by_its_own_signal() {
    let cluster = cluster!();
    let spec = TaskSpec {
        run_time_max_ms: millis(1000),
        kill_signal: KillSignal::Usr1.into(),
        ..quick("trap 'exit 7' USR1; while :; do sleep 0.05; done")
    };
    let id = cluster.run(spec, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    let status = task.status.clone().unwrap();
    assert_eq!((task.state(), status.reason()), (TaskState::Failed, Reason::RunTimeLimit), "{status:?}");
    assert_eq!(status.exit.unwrap().how, Some(exit::How::Code(7)), "it had its time to end well");
    assert!(status.message.contains(&format!(" {} s", slowness())), "{}", status.message);

    let deaf = TaskSpec {
        run_time_max_ms: millis(500),
        kill_grace_ms: millis(200),
        ..quick("trap '' TERM; while :; do sleep 0.05; done")
    };
    let id = cluster.run(deaf, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    let status = task.status.clone().unwrap();
    assert_eq!((task.state(), status.reason()), (TaskState::Failed, Reason::RunTimeLimit), "{status:?}");
    assert_eq!(status.exit.unwrap().how, Some(exit::How::Signal(9)));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_time_is_over_although_the_agent_was_away() {
    let mut cluster = cluster!();
    let run_time = Duration::from_millis(1500) * slowness();
    let spec = TaskSpec { run_time_max_ms: millis(1500), ..script("exec sleep 1000") };
    let id = cluster.run(spec, 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    cluster.agents[0].kill();
    let killed = Instant::now();
    wait_until("its time is over", async || killed.elapsed() > run_time).await;
    cluster.restart_agent(0);
    let task = cluster.until_released(&id).await;
    let status = task.status.clone().unwrap();
    assert_eq!((task.state(), status.reason()), (TaskState::Failed, Reason::RunTimeLimit), "{status:?}");
    cluster.finish().await;
}

/// With a core for itself, so that its programs start within the time that it has.
fn quick(text: &str) -> TaskSpec {
    let mut spec = script(text);
    if let Some(resources) = &mut spec.resources {
        resources.cpus_milli = 1000;
    }
    spec
}

/// Asked often, so that a scenario is short.
fn check(probe: Probe) -> HealthCheck {
    HealthCheck {
        probe: Some(probe),
        interval_ms: millis(200),
        timeout_ms: millis(200),
        failures_max: Some(2),
        ..HealthCheck::default()
    }
}

/// The command, by `sh`, in the task's own working directory.
fn by_command(text: &str) -> Probe {
    Probe::Command(CommandProbe { command: ["sh", "-c", text].map(str::to_owned).to_vec() })
}

async fn until_health(cluster: &Cluster, id: &str, health: Health) {
    wait_until(&format!("{id} is {health:?}"), async || {
        cluster.task(id).await.status.unwrap_or_default().health() == health
    })
    .await;
}

/// A server beside the tasks, which share the network of their host. Answers with the status that is set.
async fn server(status: &Arc<AtomicU16>) -> u32 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let status = Arc::clone(status);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            // An agent that was killed in the middle says nothing.
            let _ = stream.read(&mut request).await;
            let answer = format!("HTTP/1.1 {} x\r\n\r\n", status.load(Ordering::Relaxed));
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_health_are_told_and_survive_the_agent() {
    let mut cluster = cluster!();
    let status = Arc::new(AtomicU16::new(503));
    let probe = HttpProbe { port: Some(server(&status).await), path: "/health".to_owned(), tls: false };
    let health_check = HealthCheck { start_period_ms: 3_600_000, ..check(Probe::Http(probe)) };
    let spec = TaskSpec { health_check: Some(health_check), ..script("exec sleep 1000") };
    let id = cluster.run(spec, 1).await.remove(0);
    until_health(&cluster, &id, Health::Unknown).await;
    status.store(200, Ordering::Relaxed);
    until_health(&cluster, &id, Health::Healthy).await;
    let shown = cluster.muster_output(&["task", "list"]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("running, healthy"), "{shown:?}");
    let told = cluster.task(&id).await.status.unwrap().sequence;

    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    let address = cluster.agent_address(0).to_owned();
    wait_until("the new agent asks", async || {
        page::figure(&address, "muster_agent_health_probes_total{outcome=\"passed\"}") >= Some(3.0)
    })
    .await;
    let after = cluster.task(&id).await.status.unwrap();
    assert_eq!((after.health(), after.sequence), (Health::Healthy, told), "nothing changed, nothing is told");

    status.store(500, Ordering::Relaxed);
    until_health(&cluster, &id, Health::Unhealthy).await;
    let task = cluster.task(&id).await;
    let message = task.status.clone().unwrap().message;
    assert_eq!(message, "its health check failed 2 times in a row: HTTP status 500");
    assert_eq!((task.state(), task.status.unwrap().sequence), (TaskState::Running, told + 1));
    assert_eq!(
        page::figure(&address, "muster_agent_tasks_checked{health=\"unhealthy\"}"),
        Some(1.0),
        "its agent knows, too"
    );
    assert!(cluster.muster_output(&["task", "kill", &id]).await.status.success());
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Killed);
    assert_eq!(task.status.unwrap().health(), Health::Unspecified);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_asks_inside_the_task_and_leaves_a_frozen_one_alone() {
    let cluster = cluster!();
    // In the sandbox, as the task's user, among its processes and in its groups.
    let asks = "[ $(id -u) != 0 ] && grep -q muster-init /proc/1/comm && cat /proc/self/cgroup | grep -q $MUSTER_TASK_ID \
                && { [ -e well ] || { echo not well >&2; exit 3; }; }";
    let spec = TaskSpec {
        health_check: Some(HealthCheck {
            timeout_ms: millis(5000),
            interval_ms: millis(5000),
            ..check(by_command(asks))
        }),
        ..quick("touch well; exec sleep 1000")
    };
    let id = cluster.run(spec, 1).await.remove(0);
    until_health(&cluster, &id, Health::Healthy).await;
    assert!(cluster.muster_output(&["task", "kill", &id]).await.status.success());
    cluster.until_released(&id).await;

    let spec = TaskSpec {
        health_check: Some(HealthCheck {
            timeout_ms: millis(1000),
            interval_ms: millis(1000),
            ..check(by_command(asks))
        }),
        ..quick("touch well; exec sleep 1000")
    };
    let id = cluster.run(spec, 1).await.remove(0);
    until_health(&cluster, &id, Health::Healthy).await;
    let well = find_folder(&cluster, &id).join("sandbox/well");

    assert!(cluster.muster_output(&["task", "freeze", &id]).await.status.success());
    fs::remove_file(&well).unwrap();
    let frozen = Instant::now();
    wait_until("it would have been asked", async || frozen.elapsed() > Duration::from_secs(4) * slowness())
        .await;
    assert_eq!(cluster.task(&id).await.status.unwrap().health(), Health::Healthy, "it stands still");
    assert!(cluster.muster_output(&["task", "thaw", &id]).await.status.success());
    until_health(&cluster, &id, Health::Unhealthy).await;
    let message = cluster.task(&id).await.status.unwrap().message;
    assert!(message.ends_with("the command ended with code 3: not well"), "{message}");
    assert!(cluster.muster_output(&["task", "kill", &id]).await.status.success());
    cluster.until_released(&id).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unhealthy_tasks_are_killed_within_the_budget_of_their_agent() {
    let flags = ["--unhealthy-kills-per-minute", "1"];
    let cluster = cluster!(ClusterOptions {
        agent_flags: flags.map(String::from).to_vec(),
        ..ClusterOptions::default()
    });
    let status = Arc::new(AtomicU16::new(500));
    let probe = HttpProbe { port: Some(server(&status).await), path: String::new(), tls: false };
    let check = HealthCheck { kill_when_unhealthy: true, ..check(Probe::Http(probe)) };
    let spec = TaskSpec { health_check: Some(check), ..script("exec sleep 1000") };
    let ids = cluster.run(spec, 2).await;
    let address = cluster.agent_address(0).to_owned();
    wait_until("a kill is withheld", async || {
        page::figure(&address, "muster_agent_health_kills_withheld_total") == Some(1.0)
    })
    .await;
    let mut ends = Vec::new();
    for id in &ids {
        wait_until("it was judged", async || {
            let task = cluster.task(id).await;
            task.is_released || task.status.unwrap_or_default().health() == Health::Unhealthy
        })
        .await;
    }
    wait_until("one was killed", async || {
        ends.clear();
        for id in &ids {
            let task = cluster.task(id).await;
            ends.push((task.state(), task.status.unwrap().reason()));
        }
        ends.contains(&(TaskState::Failed, Reason::Unhealthy))
    })
    .await;
    assert!(ends.contains(&(TaskState::Running, Reason::Unspecified)), "{ends:?}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_asked_in_its_own_network() {
    let cluster = cluster!();
    let port = Some(server(&Arc::new(AtomicU16::new(200))).await);
    let of_host =
        TaskSpec { health_check: Some(check(Probe::Tcp(TcpProbe { port }))), ..script("exec sleep 1000") };
    let of_its_own = TaskSpec { private_network: true, ..of_host.clone() };
    let of_host = cluster.run(of_host, 1).await.remove(0);
    let of_its_own = cluster.run(of_its_own, 1).await.remove(0);
    until_health(&cluster, &of_host, Health::Healthy).await;
    until_health(&cluster, &of_its_own, Health::Unhealthy).await;
    let message = cluster.task(&of_its_own).await.status.unwrap().message;
    assert!(message.contains("Connection refused"), "its loopback is up, and nobody listens: {message}");
    assert_eq!(cluster.task(&of_host).await.status.unwrap().health(), Health::Healthy);
    for id in [of_host, of_its_own] {
        assert!(cluster.muster_output(&["task", "kill", &id]).await.status.success());
        cluster.until_released(&id).await;
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_typed_as_one_word() {
    let cluster = cluster!();
    let output = cluster
        .muster_output(&[
            "run",
            "--health",
            "cmd:exit 1",
            "--health-interval",
            "200ms",
            "--health-failures",
            "1",
            "--health-kill",
            "--",
            "sleep",
            "1000",
        ])
        .await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_ne!(output.status.code(), Some(0));
    assert!(said.contains("failed: ended because its health check failed 1 times in a row"), "{said}");
    cluster.finish().await;
}
