//! The newest snapshot as one file: written aside, fsynced, renamed into place.
//!
//! The file is a head (magic, format, a checksummed [`wire::SnapshotHeader`]) and the encoded state.
//! A crash at any point leaves the old snapshot or the new one, and at most a file `snapshot.new`
//! that the next start removes.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use proto::raft::v1 as wire;

use super::{
    directory::sync_directory,
    error::OpenError,
    record::{
        self, RecordError, log_id_from_wire, log_id_to_wire, stored_membership_from_wire,
        stored_membership_to_wire,
    },
    types::SnapshotMeta,
};

/// An open snapshot: it stays readable when a newer one takes its name.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    file: Arc<File>,
    offset: u64,
    bytes: u64,
    crc: u32,
}

impl SnapshotFile {
    /// A file that holds the state and nothing else.
    pub fn new(file: File, bytes: u64, crc: u32) -> Self {
        Self { file: Arc::new(file), offset: 0, bytes, crc }
    }

    /// Length of the state.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// CRC-32 (IEEE) of the state.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// What stands before the state in a backup of this cluster.
    pub fn head_of_backup(&self, meta: &SnapshotMeta, cluster_id: &str) -> io::Result<Vec<u8>> {
        encode_head(meta, self.bytes, self.crc, cluster_id)
    }

    /// At most `length` bytes of the state from `at` on; none behind its end. Blocks.
    pub fn piece(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let rest = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut piece = vec![0; length.min(rest)];
        self.file.read_exact_at(&mut piece, self.offset + at)?;
        Ok(piece)
    }

    /// The encoded state, checked. Blocks.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.bytes).map_err(|_| damaged("its length is absurd"))?;
        let mut state = vec![0; length];
        self.file.read_exact_at(&mut state, self.offset)?;
        if crc32fast::hash(&state) != self.crc {
            return Err(damaged("the checksum of its state is wrong"));
        }
        Ok(state)
    }
}

/// The place of the newest snapshot.
pub struct Snapshots {
    path: PathBuf,
    /// Held for moments: whoever applies asks for it.
    current: Mutex<Option<Snapshot>>,
    /// Held while a snapshot is written: two writers would share the name aside.
    writing: Mutex<()>,
}

/// A snapshot and what it covers.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub meta: SnapshotMeta,
    pub file: SnapshotFile,
}

impl Snapshots {
    /// Finds the newest snapshot, if there is one.
    pub fn open(path: PathBuf) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Snapshot { path: path.clone(), source };
        match fs::remove_file(aside(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let current = match File::open(&path) {
            Ok(file) => Some(read_head(file).map(|(snapshot, _)| snapshot).map_err(|error| match error {
                HeadError::Newer(format) => {
                    OpenError::Newer { path: path.clone(), what: "the snapshot".to_owned(), format }
                }
                HeadError::Read(source) => failed(source),
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path, current: Mutex::new(current), writing: Mutex::new(()) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn current(&self) -> Option<Snapshot> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes this state the newest snapshot, unless a newer one came in meanwhile. Blocks.
    pub fn save(&self, meta: SnapshotMeta, state: &[u8]) -> io::Result<Snapshot> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = self.current()
            && current.meta.last_log_id >= meta.last_log_id
        {
            return Ok(current);
        }
        let head = encode_head(&meta, state.len() as u64, crc32fast::hash(state), "")?;
        let path = aside(&self.path);
        let mut file = File::create(&path)?;
        file.write_all(&head)?;
        file.write_all(state)?;
        file.sync_all()?;
        fs::rename(&path, &self.path)?;
        if let Some(parent) = self.path.parent() {
            sync_directory(parent)?;
        }
        let snapshot = match read_head(File::open(&self.path)?) {
            Ok((snapshot, _)) => snapshot,
            Err(HeadError::Read(error)) => return Err(error),
            Err(HeadError::Newer(_)) => return Err(damaged("it isn't what was written")),
        };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot.clone());
        Ok(snapshot)
    }
}

const MAGIC: &[u8; 8] = b"MUSTERSN";
/// Magic, and the length of the sealed header.
const FIXED_BYTES: usize = MAGIC.len() + 4;
/// A header is some member addresses; more is damage, not a header.
const HEADER_BYTES_MAX: u32 = 1 << 20;

pub enum HeadError {
    Newer(u8),
    Read(io::Error),
}

fn encode_head(
    meta: &SnapshotMeta,
    state_bytes: u64,
    state_crc: u32,
    cluster_id: &str,
) -> io::Result<Vec<u8>> {
    let header = record::seal(&wire::SnapshotHeader {
        last: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership: Some(stored_membership_to_wire(&meta.last_membership)),
        state_bytes,
        state_crc,
        cluster_id: cluster_id.to_owned(),
    });
    let length = u32::try_from(header.len()).ok().filter(|length| *length <= HEADER_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("the membership is too large for a snapshot"))?;
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&header);
    Ok(head)
}

/// A snapshot, and whose it is where that stands in it: in a backup.
pub fn read_head(file: File) -> Result<(Snapshot, String), HeadError> {
    let read = |error| HeadError::Read(error);
    let mut fixed = [0; FIXED_BYTES];
    file.read_exact_at(&mut fixed, 0).map_err(read)?;
    let (magic, length) = fixed.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(HeadError::Read(damaged("it isn't a snapshot")));
    }
    let length = length.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX);
    if length > HEADER_BYTES_MAX {
        return Err(HeadError::Read(damaged("the length of its header is absurd")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, FIXED_BYTES as u64).map_err(read)?;
    let header: wire::SnapshotHeader = record::unseal(&header).map_err(|error| match error {
        RecordError::Newer(format) => HeadError::Newer(format),
        error => HeadError::Read(damaged(&format!("its header is damaged: {error}"))),
    })?;
    let content = |_| HeadError::Read(damaged("the membership in it makes no sense"));
    let membership = header.membership.unwrap_or_default();
    let meta = SnapshotMeta {
        last_log_id: header.last.map(log_id_from_wire),
        last_membership: stored_membership_from_wire(membership).map_err(content)?,
    };
    let offset = FIXED_BYTES as u64 + u64::from(length);
    let found = file.metadata().map_err(read)?.len();
    if found.checked_sub(offset) != Some(header.state_bytes) {
        return Err(HeadError::Read(damaged("its length is wrong")));
    }
    let file =
        SnapshotFile { file: Arc::new(file), offset, bytes: header.state_bytes, crc: header.state_crc };
    Ok((Snapshot { meta, file }, header.cluster_id))
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
