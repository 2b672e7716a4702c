//! What a member answers to the others.
//!
//! A call of another cluster, or one that is meant for another member, is refused before anything of it is
//! looked at: an address may have been given to somebody else.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    pin::Pin,
    sync::Arc,
};

use futures::{Stream, StreamExt as _, future};
use openraft::{
    async_runtime::watch::WatchReceiver as _,
    errors::{Fatal, RaftError},
    type_config::alias::SnapshotOf,
};
use proto::members::v1::{
    self as wire,
    members_server::{Members, MembersServer},
};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    super::{
        aside::aside,
        limits::MESSAGE_BYTES_MAX,
        member::Openraft,
        record::vote_to_wire,
        snapshot::SnapshotFile,
        succession::Watched,
        types::{MemberId, Types, term_of},
    },
    CLUSTER_KEY, FROM_MEMBER_KEY, TO_KEY, convert,
};

/// The service of one member, to be served beside others.
pub type Service = MembersServer<Answers>;

/// One member's answers.
pub struct Answers {
    raft: Openraft,
    cluster_id: Arc<str>,
    member_id: MemberId,
    version_supported: u32,
    /// Where a snapshot is gathered, one at a time.
    incoming: Mutex<Arc<Path>>,
    /// Hears of members whose streams break off.
    broken: mpsc::Sender<MemberId>,
    stop: CancellationToken,
}

