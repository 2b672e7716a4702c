//! `muster.operator.v1`: what people ask for, and how the cluster looks to them.

use std::{collections::BTreeMap, time::Duration};

use cluster::{
    Agent, Availability, ClusterState, DeactivatedTasks, Framework, FrameworkState, Task, Waiting,
};
use leader::{OutputChunk, OutputStream};
use model::{
    AgentId, Amounts, FrameworkId, RequestId, Resources, RoleName, TaskId, TaskSpec, Timestamp, Usage, limits,
};
use prost::Message as _;
use proto::{operator::v1 as wire, types::v1 as types};

use crate::leader::messages::OfferView;
use codec::{
    Invalid, Within as _, grace, id, ids, millis, optional_id, required, task_spec_named, text_of,
    to_amounts, to_attributes, to_resources, to_shown_task_spec, to_task_state, to_task_status, to_usage,
};

/// Tasks on a page where the call doesn't say, and at most.
const PAGE_SIZE_DEFAULT: u32 = 1_000;
const PAGE_SIZE_MAX: u32 = 10_000;
/// Ids in one question about tasks.
const TASKS_ASKED_MAX: usize = 10_000;
/// All copies of one Run together: what one message, and one entry of the log, may hold.
const RUN_BYTES_MAX: usize = 4 << 20;

/// Tasks of one Run, ready to be handed to the framework `run`.
///
/// Where the spec has no id it is made of its name and the request id, so that a repeat makes the
/// same ids.
pub fn run(request: wire::RunRequest) -> Result<(RequestId, Vec<TaskSpec>), Invalid> {
    let wire::RunRequest { request_id, spec, count } = request;
    let request: RequestId = id("request_id", &request_id)?;
    let spec = required("spec", spec)?;
    let count = count.unwrap_or(1);
    if count == 0 || count > limits::RUN_COUNT_MAX {
        let max = limits::RUN_COUNT_MAX;
        return Err(Invalid::new("count", format_args!("of {count} is not 1 to {max}")));
    }
    let size = spec.encoded_len().saturating_mul(count as usize);
    if size > RUN_BYTES_MAX {
        return Err(Invalid::new(
            "count",
            format_args!(
                "of {count} makes {size} bytes of specs; at most {RUN_BYTES_MAX} fit into one request"
            ),
        ));
    }
    let base =
        if spec.task_id.is_empty() { made_id(&spec.name, request.as_str()) } else { spec.task_id.clone() };
    let named = |text: &str| id::<TaskId>("task_id", text).within("spec");
    // Checked alone first, so that the message shows what the caller wrote.
    let first = named(&base)?;
    let spec = task_spec_named(spec, first).within("spec")?;
    spec.check().map_err(|error| Invalid::new("spec", format_args!("can't be run: {}", chain(&error))))?;
    if count == 1 {
        return Ok((request, vec![spec]));
    }
    let copies = (1..=count)
        .map(|number| Ok(TaskSpec { task_id: named(&format!("{base}-{number}"))?, ..spec.clone() }))
        .collect::<Result<_, Invalid>>()?;
    Ok((request, copies))
}

/// `name.request`, of what the name has that an id may have.
fn made_id(name: &str, request: &str) -> String {
    let kept: String = name
        .chars()
        .map(|letter| {
            let is_fine = letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
            if is_fine { letter } else { '-' }
        })
        .collect();
    let kept = kept.trim_start_matches(['.', '_', '-']);
    let kept = if kept.is_empty() { "task" } else { kept };
    // Room for the dot, the request id's tail and a copy's number.
    let kept: String = kept.chars().take(limits::ID_BYTES_MAX - REQUEST_TAIL - 8).collect();
    let tail = request.len().saturating_sub(REQUEST_TAIL);
    format!("{kept}.{}", &request[tail..])
}

/// Characters of the request id that stand in a made id: 96 bits of a UUID without dashes.
const REQUEST_TAIL: usize = 24;

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Which tasks to list, and from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFilter {
    pub page_size: usize,
    /// Only those with a greater id.
    pub after: Option<TaskId>,
    pub framework: Option<FrameworkId>,
    pub agent: Option<AgentId>,
    pub only_live: bool,
}

