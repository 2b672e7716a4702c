//! Files of a sandbox, reached so that nothing in it can lead out of it.
//!
//! The owner of a sandbox may change it at any moment, while root reads and writes here. So no path is looked at
//! twice: the kernel resolves each beneath the sandbox alone (openat2(2), RESOLVE_BENEATH, Linux 5.6), symbolic
//! links included, and everything after that happens to what was opened.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Identity;

/// How often a path is resolved again that changed in the middle (EAGAIN of openat2).
const RESOLVE_TRIES: u32 = 64;

/// A directory that nothing leads out of.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
}

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Link,
    /// A device, a pipe or a socket.
    Other,
}

/// What can be told of a file without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: Kind,
    pub size: u64,
    /// Permission bits alone.
    pub mode: u32,
    pub modified_at_us: i64,
}

/// Something that was found, and can't be another any more.
#[derive(Debug)]
pub struct Found {
    /// Opened for its place alone (O_PATH).
    fd: OwnedFd,
    pub facts: Facts,
    /// Bytes of the disk that are free when this name of it goes.
    pub allocated: u64,
}

/// A directory to make things in.
#[derive(Debug)]
pub struct Place {
    parent: OwnedFd,
    name: OsString,
}

/// Why something can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BeneathError {
    #[error("there is no such file")]
    NotFound,
    #[error("the path leads out of the sandbox")]
    LeadsOut,
    #[error("paths are relative to the sandbox, without a slash in front")]
    Absolute,
    #[error("the name is longer than a name may be")]
    TooLong,
    #[error("a part of the path is no directory")]
    NotDirectory,
    #[error("it is {what}, and only files and directories are handled")]
    Kind { what: &'static str },
    #[error("a directory stands there")]
    IsDirectory,
    #[error("can't {what}")]
    Io { what: &'static str, source: io::Error },
}

fn failed(what: &'static str) -> impl Fn(Errno) -> BeneathError {
    move |error| match error {
        Errno::NOENT => BeneathError::NotFound,
        // ELOOP: a link of /proc, or links that chase each other.
        Errno::XDEV | Errno::LOOP => BeneathError::LeadsOut,
        Errno::NOTDIR => BeneathError::NotDirectory,
        Errno::ISDIR => BeneathError::IsDirectory,
        Errno::NAMETOOLONG => BeneathError::TooLong,
        other => BeneathError::Io { what, source: other.into() },
    }
}

impl Beneath {
    pub fn open(root: &Path) -> Result<Self, BeneathError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(failed("open the sandbox"))?;
        Ok(Self { root })
    }

    /// What a path leads to, through links that stay inside.
    pub fn find(&self, path: &Path) -> Result<Found, BeneathError> {
        Found::of(self.resolve(path, OFlags::PATH)?)
    }

    /// Where something can be made: the last name of a path, in a directory that is there.
    pub fn place(&self, path: &Path) -> Result<Place, BeneathError> {
        // `..` at the end names no thing to make, and would not be looked at by the kernel.
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(BeneathError::LeadsOut);
        };
        let parent =
            self.resolve(path.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Place { parent, name: name.to_owned() })
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, BeneathError> {
        if path.is_absolute() {
            return Err(BeneathError::Absolute);
        }
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RESOLVE_TRIES {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                Err(Errno::AGAIN) => {}
                other => return other.map_err(failed("open it")),
            }
        }
        Err(failed("open it")(Errno::AGAIN))
    }
}

impl Found {
    fn of(fd: OwnedFd) -> Result<Self, BeneathError> {
        let stat = rustix::fs::fstat(&fd).map_err(failed("look at it"))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Kind::Other,
        };
        let modified =
            stat.st_mtime.saturating_mul(1_000_000) + i64::try_from(stat.st_mtime_nsec / 1000).unwrap_or(0);
        let facts = Facts {
            kind,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode & 0o7777,
            modified_at_us: modified,
        };
        // Blocks of 512 whatever the filesystem's are (inode(7)). With another name it stays.
        let blocks = if stat.st_nlink > 1 { 0 } else { u64::try_from(stat.st_blocks).unwrap_or(0) };
        Ok(Self { fd, facts, allocated: blocks.saturating_mul(512) })
    }

    /// Opens a plain file for reading.
    pub fn read(&self) -> Result<File, BeneathError> {
        match self.facts.kind {
            Kind::File => {}
            Kind::Directory => return Err(BeneathError::IsDirectory),
            Kind::Link => return Err(BeneathError::Kind { what: "a link" }),
            Kind::Other => return Err(BeneathError::Kind { what: "a device, a pipe or a socket" }),
        }
        self.reopen(OFlags::RDONLY)
    }

    /// The names in a directory, without `.` and `..`.
    pub fn names(&self) -> Result<impl Iterator<Item = Result<OsString, BeneathError>>, BeneathError> {
        let directory = self.reopen(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let entries = Dir::read_from(directory).map_err(failed("read the directory"))?;
        Ok(entries.filter_map(|entry| match entry {
            Ok(entry) => {
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                (name != "." && name != "..").then(|| Ok(name.to_owned()))
            }
            Err(error) => Some(Err(failed("read the directory")(error))),
        }))
    }

    /// What stands under a name in this directory; a link itself, not what it leads to.
    pub fn child(&self, name: &OsStr) -> Result<Found, BeneathError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::of(rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(failed("open it"))?)
    }

    /// Where a link points to, in its own words.
    pub fn target(&self) -> Result<OsString, BeneathError> {
        let target = rustix::fs::readlinkat(&self.fd, "", Vec::new()).map_err(failed("read the link"))?;
        Ok(OsStr::from_bytes(target.as_bytes()).to_owned())
    }

    /// Through our own list of descriptors, so that it is what was found and nothing else.
    fn reopen(&self, flags: OFlags) -> Result<File, BeneathError> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open it"))?.into())
    }
}

