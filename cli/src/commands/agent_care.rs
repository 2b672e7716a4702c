//! What operators decide about agents: out of use, into use again, gone for good, truly unreachable.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use muster_client::{
    new_request_id,
    operator::{
        ActivateAgentRequest, AgentView, DeactivateAgentRequest, GetAgentRequest, ListAgentsRequest,
        MarkAgentGoneRequest, MarkAgentsUnreachableRequest,
    },
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    output::print_rows,
    report::{Attempted, Failure},
};

pub async fn deactivate(context: &Context, id: String) -> Result<(), Failure> {
    let attempted = format!("deactivate agent `{id}`");
    let request = DeactivateAgentRequest {
        request_id: new_request_id(),
        agent_id: id,
        ends_tasks: false,
        grace_ms: None,
    };
    context
        .connection
        .call(async |mut operator| operator.deactivate_agent(request.clone()).await)
        .await
        .attempted(&attempted)?;
    Ok(())
}

pub async fn activate(context: &Context, id: String) -> Result<(), Failure> {
    let attempted = format!("activate agent `{id}`");
    let request = ActivateAgentRequest { request_id: new_request_id(), agent_id: id };
    context
        .connection
        .call(async |mut operator| operator.activate_agent(request.clone()).await)
        .await
        .attempted(&attempted)?;
    Ok(())
}

pub async fn drain(context: &Context, id: String, grace: Option<Duration>, yes: bool) -> Result<(), Failure> {
    let attempted = format!("drain agent `{id}`");
    if !yes {
        let live = agent(context, &id, &attempted).await?.tasks_live;
        let plan = format!("This takes agent `{id}` out of use and kills its {live} live tasks.");
        agree(&attempted, &plan, &format!("it would kill {live} live tasks"))?;
    }
    let request = DeactivateAgentRequest {
        request_id: new_request_id(),
        agent_id: id,
        ends_tasks: true,
        grace_ms: grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
    };
    context
        .connection
        .call(async |mut operator| operator.deactivate_agent(request.clone()).await)
        .await
        .attempted(&attempted)?;
    Ok(())
}

pub async fn gone(context: &Context, id: String, yes: bool) -> Result<(), Failure> {
    let attempted = format!("mark agent `{id}` as gone");
    if !yes {
        let live = agent(context, &id, &attempted).await?.tasks_live;
        let plan =
            format!("Agent `{id}` may never come back under this id, and its {live} live tasks are GONE.");
        agree(&attempted, &plan, &format!("{live} live tasks would be GONE"))?;
    }
    let request = MarkAgentGoneRequest { request_id: new_request_id(), agent_id: id };
    context
        .connection
        .call(async |mut operator| operator.mark_agent_gone(request.clone()).await)
        .await
        .attempted(&attempted)?;
    Ok(())
}

/// Of the named agents, or of all that are silent.
pub async fn mark_unreachable(context: &Context, ids: Vec<String>, yes: bool) -> Result<(), Failure> {
    let attempted = "mark agents unreachable";
    if !yes {
        let agents = context
            .connection
            .call(async |mut operator| operator.list_agents(ListAgentsRequest {}).await)
            .await
            .attempted(attempted)?
            .agents;
        let meant = |agent: &&AgentView| match ids.is_empty() {
            true => agent.silent_ms.is_some(),
            false => ids.contains(&agent.agent_id),
        };
        let (mut count, mut live) = (0, 0);
        for agent in agents.iter().filter(meant) {
            count += 1;
            live += agent.tasks_live;
        }
        let plan = format!("The {live} live tasks of {count} agents become UNREACHABLE and may be replaced.");
        agree(attempted, &plan, &format!("{live} live tasks of {count} agents would become UNREACHABLE"))?;
    }
    let request = MarkAgentsUnreachableRequest { agent_ids: ids };
    let marked = context
        .connection
        .call(async |mut operator| operator.mark_agents_unreachable(request.clone()).await)
        .await
        .attempted(attempted)?
        .agent_ids;
    let rows = marked.iter().map(|id| vec![id.clone()]).collect();
    let json = Value::Array(marked.iter().map(|id| json!({ "agent_id": id })).collect());
    print_rows(context.format, &["AGENT"], rows, &json)
}

async fn agent(context: &Context, id: &str, attempted: &str) -> Result<AgentView, Failure> {
    let request = GetAgentRequest { agent_id: id.to_owned() };
    context
        .connection
        .call(async |mut operator| operator.get_agent(request.clone()).await)
        .await
        .attempted(attempted)
}

/// Shows what would be done, and asks.
fn agree(attempted: &str, plan: &str, why_not: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let why = format!("{why_not}, and nobody can be asked");
        return Err(Failure::new(attempted, why).next("say --yes").misused());
    }
    eprint!("{plan} Go on? [y/N] ");
    io::stderr().flush().attempted(attempted)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).attempted(attempted)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(attempted, "you did not agree; nothing was changed")),
    }
}
