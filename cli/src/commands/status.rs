//! The cluster in one look.

use muster_client::operator::GetStatusRequest;
use serde_json::{Map, json};

use super::Context;
use crate::{
    output::{json_resources, print_facts, show_resources, state_name},
    report::{Attempted, Failure},
};

pub async fn show(context: &Context) -> Result<(), Failure> {
    let status = context
        .connection
        .call(async |mut operator| operator.get_status(GetStatusRequest {}).await)
        .await
        .attempted("show the cluster's status")?;
    let mut tasks = Map::new();
    for count in &status.tasks {
        tasks.insert(state_name(count.state()).to_owned(), count.count.into());
    }
    let shown: Vec<_> =
        status.tasks.iter().map(|count| format!("{} {}", count.count, state_name(count.state()))).collect();
    let leader =
        if status.leader_id == 0 { "none now".to_owned() } else { format!("member {}", status.leader_id) };
    let held_back = match status.agents_held_back {
        0 => String::new(),
        count => format!(
            ", of which {count} are silent together: see `muster agent list` and `muster agent mark-unreachable --help`"
        ),
    };
    let agents = format!("{} reachable of {}{held_back}", status.agents_reachable, status.agents_total);
    let facts = [
        ("cluster", status.cluster_id.clone()),
        ("version", format!("{} (cluster version {})", status.version, status.cluster_version)),
        ("leader", format!("{leader}, term {}", status.term)),
        ("agents", agents),
        ("frameworks", status.frameworks.to_string()),
        ("tasks", if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }),
        ("offers", format!("{} outstanding", status.offers_outstanding)),
        ("total", show_resources(&status.total.clone().unwrap_or_default())),
        ("allocated", show_resources(&status.allocated.clone().unwrap_or_default())),
    ];
    let json = json!({
        "cluster_id": status.cluster_id,
        "cluster_version": status.cluster_version,
        "version": status.version,
        "member_id": status.member_id,
        "leader_id": status.leader_id,
        "term": status.term,
        "last_applied": status.last_applied,
        "agents_total": status.agents_total,
        "agents_reachable": status.agents_reachable,
        "agents_held_back": status.agents_held_back,
        "frameworks": status.frameworks,
        "offers_outstanding": status.offers_outstanding,
        "tasks": tasks,
        "total": json_resources(status.total.as_ref()),
        "allocated": json_resources(status.allocated.as_ref()),
    });
    print_facts(context.format, &facts, &json)
}
