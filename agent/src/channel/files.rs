//! The sandbox of a task, as a list of names or as an archive, in and out.
//!
//! Works for a task that is over, too, for as long as its sandbox is kept. Everything is reached through
//! `sys::beneath`, so that nothing that the task puts there leads anywhere else. Archives are tar, made and taken
//! apart piece by piece; what enters belongs to the task's user.

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
        Identity,
        beneath::{self, Beneath, BeneathError, Facts, Found, Kind},
    },
};

/// Names that one list tells of: more than anybody reads.
const LISTED_MAX: usize = 10_000;
/// Names in one frame.
const LISTED_PER_FRAME: usize = 256;
/// Files and directories of one archive.
const ENTRIES_MAX: u64 = 1_000_000;
/// Directories in each other.
const DEPTH_MAX: usize = 64;
/// Content of one archive, where the task has no limit of its own.
const CONTENT_BYTES_MAX: u64 = 16 << 30;
/// One frame of an archive.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Pieces of an archive that wait to be taken apart.
const PIECES_WAITING_MAX: usize = 4;
/// What the top of an archive is called when it is the whole sandbox.
const WHOLE: &str = "sandbox";

/// Why files can't be listed or copied.
#[derive(Debug, thiserror::Error)]
enum FilesError {
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
            | FilesError::Archive(_) => RefusalCode::ChannelBroken,
            FilesError::Path { .. }
            | FilesError::Entry { .. }
            | FilesError::TooMuch { .. }
            | FilesError::Empty => RefusalCode::FileRefused,
        };
        Self::new(code, chain(&error))
    }
}

impl Talk<'_> {
    fn sandbox(&self) -> Result<Beneath, Failure> {
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

    pub(super) async fn write_files(self, path: String) -> Result<wire::Ended, Failure> {
        if !self.task.is_live() {
            let message = format!("task `{}` is over; its files can only be read", self.task.task_id);
            return Err(Failure::new(RefusalCode::TaskNotRunning, message));
        }
        let sandbox = self.sandbox()?;
        let spec = self.task.spec.clone();
        let executor = self.executor.clone();
        let owner = spawn_blocking(move || executor.identity(&spec)).await.map_err(panicked)?;
        let owner = owner.map_err(|error| Failure::new(RefusalCode::ChannelBroken, chain(&error)))?;
        let bytes_max = match self.task.spec.resources.disk_mib {
            0 => CONTENT_BYTES_MAX,
            mib => mib.saturating_mul(1 << 20).min(CONTENT_BYTES_MAX),
        };
        self.say_opened().await?;
        let (pieces, waiting) = mpsc::channel(PIECES_WAITING_MAX);
        let mut unpacked =
            spawn_blocking(move || unpack(&sandbox, &path, &owner, bytes_max, Pieces::new(waiting)));
        let mut pieces = Some(pieces);
        loop {
            let frame = tokio::select! {
                unpacked = &mut unpacked => {
                    unpacked.map_err(panicked)??;
                    return Ok(wire::Ended::default());
                }
                frame = self.incoming.message(), if pieces.is_some() => frame,
            };
            match frame {
                Ok(Some(Frame { frame: Some(frame::Frame::Data(data)) })) => {
                    if let Some(sender) = &pieces
                        && sender.send(Piece::Data(data.data.to_vec())).await.is_err()
                    {
                        // It says why when it is asked.
                        pieces = None;
                    }
                }
                Ok(Some(Frame { frame: Some(frame::Frame::Finish(_)) })) => {
                    if let Some(sender) = pieces.take() {
                        // As above.
                        let _ = sender.send(Piece::End).await;
                    }
                }
                Ok(Some(_)) => {}
                // Without its end the archive is broken, and is said to be.
                Ok(None) | Err(_) => pieces = None,
            }
        }
    }
}

fn panicked(error: tokio::task::JoinError) -> Failure {
    Failure::new(RefusalCode::Internal, chain(&error))
}

fn find(sandbox: &Beneath, path: &str) -> Result<Found, FilesError> {
    let found = sandbox.find(Path::new(path)).map_err(at(path))?;
    match found.facts.kind {
        Kind::File | Kind::Directory => Ok(found),
        Kind::Link | Kind::Other => {
            let source = BeneathError::Kind { what: "a device, a pipe or a socket" };
            Err(FilesError::Path { path: path.to_owned(), source })
        }
    }
}

