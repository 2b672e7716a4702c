//! What runs on a simulated host: a real member over simulated sockets and disk, and clients beside it.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use futures::{FutureExt as _, stream};
use hyper_util::rt::TokioIo;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{
    Endpoint, Server, Uri,
    server::{Connected, TcpConnectInfo},
};

use super::{
    super::{
        super::{
            config::Timing,
            network::{Dial, Network},
            succession::Knock,
            types::MemberId,
        },
        ProposeError, Raft, RaftConfig, RaftHandle,
    },
    history::{CallId, Op},
    machine::{Published, Registers, encode, number},
    planted::Bug,
    world::{Phase, Wall, World},
};

const PORT: u16 = 5050;
const CLIENTS: u64 = 2;
/// What a client waits for an answer; then its fate is unknown.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn name(id: MemberId) -> String {
    format!("m{id}")
}

fn config(world: &World, id: MemberId) -> RaftConfig {
    RaftConfig {
        cluster_id: Some("simulated".to_owned()),
        // Small, so that snapshots and purges come often.
        snapshot_entries: world.snapshot_entries,
        kept_entries: world.snapshot_entries / 4,
        timing: Timing::of(world.election_timeout),
        ..RaftConfig::new(world.folder.join(id.to_string()), id, format!("{}:{PORT}", name(id)))
    }
}

/// A member's life, from one start to its crash.
pub async fn live(world: World, id: MemberId) -> turmoil::Result {
    let published = Published::default();
    let machine = Registers {
        member: id,
        world: world.clone(),
        registers: Default::default(),
        published: published.clone(),
        last: None,
    };
    let disk = world.disk(id);
    let network = |cluster_id: &Arc<str>| Network {
        cluster_id: cluster_id.clone(),
        member_id: id,
        credential: None,
        dial: dial(),
    };
    let disks = Arc::new(disk.clone());
    let opened = Raft::open_on(config(&world, id), machine, disks, network, knock(world.clone())).await;
    let (handle, raft) = match opened {
        Ok(opened) => opened,
        Err(_) if disk.is_cut() => return std::future::pending().await,
        Err(error) => return Err(format!("member {id} can't start: {error}: {:?}", error).into()),
    };
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
    let incoming = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, listener))
    });
    tokio::spawn(
        Server::builder()
            .add_service(handle.service(CancellationToken::new()))
            .serve_with_incoming(Box::pin(incoming)),
    );
    if id == 1 {
        tokio::spawn(form(world.clone(), handle.clone()));
    }
    tokio::spawn(watch_lead(world.clone(), handle.clone()));
    for _ in 0..CLIENTS {
        let seed = world.draw();
        tokio::spawn(call(world.clone(), handle.clone(), published.clone(), SmallRng::seed_from_u64(seed)));
    }
    world.runs(id, handle, published);
    let ended = raft.run(CancellationToken::new()).await;
    if disk.is_cut() {
        return std::future::pending().await;
    }
    Err(format!("member {id} ended by itself: {ended:?}").into())
}

/// The first member begins the cluster and gives the others their votes.
async fn form(world: World, handle: RaftHandle) {
    if world.phase() != Phase::Forming || handle.initialize_single().await.is_err() {
        return;
    }
    for id in 2..=world.members {
        let address = format!("{}:{PORT}", name(id));
        while handle.add_member(id, &address, Duration::from_secs(10)).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    }
    world.enter(Phase::Faults);
}

