//! How members reach each other: one gRPC service, and a client for each other member.
//!
//! openraft gets three clients for each member, each with a connection of its own: entries, heartbeats and
//! snapshots never wait for one another. Every failure is *unreachable*, for which openraft waits before it
//! tries again. Start at [`Network`] for what is sent, at `service.rs` for what is answered.

pub(super) mod convert;
mod peers;
mod service;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt as _, future, stream};
use identity::Connector;
use openraft::{
    OptionalSend, RaftNetworkFactory,
    base::{BoxFuture, BoxStream},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    impls::BasicNode,
    network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption},
    raft::{
        AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use proto::members::v1::{self as wire, members_client::MembersClient};
use tokio::time::timeout;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{
    aside::aside,
    limits::{MESSAGE_BYTES_MAX, SNAPSHOT_PIECE_BYTES},
    snapshot::SnapshotFile,
    types::{MemberId, SnapshotMeta, Types, Vote},
};

pub use peers::Peers;
pub use service::{Service, service};

/// Names of the metadata that every call carries.
const CLUSTER_KEY: &str = "muster-cluster-id";
pub const FROM_MEMBER_KEY: &str = "muster-from-member";
const TO_KEY: &str = "muster-to-member";

/// A new connection is tried this long; a lost SYN would cost a second, so another is sent before.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// A connection on which nothing was heard for so long is asked whether it lives …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// … and must answer within this: after a cut, TCP alone would wait for minutes.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Entries are answered when they are on disk there; a stream whose answers wait longer is given up.
const APPEND_PATIENCE: Duration = Duration::from_secs(2);
/// A snapshot is answered when it is on disk there and in the state: 10 GB at 20 MB/s.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(500);
/// First and longest pause before a member that can't be reached is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Makes a client for each other member.
#[derive(Clone)]
pub struct Network {
    pub cluster_id: Arc<str>,
    pub member_id: MemberId,
    /// Shown with every call, as every caller of this port must.
    pub credential: Option<MetadataValue<Ascii>>,
    pub dial: Dial,
}

/// Makes the channel to an address: it connects when it is used first, and again whenever it must.
pub type Dial = Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>;

/// The way to one other member.
pub struct Client {
    network: Network,
    target: MemberId,
    /// The address itself may be wrong: then every call says so.
    members: Result<MembersClient<Channel>, String>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    // Called once for entries, once for heartbeats and once for each snapshot: a connection for each.
    async fn new_client(&mut self, target: MemberId, node: &BasicNode) -> Client {
        let members = connect(&node.addr, &self.dial)
            .map_err(|error| format!("can't use address `{}`: {error}", node.addr));
        Client { network: self.clone(), target, members }
    }
}

/// How every other member is dialled.
pub fn dial(tls: Option<Arc<rustls::ClientConfig>>) -> Dial {
    let connector = Connector::new(tls, CONNECT_PATIENCE);
    Arc::new(move |endpoint| endpoint.connect_with_connector_lazy(connector.clone()))
}

fn connect(address: &str, dial: &Dial) -> Result<MembersClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(MembersClient::new(dial(endpoint))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

impl Client {
    fn members(&self) -> Result<MembersClient<Channel>, Unreachable<Types>> {
        self.members.clone().map_err(Unreachable::from_string)
    }

    /// The call with everything that says who calls whom.
    fn request<T>(&self, message: T) -> Result<Request<T>, Unreachable<Types>> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let text = |text: &str| MetadataValue::try_from(text).map_err(|error| Unreachable::new(&error));
        metadata.insert(CLUSTER_KEY, text(&self.network.cluster_id)?);
        metadata.insert(FROM_MEMBER_KEY, self.network.member_id.into());
        metadata.insert(TO_KEY, self.target.into());
        if let Some(credential) = &self.network.credential {
            metadata.insert("authorization", credential.clone());
        }
        Ok(request)
    }

    fn failed(&self, status: &Status) -> Unreachable<Types> {
        Unreachable::from_string(format!("member {}: {}", self.target, status.message()))
    }

    fn late(&self, patience: Duration) -> Unreachable<Types> {
        Unreachable::from_string(format!("member {}: no answer within {patience:?}", self.target))
    }

    fn cut_short(&self) -> Unreachable<Types> {
        Unreachable::from_string(format!("member {} ended its answers early", self.target))
    }

    fn absurd(&self, error: &super::record::RecordError) -> Unreachable<Types> {
        Unreachable::from_string(format!(
            "member {} sent an answer that makes no sense: {error}",
            self.target
        ))
    }

    /// One call and its answer.
    async fn call<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Unreachable<Types>> {
        match timeout(patience, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_elapsed) => Err(self.late(patience)),
        }
    }

    async fn append<S>(
        &mut self,
        mut input: S,
        setup: Duration,
    ) -> Result<BoxStream<'_, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        // openraft makes its pause after a failure before it gives the next request. To dial needs no request, so
        // without waiting for one here, a member that refuses connections would be dialled without any pause.
        let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
        let input = stream::once(future::ready(first)).chain(input);
        // How many were sent and not answered: only then is silence a failure.
        let waiting = Arc::new(AtomicU64::new(0));
        let sent = waiting.clone();
        let outgoing = input.map(move |request| {
            sent.fetch_add(1, Ordering::Relaxed);
            convert::append_to_wire(&request)
        });
        let mut members = self.members()?;
        let request = self.request(outgoing)?;
        let incoming = self.call(setup, members.append(request)).await?;
        let this = &*self;
        let answers = stream::unfold(Some(incoming), move |incoming| {
            let waiting = waiting.clone();
            async move {
                let mut incoming = incoming?;
                let answer = loop {
                    match timeout(APPEND_PATIENCE, incoming.message()).await {
                        Ok(answer) => break answer.map_err(|status| this.failed(&status)),
                        Err(_elapsed) if waiting.load(Ordering::Relaxed) == 0 => {}
                        Err(_elapsed) => break Err(this.late(APPEND_PATIENCE)),
                    }
                };
                let answer = match answer {
                    Ok(Some(answer)) => {
                        waiting.fetch_sub(1, Ordering::Relaxed);
                        convert::appended_from_wire(answer).map_err(|error| this.absurd(&error))
                    }
                    Ok(None) if waiting.load(Ordering::Relaxed) == 0 => return None,
                    Ok(None) => Err(this.cut_short()),
                    Err(error) => Err(error),
                };
                let goes_on = matches!(answer, Ok(Ok(_)));
                Some((answer.map_err(RPCError::Unreachable), goes_on.then_some(incoming)))
            }
        });
        Ok(answers.boxed())
    }

    async fn send_snapshot(
        &mut self,
        vote: Vote,
        meta: &SnapshotMeta,
        file: SnapshotFile,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let head = convert::snapshot_head_to_wire(&vote, meta, file.bytes(), file.crc());
        let head = wire::snapshot_piece::Piece::Head(head);
        // A piece that can't be read ends the stream early, which the other side refuses.
        let state = stream::unfold((file, 0_u64), |(file, at)| async move {
            let reader = file.clone();
            let piece = match aside(move || reader.piece(at, SNAPSHOT_PIECE_BYTES)).await {
                Ok(piece) if piece.is_empty() => return None,
                Ok(piece) => piece,
                Err(error) => {
                    tracing::error!(%error, "can't read the snapshot that another member needs");
                    return None;
                }
            };
            let next = at + piece.len() as u64;
            Some((wire::snapshot_piece::Piece::State(piece.into()), (file, next)))
        });
        let pieces = stream::once(future::ready(head)).chain(state);
        let request = self.request(pieces.map(|piece| wire::SnapshotPiece { piece: Some(piece) }))?;
        let mut members = self.members()?;
        let answer = self.call(SNAPSHOT_PATIENCE, members.install_snapshot(request)).await?;
        let vote = convert::required_vote(answer.vote).map_err(|error| self.absurd(&error))?;
        Ok(SnapshotResponse::new(vote))
    }
}