fn at(path: &str) -> impl Fn(BeneathError) -> FilesError {
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
fn pack(found: &Found, path: &str, to: Frames) -> Result<(), FilesError> {
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
struct Frames {
    outgoing: mpsc::Sender<Frame>,
    buffer: Vec<u8>,
}

impl Frames {
    fn new(outgoing: mpsc::Sender<Frame>) -> Self {
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

/// A part of an archive that comes in.
enum Piece {
    Data(Vec<u8>),
    End,
}

/// An archive on its way in.
struct Pieces {
    waiting: mpsc::Receiver<Piece>,
    piece: io::Cursor<Vec<u8>>,
    is_over: bool,
}

impl Pieces {
    fn new(waiting: mpsc::Receiver<Piece>) -> Self {
        Self { waiting, piece: io::Cursor::new(Vec::new()), is_over: false }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.is_over {
                return Ok(count);
            }
            match self.waiting.blocking_recv() {
                Some(Piece::Data(data)) => self.piece = io::Cursor::new(data),
                Some(Piece::End) => self.is_over = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// Takes an archive apart. Its one top name becomes `path`, or goes into it where that is a directory.
fn unpack(
    sandbox: &Beneath,
    path: &str,
    owner: &Identity,
    bytes_max: u64,
    pieces: Pieces,
) -> Result<(), FilesError> {
    let is_directory = match sandbox.find(Path::new(path)) {
        Ok(found) => found.facts.kind == Kind::Directory,
        Err(BeneathError::NotFound) => false,
        Err(source) => return Err(FilesError::Path { path: path.to_owned(), source }),
    };
    let mut archive = tar::Archive::new(pieces);
    let (mut entries, mut bytes, mut top) = (0_u64, 0_u64, None);
    for entry in archive.entries().map_err(FilesError::Archive)? {
        let mut entry = entry.map_err(FilesError::Archive)?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let refused = |why| FilesError::Entry { path: name.display().to_string(), why };
        entries += 1;
        if entries > ENTRIES_MAX {
            return Err(FilesError::TooMuch { what: "files", max: ENTRIES_MAX });
        }
        let mut parts = name.components();
        let Some(Component::Normal(first)) = parts.next() else {
            return Err(refused("is absolute, or begins with a dot"));
        };
        if *top.get_or_insert_with(|| first.to_owned()) != *first {
            return Err(refused("is beside the one name at the archive's top"));
        }
        let below = parts.as_path();
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(refused("leads out of the archive"));
        }
        if below.components().count() > DEPTH_MAX {
            return Err(FilesError::TooMuch { what: "directories in each other", max: DEPTH_MAX as u64 });
        }
        let target = match is_directory {
            true => Path::new(path).join(first).join(below),
            false => Path::new(path).join(below),
        };
        // Joined with nothing a path ends with a slash, which names no file.
        let target: PathBuf = target.components().collect();
        let shown = target.display().to_string();
        let place = sandbox.place(&target).map_err(at(&shown))?;
        let mode = entry.header().mode().map_err(FilesError::Archive)?;
        match entry.header().entry_type() {
            tar::EntryType::Directory => place.make_directory(mode, owner).map_err(at(&shown))?,
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                bytes = bytes.saturating_add(entry.size());
                if bytes > bytes_max {
                    return Err(FilesError::TooMuch { what: "bytes", max: bytes_max });
                }
                let mut file = place.make_file().map_err(at(&shown))?;
                let failed = |source| FilesError::Write { path: shown.clone(), source };
                io::copy(&mut entry, &mut file).map_err(failed)?;
                beneath::give(&file, mode, owner).map_err(at(&shown))?;
                let modified = entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok());
                if let Some(modified) = modified {
                    beneath::set_modified(&file, modified);
                }
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|name| OsStr::from_bytes(&name).to_owned());
                let target = target.ok_or_else(|| refused("is a link to nowhere"))?;
                place.make_link(&target, owner).map_err(at(&shown))?;
            }
            tar::EntryType::Link => return Err(refused("is a hard link")),
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                return Err(refused("is a device or a pipe"));
            }
            _ => return Err(refused("is of a kind that is not handled")),
        }
    }
    if top.is_none() { Err(FilesError::Empty) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn me() -> Identity {
        Identity {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: Vec::new(),
            home: None,
            name: None,
        }
    }

    fn sandbox() -> (tempfile::TempDir, Beneath) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sandbox")).unwrap();
        fs::write(directory.path().join("outside"), "outside").unwrap();
        let beneath = Beneath::open(&directory.path().join("sandbox")).unwrap();
        (directory, beneath)
    }

    fn packed(found: &Found, path: &str) -> Vec<u8> {
        let (outgoing, mut frames) = mpsc::channel(1024);
        pack(found, path, Frames::new(outgoing)).unwrap();
        let mut archive = Vec::new();
        while let Ok(frame) = frames.try_recv() {
            let Some(frame::Frame::Data(data)) = frame.frame else { panic!("not data") };
            archive.extend_from_slice(&data.data);
        }
        archive
    }

    fn unpacked(sandbox: &Beneath, path: &str, archive: Vec<u8>, bytes_max: u64) -> Result<(), String> {
        let (sender, waiting) = mpsc::channel(2);
        sender.try_send(Piece::Data(archive)).unwrap_or_else(|_| panic!("no room"));
        sender.try_send(Piece::End).unwrap_or_else(|_| panic!("no room"));
        unpack(sandbox, path, &me(), bytes_max, Pieces::new(waiting)).map_err(|error| chain(&error))
    }

    /// An archive of one entry, with a name that no honest writer would give.
    fn hostile(kind: tar::EntryType, name: &str, target: &str, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o4755);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, content).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_tree_goes_out_and_in_as_it_was() {
        let (directory, sandbox) = sandbox();
        let inside = directory.path().join("sandbox");
        let long = "n".repeat(200);
        fs::create_dir_all(inside.join("tree/empty")).unwrap();
        fs::write(inside.join("tree").join(&long), vec![7; 200_000]).unwrap();
        fs::write(inside.join("tree/späße \n"), "x").unwrap();
        symlink("/etc/passwd", inside.join("tree/link")).unwrap();
        nix::unistd::mkfifo(&inside.join("tree/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let archive = packed(&find(&sandbox, "tree").unwrap(), "tree");
        unpacked(&sandbox, "copy", archive.clone(), u64::MAX).unwrap();
        assert_eq!(fs::read(inside.join("copy").join(&long)).unwrap(), vec![7; 200_000]);
        assert_eq!(fs::read_to_string(inside.join("copy/späße \n")).unwrap(), "x");
        assert_eq!(fs::read_link(inside.join("copy/link")).unwrap(), Path::new("/etc/passwd"));
        assert!(inside.join("copy/empty").is_dir() && !inside.join("copy/pipe").exists());
        // Where the target is a directory that is there, the tree goes into it.
        unpacked(&sandbox, "copy/empty", archive, u64::MAX).unwrap();
        assert!(inside.join("copy/empty/tree").join(&long).is_file());
    }

    #[test]
    fn hostile_archives_are_refused_and_leave_nothing_outside() {
        let (directory, sandbox) = sandbox();
        let inside = directory.path().join("sandbox");
        symlink("..", inside.join("up")).unwrap();
        symlink("../outside", inside.join("file")).unwrap();
        use tar::EntryType as Type;
        let verdict = |path: &str, archive| match unpacked(&sandbox, path, archive, 1000) {
            Ok(()) => "done".to_owned(),
            Err(why) => why,
        };
        let verdicts = [
            verdict("x", hostile(Type::Regular, "../evil", "", b"evil")),
            verdict("x", hostile(Type::Regular, "/tmp/evil", "", b"evil")),
            verdict("x", hostile(Type::Regular, "a/../../evil", "", b"evil")),
            verdict("../x", hostile(Type::Regular, "evil", "", b"evil")),
            verdict("up/x", hostile(Type::Regular, "evil", "", b"evil")),
            verdict("up", hostile(Type::Regular, "evil", "", b"evil")),
            verdict("/etc", hostile(Type::Regular, "evil", "", b"evil")),
            verdict("x", hostile(Type::Link, "hard", "/etc/passwd", b"")),
            verdict("x", hostile(Type::Char, "device", "", b"")),
            verdict("x", hostile(Type::Fifo, "pipe", "", b"")),
            verdict("x", hostile(Type::Regular, "big", "", &[0; 1001])),
            verdict("no/such", hostile(Type::Regular, "evil", "", b"evil")),
            verdict("x", tar::Builder::new(Vec::new()).into_inner().unwrap()),
            // A link that leads out gives way; what it led to stays.
            verdict("setuid", hostile(Type::Regular, "fine", "", b"fine")),
        ];
        expect![[r#"
            the archive holds `../evil`, which is absolute, or begins with a dot
            the archive holds `/tmp/evil`, which is absolute, or begins with a dot
            the archive holds `a/../../evil`, which leads out of the archive
            `../x`: the path leads out of the sandbox
            `up/x`: the path leads out of the sandbox
            `up`: the path leads out of the sandbox
            `/etc`: paths are relative to the sandbox, without a slash in front
            the archive holds `hard`, which is a hard link
            the archive holds `device`, which is a device or a pipe
            the archive holds `pipe`, which is a device or a pipe
            it is more than the 1000 bytes that may be copied at once
            `no/such`: there is no such file
            the archive is empty
            done
        "#]]
        .assert_eq(&(verdicts.join("\n") + "\n"));
        assert_eq!(fs::read_to_string(directory.path().join("outside")).unwrap(), "outside");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        let mode = sandbox.find(Path::new("setuid")).unwrap().facts.mode;
        assert_eq!(mode, 0o755, "permission bits alone");
    }

    #[test]
    fn an_archive_that_breaks_off_is_no_success() {
        let (_directory, sandbox) = sandbox();
        let archive = hostile(tar::EntryType::Regular, "file", "", &[1; 5000]);
        let (sender, waiting) = mpsc::channel(1);
        sender.try_send(Piece::Data(archive[..2000].to_vec())).unwrap_or_else(|_| panic!("no room"));
        drop(sender);
        let error = unpack(&sandbox, "x", &me(), u64::MAX, Pieces::new(waiting)).unwrap_err();
        assert!(matches!(error, FilesError::Write { .. }), "{error:?}");
    }
}
