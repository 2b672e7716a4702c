//! The whole state as bytes, for Raft's snapshots.
//!
//! What is derived is left out and built again. A snapshot of a newer cluster version is refused
//! before anything else of it is read.

use std::sync::Arc;

use cluster::{
    AgentPart, AnswerPart, Asked, Availability, ClusterState, EndedPart, FrameworkPart, FrameworkState,
    GoneAgentPart, JoinToken, JoinTokenEnd, JoinTokenUse, Parts, PartsError, RolePart, Task,
    VERSION_SUPPORTED, WaitingPart,
};
use model::{ClusterTime, Cursor, FrameworkEvent, KillOrder, Timestamp};
use prost::Message as _;
use proto::log::v1 as wire;

use super::access::{access, to_access};
use super::log::{
    agent_facts, answer, cursor, digest_of, framework_info, join_kind, to_agent_facts, to_answer, to_cursor,
    to_framework_info, to_join_kind,
};
use codec::{
    Invalid, Within as _, each, grace, id, millis, optional_id, required, task_spec, task_state, task_status,
    text_of, to_task_spec, to_task_state, to_task_status,
};

/// Why bytes are no state for this program.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the bytes are no snapshot")]
    Decode(#[source] prost::DecodeError),
    #[error("the snapshot holds what can't be")]
    Invalid(#[source] Invalid),
    #[error(
        "the snapshot has cluster version {version}, and this program knows none above {VERSION_SUPPORTED}"
    )]
    TooNew { version: u32 },
    #[error("the parts of the snapshot make no state")]
    Parts(#[source] PartsError),
}

/// Tasks that are messages at the same time. A million of them would be a GiB in one piece, and while the kernel takes
/// that back, threads that apply commands wait for memory of their own: 150 ms were measured.
const TASKS_AT_ONCE: usize = 1_000;

pub fn encode_snapshot(state: &ClusterState) -> Vec<u8> {
    encode(&state.parts(), TASKS_AT_ONCE)
}

fn encode(parts: &Parts, tasks_at_once: usize) -> Vec<u8> {
    let mut bytes = to_snapshot(parts).encode_to_vec();
    for tasks in parts.tasks.chunks(tasks_at_once) {
        // One message behind another is one message: what is repeated goes on.
        let tasks = tasks.iter().map(|task| to_task(task)).collect();
        bytes.extend(wire::Snapshot { tasks, ..wire::Snapshot::default() }.encode_to_vec());
    }
    bytes
}

pub fn decode_snapshot(bytes: &[u8]) -> Result<ClusterState, SnapshotError> {
    let snapshot = wire::Snapshot::decode(bytes).map_err(SnapshotError::Decode)?;
    if snapshot.version > VERSION_SUPPORTED {
        return Err(SnapshotError::TooNew { version: snapshot.version });
    }
    let parts = parts(snapshot).map_err(SnapshotError::Invalid)?;
    ClusterState::from_parts(parts).map_err(SnapshotError::Parts)
}

/// Everything but the tasks.
fn to_snapshot(parts: &Parts) -> wire::Snapshot {
    let Parts {
        cluster,
        version,
        applied,
        counted,
        frameworks,
        ended,
        agents,
        gone_agents,
        tasks: _,
        roles,
        queue,
        answers,
        join_tokens,
        access,
    } = parts;
    wire::Snapshot {
        version: *version,
        cluster_id: text_of(cluster.as_ref()),
        applied: *applied,
        counted_us: counted.0,
        frameworks: frameworks.iter().map(to_framework).collect(),
        ended: ended.iter().map(to_ended).collect(),
        agents: agents.iter().map(to_agent).collect(),
        tasks: Vec::new(),
        roles: roles.iter().map(to_role).collect(),
        queue: queue.iter().map(to_waiting).collect(),
        answers: answers.iter().map(to_kept).collect(),
        join_tokens: join_tokens.iter().map(to_join_token).collect(),
        gone_agents: gone_agents.iter().map(to_gone_agent).collect(),
        access: to_access(access),
    }
}

fn parts(snapshot: wire::Snapshot) -> Result<Parts, Invalid> {
    let wire::Snapshot {
        version,
        cluster_id,
        applied,
        frameworks,
        ended: gone,
        agents,
        tasks,
        roles,
        queue,
        answers,
        counted_us,
        join_tokens,
        gone_agents,
        access: record,
    } = snapshot;
    Ok(Parts {
        cluster: optional_id("cluster_id", &cluster_id)?,
        version,
        applied,
        counted: ClusterTime(counted_us),
        frameworks: each("frameworks", frameworks, framework)?,
        ended: each("ended", gone, ended)?,
        agents: each("agents", agents, agent)?,
        gone_agents: each("gone_agents", gone_agents, gone_agent)?,
        tasks: each("tasks", tasks, |record| task(record).map(Arc::new))?,
        roles: each("roles", roles, role)?,
        queue: each("queue", queue, waiting)?,
        answers: each("answers", answers, kept)?,
        join_tokens: each("join_tokens", join_tokens, join_token)?,
        access: record.map(access).transpose().within("access")?.unwrap_or_default(),
    })
}

