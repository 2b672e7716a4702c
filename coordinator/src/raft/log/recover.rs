//! What is on disk at a start, and whether it is all that should be there.
//!
//! Every entry is read and checked. The one thing that is mended is a last entry that is torn and
//! lies beyond the watermark: nobody was told that it is safe. Anything else is refused, because a
//! member that forgets what it acknowledged can make the cluster forget it.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use proto::raft::v1 as wire;
use tokio::sync::mpsc;
use tracing::warn;

use super::{
    super::{
        directory::{Directory, sync_directory},
        error::OpenError,
        limits::WRITER_QUEUE_MAX,
        observe::Instruments,
        record::{self, RecordError, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire},
        types::{LogId, MemberId, Vote, term_of},
    },
    LogStore, Shared, Tail,
    disk::{Change, Disk, Durability, FileDisk, Store, entry_key},
    next,
    watermark::{Watermark, WatermarkFile},
    writer::{Mark, Marks, Writer},
};

/// Beside the entries, in the same keyspace: fjall keeps a full journal (64 MiB) until every keyspace
/// in it is flushed, and one that is hardly written would keep it for long. A start reads the journal
/// that isn't full yet in any case.
pub const VOTE_KEY: &str = "meta/vote";
pub const PURGED_KEY: &str = "meta/purged";
const IDENTITY_KEY: &str = "meta/identity";
/// No index comes near; as keys, all indices sort before the records above.
pub const INDEX_END: u64 = 1 << 62;

/// A log that was found to be sound.
pub struct Opened {
    pub cluster_id: String,
    pub store: LogStore,
    pub writer: Writer,
    /// The last entry that a snapshot has to cover.
    pub purged: Option<LogId>,
}

/// Opens the log of a member, or begins one in a pristine directory.
pub fn open(
    directory: &Directory,
    disk: &dyn Disk,
    cluster_id: Option<&str>,
    member_id: MemberId,
    instruments: Instruments,
) -> Result<Opened, OpenError> {
    let open = Open { directory, disk };
    let (mut mark_file, mark) = open.watermark()?;
    let store = open.store()?;
    let cluster_id = open.identity(&*store, &mut mark_file, mark, cluster_id, member_id)?;
    let mark = mark.unwrap_or_default();
    let purged = open
        .record::<wire::LogId>(&*store, PURGED_KEY, "the record of what was purged")?
        .map(log_id_from_wire);
    let vote = open.vote(&*store, &mark)?;
    let marks = open.scan(&*store, purged, &mark)?;

    let last = marks.last().or(purged);
    let committed = mark.committed.min(last);
    let mark = Watermark { durable: last, committed, vote };
    mark_file.write(&mark).and_then(|()| mark_file.sync()).map_err(|source| open.failed(source))?;

    let shared = Arc::new(Shared {
        log_bytes: AtomicU64::new(marks.bytes),
        writing: Mutex::new(None),
        tail: Mutex::new(Tail {
            purged,
            last,
            first: marks.first,
            cached: VecDeque::new(),
            cached_bytes: 0,
            flushed_end: next(last),
            vote,
            committed,
            stored: Some(store.clone()),
        }),
    });
    let (sender, operations) = mpsc::channel(WRITER_QUEUE_MAX);
    let writer = Writer {
        store,
        shared: shared.clone(),
        operations,
        marks,
        mark,
        mark_file,
        instruments,
        purging: None,
        failure: None,
    };
    Ok(Opened { cluster_id, store: LogStore { shared, operations: sender }, writer, purged })
}

