//! Runs one benchmark by name.

use anyhow::Result;
use clap::Parser;

/// The numbers that we promise, each beside its peer in one run.
#[derive(Parser)]
#[command(name = "bench")]
enum Bench {
    /// One whole agent: at rest, in bulk, with much running already, and after a restart
    Agent(bench::agent::Args),
    /// Leaders that are killed under load, and leaders that go in order, beside etcd and ZooKeeper
    Failover(bench::failover::Args),
    /// Many simulated agents and tasks: memory and CPU of each member, and the loss of the leader
    Fleet(bench::fleet::Args),
    /// Launches a second on one agent, beside the least that a program could do
    Launch(bench::launch::Args),
    /// One round of another runtime; `launch` starts it
    #[command(hide = true)]
    LaunchPeer(bench::launch::PeerArgs),
    /// What metering costs: time per event, on a pipe ping-pong and on a realistic load
    Meter(bench::meter::Args),
    /// Agents without a host, for `fleet`, until standard input ends
    #[command(hide = true)]
    SimulatedAgents(bench::simulated::Args),
    /// What reports of usage cost the leader, beside sending full figures
    Usage(bench::usage::Args),
    /// Writes a second that three members agreed on, as clients become more, beside etcd and ZooKeeper
    Writes(bench::writes::Args),
}

fn main() -> Result<()> {
    match Bench::parse() {
        Bench::Agent(args) => bench::agent::run(&args),
        Bench::Failover(args) => bench::failover::run(&args),
        Bench::Fleet(args) => bench::fleet::run(&args),
        Bench::Launch(args) => bench::launch::run(&args),
        Bench::LaunchPeer(args) => bench::launch::run_peer(&args),
        Bench::Meter(args) => bench::meter::run(&args),
        Bench::SimulatedAgents(args) => bench::simulated::run(&args),
        Bench::Usage(args) => bench::usage::run(&args),
        Bench::Writes(args) => bench::writes::run(&args),
    }
}
