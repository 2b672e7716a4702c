//! What the agent itself may do: a list of capabilities, each with the feature that needs it, and a filter.
//!
//! Everything else is given up before the first thread starts, and no task can get it back. Start at
//! [`give_up`]. What a task keeps of this is `sys::launch`'s.
//!
//! ## Design
//!
//! The filter is `sys::filter`'s. Both are inherited by every task, so only what no ordinary task needs
//! is refused there; see `docs/decisions/agent-privileges.md`.

use std::{fs, io};

use rustix::{
    process::geteuid,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use crate::sys::filter;

/// Each capability that is kept, and what would not work without it.
pub const KEPT: &[(CapabilitySet, &str)] = &[
    (CapabilitySet::CHOWN, "sandboxes, output and secrets belong to their task's user"),
    (CapabilitySet::DAC_OVERRIDE, "sandboxes of other users are read and removed; the coordinator's token"),
    (CapabilitySet::FOWNER, "modes of files in sandboxes of other users"),
    (CapabilitySet::FSETID, "tasks of root keep it"),
    (CapabilitySet::KILL, "tasks of other users are signalled"),
    (CapabilitySet::SETGID, "a task gets its groups"),
    (CapabilitySet::SETUID, "a task becomes its user"),
    (CapabilitySet::SETPCAP, "a task loses its capabilities"),
    (CapabilitySet::NET_BIND_SERVICE, "tasks of root keep it"),
    (CapabilitySet::NET_ADMIN, "kernel programs on sockets and networks"),
    (CapabilitySet::SYS_CHROOT, "entering a task's mount namespace (setns(2)); tasks of root keep it"),
    (CapabilitySet::SYS_PTRACE, "/proc of tasks of other users: their root, namespaces and program"),
    (CapabilitySet::SYS_ADMIN, "mounts, namespaces, control groups; kernel programs before Linux 5.8"),
    (
        CapabilitySet::SYS_RESOURCE,
        "limits above the hard ones, and a low OOM score, for the agent and for tasks",
    ),
    (CapabilitySet::PERFMON, "kernel programs that read the kernel's memory"),
    (CapabilitySet::BPF, "kernel programs and their maps"),
];

/// Why rights could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    #[error("can't ask which capabilities the kernel knows")]
    Last(#[source] io::Error),
    #[error("can't read the agent's own capabilities")]
    Read(#[source] io::Error),
    #[error("can't give up capability {number}")]
    Bound { number: u32, source: io::Error },
    #[error("can't set the agent's own capabilities")]
    Set(#[source] io::Error),
    #[error("can't refuse new privileges to the agent and its tasks")]
    NoNewPrivileges(#[source] io::Error),
    #[error("can't install the system call filter")]
    Filter(#[source] io::Error),
}

/// All that is kept.
pub fn kept() -> CapabilitySet {
    KEPT.iter().fold(CapabilitySet::empty(), |set, (capability, _)| set | *capability)
}

/// Gives up everything that no feature needs; nothing where the agent isn't root and so has nothing.
///
/// `for_tasks` are those that the operator lets tasks ask for: who hasn't them can't hand them on.
/// For this thread and those that it starts later, so it comes before the first of them.
pub fn give_up(for_tasks: CapabilitySet) -> Result<(), PrivilegesError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let kept = kept() | for_tasks;
    let path = "/proc/sys/kernel/cap_last_cap";
    let last = fs::read_to_string(path).and_then(|text| {
        text.trim().parse::<u32>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    let last = last.map_err(PrivilegesError::Last)?;
    let own = capabilities(None).map_err(|error| PrivilegesError::Read(error.into()))?;
    // The bounding set first: changing it needs SETPCAP, which a container may not have given us to keep.
    for number in (0..=last.min(63)).filter(|number| kept.bits() & (1 << number) == 0) {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        remove_capability_from_bounding_set(capability)
            .map_err(|error| PrivilegesError::Bound { number, source: error.into() })?;
    }
    clear_ambient_capability_set().map_err(|error| PrivilegesError::Set(error.into()))?;
    let permitted = own.permitted & kept;
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(|error| PrivilegesError::Set(error.into()))?;
    set_no_new_privs(true).map_err(|error| PrivilegesError::NoNewPrivileges(error.into()))?;
    filter::install(for_tasks).map_err(PrivilegesError::Filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::capability;

    #[test]
    fn what_tasks_of_root_keep_the_agent_keeps() {
        assert!(kept().contains(capability::OF_ROOT), "{:?}", capability::OF_ROOT - kept());
    }

    #[test]
    fn what_changes_the_machine_is_not_kept() {
        let machine = CapabilitySet::SYS_MODULE
            | CapabilitySet::SYS_BOOT
            | CapabilitySet::SYS_RAWIO
            | CapabilitySet::SYS_TIME
            | CapabilitySet::MAC_ADMIN
            | CapabilitySet::MAC_OVERRIDE
            | CapabilitySet::AUDIT_CONTROL;
        assert!((kept() & machine).is_empty());
    }
}
