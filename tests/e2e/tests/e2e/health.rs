//! Tasks that outlive their time or their health.

use std::time::{Duration, Instant};

use harness::wait_until;
use muster_client::types::{KillSignal, Reason, TaskSpec, TaskState, exit};

use crate::{cluster, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_too_long_fails_by_its_own_signal() {
    let cluster = cluster!();
    let spec = TaskSpec {
        run_time_max_ms: Some(500),
        kill_signal: KillSignal::Usr1.into(),
        ..script("trap 'exit 7' USR1; while :; do sleep 0.05; done")
    };
    let id = cluster.run(spec, 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    let status = task.status.clone().unwrap();
    assert_eq!((task.state(), status.reason()), (TaskState::Failed, Reason::RunTimeLimit), "{status:?}");
    assert_eq!(status.exit.unwrap().how, Some(exit::How::Code(7)), "it had its time to end well");
    assert!(status.message.contains("0.5 s"), "{}", status.message);

    let deaf = TaskSpec {
        run_time_max_ms: Some(200),
        kill_grace_ms: Some(200),
        ..script("trap '' TERM; while :; do sleep 0.05; done")
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
    let spec = TaskSpec { run_time_max_ms: Some(1500), ..script("exec sleep 1000") };
    let id = cluster.run(spec, 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    cluster.agents[0].kill();
    let killed = Instant::now();
    wait_until("its time is over", async || killed.elapsed() > Duration::from_millis(1500)).await;
    cluster.restart_agent(0);
    let task = cluster.until_released(&id).await;
    let status = task.status.clone().unwrap();
    assert_eq!((task.state(), status.reason()), (TaskState::Failed, Reason::RunTimeLimit), "{status:?}");
    cluster.finish().await;
}