fn to_join_token((id, record): &(String, JoinToken)) -> wire::JoinTokenRecord {
    use wire::join_token_record::End;
    let JoinToken { digest, kind, only_for, created_at, expires_at, until, end } = record;
    wire::JoinTokenRecord {
        token_id: id.clone(),
        digest: digest.to_vec().into(),
        kind: to_join_kind(*kind).into(),
        only_for: only_for.clone().unwrap_or_default(),
        created_at_us: created_at.0,
        expires_at_us: expires_at.0,
        until_us: until.map(|until| until.0),
        end: end.as_ref().map(|end| match end {
            JoinTokenEnd::Used(JoinTokenUse { name, key, at }) => {
                End::Used(wire::JoinTokenUse { name: name.clone(), key: key.to_vec().into(), at_us: at.0 })
            }
            JoinTokenEnd::Revoked { at } => End::RevokedAtUs(at.0),
        }),
    }
}

fn join_token(record: wire::JoinTokenRecord) -> Result<(String, JoinToken), Invalid> {
    use wire::join_token_record::End;
    let wire::JoinTokenRecord {
        token_id,
        digest,
        kind,
        only_for,
        created_at_us,
        expires_at_us,
        until_us,
        end,
    } = record;
    let end = match end {
        None => None,
        Some(End::Used(wire::JoinTokenUse { name, key, at_us })) => {
            let key = digest_of("key", &key).within("used")?;
            Some(JoinTokenEnd::Used(JoinTokenUse { name, key, at: Timestamp(at_us) }))
        }
        Some(End::RevokedAtUs(at_us)) => Some(JoinTokenEnd::Revoked { at: Timestamp(at_us) }),
    };
    let record = JoinToken {
        digest: digest_of("digest", &digest)?,
        kind: join_kind("kind", kind)?,
        only_for: Some(only_for).filter(|name| !name.is_empty()),
        created_at: Timestamp(created_at_us),
        expires_at: Timestamp(expires_at_us),
        until: until_us.map(ClusterTime),
        end,
    };
    Ok((token_id, record))
}

fn to_framework(part: &FrameworkPart) -> wire::FrameworkRecord {
    let FrameworkPart { framework, info, state, is_built_in, events, acknowledged, compacted_to, answers } =
        part;
    wire::FrameworkRecord {
        framework_id: framework.to_string(),
        info: Some(to_framework_info(info)),
        disconnected_at_us: match state {
            FrameworkState::Connected => None,
            FrameworkState::Disconnected { at, counted: _ } => Some(at.0),
        },
        disconnected_counted_us: match state {
            FrameworkState::Connected => 0,
            FrameworkState::Disconnected { at: _, counted } => counted.0,
        },
        is_built_in: *is_built_in,
        events: events.iter().map(|(place, event)| to_event(*place, event)).collect(),
        acknowledged: Some(to_cursor(*acknowledged)),
        compacted_to: compacted_to.map(to_cursor),
        answers: answers.iter().map(to_kept).collect(),
    }
}

fn framework(record: wire::FrameworkRecord) -> Result<FrameworkPart, Invalid> {
    let wire::FrameworkRecord {
        framework_id,
        info,
        disconnected_at_us,
        is_built_in,
        events,
        acknowledged,
        compacted_to,
        answers,
        disconnected_counted_us,
    } = record;
    Ok(FrameworkPart {
        framework: id("framework_id", &framework_id)?,
        info: framework_info(required("info", info)?).within("info")?,
        state: match disconnected_at_us {
            None => FrameworkState::Connected,
            Some(at) => FrameworkState::Disconnected {
                at: Timestamp(at),
                counted: ClusterTime(disconnected_counted_us),
            },
        },
        is_built_in,
        events: each("events", events, event)?,
        acknowledged: cursor(required("acknowledged", acknowledged)?),
        compacted_to: compacted_to.map(cursor),
        answers: each("answers", answers, kept)?,
    })
}

fn to_event(place: Cursor, event: &FrameworkEvent) -> wire::DurableEvent {
    use wire::durable_event::Event;
    let event = match event {
        FrameworkEvent::Status(status) => Event::Status(to_task_status(status)),
        FrameworkEvent::AgentLost(agent) => Event::AgentLost(agent.to_string()),
        FrameworkEvent::AgentBack(agent) => Event::AgentBack(agent.to_string()),
    };
    wire::DurableEvent { cursor: Some(to_cursor(place)), event: Some(event) }
}

