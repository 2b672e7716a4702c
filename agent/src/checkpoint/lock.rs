//! One agent for each data directory.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// Held for the life of the agent; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the data directory isn't ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("can't open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("another agent (process {holder}) uses {}", path.display())]
    Held { path: PathBuf, holder: String },
    #[error("can't lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
}

impl Lock {
    /// Refuses when another process holds it.
    pub fn take(data_dir: &Path) -> Result<Self, LockError> {
        let path = data_dir.join("lock");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|source| LockError::Open { path: path.clone(), source })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Only for the message; whoever holds it may be about to write.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim().chars().filter(char::is_ascii_digit).collect();
                return Err(LockError::Held { path: data_dir.to_owned(), holder });
            }
            Err(error) => return Err(LockError::Lock { path, source: error.into() }),
        }
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|source| LockError::Lock { path, source })?;
        Ok(Self { _file: file })
    }
}
