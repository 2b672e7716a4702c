//! Every chore of this repository, as a verb: `cargo xtask VERB`.
//!
//! CI and people run the same verbs. Start at [`Verb`]; each one lives in the module of its name.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod artifacts;
mod bench;
mod check;
mod command;
mod deny;
mod dev;
mod dist;
mod ebpf;
mod fuzz;
mod guest;
mod libtest;
mod power;
mod python;
mod setup;
mod sim;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Every chore of this repository, as a verb.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Installs what this machine lacks, after saying what and why.
    Setup {
        /// For whom: `dev` needs less than `test`.
        #[arg(value_enum, default_value = "test")]
        level: setup::Level,
        /// Only say what is missing; exit with 1 if anything is.
        #[arg(long)]
        dry_run: bool,
    },
    /// Starts a cluster on this machine: one coordinator, one agent, loopback only.
    Dev(dev::Args),
    /// Runs all tests that this machine can run.
    Test(test::Args),
    /// Format, clippy, tidy and the fast tests: before every commit.
    Check,
    /// Crate arrows, code map, invariants, changelog, manifests, banned words.
    Tidy,
    /// Builds the kernel programs and, as root, prints what the verifier thought.
    Ebpf(ebpf::Args),
    /// Runs the end-to-end tests, here or in a virtual machine with another kernel.
    E2e(guest::Args),
    /// Makes Debian packages of the daemons and the command.
    Dist(dist::Args),
    /// Runs a benchmark: the numbers that we promise.
    Bench(bench::Args),
    /// Runs the simulator: many seeds, one of them, or planted bugs.
    Sim(sim::Args),
    /// Cuts the power of a virtual machine that writes, again and again, and looks whether anything is missing.
    Power(power::Args),
    /// Feeds every decoder with bytes that nobody would send, and keeps what is of interest.
    Fuzz(fuzz::Args),
    /// Licences, bans and sources of the dependencies, by cargo-deny.
    Deny,
}

fn main() -> ExitCode {
    if let Some(error) = fuzz::as_compiler() {
        eprintln!("error: can't become the compiler: {error}");
        return ExitCode::FAILURE;
    }
    let result = match Cli::parse().verb {
        Verb::Setup { level, dry_run } => setup::run(level, dry_run),
        Verb::Dev(args) => dev::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Check => check::run(),
        Verb::Tidy => tidy::run(),
        Verb::Ebpf(args) => setup::ensure(setup::Level::Test).and_then(|()| ebpf::run(&args)),
        Verb::E2e(args) => guest::run(&args),
        Verb::Dist(args) => dist::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Sim(args) => sim::run(&args),
        Verb::Power(args) => power::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Deny => deny::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("why:   {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
