//! Every decoder here that faces the network or the disk, for the fuzzers in `tests/fuzz`.
//!
//! Each function takes bytes as a peer or a disk could give them, and returns; what was read is thrown away, or held
//! against what it should be. Nothing in the daemon calls these. A new decoder gets its line in [`DECODERS`].

use std::fs::File;

use cluster::ClusterState;
use prost::Message;
use proto::{
    agent::v1 as agent, channel::v1 as channel, join::v1 as join, log::v1 as log, members::v1 as members,
    operator::v1 as operator, raft::v1 as raft, scheduler::v1 as scheduler,
};

use crate::{api::Caller, convert};

/// A decoder of what is whole in memory, with its name.
pub type Decoder = (&'static str, fn(&[u8]));
/// A decoder of a file, with its name.
pub type FileDecoder = (&'static str, fn(File));

pub const DECODERS: &[Decoder] = &[
    ("members-messages", members_messages),
    ("log-frame", crate::raft::decoders::log_frame),
    ("sealed-record", crate::raft::decoders::sealed_record),
    ("state", state),
    ("command", command),
    ("log", log_of_commands),
    ("log-answer", log_answer),
    ("agent-says", agent_says),
    ("operator-requests", operator_requests),
    ("scheduler-requests", scheduler_requests),
    ("channel-frames", channel_frames),
    ("join-requests", join_requests),
    ("caller", caller),
    ("coordinator-settings", settings),
];

pub const FILE_DECODERS: &[FileDecoder] = &[("snapshot-file", crate::raft::decoders::snapshot_file)];

/// A message of this kind, if it is one.
fn message<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}

/// Which of several kinds, and its bytes: the first byte chooses.
fn choose(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(kind, rest)| (*kind, rest))
}

/// What members say to each other.
fn members_messages(bytes: &[u8]) {
    use crate::raft::decoders as decode;
    let (kind, bytes) = choose(bytes);
    match kind % 8 {
        0 => drop(message::<members::AppendRequest>(bytes).map(decode::append)),
        1 => drop(message::<members::AppendResponse>(bytes).map(decode::appended)),
        2 => drop(message::<members::VoteRequest>(bytes).map(decode::vote)),
        3 => drop(message::<members::VoteResponse>(bytes).map(decode::voted)),
        4 => drop(message::<members::SnapshotHead>(bytes).map(decode::snapshot_head)),
        5 => drop(message::<members::TransferLeaderRequest>(bytes).map(decode::transfer)),
        6 => drop(message::<raft::StoredMembership>(bytes).map(decode::membership)),
        _ => drop(message::<raft::Payload>(bytes).map(decode::payload)),
    }
}

/// A state that can be read is written as it was read.
fn state(bytes: &[u8]) {
    let Ok(state) = convert::decode_snapshot(bytes) else { return };
    let again = convert::decode_snapshot(&convert::encode_snapshot(&state));
    assert!(again.is_ok_and(|again| again == state), "a state isn't what was written");
}

/// An entry that can be read is written as it was read.
fn command(bytes: &[u8]) {
    let Ok(entry) = convert::log::decode_entry(bytes) else { return };
    let again = convert::log::decode_entry(&convert::log::encode_entry(&entry));
    assert!(again.is_ok_and(|again| again == entry), "an entry isn't what was written");
}

/// Entries, one after the other, change the state or are refused; and the state can always be saved.
fn log_of_commands(bytes: &[u8]) {
    let mut state = ClusterState::new();
    let mut rest = bytes;
    let mut index = 1;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (entry, after) = after.split_at(after.len().min(u16::from_le_bytes(*length).into()));
        rest = after;
        let Ok(entry) = convert::log::decode_entry(entry) else { continue };
        let answer = cluster::apply(&mut state, index, &entry).answer;
        let again = convert::log::decode_answer(&convert::log::encode_answer(&answer));
        assert!(again.is_ok_and(|again| again == answer), "an answer isn't what was written");
        index += 1;
    }
    let saved = convert::decode_snapshot(&convert::encode_snapshot(&state));
    assert!(saved.is_ok_and(|saved| saved == state), "the state isn't what was saved");
}

fn log_answer(bytes: &[u8]) {
    // Either is fine.
    let _ = convert::log::decode_answer(bytes);
    let _ = message::<log::LogEntry>(bytes);
}

fn agent_says(bytes: &[u8]) {
    drop(message::<agent::FromAgent>(bytes).map(convert::agent::heard));
}

fn operator_requests(bytes: &[u8]) {
    use convert::operator as read;
    let (kind, bytes) = choose(bytes);
    match kind % 13 {
        0 => drop(message::<operator::RunRequest>(bytes).map(read::run)),
        1 => drop(message::<operator::ListTasksRequest>(bytes).map(read::list_tasks)),
        2 => drop(message::<operator::GetTaskRequest>(bytes).map(read::get_task)),
        3 => drop(message::<operator::WatchTasksRequest>(bytes).map(read::watch_tasks)),
        4 => drop(message::<operator::KillTaskRequest>(bytes).map(read::kill_task)),
        5 => drop(message::<operator::ReadOutputRequest>(bytes).map(read::read_output)),
        6 => drop(message::<operator::GetUsageRequest>(bytes).map(read::get_usage)),
        7 => drop(message::<operator::GetAgentUsageRequest>(bytes).map(read::get_agent_usage)),
        8 => drop(message::<operator::GetUsageHistoryRequest>(bytes).map(read::get_usage_history)),
        9 => drop(message::<operator::GetAgentRequest>(bytes).map(read::get_agent)),
        10 => drop(message::<operator::TeardownFrameworkRequest>(bytes).map(read::teardown_framework)),
        11 => drop(message::<operator::SetRoleRequest>(bytes).map(read::set_role)),
        _ => drop(message::<operator::CreateJoinTokenRequest>(bytes).map(convert::join::create)),
    }
}

fn scheduler_requests(bytes: &[u8]) {
    use convert::scheduler as read;
    let (kind, bytes) = choose(bytes);
    match kind % 8 {
        0 => drop(message::<scheduler::SubscribeRequest>(bytes).map(read::subscribe)),
        1 => drop(message::<scheduler::AcceptRequest>(bytes).map(read::accept)),
        2 => drop(message::<scheduler::DeclineRequest>(bytes).map(read::decline)),
        3 => drop(message::<scheduler::SetDemandRequest>(bytes).map(read::set_demand)),
        4 => drop(message::<scheduler::KillRequest>(bytes).map(read::kill)),
        5 => drop(message::<scheduler::ReconcileRequest>(bytes).map(read::reconcile)),
        6 => drop(message::<scheduler::AcknowledgeRequest>(bytes).map(read::acknowledge)),
        _ => drop(message::<scheduler::UpdateFrameworkRequest>(bytes).map(read::update_framework)),
    }
}

fn channel_frames(bytes: &[u8]) {
    let Some(frame) = message::<channel::Frame>(bytes) else { return };
    // Either is fine.
    let _ = convert::channel::check_frame(&frame);
    let _ = convert::channel::open(frame);
}

fn join_requests(bytes: &[u8]) {
    let Some(request) = message::<join::JoinRequest>(bytes) else { return };
    // Any of them may refuse.
    let _ = convert::join::joiner(request.who);
    let _ = identity::request_key(&request.request);
}

/// Who asks, as another member passes it on.
fn caller(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(caller) = text.parse::<Caller>() {
        assert!(caller.to_string().parse() == Ok(caller), "a caller isn't who was written");
    }
}

fn settings(bytes: &[u8]) {
    crate::config::decode(bytes);
}
