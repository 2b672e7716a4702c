//! Pipes and terminals on tokio's reactor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that can be read or written, or both, without blocking a thread.
#[derive(Debug)]
pub struct ByteStream {
    fd: AsyncFd<OwnedFd>,
}

impl ByteStream {
    /// Needs a tokio runtime.
    pub fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: the descriptor is owned by the registration and stays open and itself as long as it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
        Ok(Self { fd })
    }

    /// 0 at the end. Safe to drop: nothing is read then.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| Ok(rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer))?);
        self.fd.async_io(Interest::READABLE, read).await
    }

    /// Waits until nobody reads any more what is written; only of a pipe that was opened for writing.
    pub async fn closed(&self) {
        loop {
            match self.fd.ready(Interest::ERROR).await {
                Ok(mut ready) if !ready.ready().is_error() => ready.clear_ready(),
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Writes all of it. Dropped in the middle, a part is written.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |fd: &OwnedFd| Ok(rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))?);
            let count = self.fd.async_io(Interest::WRITABLE, write).await?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for ByteStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}
