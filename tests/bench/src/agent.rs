//! One whole agent, under a coordinator of its own: what it costs at rest, how launches and kills go in
//! bulk, how a launch grows dearer with what runs already, how soon a restart has all tasks in hand.
//!
//! Mesos' published times for bulk stand beside: 1 000 launches on one agent 30.6 s, 1 000 kills 22 s
//! (their hardware; the ratio says little, the order of magnitude does).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, ClusterOptions, page, run_spec, wait_until};
use muster_client::operator::{KillTaskRequest, WatchTasksRequest};
use muster_client::types::{Resources, TaskSpec, TaskState};
use muster_client::{is_final, new_request_id};
use tokio::task::JoinSet;

use crate::launch::Spread;
use crate::process::{cpu_time, resident_bytes};

const MESOS_LAUNCHES: Duration = Duration::from_millis(30_600);
const MESOS_KILLS: Duration = Duration::from_secs(22);

/// Kills that are asked for at the same time.
const KILLS_AT_ONCE: usize = 64;

/// `bench agent`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many tasks run, step by step
    #[arg(long, value_delimiter = ',', default_value = "0,10,100,1000")]
    running: Vec<usize>,
    /// Single launches at each step
    #[arg(long, default_value_t = 100)]
    launches: usize,
    /// Seconds of rest at each step
    #[arg(long, default_value_t = 20)]
    rest: u64,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "control groups need root");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: &Args) -> Result<()> {
    let flags = ["--cpus", "4000", "--mem", "1TiB"].map(str::to_owned).to_vec();
    let mut cluster =
        Cluster::start(ClusterOptions { agent_flags: flags, ..ClusterOptions::default() }).await;
    println!(
        "{:>8} {:>16} {:>14} {:>16} {:>20} {:>10}",
        "running", "agent's memory", "its CPU", "coordinator's", "launch to end p50", "p99"
    );
    let mut sleepers: Vec<String> = Vec::new();
    for count in &args.running {
        let missing = count.saturating_sub(sleepers.len());
        if missing > 0 {
            sleepers.extend(cluster.run(sleeper(), u32::try_from(missing)?).await);
            until_all(&cluster, &sleepers, |state| state == TaskState::Running).await?;
        }
        // What the launches left to do is not rest.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let rest = Duration::from_secs(args.rest);
        let (agent, coordinator) = (cluster.agents[0].pid(), cluster.coordinator.pid());
        let before = (cpu_time(agent)?, cpu_time(coordinator)?);
        tokio::time::sleep(rest).await;
        let share = |process, before: Duration| -> Result<f64> {
            Ok((cpu_time(process)? - before).as_secs_f64() / rest.as_secs_f64() * 100.0)
        };
        let (of_agent, of_coordinator) = (share(agent, before.0)?, share(coordinator, before.1)?);
        let memory = resident_bytes(agent)? >> 10;
        let mut each = Vec::new();
        for _ in 0..args.launches {
            each.push(one_life(&cluster).await?);
        }
        each.sort();
        let ms = |hundredth: usize| {
            each.get((each.len() - 1) * hundredth / 100).map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
        };
        println!(
            "{count:>8} {memory:>12} KiB {of_agent:>12.2} % {of_coordinator:>14.2} % {:>17.1} ms {:>7.1} ms",
            ms(50),
            ms(99)
        );
    }
    adoption(&mut cluster, sleepers.len()).await?;
    kill_all(&cluster, &sleepers).await?;
    bulk(&cluster).await?;
    cluster.finish().await;
    Ok(())
}

fn sleeper() -> TaskSpec {
    let resources = Resources { cpus_milli: 10, mem_mib: 16, ..Resources::default() };
    TaskSpec { resources: Some(resources), ..run_spec(&["sleep", "100000"]) }
}

/// From the request to the end of `true`, as a client sees it.
async fn one_life(cluster: &Cluster) -> Result<Duration> {
    let began = Instant::now();
    let resources = Resources { cpus_milli: 1000, mem_mib: 16, ..Resources::default() };
    let spec = TaskSpec { resources: Some(resources), ..run_spec(&["true"]) };
    let ids = cluster.run(spec, 1).await;
    until_all(cluster, &ids, is_final).await?;
    Ok(began.elapsed())
}

/// Follows the tasks until each was seen in a state that will do; another final one is an error.
async fn until_all(cluster: &Cluster, ids: &[String], will_do: impl Fn(TaskState) -> bool) -> Result<()> {
    let mut missing: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let request = WatchTasksRequest { task_ids: ids.to_vec() };
    let mut views = cluster.operator().watch_tasks(request).await?.into_inner();
    while !missing.is_empty() {
        let view = views.message().await?.context("the watch ended early")?;
        let id = view.spec.as_ref().map(|spec| spec.task_id.as_str()).unwrap_or_default();
        if will_do(view.state()) {
            missing.remove(id);
        } else {
            ensure!(!is_final(view.state()), "task {id} ended: {:?}", view.status);
        }
    }
    Ok(())
}

/// How soon a killed agent that starts again has all running tasks in hand, several times.
async fn adoption(cluster: &mut Cluster, count: usize) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..5 {
        cluster.agents[0].kill();
        cluster.restart_agent(0);
        cluster.until_agents().await;
        let address = cluster.agent_address(0).to_owned();
        wait_until("all tasks are adopted", async || {
            page::figure(&address, "muster_agent_adopted_tasks") == Some(count as f64)
        })
        .await;
        seconds.push(page::figure(&address, "muster_agent_adoption_seconds").context("it tells both")?);
    }
    println!("adoption of {count} running tasks: {} s after the agent's start", Spread::of(&seconds).show(3));
    Ok(())
}

async fn kill_all(cluster: &Cluster, ids: &[String]) -> Result<Duration> {
    let began = Instant::now();
    let mut kills = JoinSet::new();
    for id in ids {
        if kills.len() >= KILLS_AT_ONCE {
            kills.join_next().await.context("a kill is under way")???;
        }
        let mut operator = cluster.operator();
        let request =
            KillTaskRequest { request_id: new_request_id(), task_id: id.clone(), grace_ms: Some(0) };
        kills.spawn(async move { operator.kill_task(request).await.map(drop) });
    }
    while let Some(done) = kills.join_next().await {
        done??;
    }
    until_all(cluster, ids, is_final).await?;
    Ok(began.elapsed())
}

/// A thousand launches and a thousand kills at once, several times.
async fn bulk(cluster: &Cluster) -> Result<()> {
    let (mut launches, mut kills) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let began = Instant::now();
        let ids = cluster.run(sleeper(), 1000).await;
        until_all(cluster, &ids, |state| state == TaskState::Running).await?;
        launches.push(began.elapsed().as_secs_f64());
        kills.push(kill_all(cluster, &ids).await?.as_secs_f64());
    }
    for (what, seconds, mesos) in [("launches", launches, MESOS_LAUNCHES), ("kills", kills, MESOS_KILLS)] {
        let spread = Spread::of(&seconds);
        println!(
            "1000 {what}: {} s; Mesos publishes {:.1} s, {:.1} times as long",
            spread.show(2),
            mesos.as_secs_f64(),
            mesos.as_secs_f64() / spread.median
        );
    }
    Ok(())
}
