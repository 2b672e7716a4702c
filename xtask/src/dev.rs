//! A cluster on this machine, from nothing: installs, builds, starts.
//!
//! How the daemons are started and ended is the business of `muster dev`, which this becomes at the end.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::command::as_root;
use crate::{artifacts, command, ebpf, setup};

/// How the cluster shall be.
#[derive(clap::Args)]
pub struct Args {
    /// Build for speed; takes longer to build.
    #[arg(long)]
    release: bool,
    /// Leave tasks running when the cluster is ended with Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Passed on to `muster dev`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The verb.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Level::Dev)?;
    println!("dev: building the kernel programs");
    ebpf::build()?;
    println!("dev: building muster, muster-coordinator and muster-agent");
    let artifacts = artifacts::build_programs(args.release)?;
    let muster = artifacts.programs.get("muster").context("cargo built no muster")?;

    let mut command = command::program(muster);
    command.arg("dev").env("MUSTER_BIN_DIR", artifacts.program_folder()?);
    if args.keep {
        command.arg("--keep");
    }
    command.args(&args.arguments);
    if !command::is_root() {
        println!("dev: the agent needs root for cgroups and kernel programs: going on through sudo");
    }
    let mut command = as_root(command)?;
    // From here on we are that program: Ctrl-C and the exit code are its own.
    Err(command.exec()).context("can't start `muster dev`")
}
