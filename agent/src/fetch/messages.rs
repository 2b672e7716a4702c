//! What the agent and its fetching process say to each other, over a socket that keeps messages apart.
//!
//! A descriptor may go along with a message. What the process says is untrusted: it is bounded, and parsed into
//! these types or refused.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{failure::Failure, limits};

/// From the agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToChild {
    /// First of all; the sandbox comes along.
    Begin { allowed: Allowed },
    /// One file. Where it is cached, it comes along.
    Fetch { item: Item, is_cached: bool },
}

/// What the fetching process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Directories of which `file:` URLs may name files.
    pub directories: Vec<PathBuf>,
    /// What one download may take, and what all that is put into the sandbox may take together.
    pub bytes_max: u64,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub url: String,
    /// Relative to the sandbox; empty: the sandbox itself.
    pub target: String,
    /// Hexadecimal.
    pub sha256: Option<String>,
    pub is_unpacked: bool,
    pub is_executable: bool,
}

/// From the fetching process.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromChild {
    /// It has come, and is what the digest says. The file comes along where the agent may want to keep it.
    Downloaded {
        bytes: u64,
    },
    /// It is in its place.
    Done,
    /// The cached one is not what its digest says.
    Damaged,
    Failed(Failure),
}

/// Sends one message, with a descriptor or without.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    along: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = along.into_iter().collect();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let parts = [IoSlice::new(&bytes)];
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one message; `None` when the other has closed or ended.
pub fn receive<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let mut bytes = vec![0; limits::MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut along = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            along = fds.last();
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = bytes.get(..received.bytes).unwrap_or_default();
    Ok(Some((serde_json::from_slice(message)?, along)))
}

/// Whether there is something to receive, or an end to be seen, before the patience is over.
pub fn await_message(socket: &impl AsFd, patience: Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
