//! Agreed entries into the machine, and the machine into snapshots.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
    type_config::alias,
};
use tokio::sync::watch;

use super::{
    aside::aside,
    limits::APPLY_ENTRIES_MAX,
    machine::{Machine, MachineError},
    observe::Instruments,
    snapshot::{SnapshotFile, Snapshots},
    types::{LogId, SnapshotMeta, StoredMembership, Types, term_of},
};

type Snapshot = alias::SnapshotOf<Types, SnapshotFile>;

/// The machine and how far it got.
pub struct Applier {
    /// Never contended: openraft asks that it can be shared, and uses it from one task.
    machine: Mutex<Box<dyn Machine>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    term: watch::Sender<u64>,
    instruments: Instruments,
}

/// Why the newest snapshot can't be the state.
pub enum RestoreError {
    Read(io::Error),
    Machine(MachineError),
}

impl Applier {
    /// The machine, restored from the newest snapshot. `term` follows the last applied entry.
    /// Blocks.
    pub fn restore(
        mut machine: Box<dyn Machine>,
        snapshots: Arc<Snapshots>,
        term: watch::Sender<u64>,
        instruments: Instruments,
    ) -> Result<Self, RestoreError> {
        let mut meta = SnapshotMeta::default();
        if let Some(current) = snapshots.current() {
            let state = current.file.read().map_err(RestoreError::Read)?;
            machine.restore(&state).map_err(RestoreError::Machine)?;
            meta = current.meta;
        }
        if let Some(last) = meta.last_log_id {
            machine.published(last.index());
            term.send_replace(term_of(&last));
        }
        Ok(Self {
            machine: Mutex::new(machine),
            applied: meta.last_log_id,
            membership: meta.last_membership,
            snapshots,
            term,
            instruments,
        })
    }

    /// What is applied, and the state that this made. Blocks.
    pub fn export(&mut self) -> (SnapshotMeta, Vec<u8>) {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        (meta, self.machine().snapshot()())
    }

    fn machine(&mut self) -> &mut dyn Machine {
        &mut **self.machine.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the state, then sends the answers that it stands behind.
    fn publish(&mut self, answers: &mut Vec<Answer>, entries: usize) {
        let Some(applied) = self.applied else { return };
        self.machine().published(applied.index());
        #[expect(clippy::cast_precision_loss, reason = "at most APPLY_ENTRIES_MAX")]
        self.instruments.apply_entries.observe(entries as f64);
        self.term.send_if_modified(|term| {
            let is_new = *term != term_of(&applied);
            *term = term_of(&applied);
            is_new
        });
        for (responder, answer) in answers.drain(..) {
            responder.send(answer);
        }
    }
}

type Answer = (ApplyResponder<Types>, Vec<u8>);

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut unpublished = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = entry.log_id;
            let answer = match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(proposal) => {
                    let answer = self.machine().apply(id.index(), term_of(&id), &proposal.bytes);
                    answer.map_err(io::Error::other)?
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(id), membership);
                    Vec::new()
                }
            };
            self.applied = Some(id);
            answers.extend(responder.map(|responder| (responder, answer)));
            unpublished += 1;
            if unpublished == APPLY_ENTRIES_MAX {
                self.publish(&mut answers, unpublished);
                unpublished = 0;
                // The whole log may come at once after a restart.
                tokio::task::yield_now().await;
            }
        }
        if unpublished > 0 {
            self.publish(&mut answers, unpublished);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            encode: Mutex::new(Some(self.machine().snapshot())),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            snapshots: self.snapshots.clone(),
            instruments: self.instruments.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let snapshots = self.snapshots.clone();
        let wanted = meta.clone();
        let state = aside(move || {
            let state = snapshot.read()?;
            snapshots.save(wanted, &state)?;
            Ok(state)
        })
        .await?;
        self.machine().restore(&state).map_err(io::Error::other)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish(&mut Vec::new(), 0);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current().map(|current| Snapshot { meta: current.meta, snapshot: current.file }))
    }
}

type Encode = Box<dyn FnOnce() -> Vec<u8> + Send>;

/// A state that waits to be encoded.
pub struct Builder {
    encode: Mutex<Option<Encode>>,
    meta: SnapshotMeta,
    snapshots: Arc<Snapshots>,
    instruments: Instruments,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let encode = self.encode.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let encode = encode.ok_or_else(|| io::Error::other("this snapshot was built already"))?;
        let snapshots = self.snapshots.clone();
        let meta = self.meta.clone();
        let started = Instant::now();
        let saved = aside(move || snapshots.save(meta, &encode())).await?;
        self.instruments.snapshot_seconds.observe(started.elapsed().as_secs_f64());
        Ok(Snapshot { meta: saved.meta, snapshot: saved.file })
    }
}
