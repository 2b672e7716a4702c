//! The loss of a leader: three members, agents and frameworks that work, and SIGKILL; and a leader that is ended in
//! order. Beside them etcd and ZooKeeper, whose leaders are ended in turn with ours.
//!
//! Of ours two times are taken: to the first write that any member acknowledges, which is what is taken of the
//! others, and to the first offer on a subscription that was opened after the kill. What was launched is judged by
//! what agents and frameworks wrote down.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, ClusterOptions};
use muster_client::Connection;
use muster_client::new_request_id;
use muster_client::operator::SetRoleRequest;
use nix::sys::signal::Signal;

use crate::frameworks::{Frameworks, Phase, Wish};
use crate::peers::{Kind, Peer};
use crate::process::hundredth;
use crate::simulated::{self, SharedLedger};

const MEMBERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// `bench failover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kills of our leader
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Orderly ends of our leader
    #[arg(long, default_value_t = 10)]
    handovers: usize,
    /// Kills and ends of each peer's leader: so many of each, spread over ours
    #[arg(long, default_value_t = 10)]
    peer_kills: usize,
    /// Frameworks
    #[arg(long, default_value_t = 10)]
    frameworks: usize,
    /// Launches a second of all of them together
    #[arg(long, default_value_t = 200)]
    launches: usize,
    /// Simulated agents
    #[arg(long, default_value_t = 40)]
    agents: usize,
    /// Milliseconds of load between two kills
    #[arg(long, default_value_t = 1500)]
    between: u64,
    /// Neither etcd nor ZooKeeper
    #[arg(long)]
    alone: bool,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let verdict = runtime.block_on(measure(args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    verdict
}

/// Times of one way to end a leader, in milliseconds.
#[derive(Default)]
struct Times {
    led: Vec<f64>,
    wrote: Vec<f64>,
    offered: Vec<f64>,
}

struct Stage {
    cluster: Cluster,
    frameworks: Frameworks,
    roles: u64,
}

async fn measure(args: &Args) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
    let mut peers = Vec::new();
    if !args.alone {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_here()) {
            peers.push((Peer::start(kind, directory.path()).await?, Vec::new(), Vec::new()));
        }
    }
    let cluster =
        Cluster::start(ClusterOptions { agents: 0, members: MEMBERS, ..ClusterOptions::default() }).await;
    let servers: Vec<String> =
        (1..=MEMBERS).map(|member| format!("http://{}", cluster.member_address(member))).collect();
    let ledger = SharedLedger::default();
    let agents = simulated::start(&servers, &cluster.token_file(), 0, args.agents, simulated::ROOM, &ledger)?;
    let connections = (0..args.frameworks).map(|number| cluster.connection_by(number % MEMBERS + 1));
    // Tasks of 0.8 to 1.2 s: so many at a time as there are launches in a second.
    let wish = Wish { at_a_time: args.launches.div_ceil(args.frameworks.max(1)), life_ms: Some(800) };
    let frameworks = Frameworks::start(connections.collect(), "load", wish);
    let mut stage = Stage { cluster, frameworks, roles: 0 };
    stage.frameworks.offered_anew(Instant::now() - PATIENCE).await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let (mut kills, mut handovers) = (Times::default(), Times::default());
    let rounds = args.kills.max(args.handovers);
    let load = Instant::now();
    let mut paused = Duration::ZERO;
    for round in 0..rounds {
        if is_due(round, rounds, args.kills) {
            stage.fail_over(Signal::SIGKILL, &mut kills).await?;
            tokio::time::sleep(Duration::from_millis(args.between)).await;
        }
        if is_due(round, rounds, args.handovers) {
            stage.fail_over(Signal::SIGTERM, &mut handovers).await?;
            tokio::time::sleep(Duration::from_millis(args.between)).await;
        }
        if is_due(round, rounds, args.peer_kills) && !peers.is_empty() {
            // Theirs is the machine meanwhile, but for what rests.
            let pause = Instant::now();
            stage.frameworks.set(Phase::Pause);
            tokio::time::sleep(Duration::from_millis(1300)).await;
            for (peer, killed, ended) in &mut peers {
                for (signal, times) in [(Signal::SIGKILL, killed), (Signal::SIGTERM, ended)] {
                    let leader = peer.until_leader().await?;
                    times.push(peer.fail_over(leader, signal).await?.as_secs_f64() * 1e3);
                    peer.until_writable().await?;
                }
            }
            stage.frameworks.set(Phase::Launch);
            paused += pause.elapsed();
            tokio::time::sleep(Duration::from_millis(args.between)).await;
        }
    }
    let lasted = load.elapsed().saturating_sub(paused);
    let Stage { cluster, frameworks, roles: _ } = stage;
    let book = tokio::time::timeout(PATIENCE, frameworks.finish()).await.context("tasks never ended")??;
    drop(agents);
    cluster.finish().await;

    println!("milliseconds from the signal until …            p50      p99      max   times");
    let (killed, ended) = ("SIGKILL", "SIGTERM");
    for (signal, times) in [(killed, &mut kills), (ended, &mut handovers)] {
        line(&format!("Muster, {signal}: another leads"), &mut times.led);
        line(&format!("Muster, {signal}: a write is acknowledged"), &mut times.wrote);
        line(&format!("Muster, {signal}: a new offer"), &mut times.offered);
    }
    for (peer, of_kills, of_ends) in &mut peers {
        let name = peer.kind.name();
        line(&format!("{name}, {killed}: a write is acknowledged"), of_kills);
        line(&format!("{name}, {ended}: a write is acknowledged"), of_ends);
        for (signal, theirs, ours) in [(killed, of_kills, &mut kills), (ended, of_ends, &mut handovers)] {
            println!(
                "{signal}: {name} takes {:.2} times as long as Muster to the first write, {:.2} times as long as to \
                 its first offer (medians)",
                hundredth(theirs, 50) / hundredth(&mut ours.wrote, 50),
                hundredth(theirs, 50) / hundredth(&mut ours.offered, 50),
            );
        }
    }
    let verdict = {
        let ledger = ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        book.judge(&ledger)
    };
    println!(
        "{} tasks launched, {:.0} a second: {} lost, {} started twice; {} statuses: {} missing",
        verdict.launched,
        verdict.launched as f64 / lasted.as_secs_f64(),
        verdict.lost,
        verdict.started_twice,
        verdict.statuses,
        verdict.statuses_missing
    );
    ensure!(
        verdict.launched > 0 && verdict.lost + verdict.started_twice + verdict.statuses_missing == 0,
        "something was lost or done twice"
    );
    Ok(())
}

