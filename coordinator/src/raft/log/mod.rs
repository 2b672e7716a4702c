//! The log and the vote: what openraft reads and writes.
//!
//! [`LogStore`] answers from memory what is new and from the store what is old, and hands every write
//! to the one writer thread in `writer.rs`. What is on disk at a start is judged in `recover.rs`; what a disk
//! is stands in `disk.rs`.

pub mod disk;
mod recover;
mod watermark;
pub mod writer;

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader, storage::IOFlushed, storage::RaftLogStorage,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    aside::aside,
    limits::{READ_BYTES_MAX, TAIL_BYTES_MAX, TAIL_ENTRIES_MAX},
    record,
    types::{Entry, LogId, Types, Vote},
};

use disk::Store;
pub use disk::{Disk, FileDisk};
pub use recover::{Opened, begin_after, identity, open};
use writer::Op;

/// openraft's way to write.
pub struct LogStore {
    shared: Arc<Shared>,
    operations: mpsc::Sender<Op>,
}

/// openraft's way to read; there may be many.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let tail = self.shared.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.write(|done| Op::Vote { vote, done }).await?;
        self.shared.tail().vote = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        self.shared.tail().committed = Some(committed);
        self.send(Op::Committed { committed }).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Arc<Entry>> = entries.into_iter().map(Arc::new).collect();
        self.shared.tail().append(&entries)?;
        self.send(Op::Append { entries, done }).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        // The entries go from memory after they went from the disk. An append that comes later finds
        // no trace of them, and the writer's mark of what is on disk can't be one of theirs.
        self.write(|done| Op::Truncate { after: last, done }).await?;
        self.shared.tail().truncate_after(last);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        // Nobody waits for the disk: a purge that a crash forgets is only done again.
        self.shared.tail().purge(upto);
        self.send(Op::Purge { upto }).await
    }
}

impl LogStore {
    /// Hands an operation to the writer and waits until it is on disk.
    async fn write(&self, operation: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Op) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.send(operation(done)).await?;
        written.await.map_err(|_| writer_gone())?
    }

    async fn send(&self, operation: Op) -> io::Result<()> {
        self.operations.send(operation).await.map_err(|_| writer_gone())
    }
}

impl RaftLogReader<Types> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail().vote)
    }
}

impl LogReader {
    /// The entries from `start` to before `end`, at most about `bytes_max` of them but at least one.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (stored, cached) = self.shared.tail().plan(start, end)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        if let Some(Stored { store, start, end }) = stored {
            let read = move || read_stored(&*store, start, end, bytes_max);
            (entries, bytes) = aside(read).await?;
            let first = entries.first().map_or(end, |entry| entry.log_id.index());
            if first != start && self.shared.tail().first < first {
                return Err(missing(start));
            }
            let last = entries.last().map_or(end, |entry| entry.log_id.index() + 1);
            if last != end {
                return Ok(entries);
            }
        }
        for entry in cached {
            if bytes >= bytes_max {
                break;
            }
            bytes += weight(&entry);
            entries.push(Entry::clone(&entry));
        }
        Ok(entries)
    }
}

/// Reads entries from the store, and checks that none is missing between them. Blocks.
fn read_stored(store: &dyn Store, start: u64, end: u64, bytes_max: usize) -> io::Result<(Vec<Entry>, usize)> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    for record in store.entries(start..end) {
        let (_key, value) = record?;
        let frame = record::decode_frame(&value).map_err(io::Error::other)?;
        let index = frame.entry.log_id.index();
        if let Some(last) = entries.last()
            && last.log_id.index() + 1 != index
        {
            return Err(missing(last.log_id.index() + 1));
        }
        bytes += weight(&frame.entry);
        entries.push(frame.entry);
        if bytes >= bytes_max {
            return Ok((entries, bytes));
        }
    }
    match entries.last() {
        Some(last) if last.log_id.index() + 1 != end => Err(missing(last.log_id.index() + 1)),
        Some(_) | None => Ok((entries, bytes)),
    }
}

