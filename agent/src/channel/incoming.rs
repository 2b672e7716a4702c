//! An archive on its way into a sandbox.
//!
//! Taken apart in a directory beside the sandbox, which the task doesn't see, and moved into it when all of it is
//! there and has room: one that breaks off, is refused or finds the disk full leaves the sandbox as it was.
//! What a crash leaves is removed by the next agent.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Component, Path, PathBuf},
};

use model::RefusalCode;
use proto::channel::v1::{self as wire, Frame, frame};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    Failure, Talk,
    files::{CONTENT_BYTES_MAX, DEPTH_MAX, ENTRIES_MAX, FilesError, at, panicked},
};
use crate::{
    checkpoint::DISK_SHORT_BYTES,
    execute::chain,
    sys::{
        Identity,
        beneath::{self, Beneath, BeneathError, Found, Kind},
        disk,
    },
};

/// Pieces of an archive that wait to be taken apart.
const PIECES_WAITING_MAX: usize = 4;

impl Talk<'_> {
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
        let (directories, attempt) = (self.executor.directories().clone(), self.task.attempt.clone());
        let disk_mib = self.task.spec.resources.disk_mib;
        let disk = (disk_mib > 0).then(|| TaskDisk {
            limit: disk_mib.saturating_mul(1 << 20),
            directories: vec![directories.sandbox(&attempt), directories.tmp(&attempt)],
        });
        self.say_opened().await?;
        let (pieces, waiting) = mpsc::channel(PIECES_WAITING_MAX);
        let mut unpacked = spawn_blocking(move || {
            let stage = Stage::make(directories.incoming(&attempt))?;
            Arrival { sandbox: &sandbox, path: &path, owner: &owner, disk }.take(&stage, Pieces::new(waiting))
        });
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

/// What a task may have on its disk, and where it has it.
struct TaskDisk {
    limit: u64,
    directories: Vec<PathBuf>,
}

/// A directory beside a sandbox that goes when this does.
struct Stage {
    path: PathBuf,
    root: Beneath,
}

impl Stage {
    fn make(path: PathBuf) -> Result<Self, FilesError> {
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| FilesError::Beside { what: "make a directory", source })?;
        match Beneath::open(&path) {
            Ok(root) => Ok(Self { path, root }),
            Err(source) => Err(FilesError::Path { path: path.display().to_string(), source }),
        }
    }

    /// Bytes on its disk that tasks may use; the rest is kept for the agent's records.
    fn free_bytes(&self) -> Result<u64, FilesError> {
        let found = rustix::fs::statvfs(&self.path);
        let found = found.map_err(|error| FilesError::Beside {
            what: "look how full the disk is",
            source: error.into(),
        })?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize).saturating_sub(DISK_SHORT_BYTES))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "what was copied half stays until the next start");
        }
    }
}

/// Where an archive is to arrive, as what.
struct Arrival<'a> {
    sandbox: &'a Beneath,
    path: &'a str,
    owner: &'a Identity,
    /// Absent: it has no limit.
    disk: Option<TaskDisk>,
}

