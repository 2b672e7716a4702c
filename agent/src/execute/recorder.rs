//! What the kernel programs keep for tasks, as far as launching and ending them needs it.

use std::os::unix::process::ExitStatusExt as _;

use model::Exit;

use crate::sys::{
    CgroupId, ProcessId,
    bpf::{BpfError, Counted, ProcessState, Programs},
};

/// Counts for cgroups and keeps exit statuses, also while no agent runs.
pub trait Recorder: Send + Sync {
    fn register_cgroup(&self, cgroup: CgroupId) -> Result<(), BpfError>;
    fn unregister_cgroup(&self, cgroup: CgroupId) -> Result<(), BpfError>;
    /// Every port but the `declared` ones is told, or refused too. Nothing where nobody can.
    fn guard_ports(
        &self,
        _cgroup: CgroupId,
        _declared: &[(u16, u16)],
        _refuses: bool,
    ) -> Result<(), BpfError> {
        Ok(())
    }
    /// Lets go of what guards a cgroup that was not registered yet.
    fn unguard_ports(&self, _cgroup: CgroupId) -> Result<(), BpfError> {
        Ok(())
    }
    fn cpu_ns(&self, cgroup: CgroupId) -> Option<u64>;
    /// Nothing where nobody counts.
    fn counted(&self, _cgroup: CgroupId) -> Counted {
        Counted::default()
    }
    fn register_process(&self, process: ProcessId) -> Result<(), BpfError>;
    fn unregister_process(&self, process: ProcessId) -> Result<(), BpfError>;
    /// `None` when nobody saw the end.
    fn exit(&self, process: ProcessId) -> Option<Exit>;
}

impl Recorder for Programs {
    fn register_cgroup(&self, cgroup: CgroupId) -> Result<(), BpfError> {
        Self::register_cgroup(self, cgroup)
    }

    fn unregister_cgroup(&self, cgroup: CgroupId) -> Result<(), BpfError> {
        Self::unregister_cgroup(self, cgroup)
    }

    fn guard_ports(&self, cgroup: CgroupId, declared: &[(u16, u16)], refuses: bool) -> Result<(), BpfError> {
        Self::guard_ports(self, cgroup, declared, refuses)
    }

    fn unguard_ports(&self, cgroup: CgroupId) -> Result<(), BpfError> {
        Self::unguard_ports(self, cgroup)
    }

    fn cpu_ns(&self, cgroup: CgroupId) -> Option<u64> {
        // An error means what `None` means: nobody can tell.
        Self::cpu_ns(self, cgroup).ok().flatten()
    }

    fn counted(&self, cgroup: CgroupId) -> Counted {
        // As above.
        Self::counted(self, cgroup).ok().flatten().unwrap_or_default()
    }

    fn register_process(&self, process: ProcessId) -> Result<(), BpfError> {
        Self::register_process(self, process)
    }

    fn unregister_process(&self, process: ProcessId) -> Result<(), BpfError> {
        Self::unregister_process(self, process)
    }

    fn exit(&self, process: ProcessId) -> Option<Exit> {
        match self.process_state(process).ok()? {
            ProcessState::NotRegistered | ProcessState::Running => None,
            ProcessState::Ended(exit) => {
                let code = exit.status.code().and_then(|code| u8::try_from(code).ok()).map(Exit::Code);
                let signal = exit.status.signal().and_then(|signal| u8::try_from(signal).ok());
                code.or(signal.map(Exit::Signal))
            }
        }
    }
}
