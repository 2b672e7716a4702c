//! How much of its disk a task uses.
//!
//! Walks directories by descriptor, follows no link, and never leaves the filesystem: what a task makes of its
//! sandbox can cost time, which is paced, and nothing else.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use super::SysError;

/// Directories inside each other that are looked into. Each costs a descriptor while it is.
const DEPTH_MAX: usize = 128;

/// How many entries are looked at between two looks at the clock.
const STEP: u32 = 256;

/// Of the time that a walk takes, this part is work: a thirtieth.
const REST: u32 = 29;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// Allocated, each file once however many names it has.
    pub bytes: u64,
    /// Whether there was more, too deep to be looked at.
    pub is_too_deep: bool,
}

/// Sums up what these directories hold. A file that comes or goes meanwhile counts or doesn't.
pub fn used(directories: &[&Path]) -> Result<DiskUse, SysError> {
    let mut walk = Walk { used: DiskUse::default(), seen: BTreeSet::new(), steps: 0, began: Instant::now() };
    for directory in directories {
        let failed =
            |error: rustix::io::Errno| SysError::Read { path: (*directory).to_owned(), source: error.into() };
        match rustix::fs::openat(CWD, *directory, DIRECTORY, Mode::empty()) {
            Ok(fd) => walk.directory(fd, 0).map_err(failed)?,
            // It has just been removed.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(walk.used)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Walk {
    used: DiskUse,
    /// Inodes of files with several names.
    seen: BTreeSet<u64>,
    steps: u32,
    began: Instant,
}

impl Walk {
    fn directory(&mut self, fd: OwnedFd, depth: usize) -> rustix::io::Result<()> {
        let data = rustix::fs::fstat(&fd)?;
        self.used.bytes += allocated(&data);
        let device = data.st_dev;
        let mut entries = Dir::new(fd)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            self.pace();
            let inside = entries.fd()?;
            let data = match rustix::fs::statat(inside, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(data) => data,
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            if data.st_dev != device {
                continue;
            }
            if FileType::from_raw_mode(data.st_mode) != FileType::Directory {
                if data.st_nlink < 2 || self.seen.insert(data.st_ino) {
                    self.used.bytes += allocated(&data);
                }
                continue;
            }
            if depth >= DEPTH_MAX {
                self.used.is_too_deep = true;
                continue;
            }
            match rustix::fs::openat(inside, entry.file_name(), DIRECTORY, Mode::empty()) {
                Ok(below) => self.directory(below, depth + 1)?,
                // It went, or became something else.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Rests in proportion to the work.
    fn pace(&mut self) {
        self.steps += 1;
        if self.steps.is_multiple_of(STEP) {
            thread::sleep((self.began.elapsed() * REST).min(Duration::from_millis(200)));
            self.began = Instant::now();
        }
    }
}

fn allocated(data: &rustix::fs::Stat) -> u64 {
    // Blocks of 512 whatever the filesystem's are (inode(7)).
    u64::try_from(data.st_blocks).unwrap_or(0).saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("a/b")).unwrap();
        let empty = used(&[path]).unwrap().bytes;
        fs::write(path.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(path.join("a/b/file"), path.join("again")).unwrap();
        std::os::unix::fs::symlink("/usr", path.join("out")).unwrap();
        let found = used(&[path, Path::new("/no/such/place")]).unwrap();
        assert!((1 << 20..(1 << 20) + 65536).contains(&(found.bytes - empty)), "{found:?} after {empty}");
        // A hole takes no place.
        fs::File::create(path.join("hole")).unwrap().set_len(1 << 30).unwrap();
        assert!(used(&[path]).unwrap().bytes < empty + (2 << 20));
    }

    #[test]
    fn what_is_nested_too_deeply_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let deep = |levels| folder.path().join(vec!["d"; levels].join("/"));
        fs::create_dir_all(deep(DEPTH_MAX)).unwrap();
        assert!(!used(&[folder.path()]).unwrap().is_too_deep);
        fs::create_dir_all(deep(DEPTH_MAX + 1)).unwrap();
        assert!(used(&[folder.path()]).unwrap().is_too_deep);
    }
}
