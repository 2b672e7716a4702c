//! `muster.scheduler.v1`: what frameworks say and hear.

use std::time::Duration;

use cluster::FrameworkInfo;
use leader::{Caller, Demand, OfferMessage, SubscribeParams, ToFramework};
use model::{Cursor, FrameworkEvent, OfferId, Refusal, RoleName, TaskId, TaskSpec, TaskStatus, limits};
use proto::scheduler::v1 as wire;

use codec::{
    Invalid, Within as _, at_most, attribute, checked_resources, each, grace, id, ids, millis, optional_id,
    required, task_spec, text, timeout, to_attributes, to_resources, to_task_status,
};

/// The role of a framework that names none.
const ROLE_DEFAULT: &str = "default";
/// How long the tasks of a framework that says nothing else outlive its subscription: one week.
const FAILOVER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long declined resources are not offered again where the call doesn't say: as in Mesos.
const REFUSE_DEFAULT: Duration = Duration::from_secs(5);
/// Offers in one call: an agent rarely has more than one or two outstanding offers for a framework.
const OFFERS_PER_CALL_MAX: usize = 1024;
/// Ids in one Reconcile: a message of this size has about 1 MiB.
const RECONCILED_MAX: usize = 10_000;

pub fn framework_info(info: wire::FrameworkInfo) -> Result<FrameworkInfo, Invalid> {
    let wire::FrameworkInfo { name, role, failover_timeout_ms } = info;
    if name.is_empty() {
        return Err(Invalid::missing("name"));
    }
    Ok(FrameworkInfo {
        name: text("name", name, limits::DISPLAY_NAME_BYTES_MAX)?,
        role: role_name("role", &role)?,
        failover_timeout: failover_timeout_ms.map_or(FAILOVER_TIMEOUT_DEFAULT, timeout),
    })
}

fn role_name(field: &str, role: &str) -> Result<RoleName, Invalid> {
    id(field, if role.is_empty() { ROLE_DEFAULT } else { role })
}

fn cursor(cursor: wire::Cursor) -> Cursor {
    let wire::Cursor { index, ordinal } = cursor;
    Cursor { index, ordinal }
}

fn to_cursor(cursor: Cursor) -> wire::Cursor {
    let Cursor { index, ordinal } = cursor;
    wire::Cursor { index, ordinal }
}

pub fn subscribe(request: wire::SubscribeRequest) -> Result<SubscribeParams, Invalid> {
    let wire::SubscribeRequest { info, framework_id, cursor: handled, request_id } = request;
    Ok(SubscribeParams {
        info: framework_info(required("info", info)?).within("info")?,
        framework: optional_id("framework_id", &framework_id)?,
        cursor: handled.map(cursor),
        request: optional_id("request_id", &request_id)?,
    })
}

pub fn caller(caller: Option<wire::Caller>) -> Result<Caller, Invalid> {
    let wire::Caller { framework_id, subscription_id, request_id } = required("caller", caller)?;
    let known = || {
        Ok(Caller {
            framework: id("framework_id", &framework_id)?,
            subscription: id("subscription_id", &subscription_id)?,
            request: optional_id("request_id", &request_id)?,
        })
    };
    known().within("caller")
}

/// An Accept: caller, offers, tasks in order, and how long to refuse what is left over.
pub type Accept = (Caller, Vec<OfferId>, Vec<TaskSpec>, Duration);

pub fn accept(request: wire::AcceptRequest) -> Result<Accept, Invalid> {
    let wire::AcceptRequest { caller: who, offer_ids, operations, refuse_ms } = request;
    let who = caller(who)?;
    let offers = offers(&offer_ids)?;
    let mut tasks = Vec::new();
    for (place, operation) in operations.into_iter().enumerate() {
        let wire::Operation { operation } = operation;
        match required("operation", operation).within_item("operations", place)? {
            wire::operation::Operation::Launch(wire::Launch { tasks: specs }) => {
                let specs = each("launch.tasks", specs, task_spec).within_item("operations", place)?;
                tasks.extend(specs);
            }
        }
        at_most("operations.launch.tasks", tasks.len(), limits::TASKS_PER_ACCEPT_MAX)?;
    }
    Ok((who, offers, tasks, refuse_ms.map_or(REFUSE_DEFAULT, timeout)))
}

fn offers(offer_ids: &[String]) -> Result<Vec<OfferId>, Invalid> {
    if offer_ids.is_empty() {
        return Err(Invalid::missing("offer_ids"));
    }
    ids("offer_ids", offer_ids, OFFERS_PER_CALL_MAX)
}

pub fn to_accept_response(results: Vec<(TaskId, Option<Refusal>)>) -> wire::AcceptResponse {
    let results = results
        .into_iter()
        .map(|(task, refusal)| wire::LaunchResult {
            task_id: task.to_string(),
            refusal: refusal
                .map(|Refusal { code, message }| wire::Refusal { code: code.to_string(), message }),
        })
        .collect();
    wire::AcceptResponse { results }
}

