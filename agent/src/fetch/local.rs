//! `file:` URLs: files of this host that the operator allowed, read with the task's own rights.

use std::{
    fs::File,
    io,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::failure::{Failure, Kind};

/// Opens a file below one of the allowed directories; links lead only to what is below it, too.
pub fn open(path: &Path, allowed: &[PathBuf]) -> Result<File, Failure> {
    let refused = |what: String| Failure::new(Kind::Refused, what);
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(refused("its path leads upwards (`..`)".to_owned()));
    }
    let Some((directory, rest)) =
        allowed.iter().find_map(|directory| Some((directory, path.strip_prefix(directory).ok()?)))
    else {
        return Err(refused("the operator of this agent allows no task to fetch from there".to_owned()));
    };
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => {
            Failure::new(Kind::Status, "there is no such file on the agent's host")
        }
        rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => {
            Failure::new(Kind::Status, "the task's user may not read it")
        }
        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => {
            refused(format!("a link in its path leads out of {}", directory.display()))
        }
        other => Failure::new(Kind::Status, format!("can't open it: {}", io::Error::from(other))),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty()).map_err(failed)?;
    // A pipe must not keep us waiting for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(&root, rest, flags, Mode::empty(), how).map_err(failed)?;
    let facts = rustix::fs::fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
        return Err(Failure::new(Kind::Status, "it is no plain file"));
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Read as _, os::unix::fs::symlink};

    #[test]
    fn only_files_below_allowed_directories_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("allowed");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/file"), "yes").unwrap();
        fs::write(directory.path().join("secret"), "no").unwrap();
        symlink("sub/file", root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        let allowed = [root.clone()];
        for good in ["sub/file", "inside"] {
            let mut text = String::new();
            open(&root.join(good), &allowed).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "yes");
        }
        for (path, kind) in [
            (root.join("outside"), Kind::Refused),
            (root.join("absolute"), Kind::Refused),
            (root.join("../secret"), Kind::Refused),
            (directory.path().join("secret"), Kind::Refused),
            // A neighbour whose name begins alike.
            (directory.path().join("allowed2/file"), Kind::Refused),
            (root.join("none"), Kind::Status),
            (root.join("sub"), Kind::Status),
        ] {
            assert_eq!(open(&path, &allowed).unwrap_err().kind, kind, "{}", path.display());
        }
        assert!(open(&root.join("sub/file"), &[]).is_err());
    }
}
