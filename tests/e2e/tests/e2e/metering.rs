//! What eBPF measures, seen through the whole system.

use muster_client::{
    operator::{GetAgentUsageRequest, GetUsageHistoryRequest, get_usage_history_request::Of},
    types::{TaskState, Usage},
};

use crate::{cluster, limits::usage, script};

/// The history of a task, or why there is none.
async fn history(cluster: &harness::Cluster, of: Of, since_us: i64) -> Result<Vec<Usage>, tonic::Status> {
    let request = GetUsageHistoryRequest { of: Some(of), since_us, step_ms: 0 };
    cluster.operator().get_usage_history(request).await.map(|answer| answer.into_inner().points)
}

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
    let id = cluster.run(script("/bin/true; sleep 1000; :"), 1).await.remove(0);
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
            && usage.cpu_user_ns.is_some()
            && usage.cpu_system_ns.is_some()
            && usage.cpu_periods.is_some()
            && usage.run_queue_ns.is_some()
            && usage.switches_voluntary.is_some_and(|switches| switches > 0)
            && usage.memory_anon_bytes.is_some()
            && usage.memory_file_bytes.is_some()
            && usage.memory_kernel_bytes.is_some()
            && usage.faults_minor.is_some_and(|faults| faults > 0)
            && usage.faults_major.is_some()
            && usage.reclaim_stalls.is_some()
            && usage.pressure_cpu_some_us.is_some()
            && usage.block_read_bytes.is_some()
            && usage.network_received_bytes == Some(0)
            && usage.network_retransmits == Some(0)
            && usage.connections_opened == Some(0)
            && usage.forks.is_some_and(|forks| forks >= 2)
            && usage.execs.is_some_and(|execs| execs >= 3)
    })
    .await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_has_a_history_that_outlives_its_task() {
    let mut cluster = cluster!();
    let id = cluster.run(script("while :; do :; done"), 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    let mut points = Vec::new();
    harness::wait_until("the history has four points", async || {
        points = history(&cluster, Of::TaskId(id.clone()), 0).await.unwrap_or_default();
        points.len() >= 4
    })
    .await;
    let cpu: Vec<u64> = points.iter().map(|point| point.cpu_ns.unwrap()).collect();
    assert!(cpu.is_sorted() && cpu.first() < cpu.last(), "{cpu:?}");
    assert!(points.is_sorted_by(|older, newer| older.at_us < newer.at_us));
    let later = history(&cluster, Of::TaskId(id.clone()), points[2].at_us).await.unwrap();
    assert_eq!(later.first().map(|point| point.at_us), Some(points[2].at_us));

    let hosts = cluster.operator().get_agent_usage(GetAgentUsageRequest::default()).await.unwrap();
    let host = hosts.into_inner().agents.remove(0);
    let figures = host.usage.unwrap();
    assert!(figures.cpu_ns > points[3].cpu_ns && figures.memory_bytes.is_some_and(|bytes| bytes > 0));
    assert_eq!(host.tasks_live, 1);
    assert!(!history(&cluster, Of::AgentId(host.agent_id), 0).await.unwrap().is_empty());

    let top = cluster.muster_output(&["top", "--once", "--filter", &id, "--output", "json"]).await;
    let rows: serde_json::Value = serde_json::from_slice(&top.stdout).unwrap();
    assert_eq!(rows[0]["task_id"], id);
    assert!(rows[0]["cpu_percent"].as_f64().is_some_and(|percent| percent > 0.0), "{rows}");

    // The leader begins anew with the agent's next session.
    let before = usage(&cluster, &id).await.unwrap();
    cluster.agents[0].kill();
    cluster.restart_agent(0);
    cluster.until_agents().await;
    harness::wait_until("the adopted task is reported", async || {
        usage(&cluster, &id).await.is_some_and(|now| now.at_us > before.at_us && now.cpu_ns > before.cpu_ns)
    })
    .await;

    cluster.muster_output(&["task", "kill", &id, "--grace", "1s"]).await;
    let ended = cluster.until_released(&id).await.status.unwrap().usage.unwrap();
    let last = history(&cluster, Of::TaskId(id.clone()), 0).await.unwrap().pop().unwrap();
    assert!(last.cpu_ns >= before.cpu_ns && last.cpu_ns <= ended.cpu_ns, "{last:?} {ended:?}");
    assert!(usage(&cluster, &id).await.is_none());
    let refused = history(&cluster, Of::TaskId("nobody".to_owned()), 0).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    cluster.finish().await;
}