fn event(record: wire::DurableEvent) -> Result<(Cursor, Arc<FrameworkEvent>), Invalid> {
    use wire::durable_event::Event;
    let wire::DurableEvent { cursor: place, event } = record;
    let event = match required("event", event)? {
        Event::Status(status) => FrameworkEvent::Status(task_status(status).within("status")?),
        Event::AgentLost(agent) => FrameworkEvent::AgentLost(id("agent_lost", &agent)?),
        Event::AgentBack(agent) => FrameworkEvent::AgentBack(id("agent_back", &agent)?),
    };
    Ok((cursor(required("cursor", place)?), Arc::new(event)))
}

fn to_ended(part: &EndedPart) -> wire::EndedFramework {
    let EndedPart { framework, index, at } = part;
    wire::EndedFramework { framework_id: framework.to_string(), index: *index, at_us: at.0 }
}

fn ended(record: wire::EndedFramework) -> Result<EndedPart, Invalid> {
    let wire::EndedFramework { framework_id, index, at_us } = record;
    Ok(EndedPart { framework: id("framework_id", &framework_id)?, index, at: Timestamp(at_us) })
}

fn to_agent(part: &AgentPart) -> wire::AgentRecord {
    let AgentPart { agent, facts, epoch, is_reachable, availability, registered_at, changed_at } = part;
    wire::AgentRecord {
        agent_id: agent.to_string(),
        facts: Some(to_agent_facts(facts)),
        epoch: *epoch,
        is_reachable: *is_reachable,
        is_deactivated: match availability {
            Availability::Active => false,
            Availability::Deactivated => true,
        },
        registered_at_us: registered_at.0,
        changed_at_us: changed_at.0,
    }
}

fn agent(record: wire::AgentRecord) -> Result<AgentPart, Invalid> {
    let wire::AgentRecord {
        agent_id,
        facts,
        epoch,
        is_reachable,
        registered_at_us,
        changed_at_us,
        is_deactivated,
    } = record;
    Ok(AgentPart {
        agent: id("agent_id", &agent_id)?,
        facts: agent_facts(required("facts", facts)?).within("facts")?,
        epoch,
        is_reachable,
        availability: if is_deactivated { Availability::Deactivated } else { Availability::Active },
        registered_at: Timestamp(registered_at_us),
        changed_at: Timestamp(changed_at_us),
    })
}

fn to_gone_agent(part: &GoneAgentPart) -> wire::GoneAgent {
    let GoneAgentPart { agent, index, at } = part;
    wire::GoneAgent { agent_id: agent.to_string(), index: *index, at_us: at.0 }
}

fn gone_agent(record: wire::GoneAgent) -> Result<GoneAgentPart, Invalid> {
    let wire::GoneAgent { agent_id, index, at_us } = record;
    Ok(GoneAgentPart { agent: id("agent_id", &agent_id)?, index, at: Timestamp(at_us) })
}

fn to_task(task: &Task) -> wire::TaskRecord {
    let Task {
        spec,
        framework,
        role,
        agent,
        epoch,
        state,
        kill,
        is_released,
        status,
        recorded_sequence,
        created_at,
        changed_at,
        changed_counted,
    } = task;
    wire::TaskRecord {
        spec: Some(to_task_spec(spec)),
        framework_id: framework.to_string(),
        role: role.to_string(),
        agent_id: text_of(agent.as_ref()),
        epoch: *epoch,
        state: to_task_state(*state).into(),
        kill: kill.map(|KillOrder { grace }| wire::KillOrder { grace_ms: millis(grace) }),
        is_released: *is_released,
        status: status.as_ref().map(to_task_status),
        recorded_sequence: *recorded_sequence,
        created_at_us: created_at.0,
        changed_at_us: changed_at.0,
        changed_counted_us: changed_counted.0,
    }
}

fn task(record: wire::TaskRecord) -> Result<Task, Invalid> {
    let wire::TaskRecord {
        spec,
        framework_id,
        role,
        agent_id,
        epoch,
        state,
        kill,
        is_released,
        status,
        recorded_sequence,
        created_at_us,
        changed_at_us,
        changed_counted_us,
    } = record;
    let order = |wire::KillOrder { grace_ms }| Ok(KillOrder { grace: grace("grace_ms", grace_ms)? });
    Ok(Task {
        spec: Arc::new(task_spec(required("spec", spec)?).within("spec")?),
        framework: id("framework_id", &framework_id)?,
        role: id("role", &role)?,
        agent: optional_id("agent_id", &agent_id)?,
        epoch,
        state: task_state("state", state)?,
        kill: kill.map(order).transpose().within("kill")?,
        is_released,
        status: status.map(task_status).transpose().within("status")?,
        recorded_sequence,
        created_at: Timestamp(created_at_us),
        changed_at: Timestamp(changed_at_us),
        changed_counted: ClusterTime(changed_counted_us),
    })
}

