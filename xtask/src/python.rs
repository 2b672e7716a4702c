//! The virtual environment of the Python framework example.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::command::{program, root, run, target_dir};

/// Where the example's libraries are; tests find it as `MUSTER_PYTHON`.
pub fn venv() -> PathBuf {
    target_dir().join("python")
}

/// The example's list of libraries.
fn requirements() -> PathBuf {
    root().join("cli/examples/python/requirements.txt")
}

/// A copy of the list that was installed: written last, so that an interrupted installation starts anew.
fn stamp() -> PathBuf {
    venv().join("installed-requirements.txt")
}

/// The interpreter that has the example's libraries.
pub fn interpreter() -> PathBuf {
    venv().join("bin/python")
}

/// Whether all that the example lists is installed.
pub fn is_installed() -> bool {
    match std::fs::read(requirements()) {
        Ok(wanted) => {
            interpreter().exists() && std::fs::read(stamp()).is_ok_and(|installed| installed == wanted)
        }
        // No example, no libraries.
        Err(_) => true,
    }
}

/// Makes the environment and installs the list into it.
pub fn install() -> Result<()> {
    run(program("python3").args(["-m", "venv", "--clear"]).arg(venv()))?;
    run(program(interpreter())
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(requirements()))?;
    std::fs::copy(requirements(), stamp()).context("can't note which Python libraries are installed")?;
    Ok(())
}
