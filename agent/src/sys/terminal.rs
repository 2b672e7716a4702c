//! Terminals for people who look into a task: a pseudo-terminal whose far end belongs to the task's user.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::pty::{Winsize, grantpt, posix_openpt, unlockpt};

use super::Identity;

/// Characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Ours; reads fail with EIO when nobody has the far end open any more. Never blocks.
    pub near: OwnedFd,
    pub far: OwnedFd,
}

/// Opens a terminal that the user may open by name, too.
pub fn open(size: Size, owner: &Identity) -> io::Result<Terminal> {
    let near = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER (Linux 4.13) takes flags by value, and gives a new descriptor.
    let far = unsafe { libc::ioctl(near.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    if far < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else knows it.
    let far = unsafe { OwnedFd::from_raw_fd(far) };
    let near = OwnedFd::from(near);
    set_size(rustix::fd::AsFd::as_fd(&near), size)?;
    std::os::unix::fs::fchown(&far, Some(owner.uid), None)?;
    let far = File::from(far);
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    far.set_permissions(mode)?;
    Ok(Terminal { near, far: far.into() })
}

/// Tells whoever uses the terminal that it has another size.
pub fn set_size(near: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call.
    let answer = unsafe { libc::ioctl(near.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn what_is_written_at_one_end_is_read_at_the_other() {
        let owner = Identity {
            uid: rustix::process::getuid().as_raw(),
            gid: 0,
            groups: Vec::new(),
            home: None,
            name: None,
        };
        let terminal = open(Size { rows: 33, columns: 101 }, &owner).unwrap();
        let mut far = File::from(terminal.far);
        File::from(terminal.near.try_clone().unwrap()).write_all(b"hello\n").unwrap();
        let mut line = [0; 6];
        far.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
        let size = rustix::termios::tcgetwinsize(&far);
        assert_eq!(size.map(|size| (size.ws_row, size.ws_col)), Ok((33, 101)));
        drop(far);
        let mut near = File::from(terminal.near);
        let mut echo = [0; 64];
        // The echo of what was typed, then the end.
        assert_eq!(near.read(&mut echo).unwrap(), 7);
        assert_eq!(near.read(&mut echo).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}
