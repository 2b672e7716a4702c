//! Agents: the machines of the cluster.

use muster_client::operator::{
    AgentUsage, AgentView, GetAgentRequest, GetAgentUsageRequest, ListAgentsRequest,
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    output::{json_resources, json_time, json_usage, print_facts, print_rows, show_resources, show_time},
    report::{Attempted, Failure},
    units::{show_bytes, show_thousandths},
};

pub async fn list(context: &Context) -> Result<(), Failure> {
    let agents = context
        .connection
        .call(async |mut operator| operator.list_agents(ListAgentsRequest {}).await)
        .await
        .attempted("list agents")?
        .agents;
    let rows = agents.iter().map(|agent| {
        vec![
            agent.agent_id.clone(),
            agent.hostname.clone(),
            state(agent),
            agent.tasks_live.to_string(),
            show_resources(&without_ports(agent.allocated.clone())),
            show_resources(&without_ports(agent.total.clone())),
        ]
    });
    let json = Value::Array(agents.iter().map(view).collect());
    print_rows(
        context.format,
        &["AGENT", "HOST", "STATE", "TASKS", "ALLOCATED", "TOTAL"],
        rows.collect(),
        &json,
    )
}

pub async fn show(context: &Context, id: String) -> Result<(), Failure> {
    let request = GetAgentRequest { agent_id: id.clone() };
    let agent = context
        .connection
        .call(async |mut operator| operator.get_agent(request.clone()).await)
        .await
        .attempted(&format!("show agent `{id}`"))?;
    let attributes: Vec<_> =
        agent.attributes.iter().map(|fact| format!("{}={}", fact.name, fact.value)).collect();
    let mut facts = vec![
        ("agent", agent.agent_id.clone()),
        ("host", agent.hostname.clone()),
        ("state", state(&agent)),
        ("version", agent.version.clone()),
        ("metrics", format!("http://{}/metrics", agent.address)),
        ("registered", format!("{} (epoch {})", show_time(agent.registered_at_us), agent.epoch)),
        ("tasks", format!("{} live", agent.tasks_live)),
        ("total", show_resources(&agent.total.clone().unwrap_or_default())),
        ("allocated", show_resources(&agent.allocated.clone().unwrap_or_default())),
        ("offered", show_resources(&agent.offered.clone().unwrap_or_default())),
        ("attributes", if attributes.is_empty() { "none".to_owned() } else { attributes.join(" ") }),
    ];
    facts.extend(agent.limitations.iter().map(|limitation| ("can't", limitation.clone())));
    print_facts(context.format, &facts, &view(&agent))
}

pub async fn usage(context: &Context, ids: Vec<String>) -> Result<(), Failure> {
    let agents = all_usage(context, &ids).await?;
    let missing = || "unavailable".to_owned();
    let rows = agents.iter().map(|agent| {
        let usage = agent.usage.clone().unwrap_or_default();
        vec![
            agent.agent_id.clone(),
            agent.hostname.clone(),
            agent.tasks_live.to_string(),
            usage.load_milli.map_or_else(missing, show_thousandths),
            usage.memory_working_set_bytes.map_or_else(missing, show_bytes),
            usage.memory_bytes.map_or_else(missing, show_bytes),
            usage.memory_limit_bytes.map_or_else(missing, show_bytes),
            usage.memory_swap_bytes.map_or_else(missing, show_bytes),
            usage.oom_kills.map_or_else(missing, |kills| kills.to_string()),
            usage.threads.map_or_else(missing, |threads| threads.to_string()),
        ]
    });
    let json = agents.iter().map(|agent| {
        json!({
            "agent_id": agent.agent_id,
            "hostname": agent.hostname,
            "tasks_live": agent.tasks_live,
            "usage": json_usage(agent.usage.as_ref()),
        })
    });
    let json = Value::Array(json.collect());
    let header =
        ["AGENT", "HOST", "TASKS", "LOAD", "WORKING SET", "MEMORY", "TOTAL", "SWAP", "OOM KILLS", "THREADS"];
    print_rows(context.format, &header, rows.collect(), &json)
}

/// Of the named agents, or of all that are connected, page by page.
pub async fn all_usage(context: &Context, ids: &[String]) -> Result<Vec<AgentUsage>, Failure> {
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = GetAgentUsageRequest { agent_ids: ids.to_vec(), page_token, page_size: 0 };
        let answer = context
            .connection
            .call(async |mut operator| operator.get_agent_usage(request.clone()).await)
            .await
            .attempted("show what hosts use")?;
        agents.extend(answer.agents);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(agents);
        }
    }
}

fn state(agent: &AgentView) -> String {
    let reach = match (agent.is_reachable, agent.silent_ms) {
        (false, _) => "unreachable".to_owned(),
        (true, None) => "reachable".to_owned(),
        (true, Some(ms)) => format!("silent {}s", ms / 1000),
    };
    if agent.is_deactivated { format!("{reach}, deactivated") } else { reach }
}

/// Port ranges make a table too wide.
fn without_ports(resources: Option<muster_client::types::Resources>) -> muster_client::types::Resources {
    muster_client::types::Resources { ports: Vec::new(), ..resources.unwrap_or_default() }
}

fn view(agent: &AgentView) -> Value {
    let attributes: serde_json::Map<_, _> =
        agent.attributes.iter().map(|fact| (fact.name.clone(), fact.value.clone().into())).collect();
    json!({
        "agent_id": agent.agent_id,
        "hostname": agent.hostname,
        "address": agent.address,
        "is_reachable": agent.is_reachable,
        "is_deactivated": agent.is_deactivated,
        "silent_ms": agent.silent_ms,
        "epoch": agent.epoch,
        "version": agent.version,
        "registered_at": json_time(agent.registered_at_us),
        "tasks_live": agent.tasks_live,
        "total": json_resources(agent.total.as_ref()),
        "allocated": json_resources(agent.allocated.as_ref()),
        "offered": json_resources(agent.offered.as_ref()),
        "attributes": attributes,
        "limitations": agent.limitations,
    })
}