pub fn list_tasks(request: wire::ListTasksRequest) -> Result<TaskFilter, Invalid> {
    let wire::ListTasksRequest { page_size, page_token, framework_id, agent_id, only_live } = request;
    Ok(TaskFilter {
        page_size: page_size_of(page_size)?,
        after: optional_id("page_token", &page_token)?,
        framework: optional_id("framework_id", &framework_id)?,
        agent: optional_id("agent_id", &agent_id)?,
        only_live,
    })
}

fn page_size_of(asked: u32) -> Result<usize, Invalid> {
    match asked {
        0 => Ok(PAGE_SIZE_DEFAULT as usize),
        1..=PAGE_SIZE_MAX => Ok(asked as usize),
        more => Err(Invalid::new("page_size", format_args!("of {more} is above {PAGE_SIZE_MAX}"))),
    }
}

pub fn get_task(request: wire::GetTaskRequest) -> Result<TaskId, Invalid> {
    let wire::GetTaskRequest { task_id } = request;
    id("task_id", &task_id)
}

pub fn watch_tasks(request: wire::WatchTasksRequest) -> Result<Vec<TaskId>, Invalid> {
    let wire::WatchTasksRequest { task_ids } = request;
    if task_ids.is_empty() {
        return Err(Invalid::missing("task_ids"));
    }
    ids("task_ids", &task_ids, TASKS_ASKED_MAX)
}

pub fn kill_task(request: wire::KillTaskRequest) -> Result<(RequestId, TaskId, Option<Duration>), Invalid> {
    let wire::KillTaskRequest { request_id, task_id, grace_ms } = request;
    let grace = grace_ms.map(|ms| grace("grace_ms", ms)).transpose()?;
    Ok((id("request_id", &request_id)?, id("task_id", &task_id)?, grace))
}

/// What to read of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputWish {
    pub task: TaskId,
    pub stream: OutputStream,
    pub offset: u64,
    pub follow: bool,
    pub tail: Option<u64>,
    pub newer_than: Option<Duration>,
    pub process: Option<String>,
}

pub fn read_output(request: wire::ReadOutputRequest) -> Result<OutputWish, Invalid> {
    let wire::ReadOutputRequest { task_id, stream, offset, follow, tail_bytes, newer_than_ms, process } =
        request;
    let stream = match wire::OutputStream::try_from(stream) {
        Ok(wire::OutputStream::Stdout) => OutputStream::Stdout,
        Ok(wire::OutputStream::Stderr) => OutputStream::Stderr,
        Ok(wire::OutputStream::Unspecified) => return Err(Invalid::missing("stream")),
        Err(_) => return Err(Invalid::new("stream", format_args!("of {stream} is neither 1 nor 2"))),
    };
    let newer_than = newer_than_ms.map(Duration::from_millis);
    let process = (!process.is_empty()).then_some(process);
    if process.as_deref().is_some_and(|name| !model::is_process_name(name)) {
        return Err(Invalid::new("process", "is no name of a process"));
    }
    let task = id("task_id", &task_id)?;
    Ok(OutputWish { task, stream, offset, follow, tail: tail_bytes, newer_than, process })
}

pub fn to_output_chunk(chunk: OutputChunk) -> wire::OutputChunk {
    let OutputChunk { offset, data, is_end: _the_stream_ends } = chunk;
    wire::OutputChunk { offset, data: data.into() }
}

/// Whose figures a page shall have: the named ones, or the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsageFilter<I> {
    Named(Vec<I>),
    Page { after: Option<I>, size: usize },
}

/// Answers also whose tasks alone.
pub fn get_usage(request: wire::GetUsageRequest) -> Result<(UsageFilter<TaskId>, Option<AgentId>), Invalid> {
    let wire::GetUsageRequest { task_ids, agent_id, page_size, page_token } = request;
    let filter = if task_ids.is_empty() {
        let size = page_size_of(page_size)?;
        UsageFilter::Page { after: optional_id("page_token", &page_token)?, size }
    } else {
        UsageFilter::Named(ids("task_ids", &task_ids, TASKS_ASKED_MAX)?)
    };
    Ok((filter, optional_id("agent_id", &agent_id)?))
}

pub fn get_agent_usage(request: wire::GetAgentUsageRequest) -> Result<UsageFilter<AgentId>, Invalid> {
    let wire::GetAgentUsageRequest { agent_ids, page_size, page_token } = request;
    if agent_ids.is_empty() {
        let size = page_size_of(page_size)?;
        Ok(UsageFilter::Page { after: optional_id("page_token", &page_token)?, size })
    } else {
        ids("agent_ids", &agent_ids, TASKS_ASKED_MAX).map(UsageFilter::Named)
    }
}

