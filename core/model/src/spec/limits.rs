//! Limits that the kernel holds a task to, beside its resources.

use super::{SpecError, check_range};
use crate::limits as bounds;

/// How much a task may read and write, on each disk of its host. Absent: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoLimits {
    pub read_bytes_per_second: Option<u64>,
    pub write_bytes_per_second: Option<u64>,
    pub read_operations_per_second: Option<u64>,
    pub write_operations_per_second: Option<u64>,
    /// Share among those who wait for the same disk, 1 to 1000; 100 is everyone's.
    pub weight: Option<u16>,
}

impl IoLimits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        let Self {
            read_bytes_per_second,
            write_bytes_per_second,
            read_operations_per_second,
            write_operations_per_second,
            weight,
        } = self;
        for (what, value) in [
            ("bytes read in a second", read_bytes_per_second),
            ("bytes written in a second", write_bytes_per_second),
        ] {
            // A page at a time is the least that makes progress.
            value.map_or(Ok(()), |value| check_range(what, value, 4096, u64::MAX / 2))?;
        }
        for (what, value) in [
            ("reads in a second", read_operations_per_second),
            ("writes in a second", write_operations_per_second),
        ] {
            value.map_or(Ok(()), |value| check_range(what, value, 1, u32::MAX.into()))?;
        }
        weight.map_or(Ok(()), |weight| {
            check_range("the I/O weight", weight.into(), 1, bounds::IO_WEIGHT_MAX.into())
        })
    }
}

/// What `setrlimit(2)` bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RlimitKind {
    AddressSpace,
    Core,
    Cpu,
    Data,
    FileSize,
    LockedMemory,
    MessageQueues,
    Nice,
    OpenFiles,
    Processes,
    RealTimePriority,
    RealTimeTimeout,
    PendingSignals,
    Stack,
}

impl RlimitKind {
    pub const ALL: &[Self] = &[
        Self::AddressSpace,
        Self::Core,
        Self::Cpu,
        Self::Data,
        Self::FileSize,
        Self::LockedMemory,
        Self::MessageQueues,
        Self::Nice,
        Self::OpenFiles,
        Self::Processes,
        Self::RealTimePriority,
        Self::RealTimeTimeout,
        Self::PendingSignals,
        Self::Stack,
    ];

    /// As `setrlimit(2)` spells it, without RLIMIT_ and in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddressSpace => "as",
            Self::Core => "core",
            Self::Cpu => "cpu",
            Self::Data => "data",
            Self::FileSize => "fsize",
            Self::LockedMemory => "memlock",
            Self::MessageQueues => "msgqueue",
            Self::Nice => "nice",
            Self::OpenFiles => "nofile",
            Self::Processes => "nproc",
            Self::RealTimePriority => "rtprio",
            Self::RealTimeTimeout => "rttime",
            Self::PendingSignals => "sigpending",
            Self::Stack => "stack",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

/// In the units of `setrlimit(2)`; absent: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

impl Rlimit {
    pub(super) fn check(self, kind: RlimitKind) -> Result<(), SpecError> {
        let Some(hard) = self.hard else { return Ok(()) };
        if self.soft.is_none_or(|soft| soft > hard) {
            return Err(SpecError::SoftAboveHard { kind: kind.as_str(), hard });
        }
        Ok(())
    }
}

/// A signal that asks a task to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum StopSignal {
    Hup,
    Int,
    Quit,
    Usr1,
    Usr2,
    #[default]
    Term,
}

impl StopSignal {
    pub const ALL: &[Self] = &[Self::Hup, Self::Int, Self::Quit, Self::Usr1, Self::Usr2, Self::Term];

    /// As `signal(7)` spells it, without SIG.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Term => "TERM",
        }
    }
}
