//! Runs the simulator of `tests/sim`, built for speed.

mod mutants;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::command::{cargo, run as run_command};

/// How long a run of all tests looks for a bad seed.
const SECONDS_DEFAULT: u64 = 60;

/// What to simulate.
#[derive(clap::Args)]
pub struct Args {
    /// The first seed; without one, a fresh one by the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// How many worlds to live through; without it, one with --seed and as many as fit into --seconds else.
    #[arg(long)]
    runs: Option<u64>,
    /// No world begins after so many seconds.
    #[arg(long, default_value_t = SECONDS_DEFAULT)]
    seconds: u64,
    /// Tell what happens, line by line.
    #[arg(long)]
    trace: bool,
    /// Many agents with ten tasks each instead of faults; leaders are killed, and costs are printed.
    #[arg(long, value_name = "AGENTS", num_args = 0..=1, default_missing_value = "40000", conflicts_with_all = ["runs", "trace", "mutants"])]
    scale: Option<usize>,
    /// Plant bugs, all or those whose name contains this, and see that each is found.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["seed", "runs", "trace"])]
    mutants: Option<String>,
}

/// The verb.
pub fn run(args: &Args) -> Result<()> {
    if let Some(part) = &args.mutants {
        return mutants::run(part);
    }
    let seed = match args.seed {
        Some(seed) => seed,
        None => fresh_seed()?,
    };
    let runs = args.runs.unwrap_or(if args.seed.is_some() { 1 } else { u64::MAX });
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = cargo();
    command.args(["run", "--profile", "sim", "--locked", "--quiet", "--package", "sim", "--"]);
    command.args(["--seed", &seed.to_string(), "--runs", &runs.to_string()]);
    command.args(["--seconds", &args.seconds.to_string(), "--jobs", &jobs.to_string()]);
    command.args(args.trace.then_some("--trace"));
    if let Some(agents) = args.scale {
        command.args(["--scale", &agents.to_string()]);
    }
    run_command(&mut command)
}

/// Fresh seeds, for as long as every run of all tests can spare.
pub fn run_fresh() -> Result<()> {
    run(&Args { seed: None, runs: None, seconds: SECONDS_DEFAULT, trace: false, scale: None, mutants: None })
}

/// Another one each time, and short enough to be typed.
fn fresh_seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    Ok(now.as_millis() as u64 % 1_000_000_000)
}