/// Whose history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryOf {
    Task(TaskId),
    Agent(AgentId),
}

/// Answers also from when on, and the least time between two points.
pub fn get_usage_history(
    request: wire::GetUsageHistoryRequest,
) -> Result<(HistoryOf, Timestamp, Duration), Invalid> {
    use wire::get_usage_history_request::Of;
    let wire::GetUsageHistoryRequest { of, since_us, step_ms } = request;
    let of = match required("task_id", of)? {
        Of::TaskId(task) => HistoryOf::Task(id("task_id", &task)?),
        Of::AgentId(agent) => HistoryOf::Agent(id("agent_id", &agent)?),
    };
    Ok((of, Timestamp(since_us), codec::timeout(step_ms)))
}

pub fn get_agent(request: wire::GetAgentRequest) -> Result<AgentId, Invalid> {
    let wire::GetAgentRequest { agent_id } = request;
    id("agent_id", &agent_id)
}

pub fn deactivate_agent(
    request: wire::DeactivateAgentRequest,
) -> Result<(RequestId, AgentId, DeactivatedTasks), Invalid> {
    let wire::DeactivateAgentRequest { request_id, agent_id, ends_tasks, grace_ms } = request;
    let grace = grace_ms.map(|ms| grace("grace_ms", ms)).transpose()?;
    let tasks = if ends_tasks { DeactivatedTasks::End { grace } } else { DeactivatedTasks::RunOn };
    Ok((id("request_id", &request_id)?, id("agent_id", &agent_id)?, tasks))
}

pub fn activate_agent(request: wire::ActivateAgentRequest) -> Result<(RequestId, AgentId), Invalid> {
    let wire::ActivateAgentRequest { request_id, agent_id } = request;
    Ok((id("request_id", &request_id)?, id("agent_id", &agent_id)?))
}

pub fn mark_agent_gone(request: wire::MarkAgentGoneRequest) -> Result<(RequestId, AgentId), Invalid> {
    let wire::MarkAgentGoneRequest { request_id, agent_id } = request;
    Ok((id("request_id", &request_id)?, id("agent_id", &agent_id)?))
}

pub fn mark_agents_unreachable(request: wire::MarkAgentsUnreachableRequest) -> Result<Vec<AgentId>, Invalid> {
    let wire::MarkAgentsUnreachableRequest { agent_ids } = request;
    ids("agent_ids", &agent_ids, TASKS_ASKED_MAX)
}

pub fn teardown_framework(
    request: wire::TeardownFrameworkRequest,
) -> Result<(RequestId, FrameworkId), Invalid> {
    let wire::TeardownFrameworkRequest { request_id, framework_id } = request;
    Ok((id("request_id", &request_id)?, id("framework_id", &framework_id)?))
}

pub fn set_role(request: wire::SetRoleRequest) -> Result<(RequestId, RoleName, u64), Invalid> {
    let wire::SetRoleRequest { request_id, role, weight_milli } = request;
    if weight_milli == 0 || weight_milli > limits::WEIGHT_MILLI_MAX {
        let max = limits::WEIGHT_MILLI_MAX;
        return Err(Invalid::new("weight_milli", format_args!("of {weight_milli} is not 1 to {max}")));
    }
    Ok((id("request_id", &request_id)?, id("role", &role)?, weight_milli))
}

pub fn to_task_view(task: &Task) -> wire::TaskView {
    let Task {
        spec,
        framework,
        role: _of_the_framework,
        agent,
        epoch: _of_the_agent,
        state,
        kill: _shows_as_killing,
        is_released,
        status,
        recorded_sequence: _between_agent_and_leader,
        created_at,
        changed_at: _in_the_status,
        changed_counted: _not_shown,
    } = task;
    wire::TaskView {
        spec: Some(to_shown_task_spec(spec)),
        framework_id: framework.to_string(),
        agent_id: text_of(agent.as_ref()),
        state: to_task_state(*state).into(),
        status: status.as_ref().map(to_task_status),
        created_at_us: created_at.0,
        waiting_because: Vec::new(),
        is_released: *is_released,
        // The leader's memory knows.
        is_frozen: None,
    }
}

