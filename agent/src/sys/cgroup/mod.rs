//! Control groups: what a task may use, and what it has used.
//!
//! Each task has a group in every v1 hierarchy that limits something, and one in the v2 tree,
//! which is its identity for eBPF and takes `cgroup.kill`. Where all controllers are v2, that one
//! group does it all. Of v1 only cpu, memory and pids are used by every task (and what is mounted together
//! with them): the v2 group counts CPU time and freezes without any controller. A task that asks for cores,
//! I/O limits or huge pages has a group in those hierarchies too; see `asked`.

pub(in crate::sys) mod asked;
mod devices;
pub(in crate::sys) mod groups;
mod guards;
mod members;
pub(in crate::sys) mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use asked::HugePageSize;
pub use devices::{DEVICE_PROGRAM, DeviceRule};
pub(in crate::sys) use groups::reread;
pub use groups::{Cgroups, is_delegated};
pub use guards::MendedDevices;
pub use probe::{Controller, Hierarchies};

use super::SysError;

/// The name of one attempt's group, below the agent's parent group: one path component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupName(String);

impl CgroupName {
    /// Letters, digits, `.`, `-` and `_`, not starting with a dot, at most 200 bytes; no name of
    /// a file that the kernel puts into groups (which all start with `cgroup.`, `cpu.` and so on)
    /// can be meant, because a controller's name before the first dot is refused.
    pub fn new(name: &str) -> Result<Self, SysError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let first_word = name.split('.').next().unwrap_or_default();
        let is_kernel_file = matches!(name, "tasks" | "notify_on_release" | "release_agent")
            || name.contains('.') && RESERVED.contains(&first_word);
        if name.is_empty()
            || name.len() > 200
            || name.starts_with('.')
            || !name.bytes().all(is_allowed)
            || is_kernel_file
        {
            return Err(SysError::GroupName { name: name.escape_debug().to_string() });
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// First words of the kernel's own files.
const RESERVED: &[&str] = &[
    "blkio",
    "cgroup",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "dmem",
    "freezer",
    "hugetlb",
    "io",
    "irq",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

impl fmt::Display for CgroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The v2 group's id, as eBPF programs see it; never the id of a v1 group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(pub u64);

/// How a host lays out its hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Controllers in v1 hierarchies, and a v2 tree beside them.
    Hybrid,
    /// Only v1; the agent mounts a v2 tree of its own.
    V1,
    /// One v2 tree with all controllers.
    V2,
}

impl Layout {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// What a task may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Hard limit, in thousandths of a core.
    pub cpu_quota_milli: u64,
    /// The request, in thousandths of a core: its weight against others on a busy host.
    pub cpu_weight_milli: u64,
    /// Hard limit, swap included.
    pub memory_bytes: u64,
    /// What the kernel leaves to the task when the host is short of memory; above it, the task is the first
    /// to give back. Absent: all of its memory is alike.
    pub memory_kept_bytes: Option<u64>,
    /// Most processes and threads, the task's init included where it has one.
    pub pids_max: u32,
    /// Numbers of the only cores that it runs on; empty: all.
    pub cores: BTreeSet<u32>,
    /// On every disk of the host.
    pub io: model::IoLimits,
    /// In bytes; of a size that isn't named here it gets none.
    pub huge_pages: BTreeMap<HugePageSize, u64>,
    /// Beyond those of every task.
    pub devices: Vec<DeviceRule>,
    /// Each gets a group inside the task's.
    pub members: Vec<MemberLimits>,
}

/// What one process of a task group may use, of what the whole may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberLimits {
    /// A DNS label.
    pub name: String,
    pub cpu_quota_milli: Option<u64>,
    /// Swap included.
    pub memory_bytes: Option<u64>,
}

/// What the kernel counted for one process of a task group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberFigures {
    /// Of it and of what it started.
    pub oom_kills: u64,
    /// Whether it met its own memory limit, and not only that of the whole.
    pub has_reached_memory_limit: bool,
}

impl Limits {
    /// Limits of what every task uses, and of nothing that it must ask for.
    pub const fn new(cpu_quota_milli: u64, cpu_weight_milli: u64, memory_bytes: u64, pids_max: u32) -> Self {
        Self {
            cpu_quota_milli,
            cpu_weight_milli,
            memory_bytes,
            memory_kept_bytes: None,
            pids_max,
            cores: BTreeSet::new(),
            io: NO_IO_LIMITS,
            huge_pages: BTreeMap::new(),
            devices: Vec::new(),
            members: Vec::new(),
        }
    }
}

const NO_IO_LIMITS: model::IoLimits = model::IoLimits {
    read_bytes_per_second: None,
    write_bytes_per_second: None,
    read_operations_per_second: None,
    write_operations_per_second: None,
    weight: None,
};

/// Time in which a group's threads were held up for want of something, since the group was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    pub cpu: Option<Stalled>,
    pub memory: Option<Stalled>,
    pub io: Option<Stalled>,
}

/// Time in which some thread was, and in which all were that had anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stalled {
    pub some_us: u64,
    /// Absent for the CPU before Linux 5.13.
    pub full_us: Option<u64>,
}

/// What the kernel counted for one group; `None` where this host does not count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub cpu_usage_ns: Option<u64>,
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    /// Time in which the quota kept the task from running.
    pub cpu_throttled_ns: Option<u64>,
    /// Periods of the quota in which something ran, and those in which it held something back.
    pub cpu_periods: Option<u64>,
    pub cpu_periods_throttled: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Without the file pages that could be dropped at once.
    pub memory_working_set_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub memory_anon_bytes: Option<u64>,
    /// Page cache, `memory_shmem_bytes` included.
    pub memory_file_bytes: Option<u64>,
    pub memory_shmem_bytes: Option<u64>,
    /// The kernel's own structures.
    pub memory_kernel_bytes: Option<u64>,
    /// Processes that the out-of-memory killer ended.
    pub oom_kills: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}
