//! What must survive the agent's own restart: who it is, and a row for each task.
//!
//! Every commit reaches the operating system before it returns, so it survives a SIGKILL of the agent;
//! it is not synced, because after a crash of the host no process is left that a row could be about.
//! Never decides what a row means: that is `supervisor`'s. Start at [`Checkpoint::open`].
//! On a full disk it gives up its [`Reserve`] and goes on, so that tasks can still be ended.

mod lock;
mod reserve;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use model::{AgentId, ClusterId, TaskId};
use prost::Message as _;
use proto::checkpoint::v1 as stored;
use supervisor::Row;

use crate::convert;

pub use lock::{Lock, LockError};
pub use reserve::{DISK_SHORT_BYTES, Reserve};

/// Why the checkpoint can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("can't make the data directory {}", path.display())]
    MakeDirectory { path: PathBuf, source: io::Error },
    #[error("can't read or write {}, which says how the checkpoint is written", path.display())]
    Format { path: PathBuf, source: io::Error },
    #[error("the checkpoint in {} has format {found:?}, and this release knows up to {FORMAT}", path.display())]
    TooNew { path: PathBuf, found: String },
    #[error("can't open the checkpoint in {}", path.display())]
    Open { path: PathBuf, source: fjall::Error },
    #[error("can't read the checkpoint")]
    Read { source: fjall::Error },
    #[error("can't write the checkpoint")]
    Write { source: fjall::Error },
    #[error("the checkpoint could not be opened again after a failed write")]
    Closed,
    #[error("the agent's identity in {} can't be read", path.display())]
    Identity { path: PathBuf, source: IdentityError },
}