pub fn to_waiting_view(waiting: &Waiting, because: Vec<String>) -> wire::TaskView {
    let Waiting { spec, submitted_at } = waiting;
    wire::TaskView {
        spec: Some(to_shown_task_spec(spec)),
        framework_id: cluster::RUN_FRAMEWORK.to_owned(),
        agent_id: String::new(),
        state: types::TaskState::Waiting.into(),
        status: None,
        created_at_us: submitted_at.0,
        waiting_because: because,
        is_released: false,
        is_frozen: None,
    }
}

pub fn to_task_usage(id: &TaskId, task: &Task, usage: &Usage) -> wire::TaskUsage {
    wire::TaskUsage {
        task_id: id.to_string(),
        agent_id: text_of(task.agent.as_ref()),
        usage: Some(to_usage(usage)),
        name: task.spec.name.clone(),
        framework_id: task.framework.to_string(),
        cpus_milli: task.spec.resources.cpus_milli,
        cpu_limit_milli: task.spec.cpu_limit(),
    }
}

pub fn to_agent_usage(id: &AgentId, agent: &Agent, usage: &Usage) -> wire::AgentUsage {
    wire::AgentUsage {
        agent_id: id.to_string(),
        hostname: agent.facts.hostname.clone(),
        usage: Some(to_usage(usage)),
        total: Some(to_resources(&agent.facts.total)),
        allocated: Some(to_resources(&agent.allocated)),
        tasks_live: count(agent.tasks.len()),
    }
}

pub fn to_agent_view(
    agent: &AgentId,
    record: &Agent,
    offered: &Resources,
    silence: Option<Duration>,
) -> wire::AgentView {
    let Agent {
        facts,
        epoch,
        is_reachable,
        availability,
        registered_at,
        changed_at: _not_shown,
        allocated,
        tasks,
    } = record;
    let facts: &cluster::AgentFacts = facts;
    let cluster::AgentFacts {
        hostname,
        boot_id: _not_shown,
        address,
        version,
        total,
        attributes,
        limitations,
    } = facts;
    wire::AgentView {
        agent_id: agent.to_string(),
        hostname: hostname.clone(),
        address: address.clone(),
        is_reachable: *is_reachable,
        epoch: *epoch,
        version: version.clone(),
        total: Some(to_resources(total)),
        allocated: Some(to_resources(allocated)),
        offered: Some(to_resources(offered)),
        attributes: to_attributes(attributes),
        registered_at_us: registered_at.0,
        tasks_live: count(tasks.len()),
        limitations: limitations.clone(),
        is_deactivated: match availability {
            Availability::Active => false,
            Availability::Deactivated => true,
        },
        silent_ms: silence.map(millis),
    }
}

pub fn to_framework_view(
    state: &ClusterState,
    framework: &FrameworkId,
    record: &Framework,
    offers_outstanding: u32,
) -> wire::FrameworkView {
    let (is_connected, disconnected_at_us) = match record.state {
        FrameworkState::Connected => (true, 0),
        FrameworkState::Disconnected { at: Timestamp(at), counted: _not_shown } => (false, at),
    };
    let share = state.share_of_framework(framework);
    wire::FrameworkView {
        framework_id: framework.to_string(),
        name: record.info.name.clone(),
        role: record.info.role.to_string(),
        is_connected: is_connected || record.is_built_in,
        is_built_in: record.is_built_in,
        failover_timeout_ms: millis(record.info.failover_timeout),
        disconnected_at_us: if record.is_built_in { 0 } else { disconnected_at_us },
        tasks_live: count(share.map_or(0, |share| share.tasks.len())),
        allocated: Some(share.map(|share| to_amounts(&share.allocated)).unwrap_or_default()),
        offers_outstanding,
        events_pending: record.events.len() as u64,
    }
}

pub fn to_offer_view(offer: &OfferView, now: Timestamp) -> wire::OfferView {
    let OfferView { offer, framework, agent, role, resources, expires_at } = offer;
    wire::OfferView {
        offer_id: offer.to_string(),
        framework_id: framework.to_string(),
        agent_id: agent.to_string(),
        role: role.to_string(),
        resources: Some(to_resources(resources)),
        lease_left_ms: millis(expires_at.since(now)),
    }
}