pub fn decline(request: wire::DeclineRequest) -> Result<(Caller, Vec<OfferId>, Duration), Invalid> {
    let wire::DeclineRequest { caller: who, offer_ids, refuse_ms } = request;
    Ok((caller(who)?, offers(&offer_ids)?, refuse_ms.map_or(REFUSE_DEFAULT, timeout)))
}

pub fn set_demand(request: wire::SetDemandRequest) -> Result<(Caller, Vec<Demand>), Invalid> {
    let wire::SetDemandRequest { caller: who, demands } = request;
    at_most("demands", demands.len(), limits::DEMANDS_MAX)?;
    Ok((caller(who)?, each("demands", demands, demand)?))
}

fn demand(demand: wire::Demand) -> Result<Demand, Invalid> {
    let wire::Demand { shape, count, constraints } = demand;
    at_most("constraints", constraints.len(), limits::ATTRIBUTES_MAX)?;
    Ok(Demand {
        shape: checked_resources(required("shape", shape)?).within("shape")?,
        count,
        constraints: each("constraints", constraints, attribute)?,
    })
}

pub fn kill(request: wire::KillRequest) -> Result<(Caller, TaskId, Option<Duration>), Invalid> {
    let wire::KillRequest { caller: who, task_id, grace_ms } = request;
    let grace = grace_ms.map(|ms| grace("grace_ms", ms)).transpose()?;
    Ok((caller(who)?, id("task_id", &task_id)?, grace))
}

pub fn reconcile(request: wire::ReconcileRequest) -> Result<(Caller, Vec<TaskId>), Invalid> {
    let wire::ReconcileRequest { caller: who, task_ids } = request;
    Ok((caller(who)?, ids("task_ids", &task_ids, RECONCILED_MAX)?))
}

pub fn to_reconcile_response(statuses: &[TaskStatus]) -> wire::ReconcileResponse {
    wire::ReconcileResponse { statuses: statuses.iter().map(to_task_status).collect() }
}

pub fn acknowledge(request: wire::AcknowledgeRequest) -> Result<(Caller, Cursor), Invalid> {
    let wire::AcknowledgeRequest { caller: who, cursor: handled } = request;
    Ok((caller(who)?, cursor(required("cursor", handled)?)))
}

pub fn update_framework(request: wire::UpdateFrameworkRequest) -> Result<(Caller, FrameworkInfo), Invalid> {
    let wire::UpdateFrameworkRequest { caller: who, info } = request;
    Ok((caller(who)?, framework_info(required("info", info)?).within("info")?))
}

/// An event, or the refusal with which the stream ends.
pub fn to_event(message: ToFramework) -> Result<wire::Event, Refusal> {
    use wire::event::Event;
    let (place, event) = match message {
        ToFramework::Subscribed { framework, subscription, heartbeat_interval } => (
            None,
            Event::Subscribed(wire::Subscribed {
                framework_id: framework.to_string(),
                subscription_id: subscription.to_string(),
                heartbeat_interval_ms: millis(heartbeat_interval),
            }),
        ),
        ToFramework::Durable { cursor, event } => {
            let event = match event {
                FrameworkEvent::Status(status) => Event::Status(to_task_status(&status)),
                FrameworkEvent::AgentLost(agent) => {
                    Event::AgentLost(wire::AgentLost { agent_id: agent.to_string() })
                }
                FrameworkEvent::AgentBack(agent) => {
                    Event::AgentBack(wire::AgentBack { agent_id: agent.to_string() })
                }
            };
            (Some(to_cursor(cursor)), event)
        }
        ToFramework::Compacted { statuses, cursor } => (
            None,
            Event::Compacted(wire::Compacted {
                statuses: statuses.iter().map(to_task_status).collect(),
                cursor: Some(to_cursor(cursor)),
            }),
        ),
        ToFramework::Offers(offers) => {
            (None, Event::Offers(wire::Offers { offers: offers.into_iter().map(to_offer).collect() }))
        }
        ToFramework::Rescind { offer, reason } => {
            (None, Event::Rescind(wire::Rescind { offer_id: offer.to_string(), reason: reason.to_owned() }))
        }
        ToFramework::Heartbeat => (None, Event::Heartbeat(wire::Heartbeat {})),
        ToFramework::Replaced => (
            None,
            Event::Replaced(wire::Replaced {
                reason: "another instance subscribed with this framework's id".to_owned(),
            }),
        ),
        ToFramework::Ended(refusal) => return Err(refusal),
    };
    Ok(wire::Event { cursor: place, event: Some(event) })
}

fn to_offer(offer: OfferMessage) -> wire::Offer {
    let OfferMessage { offer, agent, hostname, role, resources, attributes, lease } = offer;
    wire::Offer {
        offer_id: offer.to_string(),
        agent_id: agent.to_string(),
        hostname,
        role: role.to_string(),
        resources: Some(to_resources(&resources)),
        attributes: to_attributes(&attributes),
        lease_ms: millis(lease),
    }
}
