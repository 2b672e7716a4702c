//! Removing what a task left on disk, however it was built.
//!
//! A hostile task can nest directories deeper than any stack or table of descriptors: a removal that
//! descends would end the agent. So nothing here descends: subdirectories are moved up to the top first.
//! Nobody else may use the tree any more.

use std::{ffi::CStr, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
};

/// Removes a directory with all that is in it; one that isn't there is no error.
///
/// Takes time in proportion to the number of entries, two descriptors, and no memory worth speaking of.
/// Symbolic links are removed, not followed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open_directory(CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut moved: u64 = 0;
    loop {
        let mut was_empty = true;
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            was_empty = false;
            if !remove_entry(&top, name)? {
                flatten(&top, name, &mut moved)?;
            }
        }
        if was_empty {
            break;
        }
    }
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Empties one directory into the top, and removes it.
fn flatten(top: &OwnedFd, name: &CStr, moved: &mut u64) -> Result<(), Errno> {
    let directory = open_directory(top, name)?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let inner = entry.file_name();
        if is_dots(inner) || remove_entry(&directory, inner)? {
            continue;
        }
        loop {
            *moved += 1;
            let outer = format!(".moved-{moved}");
            match renameat_with(&directory, inner, top, outer.as_str(), RenameFlags::NOREPLACE) {
                // A name that the task chose as well.
                Err(Errno::EXIST) => {}
                done => break done?,
            }
        }
    }
    match unlinkat(top, name, AtFlags::REMOVEDIR) {
        // Its listing was cut short by what moved meanwhile: the next round sees the rest.
        Err(Errno::NOTEMPTY) => Ok(()),
        done => done,
    }
}

/// Whether the entry is gone; a directory that holds something stays.
fn remove_entry(directory: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // As unlink(2) tells of a directory, on Linux and elsewhere.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open_directory(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, os::unix::fs::symlink};

    use super::*;

    /// So deep that a removal that descends has neither the stack nor the descriptors.
    fn nest(top: &Path, depth: usize) {
        let mut at = open_directory(CWD, top).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = open_directory(&at, "d").unwrap();
        }
    }

    #[test]
    fn a_tree_deeper_than_any_stack_is_removed() {
        // In memory: a disk takes milliseconds for each directory.
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let tree = place.path().join("tree");
        fs::create_dir(&tree).unwrap();
        nest(&tree, 50_000);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn odd_names_closed_directories_and_links_are_removed_and_nothing_beside_them() {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let tree = place.path().join("tree");
        for directory in ["a/b/c", ".moved-1/x", ".moved-2", "a/.moved-3/y", "a/\n\u{1b}[2J", "..."] {
            fs::create_dir_all(tree.join(directory)).unwrap();
            fs::write(tree.join(directory).join("file"), "x").unwrap();
        }
        symlink(&outside, tree.join("link")).unwrap();
        symlink(&outside, tree.join("a/b/link")).unwrap();
        symlink("nowhere", tree.join("dangling")).unwrap();
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "x");
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn a_wide_tree_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        for number in 0..3000 {
            fs::create_dir_all(tree.join(format!("{}/{number}/z", number % 7))).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_link_in_place_of_the_tree_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("outside/kept")).unwrap();
        symlink(place.path().join("outside"), place.path().join("tree")).unwrap();
        assert!(remove_tree(&place.path().join("tree")).is_err());
        assert!(place.path().join("outside/kept").exists());
    }
}
