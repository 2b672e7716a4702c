//! What stands before every commit: format, clippy, tidy and the fast tests.

use anyhow::Result;

use crate::command::{capture, cargo, run as run_command};
use crate::{ebpf, setup, tidy};

/// The verb.
pub fn run() -> Result<()> {
    format()?;
    tidy::run()?;
    setup::ensure(setup::Level::Test)?;
    // The agent embeds the kernel programs, so that even clippy wants them built.
    ebpf::build()?;
    clippy()?;
    run_command(cargo().args(["test", "--workspace", "--locked", "--quiet", "--lib", "--bins"]))
}

/// Whether this part of a Rust tool chain is here: rustup's smallest profile has neither of the two.
pub fn has_component(subcommand: &str) -> bool {
    capture(cargo().args([subcommand, "--version"])).is_ok()
}

/// Fails when any file is not formatted.
pub fn format() -> Result<()> {
    run_command(cargo().args(["fmt", "--all", "--", "--check", "--files-with-diff"]))
}

/// Fails at any warning.
pub fn clippy() -> Result<()> {
    run_command(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]))
}
