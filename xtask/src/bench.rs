//! Runs the benchmarks of `tests/bench`, built for speed.

use anyhow::Result;

use crate::command::{cargo, run as run_command, target_dir};
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
    setup::ensure(setup::Level::Bench)?;
    ebpf::build()?;
    // Some benchmarks start our daemons, built for speed as well.
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", "coordinator", "--package", "agent"]);
    run_command(build.args(["--package", "cli", "--bins"]))?;
    let mut command = cargo();
    command.env("MUSTER_BIN_DIR", target_dir().join("release"));
    command.args(["run", "--release", "--locked", "--package", "bench", "--"]);
    command.args(&args.name).args(&args.arguments);
    run_command(&mut command)
}
