//! What eBPF measures, seen through the whole system.

use muster_client::types::TaskState;

use crate::{cluster, limits::usage, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_shorter_than_a_sample_is_metered() {
    let cluster = cluster!();
    let id = cluster.run(script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"), 1).await.remove(0);
    let task = cluster.until_released(&id).await;
    assert_eq!(task.state(), TaskState::Finished, "{:?}", task.status);
    let usage = task.status.unwrap().usage.expect("the last figures come with the last status");
    let cpu = usage.cpu_ns.expect("the cpu meter works here");
    println!("a short task used {cpu} ns");
    assert!(cpu > 1_000_000, "{usage:?}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_usage_has_every_figure() {
    let cluster = cluster!();
    let id = cluster.run(script("sleep 1000"), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    harness::wait_until("every figure is there", async || {
        let Some(usage) = usage(&cluster, &id).await else { return false };
        usage.cpu_ns.is_some()
            && usage.cpu_throttled_ns.is_some()
            && usage.memory_bytes.is_some_and(|bytes| bytes > 0)
            && usage.memory_working_set_bytes.is_some()
            && usage.memory_limit_bytes == Some(32 << 20)
            && usage.oom_kills == Some(0)
            && usage.processes.is_some_and(|processes| processes >= 1)
    })
    .await;
    cluster.finish().await;
}
