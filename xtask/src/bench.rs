//! Runs the benchmarks of `tests/bench`, built for speed.

use anyhow::Result;

use crate::command::{cargo, run as run_command};
use crate::{ebpf, setup};

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    /// Which benchmark; without a name the list of them is printed.
    name: Option<String>,
    /// Passed on to the benchmark.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The verb.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Level::Test)?;
    ebpf::build()?;
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "--package", "bench", "--"]);
    command.args(&args.name).args(&args.arguments);
    run_command(&mut command)
}
