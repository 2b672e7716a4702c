//! The one thread that writes the log: everything that has queued up, in order, with one fdatasync.
//!
//! Entries and votes of one group go into one atomic batch of the store. Truncations stand alone,
//! because a batch can't say whether a key was removed before or after it was written. After the
//! first failed write nothing is written any more, and every operation answers with that failure:
//! what a disk kept after a failed fsync is anybody's guess.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Instant,
};

use fjall::{Database, Keyspace, OwnedWriteBatch as WriteBatch, PersistMode};
use openraft::storage::IOFlushed;
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};
use tracing::error;

use super::{
    super::{
        limits::{GROUP_BYTES_MAX, PURGE_ENTRIES_MAX},
        observe::Instruments,
        record::{self, log_id_to_wire, vote_to_wire},
        types::{Entry, LogId, Types, Vote, log_id, term_of},
    },
    Shared, next,
    recover::{PURGED_KEY, VOTE_KEY},
    watermark::{Watermark, WatermarkFile},
};

/// What the writer is asked to do, in this order.
pub enum Op {
    Append { entries: Vec<Arc<Entry>>, done: IOFlushed<Types> },
    Vote { vote: Vote, done: oneshot::Sender<io::Result<()>> },
    Committed { committed: LogId },
    Truncate { after: Option<LogId>, done: oneshot::Sender<io::Result<()>> },
    Purge { upto: LogId },
}

/// The store: one keyspace with entries by index, big-endian, and the records of `recover.rs`.
#[derive(Clone)]
pub struct Store {
    pub database: Database,
    pub log: Keyspace,
}

/// What the writer remembers of an entry on disk.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub term: u64,
    pub crc: u32,
    pub bytes: u32,
}

/// The entries on disk: all from `first` on, without a gap.
#[derive(Debug, Default)]
pub struct Marks {
    pub first: u64,
    pub marks: VecDeque<Mark>,
    pub bytes: u64,
}

impl Marks {
    pub fn end(&self) -> u64 {
        self.first + self.marks.len() as u64
    }

    pub fn last(&self) -> Option<LogId> {
        Some(log_id(self.marks.back()?.term, self.end() - 1))
    }

    /// The checksum that the next entry has to carry.
    pub fn crc(&self) -> u32 {
        self.marks.back().map_or(0, |mark| mark.crc)
    }

    pub fn push(&mut self, index: u64, mark: Mark) {
        if self.marks.is_empty() {
            self.first = index;
        }
        self.bytes += u64::from(mark.bytes);
        self.marks.push_back(mark);
    }

    fn pop_first(&mut self) -> Option<LogId> {
        let mark = self.marks.pop_front()?;
        self.bytes -= u64::from(mark.bytes);
        self.first += 1;
        Some(log_id(mark.term, self.first - 1))
    }

    fn pop_last(&mut self) -> Option<u64> {
        let mark = self.marks.pop_back()?;
        self.bytes -= u64::from(mark.bytes);
        Some(self.end())
    }
}

/// The writer, before it has its thread.
pub struct Writer {
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) operations: mpsc::Receiver<Op>,
    pub(super) marks: Marks,
    pub(super) mark: Watermark,
    pub(super) mark_file: WatermarkFile,
    pub(super) instruments: Instruments,
    /// A purge that is done bit by bit, between groups.
    pub(super) purging: Option<LogId>,
    pub(super) failure: Option<String>,
}

/// What one fdatasync will carry.
#[derive(Default)]
struct Group {
    batch: Option<WriteBatch>,
    bytes: usize,
    entries: u64,
    appended: Vec<IOFlushed<Types>>,
    vote: Option<Vote>,
    voted: Vec<oneshot::Sender<io::Result<()>>>,
    committed: Option<LogId>,
}

