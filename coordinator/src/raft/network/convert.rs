//! Messages between members to openraft's and back.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use proto::{
    members::v1 as wire,
    raft::v1::{self as stored, SnapshotHeader},
};

use super::super::{
    record::{
        RecordError, log_id_from_wire, log_id_to_wire, payload_from_wire, payload_to_wire,
        stored_membership_from_wire, stored_membership_to_wire, vote_from_wire, vote_to_wire,
    },
    types::{Entry, LogId, SnapshotMeta, Types, Vote},
};

pub fn append_to_wire(request: &AppendEntriesRequest<Types>) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_wire),
        entries: request.entries.iter().map(entry_to_wire).collect(),
        committed: request.leader_commit.as_ref().map(log_id_to_wire),
    }
}

pub fn append_from_wire(request: wire::AppendRequest) -> Result<AppendEntriesRequest<Types>, RecordError> {
    let wire::AppendRequest { vote, previous, entries, committed } = request;
    Ok(AppendEntriesRequest {
        vote: required_vote(vote)?,
        prev_log_id: previous.map(log_id_from_wire),
        entries: entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?,
        leader_commit: committed.map(log_id_from_wire),
    })
}

fn entry_to_wire(entry: &Entry) -> wire::Entry {
    wire::Entry { id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload_to_wire(&entry.payload)) }
}

fn entry_from_wire(entry: wire::Entry) -> Result<Entry, RecordError> {
    let id = entry.id.ok_or(RecordError::Content)?;
    let payload = entry.payload.ok_or(RecordError::Content)?;
    Ok(Entry { log_id: log_id_from_wire(id), payload: payload_from_wire(payload)? })
}

pub fn appended_to_wire(result: StreamAppendResult<Types>) -> wire::AppendResponse {
    use wire::append_response::Result as Kind;
    let kind = match result {
        Ok(last) => Kind::Matched(matched(last)),
        Err(StreamAppendError::Conflict(id)) => Kind::Conflict(log_id_to_wire(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Kind::Later(vote_to_wire(&vote)),
    };
    wire::AppendResponse { result: Some(kind) }
}

pub fn appended_from_wire(response: wire::AppendResponse) -> Result<StreamAppendResult<Types>, RecordError> {
    use wire::append_response::Result as Kind;
    Ok(match response.result.ok_or(RecordError::Content)? {
        Kind::Matched(wire::Matched { last }) => Ok(last.map(log_id_from_wire)),
        Kind::Conflict(id) => Err(StreamAppendError::Conflict(log_id_from_wire(id))),
        Kind::Later(vote) => Err(StreamAppendError::HigherVote(vote_from_wire(vote))),
    })
}

fn matched(last: Option<LogId>) -> wire::Matched {
    wire::Matched { last: last.as_ref().map(log_id_to_wire) }
}

pub fn vote_request_to_wire(request: &VoteRequest<Types>) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_wire),
        is_transfer: request.leadership_transfer,
    }
}

pub fn vote_request_from_wire(request: wire::VoteRequest) -> Result<VoteRequest<Types>, RecordError> {
    let wire::VoteRequest { vote, last, is_transfer } = request;
    let mut request = VoteRequest::new(required_vote(vote)?, last.map(log_id_from_wire));
    request.leadership_transfer = is_transfer;
    Ok(request)
}

pub fn vote_response_to_wire(response: &VoteResponse<Types>) -> wire::VoteResponse {
    wire::VoteResponse {
        vote: Some(vote_to_wire(&response.vote)),
        is_granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub fn vote_response_from_wire(response: wire::VoteResponse) -> Result<VoteResponse<Types>, RecordError> {
    let wire::VoteResponse { vote, is_granted, last } = response;
    Ok(VoteResponse::new(required_vote(vote)?, last.map(log_id_from_wire), is_granted))
}

pub fn snapshot_head_to_wire(vote: &Vote, meta: &SnapshotMeta, bytes: u64, crc: u32) -> wire::SnapshotHead {
    wire::SnapshotHead {
        vote: Some(vote_to_wire(vote)),
        header: Some(SnapshotHeader {
            last: meta.last_log_id.as_ref().map(log_id_to_wire),
            membership: Some(stored_membership_to_wire(&meta.last_membership)),
            state_bytes: bytes,
            state_crc: crc,
            // Every call names it already.
            cluster_id: String::new(),
        }),
    }
}

/// The vote, what the snapshot covers, and length and checksum of its state.
pub fn snapshot_head_from_wire(
    head: wire::SnapshotHead,
) -> Result<(Vote, SnapshotMeta, u64, u32), RecordError> {
    let SnapshotHeader { last, membership, state_bytes, state_crc, cluster_id: _ } =
        head.header.ok_or(RecordError::Content)?;
    let meta = SnapshotMeta {
        last_log_id: last.map(log_id_from_wire),
        last_membership: stored_membership_from_wire(membership.ok_or(RecordError::Content)?)?,
    };
    Ok((required_vote(head.vote)?, meta, state_bytes, state_crc))
}

pub fn transfer_to_wire(request: &TransferLeaderRequest<Types>) -> wire::TransferLeaderRequest {
    wire::TransferLeaderRequest {
        from: Some(vote_to_wire(request.from_leader())),
        to_member_id: *request.to_node_id(),
        last: request.last_log_id().map(log_id_to_wire),
    }
}

pub fn transfer_from_wire(
    request: wire::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Types>, RecordError> {
    let wire::TransferLeaderRequest { from, to_member_id, last } = request;
    Ok(TransferLeaderRequest::new(required_vote(from)?, to_member_id, last.map(log_id_from_wire)))
}

pub fn transferred_to_wire(response: TransferLeaderResponse<Types>) -> wire::TransferLeaderResponse {
    use wire::transfer_leader_response::Refusal;
    let refusal = match response {
        Ok(()) => None,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => Some(Refusal::Changed(vote_to_wire(&actual))),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => Some(Refusal::Behind(matched(actual))),
    };
    wire::TransferLeaderResponse { refusal }
}

/// `request`: what was asked, which the error repeats.
pub fn transferred_from_wire(
    response: wire::TransferLeaderResponse,
    request: &TransferLeaderRequest<Types>,
) -> TransferLeaderResponse<Types> {
    use wire::transfer_leader_response::Refusal;
    match response.refusal {
        None => Ok(()),
        Some(Refusal::Changed(vote)) => Err(TransferLeaderError::VoteChanged {
            expected: *request.from_leader(),
            actual: vote_from_wire(vote),
        }),
        Some(Refusal::Behind(wire::Matched { last })) => Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: last.map(log_id_from_wire),
        }),
    }
}

pub fn required_vote(vote: Option<stored::Vote>) -> Result<Vote, RecordError> {
    vote.map(vote_from_wire).ok_or(RecordError::Content)
}
