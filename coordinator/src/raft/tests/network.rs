//! Three members that speak gRPC with each other over loopback.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use hyper_util::rt::TokioIo;
use openraft::{
    RaftNetworkFactory,
    impls::BasicNode,
    network::{NetVote, RPCOption},
    raft::VoteRequest,
};
use proto::members::v1::{self as wire, members_client::MembersClient, snapshot_piece::Piece};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request,
    transport::{Endpoint, Server, Uri},
};

use super::{
    super::{
        log::FileDisk,
        membership::SeatError,
        network::{Dial, Network},
        succession::knock,
        types::{MemberId, Vote},
    },
    Duration, Member, PATIENCE, ProposeError, Raft, RaftConfig, Recorder, config,
};

/// A member and the port on which the others reach it.
struct Served {
    member: Member,
    address: SocketAddr,
    /// Of its own, so that its connections end with it as those of a process do.
    server: Option<Runtime>,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

impl Served {
    async fn start(folder: &TempDir, id: MemberId, address: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into())).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let config = RaftConfig {
            cluster_id: Some("three".to_owned()),
            member_id: id,
            address: address.to_string(),
            snapshot_entries: 200,
            kept_entries: 20,
            ..config(&folder.path().join(id.to_string()))
        };
        let member = Member::open(config).await.unwrap();
        let service = member.handle.service(CancellationToken::new());
        let server = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { member, address, server: Some(server) }
    }

    /// Ends it, and gives the address for its return.
    async fn stop(mut self) -> SocketAddr {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
        self.member.handle.shutdown().await;
        self.address
    }
}

async fn three(folder: &TempDir) -> BTreeMap<MemberId, Served> {
    let mut members = BTreeMap::new();
    for id in 1..=3 {
        members.insert(id, Served::start(folder, id, None).await);
    }
    let first = &members[&1].member;
    first.handle.initialize_single().await.unwrap();
    first.led().await;
    for id in 2..=3 {
        first.handle.add_member(id, &members[&id].address.to_string(), PATIENCE).await.unwrap();
    }
    members
}

