//! What a process has mapped that can run, and the files behind it.
//!
//! Opens what a task names, as root, so nothing is opened before it is known to be a plain file: the path is resolved
//! in the task's own root and leads nowhere else, and the file must be the one that is mapped.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{clean, limits};

/// Files that hold code, by their inode as the kernel names it in a mapping.
#[derive(Debug, Default)]
pub struct Modules {
    known: BTreeMap<(String, u64), usize>,
    pub files: Vec<Module>,
}

/// A program or library.
#[derive(Debug)]
pub struct Module {
    /// The last part of its path.
    pub name: String,
    /// Absent where it is gone, or isn't what is mapped.
    pub file: Option<File>,
}

/// A process that was seen.
#[derive(Debug, Default)]
pub struct Process {
    pub name: String,
    mappings: Vec<Mapping>,
    looks: u32,
}

/// A range of addresses that can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    start: u64,
    end: u64,
    /// Of its start in the file.
    offset: u64,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Module(usize),
    /// As the kernel calls it, or nothing that has a name.
    Other(String),
}

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    Module { module: usize, offset: u64 },
    Other(&'a str),
}

impl Process {
    pub fn look(pid: u32, modules: &mut Modules) -> Self {
        let mut process = Self { name: "[unknown]".to_owned(), ..Self::default() };
        process.look_again(pid, modules);
        process
    }

    /// A process that is gone keeps what was known of it.
    pub fn look_again(&mut self, pid: u32, modules: &mut Modules) {
        if self.looks >= limits::LOOKS_PER_PROCESS_MAX {
            return;
        }
        self.looks += 1;
        if let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) {
            self.name = clean(name.trim_end());
        }
        let mut text = Vec::new();
        let read = File::open(format!("/proc/{pid}/maps"))
            .and_then(|maps| maps.take(limits::MAPS_BYTES_MAX).read_to_end(&mut text));
        if read.is_ok() && !text.is_empty() {
            self.mappings = mappings(&text, |line| modules.of(pid, line));
        }
    }

    pub fn has(&self, address: u64) -> bool {
        self.mapping(address).is_some()
    }

    pub fn place(&self, address: u64) -> Option<Place<'_>> {
        let Mapping { start, offset, what, .. } = self.mapping(address)?;
        Some(match what {
            What::Module(module) => {
                Place::Module { module: *module, offset: (address - start).wrapping_add(*offset) }
            }
            What::Other(name) => Place::Other(name),
        })
    }

    fn mapping(&self, address: u64) -> Option<&Mapping> {
        // The kernel tells them in order.
        let after = self.mappings.partition_point(|mapping| mapping.start <= address);
        self.mappings.get(after.checked_sub(1)?).filter(|mapping| address < mapping.end)
    }
}

/// One line of `/proc/PID/maps`, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    device: &'a str,
    inode: u64,
    path: &'a [u8],
}

pub(super) fn mappings(text: &[u8], mut of: impl FnMut(Line<'_>) -> Option<usize>) -> Vec<Mapping> {
    let lines = text.split(|byte| *byte == b'\n').filter_map(parse).filter(|(_, can_run, _)| *can_run);
    lines
        .take(limits::MAPPINGS_MAX)
        .map(|((start, end, offset), _, line)| {
            let what = match (line.inode, of(line)) {
                (1.., Some(module)) => What::Module(module),
                (0, _) if line.path.starts_with(b"[") => {
                    What::Other(clean(&String::from_utf8_lossy(line.path)))
                }
                _ => What::Other("[anonymous]".to_owned()),
            };
            Mapping { start, end, offset, what }
        })
        .collect()
}

/// Start, end and offset; whether it can run; and the file (man 5 proc_pid_maps).
fn parse(line: &[u8]) -> Option<((u64, u64, u64), bool, Line<'_>)> {
    // The path may hold anything but a line's end, blanks in front too.
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = text()?.split_once('-')?;
    let rights = text()?;
    let offset = text()?;
    let (device, inode) = (text()?, text()?.parse().ok()?);
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let range = (hex(start)?, hex(end)?, hex(offset)?);
    Some((range, rights.as_bytes().get(2) == Some(&b'x'), Line { device, inode, path }))
}

impl Modules {
    fn of(&mut self, pid: u32, line: Line<'_>) -> Option<usize> {
        if line.inode == 0 {
            return None;
        }
        let key = (line.device.to_owned(), line.inode);
        if let Some(known) = self.known.get(&key) {
            return Some(*known);
        }
        if self.files.len() >= limits::MODULES_MAX {
            return None;
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(line.path));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let module = Module { name: clean(&name), file: open(pid, path, line.inode).ok() };
        self.files.push(module);
        self.known.insert(key, self.files.len() - 1);
        Some(self.files.len() - 1)
    }
}

/// Opens what a process has mapped, where it still is what the path leads to in its own root.
fn open(pid: u32, path: &Path, inode: u64) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // A link of the kernel's, to the root itself and not by its name.
    let root = format!("/proc/{pid}/root");
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found: OwnedFd = match rustix::fs::openat2(&root, path, flags, Mode::empty(), how) {
        // It changed in the middle; once more is enough for what is no attack.
        Err(Errno::AGAIN) => rustix::fs::openat2(&root, path, flags, Mode::empty(), how)?,
        other => other?,
    };
    let stat = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_ino != inode {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    // Through our own list of descriptors, so that it is what was found and nothing else.
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"5500000000-5500001000 r--p 00000000 08:01 42   /usr/bin/a b\n\
        5500001000-5500003000 r-xp 00001000 08:01 42                 /usr/bin/a b\n\
        7f0000000000-7f0000001000 r-xp 00000000 00:00 0 \n\
        7fff00000000-7fff00002000 r-xp 00000000 00:00 0              [vdso]\n\
        nonsense\n";

    #[test]
    fn addresses_are_places_in_files() {
        let mut paths = Vec::new();
        let mappings = mappings(MAPS, |line| {
            paths.push(String::from_utf8_lossy(line.path).into_owned());
            (line.inode != 0).then_some(0)
        });
        let process = Process { name: "a".to_owned(), mappings, looks: 1 };
        assert_eq!(paths, ["/usr/bin/a b", "", "[vdso]"]);
        assert_eq!(process.place(0x5500001234), Some(Place::Module { module: 0, offset: 0x1234 }));
        assert_eq!(process.place(0x5500003000), None);
        assert_eq!(process.place(0x5500000000), None, "it can't run");
        assert_eq!(process.place(0x7f0000000010), Some(Place::Other("[anonymous]")));
        assert_eq!(process.place(0x7fff00000010), Some(Place::Other("[vdso]")));
    }

    #[test]
    fn only_the_mapped_file_itself_is_opened() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, "x").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let pid = std::process::id();
        assert!(open(pid, &path, inode).is_ok());
        assert!(open(pid, &path, inode + 1).is_err(), "another file");
        assert!(open(pid, folder.path(), fs::metadata(folder.path()).unwrap().ino()).is_err(), "a directory");
        // Opening a pipe to read it would wait for a writer.
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(open(pid, &pipe, fs::metadata(&pipe).unwrap().ino()).is_err(), "a pipe");
    }
}
