//! The folder in which programs and maps outlive the agent.
//!
//! A bpffs, mounted here unless the folder is on one already, with one folder inside for each *generation*: one
//! build of the programs with one choice of map sizes. Only a generation that carries its mark is whole;
//! one without was left by a crash and is removed.
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::statfs,
    mount::{MountFlags, UnmountFlags},
};

use super::{BpfError, Limits, Program};

/// Source of our own mounts, by which a later agent knows that it may remove them.
const MOUNT_SOURCE: &str = "muster";

/// A folder on a bpffs.
#[derive(Debug)]
pub struct PinFolder {
    path: PathBuf,
}

impl PinFolder {
    /// Makes the folder, and mounts a bpffs on it unless it is on one.
    pub fn ensure(path: &Path) -> Result<Self, BpfError> {
        let fail = |source: io::Error| BpfError::Mount { path: path.to_owned(), source };
        make_folder(path).map_err(fail)?;
        if !is_bpffs(path).map_err(fail)? {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount(MOUNT_SOURCE, path, "bpf", flags, Some(c"mode=0700"))
                .map_err(|errno| fail(errno.into()))?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The folder as it is, for removal.
    pub fn find(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The folder of a generation.
    pub fn generation(&self, object: &[u8], limits: &Limits) -> Generation {
        Generation { path: self.path.join(generation_name(object, limits)) }
    }

    /// Every generation that is here, whole or not.
    pub fn generations(&self) -> Result<Vec<Generation>, BpfError> {
        let fail = |source| BpfError::Pins { path: self.path.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.is_dir() && is_generation_name(&path) {
                found.push(Generation { path });
            }
        }
        Ok(found)
    }

    /// Makes the folder, its mount and a generation's own folder again, where somebody removed them.
    pub fn restore(&self, generation: &Generation) -> Result<(), BpfError> {
        Self::ensure(&self.path)?;
        make_folder(&generation.path).map_err(|source| generation.fail(source))
    }

    /// Removes every generation, unmounts what we mounted, and removes the folder.
    pub fn remove(&self) -> Result<(), BpfError> {
        let fail = |source| BpfError::Pins { path: self.path.clone(), source };
        if !self.path.exists() {
            return Ok(());
        }
        for generation in self.generations()? {
            generation.remove()?;
        }
        if is_our_mount(&self.path).map_err(fail)? {
            rustix::mount::unmount(&self.path, UnmountFlags::empty()).map_err(|errno| fail(errno.into()))?;
        }
        fs::remove_dir(&self.path).map_err(fail)
    }
}

/// One build of the programs with one choice of map sizes, pinned.
#[derive(Debug, PartialEq, Eq)]
pub struct Generation {
    path: PathBuf,
}

impl Generation {
    /// Makes its folder, empty.
    pub fn create(&self) -> Result<(), BpfError> {
        self.remove()?;
        make_folder(&self.path).map_err(|source| self.fail(source))
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn program(&self, program: Program) -> PathBuf {
        self.path.join(program.name())
    }

    pub fn link(&self, program: Program) -> PathBuf {
        self.path.join(format!("{}_link", program.name()))
    }

    /// Detaches a program and removes both its pins.
    pub fn forget(&self, program: Program) -> Result<(), BpfError> {
        remove_file(&self.link(program)).map_err(|source| self.fail(source))?;
        remove_file(&self.program(program)).map_err(|source| self.fail(source))
    }

    /// Detaches its programs: from here on nothing counts into its maps.
    pub fn detach(&self) -> Result<(), BpfError> {
        for program in Program::ALL {
            remove_file(&self.link(program)).map_err(|source| self.fail(source))?;
        }
        Ok(())
    }

    /// Removes it with everything in it. Links go first, so that no program counts into a map without a name.
    pub fn remove(&self) -> Result<(), BpfError> {
        self.detach()?;
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(self.fail(source)),
        };
        for entry in entries {
            let removed = entry.and_then(|entry| remove_file(&entry.path()));
            removed.map_err(|source| self.fail(source))?;
        }
        fs::remove_dir(&self.path).map_err(|source| self.fail(source))
    }

    fn fail(&self, source: io::Error) -> BpfError {
        BpfError::Pins { path: self.path.clone(), source }
    }
}

/// Differs whenever the programs, their maps' meaning or their maps' sizes do.
fn generation_name(object: &[u8], limits: &Limits) -> String {
    let Limits { cgroups, processes, oom_events } = limits;
    let sizes = [cgroups.to_ne_bytes(), processes.to_ne_bytes(), oom_events.to_ne_bytes()].concat();
    // FNV-1a: short, and the same in every build of the agent. The name guards against mistakes, not enemies.
    let hash = object.iter().chain(&sizes).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("v{}-{hash:016x}", agent_ebpf_common::ABI)
}

fn is_generation_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((abi, hash)) = name.strip_prefix('v').and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    abi.parse::<u64>().is_ok() && hash.len() == 16 && u64::from_str_radix(hash, 16).is_ok()
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    /// `BPF_FS_MAGIC` of `linux/magic.h`.
    const MAGIC: u64 = 0xcafe_4a11;
    Ok(statfs(path)?.f_type as u64 & 0xffff_ffff == MAGIC)
}

/// Whether a mount that some agent made is on exactly this folder.
fn is_our_mount(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    let Some(parent) = path.parent() else { return Ok(false) };
    if fs::metadata(&path)?.dev() == fs::metadata(parent)?.dev() {
        return Ok(false);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // The last mount on a folder is the one that is seen.
    let source = mounts.lines().filter_map(parse_mount).rfind(|mount| mount.on == path);
    Ok(source.is_some_and(|mount| mount.kind == "bpf" && mount.source == MOUNT_SOURCE))
}

/// A line of `/proc/PID/mountinfo` (man 5 proc_pid_mountinfo).
pub(in crate::sys) struct Mount {
    on: PathBuf,
    kind: String,
    source: String,
}

pub(in crate::sys) fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, rest) = line.split_once(" - ")?;
    let mut rest = rest.split(' ');
    Some(Mount {
        on: unescape(mount.split(' ').nth(4)?).into(),
        kind: rest.next()?.to_owned(),
        source: rest.next()?.to_owned(),
    })
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_known_by_its_name() {
        let limits = Limits::default();
        let name = generation_name(b"object", &limits);
        assert!(is_generation_name(Path::new(&name)), "{name}");
        assert!(!is_generation_name(Path::new("/sys/fs/bpf/vpn-maps")));
        assert_ne!(name, generation_name(b"objecu", &limits));
        assert_ne!(name, generation_name(b"object", &Limits { processes: 1, ..limits }));
    }

    #[test]
    fn mounts_on_folders_with_blanks_are_read() {
        let line = r"36 35 98:0 / /run/a\040b rw,nosuid shared:1 - bpf muster rw,mode=700";
        let mount = parse_mount(line).unwrap();
        assert_eq!((mount.on.to_str().unwrap(), &*mount.kind, &*mount.source), ("/run/a b", "bpf", "muster"));
    }
}