/// Roles that have a framework, a task that isn't released, or a weight of their own.
pub fn to_roles(state: &ClusterState) -> wire::ListRolesResponse {
    let mut frameworks: BTreeMap<&RoleName, u32> = BTreeMap::new();
    for record in state.frameworks().values() {
        *frameworks.entry(&record.info.role).or_default() += 1;
    }
    for role in state.roles().keys().chain(state.allocated_roles().keys()) {
        frameworks.entry(role).or_default();
    }
    let roles = frameworks
        .into_iter()
        .map(|(role, frameworks)| wire::RoleView {
            role: role.to_string(),
            weight_milli: state.weight_milli(role),
            allocated: Some(state.allocated_by_role(role).map(to_amounts).unwrap_or_default()),
            frameworks,
        })
        .collect();
    wire::ListRolesResponse { roles }
}

/// What the answering member knows beside the agreed state.
#[derive(Debug, Clone, Copy)]
pub struct MemberFacts {
    pub member: u64,
    /// 0 while there is no leader.
    pub leader: u64,
    pub term: u64,
    pub offers_outstanding: u64,
    pub agents_held_back: u64,
}

pub fn to_status(state: &ClusterState, facts: MemberFacts) -> wire::GetStatusResponse {
    let MemberFacts { member, leader, term, offers_outstanding, agents_held_back } = facts;
    let mut tasks: BTreeMap<i32, u64> = BTreeMap::new();
    for task in state.tasks().values() {
        *tasks.entry(to_task_state(task.state).into()).or_default() += 1;
    }
    if !state.queue().is_empty() {
        tasks.insert(types::TaskState::Waiting.into(), state.queue().len() as u64);
    }
    let mut total = Amounts::default();
    let mut allocated = Amounts::default();
    let mut reachable = 0;
    for agent in state.agents().values() {
        if agent.is_reachable {
            reachable += 1;
            total.add(&agent.facts.total);
        }
        allocated.add(&agent.allocated);
    }
    wire::GetStatusResponse {
        cluster_id: text_of(state.cluster()),
        cluster_version: state.version(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        member_id: member,
        leader_id: leader,
        term,
        last_applied: state.applied(),
        agents_total: count(state.agents().len()),
        agents_reachable: reachable,
        frameworks: count(state.frameworks().len()),
        offers_outstanding: u32::try_from(offers_outstanding).unwrap_or(u32::MAX),
        tasks: tasks.into_iter().map(|(state, count)| wire::StateCount { state, count }).collect(),
        total: Some(to_amounts(&total)),
        allocated: Some(to_amounts(&allocated)),
        agents_held_back: u32::try_from(agents_held_back).unwrap_or(u32::MAX),
    }
}

/// A count whose bound in `model::limits` is far below.
pub fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, name: &str, count: Option<u32>) -> wire::RunRequest {
        let resources = types::Resources { cpus_milli: 100, mem_mib: 64, ..types::Resources::default() };
        wire::RunRequest {
            request_id: "0123456789abcdef0123456789abcdef".to_owned(),
            spec: Some(types::TaskSpec {
                task_id: id.to_owned(),
                name: name.to_owned(),
                resources: Some(resources),
                command: vec!["true".to_owned()],
                ..types::TaskSpec::default()
            }),
            count,
        }
    }

    fn ids(request: wire::RunRequest) -> Vec<String> {
        run(request).unwrap().1.into_iter().map(|spec| spec.task_id.to_string()).collect()
    }

    #[test]
    fn ids_are_made_where_the_caller_gives_none() {
        assert_eq!(ids(request("given", "x", None)), ["given"]);
        assert_eq!(ids(request("given", "x", Some(2))), ["given-1", "given-2"]);
        assert_eq!(ids(request("", "hello", None)), ["hello.89abcdef0123456789abcdef"]);
        assert_eq!(ids(request("", "", None)), ["task.89abcdef0123456789abcdef"]);
        assert_eq!(ids(request("", "../ü x", None)), ["x.89abcdef0123456789abcdef"]);
        let long = ids(request("", &"n".repeat(128), Some(limits::RUN_COUNT_MAX)));
        assert_eq!(long.len(), 10_000);
        assert_eq!(
            ids(request("", "hello", None)),
            ids(request("", "hello", None)),
            "a repeat makes the same"
        );
    }

    #[test]
    fn absurd_counts_are_refused() {
        for count in [0, limits::RUN_COUNT_MAX + 1, u32::MAX] {
            assert_eq!(run(request("a", "", Some(count))).unwrap_err().field, "count");
        }
        let mut large = request("a", "", Some(1_000));
        large.spec.as_mut().unwrap().command = vec!["x".repeat(100_000)];
        assert_eq!(run(large).unwrap_err().field, "count");
    }
}
