//! Space that is kept for the agent's own records, for when tasks have filled the disk.
//!
//! A file of a few MiB that is given up when a record can't be written, so that tasks can still be
//! ended and their ends told; it is made again when there is room.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Enough for ten thousand rows, and for the store to put itself in order.
pub const BYTES: u64 = 8 << 20;

/// Made only where so many times more is free: on a full disk it would be the last straw.
const ROOM_FACTOR: u64 = 4;

/// Below this the disk counts as short: the oldest ended tasks' files go.
pub const DISK_SHORT_BYTES: u64 = 2 * BYTES;

/// The kept space of one data directory.
#[derive(Debug, Clone)]
pub struct Reserve {
    directory: PathBuf,
    path: PathBuf,
}

impl Reserve {
    pub fn new(data_dir: &Path) -> Self {
        Self { directory: data_dir.to_owned(), path: data_dir.join("reserve") }
    }

    /// Makes it where it isn't and there is room.
    pub fn ensure(&self) -> io::Result<()> {
        if self.path.exists() || self.available()? < ROOM_FACTOR * BYTES {
            return Ok(());
        }
        let made = File::create(&self.path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, BYTES)?));
        if made.is_err() {
            // Half a reserve would look like a whole one.
            let _ = fs::remove_file(&self.path);
        }
        made
    }

    /// Gives the space back; whether there was any.
    pub fn give_up(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// Whether the disk has little left, the reserve not counted.
    pub fn is_disk_short(&self) -> io::Result<bool> {
        Ok(self.available()? < DISK_SHORT_BYTES)
    }

    /// Bytes that tasks could still write.
    fn available(&self) -> io::Result<u64> {
        let found = statvfs(&self.directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_given_up_once() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(folder.path());
        reserve.ensure().unwrap();
        reserve.ensure().unwrap();
        assert_eq!(fs::metadata(folder.path().join("reserve")).unwrap().len(), BYTES);
        assert!(reserve.give_up());
        assert!(!reserve.give_up());
    }
}
