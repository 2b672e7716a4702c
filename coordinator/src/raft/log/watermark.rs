//! How far the log got, kept beside the log.
//!
//! Two slots, written in turn, each with a sequence number and a checksum: a torn write leaves the
//! other slot. A mark is written after the fsync that it reports and isn't synced itself, so it may
//! lag behind the log, but never leads it. The exception is a truncation, which lowers the mark, and
//! syncs it, before it removes entries.

use std::io;

use proto::raft::v1 as wire;

use super::{
    super::{
        record::{self, RecordError, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire},
        types::{LogId, Vote},
    },
    disk::MarkFile,
};

/// What is known to be on disk, or agreed on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Watermark {
    pub durable: Option<LogId>,
    pub committed: Option<LogId>,
    pub vote: Option<Vote>,
}

/// The file that holds the [`Watermark`].
pub struct WatermarkFile {
    file: Box<dyn MarkFile>,
    sequence: u64,
}

/// Slots lie in different pages, so that no single torn page hits both.
const SLOT_BYTES: u64 = 4096;

impl WatermarkFile {
    /// Reads the newest mark of an opened file.
    pub fn read(file: Box<dyn MarkFile>) -> io::Result<(Self, Option<Watermark>)> {
        let first = read_slot(&*file, 0)?;
        let second = read_slot(&*file, SLOT_BYTES)?;
        let newest = [first, second].into_iter().flatten().max_by_key(|mark| mark.sequence);
        let sequence = newest.as_ref().map_or(0, |mark| mark.sequence);
        Ok((Self { file, sequence }, newest.map(from_wire)))
    }

    /// Writes a mark; a crash of the process doesn't lose it, one of the machine may.
    pub fn write(&mut self, mark: &Watermark) -> io::Result<()> {
        self.sequence += 1;
        let mark = record::seal(&to_wire(mark, self.sequence));
        let mut slot = Vec::with_capacity(2 + mark.len());
        slot.extend_from_slice(&u16::try_from(mark.len()).map_err(io::Error::other)?.to_le_bytes());
        slot.extend_from_slice(&mark);
        self.file.write(self.sequence % 2 * SLOT_BYTES, &slot)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

fn read_slot(file: &dyn MarkFile, offset: u64) -> io::Result<Option<wire::Watermark>> {
    let Ok(length) = <[u8; 2]>::try_from(file.read(offset, 2)?) else { return Ok(None) };
    let length = usize::from(u16::from_le_bytes(length));
    let mark = file.read(offset + 2, length)?;
    if mark.len() < length {
        return Ok(None);
    }
    match record::unseal(&mark) {
        Ok(mark) => Ok(Some(mark)),
        Err(RecordError::Newer(format)) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("its format is {format}")))
        }
        Err(RecordError::Short | RecordError::Checksum | RecordError::Content) => Ok(None),
    }
}

fn to_wire(mark: &Watermark, sequence: u64) -> wire::Watermark {
    wire::Watermark {
        sequence,
        durable: mark.durable.as_ref().map(log_id_to_wire),
        committed: mark.committed.as_ref().map(log_id_to_wire),
        vote: mark.vote.as_ref().map(vote_to_wire),
    }
}

fn from_wire(mark: wire::Watermark) -> Watermark {
    Watermark {
        durable: mark.durable.map(log_id_from_wire),
        committed: mark.committed.map(log_id_from_wire),
        vote: mark.vote.map(vote_from_wire),
    }
}
