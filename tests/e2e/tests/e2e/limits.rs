//! What the kernel enforces.

use std::time::Duration;

use harness::{is_guest, wait_until};
use muster_client::{
    operator::GetUsageRequest,
    types::{Reason, TaskSpec, TaskState, Usage},
};

use crate::{cluster, script};

/// The meter's newest figures of a task.
pub async fn usage(cluster: &harness::Cluster, id: &str) -> Option<Usage> {
    let request = GetUsageRequest { task_ids: vec![id.to_owned()], ..GetUsageRequest::default() };
    let answer =
        cluster.connection().call(async |mut operator| operator.get_usage(request.clone()).await).await;
    answer.unwrap().tasks.into_iter().next().and_then(|task| task.usage)
}

/// CPU nanoseconds and the time of a sample that is newer than `after_us`.
async fn sample_after(cluster: &harness::Cluster, id: &str, after_us: i64) -> (u64, i64) {
    let mut found = (0, 0);
    wait_until("a new sample is there", async || {
        let Some(usage) = usage(cluster, id).await else { return false };
        found = (usage.cpu_ns.unwrap_or(0), usage.at_us);
        usage.cpu_ns.is_some_and(|cpu| cpu > 0) && usage.at_us > after_us
    })
    .await;
    found
}

/// Share of a core that a task used over a while.
async fn core_share(cluster: &harness::Cluster, id: &str, over: Duration) -> f64 {
    let (cpu, at) = sample_after(cluster, id, 0).await;
    let (later_cpu, later) = sample_after(cluster, id, at + i64::try_from(over.as_micros()).unwrap()).await;
    (later_cpu - cpu) as f64 / ((later - at) as f64 * 1000.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_of_a_core_is_a_quarter_of_a_core() {
    let cluster = cluster!();
    let mut spec = script("while :; do :; done");
    spec.resources.as_mut().unwrap().cpus_milli = 250;
    let id = cluster.run(spec, 1).await.remove(0);
    cluster.until_state(&id, TaskState::Running).await;
    // Other work on the machine can only take away from the task: then a later window tells.
    let mut shares = Vec::new();
    while shares.len() < 6 && shares.last().is_none_or(|share| *share < 0.25 * 0.95) {
        let share = core_share(&cluster, &id, Duration::from_secs(5)).await;
        println!("--cpus 0.25 got {share:.4} of a core over 5 s");
        assert!(share < 0.25 * 1.05, "got {share:.4} of a core");
        shares.push(share);
        if is_guest() {
            // In an emulated guest only the upper bound means something.
            break;
        }
    }
    let share = shares.last().copied().unwrap_or(0.0);
    assert!(is_guest() || share > 0.25 * 0.95, "got no more than {shares:?} of a core");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_share_a_busy_core() {
    if is_guest() {
        println!("skipped: weights need a core that is busy with nothing else");
        return;
    }
    let cluster = cluster!();
    let spinning = |milli: u64| {
        let mut spec = script("exec taskset -c 0 sh -c 'while :; do :; done'");
        spec.resources.as_mut().unwrap().cpus_milli = milli;
        TaskSpec { cpu_limit_milli: Some(1000), ..spec }
    };
    let light = cluster.run(spinning(200), 1).await.remove(0);
    let heavy = cluster.run(spinning(600), 1).await.remove(0);
    cluster.until_state(&light, TaskState::Running).await;
    cluster.until_state(&heavy, TaskState::Running).await;
    let over = Duration::from_secs(8);
    let (light, heavy) = tokio::join!(core_share(&cluster, &light, over), core_share(&cluster, &heavy, over));
    let ratio = heavy / light;
    println!("weights 1:3 shared one core {light:.3} : {heavy:.3}, 1:{ratio:.3}");
    assert!((2.7..=3.3).contains(&ratio), "1:{ratio:.3}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_over_its_memory_is_killed_and_says_so() {
    let cluster = cluster!();
    let bystander = cluster.run(script("sleep 1000"), 1).await.remove(0);
    cluster.until_state(&bystander, TaskState::Running).await;
    // `tail` keeps the whole of a line without end.
    let mut greedy = script("head -c 200000000 /dev/zero | tail");
    greedy.resources.as_mut().unwrap().cpus_milli = 500;
    let greedy = cluster.run(greedy, 1).await.remove(0);
    let task = cluster.until_released(&greedy).await;
    let status = task.status.unwrap();
    assert_eq!((task.state, status.reason()), (TaskState::Failed.into(), Reason::MemoryLimit), "{status:?}");
    let usage = status.usage.expect("the figures of that moment");
    assert_eq!(usage.memory_limit_bytes, Some(32 << 20));
    assert!(usage.oom_kills.is_some_and(|kills| kills > 0), "{usage:?}");
    println!("memory limit: {}; {usage:?}", status.message);
    assert_eq!(cluster.task(&bystander).await.state(), TaskState::Running, "another task was touched");
    cluster.finish().await;
}