impl NetStreamAppend<Types> for Client {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(self.append(input, option.soft_ttl()))
    }
}

impl NetVote<Types> for Client {
    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = self.request(convert::vote_request_to_wire(&request))?;
        let mut members = self.members()?;
        let answer = self.call(option.soft_ttl(), members.vote(request)).await?;
        Ok(convert::vote_response_from_wire(answer).map_err(|error| self.absurd(&error))?)
    }

    // openraft's default grants, which would turn pre-vote off without a word.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = self.request(convert::vote_request_to_wire(&request))?;
        let mut members = self.members()?;
        let answer = self.call(option.soft_ttl(), members.pre_vote(request)).await?;
        Ok(convert::vote_response_from_wire(answer).map_err(|error| self.absurd(&error))?)
    }
}

impl NetSnapshot<Types> for Client {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.send_snapshot(vote, &snapshot.meta, snapshot.snapshot) => answer,
        }
    }
}

impl NetTransferLeader<Types> for Client {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = self.request(convert::transfer_to_wire(&request))?;
        let mut members = self.members()?;
        let answer = self.call(option.soft_ttl(), members.transfer_leader(message)).await?;
        Ok(convert::transferred_from_wire(answer, &request))
    }
}

impl NetBackoff<Types> for Client {
    fn backoff(&self) -> Option<Backoff> {
        let pauses = std::iter::successors(Some(PAUSE_MIN), |pause| Some((*pause * 2).min(PAUSE_MAX)));
        Some(Backoff::new(pauses))
    }
}
