//! One package's files, laid out as they will lie on a host.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{capture, program};

/// Modes of what is installed; everything belongs to root.
pub const PLAIN: u32 = 0o644;
pub const EXECUTABLE: u32 = 0o755;

/// A folder that stands for `/`.
pub struct Tree {
    folder: PathBuf,
}

impl Tree {
    /// An empty one; what lay there is gone.
    pub fn new(folder: &Path) -> Result<Self> {
        let _ = std::fs::remove_dir_all(folder); // absent the first time
        let tree = Self { folder: folder.to_owned() };
        tree.make_folder(folder)?;
        Ok(tree)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a file of this name will lie, with the folders above it made.
    pub fn reserve(&self, place: &str) -> Result<PathBuf> {
        let path = self.folder.join(place.trim_start_matches('/'));
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        folders.reverse();
        for folder in folders.into_iter().filter(|folder| folder.starts_with(&self.folder)) {
            self.make_folder(folder)?;
        }
        Ok(path)
    }

    pub fn write(&self, place: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.reserve(place)?;
        std::fs::write(&path, content).with_context(|| format!("can't write {}", path.display()))?;
        self.set_mode(&path, mode)
    }

    pub fn copy(&self, from: &Path, place: &str, mode: u32) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("can't read {}", from.display()))?;
        self.write(place, &content, mode)
    }

    /// Not what the builder's umask happens to be.
    pub fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("can't set the mode of {}", path.display()))
    }

    /// The control file, and the checksums that `dpkg --verify` reads. The tree must be complete.
    pub fn write_control(&self, control: &str) -> Result<()> {
        let mut files = Vec::new();
        list(&self.folder, &mut files)?;
        let names: Vec<&Path> =
            files.iter().filter_map(|path| path.strip_prefix(&self.folder).ok()).collect();
        let mut names: Vec<&Path> = names.into_iter().filter(|name| !name.starts_with("DEBIAN")).collect();
        names.sort();
        let sums = capture(program("md5sum").current_dir(&self.folder).args(names))?;
        self.write("/DEBIAN/md5sums", sums.as_bytes(), PLAIN)?;
        self.write("/DEBIAN/control", control.as_bytes(), PLAIN)
    }

    /// What the files need on a disk, about.
    pub fn kibibytes(&self) -> Result<u64> {
        let mut files = Vec::new();
        list(&self.folder, &mut files)?;
        files.iter().map(|path| Ok(path.metadata()?.len().div_ceil(1024))).sum()
    }

    fn make_folder(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        self.set_mode(folder, EXECUTABLE)
    }
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry?.path();
        match path.is_dir() {
            true => list(&path, into)?,
            false => into.push(path),
        }
    }
    Ok(())
}
