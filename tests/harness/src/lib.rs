//! A cluster on one machine: real binaries, own directories, ports, cgroups and pins, and a network of its own
//! where links shall be cut.
//!
//! Never links the daemons; speaks to them as any client does.
//! Start at [`Cluster::start`]; end with [`Cluster::finish`], which looks for residue.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test's failure is a panic")]

mod cluster;
mod daemon;
mod disk;
mod load;
mod network;
pub mod page;
mod residue;
mod wait;

pub use cluster::{Cluster, ClusterOptions, little_cpu, program, run_spec};
pub use daemon::Daemon;
pub use disk::{Frozen, SmallDisk};
pub use load::{Heard, Load};
pub use network::{Network, Node};
pub use residue::Residue;
pub use wait::{patience, slowness, wait_until};

/// Whether this test may use cgroups, mounts and kernel programs; says so when it may not.
pub fn is_privileged(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("skipped: {test} needs root (cgroups, mounts and kernel programs)");
    }
    is_root
}

/// Whether this runs in a software-emulated guest, where time tells little.
pub fn is_guest() -> bool {
    std::env::var_os("MUSTER_GUEST").is_some()
}
