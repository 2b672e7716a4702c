//! Members: the coordinators of the cluster.

use muster_client::operator::{
    AddMemberRequest, ListMembersRequest, MemberView, RemoveMemberRequest, TransferLeadershipRequest,
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    output::{print_rows, print_text},
    report::{Attempted, Failure},
};

pub async fn list(context: &Context) -> Result<(), Failure> {
    let answer = context
        .connection
        .call(async |mut operator| operator.list_members(ListMembersRequest {}).await)
        .await
        .attempted("list members")?;
    // Only the leader knows how far the others are.
    let last = answer.members.iter().find(|member| member.is_leader).and_then(|member| member.last_entry);
    let rows = answer.members.iter().map(|member| {
        let behind = match (last, member.last_entry) {
            (Some(last), Some(own)) => last.saturating_sub(own).to_string(),
            _ => "-".to_owned(),
        };
        let reads =
            member.cluster_version_supported.map_or_else(|| "-".to_owned(), |version| version.to_string());
        vec![member.member_id.to_string(), member.address.clone(), role(member).to_owned(), behind, reads]
    });
    let json = answer.members.iter().map(|member| {
        json!({
            "member_id": member.member_id,
            "address": member.address,
            "role": role(member),
            "last_entry": member.last_entry,
            "cluster_version_supported": member.cluster_version_supported,
        })
    });
    let json = Value::Array(json.collect());
    print_rows(
        context.format,
        &["MEMBER", "ADDRESS", "ROLE", "ENTRIES BEHIND", "READS VERSION"],
        rows.collect(),
        &json,
    )
}

pub async fn add(context: &Context, id: u64, address: String) -> Result<(), Failure> {
    let attempted = format!("add member {id} at {address}");
    let request = AddMemberRequest { member_id: id, address };
    context
        .connection
        .call(async |mut operator| operator.add_member(request.clone()).await)
        .await
        .attempted(&attempted)?;
    Ok(())
}

pub async fn remove(context: &Context, id: u64) -> Result<(), Failure> {
    let request = RemoveMemberRequest { member_id: id };
    context
        .connection
        .call(async |mut operator| operator.remove_member(request).await)
        .await
        .attempted(&format!("remove member {id}"))?;
    Ok(())
}

pub async fn transfer(context: &Context, to: Option<u64>) -> Result<(), Failure> {
    let request = TransferLeadershipRequest { member_id: to.unwrap_or(0) };
    let answer = context
        .connection
        .call(async |mut operator| operator.transfer_leadership(request).await)
        .await
        .attempted("hand over the lead")?;
    print_text(&format!("member {} leads\n", answer.member_id))
}

fn role(member: &MemberView) -> &'static str {
    match (member.is_leader, member.is_voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
}
