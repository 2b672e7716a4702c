//! What this host offers to an agent, and what is lost where it does not.
//!
//! Asks the kernel as the agent would, and leaves nothing behind.

use std::fmt::Write as _;

use crate::{
    config::Config,
    daemon,
    execute::chain,
    host,
    sys::{
        Kernel, KernelConfig, Sys,
        bpf::{self, Availability, Program, Programs},
    },
};

/// The whole report, and whether an agent could run here at all.
pub fn examine(config: &Config) -> (String, bool) {
    let mut report = String::new();
    let mut line = |text: &str| {
        // Writing to a string can't fail.
        let _ = writeln!(report, "{text}");
    };
    let scratch = std::env::temp_dir().join(format!("muster-doctor-{}", std::process::id()));
    let is_root = rustix::process::geteuid().is_root();
    line(&format!("{} root", if is_root { "yes" } else { "no " }));
    if !is_root {
        line("    lost: everything; the agent needs root for cgroups, mounts and users");
        return (report, false);
    }
    line(&format!("yes resources: {}", host::resources(config, &Default::default())));
    let is_made = std::fs::create_dir_all(&scratch).is_ok();
    let mut can_run = true;
    let kernel_config = KernelConfig {
        cgroup_parent: format!("muster-doctor-{}", std::process::id()).into(),
        own_cgroup2: scratch.join("cgroup2"),
        output_dir: scratch.clone(),
    };
    let kernel = match Kernel::open(&kernel_config) {
        Ok(kernel) => {
            line(&format!("yes cgroups: {}", kernel.layout().as_str()));
            for limitation in kernel.limitations() {
                line(&format!("no  {limitation}"));
            }
            Some(kernel)
        }
        Err(error) => {
            can_run = false;
            line(&format!("no  cgroups: {}", chain(&error)));
            line("    lost: everything; tasks can't be kept within limits");
            None
        }
    };
    let pins = scratch.join("bpf");
    let options = bpf::Options {
        limits: bpf::Limits { cgroups: 16, processes: 16, oom_events: 16 },
        measures: config.measures,
        cgroup: kernel.as_ref().map(|kernel| kernel.cgroups().v2_parent().to_owned()),
        ..bpf::Options::default()
    };
    match Programs::open(&pins, options) {
        Ok(programs) => {
            for (program, availability) in programs.availability() {
                match availability {
                    Availability::Attached => line(&format!("yes kernel program {program}")),
                    Availability::Off => line(&format!("off kernel program {program}, as configured")),
                    Availability::Unavailable(why) => {
                        line(&format!("no  kernel program {program}: {why}"));
                        line(&format!("    lost: {}", lost(program)));
                    }
                }
            }
            if let Err(error) = programs.remove() {
                line(&format!("    the doctor's own pins remain: {}", chain(&error)));
            }
        }
        Err(error) => {
            line(&format!("no  kernel programs: {}", chain(&error)));
            for limitation in daemon::program_limitations(None) {
                line(&format!("    lost: {limitation}"));
            }
        }
    }
    if let Some(kernel) = kernel
        && let Err(error) = kernel.close()
    {
        line(&format!("    the doctor's own cgroup remains: {}", chain(&error)));
    }
    if is_made && let Err(error) = std::fs::remove_dir_all(&scratch) {
        line(&format!("    {} remains: {error}", scratch.display()));
    }
    (report, can_run)
}

fn lost(program: Program) -> &'static str {
    match program {
        Program::Cpu => "CPU time by eBPF; the cgroup files' figures are shown instead",
        Program::Exit => {
            "exit statuses of tasks that share the host's processes and end while no agent runs; page faults and bytes \
             of block I/O of processes that ended"
        }
        Program::Snap => "process counts apart from thread counts, page faults, bytes of block I/O",
        Program::Oom => "the figures of the moment in which a task runs out of memory",
        Program::Wakeup | Program::WakeupNew | Program::Switch => "waits for a CPU and context switches",
        Program::NetIn | Program::NetOut => "bytes and packets of the network",
        Program::Connect => "TCP connections opened, accepted and failed",
        Program::Retransmit => "TCP segments sent again",
        Program::Block => "operations of block devices and how long they take",
        Program::Fork => "processes made by tasks",
        Program::Exec => "programs started by tasks",
        Program::DirectIn | Program::DirectOut | Program::MemcgIn | Program::MemcgOut => {
            "stalls in which tasks freed memory before they got any"
        }
    }
}
