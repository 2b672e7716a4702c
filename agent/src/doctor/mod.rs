//! What this host offers to an agent, and what is lost where it does not.
//!
//! Asks the kernel as the agent would, and leaves nothing behind. What can be mended is `mend`'s; it is changed
//! only by [`fix`], and only what somebody agreed to.

mod mend;

use std::{
    fmt::Write as _,
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
};

use crate::{
    config::Config,
    daemon,
    execute::chain,
    host,
    sys::{
        Kernel, KernelConfig, Sys,
        bpf::{self, Availability, PortPolicy, Program, Programs},
        cgroup::is_delegated,
    },
};
use mend::Places;

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
        cgroup_parent: scratch_group(config),
        own_cgroup2: scratch.join("cgroup2"),
        output_dir: scratch.clone(),
    };
    let kernel = match Kernel::open(&kernel_config) {
        Ok(kernel) => {
            line(&format!("yes cgroups: {}", kernel.layout().as_str()));
            for limitation in kernel.limitations() {
                line(&format!("no  {limitation}"));
            }
            if is_taken_back(&kernel, config) {
                line(&format!(
                    "no  cgroup-parent: systemd has not handed over {}",
                    config.cgroup_parent.display()
                ));
                line("    lost: limits of running tasks, when systemd arranges its groups anew");
                line("    next: set `cgroup-parent` to a group below a unit with Delegate=");
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
        guards_ports: config.port_policy != PortPolicy::Off,
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
    let places = Places::default();
    let mends = mend::wanted(&places, &config.ports);
    for mend in &mends {
        line(&format!("no  {}", mend.describe(&places).trim_end()));
    }
    if !mends.is_empty() {
        line("`muster-agent doctor --fix` offers to mend these settings.");
    }
    (report, can_run)
}

/// Offers each change, makes those that are agreed to (all of them where `is_agreed`), and says whether
/// nothing is left to mend.
pub fn fix(
    config: &Config,
    is_agreed: bool,
    answers: &mut dyn BufRead,
    out: &mut dyn Write,
) -> io::Result<bool> {
    fix_at(&Places::default(), config, is_agreed, answers, out)
}

fn fix_at(
    places: &Places,
    config: &Config,
    is_agreed: bool,
    answers: &mut dyn BufRead,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let mends = mend::wanted(places, &config.ports);
    if mends.is_empty() {
        writeln!(out, "Nothing is there to mend.")?;
    }
    for mend in &mends {
        write!(out, "{}", mend.describe(places))?;
        if !is_agreed && !is_yes(answers, out)? {
            writeln!(out, "    left as it is")?;
            continue;
        }
        match mend.execute(places) {
            Ok(()) => writeln!(out, "    mended")?,
            Err(error) => writeln!(out, "    not mended: {error}")?,
        }
    }
    Ok(mend::wanted(places, &config.ports).is_empty())
}

/// Who says nothing agrees to nothing.
fn is_yes(answers: &mut dyn BufRead, out: &mut dyn Write) -> io::Result<bool> {
    write!(out, "    mend it? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Beside the agent's own group, so that it is where this host lets the agent work.
fn scratch_group(config: &Config) -> PathBuf {
    config.cgroup_parent.with_file_name(format!("muster-doctor-{}", std::process::id()))
}

/// Whether the agent's group is one that systemd thinks is its own: it alone may write there
/// (https://systemd.io/CGROUP_DELEGATION).
fn is_taken_back(kernel: &Kernel, config: &Config) -> bool {
    let is_systemds = Path::new("/run/systemd/system").is_dir();
    let root = &kernel.cgroups().hierarchies().v2;
    let is_ours = config.cgroup_parent.ancestors().any(|group| is_delegated(&root.join(group)));
    is_systemds && !is_ours
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
        Program::Bind4 | Program::Bind6 => "the guard over ports: tasks may bind what they have not declared",
        Program::Listen => "news of tasks that listen on a port which the kernel chose for them",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_agreed_to_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { running: dir.path().to_owned(), written: dir.path().join("written.conf") };
        let path = dir.path().join("kernel/unprivileged_bpf_disabled");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "0\n").unwrap();
        let mut said = Vec::new();
        for (answer, is_agreed, is_mended) in
            [("\n", false, false), ("", false, false), ("y\n", false, true), ("", true, true)]
        {
            let done =
                fix_at(&places, &Config::default(), is_agreed, &mut answer.as_bytes(), &mut said).unwrap();
            assert_eq!(done, is_mended, "{answer:?}: {}", String::from_utf8_lossy(&said));
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2");
    }
}
