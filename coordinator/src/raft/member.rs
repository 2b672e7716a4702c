//! One member: opening it, running it, and the handle that the daemon proposes through.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures::TryStreamExt;
use openraft::{
    Instant, RaftMetrics, RaftNetworkFactory, ServerState,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError},
    impls::BasicNode,
    network::NetSnapshot,
    raft::ReadPolicy,
    type_config::alias::VoteOf,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    aside::aside,
    config::RaftConfig,
    directory::Directory,
    error::{InitializeError, OpenError, ProposeError, ReadError, StopError},
    limits::{
        COMMAND_BYTES_MAX, DISK_PATIENCE, PROPOSAL_BYTES_OVERHEAD, PROPOSALS_BYTES_MAX, STREAMS_BROKEN_MAX,
    },
    log::{self, Disk, DiskWatch, FileDisk, LogBytes},
    machine::Machine,
    network::{self, Network},
    observe::{Counter, Figures, Instruments, Role},
    snapshot::{SnapshotFile, Snapshots},
    state::{Applier, RestoreError},
    succession::{Knock, Succession, knock},
    types::{LogId, MemberId, Proposal, Types},
};

pub(super) type Openraft = openraft::Raft<Types, Applier>;

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<MemberId>,
    /// Whether this member leads and its state holds all that was acknowledged before.
    pub is_leader: bool,
}

/// How far a member's state is behind what is agreed on, as far as it can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The last entry in its state.
    pub applied: u64,
    /// The last entry that it knows to be agreed on; there may be later ones.
    pub committed: u64,
    /// Since the last word of the leader; for a leader, of a majority. A member that is alone needs none.
    pub heard: Option<Duration>,
}

/// An opened member, to be run by its owner.
pub struct Raft {
    raft: Openraft,
    member_id: MemberId,
    /// The term of the last applied entry.
    applied_term: watch::Receiver<u64>,
    leadership: watch::Sender<Leadership>,
    /// How long a leader leads on without hearing from a majority.
    quorum_patience: Duration,
    /// The term in which this member led, and lost the majority or its disk: it never leads in that again.
    given_up: Option<u64>,
    disk: DiskWatch,
    /// Whether the operator was told that the disk stands still.
    is_disk_stuck: bool,
    stop: CancellationToken,
    ended: watch::Sender<bool>,
    succession: Succession,
    /// Hears when the log's writer ended.
    writer: oneshot::Receiver<()>,
    // Last, so that the lock goes after all that it protects.
    directory: Directory,
}

/// The way to a member; cheap to clone.
#[derive(Clone)]
pub struct RaftHandle {
    pub(super) raft: Openraft,
    pub(super) cluster_id: Arc<str>,
    /// Where a snapshot of another member is gathered.
    incoming: Arc<Path>,
    member_id: MemberId,
    version_supported: u32,
    address: Arc<str>,
    leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
    /// Hears of members whose streams break off.
    broken: mpsc::Sender<MemberId>,
    waiting: Arc<Semaphore>,
    busy: Arc<Counter>,
    log_bytes: LogBytes,
    instruments: Instruments,
    quorum_patience: Duration,
}

impl Raft {
    /// Opens a data directory, restores the machine and starts Raft.
    ///
    /// A pristine directory waits for [`RaftHandle::initialize_single`]. A member that is the only
    /// voter leads within milliseconds, in a new term, once [`Raft::run`] is polled. Refuses what
    /// [`OpenError`] names.
    pub async fn open(config: RaftConfig, machine: impl Machine) -> Result<(RaftHandle, Self), OpenError> {
        let (member_id, credential) = (config.member_id, config.credential.clone());
        let dial = network::dial(config.tls.clone());
        let network =
            |cluster_id: &Arc<str>| Network { cluster_id: cluster_id.clone(), member_id, credential, dial };
        Self::open_on(config, machine, Arc::new(FileDisk), network, knock()).await
    }

