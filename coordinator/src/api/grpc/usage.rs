//! What tasks and hosts use: the latest figures from the leader's memory, histories from their agents.

use std::ops::Bound;

use cluster::{ClusterState, Task};
use model::{AgentId, Refusal, RefusalCode, Subject, TaskId, Timestamp};
use prost::Message as _;
use proto::operator::v1 as wire;
use tonic::Status;

use super::{
    operator::{PAGE_BYTES_MAX, unknown_task},
    refused,
};
use crate::{
    api::{Context, error::status},
    convert::operator::{self as convert, HistoryOf, UsageFilter},
    leader::messages::HistoryRequest,
};

pub(super) async fn of_tasks(
    context: &Context,
    filter: UsageFilter<TaskId>,
    agent: Option<AgentId>,
) -> Result<wire::GetUsageResponse, Status> {
    let state = context.leader.state();
    let is_wanted = |task: &Task| {
        !task.is_over() && agent.as_ref().is_none_or(|agent| task.agent.as_ref() == Some(agent))
    };
    let (chosen, mut next_page_token) = match filter {
        UsageFilter::Named(tasks) => {
            let is_known = |task: &TaskId| state.task(task).is_some() || state.waiting(task).is_some();
            if let Some(stranger) = tasks.iter().find(|task| !is_known(task)) {
                return Err(unknown_task(stranger));
            }
            (tasks, String::new())
        }
        UsageFilter::Page { after, size } => page(
            state.tasks().range(after_bound(after)).filter(|(_, task)| is_wanted(task)).map(|(id, _)| id),
            size,
        ),
    };
    let tasks: Vec<(TaskId, &Task, AgentId)> = chosen
        .into_iter()
        .filter_map(|id| {
            let task = state.task(&id).filter(|task| is_wanted(task))?;
            let agent = task.agent.clone()?;
            Some((id, task, agent))
        })
        .collect();
    let subjects = tasks.iter().map(|(id, _, agent)| (agent.clone(), Subject::Task(id.clone()))).collect();
    let figures = context.leader.read_usage(subjects).await.map_err(refused)?;
    let (mut views, mut size) = (Vec::new(), 0);
    for ((id, task, _), usage) in tasks.iter().zip(&figures) {
        let Some(usage) = usage else { continue };
        let view = convert::to_task_usage(id, task, usage);
        size += view.encoded_len();
        if size > PAGE_BYTES_MAX {
            next_page_token = last_id(views.last().map(|view: &wire::TaskUsage| &view.task_id));
            break;
        }
        views.push(view);
    }
    Ok(wire::GetUsageResponse { tasks: views, next_page_token })
}

pub(super) async fn of_agents(
    context: &Context,
    filter: UsageFilter<AgentId>,
) -> Result<wire::GetAgentUsageResponse, Status> {
    let state = context.leader.state();
    let (chosen, mut next_page_token) = match filter {
        UsageFilter::Named(agents) => {
            if let Some(stranger) = agents.iter().find(|agent| state.agent(agent).is_none()) {
                return Err(unknown_agent(stranger, &state));
            }
            (agents, String::new())
        }
        UsageFilter::Page { after, size } => {
            page(state.agents().range(after_bound(after)).map(|(id, _)| id), size)
        }
    };
    let subjects = chosen.iter().map(|agent| (agent.clone(), Subject::Host)).collect();
    let figures = context.leader.read_usage(subjects).await.map_err(refused)?;
    let (mut views, mut size) = (Vec::new(), 0);
    for (id, usage) in chosen.iter().zip(&figures) {
        let (Some(usage), Some(agent)) = (usage, state.agent(id)) else { continue };
        let view = convert::to_agent_usage(id, agent, usage);
        size += view.encoded_len();
        if size > PAGE_BYTES_MAX {
            next_page_token = last_id(views.last().map(|view: &wire::AgentUsage| &view.agent_id));
            break;
        }
        views.push(view);
    }
    Ok(wire::GetAgentUsageResponse { agents: views, next_page_token })
}

pub(super) async fn history(
    context: &Context,
    of: HistoryOf,
    since: Timestamp,
    step: std::time::Duration,
) -> Result<wire::GetUsageHistoryResponse, Status> {
    let state = context.leader.state();
    let (agent, subject) = match of {
        HistoryOf::Task(id) => {
            let agent = agent_of(&state, &id)?;
            (agent, Subject::Task(id))
        }
        HistoryOf::Agent(agent) if state.agent(&agent).is_none() => {
            return Err(unknown_agent(&agent, &state));
        }
        HistoryOf::Agent(agent) => (agent, Subject::Host),
    };
    let request = HistoryRequest { subject, since, step };
    let points = context.leader.read_history(agent, request).await.map_err(refused)?;
    Ok(wire::GetUsageHistoryResponse { points: points.iter().map(codec::to_usage).collect() })
}

fn agent_of(state: &ClusterState, id: &TaskId) -> Result<AgentId, Status> {
    match state.task(id) {
        Some(Task { agent: Some(agent), .. }) => Ok(agent.clone()),
        None if state.waiting(id).is_none() => Err(unknown_task(id)),
        None | Some(_) => {
            let message = format!("task `{id}` was not started yet, so it has no history of usage");
            Err(status(&Refusal::new(RefusalCode::HistoryGone, message)))
        }
    }
}

pub(super) fn unknown_agent(agent: &AgentId, state: &ClusterState) -> Status {
    if state.agent_gone_at(agent).is_some() {
        let message = format!("agent `{agent}` is gone, as an operator said, and its id is never used again");
        return status(&Refusal::new(RefusalCode::AgentGone, message));
    }
    let message = format!("no agent has the id `{agent}`; `muster agent list` shows all of them");
    status(&Refusal::new(RefusalCode::AgentUnknown, message))
}

fn after_bound<I>(after: Option<I>) -> (Bound<I>, Bound<I>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// The first so many, and the token of the page after them; empty when there is none.
fn page<'a, I: Clone + ToString + 'a>(ids: impl Iterator<Item = &'a I>, size: usize) -> (Vec<I>, String) {
    let mut ids = ids.peekable();
    let chosen: Vec<I> = ids.by_ref().take(size).cloned().collect();
    let token = if ids.peek().is_some() { last_id(chosen.last()) } else { String::new() };
    (chosen, token)
}

fn last_id(id: Option<&impl ToString>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}