/// What store, readers and writer share.
struct Shared {
    tail: Mutex<Tail>,
    log_bytes: AtomicU64,
    /// Since when the writer waits for the disk; absent when it doesn't.
    writing: Mutex<Option<Instant>>,
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Option<Instant>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What openraft knows of the log, and its newest entries.
struct Tail {
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Of the first entry that isn't purged.
    first: u64,
    /// The newest entries, up to `last`, without a gap.
    cached: VecDeque<Arc<Entry>>,
    cached_bytes: usize,
    /// Entries before this index are on disk.
    flushed_end: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Entries on disk, until the writer ends.
    stored: Option<Arc<dyn Store>>,
}

/// A range of entries to be read from disk.
struct Stored {
    store: Arc<dyn Store>,
    start: u64,
    end: u64,
}

impl Tail {
    fn cached_start(&self) -> u64 {
        next(self.last) - self.cached.len() as u64
    }

    fn append(&mut self, entries: &[Arc<Entry>]) -> io::Result<()> {
        for entry in entries {
            let id = entry.log_id;
            if self.last.is_none() {
                // An empty log may begin anywhere; openraft begins it at 0.
                self.first = id.index();
            } else if id.index() != next(self.last) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("entry {id} doesn't follow the last one"),
                ));
            }
            self.last = Some(id);
            self.cached_bytes += weight(entry);
            self.cached.push_back(entry.clone());
        }
        Ok(())
    }

    /// Notes what the disk has now, and lets go of old entries.
    fn flushed(&mut self, last: LogId) {
        self.flushed_end = last.index() + 1;
        while self.cached.len() > TAIL_ENTRIES_MAX || self.cached_bytes > TAIL_BYTES_MAX {
            if self.cached_start() >= self.flushed_end {
                break;
            }
            self.forget_first();
        }
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let end = next(last);
        if end >= next(self.last) {
            return;
        }
        while let Some(entry) = self.cached.back()
            && entry.log_id.index() >= end
        {
            self.cached_bytes -= weight(entry);
            self.cached.pop_back();
        }
        self.flushed_end = self.flushed_end.min(end);
        self.last = last.or(self.purged);
    }

    fn purge(&mut self, upto: LogId) {
        if self.purged >= Some(upto) {
            return;
        }
        while let Some(entry) = self.cached.front()
            && entry.log_id.index() <= upto.index()
        {
            self.forget_first();
        }
        self.purged = Some(upto);
        self.first = upto.index() + 1;
        self.last = self.last.max(Some(upto));
    }

    fn forget_first(&mut self) {
        if let Some(entry) = self.cached.pop_front() {
            self.cached_bytes -= weight(&entry);
        }
    }

    /// What of a range has to be read from disk, and the rest of it.
    fn plan(&self, start: u64, end: u64) -> io::Result<(Option<Stored>, Vec<Arc<Entry>>)> {
        let start = start.max(self.first);
        let end = end.min(next(self.last));
        if start >= end {
            return Ok((None, Vec::new()));
        }
        let cached_start = self.cached_start();
        let stored = if start < cached_start {
            let store = self.stored.clone().ok_or_else(writer_gone)?;
            Some(Stored { store, start, end: end.min(cached_start) })
        } else {
            None
        };
        let skip = usize::try_from(start.saturating_sub(cached_start)).unwrap_or(usize::MAX);
        let take = usize::try_from(end.saturating_sub(start.max(cached_start))).unwrap_or(usize::MAX);
        Ok((stored, self.cached.iter().skip(skip).take(take).cloned().collect()))
    }
}

/// Says how long the writer has been waiting for the disk.
#[derive(Clone)]
pub struct DiskWatch(Arc<Shared>);

impl DiskWatch {
    /// Absent when the disk owes no answer.
    pub fn waiting(&self) -> Option<Duration> {
        self.0.writing().map(|since| since.elapsed())
    }
}

/// Reads the log's size for metrics.
#[derive(Clone)]
pub struct LogBytes(Arc<Shared>);

impl LogBytes {
    pub fn get(&self) -> u64 {
        self.0.log_bytes.load(Ordering::Relaxed)
    }
}

impl LogStore {
    pub fn bytes(&self) -> LogBytes {
        LogBytes(self.shared.clone())
    }

    pub fn disk_watch(&self) -> DiskWatch {
        DiskWatch(self.shared.clone())
    }
}

fn next(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index() + 1)
}

/// What an entry costs in memory, about.
fn weight(entry: &Entry) -> usize {
    let command = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(proposal) => proposal.bytes.len(),
        EntryPayload::Membership(_) => 256,
    };
    size_of::<Entry>() + command
}

fn missing(index: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} is missing from the log"))
}

fn writer_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log's writer has ended")
}
