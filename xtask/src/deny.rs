//! Licences, bans and sources of the dependencies, by cargo-deny and `deny.toml`.

use anyhow::{Result, bail};

use crate::command::{cargo, find, run as run_command};

/// The verb. Advisories are left out: they need a database from the network and change by themselves.
pub fn run() -> Result<()> {
    if find("cargo-deny").is_none() {
        bail!("cargo-deny is not installed: `cargo install cargo-deny --locked`, then try again");
    }
    run_command(cargo().args(["deny", "--locked", "--offline", "check", "bans", "licenses", "sources"]))
}