impl Arrival<'_> {
    /// Takes an archive in. Its one top name becomes `path`, or goes into it where that is a directory.
    fn take(&self, stage: &Stage, pieces: impl Read) -> Result<(), FilesError> {
        let path = Path::new(self.path);
        let is_directory = match self.sandbox.find(path) {
            Ok(found) => found.facts.kind == Kind::Directory,
            Err(BeneathError::NotFound) => {
                // Nothing is sent for nothing.
                self.sandbox.place(path).map_err(at(self.path))?;
                false
            }
            Err(source) => return Err(at(self.path)(source)),
        };
        let top = self.unpack(stage, pieces)?;
        let staged = stage.root.find(Path::new(&top)).map_err(at(self.path))?;
        let target = if is_directory { path.join(&top) } else { path.to_owned() };
        let goal = Goal { sandbox: self.sandbox, stage: &stage.root };
        let replaced = goal.merge(&staged, Path::new(&top), &target, Step::Try)?;
        self.check_disk(&stage.path, replaced)?;
        goal.merge(&staged, Path::new(&top), &target, Step::Move)?;
        Ok(())
    }

    /// Writes an archive into the stage; answers its one top name.
    fn unpack(&self, stage: &Stage, pieces: impl Read) -> Result<OsString, FilesError> {
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
            // Joined with nothing a path ends with a slash, which names no file.
            let staged: PathBuf = name.components().collect();
            let shown = staged.display().to_string();
            let place = stage.root.place(&staged).map_err(at(&shown))?;
            let mode = entry.header().mode().map_err(FilesError::Archive)?;
            match entry.header().entry_type() {
                tar::EntryType::Directory => place.make_directory(mode, self.owner).map_err(at(&shown))?,
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let size = entry.size();
                    bytes = bytes.saturating_add(size);
                    if bytes > CONTENT_BYTES_MAX {
                        return Err(FilesError::TooMuch { what: "bytes", max: CONTENT_BYTES_MAX });
                    }
                    if let Some(TaskDisk { limit, directories: _ }) = self.disk
                        && bytes > limit
                    {
                        return Err(FilesError::TaskDisk { limit, wanted: bytes });
                    }
                    let free = stage.free_bytes()?;
                    if size > free {
                        return Err(FilesError::HostDisk { path: shown, size, free });
                    }
                    let mut file = place.make_file().map_err(at(&shown))?;
                    let failed = |source| FilesError::Write { path: shown.clone(), source };
                    io::copy(&mut entry, &mut file).map_err(failed)?;
                    beneath::give(&file, mode, self.owner).map_err(at(&shown))?;
                    let modified = entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok());
                    if let Some(modified) = modified {
                        beneath::set_modified(&file, modified);
                    }
                }
                tar::EntryType::Symlink => {
                    let target = entry.link_name_bytes().map(|name| OsStr::from_bytes(&name).to_owned());
                    let target = target.ok_or_else(|| refused("is a link to nowhere"))?;
                    place.make_link(&target, self.owner).map_err(at(&shown))?;
                }
                tar::EntryType::Link => return Err(refused("is a hard link")),
                tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                    return Err(refused("is a device or a pipe"));
                }
                _ => return Err(refused("is of a kind that is not handled")),
            }
        }
        top.ok_or(FilesError::Empty)
    }

    /// Whether the task keeps to its disk with what is staged, in place of what it replaces.
    fn check_disk(&self, stage: &Path, replaced: u64) -> Result<(), FilesError> {
        let Some(TaskDisk { limit, directories }) = &self.disk else { return Ok(()) };
        let all: Vec<&Path> = directories.iter().map(PathBuf::as_path).chain([stage]).collect();
        let used = disk::used(&all).map_err(FilesError::Measure)?;
        let wanted = used.bytes.saturating_sub(replaced);
        if wanted > *limit {
            return Err(FilesError::TaskDisk { limit: *limit, wanted });
        }
        Ok(())
    }
}

/// Whether something is only looked at, or done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Try,
    Move,
}

struct Goal<'a> {
    sandbox: &'a Beneath,
    stage: &'a Beneath,
}