    /// The same, with another disk and over another network.
    pub(super) async fn open_on<N>(
        config: RaftConfig,
        machine: impl Machine,
        disk: Arc<dyn Disk>,
        network: impl FnOnce(&Arc<str>) -> N,
        knock: Knock,
    ) -> Result<(RaftHandle, Self), OpenError>
    where
        N: RaftNetworkFactory<Types>,
        N::Network: NetSnapshot<Types, SnapshotData = SnapshotFile>,
    {
        let openraft_config = config.openraft()?;
        let instruments = Instruments::default();
        let (term, applied_term) = watch::channel(0);
        let machine = Box::new(machine);
        let opening = {
            let (config, disk, instruments) = (config.clone(), disk.clone(), instruments.clone());
            aside(move || Ok(open_files(&config, machine, &*disk, term, instruments))).await
        };
        let failed = |source| OpenError::Start { path: config.data_dir.clone(), source };
        // fjall panics on some kinds of damage.
        let (directory, opened, applier) = opening
            .map_err(|source| OpenError::Store { path: config.data_dir.clone(), source: source.into() })??;
        let log::Opened { cluster_id, store, writer, purged: _ } = opened;
        let cluster_id: Arc<str> = cluster_id.into();
        let incoming = directory.incoming().into();
        let (log_bytes, disk_watch) = (store.bytes(), store.disk_watch());
        let writer = disk.run(writer).map_err(|source| OpenError::Thread { source })?;

        let raft = Openraft::new(config.member_id, openraft_config, network(&cluster_id), store, applier)
            .await
            .map_err(|source| failed(source.into()))?;
        stand_if_alone(&raft, config.member_id).await.map_err(|source| failed(source.into()))?;
        info!(member = config.member_id, %cluster_id, "opened the raft log");

        let stop = CancellationToken::new();
        let (leadership, leadership_seen) = watch::channel(Leadership::default());
        let (ended, ended_seen) = watch::channel(false);
        let (broken, broken_seen) = mpsc::channel(STREAMS_BROKEN_MAX);
        // By then the others may have another leader: the lease, and an election.
        let quorum_patience = config.timing.election_max * 2;
        let handle = RaftHandle {
            raft: raft.clone(),
            cluster_id,
            incoming,
            member_id: config.member_id,
            version_supported: config.version_supported,
            address: config.address.into(),
            leadership: leadership_seen,
            stop: stop.clone(),
            ended: ended_seen,
            broken,
            waiting: Arc::new(Semaphore::new(PROPOSALS_BYTES_MAX)),
            busy: Arc::new(Counter::default()),
            log_bytes,
            instruments,
            quorum_patience,
        };
        let member_id = config.member_id;
        let succession = Succession::new(raft.clone(), member_id, knock, broken_seen);
        let actor = Self {
            raft,
            member_id,
            applied_term,
            leadership,
            quorum_patience,
            given_up: None,
            disk: disk_watch,
            is_disk_stuck: false,
            stop,
            ended,
            succession,
            writer,
            directory,
        };
        Ok((handle, actor))
    }

