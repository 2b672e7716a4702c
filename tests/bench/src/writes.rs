//! Writes that three members agreed on and that are on disk: how many a second, and how long one takes, as clients
//! become more. Beside etcd and ZooKeeper, in turn, with the same clients: each has a connection of its own to the
//! leader and writes again as soon as its last write was acknowledged.
//!
//! Ours is `SetRole`, the smallest change that the API has; theirs are 256 bytes under one key. What a disk can do
//! at all stands beside: one append and one `fdatasync` at a time.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harness::{Cluster, ClusterOptions};
use muster_client::operator::SetRoleRequest;
use muster_client::{OperatorClient, new_request_id};
use nix::unistd::Pid;
use tokio::task::JoinSet;

use crate::launch::Spread;
use crate::peers::{Kind, Peer, Writer};
use crate::process::{cpu_time, hundredth, syncs};

const MEMBERS: usize = 3;

/// `bench writes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many clients, step by step
    #[arg(long, value_delimiter = ',', default_value = "1,32,256")]
    clients: Vec<usize>,
    /// Rounds of everything
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of each measurement
    #[arg(long, default_value_t = 2000)]
    each: u64,
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

/// One system under load.
enum System<'a> {
    Muster(&'a Cluster, usize),
    Peer(&'a Peer, usize),
}

impl System<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Muster(..) => "Muster",
            Self::Peer(peer, _) => peer.kind.name(),
        }
    }

    async fn client(&self) -> Result<Client> {
        Ok(match self {
            Self::Muster(cluster, leader) => Client::Muster(cluster.connection_to_member(*leader).operator()),
            Self::Peer(peer, leader) => Client::Peer(peer.kind.connect(peer.ports[*leader]).await?),
        })
    }
}

enum Client {
    Muster(OperatorClient),
    Peer(Writer),
}

impl Client {
    async fn write(&mut self, number: usize) -> Result<()> {
        match self {
            Self::Muster(operator) => {
                let request = SetRoleRequest {
                    request_id: new_request_id(),
                    role: format!("bench-{number}"),
                    weight_milli: 1000,
                };
                operator.set_role(request).await?;
                Ok(())
            }
            Self::Peer(writer) => writer.write().await,
        }
    }
}

#[derive(Default)]
struct Row {
    per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

async fn measure(args: &Args) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
    let mut peers = Vec::new();
    if !args.alone {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_here()) {
            peers.push(Peer::start(kind, directory.path()).await?);
        }
    }
    let mut cluster =
        Cluster::start(ClusterOptions { agents: 0, members: MEMBERS, ..ClusterOptions::default() }).await;
    let leader = cluster.until_members().await;
    let processes: Vec<Pid> = (1..=MEMBERS).map(|member| cluster.member(member).pid()).collect();
    let mut systems = vec![System::Muster(&cluster, leader)];
    for peer in &peers {
        systems.push(System::Peer(peer, peer.until_leader().await?));
    }
    let each = Duration::from_millis(args.each);
    for system in &systems {
        // Whatever is slow the first time is not what is asked.
        load(system, 32, each.min(Duration::from_secs(1))).await?;
    }

    let mut floor = Vec::new();
    let mut rows: Vec<Vec<Row>> =
        args.clients.iter().map(|_| systems.iter().map(|_| Row::default()).collect()).collect();
    for round in 0..args.rounds {
        floor.push(appends(directory.path(), Duration::from_millis(500))?);
        for (clients, rows) in args.clients.iter().zip(&mut rows) {
            // Each is first as often as any other.
            for turn in 0..systems.len() {
                let place = (round + turn) % systems.len();
                let (mut times, lasted) = load(&systems[place], *clients, each).await?;
                rows[place].per_second.push(times.len() as f64 / lasted.as_secs_f64());
                rows[place].p50.push(hundredth(&mut times, 50));
                rows[place].p99.push(hundredth(&mut times, 99));
            }
        }
    }
    println!("floor: {} appends of 512 bytes a second, each with its fdatasync", Spread::of(&floor).show(0));
    println!("{:>7}  {:<10} {:>26} {:>9} {:>9}", "clients", "", "writes a second", "p50 ms", "p99 ms");
    for (clients, rows) in args.clients.iter().zip(&rows) {
        let ours = rows.first().context("Muster is measured")?;
        for (system, row) in systems.iter().zip(rows) {
            let ratio = Spread::of(&ratios(&ours.per_second, &row.per_second));
            let beside = match system {
                System::Muster(..) => String::new(),
                System::Peer(..) => format!("  Muster has {} times as many", ratio.show(2)),
            };
            println!(
                "{clients:>7}  {:<10} {:>26} {:>9.2} {:>9.2}{beside}",
                system.name(),
                Spread::of(&row.per_second).show(0),
                Spread::of(&row.p50).median,
                Spread::of(&row.p99).median,
            );
        }
    }

    println!("what one member asks of the disk, by strace, which slows it:");
    for clients in &args.clients {
        for system in &systems {
            let processes = match system {
                System::Muster(..) => {
                    let follower = leader % MEMBERS + 1;
                    vec![("leader", processes[leader - 1]), ("follower", processes[follower - 1])]
                }
                System::Peer(peer, leader) => vec![("leader", peer.process(*leader)?)],
            };
            for (role, process) in processes {
                let before = cpu_time(process)?;
                let work = load(system, *clients, each.min(Duration::from_secs(1)));
                let ((times, _), count) = syncs(process, directory.path(), work).await?;
                let used = cpu_time(process)?.saturating_sub(before);
                match count {
                    Some(count) => println!(
                        "{clients:>7}  {:<10} {role:<8} {count:>6} fsyncs for {:>6} writes: {:.2} for each; {:.0} us of CPU",
                        system.name(),
                        times.len(),
                        count as f64 / times.len() as f64,
                        used.as_secs_f64() * 1e6 / times.len() as f64
                    ),
                    None => println!(
                        "SKIPPED: counting fsyncs, because strace is not installed: apt-get install strace"
                    ),
                }
            }
        }
    }
    drop(systems);
    drop(peers);
    cluster.finish().await;
    Ok(())
}

/// Of each round.
fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

/// Lets so many clients write for a while: how long each write took, in milliseconds, and how long all did.
async fn load(system: &System<'_>, clients: usize, each: Duration) -> Result<(Vec<f64>, Duration)> {
    let mut ready = Vec::new();
    for number in 0..clients {
        let mut client = system.client().await?;
        client.write(number).await?;
        ready.push((number, client));
    }
    let began = Instant::now();
    let end = began + each;
    let mut running = JoinSet::new();
    for (number, mut client) in ready {
        running.spawn(async move {
            let mut times = Vec::new();
            loop {
                let before = Instant::now();
                if before >= end {
                    return anyhow::Ok(times);
                }
                client.write(number).await?;
                times.push(before.elapsed().as_secs_f64() * 1e3);
            }
        });
    }
    let mut times = Vec::new();
    while let Some(some) = running.join_next().await {
        times.extend(some??);
    }
    Ok((times, began.elapsed()))
}

/// Appends a second.
fn appends(directory: &Path, each: Duration) -> Result<f64> {
    let mut file = File::create(directory.join("floor"))?;
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < each {
        file.write_all(&[7; 512])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}
