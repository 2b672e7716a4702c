//! A cpio archive in the kernel's `newc` form (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Written by hand so that nobody needs root, device nodes or a copy of every file to make one.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that is being written. Folders come by themselves before what lies in them.
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, folders: BTreeSet::new() }
    }

    /// A folder, and those that it lies in.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some((outer, _)) = path.rsplit_once('/') {
            self.folder(outer)?;
        }
        self.entry(path, FOLDER | 0o755, &[])
    }

    /// A file with these bytes.
    pub fn bytes(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.folder_of(path)?;
        self.entry(path.trim_start_matches('/'), FILE | mode, content)
    }

    /// A copy of a file of this machine.
    pub fn file(&mut self, path: &str, mode: u32, source: &Path) -> Result<()> {
        let content = std::fs::read(source).with_context(|| format!("can't read {}", source.display()))?;
        self.bytes(path, mode, &content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.folder_of(path)?;
        self.entry(path.trim_start_matches('/'), LINK | 0o777, target.as_bytes())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush().context("can't write the archive")
    }

    fn folder_of(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((outer, _)) => self.folder(outer),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).context("a file of 4 GiB or more")?;
        let links = 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), device node (2), name size, checksum
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        let mut head = header.into_bytes();
        head.extend_from_slice(path.as_bytes());
        head.push(0);
        pad(&mut head);
        self.out.write_all(&head).context("can't write the archive")?;
        self.out.write_all(content).context("can't write the archive")?;
        self.out.write_all(&[0; 3][..padding(content.len())]).context("can't write the archive")
    }
}

fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len() + padding(bytes.len()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_their_files_and_only_once() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.bytes("/a/b/one", 0o644, b"12345").unwrap();
        archive.bytes("/a/b/two", 0o644, b"").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<&str> = text
            .split("070701")
            .skip(1)
            .map(|entry| entry[104..].split('\0').next().unwrap_or_default())
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two", "TRAILER!!!"]);
    }
}