fn to_role(part: &RolePart) -> wire::RoleRecord {
    let RolePart { role, weight_milli } = part;
    wire::RoleRecord { role: role.to_string(), weight_milli: *weight_milli }
}

fn role(record: wire::RoleRecord) -> Result<RolePart, Invalid> {
    let wire::RoleRecord { role, weight_milli } = record;
    Ok(RolePart { role: id("role", &role)?, weight_milli })
}

fn to_waiting(part: &WaitingPart) -> wire::WaitingTask {
    let WaitingPart { place, spec, submitted_at } = part;
    wire::WaitingTask {
        place: Some(to_cursor(*place)),
        spec: Some(to_task_spec(spec)),
        submitted_at_us: submitted_at.0,
    }
}

fn waiting(record: wire::WaitingTask) -> Result<WaitingPart, Invalid> {
    let wire::WaitingTask { place, spec, submitted_at_us } = record;
    Ok(WaitingPart {
        place: cursor(required("place", place)?),
        spec: Arc::new(task_spec(required("spec", spec)?).within("spec")?),
        submitted_at: Timestamp(submitted_at_us),
    })
}

fn to_kept(part: &AnswerPart) -> wire::KeptAnswer {
    use wire::kept_answer::Asked as Wire;
    let AnswerPart { index, request, asked, answer } = part;
    let asked = match asked {
        Asked::RegisterFramework { name } => Wire::RegisterFramework(name.clone()),
        Asked::UpdateFramework => Wire::UpdateFramework(wire::Done {}),
        Asked::TearDownFramework(framework) => Wire::TearDownFramework(framework.to_string()),
        Asked::Launch => Wire::Launch(wire::Done {}),
        Asked::Kill(task) => Wire::Kill(task.to_string()),
        Asked::SubmitRun => Wire::SubmitRun(wire::Done {}),
        Asked::SetRole(role) => Wire::SetRole(role.to_string()),
        Asked::DeactivateAgent(agent) => Wire::DeactivateAgent(agent.to_string()),
        Asked::ActivateAgent(agent) => Wire::ActivateAgent(agent.to_string()),
        Asked::MarkAgentGone(agent) => Wire::MarkAgentGone(agent.to_string()),
    };
    wire::KeptAnswer {
        index: *index,
        request_id: request.to_string(),
        asked: Some(asked),
        answer: Some(to_answer(&Ok(answer.clone()))),
    }
}

fn kept(record: wire::KeptAnswer) -> Result<AnswerPart, Invalid> {
    use wire::kept_answer::Asked as Wire;
    let wire::KeptAnswer { index, request_id, asked, answer: given } = record;
    let asked = match required("asked", asked)? {
        Wire::RegisterFramework(name) => Asked::RegisterFramework { name },
        Wire::UpdateFramework(wire::Done {}) => Asked::UpdateFramework,
        Wire::TearDownFramework(framework) => {
            Asked::TearDownFramework(id("tear_down_framework", &framework)?)
        }
        Wire::Launch(wire::Done {}) => Asked::Launch,
        Wire::Kill(task) => Asked::Kill(id("kill", &task)?),
        Wire::SubmitRun(wire::Done {}) => Asked::SubmitRun,
        Wire::SetRole(role) => Asked::SetRole(id("set_role", &role)?),
        Wire::DeactivateAgent(agent) => Asked::DeactivateAgent(id("deactivate_agent", &agent)?),
        Wire::ActivateAgent(agent) => Asked::ActivateAgent(id("activate_agent", &agent)?),
        Wire::MarkAgentGone(agent) => Asked::MarkAgentGone(id("mark_agent_gone", &agent)?),
    };
    let answer = match answer(required("answer", given)?).within("answer")? {
        Ok(answer) => answer,
        Err(_refusal) => return Err(Invalid::new("answer", "is a refusal, and those are not kept")),
    };
    Ok(AnswerPart { index, request: id("request_id", &request_id)?, asked, answer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::testing;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn parts_that_were_written_can_be_read(given in testing::parts()) {
            let bytes = encode(&given, 2);
            prop_assert_eq!(parts(wire::Snapshot::decode(&*bytes).unwrap()).unwrap(), given);
        }

        #[test]
        fn bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _either = decode_snapshot(&bytes);
        }
    }

    #[test]
    fn a_newer_snapshot_is_refused() {
        let version = VERSION_SUPPORTED + 1;
        let bytes = wire::Snapshot { version, ..wire::Snapshot::default() }.encode_to_vec();
        assert!(
            matches!(decode_snapshot(&bytes), Err(SnapshotError::TooNew { version: found }) if found == version)
        );
    }
}
