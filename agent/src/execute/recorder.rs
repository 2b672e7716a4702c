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
