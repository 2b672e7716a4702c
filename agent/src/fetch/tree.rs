//! A directory into which hostile names are written: nothing lands outside of it, and no link is followed.
//!
//! Every path is resolved by the kernel beneath the directory, without links (openat2(2), RESOLVE_BENEATH and
//! RESOLVE_NO_SYMLINKS, Linux 5.6), so a link that an archive made can't lead what follows elsewhere. What is made
//! is counted against a bound. Files get permission bits alone: nothing becomes setuid, no device is made.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps},
    io::Errno,
};

use super::{
    failure::{Failure, Kind},
    limits,
};

/// What may be taken of the disk, and what is taken already.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    bytes_max: u64,
    bytes: u64,
    entries_max: u64,
    entries: u64,
}

impl Budget {
    pub fn new(bytes_max: u64, entries_max: u64) -> Self {
        Self { bytes_max, bytes: 0, entries_max, entries: 0 }
    }

    pub fn bytes_left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes)
    }

    pub fn take_bytes(&mut self, bytes: u64) -> Result<(), Failure> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bytes_max {
            let mib = self.bytes_max.div_ceil(1 << 20);
            let what = format!("it takes more than the {mib} MiB that the task may have");
            return Err(Failure::new(Kind::TooLarge, what));
        }
        Ok(())
    }

    fn take_entry(&mut self) -> Result<(), Failure> {
        self.entries += 1;
        if self.entries > self.entries_max {
            let what = format!("it holds more than {} files", self.entries_max);
            return Err(Failure::new(Kind::TooLarge, what));
        }
        self.take_bytes(limits::ENTRY_BYTES_MIN)
    }
}

/// The path of an entry: relative, plain, bounded. Empty: the directory itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(PathBuf);

impl Name {
    /// Of the bytes in an archive. What is absolute or leads upwards is refused, not bent.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let refused = |why: &str| {
            let text: String = String::from_utf8_lossy(bytes).chars().take(80).collect();
            Failure::new(Kind::Archive, format!("the path `{}` in it {why}", text.escape_debug()))
        };
        if bytes.contains(&0) {
            return Err(refused("holds a NUL byte"));
        }
        if bytes.first() == Some(&b'/') {
            return Err(refused("is absolute"));
        }
        if bytes.len() > limits::PATH_BYTES_MAX {
            return Err(refused("is too long"));
        }
        let mut path = PathBuf::new();
        let mut depth = 0;
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(refused("leads upwards")),
                _ => {}
            }
            if part.len() > limits::NAME_BYTES_MAX {
                return Err(refused("has a name that is too long"));
            }
            depth += 1;
            path.push(OsStr::from_bytes(part));
        }
        if depth > limits::DEPTH_MAX {
            return Err(refused("is too deep"));
        }
        Ok(Self(path))
    }

    pub fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }

    fn split(&self) -> Result<(&Path, &OsStr), Failure> {
        match (self.0.parent(), self.0.file_name()) {
            (Some(parent), Some(name)) => Ok((parent, name)),
            _ => Err(Failure::new(Kind::Archive, "an entry of it would replace the directory itself")),
        }
    }

    fn shown(&self) -> String {
        self.0.display().to_string()
    }
}

