//! Records on disk to openraft's types and back. Messages between members are built of the same parts.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{EntryPayload, impls::BasicNode};
use prost::Message;
use proto::raft::v1 as wire;

use super::types::{Entry, LogId, Membership, Payload, Proposal, StoredMembership, Vote, log_id, term_of};

/// The newest format that we write, and the only one so far.
pub const FORMAT: u8 = 1;

/// Why stored bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("it is cut short")]
    Short,
    #[error("its format is {0}")]
    Newer(u8),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its content makes no sense")]
    Content,
}

/// A record with a format byte and a checksum before it.
pub fn seal(record: &impl Message) -> Vec<u8> {
    let content = record.encode_to_vec();
    let mut bytes = Vec::with_capacity(5 + content.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
    bytes.extend_from_slice(&content);
    bytes
}

/// The record that [`seal`] wrote.
pub fn unseal<M: Message + Default>(mut bytes: &[u8]) -> Result<M, RecordError> {
    let [format] = take(&mut bytes)?;
    if format != FORMAT {
        return Err(RecordError::Newer(format));
    }
    let crc = u32::from_le_bytes(take(&mut bytes)?);
    if crc32fast::hash(bytes) != crc {
        return Err(RecordError::Checksum);
    }
    M::decode(bytes).map_err(|_| RecordError::Content)
}

/// One log entry as it is stored: its place, its own checksum, and that of the entry before.
#[derive(Debug, PartialEq)]
pub struct Frame {
    pub entry: Entry,
    pub crc: u32,
    pub previous_crc: u32,
}

/// Format (1), checksum of all that follows (4), index (8), term (8), previous checksum (4).
pub const FRAME_HEAD_BYTES: usize = 25;

/// The entry's frame and its checksum.
pub fn encode_frame(entry: &Entry, previous_crc: u32) -> (Vec<u8>, u32) {
    let payload = payload_to_wire(&entry.payload);
    let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + payload.encoded_len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&entry.log_id.index().to_le_bytes());
    bytes.extend_from_slice(&term_of(&entry.log_id).to_le_bytes());
    bytes.extend_from_slice(&previous_crc.to_le_bytes());
    payload.encode_raw(&mut bytes);
    let crc = crc32fast::hash(bytes.get(5..).unwrap_or_default());
    if let Some(place) = bytes.get_mut(1..5) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    (bytes, crc)
}

/// The entry that [`encode_frame`] framed.
pub fn decode_frame(mut bytes: &[u8]) -> Result<Frame, RecordError> {
    let [format] = take(&mut bytes)?;
    if format != FORMAT {
        return Err(RecordError::Newer(format));
    }
    let crc = u32::from_le_bytes(take(&mut bytes)?);
    if crc32fast::hash(bytes) != crc {
        return Err(RecordError::Checksum);
    }
    let index = u64::from_le_bytes(take(&mut bytes)?);
    let term = u64::from_le_bytes(take(&mut bytes)?);
    let previous_crc = u32::from_le_bytes(take(&mut bytes)?);
    let payload = wire::Payload::decode(bytes).map_err(|_| RecordError::Content)?;
    let entry = Entry { log_id: log_id(term, index), payload: payload_from_wire(payload)? };
    Ok(Frame { entry, crc, previous_crc })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(RecordError::Short)?;
    *bytes = rest;
    Ok(*head)
}

pub fn payload_to_wire(payload: &Payload) -> wire::Payload {
    use wire::payload::Payload as Kind;
    let kind = match payload {
        EntryPayload::Blank => Kind::Blank(wire::Blank {}),
        EntryPayload::Normal(proposal) => Kind::Command(proposal.bytes.clone().into()),
        EntryPayload::Membership(membership) => Kind::Membership(membership_to_wire(membership)),
    };
    wire::Payload { payload: Some(kind) }
}

pub fn payload_from_wire(payload: wire::Payload) -> Result<Payload, RecordError> {
    use wire::payload::Payload as Kind;
    Ok(match payload.payload.ok_or(RecordError::Content)? {
        Kind::Blank(wire::Blank {}) => EntryPayload::Blank,
        Kind::Command(bytes) => EntryPayload::Normal(Proposal { bytes: bytes.into() }),
        Kind::Membership(membership) => EntryPayload::Membership(membership_from_wire(membership)?),
    })
}

fn membership_to_wire(membership: &Membership) -> wire::Membership {
    wire::Membership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| wire::VoterSet { member_ids: set.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, node)| (*id, wire::Member { address: node.addr.clone() }))
            .collect(),
    }
}

fn membership_from_wire(membership: wire::Membership) -> Result<Membership, RecordError> {
    let voters: Vec<BTreeSet<u64>> =
        membership.voters.into_iter().map(|set| set.member_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, BasicNode> =
        membership.members.into_iter().map(|(id, member)| (id, BasicNode { addr: member.address })).collect();
    if voters.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, nodes).map_err(|_| RecordError::Content)
}

pub fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId { term: term_of(id), index: id.index() }
}

pub fn log_id_from_wire(id: wire::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        member_id: vote.leader_id.voted_for,
        is_committed: vote.committed,
    }
}

pub fn vote_from_wire(vote: wire::Vote) -> Vote {
    let wire::Vote { term, member_id, is_committed } = vote;
    if is_committed { Vote::new_committed(term, member_id) } else { Vote::new(term, member_id) }
}

pub fn stored_membership_to_wire(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub fn stored_membership_from_wire(stored: wire::StoredMembership) -> Result<StoredMembership, RecordError> {
    let membership = membership_from_wire(stored.membership.ok_or(RecordError::Content)?)?;
    Ok(StoredMembership::new(stored.log_id.map(log_id_from_wire), membership))
}
