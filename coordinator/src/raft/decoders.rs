//! What is read of the disk and of other members, for the fuzzers: see [`crate::decoders`].
//!
//! A checksum would keep a fuzzer out of all that is behind it, so it is put right first.

use std::fs::File;

use proto::{members::v1 as members, raft::v1 as raft};

use super::{
    network::convert,
    record::{self, FRAME_HEAD_BYTES, payload_from_wire, stored_membership_from_wire},
    snapshot::read_head,
};

/// A frame that can be read is written as it was read.
pub fn log_frame(bytes: &[u8]) {
    // It may be refused.
    let _ = record::decode_frame(bytes);
    if bytes.len() < FRAME_HEAD_BYTES {
        return;
    }
    let mut bytes = bytes.to_vec();
    let crc = crc32fast::hash(bytes.get(5..).unwrap_or_default());
    if let Some(place) = bytes.get_mut(..5) {
        place.copy_from_slice(&[[record::FORMAT].as_slice(), &crc.to_le_bytes()].concat());
    }
    let Ok(frame) = record::decode_frame(&bytes) else { return };
    let (written, _) = record::encode_frame(&frame.entry, frame.previous_crc);
    let again = record::decode_frame(&written).map(|again| again.entry);
    assert!(again.is_ok_and(|again| again == frame.entry), "an entry isn't what was written");
}

pub fn snapshot_file(file: File) {
    let Ok((snapshot, _)) = read_head(file) else { return };
    // It may be damaged.
    let _ = snapshot.file.read();
}

/// What stands beside the log: how far it is on disk, and the vote.
pub fn sealed_record(bytes: &[u8]) {
    // Either may be none.
    let _ = record::unseal::<raft::Watermark>(bytes);
    let sealed = [[record::FORMAT].as_slice(), &crc32fast::hash(bytes).to_le_bytes(), bytes].concat();
    let Ok(mark) = record::unseal::<raft::Watermark>(&sealed) else { return };
    let again = record::unseal(&record::seal(&mark));
    assert!(again == Ok(mark), "a record isn't what was written");
}

pub fn append(request: members::AppendRequest) {
    let Ok(request) = convert::append_from_wire(request) else { return };
    let again = convert::append_from_wire(convert::append_to_wire(&request));
    assert!(again.is_ok_and(|again| again.entries == request.entries), "entries aren't what was written");
}

pub fn appended(response: members::AppendResponse) {
    drop(convert::appended_from_wire(response).map(convert::appended_to_wire));
}

pub fn vote(request: members::VoteRequest) {
    drop(convert::vote_request_from_wire(request));
}

pub fn voted(response: members::VoteResponse) {
    drop(convert::vote_response_from_wire(response));
}

pub fn snapshot_head(head: members::SnapshotHead) {
    drop(convert::snapshot_head_from_wire(head));
}

pub fn transfer(request: members::TransferLeaderRequest) {
    drop(convert::transfer_from_wire(request));
}

pub fn membership(membership: raft::StoredMembership) {
    drop(stored_membership_from_wire(membership));
}

pub fn payload(payload: raft::Payload) {
    drop(payload_from_wire(payload));
}