/// Tells the history who leads.
async fn watch_lead(world: World, handle: RaftHandle) {
    let mut leadership = handle.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if now.is_leader {
            world.history().leads(now.term, handle.member_id());
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// A client that asks the member of its own host, whatever that believes to be.
async fn call(world: World, handle: RaftHandle, published: Published, mut chance: SmallRng) {
    let mut client = world.history().client();
    loop {
        sleep(Duration::from_micros(chance.random_range(500..world.pause_us))).await;
        let leads = handle.leadership().borrow().is_leader;
        let (key, is_read) = match world.phase() {
            Phase::Forming => continue,
            // Most members that don't lead would only say so.
            Phase::Faults if !leads && chance.random_bool(0.98) => continue,
            Phase::Faults => (world.history().key(), chance.random_bool(0.5)),
            Phase::Calm if !leads => continue,
            Phase::Calm => match world.last_reads().pop_first() {
                Some(key) => (key, true),
                None => continue,
            },
        };
        let op = if is_read { Op::Read } else { Op::Swap(world.history().value()) };
        let id = world.history().invoked(client, key, op);
        let is_known = match op {
            Op::Read => {
                let read = timeout(PATIENCE, read(&world, &handle, &published, key)).await.ok().flatten();
                note_read(&world, id, read);
                if read.is_none() && world.phase() == Phase::Calm {
                    world.last_reads().insert(key);
                }
                true
            }
            Op::Swap(value) => {
                let written = timeout(PATIENCE, write(&world, &handle, encode(key, value))).await;
                note_write(&world, id, written)
            }
        };
        if !is_known {
            // Whoever waits for an answer asks nothing else: the next call is another client's.
            client = world.history().client();
        }
    }
}

async fn read(world: &World, handle: &RaftHandle, published: &Published, key: u64) -> Option<u64> {
    if world.bug == Some(Bug::ReadWithoutQuorum) {
        handle.leadership().borrow().is_leader.then_some(())?;
    } else {
        handle.ensure_linearizable().await.ok()?;
    }
    Some(published.lock().unwrap().get(&key).copied().unwrap_or(0))
}

async fn write(world: &World, handle: &RaftHandle, command: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
    if world.bug == Some(Bug::AnsweredBeforeCommitted) && handle.leadership().borrow().is_leader {
        let key = number(&command[..8]);
        let before = world.published_now(handle.member_id(), key);
        let handle = handle.clone();
        tokio::spawn(async move { handle.propose(command).await });
        return Ok(before.to_le_bytes().to_vec());
    }
    handle.propose(command).await
}

fn note_read(world: &World, id: CallId, read: Option<u64>) {
    match read {
        Some(value) => world.history().answered(id, value),
        None => world.history().refused(id),
    }
}

/// Whether the write's fate is known.
fn note_write<E>(world: &World, id: CallId, written: Result<Result<Vec<u8>, ProposeError>, E>) -> bool {
    match written {
        Ok(Ok(before)) => world.history().answered(id, number(&before)),
        Ok(Err(ProposeError::Unknown)) | Err(_) => return false,
        Ok(Err(
            ProposeError::NotLeader { .. }
            | ProposeError::Busy
            | ProposeError::TooLarge { .. }
            | ProposeError::Stopped,
        )) => world.history().refused(id),
    }
    true
}

/// Dials over turmoil instead of the kernel.
fn dial() -> Dial {
    Arc::new(|endpoint: Endpoint| {
        endpoint.connect_with_connector_lazy(tower::service_fn(|uri: Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let dialled = timeout(Duration::from_millis(500), turmoil::net::TcpStream::connect((host, PORT)));
            let stream = dialled.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }))
    })
}

/// Knocks over turmoil.
fn knock(world: World) -> Knock {
    Arc::new(move |address| {
        let wall = match world.gone().iter().any(|id| address == format!("{}:{PORT}", name(*id))) {
            true => Wall::Refuses,
            false => world.wall(),
        };
        async move {
            match wall {
                Wall::No => turmoil::net::TcpStream::connect(address).await.map(drop),
                Wall::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                Wall::Accepts => Ok(()),
            }
        }
        .boxed()
    })
}

/// A connection that tonic takes.
struct Accepted(turmoil::net::TcpStream);

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.0.local_addr().ok(), remote_addr: self.0.peer_addr().ok() }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