impl Goal<'_> {
    /// Moves what is staged to its place: directories into those that are there, files in place of files.
    /// Answers how many bytes were there in their places.
    fn merge(&self, staged: &Found, from: &Path, to: &Path, step: Step) -> Result<u64, FilesError> {
        let shown = to.display().to_string();
        let place = self.sandbox.place(to).map_err(at(&shown))?;
        let there = place.there().map_err(at(&shown))?;
        match there.as_ref().map(|there| there.facts.kind) {
            Some(Kind::Directory) if staged.facts.kind == Kind::Directory => {
                let mut replaced = 0_u64;
                for name in staged.names().map_err(at(&shown))? {
                    let name = name.map_err(at(&shown))?;
                    let child = staged.child(&name).map_err(at(&shown))?;
                    let below = self.merge(&child, &from.join(&name), &to.join(&name), step)?;
                    replaced = replaced.saturating_add(below);
                }
                return Ok(replaced);
            }
            Some(Kind::Directory) => return Err(at(&shown)(BeneathError::IsDirectory)),
            Some(_) if staged.facts.kind == Kind::Directory => {
                return Err(at(&shown)(BeneathError::NotDirectory));
            }
            Some(_) | None => {}
        }
        if step == Step::Move {
            let from = self.stage.place(from).map_err(at(&shown))?;
            place.take(&from).map_err(at(&shown))?;
        }
        Ok(there.map_or(0, |there| there.allocated))
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

#[cfg(test)]
mod tests {
    use super::{
        super::files::{Frames, find, pack},
        *,
    };
    use expect_test::expect;
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

    /// `directory` has the sandbox, and nothing but it and what was there stays in it.
    fn unpacked(directory: &Path, path: &str, archive: Vec<u8>, limit: Option<u64>) -> Result<(), String> {
        let (sender, waiting) = mpsc::channel(2);
        sender.try_send(Piece::Data(archive)).unwrap_or_else(|_| panic!("no room"));
        sender.try_send(Piece::End).unwrap_or_else(|_| panic!("no room"));
        taken(directory, path, limit, waiting).map_err(|error| chain(&error))
    }

    fn taken(
        directory: &Path,
        path: &str,
        limit: Option<u64>,
        waiting: mpsc::Receiver<Piece>,
    ) -> Result<(), FilesError> {
        let sandbox = Beneath::open(&directory.join("sandbox")).unwrap();
        let disk = limit.map(|limit| TaskDisk { limit, directories: vec![directory.join("sandbox")] });
        let stage = Stage::make(directory.join("incoming"))?;
        Arrival { sandbox: &sandbox, path, owner: &me(), disk }.take(&stage, Pieces::new(waiting))
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
        unpacked(directory.path(), "copy", archive.clone(), None).unwrap();
        assert_eq!(fs::read(inside.join("copy").join(&long)).unwrap(), vec![7; 200_000]);
        assert_eq!(fs::read_to_string(inside.join("copy/späße \n")).unwrap(), "x");
        assert_eq!(fs::read_link(inside.join("copy/link")).unwrap(), Path::new("/etc/passwd"));
        assert!(inside.join("copy/empty").is_dir() && !inside.join("copy/pipe").exists());
        // Where the target is a directory that is there, the tree goes into it.
        unpacked(directory.path(), "copy/empty", archive.clone(), None).unwrap();
        assert!(inside.join("copy/empty/tree").join(&long).is_file());
        // Into a tree that is there: what has its names is replaced, and the rest stays.
        fs::write(inside.join("copy/empty/tree").join(&long), "older").unwrap();
        fs::write(inside.join("copy/empty/tree/other"), "other").unwrap();
        unpacked(directory.path(), "copy/empty", archive, None).unwrap();
        assert_eq!(fs::metadata(inside.join("copy/empty/tree").join(&long)).unwrap().len(), 200_000);
        assert_eq!(fs::read_to_string(inside.join("copy/empty/tree/other")).unwrap(), "other");
    }

    #[test]
    fn hostile_archives_are_refused_and_leave_nothing_outside() {
        let (directory, sandbox) = sandbox();
        let inside = directory.path().join("sandbox");
        symlink("..", inside.join("up")).unwrap();
        symlink("../outside", inside.join("file")).unwrap();
        use tar::EntryType as Type;
        let verdict = |path: &str, archive| match unpacked(directory.path(), path, archive, Some(1 << 20)) {
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
            verdict("x", hostile(Type::Regular, "big", "", &[0; (1 << 20) + 1])),
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
            the task may have 1048576 bytes on its disk, and would have 1048577 with this copy
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
    fn an_archive_that_breaks_off_leaves_nothing() {
        let (directory, _sandbox) = sandbox();
        fs::write(directory.path().join("sandbox/x"), "older").unwrap();
        let archive = hostile(tar::EntryType::Regular, "file", "", &[1; 5000]);
        let (sender, waiting) = mpsc::channel(1);
        sender.try_send(Piece::Data(archive[..2000].to_vec())).unwrap_or_else(|_| panic!("no room"));
        drop(sender);
        let error = taken(directory.path(), "x", None, waiting).unwrap_err();
        assert!(matches!(error, FilesError::Write { .. }), "{error:?}");
        assert_eq!(fs::read_to_string(directory.path().join("sandbox/x")).unwrap(), "older");
        assert_eq!(fs::read_dir(directory.path().join("sandbox")).unwrap().count(), 1);
        assert!(!directory.path().join("incoming").exists());
    }

    #[test]
    fn a_task_keeps_to_its_disk_and_what_is_replaced_makes_room() {
        let (directory, _sandbox) = sandbox();
        let limit = Some(3 << 20);
        let file = |name| hostile(tar::EntryType::Regular, name, "", &vec![1; 2 << 20]);
        unpacked(directory.path(), "file", file("file"), limit).unwrap();
        unpacked(directory.path(), "file", file("file"), limit).unwrap();
        let error = unpacked(directory.path(), "another", file("another"), limit).unwrap_err();
        assert!(
            error.starts_with("the task may have 3145728 bytes on its disk, and would have 4"),
            "{error}"
        );
        let inside = fs::read_dir(directory.path().join("sandbox")).unwrap();
        assert_eq!(inside.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>(), ["file"]);
    }

    #[test]
    fn a_tree_that_does_not_fit_what_is_there_changes_nothing() {
        let (directory, sandbox) = sandbox();
        let inside = directory.path().join("sandbox");
        fs::create_dir_all(inside.join("tree/b")).unwrap();
        fs::write(inside.join("tree/a"), "a").unwrap();
        fs::write(inside.join("tree/b/file"), "b").unwrap();
        let archive = packed(&find(&sandbox, "tree").unwrap(), "tree");
        fs::create_dir_all(inside.join("place/tree")).unwrap();
        fs::write(inside.join("place/tree/b"), "no directory").unwrap();
        let error = unpacked(directory.path(), "place", archive, None).unwrap_err();
        assert_eq!(error, "`place/tree/b`: a part of the path is no directory");
        let left = fs::read_dir(inside.join("place/tree")).unwrap().flatten();
        assert_eq!(left.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["b"]);
    }
}
