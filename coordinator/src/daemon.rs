//! The coordinator as a whole: start-up is one list, shutdown is that list reversed.
//!
//! Puts the parts together and owns their tasks; decides nothing. A part that ends by itself stops
//! the daemon. Start at [`Daemon::start`].

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use cluster::ClusterState;
use identity::{Folder, Tls};
use model::{ClusterId, IdError};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    api::{Access, Api, BindError, Listeners},
    audit::{Audit, AuditError},
    auth::{Token, TokenError},
    config::Config,
    join::{JoinError, Target},
    leader::{self, LeaderLoop, Standing, feed},
    machine::{AgreedLog, Beyond, StateMachine},
    metrics::Metrics,
    raft::{
        self, InitializeError, Leadership, OpenError, Peers, Raft, RaftConfig, RaftHandle, SeatError,
        StopError, Timing,
    },
    security::{self, EnterError, Security, SecurityError},
    versions::Versions,
};

/// How many election timeouts another member may take to lead before this one goes: an election is shorter.
const HAND_OVER_TIMEOUTS: u32 = 5;
/// However patient the members are with each other: who wants it to stop waits for that too.
const HAND_OVER_PATIENCE_MAX: Duration = Duration::from_secs(10);

/// Why the coordinator can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("can't bind the coordinator's sockets")]
    Bind(#[source] BindError),
    #[error("can't open the data directory")]
    Open(#[source] OpenError),
    #[error(transparent)]
    TooNew(#[from] TooNew),
    #[error("can't use the cluster's id")]
    ClusterId(#[source] IdError),
    #[error("can't set up the credential")]
    Token(#[source] TokenError),
    #[error("can't prove who this member is")]
    Security(#[source] SecurityError),
    #[error("`--listen {listen}` is beyond this machine, and nothing is served there without TLS")]
    TlsNeeded { listen: SocketAddr },
    #[error("can't come into the cluster")]
    Enter(#[source] EnterError),
    #[error("can't join the cluster")]
    Join(#[source] JoinError),
    #[error("can't begin the cluster")]
    Initialize(#[source] InitializeError),
    #[error("can't open the audit log")]
    Audit(#[source] AuditError),
    #[error("can't set up the API")]
    Api(#[source] tonic_reflection::server::Error),
}

/// Every stable code of a coordinator that failed; each has a page in `docs/errors/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    ConfigInvalid,
    PortTaken,
    SocketUnusable,
    DataDirInUse,
    DataDirForeign,
    DataDirTooNew,
    DataDirUnusable,
    DataDirDamaged,
    TokenUnusable,
    TlsNeeded,
    TlsUnusable,
    JoinFailed,
    MemberIdTaken,
    BackupFailed,
    RestoreFailed,
    StartFailed,
    CoordinatorFailed,
}

impl FailureCode {
    pub const ALL: &[Self] = &[
        Self::ConfigInvalid,
        Self::PortTaken,
        Self::SocketUnusable,
        Self::DataDirInUse,
        Self::DataDirForeign,
        Self::DataDirTooNew,
        Self::DataDirUnusable,
        Self::DataDirDamaged,
        Self::TokenUnusable,
        Self::TlsNeeded,
        Self::TlsUnusable,
        Self::JoinFailed,
        Self::MemberIdTaken,
        Self::BackupFailed,
        Self::RestoreFailed,
        Self::StartFailed,
        Self::CoordinatorFailed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigInvalid => "config-invalid",
            Self::PortTaken => "port-taken",
            Self::SocketUnusable => "socket-unusable",
            Self::DataDirInUse => "data-dir-in-use",
            Self::DataDirForeign => "data-dir-foreign",
            Self::DataDirTooNew => "data-dir-too-new",
            Self::DataDirUnusable => "data-dir-unusable",
            Self::DataDirDamaged => "data-dir-damaged",
            Self::TokenUnusable => "token-unusable",
            Self::TlsNeeded => "tls-needed",
            Self::TlsUnusable => "tls-unusable",
            Self::JoinFailed => "join-failed",
            Self::MemberIdTaken => "member-id-taken",
            Self::BackupFailed => "backup-failed",
            Self::RestoreFailed => "restore-failed",
            Self::StartFailed => "start-failed",
            Self::CoordinatorFailed => "coordinator-failed",
        }
    }
}

impl StartError {
    pub fn code(&self) -> FailureCode {
        match self {
            Self::Bind(BindError::Port { .. }) => FailureCode::PortTaken,
            Self::Bind(BindError::Socket { .. } | BindError::SocketPath { .. }) => {
                FailureCode::SocketUnusable
            }
            Self::TooNew(_) => FailureCode::DataDirTooNew,
            Self::Open(OpenError::InUse { .. }) => FailureCode::DataDirInUse,
            Self::Open(OpenError::OtherCluster { .. } | OpenError::OtherMember { .. }) => {
                FailureCode::DataDirForeign
            }
            Self::Open(OpenError::Newer { .. } | OpenError::Machine { .. }) => FailureCode::DataDirTooNew,
            Self::Open(OpenError::Directory { .. }) => FailureCode::DataDirUnusable,
            Self::Open(
                OpenError::Store { .. }
                | OpenError::Shortened { .. }
                | OpenError::Damaged { .. }
                | OpenError::Record { .. }
                | OpenError::Snapshot { .. }
                | OpenError::SnapshotMissing { .. },
            )
            | Self::ClusterId(_) => FailureCode::DataDirDamaged,
            Self::Token(_) => FailureCode::TokenUnusable,
            Self::Audit(_) => FailureCode::DataDirUnusable,
            Self::Security(_) => FailureCode::TlsUnusable,
            Self::TlsNeeded { .. } => FailureCode::TlsNeeded,
            Self::Join(JoinError::Taken { .. }) => FailureCode::MemberIdTaken,
            Self::Enter(_) | Self::Join(_) => FailureCode::JoinFailed,
            Self::Open(OpenError::Timing { .. } | OpenError::Thread { .. } | OpenError::Start { .. })
            | Self::Initialize(_)
            | Self::Api(_) => FailureCode::StartFailed,
        }
    }

    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::Bind(error) => error.next(),
            Self::Open(error) => error.next().to_owned(),
            Self::TooNew(_) => TooNew::NEXT.to_owned(),
            Self::ClusterId(_) => {
                "restore the data directory from a backup, or begin anew in an empty one".to_owned()
            }
            Self::Token(error) => error.next(),
            Self::Audit(error) => error.next(),
            Self::Security(error) => error.next(),
            Self::TlsNeeded { .. } => "run `muster-coordinator init` for a new cluster, or join one with \
                                       `--join` and `--join-token-file`; or listen on 127.0.0.1:5050"
                .to_owned(),
            Self::Enter(error) => error.next(),
            Self::Join(JoinError::Taken { .. }) => {
                "choose another `--member-id`; if that member has lost its data, remove it first and come in \
                 under a new id"
                    .to_owned()
            }
            Self::Join(_) => {
                "check that a coordinator runs at the address of `--join`, and that both have the \
                 same token file"
                    .to_owned()
            }
            Self::Initialize(_) | Self::Api(_) => "see the cause and the log of this start".to_owned(),
        }
    }
}

/// The cluster uses what this program doesn't know.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster has come to version {version}, and this program knows none above {}",
    cluster::VERSION_SUPPORTED
)]
pub struct TooNew {
    version: u32,
}

impl TooNew {
    const NEXT: &str = "start the release that wrote it, or a newer one; nothing was changed";
}

/// Why a coordinator that ran has ended, when nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("Raft stopped by itself")]
    Raft(#[source] StopError),
    #[error(transparent)]
    TooNew(#[from] TooNew),
    #[error("the {part} ended by itself")]
    Ended { part: &'static str },
    #[error("the {part} ended with a panic")]
    Panicked { part: &'static str },
    #[error("the shutdown took longer than {} s, and what was left was dropped", limit.as_secs())]
    ShutdownTooLong { limit: Duration },
}

impl RunError {
    pub fn code(&self) -> FailureCode {
        match self {
            Self::TooNew(_) => FailureCode::DataDirTooNew,
            Self::Raft(_) | Self::Ended { .. } | Self::Panicked { .. } | Self::ShutdownTooLong { .. } => {
                FailureCode::CoordinatorFailed
            }
        }
    }

    /// What the operator can do about it.
    pub fn next(&self) -> &'static str {
        match self {
            Self::TooNew(_) => TooNew::NEXT,
            Self::Raft(_) | Self::Ended { .. } | Self::Panicked { .. } | Self::ShutdownTooLong { .. } => {
                "see the log above; start it again, and report it with the log if it comes back"
            }
        }
    }
}

/// A coordinator that runs.
pub struct Daemon {
    address: SocketAddr,
    token: Token,
    socket: PathBuf,
    raft: RaftHandle,
    beyond: Beyond,
    hand_over_patience: Duration,
    shutdown_timeout: Duration,
    /// In order of their start; stopped from the last to the first.
    parts: Vec<Part>,
}

/// One task that the daemon owns.
struct Part {
    name: &'static str,
    /// Dropping it tells the part to stop, so that a start that fails half-way leaves nothing running.
    stop: DropGuard,
    task: JoinHandle<Result<(), StopError>>,
}

impl Part {
    fn start<F>(name: &'static str, stop: CancellationToken, work: F) -> Self
    where
        F: Future<Output = Result<(), StopError>> + Send + 'static,
    {
        Self { name, stop: stop.drop_guard(), task: tokio::spawn(work) }
    }
}

impl Daemon {
    /// Starts everything, in this order; what was started ends again when a later step fails.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let is_set_up = Folder::of(&config.data_dir).authority_path().exists();
        if !config.listen.ip().is_loopback() && !is_set_up && config.join_token_file.is_none() {
            return Err(StartError::TlsNeeded { listen: config.listen });
        }
        let port = Listeners::bind_port(config.listen).await.map_err(StartError::Bind)?;
        let address = port
            .local_addr()
            .map_err(|source| StartError::Bind(BindError::Port { address: config.listen, source }))?;
        tracing::info!(%address, "bound the port");

        raft::make_directory(&config.data_dir).map_err(StartError::Open)?;
        let advertised = config.advertise.unwrap_or(address);
        let security = secure(config, advertised).await?;
        let tls = security.as_ref().map(|security| security.tls().clone());
        let token = Token::load_or_make(&config.token_path()).map_err(StartError::Token)?;
        tracing::info!(path = %config.token_path().display(), "the credential is ready");

        let credential = token.header().filter(|_| security.is_none());
        let client = tls.as_ref().map(Tls::client);
        let target = match &config.join {
            Some(member) => {
                Some(Target::new(member, credential.clone(), client.clone()).map_err(StartError::Join)?)
            }
            None => None,
        };
        let mut cluster_id = config.cluster_id.clone();
        if let Some(target) = &target
            && cluster_id.is_none()
            && raft::is_pristine(&config.data_dir)
        {
            cluster_id = Some(target.cluster(config.member_id).await.map_err(StartError::Join)?);
        }

        let metrics = Arc::new(Metrics::new());
        let (feed, feed_reader) = feed(0, ClusterState::new());
        let machine = StateMachine::new(feed, metrics.clone());
        let beyond = machine.beyond();
        let raft_config = RaftConfig {
            cluster_id: cluster_id.as_ref().map(ToString::to_string),
            credential,
            tls: client,
            snapshot_entries: config.snapshot_entries,
            timing: Timing::of(config.election_timeout),
            version_supported: config.version_supported(),
            ..RaftConfig::new(&config.data_dir, config.member_id, advertised.to_string())
        };
        let peer_config = raft_config.clone();
        let (raft, member) = Raft::open(raft_config, machine).await.map_err(|error| {
            beyond.get().map_or(StartError::Open(error), |version| TooNew { version: *version }.into())
        })?;
        let cluster = ClusterId::new(raft.cluster_id()).map_err(StartError::ClusterId)?;
        tracing::info!(cluster_id = %cluster, member = raft.member_id(), "opened the log");

        let listeners = Listeners::with_socket(port, &config.socket_path()).map_err(StartError::Bind)?;
        tracing::info!(path = %config.socket_path().display(), "made the socket");

        let raft_stop = CancellationToken::new();
        let member = Part::start("raft member", raft_stop.clone(), member.run(raft_stop));
        if target.is_none() && !raft.is_initialized().await.map_err(StartError::Initialize)? {
            raft.initialize_single().await.map_err(StartError::Initialize)?;
            tracing::info!(cluster_id = %cluster, "began a new cluster");
        }
        tracing::info!("the raft member runs");

        let standing_stop = CancellationToken::new();
        let (standing, standing_seen) = watch::channel(Standing::Follows);
        let follow = follow_leadership(raft.leadership(), standing, standing_stop.clone());
        let standing = Part::start("leadership watch", standing_stop, follow);

        let leader_stop = CancellationToken::new();
        let log = AgreedLog::new(raft.clone());
        let (leader_loop, leader) = LeaderLoop::new(
            leader_config(config, cluster),
            log,
            feed_reader,
            standing_seen,
            leader_stop.clone(),
        );
        let leader_part = Part::start("leader loop", leader_stop, async {
            leader_loop.run().await;
            Ok(())
        });
        tracing::info!("the leader loop runs");

        let versions_stop = CancellationToken::new();
        let versions = Versions::new(Peers::new(&peer_config, raft.cluster_id()), config.version_supported());
        let keep = versions.clone().keep(raft.clone(), leader.clone(), versions_stop.clone());
        let versions_part = Part::start("cluster version", versions_stop, async {
            keep.await;
            Ok(())
        });

        let api_stop = CancellationToken::new();
        let access = Access {
            token: token.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            security: security.clone(),
            audit: Audit::open(&config.data_dir, config.member_id, metrics.clone())
                .map_err(StartError::Audit)?,
        };
        let api = Api::new(leader, raft.clone(), metrics, access, versions, api_stop.clone())
            .map_err(StartError::Api)?;
        let serving = Part::start("api", api_stop, async {
            listeners.serve(api).await;
            Ok(())
        });
        tracing::info!(%address, "the api answers");

        let mut parts = vec![member, standing, leader_part, versions_part, serving];
        if let Some(security) = security {
            let stop = CancellationToken::new();
            let fresh = security.keep_fresh(stop.clone());
            parts.push(Part::start("certificate", stop, async {
                fresh.await;
                Ok(())
            }));
        }
        if let Some(target) = target {
            let (raft, stop) = (raft.clone(), CancellationToken::new());
            let stopped = stop.clone();
            parts.push(Part::start("joining", stop, async move {
                target.until_seated(raft, advertised.to_string(), stopped.clone()).await;
                // A part lives as long as the daemon.
                stopped.cancelled().await;
                Ok(())
            }));
        }
        Ok(Self {
            address,
            token,
            socket: config.socket_path(),
            raft,
            beyond,
            hand_over_patience: (config.election_timeout * HAND_OVER_TIMEOUTS).min(HAND_OVER_PATIENCE_MAX),
            shutdown_timeout: config.shutdown_timeout,
            parts,
        })
    }

    /// Where gRPC and HTTP are answered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn token(&self) -> &Token {
        &self.token
    }

    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    pub fn raft(&self) -> &RaftHandle {
        &self.raft
    }

    /// Runs until told to stop, or until a part ends by itself; then stops everything.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let ended = {
            let tasks = self.parts.iter_mut().map(|part| &mut part.task);
            tokio::select! {
                () = stop.cancelled() => None,
                (result, place, _others) = futures::future::select_all(tasks) => Some((place, result)),
            }
        };
        let failure = ended.map(|(place, result)| {
            let part = self.parts.remove(place).name;
            match result {
                Ok(Ok(())) => RunError::Ended { part },
                Ok(Err(error)) => match self.beyond.get() {
                    Some(version) => RunError::TooNew(TooNew { version: *version }),
                    None => RunError::Raft(error),
                },
                Err(_panic) => RunError::Panicked { part },
            }
        });
        if let Some(failure) = &failure {
            tracing::error!(error = %failure, "stopping, because a part has ended");
        }
        if failure.is_none() {
            self.hand_over().await;
        }
        let stopped = self.stop().await;
        match failure {
            Some(failure) => Err(failure),
            None => stopped,
        }
    }

    /// Lets another member lead before this one goes: so nobody waits for an election.
    async fn hand_over(&self) {
        if self.raft.seats().iter().filter(|seat| seat.votes).count() < 2 {
            return;
        }
        match self.raft.transfer(None, self.hand_over_patience).await {
            Ok(leader) => tracing::info!(leader, "handed over the lead"),
            // It does not lead: nothing to hand over.
            Err(SeatError::NotLeader) => {}
            Err(error) => tracing::warn!(%error, "the others will elect a leader"),
        }
    }

    /// The start-up list reversed, with one deadline.
    async fn stop(self) -> Result<(), RunError> {
        let limit = self.shutdown_timeout;
        let mut parts = self.parts;
        let aborts: Vec<_> = parts.iter().map(|part| part.task.abort_handle()).collect();
        let all = async {
            let mut outcome = Ok(());
            while let Some(Part { name, stop, task }) = parts.pop() {
                drop(stop);
                match task.await {
                    Ok(Ok(())) => tracing::info!(part = name, "stopped"),
                    Ok(Err(error)) => outcome = Err(RunError::Raft(error)),
                    Err(_panic) => outcome = Err(RunError::Panicked { part: name }),
                }
            }
            outcome
        };
        match tokio::time::timeout(limit, all).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                for abort in aborts {
                    abort.abort();
                }
                Err(RunError::ShutdownTooLong { limit })
            }
        }
    }
}

/// This member's part in the cluster's trust: what it has, or gets with its join token.
async fn secure(config: &Config, address: SocketAddr) -> Result<Option<Arc<Security>>, StartError> {
    let load = || Security::load(config).map_err(StartError::Security);
    let mut security = load()?;
    if let (None, Some(join), Some(token)) = (&security, &config.join, &config.join_token_file) {
        security::enter(config, join, token, address).await.map_err(StartError::Enter)?;
        tracing::info!("the cluster has let this member in");
        security = load()?;
    }
    match &security {
        Some(_) => tracing::info!("members, agents and people are spoken to with TLS alone"),
        None if config.listen.ip().is_loopback() => {}
        None => return Err(StartError::TlsNeeded { listen: config.listen }),
    }
    Ok(security)
}

/// Tells the leader's loop when this member leads.
async fn follow_leadership(
    mut leadership: watch::Receiver<Leadership>,
    standing: watch::Sender<Standing>,
    stop: CancellationToken,
) -> Result<(), StopError> {
    loop {
        let Leadership { term, leader: _, is_leader } = *leadership.borrow_and_update();
        let now = if is_leader { Standing::Leads { term } } else { Standing::Follows };
        standing.send_if_modified(|known| {
            let is_new = *known != now;
            *known = now;
            is_new
        });
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = leadership.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn leader_config(config: &Config, cluster: ClusterId) -> leader::Config {
    leader::Config {
        offer_lease: config.offer_lease,
        agent_heartbeat: config.agent_heartbeat,
        agent_timeout: config.agent_timeout,
        agents_unreachable_percent_max: config.agents_unreachable_percent_max,
        framework_heartbeat: config.framework_heartbeat,
        ..leader::Config::new(cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_code_has_a_page() {
        for code in FailureCode::ALL {
            let path = format!("{}/../docs/errors/{}.md", env!("CARGO_MANIFEST_DIR"), code.as_str());
            let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(page.starts_with(&format!("# {}\n", code.as_str())), "{path}");
        }
    }
}