/// The directory.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// The directory that the last entry went to: the next one most often goes there, too.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Tree {
    pub fn new(root: OwnedFd) -> Self {
        Self { root, last: None }
    }

    /// A directory below it, made with all that is missing on the way.
    pub fn below(&mut self, name: &Name, budget: &mut Budget) -> Result<Self, Failure> {
        let fd = match name.is_root() {
            true => self.open(Path::new("."))?,
            false => {
                self.make_directories(&name.0, budget)?;
                self.open(&name.0)?
            }
        };
        Ok(Self::new(fd))
    }

    pub fn make_directory(&mut self, name: &Name, mode: u32, budget: &mut Budget) -> Result<(), Failure> {
        if name.is_root() {
            return Ok(());
        }
        budget.take_entry()?;
        let (parent, last) = name.split()?;
        let parent = self.parent(parent, budget)?;
        // Its owner can always fill and remove it.
        let mode = Mode::from_raw_mode(mode & 0o777 | 0o700);
        match rustix::fs::mkdirat(parent, last, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let facts = rustix::fs::statat(parent, last, AtFlags::SYMLINK_NOFOLLOW);
                let facts = facts.map_err(|error| failed(&name.shown(), error))?;
                if FileType::from_raw_mode(facts.st_mode) != FileType::Directory {
                    let what = format!("`{}` is a directory in it and something else before", name.shown());
                    return Err(Failure::new(Kind::Archive, what));
                }
            }
            Err(error) => return Err(failed(&name.shown(), error)),
        }
        Ok(())
    }

    /// Makes a file in place of the one that is there, and fills it. Answers how much that was.
    pub fn write_file(
        &mut self,
        name: &Name,
        mode: u32,
        modified: Option<i64>,
        content: &mut dyn Read,
        budget: &mut Budget,
    ) -> Result<u64, Failure> {
        let mut file = self.make_file(name, budget)?;
        let mut size = 0;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(&error)),
            };
            size += count as u64;
            budget.take_bytes(count as u64)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            file.write_all(bytes)
                .map_err(|error| Failure::disk(&format!("write `{}`", name.shown()), &error))?;
        }
        finish(&file, mode, modified)
            .map_err(|error| Failure::disk(&format!("write `{}`", name.shown()), &error))?;
        Ok(size)
    }

    /// Makes an empty file in place of the one that is there; only its owner may open it.
    pub fn make_file(&mut self, name: &Name, budget: &mut Budget) -> Result<File, Failure> {
        budget.take_entry()?;
        let (parent, last) = name.split()?;
        let parent = self.parent(parent, budget)?;
        replace(parent, last, name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, last, flags, Mode::from_raw_mode(0o600));
        Ok(file.map_err(|error| failed(&name.shown(), error))?.into())
    }

    /// A file without a name, gone when it is closed.
    pub fn make_nameless(&mut self, budget: &mut Budget) -> Result<File, Failure> {
        let name = Name(PathBuf::from(".muster-fetch"));
        let file = self.make_file(&name, budget)?;
        rustix::fs::unlinkat(&self.root, &name.0, AtFlags::empty())
            .map_err(|error| failed(&name.shown(), error))?;
        Ok(file)
    }

    /// Where it points to is the business of whoever follows it.
    pub fn make_symlink(&mut self, name: &Name, target: &[u8], budget: &mut Budget) -> Result<(), Failure> {
        budget.take_entry()?;
        if target.is_empty() || target.len() >= limits::PATH_BYTES_MAX || target.contains(&0) {
            let what = format!("the link `{}` in it has no valid target", name.shown());
            return Err(Failure::new(Kind::Archive, what));
        }
        let (parent, last) = name.split()?;
        let parent = self.parent(parent, budget)?;
        replace(parent, last, name)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), parent, last)
            .map_err(|error| failed(&name.shown(), error))
    }

    /// To a plain file below the directory; neither the way there nor the file itself may be a symbolic link.
    pub fn make_hard_link(&mut self, name: &Name, to: &Name, budget: &mut Budget) -> Result<(), Failure> {
        budget.take_entry()?;
        let absent = || {
            let what = format!(
                "the hard link `{}` in it leads to `{}`, which is no file of it",
                name.shown(),
                to.shown()
            );
            Failure::new(Kind::Archive, what)
        };
        let (from_parent, from_last) = to.split().map_err(|_| absent())?;
        let from_parent = if from_parent.as_os_str().is_empty() { Path::new(".") } else { from_parent };
        let from_parent = self.open(from_parent).map_err(|_| absent())?;
        let facts =
            rustix::fs::statat(&from_parent, from_last, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| absent())?;
        if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
            return Err(absent());
        }
        if name == to {
            return Ok(());
        }
        let (parent, last) = name.split()?;
        let parent = self.parent(parent, budget)?;
        replace(parent, last, name)?;
        // Without AT_SYMLINK_FOLLOW: what stands there now is linked, whatever it is, and nothing behind it.
        rustix::fs::linkat(&from_parent, from_last, parent, last, AtFlags::empty())
            .map_err(|error| failed(&name.shown(), error))
    }

    /// The directory for an entry, made if it isn't there.
    fn parent(&mut self, path: &Path, budget: &mut Budget) -> Result<&OwnedFd, Failure> {
        if path.as_os_str().is_empty() {
            return Ok(&self.root);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let fd = match self.resolve(path) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    self.make_directories(path, budget)?;
                    self.open(path)?
                }
                Err(error) => return Err(failed(&path.display().to_string(), error)),
            };
            self.last = Some((path.to_owned(), fd));
        }
        match &self.last {
            Some((_, fd)) => Ok(fd),
            None => Ok(&self.root),
        }
    }

    fn make_directories(&self, path: &Path, budget: &mut Budget) -> Result<(), Failure> {
        let mut above = PathBuf::from(".");
        for part in path {
            let parent = self.open(&above)?;
            match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => budget.take_entry()?,
                // If it is something else, the next step says so.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(&above.join(part).display().to_string(), error)),
            }
            above.push(part);
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Failure> {
        self.resolve(path).map_err(|error| failed(&path.display().to_string(), error))
    }

    fn resolve(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), how)
    }
}

/// Permission bits, less setuid, setgid and sticky; its owner can always read and write it.
pub fn finish(file: impl AsFd, mode: u32, modified: Option<i64>) -> io::Result<()> {
    if let Some(seconds) = modified {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        // A time that the file system can't hold is no reason to do without the file.
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time });
    }
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777 | 0o600))?)
}

fn replace(parent: &OwnedFd, last: &OsStr, name: &Name) -> Result<(), Failure> {
    match rustix::fs::unlinkat(parent, last, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(&name.shown(), error)),
    }
}

fn failed(path: &str, error: Errno) -> Failure {
    let path = path.strip_prefix("./").unwrap_or(path);
    let archive = |why: &str| Failure::new(Kind::Archive, format!("`{path}` {why}"));
    match error {
        Errno::LOOP => archive("leads through a symbolic link, which is not followed"),
        Errno::XDEV => archive("leads out of the sandbox"),
        Errno::NOTDIR => archive("leads through something that is no directory"),
        Errno::ISDIR => archive("would replace a directory"),
        Errno::NAMETOOLONG => archive("is too long"),
        other => Failure::disk(&format!("make `{path}`"), &other.into()),
    }
}

/// What a reader of an archive says that can't go on.
pub fn damaged(error: &io::Error) -> Failure {
    Failure::new(Kind::Archive, format!("the archive is damaged or cut off: {error}"))
}