    /// Tells who leads until the member is stopped or fails; then closes everything.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StopError> {
        let mut server = self.raft.server_metrics();
        let mut look = interval(self.quorum_patience / 4);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let failure = loop {
            let term = self.publish_leadership();
            self.raft.runtime_config().heartbeat(self.given_up != Some(term));
            tokio::select! {
                _ = look.tick() => {
                    self.look_at_quorum();
                    self.look_at_disk();
                }
                () = self.succession.go_on() => {}
                () = stop.cancelled() => break None,
                () = self.stop.cancelled() => break None,
                changed = server.changed() => if changed.is_err() { break Some(self.failure()) },
                // Whoever applies is gone, and openraft would wait for it forever.
                changed = self.applied_term.changed() => if changed.is_err() { break Some(self.failure()) },
            }
        };
        self.leadership.send_modify(|leadership| leadership.is_leader = false);
        // openraft reports nothing that we would do differently for.
        let _ = self.raft.shutdown().await;
        drop(self.raft);
        let written = self.writer.await;
        drop(self.directory);
        self.ended.send_replace(true);
        match (failure, written) {
            (Some(failure), _) => Err(failure),
            (None, Ok(())) => Ok(()),
            (None, Err(_)) => Err(StopError::Panicked),
        }
    }

    /// Tells who leads; gives the term.
    fn publish_leadership(&self) -> u64 {
        let server = self.raft.server_metrics();
        let now = {
            let server = server.borrow_watched();
            let term = term(&server.vote);
            Leadership {
                term,
                leader: server.current_leader.filter(|_| !self.succession.is_vacant(&server.vote)),
                is_leader: server.state == ServerState::Leader
                    && server.current_leader == Some(self.member_id)
                    && *self.applied_term.borrow() == term
                    && self.given_up != Some(term),
            }
        };
        self.leadership.send_if_modified(|known| {
            let is_new = *known != now;
            *known = now;
            is_new
        });
        now.term
    }

    /// Ends the lead of a member that hears from no majority, which openraft does not: it could promise what
    /// another leader has promised already. It falls silent, too, because a term is one leadership: the others
    /// vote once they can and hear from no leader, while a leader that openraft knows can't stand anew.
    fn look_at_quorum(&mut self) {
        let (term, state) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_term, metrics.state)
        };
        let leads = state == ServerState::Leader;
        if leads && !has_quorum(&self.raft, self.quorum_patience) && self.given_up != Some(term) {
            warn!(term, "no majority of the members answers, so this one leads no more");
            self.given_up = Some(term);
        }
    }

    /// Says when the disk stands still, and ends the lead meanwhile if there is anybody else: a leader that can't
    /// write neither votes nor keeps up, and what waits for its disk is only kept in memory.
    fn look_at_disk(&mut self) {
        let waiting = self.disk.waiting().filter(|waiting| *waiting > DISK_PATIENCE);
        match (waiting, self.is_disk_stuck) {
            (Some(waiting), false) => warn!(
                elapsed_ms = u64::try_from(waiting.as_millis()).unwrap_or(u64::MAX),
                "the disk does not take what the log writes; look whether it is broken or overloaded"
            ),
            (None, true) => info!("the disk takes what the log writes again"),
            (Some(_), true) | (None, false) => {}
        }
        self.is_disk_stuck = waiting.is_some();
        let (term, leads_others) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_term, metrics.state == ServerState::Leader && !is_alone(&metrics))
        };
        if self.is_disk_stuck && leads_others && self.given_up != Some(term) {
            warn!(term, "the log can't be written, so this member leads no more");
            self.given_up = Some(term);
        }
    }

    /// Why Raft ended by itself.
    fn failure(&self) -> StopError {
        match self.raft.metrics().borrow_watched().running_state.clone() {
            Ok(()) | Err(Fatal::Stopped | Fatal::Panicked) => StopError::Panicked,
            Err(failure @ Fatal::StorageError(_)) => StopError::Storage { source: failure.into() },
        }
    }
}