/// Why a stored identity isn't one.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("its bytes are damaged")]
    Bytes(#[source] prost::DecodeError),
    #[error("its ids are damaged")]
    Ids(#[source] model::IdError),
}

/// Why a stored row isn't one.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("its bytes are damaged")]
    Bytes(#[source] prost::DecodeError),
    #[error("its content is damaged")]
    Content(#[source] codec::Invalid),
    #[error("it is about the task {found}")]
    Mismatch { found: TaskId },
    #[error("its key is no task id")]
    Key(#[source] model::IdError),
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub agent_id: AgentId,
    /// Absent until the first Welcome.
    pub cluster_id: Option<ClusterId>,
    /// Of the latest start.
    pub boot_id: String,
}

/// All rows, and what could not be read.
#[derive(Debug, Default)]
pub struct Loaded {
    pub rows: Vec<Row>,
    /// Tasks whose row is damaged.
    pub damaged: BTreeSet<TaskId>,
    /// What is wrong with each, for the log.
    pub errors: Vec<(String, RowError)>,
}

/// A change of the rows.
#[derive(Debug)]
pub enum Change<'a> {
    Write(&'a Row),
    Forget(&'a TaskId),
}

/// The store. Calls take tens of microseconds, and may wait for the disk when it is far behind.
pub struct Checkpoint {
    /// Absent only when it could not be opened again.
    store: RwLock<Option<Store>>,
    path: PathBuf,
    reserve: Reserve,
}

struct Store {
    database: Database,
    identity: Keyspace,
    tasks: Keyspace,
}

/// Raised by a change that an older release would misunderstand; such a release then refuses to start. A field
/// that may be missed in silence needs no new number.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format";

const IDENTITY: &str = "identity";
const TASKS: &str = "tasks";

/// Rows are read once, at the start: a cache would only cost memory.
const CACHE_BYTES: u64 = 1 << 20;

impl Checkpoint {
    /// Whether [`Checkpoint::open`] would understand what is there; changes nothing.
    pub fn check(data_dir: &Path) -> Result<(), CheckpointError> {
        check_format(&data_dir.join("checkpoint")).map(drop)
    }

    /// Opens the checkpoint below the data directory, or makes an empty one. The caller holds the [`Lock`].
    pub fn open(data_dir: &Path) -> Result<Self, CheckpointError> {
        let path = data_dir.join("checkpoint");
        // Before anything is made or opened: what isn't understood isn't touched.
        let is_told = check_format(&path)?;
        make_private(&path)?;
        let reserve = Reserve::new(data_dir);
        let open = || {
            if !is_told {
                let file = path.join(FORMAT_FILE);
                fs::write(&file, format!("{FORMAT}\n"))
                    .map_err(|source| CheckpointError::Format { path: file, source })?;
            }
            open_store(&path)
        };
        let store = match open() {
            // Whatever it is, more room can't hurt.
            Err(_) if reserve.give_up() => open()?,
            opened => opened?,
        };
        Ok(Self { store: RwLock::new(Some(store)), path, reserve })
    }

    /// The space that is kept for records.
    pub fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// Who the agent is; `None` before its first start.
    pub fn identity(&self) -> Result<Option<Identity>, CheckpointError> {
        let bytes = self
            .with(|store| store.identity.get(IDENTITY).map_err(|source| CheckpointError::Read { source }))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let identity = identity_from_bytes(&bytes);
        identity.map(Some).map_err(|source| CheckpointError::Identity { path: self.path.clone(), source })
    }

    /// Stores who the agent is, on the disk itself: without it, an agent is another agent.
    pub fn write_identity(&self, identity: &Identity) -> Result<(), CheckpointError> {
        let Identity { agent_id, cluster_id, boot_id } = identity;
        let message = stored::Identity {
            agent_id: agent_id.as_str().to_owned(),
            cluster_id: cluster_id.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
            boot_id: boot_id.clone(),
        };
        self.write(|store| {
            let mut batch = store.database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(&store.identity, IDENTITY, message.encode_to_vec());
            batch.commit()
        })
    }

    /// Reads all rows at once.
    pub fn load(&self) -> Result<Loaded, CheckpointError> {
        self.with(|store| {
            let mut loaded = Loaded::default();
            for guard in store.tasks.iter() {
                let (key, value) = guard.into_inner().map_err(|source| CheckpointError::Read { source })?;
                let shown = String::from_utf8_lossy(&key).escape_debug().to_string();
                let task_id = match TaskId::new(&String::from_utf8_lossy(&key)) {
                    Ok(task_id) => task_id,
                    Err(error) => {
                        loaded.errors.push((shown, RowError::Key(error)));
                        // Nobody can ask for it by that name.
                        store.tasks.remove(key).map_err(|source| CheckpointError::Write { source })?;
                        continue;
                    }
                };
                match row_from_bytes(&task_id, &value) {
                    Ok(row) => loaded.rows.push(row),
                    Err(error) => {
                        loaded.errors.push((shown, error));
                        loaded.damaged.insert(task_id);
                    }
                }
            }
            Ok(loaded)
        })
    }

    /// Makes all changes or none; they are with the operating system when this returns.
    pub fn commit<'a>(&self, changes: impl IntoIterator<Item = Change<'a>>) -> Result<(), CheckpointError> {
        let changes: Vec<_> = changes
            .into_iter()
            .map(|change| match change {
                Change::Write(row) => (row.task_id.as_str(), Some(convert::to_row(row).encode_to_vec())),
                Change::Forget(task_id) => (task_id.as_str(), None),
            })
            .collect();
        self.write(|store| {
            let mut batch = store.database.batch().durability(Some(PersistMode::Buffer));
            for (key, value) in &changes {
                match value {
                    Some(value) => batch.insert(&store.tasks, *key, value.as_slice()),
                    None => batch.remove(&store.tasks, *key),
                }
            }
            batch.commit()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&Store) -> Result<T, CheckpointError>) -> Result<T, CheckpointError> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        act(store.as_ref().ok_or(CheckpointError::Closed)?)
    }

    /// Writes; when that fails and there is a reserve, once more with the space of it.
    fn write(&self, act: impl Fn(&Store) -> fjall::Result<()>) -> Result<(), CheckpointError> {
        let failed = |source| CheckpointError::Write { source };
        let first = self.with(|store| act(store).map_err(failed));
        if first.is_ok() || !self.reserve.give_up() {
            return first;
        }
        tracing::warn!(path = %self.path.display(), "the disk took no record; gave up the space kept for them");
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        // After a failed write the store takes no other until it is opened again.
        drop(store.take());
        let opened = store.insert(open_store(&self.path)?);
        act(opened).map_err(failed)
    }
}

fn open_store(path: &Path) -> Result<Store, CheckpointError> {
    let failed = |source| CheckpointError::Open { path: path.to_owned(), source };
    let database = Database::builder(path)
        .cache_size(CACHE_BYTES)
        .worker_threads(1)
        .manual_journal_persist(true)
        .open()
        .map_err(failed)?;
    let identity = database.keyspace(IDENTITY, KeyspaceCreateOptions::default).map_err(failed)?;
    let tasks = database.keyspace(TASKS, KeyspaceCreateOptions::default).map_err(failed)?;
    Ok(Store { database, identity, tasks })
}

/// Whether the checkpoint says how it is written. One that doesn't is new, or older than the file, and then as
/// format 1 has it.
fn check_format(path: &Path) -> Result<bool, CheckpointError> {
    let file = path.join(FORMAT_FILE);
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        text => text.map_err(|source| CheckpointError::Format { path: file, source })?,
    };
    match text.trim().parse::<u32>() {
        Ok(found) if found <= FORMAT => Ok(true),
        // A crash between making and writing it leaves it empty.
        Err(_) if text.trim().is_empty() => Ok(false),
        Ok(_) | Err(_) => {
            Err(CheckpointError::TooNew { path: path.to_owned(), found: text.trim().to_owned() })
        }
    }
}

/// Makes the data directory. Tasks pass through it to their sandbox, and can't list it.
pub fn ensure_data_dir(path: &Path) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::MakeDirectory { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o711)).map_err(failed)
}

/// For the owner alone: rows hold the environment of tasks.
fn make_private(path: &Path) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::MakeDirectory { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
}

pub(crate) fn identity_from_bytes(bytes: &[u8]) -> Result<Identity, IdentityError> {
    let stored::Identity { agent_id, cluster_id, boot_id } =
        stored::Identity::decode(bytes).map_err(IdentityError::Bytes)?;
    let cluster_id = match cluster_id.as_str() {
        "" => None,
        text => Some(ClusterId::new(text).map_err(IdentityError::Ids)?),
    };
    Ok(Identity { agent_id: AgentId::new(&agent_id).map_err(IdentityError::Ids)?, cluster_id, boot_id })
}

pub(crate) fn row_from_bytes(task_id: &TaskId, bytes: &[u8]) -> Result<Row, RowError> {
    let message = stored::Row::decode(bytes).map_err(RowError::Bytes)?;
    let row = convert::row(message).map_err(RowError::Content)?;
    if row.task_id != *task_id {
        return Err(RowError::Mismatch { found: row.task_id });
    }
    Ok(row)
}

#[cfg(test)]
mod tests;