/// Begins the log of a member whose state came as a snapshot: nothing is in it, and all up to `purged` is in there.
pub fn begin_after(
    directory: &Directory,
    cluster_id: &str,
    member_id: MemberId,
    purged: LogId,
    vote: Vote,
) -> Result<(), OpenError> {
    let open = Open { directory, disk: &FileDisk };
    let (mut mark_file, mark) = open.watermark()?;
    let store = open.store()?;
    open.identity(&*store, &mut mark_file, mark, Some(cluster_id), member_id)?;
    let changes = vec![
        Change::Put { key: PURGED_KEY.into(), value: record::seal(&log_id_to_wire(&purged)) },
        Change::Put { key: VOTE_KEY.into(), value: record::seal(&vote_to_wire(&vote)) },
    ];
    store.commit(changes, Durability::Synced).map_err(|source| open.broken(source))?;
    let mark = Watermark { durable: Some(purged), committed: Some(purged), vote: Some(vote) };
    mark_file.write(&mark).and_then(|()| mark_file.sync()).map_err(|source| open.failed(source))
}

/// Whose directory this is. Absent: no member has ever begun here.
pub fn identity(directory: &Directory) -> Result<Option<(String, MemberId)>, OpenError> {
    let open = Open { directory, disk: &FileDisk };
    if !directory.store().exists() {
        return Ok(None);
    }
    let store = open.store()?;
    let found = open.record::<wire::Identity>(&*store, IDENTITY_KEY, "the identity")?;
    Ok(found.map(|found| (found.cluster_id, found.member_id)))
}

struct Open<'a> {
    directory: &'a Directory,
    disk: &'a dyn Disk,
}

