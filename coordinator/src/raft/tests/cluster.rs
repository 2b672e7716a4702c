//! Three members in one process, over a network that can be cut: the code path of many.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    async_runtime::watch::WatchReceiver,
    errors::{RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    impls::BasicNode,
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        log::FileDisk,
        member::Openraft,
        snapshot::SnapshotFile,
        succession::knock,
        types::{MemberId, Types, Vote},
    },
    Member, PATIENCE, ProposeError, Raft, RaftConfig, Recorder, config,
};

/// Who can be reached; a member that is cut off neither sends nor receives.
#[derive(Clone, Default)]
struct Switchboard(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    members: BTreeMap<MemberId, Openraft>,
    cut: BTreeSet<MemberId>,
}

impl Switchboard {
    fn connect(&self, id: MemberId, raft: Openraft) {
        self.0.lock().unwrap().members.insert(id, raft);
    }

    fn cut(&self, id: MemberId) {
        self.0.lock().unwrap().cut.insert(id);
    }

    fn mend(&self, id: MemberId) {
        self.0.lock().unwrap().cut.remove(&id);
    }
}

struct Factory {
    from: MemberId,
    switchboard: Switchboard,
}

struct Line {
    from: MemberId,
    to: MemberId,
    switchboard: Switchboard,
}

impl Line {
    fn target(&self) -> Result<Openraft, Unreachable<Types>> {
        let lines = self.switchboard.0.lock().unwrap();
        let is_cut = lines.cut.contains(&self.from) || lines.cut.contains(&self.to);
        lines
            .members
            .get(&self.to)
            .filter(|_| !is_cut)
            .cloned()
            .ok_or_else(|| Unreachable::new(&std::io::Error::other("cut")))
    }

    /// An answer passes only if the line still stands when it comes.
    fn answer<T, E: std::error::Error + 'static>(
        &self,
        answer: Result<T, RaftError<Types, E>>,
    ) -> Result<T, Unreachable<Types>> {
        self.target()?;
        answer.map_err(|error| Unreachable::new(&std::io::Error::other(error.to_string())))
    }
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Line;

    async fn new_client(&mut self, target: MemberId, _node: &BasicNode) -> Line {
        Line { from: self.from, to: target, switchboard: self.switchboard.clone() }
    }
}

impl RaftNetworkV2<Types> for Line {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Ok(self.answer(self.target()?.append_entries(request).await)?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.answer(self.target()?.vote(request).await)?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.answer(self.target()?.pre_vote(request).await)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let answer = self.target()?.install_full_snapshot(vote, snapshot).await;
        self.target()?;
        answer.map_err(|error| Unreachable::new(&std::io::Error::other(error.to_string())).into())
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let answer = self.target()?.handle_transfer_leader(request).await;
        answer.map_err(|error| Unreachable::new(&std::io::Error::other(error.to_string())).into())
    }
}

/// A cluster of three.
struct Cluster {
    folder: TempDir,
    switchboard: Switchboard,
    members: BTreeMap<MemberId, Member>,
}

