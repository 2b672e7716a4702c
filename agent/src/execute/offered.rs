//! What this agent does of all that a spec may ask for.
//!
//! A task that needs what isn't done here is refused with the reason, never run without it.

use model::{IoLimits, TaskSpec};

/// Why the spec can't be run here; `None` when everything that it asks for is done.
pub fn refusal(spec: &TaskSpec) -> Option<String> {
    let asked = [
        (!spec.groups.is_empty(), "supplementary groups"),
        (spec.mem_limit_mib.is_some(), "a memory limit above the request"),
        (!spec.cpuset.is_empty(), "a set of cores"),
        (spec.io != IoLimits::default(), "I/O limits"),
        (!spec.rlimits.is_empty(), "resource limits of its process"),
        (spec.oom_score_adjust.is_some(), "an OOM score"),
        (spec.run_time_max.is_some(), "a longest run time"),
        (spec.kill_signal != model::StopSignal::Term, "another kill signal than TERM"),
        (!spec.devices.is_empty(), "devices"),
        (!spec.mounts.is_empty(), "mounts of host paths"),
        (!spec.secrets.is_empty(), "secrets"),
        (!spec.fetches.is_empty(), "fetched files"),
        (!spec.capabilities.is_empty(), "capabilities"),
        (spec.seccomp.is_some(), "a seccomp profile"),
        (spec.has_private_network, "a network of its own"),
        (spec.health_check.is_some(), "a health check"),
    ];
    let missing: Vec<&str> = asked.iter().filter(|(is_asked, _)| *is_asked).map(|(_, what)| *what).collect();
    (!missing.is_empty()).then(|| format!("this agent can't give a task {}", missing.join(", ")))
}