/// Spreads `count` over the rounds.
fn is_due(round: usize, rounds: usize, count: usize) -> bool {
    (round + 1) * count / rounds.max(1) > round * count / rounds.max(1)
}

fn line(what: &str, times: &mut [f64]) {
    let [half, most, max] = [50, 99, 100].map(|part| hundredth(times, part));
    println!("{what:<44} {half:>8.1} {most:>8.1} {max:>8.1} {:>7}", times.len());
}

impl Stage {
    /// Ends the leader and takes the times; afterwards it is back.
    async fn fail_over(&mut self, signal: Signal, times: &mut Times) -> Result<()> {
        let leader = self.cluster.until_members().await;
        self.roles += 1;
        let others = (1..=MEMBERS).filter(|member| *member != leader);
        let connections: Vec<Connection> =
            others.map(|member| self.cluster.connection_to_member(member)).collect();
        // Connections that are there, as those of clients are.
        for connection in &connections {
            let mut operator = connection.operator();
            operator.list_members(muster_client::operator::ListMembersRequest {}).await?;
        }
        let wall = SystemTime::now();
        let killed = Instant::now();
        self.cluster.member(leader).signal(signal);
        let weight = 1000 + self.roles % 2;
        let probes = connections.into_iter().map(|connection| Box::pin(probe(connection, weight)));
        let wrote = async {
            let (_, _, _others) = futures::future::select_all(probes).await;
            anyhow::Ok(killed.elapsed())
        };
        let offered = async {
            let at = self.frameworks.offered_anew(killed).await.context("frameworks are there")?;
            anyhow::Ok(at.duration_since(killed))
        };
        let both = async { tokio::try_join!(wrote, offered) };
        let (wrote, offered) =
            tokio::time::timeout(PATIENCE, both).await.context("no leader after the kill")??;
        times.wrote.push(wrote.as_secs_f64() * 1e3);
        times.offered.push(offered.as_secs_f64() * 1e3);
        if let Some(led) = self.led_after(leader, wall) {
            times.led.push(led);
        }
        // Of a process that was killed only the rest is waited for.
        let gone = self.cluster.member(leader);
        if signal == Signal::SIGKILL {
            gone.kill();
        } else {
            let status = gone.end(Signal::SIGTERM).await;
            ensure!(status.success(), "the old leader ended with {status}: {}", gone.log_tail());
        }
        self.cluster.restart_member(leader);
        Ok(())
    }

    /// When another member wrote that it leads, in milliseconds after `wall`.
    fn led_after(&mut self, old: usize, wall: SystemTime) -> Option<f64> {
        let others = (1..=MEMBERS).filter(|member| *member != old);
        let logs: Vec<String> = others.map(|member| self.cluster.member(member).log()).collect();
        logs.iter().filter_map(|log| led_since(log, wall)).min_by(f64::total_cmp)
    }
}

/// Writes to one member until it is acknowledged.
async fn probe(connection: Connection, weight_milli: u64) {
    loop {
        let request = SetRoleRequest { request_id: new_request_id(), role: "bench".to_owned(), weight_milli };
        let mut operator = connection.operator();
        let write = operator.set_role(request);
        if matches!(tokio::time::timeout(Duration::from_millis(200), write).await, Ok(Ok(_))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// The first line that says `leading` with a later time than `wall`: lines begin with an RFC 3339 time in UTC.
fn led_since(log: &str, wall: SystemTime) -> Option<f64> {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
    // The day does not matter: a run is shorter, and one that crosses midnight tells one time less.
    let in_day = since % 86_400.0;
    let times = log.lines().rev().filter(|line| line.contains("leading") && !line.contains("not leading"));
    let after = times.filter_map(seconds_in_day).take_while(|at| *at >= in_day).last()?;
    Some((after - in_day) * 1e3)
}

fn seconds_in_day(line: &str) -> Option<f64> {
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}
