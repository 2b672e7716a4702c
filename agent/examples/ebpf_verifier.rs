//! Loads the kernel programs in a folder of its own, prints what the verifier thought of each, and removes them.
//!
//! `cargo xtask ebpf` runs it as root. Fails when a program doesn't run here.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use agent::sys::bpf::{Availability, BpfError, Options, Programs};

fn main() -> Result<ExitCode, BpfError> {
    let name = format!("muster-verifier-{}", std::process::id());
    let folder = std::env::temp_dir().join(&name);
    let cgroup = v2_root().map(|root| root.join(&name));
    let made = cgroup.as_ref().filter(|cgroup| std::fs::create_dir(cgroup).is_ok());
    let shown = show(&folder, Options { cgroup: made.cloned(), ..Options::default() });
    if let Some(cgroup) = made
        && let Err(error) = std::fs::remove_dir(cgroup)
    {
        println!("left behind: {} ({error})", cgroup.display());
    }
    shown
}

fn v2_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    mount.split(' ').nth(1).map(PathBuf::from)
}

fn show(folder: &Path, options: Options) -> Result<ExitCode, BpfError> {
    let programs = Programs::open(folder, options)?;
    println!("{:<12} {:>22}  state", "program", "verified instructions");
    let mut all_run = true;
    for health in programs.health()?.programs {
        let verified = health.verified_instructions.map_or("unknown".into(), |count| count.to_string());
        let state = match health.availability {
            Availability::Attached => "attached".to_owned(),
            Availability::Off => "off".to_owned(),
            Availability::Unavailable(reason) => {
                all_run = false;
                format!("unavailable: {reason}")
            }
        };
        println!("{:<12} {verified:>22}  {state}", health.program.name());
    }
    programs.remove()?;
    Ok(if all_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
