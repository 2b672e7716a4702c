//! The sandbox of a task, as a list of names or as an archive, in and out.
//!
//! Works for a task that is over, too, for as long as its sandbox is kept. Everything is reached through
//! `sys::beneath`, so that nothing that the task puts there leads anywhere else. Archives are tar, made and taken
//! apart (`incoming`) piece by piece; what enters belongs to the task's user.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use model::RefusalCode;
use proto::channel::v1::{self as wire, Frame, Stream, frame};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{Failure, Talk, frames};
use crate::{
    execute::chain,
    sys::{
        SysError,
        beneath::{Beneath, BeneathError, Facts, Found, Kind},
    },
};

/// Names that one list tells of: more than anybody reads.
const LISTED_MAX: usize = 10_000;
/// Names in one frame.
const LISTED_PER_FRAME: usize = 256;
/// Files and directories of one archive.
pub(super) const ENTRIES_MAX: u64 = 1_000_000;
/// Directories in each other.
pub(super) const DEPTH_MAX: usize = 64;
/// Content of one archive.
pub(super) const CONTENT_BYTES_MAX: u64 = 16 << 30;
/// One frame of an archive.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// What the top of an archive is called when it is the whole sandbox.
const WHOLE: &str = "sandbox";

/// Why files can't be listed or copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("`{path}`")]
    Path { path: String, source: BeneathError },
    #[error("the archive holds `{path}`, which {why}")]
    Entry { path: String, why: &'static str },
    #[error("it is more than the {max} {what} that may be copied at once")]
    TooMuch { what: &'static str, max: u64 },
    #[error("can't write `{path}`")]
    Write { path: String, source: io::Error },
    #[error("can't read the archive")]
    Archive(#[source] io::Error),
    #[error("the task may have {limit} bytes on its disk, and would have {wanted} with this copy")]
    TaskDisk { limit: u64, wanted: u64 },
    #[error("`{path}` has {size} bytes, and the disk of the task's host has only {free} left for tasks")]
    HostDisk { path: String, size: u64, free: u64 },
    #[error("can't measure the task's disk")]
    Measure(#[source] SysError),
    #[error("can't {what} beside the sandbox")]
    Beside { what: &'static str, source: io::Error },
    #[error("the archive is empty")]
    Empty,
    #[error("the caller has gone")]
    CallerGone,
}

impl From<FilesError> for Failure {
    fn from(error: FilesError) -> Self {
        let code = match &error {
            FilesError::CallerGone => return Self::CallerGone,
            FilesError::Path { source: BeneathError::NotFound | BeneathError::NotDirectory, .. } => {
                RefusalCode::FileUnknown
            }
            FilesError::Path { source: BeneathError::Io { .. }, .. }
            | FilesError::Write { .. }
            | FilesError::Beside { .. }
            | FilesError::Measure(_)
            | FilesError::Archive(_) => RefusalCode::ChannelBroken,
            FilesError::Path { .. }
            | FilesError::Entry { .. }
            | FilesError::TooMuch { .. }
            | FilesError::TaskDisk { .. }
            | FilesError::HostDisk { .. }
            | FilesError::Empty => RefusalCode::FileRefused,
        };
        Self::new(code, chain(&error))
    }
}

impl Talk<'_> {
    pub(super) fn sandbox(&self) -> Result<Beneath, Failure> {
        let path = self.executor.directories().sandbox(&self.task.attempt);
        Beneath::open(&path).map_err(|error| {
            let message = format!("the sandbox of task `{}` is gone: {error}", self.task.task_id);
            Failure::new(RefusalCode::SandboxGone, message)
        })
    }

    pub(super) async fn list_files(self, path: String) -> Result<wire::Ended, Failure> {
        let sandbox = self.sandbox()?;
        let listed = spawn_blocking(move || list(&sandbox, &path)).await;
        let (files, is_cut) = listed.map_err(panicked)??;
        self.say_opened().await?;
        let mut files = files.into_iter().peekable();
        while files.peek().is_some() {
            let some: Vec<_> = files.by_ref().take(LISTED_PER_FRAME).collect();
            let is_cut = is_cut && files.peek().is_none();
            self.say(frame::Frame::Files(wire::Files { files: some, is_cut })).await?;
        }
        Ok(wire::Ended::default())
    }

    pub(super) async fn read_files(self, path: String) -> Result<wire::Ended, Failure> {
        let sandbox = self.sandbox()?;
        let wanted = path.clone();
        let found = spawn_blocking(move || find(&sandbox, &wanted)).await.map_err(panicked)??;
        self.say_opened().await?;
        let outgoing = self.outgoing.clone();
        let packed = spawn_blocking(move || pack(&found, &path, Frames::new(outgoing)));
        // Nothing is expected of the caller but that it stays, and its going shows where frames are sent to.
        packed.await.map_err(panicked)??;
        Ok(wire::Ended::default())
    }
}

pub(super) fn panicked(error: tokio::task::JoinError) -> Failure {
    Failure::new(RefusalCode::Internal, chain(&error))
}

pub(super) fn find(sandbox: &Beneath, path: &str) -> Result<Found, FilesError> {
    let found = sandbox.find(Path::new(path)).map_err(at(path))?;
    match found.facts.kind {
        Kind::File | Kind::Directory => Ok(found),
        Kind::Link | Kind::Other => {
            let source = BeneathError::Kind { what: "a device, a pipe or a socket" };
            Err(FilesError::Path { path: path.to_owned(), source })
        }
    }
}

pub(super) fn at(path: &str) -> impl Fn(BeneathError) -> FilesError {
    move |source| FilesError::Path { path: path.to_owned(), source }
}

fn list(sandbox: &Beneath, path: &str) -> Result<(Vec<wire::FileFacts>, bool), FilesError> {
    let found = sandbox.find(Path::new(path)).map_err(at(path))?;
    if found.facts.kind != Kind::Directory {
        let name = Path::new(path).file_name().unwrap_or_default();
        return Ok((vec![tell(name, &found)], false));
    }
    let mut names: Vec<OsString> = Vec::new();
    let mut is_cut = false;
    for name in found.names().map_err(at(path))? {
        if names.len() == LISTED_MAX {
            is_cut = true;
            break;
        }
        names.push(name.map_err(at(path))?);
    }
    names.sort();
    // What was removed since is not there.
    let files = names.iter().filter_map(|name| found.child(name).ok().map(|found| tell(name, &found)));
    Ok((files.collect(), is_cut))
}

fn tell(name: &OsStr, found: &Found) -> wire::FileFacts {
    let Facts { kind, size, mode, modified_at_us } = found.facts.clone();
    let target = match kind {
        // Removed since, or replaced: then nothing can be told.
        Kind::Link => found.target().unwrap_or_default(),
        Kind::File | Kind::Directory | Kind::Other => OsString::new(),
    };
    let kind = match kind {
        Kind::File => wire::FileKind::File,
        Kind::Directory => wire::FileKind::Directory,
        Kind::Link => wire::FileKind::Link,
        Kind::Other => wire::FileKind::Other,
    };
    wire::FileFacts {
        name: name.as_bytes().to_vec().into(),
        kind: kind.into(),
        size,
        mode,
        modified_at_us,
        target: target.as_bytes().to_vec().into(),
    }
}

/// Writes what was found as an archive, under its own name.
pub(super) fn pack(found: &Found, path: &str, to: Frames) -> Result<(), FilesError> {
    let name = match Path::new(path).components().next_back() {
        Some(Component::Normal(name)) => PathBuf::from(name),
        _ => PathBuf::from(WHOLE),
    };
    let mut packer = Packer { archive: tar::Builder::new(to), entries: 0, bytes: 0 };
    packer.add(found, &name, 0)?;
    let mut frames = packer.archive.into_inner().map_err(|_| FilesError::CallerGone)?;
    frames.flush().map_err(|_| FilesError::CallerGone)
}

struct Packer {
    archive: tar::Builder<Frames>,
    entries: u64,
    bytes: u64,
}

impl Packer {
    fn add(&mut self, found: &Found, path: &Path, depth: usize) -> Result<(), FilesError> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(FilesError::TooMuch { what: "files", max: ENTRIES_MAX });
        }
        if depth > DEPTH_MAX {
            return Err(FilesError::TooMuch { what: "directories in each other", max: DEPTH_MAX as u64 });
        }
        let shown = || path.display().to_string();
        let failed = |source| FilesError::Path { path: shown(), source };
        let gone = |_: io::Error| FilesError::CallerGone;
        let facts = &found.facts;
        let mut header = tar::Header::new_gnu();
        header.set_mode(facts.mode & 0o777);
        header.set_mtime(u64::try_from(facts.modified_at_us / 1_000_000).unwrap_or(0));
        match facts.kind {
            Kind::File => {
                let file = found.read().map_err(failed)?;
                self.bytes = self.bytes.saturating_add(facts.size);
                if self.bytes > CONTENT_BYTES_MAX {
                    return Err(FilesError::TooMuch { what: "bytes", max: CONTENT_BYTES_MAX });
                }
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(facts.size);
                let content = Exactly { file, left: facts.size };
                self.archive.append_data(&mut header, path, content).map_err(gone)
            }
            Kind::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                self.archive.append_data(&mut header, path, io::empty()).map_err(gone)?;
                for name in found.names().map_err(failed)? {
                    let name = name.map_err(failed)?;
                    match found.child(&name) {
                        Ok(child) => self.add(&child, &path.join(&name), depth + 1)?,
                        // Removed since.
                        Err(BeneathError::NotFound) => {}
                        Err(source) => return Err(failed(source)),
                    }
                }
                Ok(())
            }
            Kind::Link => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                let target = found.target().map_err(failed)?;
                self.archive.append_link(&mut header, path, Path::new(&target)).map_err(gone)
            }
            // A copy of it would be no copy.
            Kind::Other => Ok(()),
        }
    }
}

/// So many bytes of a file, whatever happens to it: what grew is cut, what shrank is filled up with zeros.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let mut count = self.file.read(buffer)?;
        if count == 0 {
            buffer.fill(0);
            count = wanted;
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// An archive on its way to the caller.
pub(super) struct Frames {
    outgoing: mpsc::Sender<Frame>,
    buffer: Vec<u8>,
}

impl Frames {
    pub(super) fn new(outgoing: mpsc::Sender<Frame>) -> Self {
        Self { outgoing, buffer: Vec::with_capacity(CHUNK_BYTES_MAX) }
    }
}

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES_MAX - self.buffer.len();
        let (taken, _) = bytes.split_at(bytes.len().min(room));
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() == CHUNK_BYTES_MAX {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES_MAX));
        let frame = frames::framed(frames::data(Stream::Unspecified, piece));
        self.outgoing.blocking_send(frame).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
