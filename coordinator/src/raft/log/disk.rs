//! What the log needs of a disk: a store of records, a small file beside it, and a hand that writes.
//!
//! [`FileDisk`] is what members have; the simulated one forgets what wasn't synced. Knows nothing of what
//! a record means. Whoever writes is in `writer.rs`, whoever reads at a start in `recover.rs`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    thread,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tokio::sync::oneshot;

use super::writer::Writer;

/// Blocks of old entries are read once, if at all.
const CACHE_BYTES: u64 = 4 << 20;
/// Small, since the entries that anyone asks for are in the log's own memory.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The least that fjall takes.
const JOURNALS_BYTES: u64 = 64 << 20;

/// Where a log lives.
pub trait Disk: Send + Sync {
    /// Opens the store at a path, or begins one. Blocks.
    fn store(&self, path: &Path) -> io::Result<Arc<dyn Store>>;

    /// Opens the file at a path, or makes it. Blocks.
    fn file(&self, path: &Path) -> io::Result<Box<dyn MarkFile>>;

    /// Lets a writer run; the receiver hears when it ended and closed everything.
    fn run(&self, writer: Writer) -> io::Result<oneshot::Receiver<()>>;
}

/// Records by key, of which those of one commit are kept together or not at all.
pub trait Store: Send + Sync {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// The entries of these indices, in order.
    fn entries(&self, indices: Range<u64>) -> Records<'_>;

    fn is_empty(&self) -> bool;

    /// Makes the changes; where they are to be synced, so is all that was committed before.
    fn commit(&self, changes: Vec<Change>, durability: Durability) -> io::Result<()>;
}

/// Keys and values, each of which may turn out to be unreadable.
pub type Records<'a> = Box<dyn Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>> + 'a>;

/// A file that is written in place.
pub trait MarkFile: Send {
    /// What lies there; shorter where the file ends before.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// One record more, or one less.
#[derive(Debug, Clone)]
pub enum Change {
    Put { key: Vec<u8>, value: Vec<u8> },
    Remove { key: Vec<u8> },
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The disk has it.
    Synced,
    /// The kernel has it: a crash of the machine may forget it.
    Buffered,
}

/// The key of an entry: big-endian, so that entries lie in order.
pub fn entry_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// The disk of this machine.
pub struct FileDisk;

impl Disk for FileDisk {
    fn store(&self, path: &Path) -> io::Result<Arc<dyn Store>> {
        fs::create_dir_all(path)?;
        let database = Database::builder(path)
            .worker_threads(1)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNALS_BYTES)
            .open()
            .map_err(io::Error::other)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let log = database.keyspace("log", options).map_err(io::Error::other)?;
        Ok(Arc::new(FileStore { database, log }))
    }

    fn file(&self, path: &Path) -> io::Result<Box<dyn MarkFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Box::new(file))
    }

    fn run(&self, writer: Writer) -> io::Result<oneshot::Receiver<()>> {
        let (ended, end) = oneshot::channel();
        thread::Builder::new().name("raft-log".to_owned()).spawn(move || {
            writer.run();
            // Nobody listens any more where the member was dropped.
            let _ = ended.send(());
        })?;
        Ok(end)
    }
}

/// fjall, with one keyspace.
struct FileStore {
    database: Database,
    log: Keyspace,
}

impl Store for FileStore {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let value = self.log.get(key).map_err(io::Error::other)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn entries(&self, indices: Range<u64>) -> Records<'_> {
        let found = self.log.range(entry_key(indices.start)..entry_key(indices.end));
        Box::new(found.map(|guard| {
            let (key, value) = guard.into_inner().map_err(io::Error::other)?;
            Ok((key.to_vec(), value.to_vec()))
        }))
    }

    fn is_empty(&self) -> bool {
        self.log.first_key_value().is_none()
    }

    fn commit(&self, changes: Vec<Change>, durability: Durability) -> io::Result<()> {
        let mut batch = self.database.batch();
        for change in changes {
            match change {
                Change::Put { key, value } => batch.insert(&self.log, key, value),
                Change::Remove { key } => batch.remove(&self.log, key),
            }
        }
        let mode = match durability {
            Durability::Synced => PersistMode::SyncData,
            Durability::Buffered => PersistMode::Buffer,
        };
        batch.durability(Some(mode)).commit().map_err(io::Error::other)
    }
}

impl MarkFile for File {
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut found = 0;
        while let Some(rest) = bytes.get_mut(found..)
            && !rest.is_empty()
        {
            match self.read_at(rest, offset + found as u64) {
                Ok(0) => break,
                Ok(more) => found += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(found);
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}
