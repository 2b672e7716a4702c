//! Who sits in the cluster: the part of the operator API that changes Raft itself.

use std::time::Duration;

use http::uri::Authority;
use model::{Refusal, RefusalCode};
use proto::operator::v1 as wire;

use crate::{
    api::Context,
    raft::{RaftHandle, SeatError},
};

/// How long a new member may take until it has caught up; less than an answer may take.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(20);
/// How long the next leader may take to be one: some elections.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(5);

pub fn list(context: &Context) -> wire::ListMembersResponse {
    let raft = &context.raft;
    let known = context.versions.known();
    let members = raft.seats().into_iter().map(|seat| wire::MemberView {
        member_id: seat.id,
        address: seat.address,
        is_voter: seat.votes,
        is_leader: seat.leads,
        last_entry: seat.matched,
        cluster_version_supported: known.get(&seat.id).copied(),
    });
    wire::ListMembersResponse {
        cluster_id: raft.cluster_id().to_owned(),
        member_id: raft.member_id(),
        term: raft.leadership().borrow().term,
        members: members.collect(),
    }
}

pub async fn add(
    context: &Context,
    request: wire::AddMemberRequest,
) -> Result<wire::AddMemberResponse, Refusal> {
    let wire::AddMemberRequest { member_id, address } = request;
    let attempted = format!("can't add member {member_id} at `{address}`");
    check_id(&attempted, member_id)?;
    let is_address = address.parse::<Authority>().is_ok_and(|authority| authority.port().is_some());
    if !is_address || address.contains('@') {
        return Err(Refusal::new(
            RefusalCode::InvalidArgument,
            format!("{attempted}: an address is host:port, such as 127.0.0.1:5050"),
        ));
    }
    check_version(context, &attempted, member_id, &address).await?;
    let raft = &context.raft;
    raft.add_member(member_id, &address, CATCH_UP_PATIENCE)
        .await
        .map_err(|error| refusal(&attempted, &error))?;
    tracing::info!(member = member_id, address, "added a member");
    Ok(wire::AddMemberResponse {})
}

pub async fn remove(
    raft: &RaftHandle,
    request: wire::RemoveMemberRequest,
) -> Result<wire::RemoveMemberResponse, Refusal> {
    let wire::RemoveMemberRequest { member_id } = request;
    let attempted = format!("can't remove member {member_id}");
    check_id(&attempted, member_id)?;
    raft.remove_member(member_id).await.map_err(|error| refusal(&attempted, &error))?;
    tracing::info!(member = member_id, "removed a member");
    Ok(wire::RemoveMemberResponse {})
}

pub async fn transfer(
    raft: &RaftHandle,
    request: wire::TransferLeadershipRequest,
) -> Result<wire::TransferLeadershipResponse, Refusal> {
    let to = Some(request.member_id).filter(|id| *id != 0);
    let attempted = match to {
        Some(id) => format!("can't hand the lead to member {id}"),
        None => "can't hand over the lead".to_owned(),
    };
    let leader = raft.transfer(to, TRANSFER_PATIENCE).await.map_err(|error| refusal(&attempted, &error))?;
    tracing::info!(leader, "handed over the lead");
    Ok(wire::TransferLeadershipResponse { member_id: leader })
}

/// Refuses a newcomer that could not read the log. One that gives no answer yet learns when it does.
async fn check_version(
    context: &Context,
    attempted: &str,
    member_id: u64,
    address: &str,
) -> Result<(), Refusal> {
    let version = context.leader.state().version();
    let Ok(supported) = context.versions.of_newcomer(member_id, address).await else { return Ok(()) };
    if supported.is_some_and(|supported| supported >= version) {
        return Ok(());
    }
    let reads = match supported {
        Some(supported) => format!("cluster version {supported} at most"),
        None => "none that it could name".to_owned(),
    };
    Err(Refusal::new(
        RefusalCode::MemberTooOld,
        format!(
            "{attempted}: the cluster is at version {version}, and that member reads {reads}; start it with the \
             program that the others run, and without a `cluster-version-max` below"
        ),
    ))
}

fn check_id(attempted: &str, id: u64) -> Result<(), Refusal> {
    if id == 0 {
        return Err(Refusal::new(
            RefusalCode::InvalidArgument,
            format!("{attempted}: member ids begin with 1"),
        ));
    }
    Ok(())
}

fn refusal(attempted: &str, error: &SeatError) -> Refusal {
    let (code, next) = match error {
        SeatError::NotLeader => (RefusalCode::NoLeader, "try again in a moment"),
        SeatError::Taken { .. } => {
            (RefusalCode::MemberIdTaken, "choose another id, or remove that member first")
        }
        SeatError::Unknown { .. } => (RefusalCode::MemberUnknown, "look at the list of members"),
        SeatError::Last { .. } => (RefusalCode::MemberLast, "add another one that votes first"),
        SeatError::Behind { .. } => (
            RefusalCode::MemberBehind,
            "check that it runs and can be reached; it goes on learning, and a repeat waits again",
        ),
        SeatError::Busy => (RefusalCode::Busy, "try again in a moment"),
        SeatError::NotTaken { .. } | SeatError::OutcomeUnknown { .. } => {
            (RefusalCode::OutcomeUnknown, "look at the list of members before you repeat it")
        }
    };
    Refusal::new(code, format!("{attempted}: {error}; {next}"))
}