impl Open<'_> {
    fn watermark(&self) -> Result<(WatermarkFile, Option<Watermark>), OpenError> {
        let file = self.disk.file(&self.directory.watermark());
        file.and_then(WatermarkFile::read).map_err(|source| self.failed(source))
    }

    fn store(&self) -> Result<Arc<dyn Store>, OpenError> {
        self.disk.store(&self.directory.store()).map_err(|source| self.broken(source))
    }

    /// Whose directory this is; written at the first start.
    fn identity(
        &self,
        store: &dyn Store,
        mark_file: &mut WatermarkFile,
        mark: Option<Watermark>,
        cluster_id: Option<&str>,
        member_id: MemberId,
    ) -> Result<String, OpenError> {
        let path = self.directory.path().to_owned();
        let found = self.record::<wire::Identity>(store, IDENTITY_KEY, "the identity")?;
        if let Some(found) = found {
            if let Some(wanted) = cluster_id
                && wanted != found.cluster_id
            {
                return Err(OpenError::OtherCluster {
                    path,
                    found: found.cluster_id,
                    wanted: wanted.to_owned(),
                });
            }
            if member_id != found.member_id {
                return Err(OpenError::OtherMember { path, found: found.member_id, wanted: member_id });
            }
            if mark.is_none() {
                return Err(OpenError::Record { path, what: "the watermark" });
            }
            return Ok(found.cluster_id);
        }
        let is_pristine = mark.unwrap_or_default() == Watermark::default() && store.is_empty();
        if !is_pristine {
            return Err(OpenError::Record { path, what: "the identity" });
        }
        // The watermark first: from the identity on, its absence is a loss.
        mark_file
            .write(&Watermark::default())
            .and_then(|()| mark_file.sync())
            .and_then(|()| sync_directory(&path))
            .map_err(|source| self.failed(source))?;
        let cluster_id = match cluster_id {
            Some(wanted) => wanted.to_owned(),
            None => uuid::Uuid::new_v4().to_string(),
        };
        let identity = wire::Identity { cluster_id: cluster_id.clone(), member_id };
        let identity = Change::Put { key: IDENTITY_KEY.into(), value: record::seal(&identity) };
        store.commit(vec![identity], Durability::Synced).map_err(|source| self.broken(source))?;
        Ok(cluster_id)
    }

    fn vote(&self, store: &dyn Store, mark: &Watermark) -> Result<Option<Vote>, OpenError> {
        let vote = self.record::<wire::Vote>(store, VOTE_KEY, "the last vote")?.map(vote_from_wire);
        let rank = |vote: Option<Vote>| vote.map(|vote| (vote.leader_id.term, vote.committed));
        if rank(vote) < rank(mark.vote) {
            // A member that forgot its vote could vote twice in one term.
            let path = self.directory.path().to_owned();
            return Err(OpenError::Record { path, what: "the last vote" });
        }
        Ok(vote)
    }

    fn scan(&self, store: &dyn Store, purged: Option<LogId>, mark: &Watermark) -> Result<Marks, OpenError> {
        let mut marks = Marks { first: next(purged), ..Marks::default() };
        let mut found = store.entries(0..INDEX_END).peekable();
        while let Some(record) = found.next() {
            let (key, value) = record.map_err(|source| self.broken(source))?;
            let expected = marks.end();
            let index = <[u8; 8]>::try_from(key).map(u64::from_be_bytes).ok();
            let Some(index) = index else { return Err(self.damaged(expected, "its key makes no sense")) };
            if index != expected {
                return Err(self.damaged(expected, "it is missing"));
            }
            let frame = match record::decode_frame(&value) {
                Ok(frame) => frame,
                Err(RecordError::Newer(format)) => {
                    let path = self.directory.path().to_owned();
                    return Err(OpenError::Newer { path, what: format!("entry {index} of the log"), format });
                }
                Err(torn) if found.peek().is_none() && index >= next(mark.durable) => {
                    warn!(log_index = index, error = %torn, "removed a torn entry from the end of the log");
                    let removal = Change::Remove { key: entry_key(index).to_vec() };
                    store.commit(vec![removal], Durability::Synced).map_err(|source| self.broken(source))?;
                    break;
                }
                Err(damage) => return Err(self.damaged(index, &damage.to_string())),
            };
            let id = frame.entry.log_id;
            if id.index() != index {
                return Err(self.damaged(index, "it is another entry"));
            }
            if marks.last().is_some_and(|last| term_of(&last) > term_of(&id)) {
                return Err(self.damaged(index, "its term is older than that of the entry before"));
            }
            if !marks.marks.is_empty() && frame.previous_crc != marks.crc() {
                return Err(self.damaged(index, "it doesn't follow the entry before"));
            }
            let bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
            marks.push(index, Mark { term: term_of(&id), crc: frame.crc, bytes });
        }
        self.check_end(&marks, purged, mark)?;
        Ok(marks)
    }

    /// Whether the log still has all that was on disk once.
    fn check_end(&self, marks: &Marks, purged: Option<LogId>, mark: &Watermark) -> Result<(), OpenError> {
        let Some(durable) = mark.durable else { return Ok(()) };
        if durable.index() < marks.first {
            return Ok(());
        }
        let path = self.directory.path().to_owned();
        if durable.index() >= marks.end() {
            let last = marks.last().or(purged).map(|last| last.index());
            return Err(OpenError::Shortened { path, last, durable: durable.index() });
        }
        let offset = usize::try_from(durable.index() - marks.first).unwrap_or(usize::MAX);
        match marks.marks.get(offset) {
            Some(found) if found.term == term_of(&durable) => Ok(()),
            Some(_) | None => Err(self.damaged(durable.index(), "its term isn't the one that was on disk")),
        }
    }

    fn record<M: prost::Message + Default>(
        &self,
        store: &dyn Store,
        key: &str,
        what: &'static str,
    ) -> Result<Option<M>, OpenError> {
        let Some(bytes) = store.get(key.as_bytes()).map_err(|source| self.broken(source))? else {
            return Ok(None);
        };
        let path = self.directory.path().to_owned();
        match record::unseal(&bytes) {
            Ok(found) => Ok(Some(found)),
            Err(RecordError::Newer(format)) => Err(OpenError::Newer { path, what: what.to_owned(), format }),
            Err(RecordError::Short | RecordError::Checksum | RecordError::Content) => {
                Err(OpenError::Record { path, what })
            }
        }
    }

    fn failed(&self, source: io::Error) -> OpenError {
        OpenError::Directory { path: self.directory.path().to_owned(), source }
    }

    fn broken(&self, source: io::Error) -> OpenError {
        OpenError::Store { path: self.directory.store(), source: source.into() }
    }

    fn damaged(&self, index: u64, what: &str) -> OpenError {
        OpenError::Damaged { path: self.directory.path().to_owned(), index, what: what.to_owned() }
    }
}
