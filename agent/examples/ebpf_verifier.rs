//! Loads the kernel programs in a folder of its own, prints what the verifier thought of each, and removes them.
//!
//! `cargo xtask ebpf` runs it as root. Fails when a program doesn't run here.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::process::ExitCode;

use agent::sys::bpf::{Availability, BpfError, Limits, Programs};

fn main() -> Result<ExitCode, BpfError> {
    let folder = std::env::temp_dir().join(format!("muster-verifier-{}", std::process::id()));
    let programs = Programs::open(&folder, Limits::default())?;
    println!("{:<8} {:>22}  state", "program", "verified instructions");
    let mut all_run = true;
    for health in programs.health()?.programs {
        let verified = health.verified_instructions.map_or("unknown".into(), |count| count.to_string());
        let state = match health.availability {
            Availability::Attached => "attached".to_owned(),
            Availability::Unavailable(reason) => {
                all_run = false;
                format!("unavailable: {reason}")
            }
        };
        println!("{:<8} {verified:>22}  {state}", health.program.name());
    }
    programs.remove()?;
    Ok(if all_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