async fn leader(members: &BTreeMap<MemberId, Served>) -> MemberId {
    let started = Instant::now();
    loop {
        let leads = members.iter().find(|(_, served)| served.member.handle.leadership().borrow().is_leader);
        if let Some((id, _)) = leads {
            return *id;
        }
        assert!(started.elapsed() < PATIENCE, "nobody leads");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Has it agreed on by whoever leads; on a busy machine that may change at any time.
async fn propose(members: &BTreeMap<MemberId, Served>, command: &str) {
    let started = Instant::now();
    loop {
        let leads = leader(members).await;
        match members[&leads].member.handle.propose(command.into()).await {
            Ok(_) => return,
            Err(ProposeError::NotLeader { .. } | ProposeError::Unknown) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(started.elapsed() < PATIENCE, "nobody takes it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until every member has applied the commands `0` to before `count`, and nothing else.
async fn agreed(members: &BTreeMap<MemberId, Served>, count: usize) {
    let wanted: BTreeSet<Vec<u8>> = (0..count).map(|number| number.to_string().into_bytes()).collect();
    let started = Instant::now();
    loop {
        let journals: Vec<_> =
            members.values().map(|served| served.member.recorder.journal().commands).collect();
        let found =
            journals.iter().map(|journal| journal.iter().map(|(_, command)| command.clone()).collect());
        let is_complete = found.clone().all(|found: BTreeSet<Vec<u8>>| found == wanted);
        if is_complete && journals.windows(2).all(|pair| pair[0] == pair[1]) {
            return;
        }
        let counts: Vec<usize> = found.map(|found| found.len()).collect();
        assert!(started.elapsed() < PATIENCE, "{counts:?} of {count}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_over_the_network_lose_their_leader_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut members = three(&folder).await;
    for number in 0..50 {
        propose(&members, &number.to_string()).await;
    }
    agreed(&members, 50).await;
    let seats = members[&1].member.handle.seats();
    assert!(seats.iter().all(|seat| seat.votes) && seats.len() == 3, "{seats:?}");

    let old = leader(&members).await;
    let address = members.remove(&old).unwrap().stop().await;
    let new = leader(&members).await;
    assert_ne!(new, old);
    for number in 50..60 {
        propose(&members, &number.to_string()).await;
    }
    members.insert(old, Served::start(&folder, old, Some(address)).await);
    agreed(&members, 60).await;
    for (_, served) in members {
        served.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_gets_a_snapshot_over_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let mut members = three(&folder).await;
    let leads = leader(&members).await;
    let away = leads % 3 + 1;
    let address = members.remove(&away).unwrap().stop().await;
    for number in 0..1000 {
        propose(&members, &number.to_string()).await;
    }
    let leads = leader(&members).await;
    members[&leads].member.until("purged", |figures| figures.purged_index > 500).await;
    members.insert(away, Served::start(&folder, away, Some(address)).await);
    agreed(&members, 1000).await;
    assert!(members[&away].member.recorder.journal().applied < 600, "most of it came as a snapshot");
    assert!(!folder.path().join(away.to_string()).join("snapshot.incoming").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over_and_seats_are_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let members = three(&folder).await;
    let old = leader(&members).await;
    let handle = &members[&old].member.handle;
    let wanted = old % 3 + 1;
    assert_eq!(handle.transfer(Some(wanted), PATIENCE).await.unwrap(), wanted);
    members[&wanted].member.led().await;
    assert_eq!(handle.transfer(None, PATIENCE).await, Err(SeatError::NotLeader));

    let handle = &members[&wanted].member.handle;
    assert_eq!(handle.remove_member(9).await, Err(SeatError::Unknown { id: 9 }));
    handle.remove_member(old).await.unwrap();
    assert_eq!(handle.seats().iter().map(|seat| seat.id).filter(|id| *id == old).count(), 0);
    // The leader itself: the one that is left leads, and can't be removed.
    handle.remove_member(wanted).await.unwrap();
    let last = 6 - old - wanted;
    members[&last].member.led().await;
    let handle = &members[&last].member.handle;
    assert_eq!(handle.remove_member(last).await, Err(SeatError::Last { id: last }));
    members[&last].member.propose("alone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_taken_and_a_member_that_never_comes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&folder, 1, None).await;
    served.member.handle.initialize_single().await.unwrap();
    served.member.led().await;
    let handle = &served.member.handle;
    let taken = handle.add_member(1, "127.0.0.1:1", PATIENCE).await;
    assert_eq!(taken, Err(SeatError::Taken { id: 1, address: served.address.to_string() }));
    let absent = handle.add_member(2, "127.0.0.1:1", Duration::from_millis(300)).await;
    assert!(matches!(absent, Err(SeatError::Behind { id: 2, .. })), "{absent:?}");
    // It learns, and doesn't count: the cluster goes on.
    served.member.propose("on").await;
    handle.remove_member(2).await.unwrap();
    served.member.propose("and on").await;
}

/// Dials, and counts it; or is refused each time.
fn counting(dials: &Arc<AtomicU64>, is_refused: bool) -> Dial {
    let dials = dials.clone();
    Arc::new(move |endpoint: Endpoint| {
        let dials = dials.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            dials.fetch_add(1, Ordering::Relaxed);
            async move {
                if is_refused {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                let address = uri.authority().map(ToString::to_string).unwrap_or_default();
                tokio::net::TcpStream::connect(address).await.map(TokioIo::new)
            }
        }))
    })
}

/// A member that leads alone and dials as it is told.
async fn dialling(folder: &TempDir, dial: Dial) -> Member {
    let network = |cluster_id: &Arc<str>| Network {
        cluster_id: cluster_id.clone(),
        member_id: 1,
        credential: None,
        dial,
    };
    let recorder = Recorder::default();
    let config = RaftConfig { cluster_id: Some("three".to_owned()), ..config(&folder.path().join("1")) };
    let opened = Raft::open_on(config, recorder.clone(), Arc::new(FileDisk), network, knock()).await;
    let (handle, raft) = opened.unwrap();
    let task = tokio::spawn(raft.run(CancellationToken::new()));
    let member = Member { handle, recorder, task };
    member.handle.initialize_single().await.unwrap();
    member.led().await;
    member
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_refuses_connections_is_dialled_with_pauses() {
    let folder = tempfile::tempdir().unwrap();
    let dials = Arc::default();
    let member = dialling(&folder, counting(&dials, true)).await;
    let absent = member.handle.add_member(2, "127.0.0.1:1", Duration::from_secs(1)).await;
    assert!(matches!(absent, Err(SeatError::Behind { id: 2, .. })), "{absent:?}");
    // Entries after 50, 100, 200 and 400 ms, a heartbeat each 100 ms; without pauses there are ten thousands.
    let dials = dials.load(Ordering::Relaxed);
    assert!((1..200).contains(&dials), "{dials} dials in a second");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_and_heartbeats_have_connections_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&folder, 2, None).await;
    let dials = Arc::default();
    let member = dialling(&folder, counting(&dials, false)).await;
    member.handle.add_member(2, &served.address.to_string(), PATIENCE).await.unwrap();
    let started = Instant::now();
    while dials.load(Ordering::Relaxed) < 2 {
        assert!(started.elapsed() < PATIENCE, "one connection for both");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_asked_before_and_silence_is_no_grant() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&folder, 1, None).await;
    served.member.handle.initialize_single().await.unwrap();
    served.member.led().await;
    let term = served.member.handle.leadership().borrow().term;
    let network = |is_refused| Network {
        cluster_id: "three".into(),
        member_id: 2,
        credential: None,
        dial: counting(&Arc::default(), is_refused),
    };
    let request = VoteRequest::new(Vote::new(term + 1, 2), None);
    let option = RPCOption::new(PATIENCE);
    let node = BasicNode { addr: served.address.to_string() };
    let mut client = network(false).new_client(1, &node).await;
    let answer = client.pre_vote(request.clone(), option.clone()).await.unwrap();
    assert!(!answer.vote_granted, "it leads, and its log is longer");
    assert_eq!(served.member.handle.leadership().borrow().term, term, "the question changed nothing");
    let mut client = network(true).new_client(1, &node).await;
    client.pre_vote(request, option).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_meant_for_this_member_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&folder, 1, None).await;
    let mut client = MembersClient::connect(format!("http://{}", served.address)).await.unwrap();
    let mut refused = String::new();
    for (cluster, from, to) in [("two", 2, 1), ("three", 2, 3), ("three", 1, 1), ("three", 0, 1)] {
        let mut request = Request::new(wire::VoteRequest::default());
        let metadata = request.metadata_mut();
        metadata.insert("muster-cluster-id", cluster.parse().unwrap());
        if from > 0 {
            metadata.insert("muster-from-member", from.into());
        }
        metadata.insert("muster-to-member", to.into());
        let status = client.vote(request).await.unwrap_err();
        refused += &format!("{:?}: {}\n", status.code(), status.message());
    }
    expect_test::expect![[r#"
        FailedPrecondition: this member is of cluster `three`, and the call is of cluster `two`; check the address, or give one of the two members an empty data directory
        FailedPrecondition: this is member 1, and the call is for member 3; check the addresses of both
        FailedPrecondition: two members call themselves 1; give one of them an empty data directory and another id
        InvalidArgument: the call doesn't say who calls
    "#]]
    .assert_eq(&refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_cut_or_damaged_on_its_way_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&folder, 1, None).await;
    let mut client = MembersClient::connect(format!("http://{}", served.address)).await.unwrap();
    let head = |term, bytes, crc| {
        let header = proto::raft::v1::SnapshotHeader {
            last: Some(proto::raft::v1::LogId { term: 3, index: 10 }),
            membership: Some(proto::raft::v1::StoredMembership {
                log_id: None,
                membership: Some(proto::raft::v1::Membership::default()),
            }),
            state_bytes: bytes,
            state_crc: crc,
            cluster_id: String::new(),
        };
        let vote = proto::raft::v1::Vote { term, member_id: 2, is_committed: true };
        Piece::Head(wire::SnapshotHead { vote: Some(vote), header: Some(header) })
    };
    let state = || Piece::State(b"state".as_slice().into());
    let crc = crc32fast::hash(b"state");
    let attempts = [
        vec![state()],
        vec![],
        vec![head(3, 6, crc), state()],
        vec![head(3, 4, crc), state()],
        vec![head(3, 5, crc + 1), state()],
        vec![head(3, 5, crc), head(3, 5, crc)],
        vec![head(2, 5, crc), state()],
    ];
    for pieces in attempts {
        let shown = format!("{pieces:?}");
        let pieces = pieces.into_iter().map(|piece| wire::SnapshotPiece { piece: Some(piece) });
        let mut request = Request::new(tokio_stream::iter(pieces.collect::<Vec<_>>()));
        let metadata = request.metadata_mut();
        metadata.insert("muster-cluster-id", "three".parse().unwrap());
        metadata.insert("muster-from-member", 2.into());
        metadata.insert("muster-to-member", 1.into());
        let status = client.install_snapshot(request).await.unwrap_err();
        assert!(matches!(status.code(), Code::DataLoss | Code::InvalidArgument), "{shown}: {status:?}");
    }
    assert_eq!(served.member.handle.metrics().snapshot_index, 0);
    assert_eq!(served.member.recorder.journal().commands, []);
}