impl Place {
    /// Makes a directory, or takes the one that is there as it is.
    pub fn make_directory(&self, mode: u32, owner: &Identity) -> Result<(), BeneathError> {
        match rustix::fs::mkdirat(&self.parent, &self.name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let there = rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty());
                return there.map(drop).map_err(failed("use the directory that is there"));
            }
            Err(error) => return Err(failed("make a directory")(error)),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty());
        let made = made.map_err(failed("open a new directory"))?;
        give(&made, mode, owner)
    }

    /// Makes an empty file in place of the one that is there.
    pub fn make_file(&self) -> Result<File, BeneathError> {
        self.remove()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.parent, &self.name, flags, Mode::from_raw_mode(0o600));
        Ok(made.map_err(failed("make a file"))?.into())
    }

    /// Makes a link in place of what is there; where it points to is its reader's business.
    pub fn make_link(&self, target: &OsStr, owner: &Identity) -> Result<(), BeneathError> {
        self.remove()?;
        rustix::fs::symlinkat(target, &self.parent, &self.name).map_err(failed("make a link"))?;
        let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&self.parent, &self.name, uid, gid, flags).map_err(failed("give a link away"))
    }

    /// What stands there; a link itself, not what it leads to.
    pub fn there(&self) -> Result<Option<Found>, BeneathError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty()) {
            Ok(fd) => Found::of(fd).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("open it")(error)),
        }
    }

    /// Moves what stands at another place here, in place of the file that is there.
    pub fn take(&self, from: &Place) -> Result<(), BeneathError> {
        rustix::fs::renameat(&from.parent, &from.name, &self.parent, &self.name).map_err(failed("move it"))
    }

    fn remove(&self) -> Result<(), BeneathError> {
        match rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("replace what is there")(error)),
        }
    }
}

/// Gives a new file to its owner: permission bits alone, so that nothing becomes setuid on the way.
pub fn give(file: impl AsFd, mode: u32, owner: &Identity) -> Result<(), BeneathError> {
    let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
    rustix::fs::fchown(&file, uid, gid).map_err(failed("give it to the task's user"))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777)).map_err(failed("set its mode"))
}

/// Sets when a file was changed last; a file system without such times does without.
pub fn set_modified(file: impl AsFd, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    // The time is a kindness, the content is what was asked for.
    let _ = rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::symlink;

    fn me() -> Identity {
        Identity {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: Vec::new(),
            home: None,
            name: None,
        }
    }

    fn sandbox() -> (tempfile::TempDir, Beneath) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sandbox")).unwrap();
        fs::write(directory.path().join("secret"), "secret").unwrap();
        let beneath = Beneath::open(&directory.path().join("sandbox")).unwrap();
        (directory, beneath)
    }

    #[test]
    fn nothing_leads_out() {
        let (directory, beneath) = sandbox();
        let inside = directory.path().join("sandbox");
        symlink("../secret", inside.join("up")).unwrap();
        symlink(directory.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        symlink("..", inside.join("parent")).unwrap();
        symlink("round", inside.join("round")).unwrap();
        for path in
            ["../secret", "up", "absolute", "magic/etc/passwd", "parent/secret", "round", "a/../../secret"]
        {
            let error = beneath.find(Path::new(path)).unwrap_err();
            let is_refused = matches!(error, BeneathError::LeadsOut | BeneathError::NotFound);
            assert!(is_refused, "{path}: {error:?}");
        }
        assert!(matches!(beneath.find(Path::new("/etc/passwd")), Err(BeneathError::Absolute)));
        for path in ["parent/new", "../new", "..", "", "magic/tmp/new"] {
            let error = beneath.place(Path::new(path)).unwrap_err();
            assert!(matches!(error, BeneathError::LeadsOut), "{path}: {error:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn links_inside_are_followed_and_can_be_replaced() {
        let (directory, beneath) = sandbox();
        let inside = directory.path().join("sandbox");
        fs::create_dir(inside.join("real")).unwrap();
        fs::write(inside.join("real/file"), "content").unwrap();
        symlink("real", inside.join("alias")).unwrap();
        symlink("/etc/passwd", inside.join("evil")).unwrap();
        let mut text = String::new();
        beneath.find(Path::new("alias/file")).unwrap().read().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        // The link itself gives way; what it points to is left alone.
        let place = beneath.place(Path::new("evil")).unwrap();
        let mut file = place.make_file().unwrap();
        file.write_all(b"mine").unwrap();
        give(&file, 0o4755, &me()).unwrap();
        assert_eq!(fs::read_to_string(inside.join("evil")).unwrap(), "mine");
        let facts = beneath.find(Path::new("evil")).unwrap().facts;
        assert_eq!((facts.kind, facts.mode, facts.size), (Kind::File, 0o755, 4));
        assert!(matches!(
            beneath.place(Path::new("real")).unwrap().make_file(),
            Err(BeneathError::IsDirectory)
        ));
    }

    #[test]
    fn pipes_are_seen_and_never_opened() {
        let (directory, beneath) = sandbox();
        nix::unistd::mkfifo(&directory.path().join("sandbox/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = beneath.find(Path::new("pipe")).unwrap();
        assert_eq!(found.facts.kind, Kind::Other);
        assert!(matches!(found.read(), Err(BeneathError::Kind { .. })));
        let root = beneath.find(Path::new("")).unwrap();
        let names: Vec<_> = root.names().unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(names, ["pipe"]);
    }
}