/// The service, with its bounds.
pub fn service(
    raft: Openraft,
    cluster_id: Arc<str>,
    member_id: MemberId,
    version_supported: u32,
    incoming: Arc<Path>,
    broken: mpsc::Sender<MemberId>,
    stop: CancellationToken,
) -> Service {
    MembersServer::new(Answers {
        raft,
        cluster_id,
        member_id,
        version_supported,
        incoming: Mutex::new(incoming),
        broken,
        stop,
    })
    .max_decoding_message_size(MESSAGE_BYTES_MAX)
    .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

type Appended = Pin<Box<dyn Stream<Item = Result<wire::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Members for Answers {
    type AppendStream = Appended;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Appended>, Status> {
        let from = self.check(request.metadata())?;
        // The stream ends with the first message that can't be read; the other side begins another.
        let messages = Watched::new(request.into_inner(), from, self.broken.clone());
        let requests = messages.scan((), move |(), message| {
            let request = message.ok().map(convert::append_from_wire);
            if let Some(Err(error)) = &request {
                tracing::warn!(from, %error, "another member sent entries that make no sense");
            }
            future::ready(request.and_then(Result::ok))
        });
        let requests = requests.take_until(self.stop.clone().cancelled_owned());
        let answers = self.raft.stream_append(requests).map(|answer| match answer {
            Ok(result) => Ok(convert::appended_to_wire(result)),
            Err(fatal) => Err(stopped(&fatal)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        self.check(request.metadata())?;
        let request = convert::vote_request_from_wire(request.into_inner()).map_err(senseless)?;
        let answer = self.raft.vote(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(convert::vote_response_to_wire(&answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        self.check(request.metadata())?;
        let request = convert::vote_request_from_wire(request.into_inner()).map_err(senseless)?;
        let answer = self.raft.pre_vote(request).await.map_err(|error| failed(&error))?;
        if !answer.vote_granted {
            // Whoever asks may have seen what this member had no open stream to see: next time it may agree.
            let leader = self.raft.metrics().borrow_watched().current_leader;
            if let Some(leader) = leader.filter(|leader| *leader != self.member_id) {
                let _ = self.broken.try_send(leader);
            }
        }
        Ok(Response::new(convert::vote_response_to_wire(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPiece>>,
    ) -> Result<Response<wire::InstallSnapshotResponse>, Status> {
        let from = self.check(request.metadata())?;
        // Held until it is installed: two at once would share the file.
        let path = self.incoming.lock().await;
        let mut pieces = request.into_inner();
        let head = match pieces.message().await?.and_then(|first| first.piece) {
            Some(wire::snapshot_piece::Piece::Head(head)) => head,
            Some(wire::snapshot_piece::Piece::State(_)) | None => {
                return Err(Status::invalid_argument("a snapshot begins with its head"));
            }
        };
        let (vote, meta, bytes, crc) = convert::snapshot_head_from_wire(head).map_err(senseless)?;
        // openraft takes such a snapshot for a broken cluster, and panics.
        if meta.last_log_id.is_some_and(|last| term_of(&last) > vote.leader_id.term) {
            return Err(Status::invalid_argument("a snapshot can't be newer than who sends it"));
        }
        tracing::info!(from, bytes, "a snapshot comes in");
        let file = gather(&path, pieces, bytes, crc).await?;
        let snapshot = SnapshotOf::<Types, SnapshotFile> { meta, snapshot: file };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await;
        // It has its own name by now, or was refused.
        let _ = tokio::fs::remove_file(&*path).await;
        let answer = answer.map_err(|fatal| stopped(&fatal))?;
        Ok(Response::new(wire::InstallSnapshotResponse { vote: Some(vote_to_wire(&answer.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        self.check(request.metadata())?;
        let request = convert::transfer_from_wire(request.into_inner()).map_err(senseless)?;
        let answer = self.raft.handle_transfer_leader(request).await.map_err(|fatal| stopped(&fatal))?;
        Ok(Response::new(convert::transferred_to_wire(answer)))
    }

    async fn support(
        &self,
        request: Request<wire::SupportRequest>,
    ) -> Result<Response<wire::SupportResponse>, Status> {
        self.check(request.metadata())?;
        Ok(Response::new(wire::SupportResponse { cluster_version: self.version_supported }))
    }
}

impl Answers {
    /// Refuses calls that are not meant for this member of this cluster; gives who calls.
    fn check(&self, metadata: &MetadataMap) -> Result<MemberId, Status> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let cluster = text(CLUSTER_KEY);
        if cluster != &*self.cluster_id {
            return Err(Status::failed_precondition(format!(
                "this member is of cluster `{}`, and the call is of cluster `{cluster}`; check the address, or \
                 give one of the two members an empty data directory",
                self.cluster_id
            )));
        }
        let member = |key| text(key).parse::<MemberId>().ok();
        if member(TO_KEY) != Some(self.member_id) {
            return Err(Status::failed_precondition(format!(
                "this is member {}, and the call is for member {}; check the addresses of both",
                self.member_id,
                text(TO_KEY)
            )));
        }
        let from = member(FROM_MEMBER_KEY)
            .ok_or_else(|| Status::invalid_argument("the call doesn't say who calls"))?;
        if from == self.member_id {
            return Err(Status::failed_precondition(format!(
                "two members call themselves {from}; give one of them an empty data directory and another id"
            )));
        }
        Ok(from)
    }
}

/// Writes the state to disk and checks that it is whole.
async fn gather(
    path: &Path,
    mut pieces: Streaming<wire::SnapshotPiece>,
    bytes: u64,
    crc: u32,
) -> Result<SnapshotFile, Status> {
    let wrote = |error: io::Error| Status::internal(format!("can't store the snapshot: {error}"));
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(wrote)?;
    let mut found = 0_u64;
    let mut hasher = crc32fast::Hasher::new();
    while let Some(piece) = pieces.message().await? {
        let Some(wire::snapshot_piece::Piece::State(state)) = piece.piece else {
            return Err(Status::invalid_argument("a snapshot has one head, and pieces of state after it"));
        };
        found += state.len() as u64;
        if found > bytes {
            break;
        }
        hasher.update(&state);
        file = aside(move || file.write_all(&state).map(|()| file)).await.map_err(wrote)?;
    }
    if found != bytes {
        return Err(Status::data_loss(format!("the snapshot has {found} bytes of {bytes}; send it again")));
    }
    if hasher.finalize() != crc {
        return Err(Status::data_loss("the snapshot's checksum is wrong; send it again"));
    }
    Ok(SnapshotFile::new(file, bytes, crc))
}

fn senseless(error: super::super::record::RecordError) -> Status {
    Status::invalid_argument(format!("the message makes no sense: {error}"))
}

fn failed(error: &RaftError<Types>) -> Status {
    match error {
        RaftError::Fatal(fatal) => stopped(fatal),
        RaftError::APIError(never) => match *never {},
    }
}

fn stopped(fatal: &Fatal<Types>) -> Status {
    Status::unavailable(format!("this member has stopped: {fatal}"))
}