impl Cluster {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { folder, switchboard: Switchboard::default(), members: BTreeMap::new() };
        for id in 1..=3 {
            cluster.start(id).await;
        }
        let first = &cluster.members[&1];
        first.handle.initialize_single().await.unwrap();
        first.led().await;
        for id in 2..=3 {
            let node = BasicNode { addr: format!("127.0.0.{id}:5050") };
            first.handle.raft.add_learner(id, node, true).await.unwrap();
        }
        first.handle.raft.change_membership(BTreeSet::from([1, 2, 3]), false).await.unwrap();
        cluster
    }

    fn config(path: &Path, id: MemberId) -> RaftConfig {
        RaftConfig {
            cluster_id: Some("three".to_owned()),
            member_id: id,
            snapshot_entries: 200,
            kept_entries: 20,
            ..config(&path.join(id.to_string()))
        }
    }

    async fn start(&mut self, id: MemberId) {
        let recorder = Recorder::default();
        let factory = Factory { from: id, switchboard: self.switchboard.clone() };
        let config = Self::config(self.folder.path(), id);
        let (handle, raft) =
            Raft::open_on(config, recorder.clone(), Arc::new(FileDisk), |_| factory, knock()).await.unwrap();
        self.switchboard.connect(id, handle.raft.clone());
        let task = tokio::spawn(raft.run(CancellationToken::new()));
        self.members.insert(id, Member { handle, recorder, task });
    }

    async fn stop(&mut self, id: MemberId) {
        self.members.remove(&id).unwrap().stop().await;
    }

    /// The leader that the others than `except` have.
    async fn leader(&self, except: Option<MemberId>) -> MemberId {
        let started = Instant::now();
        loop {
            let leads = |(id, member): &(&MemberId, &Member)| {
                Some(**id) != except && member.handle.leadership().borrow().is_leader
            };
            if let Some((id, _)) = self.members.iter().find(leads) {
                return *id;
            }
            assert!(started.elapsed() < PATIENCE, "nobody leads: {:#?}", self.metrics());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What each member's Raft says of itself.
    fn metrics(&self) -> Vec<String> {
        let said = |member: &Member| member.handle.raft.metrics().borrow_watched().to_string();
        self.members.values().map(said).collect()
    }

    /// Proposes to whoever leads, and again where nothing was written.
    async fn propose(&self, command: &str, except: Option<MemberId>) {
        let started = Instant::now();
        loop {
            let leader = &self.members[&self.leader(except).await];
            match leader.handle.propose(command.into()).await {
                Ok(_) => return,
                Err(ProposeError::NotLeader { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(started.elapsed() < PATIENCE, "nobody takes it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all have applied the same, and gives it.
    async fn agreed(&self) -> Vec<String> {
        let started = Instant::now();
        loop {
            let all: BTreeSet<_> =
                self.members.values().map(|member| member.recorder.journal().commands).collect();
            let applied: BTreeSet<_> =
                self.members.values().map(|member| member.handle.metrics().applied_index).collect();
            if let ([same], [_]) = (Vec::from_iter(&all).as_slice(), Vec::from_iter(&applied).as_slice()) {
                return same.iter().map(|(_, command)| String::from_utf8(command.clone()).unwrap()).collect();
            }
            assert!(started.elapsed() < PATIENCE, "no agreement: {applied:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn numbered(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_survive_the_loss_of_the_leader() {
    let mut cluster = Cluster::begin().await;
    for number in 0..20 {
        cluster.propose(&number.to_string(), None).await;
    }
    let old = cluster.leader(None).await;
    let term = cluster.members[&old].handle.leadership().borrow().term;
    let started = Instant::now();
    cluster.stop(old).await;
    let new = cluster.leader(None).await;
    println!("a new leader after {:?}", started.elapsed());
    assert!(cluster.members[&new].handle.leadership().borrow().term > term);
    for number in 20..40 {
        cluster.propose(&number.to_string(), None).await;
    }
    cluster.start(old).await;
    assert_eq!(cluster.agreed().await, numbered(0..40));
    assert_eq!(cluster.leader(None).await, new, "a member that comes back disturbs nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_cut_off_drops_what_nobody_agreed_to() {
    let mut cluster = Cluster::begin().await;
    cluster.propose("0", None).await;
    let old = cluster.leader(None).await;
    cluster.switchboard.cut(old);
    let handle = cluster.members[&old].handle.clone();
    let lost = tokio::spawn(async move { handle.propose(b"lost".to_vec()).await });
    for number in 1..10 {
        cluster.propose(&number.to_string(), Some(old)).await;
    }
    cluster.switchboard.mend(old);
    let fate = tokio::time::timeout(PATIENCE, lost).await.unwrap().unwrap();
    assert_eq!(fate, Err(ProposeError::Unknown));
    assert_eq!(cluster.agreed().await, numbered(0..10));
    assert!(!cluster.members[&old].handle.leadership().borrow().is_leader);

    // The log on disk is whole after the cut, too.
    cluster.stop(old).await;
    cluster.propose("10", None).await;
    cluster.start(old).await;
    assert_eq!(cluster.agreed().await, numbered(0..11));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = Cluster::begin().await;
    let leader = cluster.leader(None).await;
    let away = if leader == 3 { 2 } else { 3 };
    cluster.stop(away).await;
    for number in 0..1000 {
        cluster.propose(&number.to_string(), None).await;
    }
    let purged = |member: &Member| member.handle.metrics().purged_index;
    cluster.members[&leader].until("purged", |figures| figures.purged_index > 500).await;
    assert!(purged(&cluster.members[&leader]) > 500);
    cluster.start(away).await;
    assert_eq!(cluster.agreed().await, numbered(0..1000));
    assert!(cluster.members[&away].recorder.journal().applied < 600, "most of it came as a snapshot");

    // What came as a snapshot is as durable as what came as entries.
    cluster.stop(away).await;
    cluster.propose("1000", None).await;
    cluster.start(away).await;
    assert_eq!(cluster.agreed().await, numbered(0..1001));
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::begin().await;
    cluster.propose("0", None).await;
    let old = cluster.leader(None).await;
    let new = old % 3 + 1;
    cluster.members[&old].handle.raft.trigger().transfer_leader(new).await.unwrap();
    let mut leadership = cluster.members[&new].handle.leadership();
    let led = leadership.wait_for(|leadership| leadership.is_leader);
    tokio::time::timeout(PATIENCE, led).await.unwrap().unwrap();
    cluster.propose("1", None).await;
    assert_eq!(cluster.agreed().await, numbered(0..2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_from_nobody_leads_no_more_and_never_again_in_that_term() {
    let cluster = Cluster::begin().await;
    cluster.propose("0", None).await;
    let old = cluster.leader(None).await;
    let mut leadership = cluster.members[&old].handle.leadership();
    let term = leadership.borrow().term;
    // Everybody is alone, so nobody else takes the lead either.
    (1..=3).for_each(|id| cluster.switchboard.cut(id));
    let lost = leadership.wait_for(|now| !now.is_leader);
    tokio::time::timeout(PATIENCE, lost).await.expect("it stops to lead").unwrap();
    (1..=3).for_each(|id| cluster.switchboard.mend(id));
    let new = cluster.leader(None).await;
    assert!(cluster.members[&new].handle.leadership().borrow().term > term);
    cluster.propose("1", None).await;
    assert_eq!(cluster.agreed().await, numbered(0..2));
}

/// The vote of a leader that fell silent is needed, and its log is longer than that of the only other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_leader_with_the_longest_log_is_succeeded_by_whom_it_tells_the_rest() {
    let cluster = Cluster::begin().await;
    cluster.propose("0", None).await;
    let old = cluster.leader(None).await;
    let handle = cluster.members[&old].handle.clone();
    let mut leadership = handle.leadership();
    let term = leadership.borrow().term;
    (1..=3).for_each(|id| cluster.switchboard.cut(id));
    // Nobody else has them; whether they were done is not known.
    let unheard = ["1", "2", "3"].map(|text| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.propose(text.as_bytes().to_vec()).await })
    });
    let lost = leadership.wait_for(|now| !now.is_leader);
    tokio::time::timeout(PATIENCE, lost).await.expect("it stops to lead").unwrap();
    // One stays away for good.
    let away = old % 3 + 1;
    (1..=3).filter(|id| *id != away).for_each(|id| cluster.switchboard.mend(id));
    let new = cluster.leader(Some(away)).await;
    assert!(cluster.members[&new].handle.leadership().borrow().term > term);
    cluster.propose("4", Some(away)).await;
    for answer in unheard {
        let _known_or_not = answer.await.unwrap();
    }
}
