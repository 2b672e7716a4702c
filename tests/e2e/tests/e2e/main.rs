//! Scenarios on real binaries: what a user sees, a kernel enforces and a crash leaves.
//!
//! Each scenario has a cluster of its own and ends with a look for residue.

#![allow(clippy::print_stdout, reason = "figures are printed for whoever reads the output of a test")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the failure of a test is a panic"
)]

mod abuse;
mod access;
mod asking;
mod attacks;
mod bad_input;
mod channel;
mod containment;
mod dev;
mod faults;
mod fetch;
mod fleet;
mod frameworks;
mod groups;
mod health;
mod limits;
mod members;
mod metering;
mod metrics;
mod outages;
mod ports;
mod profile;
mod running;
mod survival;
mod trust;
mod users;

/// Starts a cluster, or leaves the test when this machine can't have one.
macro_rules! cluster {
    () => {
        cluster!(harness::ClusterOptions::default())
    };
    ($options:expr) => {{
        if !harness::is_privileged(module_path!()) {
            return;
        }
        harness::Cluster::start($options).await
    }};
}
pub(crate) use cluster;

/// A shell script as a task's command.
pub fn script(text: &str) -> muster_client::types::TaskSpec {
    harness::run_spec(&["sh", "-c", text])
}