impl RaftHandle {
    /// Begins a cluster with this member alone; only once, in a pristine directory.
    pub async fn initialize_single(&self) -> Result<(), InitializeError> {
        let member = BasicNode { addr: self.address.to_string() };
        match self.raft.initialize(BTreeMap::from([(self.member_id, member)])).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(refusal)) => {
                debug!(error = %refusal, "this member isn't pristine");
                Err(InitializeError::AlreadyBegun)
            }
            Err(RaftError::Fatal(_)) => Err(InitializeError::Stopped),
        }
    }

    /// What this member answers to the others; their streams end when it shall stop.
    pub fn service(&self, stop: CancellationToken) -> network::Service {
        network::service(
            self.raft.clone(),
            self.cluster_id.clone(),
            self.member_id,
            self.version_supported,
            self.incoming.clone(),
            self.broken.clone(),
            stop,
        )
    }

    /// Whether the cluster has begun, as far as this member knows.
    pub async fn is_initialized(&self) -> Result<bool, InitializeError> {
        self.raft.is_initialized().await.map_err(|_| InitializeError::Stopped)
    }

    /// Has a command agreed on and applied; gives the machine's answer.
    pub async fn propose(&self, command: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        let _permit = self.admit(std::slice::from_ref(&command))?;
        match self.raft.client_write(Proposal { bytes: command }).await {
            Ok(written) => Ok(written.data),
            Err(RaftError::APIError(refusal)) => Err(refused(refusal)),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Unknown),
        }
    }

    /// Proposes several commands in one go; they keep their order, but others may come between, and
    /// each has its own fate.
    pub async fn propose_many(
        &self,
        commands: Vec<Vec<u8>>,
    ) -> Result<Vec<Result<Vec<u8>, ProposeError>>, ProposeError> {
        let _permit = self.admit(&commands)?;
        let count = commands.len();
        let proposals = commands.into_iter().map(|bytes| Proposal { bytes });
        let mut answers = Vec::with_capacity(count);
        let mut written = self.raft.client_write_many(proposals).await.map_err(|_| ProposeError::Unknown)?;
        loop {
            match written.try_next().await {
                Ok(Some(Ok(written))) => answers.push(Ok(written.response)),
                Ok(Some(Err(refusal))) => answers.push(Err(refused(refusal))),
                Ok(None) => break,
                Err(_) => break,
            }
        }
        answers.resize(count, Err(ProposeError::Unknown));
        Ok(answers)
    }

    /// Who leads; changes are seen only while [`Raft::run`] is polled.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Whether a majority has answered this leader of late. A process that stood still may not know yet that it was
    /// replaced meanwhile; with [`Leadership::is_leader`] this says whether it leads now.
    pub fn has_quorum(&self) -> bool {
        has_quorum(&self.raft, self.quorum_patience)
    }

    /// Returns once a read of the published state sees everything that was acknowledged before.
    pub async fn ensure_linearizable(&self) -> Result<(), ReadError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadError::NotLeader { leader: forward.leader_id })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadError::NoQuorum),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }

    /// How fresh this member's published state is. Fails when the member has stopped.
    pub async fn freshness(&self) -> Result<Freshness, ReadError> {
        let heard = |at: openraft::type_config::alias::InstantOf<Types>| Instant::elapsed(&at);
        // Every message of a leader renews the vote for it.
        let of_leader = self.raft.with_raft_state(move |state| state.vote_last_modified().map(heard));
        let of_leader = of_leader.await.map_err(|_| ReadError::Stopped)?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let of_majority = metrics.last_quorum_acked.map(|at| Instant::elapsed(&at.into_inner()));
        let is_leader = metrics.state == ServerState::Leader;
        Ok(Freshness {
            applied: index(&metrics.last_applied),
            committed: index(&metrics.cluster_committed),
            heard: if is_leader { of_majority } else { of_leader },
        })
    }

    /// One reading of the gauges and counters.
    pub fn metrics(&self) -> Figures {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (Ok(()), ServerState::Shutdown) => Role::Stopped,
            (Ok(()), ServerState::Leader) => Role::Leader,
            (Ok(()), ServerState::Candidate) => Role::Candidate,
            (Ok(()), ServerState::Follower) => Role::Follower,
            (Ok(()), ServerState::Learner) => Role::Learner,
        };
        Figures {
            role,
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(&metrics.local_committed),
            applied_index: index(&metrics.last_applied),
            snapshot_index: index(&metrics.snapshot),
            purged_index: index(&metrics.purged),
            log_bytes: self.log_bytes.get(),
            busy_total: self.busy.get(),
            proposals_bytes: (PROPOSALS_BYTES_MAX - self.waiting.available_permits()) as u64,
        }
    }

    /// Histograms that fill while the member runs.
    pub fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// Made at the first start of the first member, and the same on all.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub fn member_id(&self) -> MemberId {
        self.member_id
    }

    /// Asks for a snapshot now; it is taken in the background.
    pub async fn snapshot(&self) -> Result<(), ReadError> {
        self.raft.trigger().snapshot().await.map_err(|_| ReadError::Stopped)
    }

    /// Stops the member, and returns when its files are closed. Needs [`Raft::run`] to be polled.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut ended = self.ended.clone();
        // An error means that the actor is gone, and its files with it.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn admit(&self, commands: &[Vec<u8>]) -> Result<OwnedSemaphorePermit, ProposeError> {
        if self.stop.is_cancelled() || self.raft.metrics().borrow_watched().running_state.is_err() {
            return Err(ProposeError::Stopped);
        }
        let mut weight = 0;
        for command in commands {
            if command.len() > COMMAND_BYTES_MAX {
                return Err(ProposeError::TooLarge { bytes: command.len(), max: COMMAND_BYTES_MAX });
            }
            weight += command.len() + PROPOSAL_BYTES_OVERHEAD;
        }
        if weight > PROPOSALS_BYTES_MAX {
            // It would find no place even if nothing else waited.
            return Err(ProposeError::TooLarge { bytes: weight, max: PROPOSALS_BYTES_MAX });
        }
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        self.waiting.clone().try_acquire_many_owned(weight).map_err(|_| {
            self.busy.increment();
            ProposeError::Busy
        })
    }
}

