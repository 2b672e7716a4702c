//! Runs one benchmark by name.

use anyhow::Result;
use clap::Parser;

/// The numbers that we promise, each beside its peer in one run.
#[derive(Parser)]
#[command(name = "bench")]
enum Bench {
    /// Launches a second on one agent, beside the least that a program could do
    Launch(bench::launch::Args),
    /// What metering costs: time per event, on a pipe ping-pong and on a realistic load
    Meter(bench::meter::Args),
    /// What reports of usage cost the leader, beside sending full figures
    Usage(bench::usage::Args),
}

fn main() -> Result<()> {
    match Bench::parse() {
        Bench::Launch(args) => bench::launch::run(&args),
        Bench::Meter(args) => bench::meter::run(&args),
        Bench::Usage(args) => bench::usage::run(&args),
    }
}
