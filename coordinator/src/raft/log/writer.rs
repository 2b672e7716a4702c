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
    time::Instant,
};

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
    Shared,
    disk::{Change, Durability, Store, entry_key},
    next,
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
    /// Entries by index, and the records of `recover.rs`.
    pub(super) store: Arc<dyn Store>,
    pub(super) shared: Arc<Shared>,
    pub(in super::super) operations: mpsc::Receiver<Op>,
    pub(super) marks: Marks,
    pub(super) mark: Watermark,
    pub(super) mark_file: WatermarkFile,
    pub(super) instruments: Instruments,
    /// A purge that is done bit by bit, between groups.
    pub(in super::super) purging: Option<LogId>,
    pub(super) failure: Option<String>,
}

/// What one fdatasync will carry.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    bytes: usize,
    entries: u64,
    appended: Vec<IOFlushed<Types>>,
    vote: Option<Vote>,
    voted: Vec<oneshot::Sender<io::Result<()>>>,
    committed: Option<LogId>,
}

impl Writer {
    /// Writes until the last [`super::LogStore`] is gone. Blocks.
    pub fn run(mut self) {
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
            self.round(first);
        }
        self.close();
    }

    /// Writes the first operation and all that queued up behind it, and a bit of what is to be purged.
    pub(in super::super) fn round(&mut self, first: Option<Op>) {
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

    fn take(&mut self, group: &mut Group, operation: Op) {
        match operation {
            Op::Append { entries, done } => {
                for entry in &entries {
                    let (frame, crc) = record::encode_frame(entry, self.marks.crc());
                    let id = entry.log_id;
                    // A frame is a command and some bytes, and a command is bounded far below 4 GiB.
                    let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
                    self.marks.push(id.index(), Mark { term: term_of(&id), crc, bytes });
                    group.bytes += frame.len();
                    group.entries += 1;
                    let key = entry_key(id.index()).to_vec();
                    group.changes.push(Change::Put { key, value: frame });
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
        let Group { changes, bytes: _, entries, appended, vote, voted, committed } = group;
        let result = self.attempt(|writer| writer.write(changes, entries, vote, committed));
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
        mut changes: Vec<Change>,
        entries: u64,
        vote: Option<Vote>,
        committed: Option<LogId>,
    ) -> io::Result<()> {
        let is_committed_new = committed.is_some() && committed != self.mark.committed;
        self.mark.committed = committed.or(self.mark.committed);
        if changes.is_empty() && vote.is_none() {
            return if is_committed_new { self.mark_file.write(&self.mark) } else { Ok(()) };
        }
        if let Some(vote) = vote {
            changes.push(Change::Put { key: VOTE_KEY.into(), value: record::seal(&vote_to_wire(&vote)) });
        }
        let started = Instant::now();
        self.store.commit(changes, Durability::Synced)?;
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
        let mut changes = Vec::new();
        while self.marks.end() > end
            && let Some(index) = self.marks.pop_last()
        {
            changes.push(Change::Remove { key: entry_key(index).to_vec() });
        }
        self.store.commit(changes, Durability::Synced)?;
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
        let mut changes = Vec::new();
        let mut purged = upto;
        let mut removed = 0;
        while self.marks.first <= upto.index()
            && let Some(id) = self.marks.pop_first()
        {
            changes.push(Change::Remove { key: entry_key(id.index()).to_vec() });
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
        let record = record::seal(&log_id_to_wire(&purged));
        changes.push(Change::Put { key: PURGED_KEY.into(), value: record });
        // Not synced: entries and record go together, and a purge that is forgotten is done again.
        self.store.commit(changes, Durability::Buffered)?;
        self.shared.log_bytes.store(self.marks.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Does it, unless something failed before; a failure is for good.
    fn attempt(&mut self, step: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if let Some(failure) = &self.failure {
            return Err(io::Error::other(failure.clone()));
        }
        *self.shared.writing() = Some(Instant::now());
        let result = step(self);
        *self.shared.writing() = None;
        if let Err(failure) = &result {
            error!(error = %failure, "the log can't be written; this member stops");
            self.failure = Some(failure.to_string());
        }
        result
    }

    pub(in super::super) fn close(mut self) {
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
