//! Host paths that a task sees: resolved without leaving what the operator allowed, and held as mounts.
//!
//! A path is walked by the kernel below the allowed directory (`openat2(2)` with RESOLVE_BENEATH), so that no
//! symbolic link and no race leads out of it; what was found is what is mounted, whatever the name means later.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::OpenTreeFlags;

use super::SpawnError;
use crate::sys::Identity;

/// One host path for one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMount {
    /// What the operator allowed; the path is this, or below it.
    pub allowed: PathBuf,
    pub host_path: PathBuf,
    /// Where the task sees it, absolute.
    pub target: PathBuf,
    pub is_writable: bool,
}

/// A mount that is nowhere yet, and the place that waits for it.
pub struct HeldMount {
    pub tree: OwnedFd,
    pub target: PathBuf,
}

/// Places below which the task has a tree of its own: what is missing there can be made.
pub struct Own<'a> {
    /// As the task names it, and where it is on the host.
    pub places: Vec<(&'a Path, &'a Path)>,
    pub identity: &'a Identity,
}

/// Resolves a path and holds it as a mount, with the attributes that it will have in the task.
pub fn hold(mount: &PathMount, hidden: &[PathBuf], own: &Own<'_>) -> Result<HeldMount, SpawnError> {
    let path = || mount.host_path.clone();
    let failed = |error: rustix::io::Errno| SpawnError::HostPath { path: path(), source: error.into() };
    let file = resolve(mount).map_err(failed)?;
    let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let real = real.map_err(|source| SpawnError::HostPath { path: path(), source })?;
    // A bind of a directory shows what is hidden by a mount further down.
    if hidden.iter().any(|hidden| hidden.starts_with(&real) || real.starts_with(hidden)) {
        return Err(SpawnError::HostPathHidden { path: path() });
    }
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(failed)?.st_mode);
    let is_directory = kind == FileType::Directory;
    let target = mount.target.clone();
    prepare_target(&target, is_directory, own)?;

    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(&file, c"", flags).map_err(failed)?;
    let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if !mount.is_writable {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    set_attributes(&tree, attributes).map_err(|source| SpawnError::HostPath { path: path(), source })?;
    Ok(HeldMount { tree, target })
}

fn resolve(mount: &PathMount) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // The operator's own path may lead over links.
    let root = rustix::fs::openat(CWD, &mount.allowed, flags, Mode::empty())?;
    let below = mount.host_path.strip_prefix(&mount.allowed).map_err(|_| rustix::io::Errno::XDEV)?;
    if below.as_os_str().is_empty() {
        return Ok(root);
    }
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&root, below, flags, Mode::empty(), how)
}

/// With all mounts below; what the host unmounts goes away in the task too, and nothing comes back.
fn set_attributes(tree: &OwnedFd, attributes: u64) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: libc::MS_SLAVE, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a NUL-terminated string, and the attributes outlive the call, which is told their size.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes sure that there is something to mount on, of the right kind; makes it only in what is the task's own.
fn prepare_target(target: &Path, is_directory: bool, own: &Own<'_>) -> Result<(), SpawnError> {
    let failed = |source: io::Error| SpawnError::MountPoint { path: target.to_owned(), source };
    for (seen, real) in &own.places {
        if let Ok(below) = target.strip_prefix(seen) {
            let made = make_below(real, below, is_directory, own.identity);
            return made.map_err(|error| failed(error.into()));
        }
    }
    let found = fs::metadata(target).map_err(failed)?;
    match found.is_dir() == is_directory {
        true => Ok(()),
        false if is_directory => Err(failed(io::ErrorKind::NotADirectory.into())),
        false => Err(failed(io::ErrorKind::IsADirectory.into())),
    }
}

/// Makes a path below a directory that the task's user may have filled with links: none is followed.
fn make_below(
    root: &Path,
    below: &Path,
    is_directory: bool,
    identity: &Identity,
) -> Result<(), rustix::io::Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut parent = rustix::fs::openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let parts: Vec<_> = below
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
        })
        .collect();
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for (place, name) in parts.iter().enumerate() {
        let is_file = place + 1 == parts.len() && !is_directory;
        let made = match is_file {
            true => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                rustix::fs::openat(&parent, *name, flags, Mode::from_raw_mode(0o644)).map(drop)
            }
            false => rustix::fs::mkdirat(&parent, *name, Mode::from_raw_mode(0o755)),
        };
        match made {
            Ok(()) => {
                let (uid, gid) =
                    (rustix::fs::Uid::from_raw(identity.uid), rustix::fs::Gid::from_raw(identity.gid));
                rustix::fs::chownat(&parent, *name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let kind = if is_file { OFlags::empty() } else { OFlags::DIRECTORY };
        parent = rustix::fs::openat2(&parent, *name, flags | kind, Mode::empty(), how)?;
    }
    Ok(())
}
