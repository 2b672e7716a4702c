//! Processes that can't be mistaken for another.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Which process of this boot: its number, and when it started, because numbers come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    pub pid: u32,
    /// Clock ticks from boot to the start, as in field 22 of /proc/PID/stat.
    pub start_ticks: u64,
}

/// One boot of one host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub String);

/// A process that we hold: its number can't be given to another while this lives.
///
/// The descriptor becomes readable when the process has ended; it fits tokio's `AsyncFd`.
#[derive(Debug, Clone)]
pub struct Process {
    id: ProcessId,
    fd: Arc<OwnedFd>,
}

impl Process {
    pub fn new(id: ProcessId, fd: OwnedFd) -> Self {
        Self { id, fd: Arc::new(fd) }
    }

    pub fn id(&self) -> ProcessId {
        self.id
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Becomes readable when it is worth to look again; made for tokio's `AsyncFd`.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
}

impl Watch {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Takes what made it readable, so that it can become readable anew.
    pub fn drain(&self) {
        let mut buffer = [0_u8; 4096];
        // Nothing left to read (or interrupted) is what we want; the caller looks again anyway.
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|count| count == buffer.len()) {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Whether a process has ended, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Running,
    Ended(model::Exit),
    /// Ended, and neither record nor parenthood tells how. The kernel's own record may know.
    EndedUnknown,
}

/// The signals that the agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    Terminate,
    Kill,
}
