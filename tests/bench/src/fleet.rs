//! Many agents and many tasks: what each member needs at rest and at work, and how soon all is as it was after the
//! leader was killed.
//!
//! Agents are simulated, in processes of their own, each over a connection of its own. All else is real.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::{Cluster, ClusterOptions, page};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::frameworks::{Frameworks, Phase, Wish};
use crate::process::{cpu_time, resident_bytes};
use crate::simulated::Herd;

const MEMBERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(240);
/// A page of metrics counts every task anew, so it is not asked for more often than this.
const LOOK: Duration = Duration::from_millis(200);
const ATTACHED: &str = "muster_coordinator_agent_sessions_open";
const RUNNING: &str = "muster_coordinator_tasks{state=\"running\"}";

/// `bench fleet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Agents, and tasks of each, step by step: `1000x10,3000x10`
    #[arg(long, value_delimiter = ',', default_value = "1000x10,3000x10,10000x10,100x1000", value_parser = size)]
    sizes: Vec<(usize, usize)>,
    /// Seconds of rest that are measured
    #[arg(long, default_value_t = 10)]
    rest: u64,
    /// Kills of the leader with each size
    #[arg(long, default_value_t = 2)]
    kills: usize,
    /// Frameworks that launch side by side, each one accept after the other
    #[arg(long, default_value_t = 64)]
    frameworks: usize,
    /// Agents in one process
    #[arg(long, default_value_t = 2500)]
    each: usize,
}

fn size(text: &str) -> Result<(usize, usize)> {
    let (agents, tasks) = text.split_once('x').context("write it like `1000x10`")?;
    Ok((agents.parse()?, tasks.parse()?))
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let verdict = runtime.block_on(async {
        for (agents, tasks) in &args.sizes {
            measure(args, *agents, *tasks).await?;
        }
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    verdict
}

async fn measure(args: &Args, agents: usize, tasks: usize) -> Result<()> {
    let mut cluster =
        Cluster::start(ClusterOptions { agents: 0, members: MEMBERS, ..ClusterOptions::default() }).await;
    println!("---- {agents} agents with {tasks} tasks each, {} in all", agents * tasks);
    let mut leader = cluster.until_members().await;
    let mut herd = Herd::default();
    let began = Instant::now();
    // Room for so many and no more: frameworks fill one agent after the other.
    herd.grow(&cluster.servers(), &cluster.token_file(), agents, args.each, tasks)?;
    until_figure(&cluster, leader, ATTACHED, agents).await?;
    println!("agents attached for the first time after {:.1} s", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let before = used(&mut cluster)?;
    let connections = (0..args.frameworks).map(|_| cluster.connection_by(leader));
    let wish = Wish { at_a_time: (agents * tasks).div_ceil(args.frameworks.max(1)), life_ms: None };
    let mut frameworks = Frameworks::start(connections.collect(), "fleet", wish);
    until_figure(&cluster, leader, RUNNING, agents * tasks).await?;
    let lasted = began.elapsed();
    println!(
        "all run after {:.1} s: {:.0} a second",
        lasted.as_secs_f64(),
        (agents * tasks) as f64 / lasted.as_secs_f64()
    );
    show(&mut cluster, leader, "while it launched", &before, lasted)?;

    // Whoever wants nothing is offered nothing.
    frameworks.set(Phase::Ask);
    // What the launches left to do is not rest.
    sleep(Duration::from_secs(5)).await;
    let before = used(&mut cluster)?;
    sleep(Duration::from_secs(args.rest)).await;
    show(&mut cluster, leader, "at rest", &before, Duration::from_secs(args.rest))?;

    for _ in 0..args.kills {
        let killed = Instant::now();
        let before = used(&mut cluster)?;
        cluster.member(leader).signal(Signal::SIGKILL);
        let at = tokio::time::timeout(PATIENCE, frameworks.offered_anew(killed)).await?;
        let offered = at.context("frameworks are there")?.duration_since(killed);
        let old = leader;
        leader = until_attached(&cluster, old, agents).await?;
        let attached = killed.elapsed();
        println!(
            "leader killed: first new offer after {:.2} s, all agents attached after {:.2} s",
            offered.as_secs_f64(),
            attached.as_secs_f64()
        );
        show_one(&mut cluster, leader, "the new leader, until all were attached", &before, attached)?;
        cluster.member(old).kill();
        cluster.restart_member(old);
        cluster.until_members().await;
    }
    frameworks.set(Phase::Pause);
    drop(frameworks);
    drop(herd);
    cluster.finish().await;
    Ok(())
}

type Used = Vec<Option<Duration>>;

fn used(cluster: &mut Cluster) -> Result<Used> {
    (1..=MEMBERS).map(|member| Ok(cpu_time(cluster.member(member).pid()).ok())).collect()
}

fn show(cluster: &mut Cluster, leader: usize, what: &str, before: &Used, lasted: Duration) -> Result<()> {
    for member in 1..=MEMBERS {
        let role = if member == leader { "leader" } else { "follower" };
        show_one(cluster, member, &format!("{what}: {role}"), before, lasted)?;
    }
    Ok(())
}

fn show_one(cluster: &mut Cluster, member: usize, what: &str, before: &Used, lasted: Duration) -> Result<()> {
    let process = cluster.member(member).pid();
    let spent = cpu_time(process)?.saturating_sub(before[member - 1].unwrap_or_default());
    println!(
        "  {what:<42} {:>7.3} of a core, {:>6} MiB",
        spent.as_secs_f64() / lasted.as_secs_f64(),
        resident_bytes(process)? >> 20
    );
    Ok(())
}

async fn figure(cluster: &Cluster, member: usize, name: &'static str) -> Option<usize> {
    let address = cluster.member_address(member).to_owned();
    let value = tokio::task::spawn_blocking(move || page::figure(&address, name)).await.ok()??;
    Some(value as usize)
}

async fn until_figure(cluster: &Cluster, member: usize, name: &'static str, wanted: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < deadline {
        last = figure(cluster, member, name).await;
        if last >= Some(wanted) {
            return Ok(());
        }
        sleep(LOOK).await;
    }
    bail!("{name} is {last:?} after {PATIENCE:?}, and should be {wanted}")
}

/// Gives the new leader once every agent is attached to it.
async fn until_attached(cluster: &Cluster, old: usize, agents: usize) -> Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = 0;
    while Instant::now() < deadline {
        for member in (1..=MEMBERS).filter(|member| *member != old) {
            let open = figure(cluster, member, ATTACHED).await.unwrap_or(0);
            last = last.max(open);
            if open >= agents {
                return Ok(member);
            }
        }
        sleep(LOOK).await;
    }
    bail!("{last} of {agents} agents are attached {PATIENCE:?} after the leader was killed")
}