impl Writer {
    /// Starts the thread, which ends when the last [`super::LogStore`] is gone.
    pub fn spawn(self) -> io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("raft-log".to_owned()).spawn(move || self.run())
    }

    fn run(mut self) {
        loop {
            let first = if self.purging.is_some() {
                match self.operations.try_recv() {
                    Ok(operation) => Some(operation),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => break,
                }
            } else {
                match self.operations.blocking_recv() {
                    Some(operation) => Some(operation),
                    None => break,
                }
            };
            let mut group = Group::default();
            if let Some(operation) = first {
                self.take(&mut group, operation);
            }
            while group.bytes < GROUP_BYTES_MAX
                && let Ok(operation) = self.operations.try_recv()
            {
                self.take(&mut group, operation);
            }
            self.commit(group);
            self.purge_some();
        }
        self.close();
    }

    fn take(&mut self, group: &mut Group, operation: Op) {
        match operation {
            Op::Append { entries, done } => {
                let batch = group.batch.get_or_insert_with(|| self.store.database.batch());
                for entry in &entries {
                    let (frame, crc) = record::encode_frame(entry, self.marks.crc());
                    let id = entry.log_id;
                    // A frame is a command and some bytes, and a command is bounded far below 4 GiB.
                    let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
                    self.marks.push(id.index(), Mark { term: term_of(&id), crc, bytes });
                    group.bytes += frame.len();
                    group.entries += 1;
                    batch.insert(&self.store.log, id.index().to_be_bytes(), frame);
                }
                group.appended.push(done);
            }
            Op::Vote { vote, done } => {
                group.vote = Some(vote);
                group.voted.push(done);
            }
            Op::Committed { committed } => group.committed = Some(committed),
            Op::Truncate { after, done } => {
                self.commit(mem::take(group));
                let result = self.attempt(|writer| writer.truncate(after));
                // Whoever asked may have stopped meanwhile.
                let _ = done.send(result);
            }
            Op::Purge { upto } => {
                self.purging = self.purging.max(Some(upto));
                if upto.index() >= self.marks.end() {
                    // A snapshot from elsewhere took the log's place: the next entry starts anew.
                    self.commit(mem::take(group));
                    while self.purging.is_some() {
                        self.purge_some();
                    }
                }
            }
        }
    }

    fn commit(&mut self, group: Group) {
        let Group { batch, bytes: _, entries, appended, vote, voted, committed } = group;
        let result = self.attempt(|writer| writer.write(batch, entries, vote, committed));
        for done in appended {
            done.io_completed(copy(&result));
        }
        for done in voted {
            // Whoever asked may have stopped meanwhile.
            let _ = done.send(copy(&result));
        }
    }

    fn write(
        &mut self,
        batch: Option<WriteBatch>,
        entries: u64,
        vote: Option<Vote>,
        committed: Option<LogId>,
    ) -> io::Result<()> {
        let is_committed_new = committed.is_some() && committed != self.mark.committed;
        self.mark.committed = committed.or(self.mark.committed);
        if batch.is_none() && vote.is_none() {
            return if is_committed_new { self.mark_file.write(&self.mark) } else { Ok(()) };
        }
        let mut batch = batch.unwrap_or_else(|| self.store.database.batch());
        if let Some(vote) = vote {
            batch.insert(&self.store.log, VOTE_KEY, record::seal(&vote_to_wire(&vote)));
        }
        let started = Instant::now();
        batch.durability(Some(PersistMode::SyncData)).commit().map_err(io::Error::other)?;
        self.instruments.fsync_seconds.observe(started.elapsed().as_secs_f64());
        if entries > 0 {
            // A count of entries, for a histogram.
            #[expect(clippy::cast_precision_loss, reason = "a group is far smaller than 2^52 entries")]
            self.instruments.group_entries.observe(entries as f64);
            self.mark.durable = self.marks.last();
            if let Some(last) = self.mark.durable {
                self.shared.tail().flushed(last);
            }
            self.shared.log_bytes.store(self.marks.bytes, Ordering::Relaxed);
        }
        self.mark.vote = vote.or(self.mark.vote);
        self.mark_file.write(&self.mark)
    }

    fn truncate(&mut self, after: Option<LogId>) -> io::Result<()> {
        let end = next(after);
        if end >= self.marks.end() {
            return Ok(());
        }
        // First the mark, on disk: a crash before the removal leaves entries that nobody asked for,
        // the other way round it would leave a log that seems to have lost its end.
        self.mark.durable = self.mark.durable.min(after);
        self.mark_file.write(&self.mark)?;
        self.mark_file.sync()?;
        let mut batch = self.store.database.batch();
        while self.marks.end() > end
            && let Some(index) = self.marks.pop_last()
        {
            batch.remove(&self.store.log, index.to_be_bytes());
        }
        batch.durability(Some(PersistMode::SyncData)).commit().map_err(io::Error::other)?;
        self.shared.log_bytes.store(self.marks.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the next few entries of a purge.
    fn purge_some(&mut self) {
        let Some(upto) = self.purging else { return };
        if self.attempt(|writer| writer.purge(upto)).is_err() {
            self.purging = None;
        }
    }

    fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut batch = self.store.database.batch();
        let mut purged = upto;
        let mut removed = 0;
        while self.marks.first <= upto.index()
            && let Some(id) = self.marks.pop_first()
        {
            batch.remove(&self.store.log, id.index().to_be_bytes());
            removed += 1;
            purged = id;
            if removed == PURGE_ENTRIES_MAX {
                break;
            }
        }
        if purged.index() >= upto.index() || self.marks.marks.is_empty() {
            purged = upto;
            self.purging = None;
        }
        batch.insert(&self.store.log, PURGED_KEY, record::seal(&log_id_to_wire(&purged)));
        // Not synced: entries and record go together, and a purge that is forgotten is done again.
        batch.durability(Some(PersistMode::Buffer)).commit().map_err(io::Error::other)?;
        self.shared.log_bytes.store(self.marks.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Does it, unless something failed before; a failure is for good.
    fn attempt(&mut self, step: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if let Some(failure) = &self.failure {
            return Err(io::Error::other(failure.clone()));
        }
        let result = step(self);
        if let Err(failure) = &result {
            error!(error = %failure, "the log can't be written; this member stops");
            self.failure = Some(failure.to_string());
        }
        result
    }

    fn close(mut self) {
        while self.purging.is_some() {
            self.purge_some();
        }
        // Readers that are still about would keep the store open.
        self.shared.tail().stored = None;
        if let Err(failure) = self.mark_file.sync() {
            // Only a better lower bound is lost.
            error!(error = %failure, "the log's watermark can't be synced");
        }
    }
}

fn copy(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}