/// Locks, checks and reads everything that is on disk. Blocks.
pub(super) fn open_files(
    config: &RaftConfig,
    machine: Box<dyn Machine>,
    disk: &dyn Disk,
    term: watch::Sender<u64>,
    instruments: Instruments,
) -> Result<(Directory, log::Opened, Applier), OpenError> {
    let directory = Directory::open(&config.data_dir)?;
    let cluster_id = config.cluster_id.as_deref();
    let opened = log::open(&directory, disk, cluster_id, config.member_id, instruments.clone())?;
    let snapshots = Snapshots::open(directory.snapshot())?;
    let covered = snapshots.current().and_then(|current| current.meta.last_log_id);
    check_covered(directory.path(), opened.purged, covered)?;
    let path = snapshots.path().to_owned();
    let applier =
        Applier::restore(machine, Arc::new(snapshots), term, instruments).map_err(|error| match error {
            RestoreError::Read(source) => OpenError::Snapshot { path, source },
            RestoreError::Machine(source) => OpenError::Machine { path, source },
        })?;
    Ok((directory, opened, applier))
}

fn check_covered(path: &Path, purged: Option<LogId>, covered: Option<LogId>) -> Result<(), OpenError> {
    match purged {
        Some(purged) if covered < Some(purged) => {
            Err(OpenError::SnapshotMissing { path: path.to_owned(), purged: purged.index() })
        }
        Some(_) | None => Ok(()),
    }
}

/// The only voter has nobody to wait for: it stands at once, not after an election timeout.
async fn stand_if_alone(raft: &Openraft, member_id: MemberId) -> Result<(), Fatal<Types>> {
    let voters: Vec<MemberId> =
        raft.with_raft_state(|state| state.membership_state.effective().voter_ids().collect()).await?;
    if voters == [member_id] {
        raft.trigger().elect(false).await?;
    }
    Ok(())
}

/// Whether a majority answered a leader within `patience`. One that is alone needs no answer, and before the first
/// answer a member does not lead yet.
fn has_quorum(raft: &Openraft, patience: Duration) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let acknowledged = metrics.last_quorum_acked;
    is_alone(&metrics) || acknowledged.is_none_or(|at| Instant::elapsed(&at.into_inner()) < patience)
}

fn is_alone(metrics: &RaftMetrics<Types>) -> bool {
    metrics.membership_config.membership().voter_ids().count() < 2
}

fn refused(refusal: ClientWriteError<Types>) -> ProposeError {
    match refusal {
        ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader { leader: forward.leader_id },
        ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_) => ProposeError::Unknown,
    }
}

fn term(vote: &VoteOf<Types>) -> u64 {
    vote.leader_id.term
}

fn index(id: &Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index())
}
