//! The data directory: what lies where, and whose it is.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::error::OpenError;

/// A data directory that this process alone uses, until it is dropped.
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be, and locks it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Directory { path: path.to_owned(), source };
        make(path)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { path: path.to_owned(), pid: read_pid(&lock) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        write_pid(&lock).map_err(failed)?;
        sync_directory(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// fjall's own folder: log, vote and identity.
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// How far the store got, beside it.
    pub fn watermark(&self) -> PathBuf {
        self.path.join("watermark")
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> PathBuf {
        self.path.join("snapshot")
    }

    /// A snapshot that another member sends, until it is whole.
    pub fn incoming(&self) -> PathBuf {
        self.path.join("snapshot.incoming")
    }
}

/// Makes the directory if need be.
pub fn make(path: &Path) -> Result<(), OpenError> {
    // Commands and state are nobody else's to read.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| OpenError::Directory { path: path.to_owned(), source })
}

/// Whether no member has ever begun here.
pub fn is_pristine(path: &Path) -> bool {
    !path.join("store").exists()
}

/// Makes names in the directory durable: created, renamed or removed files.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write_pid(mut lock: &File) -> io::Result<()> {
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())
}

fn read_pid(mut lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
