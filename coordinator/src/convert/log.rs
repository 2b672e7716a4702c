//! `muster.log.v1`: entries and their answers, as bytes in the log.
//!
//! An entry that needs a newer cluster version than this program knows is refused before anything
//! else of it is read.

use std::sync::Arc;

use cluster::{
    AgentFacts, Answer, Command, DeactivatedTasks, Entry, FrameworkInfo, JoinKind, KillBy, KnownTask,
    VERSION_SUPPORTED,
};
use model::{ClusterTime, Cursor, Duration, Refusal, RefusalCode, TaskId, TaskSpec, Timestamp};
use prost::Message as _;
use proto::log::v1 as wire;

use super::access;
use codec::{
    Invalid, Within as _, each, grace, id, micros, millis, optional_id, required, resources, task_spec,
    task_state, task_status, text_of, to_resources, to_task_spec, to_task_state, to_task_status,
};

/// Why bytes of the log can't be read here.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the bytes are no record of the log")]
    Decode(#[source] prost::DecodeError),
    #[error("the record holds what can't be")]
    Invalid(#[source] Invalid),
    #[error(
        "the record needs cluster version {version}, and this program knows none above {VERSION_SUPPORTED}"
    )]
    TooNew { version: u32 },
}

pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    let Entry { at, counted, command } = entry;
    wire::LogEntry {
        version: command.program_version_needed(),
        at_us: at.0,
        counted_us: counted.0,
        command: Some(to_command(command)),
    }
    .encode_to_vec()
}

/// Refuses an entry that a newer program wrote: nobody here may act on half of it.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, LogError> {
    let wire::LogEntry { version, at_us, counted_us, command: wished } =
        wire::LogEntry::decode(bytes).map_err(LogError::Decode)?;
    if version > VERSION_SUPPORTED {
        return Err(LogError::TooNew { version });
    }
    let command = required("command", wished).and_then(command).map_err(LogError::Invalid)?;
    Ok(Entry { at: Timestamp(at_us), counted: ClusterTime(counted_us), command })
}

pub fn encode_answer(answer: &Result<Answer, Refusal>) -> Vec<u8> {
    to_answer(answer).encode_to_vec()
}

/// The state machine's answer to an entry.
pub fn decode_answer(bytes: &[u8]) -> Result<Result<Answer, Refusal>, LogError> {
    wire::LogAnswer::decode(bytes)
        .map_err(LogError::Decode)
        .and_then(|read| answer(read).map_err(LogError::Invalid))
}

fn to_command(command: &Command) -> wire::log_entry::Command {
    use wire::log_entry::Command as Wire;
    match command {
        Command::Initialize { cluster } => {
            Wire::Initialize(wire::Initialize { cluster_id: cluster.to_string() })
        }
        Command::RaiseVersion { version } => Wire::RaiseVersion(wire::RaiseVersion { version: *version }),
        Command::RegisterFramework { framework, info, request } => {
            Wire::RegisterFramework(wire::RegisterFramework {
                framework_id: framework.to_string(),
                info: Some(to_framework_info(info)),
                request_id: text_of(request.as_ref()),
            })
        }
        Command::UpdateFramework { framework, info, request } => {
            Wire::UpdateFramework(wire::UpdateFramework {
                framework_id: framework.to_string(),
                info: Some(to_framework_info(info)),
                request_id: text_of(request.as_ref()),
            })
        }
        Command::ConnectFramework { framework } => {
            Wire::ConnectFramework(wire::ConnectFramework { framework_id: framework.to_string() })
        }
        Command::DisconnectFramework { framework } => {
            Wire::DisconnectFramework(wire::DisconnectFramework { framework_id: framework.to_string() })
        }
        Command::TearDownFramework { framework, request } => {
            Wire::TearDownFramework(wire::TearDownFramework {
                framework_id: framework.to_string(),
                request_id: text_of(request.as_ref()),
            })
        }
        Command::AcknowledgeEvents { framework, cursor } => {
            Wire::AcknowledgeEvents(wire::AcknowledgeEvents {
                framework_id: framework.to_string(),
                cursor: Some(to_cursor(*cursor)),
            })
        }
        Command::RegisterAgent { agent, facts, tasks } => Wire::RegisterAgent(wire::RegisterAgent {
            agent_id: agent.to_string(),
            facts: Some(to_agent_facts(facts)),
            tasks: tasks.iter().map(to_known_task).collect(),
        }),
        Command::MarkAgentUnreachable { agent, epoch } => {
            Wire::MarkAgentUnreachable(wire::MarkAgentUnreachable {
                agent_id: agent.to_string(),
                epoch: *epoch,
            })
        }
        Command::Launch { framework, request, agent, epoch, role, offered, tasks } => {
            Wire::Launch(wire::Launch {
                framework_id: framework.to_string(),
                request_id: text_of(request.as_ref()),
                agent_id: agent.to_string(),
                epoch: *epoch,
                role: role.to_string(),
                offered: Some(to_resources(offered)),
                tasks: to_specs(tasks),
            })
        }
        Command::Kill { by, task, grace, request } => Wire::Kill(wire::Kill {
            framework_id: match by {
                KillBy::Framework(framework) => framework.to_string(),
                KillBy::Operator => String::new(),
            },
            task_id: task.to_string(),
            grace_ms: grace.map(millis),
            request_id: text_of(request.as_ref()),
        }),
        Command::RecordStatuses { agent, epoch, statuses } => Wire::RecordStatuses(wire::RecordStatuses {
            agent_id: agent.to_string(),
            epoch: *epoch,
            statuses: statuses.iter().map(to_task_status).collect(),
        }),
        Command::SubmitRun { request, tasks } => {
            Wire::SubmitRun(wire::SubmitRun { request_id: text_of(request.as_ref()), tasks: to_specs(tasks) })
        }
        Command::SetRole { role, weight_milli, request } => Wire::SetRole(wire::SetRole {
            role: role.to_string(),
            weight_milli: *weight_milli,
            request_id: text_of(request.as_ref()),
        }),
        Command::DeactivateAgent { agent, tasks, request } => {
            let (ends_tasks, grace) = match tasks {
                DeactivatedTasks::RunOn => (false, None),
                DeactivatedTasks::End { grace } => (true, *grace),
            };
            Wire::DeactivateAgent(wire::DeactivateAgent {
                agent_id: agent.to_string(),
                request_id: text_of(request.as_ref()),
                ends_tasks,
                grace_ms: grace.map(millis),
            })
        }
        Command::ActivateAgent { agent, request } => Wire::ActivateAgent(wire::ActivateAgent {
            agent_id: agent.to_string(),
            request_id: text_of(request.as_ref()),
        }),
        Command::MarkAgentGone { agent, request } => Wire::MarkAgentGone(wire::MarkAgentGone {
            agent_id: agent.to_string(),
            request_id: text_of(request.as_ref()),
        }),
        Command::CreateJoinToken { token, digest, kind, only_for, expires_at, life } => {
            Wire::CreateJoinToken(wire::CreateJoinToken {
                token_id: token.clone(),
                digest: digest.to_vec().into(),
                kind: to_join_kind(*kind).into(),
                only_for: only_for.clone().unwrap_or_default(),
                expires_at_us: expires_at.0,
                life_us: life.map(micros),
            })
        }
        Command::RevokeJoinToken { token } => {
            Wire::RevokeJoinToken(wire::RevokeJoinToken { token_id: token.clone() })
        }
        Command::UseJoinToken { token, digest, kind, name, key } => Wire::UseJoinToken(wire::UseJoinToken {
            token_id: token.clone(),
            digest: digest.to_vec().into(),
            kind: to_join_kind(*kind).into(),
            name: name.clone(),
            key: key.to_vec().into(),
        }),
        Command::Access(change) => Wire::Access(access::to_change(change)),
        Command::Prune { keep, before, counted_before } => Wire::Prune(wire::Prune {
            keep: *keep,
            before_us: before.map(|before| before.0),
            counted_before_us: counted_before.map(|before| before.0),
        }),
        Command::CountTime => Wire::CountTime(wire::CountTime {}),
    }
}

fn command(command: wire::log_entry::Command) -> Result<Command, Invalid> {
    use wire::log_entry::Command as Wire;
    Ok(match command {
        Wire::Initialize(wire::Initialize { cluster_id }) => {
            Command::Initialize { cluster: id("cluster_id", &cluster_id)? }
        }
        Wire::RaiseVersion(wire::RaiseVersion { version }) => Command::RaiseVersion { version },
        Wire::RegisterFramework(wire::RegisterFramework { framework_id, info, request_id }) => {
            Command::RegisterFramework {
                framework: id("framework_id", &framework_id)?,
                info: framework_info(required("info", info)?).within("info")?,
                request: optional_id("request_id", &request_id)?,
            }
        }
        Wire::UpdateFramework(wire::UpdateFramework { framework_id, info, request_id }) => {
            Command::UpdateFramework {
                framework: id("framework_id", &framework_id)?,
                info: framework_info(required("info", info)?).within("info")?,
                request: optional_id("request_id", &request_id)?,
            }
        }
        Wire::ConnectFramework(wire::ConnectFramework { framework_id }) => {
            Command::ConnectFramework { framework: id("framework_id", &framework_id)? }
        }
        Wire::DisconnectFramework(wire::DisconnectFramework { framework_id }) => {
            Command::DisconnectFramework { framework: id("framework_id", &framework_id)? }
        }
        Wire::TearDownFramework(wire::TearDownFramework { framework_id, request_id }) => {
            Command::TearDownFramework {
                framework: id("framework_id", &framework_id)?,
                request: optional_id("request_id", &request_id)?,
            }
        }
        Wire::AcknowledgeEvents(wire::AcknowledgeEvents { framework_id, cursor: handled }) => {
            Command::AcknowledgeEvents {
                framework: id("framework_id", &framework_id)?,
                cursor: cursor(required("cursor", handled)?),
            }
        }
        Wire::RegisterAgent(wire::RegisterAgent { agent_id, facts, tasks }) => Command::RegisterAgent {
            agent: id("agent_id", &agent_id)?,
            facts: agent_facts(required("facts", facts)?).within("facts")?,
            tasks: each("tasks", tasks, known_task)?,
        },
        Wire::MarkAgentUnreachable(wire::MarkAgentUnreachable { agent_id, epoch }) => {
            Command::MarkAgentUnreachable { agent: id("agent_id", &agent_id)?, epoch }
        }
        Wire::Launch(wire::Launch { framework_id, request_id, agent_id, epoch, role, offered, tasks }) => {
            Command::Launch {
                framework: id("framework_id", &framework_id)?,
                request: optional_id("request_id", &request_id)?,
                agent: id("agent_id", &agent_id)?,
                epoch,
                role: id("role", &role)?,
                offered: resources(required("offered", offered)?).within("offered")?,
                tasks: specs("tasks", tasks)?,
            }
        }
        Wire::Kill(wire::Kill { framework_id, task_id, grace_ms, request_id }) => Command::Kill {
            by: match optional_id("framework_id", &framework_id)? {
                Some(framework) => KillBy::Framework(framework),
                None => KillBy::Operator,
            },
            task: id("task_id", &task_id)?,
            grace: grace_ms.map(|ms| grace("grace_ms", ms)).transpose()?,
            request: optional_id("request_id", &request_id)?,
        },
        Wire::RecordStatuses(wire::RecordStatuses { agent_id, epoch, statuses }) => Command::RecordStatuses {
            agent: id("agent_id", &agent_id)?,
            epoch,
            statuses: each("statuses", statuses, task_status)?,
        },
        Wire::SubmitRun(wire::SubmitRun { request_id, tasks }) => Command::SubmitRun {
            request: optional_id("request_id", &request_id)?,
            tasks: specs("tasks", tasks)?,
        },
        Wire::SetRole(wire::SetRole { role, weight_milli, request_id }) => Command::SetRole {
            role: id("role", &role)?,
            weight_milli,
            request: optional_id("request_id", &request_id)?,
        },
        Wire::DeactivateAgent(wire::DeactivateAgent { agent_id, request_id, ends_tasks, grace_ms }) => {
            let grace = grace_ms.map(|ms| grace("grace_ms", ms)).transpose()?;
            Command::DeactivateAgent {
                agent: id("agent_id", &agent_id)?,
                tasks: if ends_tasks { DeactivatedTasks::End { grace } } else { DeactivatedTasks::RunOn },
                request: optional_id("request_id", &request_id)?,
            }
        }
        Wire::ActivateAgent(wire::ActivateAgent { agent_id, request_id }) => Command::ActivateAgent {
            agent: id("agent_id", &agent_id)?,
            request: optional_id("request_id", &request_id)?,
        },
        Wire::MarkAgentGone(wire::MarkAgentGone { agent_id, request_id }) => Command::MarkAgentGone {
            agent: id("agent_id", &agent_id)?,
            request: optional_id("request_id", &request_id)?,
        },
        Wire::CreateJoinToken(token) => {
            let wire::CreateJoinToken { token_id, digest, kind, only_for, expires_at_us, life_us } = token;
            Command::CreateJoinToken {
                token: token_id,
                digest: digest_of("digest", &digest)?,
                kind: join_kind("kind", kind)?,
                only_for: Some(only_for).filter(|name| !name.is_empty()),
                expires_at: Timestamp(expires_at_us),
                life: life_us.map(Duration::from_micros),
            }
        }
        Wire::RevokeJoinToken(wire::RevokeJoinToken { token_id }) => {
            Command::RevokeJoinToken { token: token_id }
        }
        Wire::UseJoinToken(wire::UseJoinToken { token_id, digest, kind, name, key }) => {
            Command::UseJoinToken {
                token: token_id,
                digest: digest_of("digest", &digest)?,
                kind: join_kind("kind", kind)?,
                name,
                key: digest_of("key", &key)?,
            }
        }
        Wire::Access(change) => Command::Access(access::change(change)?),
        Wire::Prune(wire::Prune { keep, before_us, counted_before_us }) => Command::Prune {
            keep,
            before: before_us.map(Timestamp),
            counted_before: counted_before_us.map(ClusterTime),
        },
        Wire::CountTime(wire::CountTime {}) => Command::CountTime,
    })
}

pub(super) fn to_answer(answer: &Result<Answer, Refusal>) -> wire::LogAnswer {
    use wire::log_answer::Answer as Wire;
    let answer = match answer {
        Err(refusal) => Wire::Refused(to_refusal(refusal)),
        Ok(Answer::Done) => Wire::Done(wire::Done {}),
        Ok(Answer::FrameworkRegistered { framework }) => {
            Wire::FrameworkRegistered(wire::FrameworkRegistered { framework_id: framework.to_string() })
        }
        Ok(Answer::AgentRegistered { epoch }) => {
            Wire::AgentRegistered(wire::AgentRegistered { epoch: *epoch })
        }
        Ok(Answer::Launched(results)) => Wire::Launched(wire::Launched {
            results: results
                .iter()
                .map(|(task, refusal)| wire::LaunchResult {
                    task_id: task.to_string(),
                    refusal: refusal.as_ref().map(to_refusal),
                })
                .collect(),
        }),
        Ok(Answer::Recorded(tasks)) => Wire::Recorded(wire::Recorded {
            tasks: tasks
                .iter()
                .map(|(task, sequence)| wire::RecordedTask { task_id: task.to_string(), sequence: *sequence })
                .collect(),
        }),
        Ok(Answer::Submitted(tasks)) => {
            Wire::Submitted(wire::Submitted { task_ids: tasks.iter().map(TaskId::to_string).collect() })
        }
        Ok(Answer::Pruned { tasks }) => Wire::Pruned(wire::Pruned { tasks: *tasks }),
    };
    wire::LogAnswer { answer: Some(answer) }
}

pub(super) fn answer(answer: wire::LogAnswer) -> Result<Result<Answer, Refusal>, Invalid> {
    use wire::log_answer::Answer as Wire;
    let wire::LogAnswer { answer } = answer;
    Ok(Ok(match required("answer", answer)? {
        Wire::Refused(no) => return refusal(no).within("refused").map(Err),
        Wire::Done(wire::Done {}) => Answer::Done,
        Wire::FrameworkRegistered(wire::FrameworkRegistered { framework_id }) => {
            Answer::FrameworkRegistered { framework: id("framework_id", &framework_id)? }
        }
        Wire::AgentRegistered(wire::AgentRegistered { epoch }) => Answer::AgentRegistered { epoch },
        Wire::Launched(wire::Launched { results }) => Answer::Launched(each("results", results, |result| {
            let wire::LaunchResult { task_id, refusal: no } = result;
            Ok((id("task_id", &task_id)?, no.map(refusal).transpose().within("refusal")?))
        })?),
        Wire::Recorded(wire::Recorded { tasks }) => Answer::Recorded(each("tasks", tasks, |task| {
            let wire::RecordedTask { task_id, sequence } = task;
            Ok((id("task_id", &task_id)?, sequence))
        })?),
        Wire::Submitted(wire::Submitted { task_ids }) => {
            Answer::Submitted(codec::ids("task_ids", &task_ids, usize::MAX)?)
        }
        Wire::Pruned(wire::Pruned { tasks }) => Answer::Pruned { tasks },
    }))
}

fn to_refusal(refusal: &Refusal) -> wire::Refusal {
    let Refusal { code, message } = refusal;
    wire::Refusal { code: code.to_string(), message: message.clone() }
}

fn refusal(refusal: wire::Refusal) -> Result<Refusal, Invalid> {
    let wire::Refusal { code, message } = refusal;
    match RefusalCode::ALL.iter().find(|known| known.as_str() == code) {
        Some(code) => Ok(Refusal { code: *code, message }),
        None => Err(Invalid::new("code", "is not known here")),
    }
}

pub(super) fn to_cursor(cursor: Cursor) -> wire::Cursor {
    let Cursor { index, ordinal } = cursor;
    wire::Cursor { index, ordinal }
}

pub(super) fn cursor(cursor: wire::Cursor) -> Cursor {
    let wire::Cursor { index, ordinal } = cursor;
    Cursor { index, ordinal }
}

pub(super) fn to_framework_info(info: &FrameworkInfo) -> wire::FrameworkInfo {
    let FrameworkInfo { name, role, failover_timeout } = info;
    wire::FrameworkInfo {
        name: name.clone(),
        role: role.to_string(),
        failover_timeout_us: micros(*failover_timeout),
    }
}

pub(super) fn framework_info(info: wire::FrameworkInfo) -> Result<FrameworkInfo, Invalid> {
    let wire::FrameworkInfo { name, role, failover_timeout_us } = info;
    Ok(FrameworkInfo {
        name,
        role: id("role", &role)?,
        failover_timeout: Duration::from_micros(failover_timeout_us),
    })
}

pub(super) fn to_agent_facts(facts: &AgentFacts) -> wire::AgentFacts {
    let AgentFacts { hostname, boot_id, address, version, total, attributes, limitations } = facts;
    wire::AgentFacts {
        hostname: hostname.clone(),
        boot_id: boot_id.clone(),
        address: address.clone(),
        version: version.clone(),
        total: Some(to_resources(total)),
        attributes: attributes.clone(),
        limitations: limitations.clone(),
    }
}

pub(super) fn agent_facts(facts: wire::AgentFacts) -> Result<AgentFacts, Invalid> {
    let wire::AgentFacts { hostname, boot_id, address, version, total, attributes, limitations } = facts;
    Ok(AgentFacts {
        hostname,
        boot_id,
        address,
        version,
        total: resources(required("total", total)?).within("total")?,
        attributes,
        limitations,
    })
}

fn to_known_task(known: &KnownTask) -> wire::KnownTask {
    let KnownTask { task, sequence, state } = known;
    wire::KnownTask { task_id: task.to_string(), sequence: *sequence, state: to_task_state(*state).into() }
}

fn known_task(known: wire::KnownTask) -> Result<KnownTask, Invalid> {
    let wire::KnownTask { task_id, sequence, state } = known;
    Ok(KnownTask { task: id("task_id", &task_id)?, sequence, state: task_state("state", state)? })
}

pub(super) fn to_join_kind(kind: JoinKind) -> wire::JoinKind {
    match kind {
        JoinKind::Agent => wire::JoinKind::Agent,
        JoinKind::Member => wire::JoinKind::Member,
    }
}

pub(super) fn join_kind(field: &str, kind: i32) -> Result<JoinKind, Invalid> {
    match wire::JoinKind::try_from(kind) {
        Ok(wire::JoinKind::Agent) => Ok(JoinKind::Agent),
        Ok(wire::JoinKind::Member) => Ok(JoinKind::Member),
        Ok(wire::JoinKind::Unspecified) | Err(_) => {
            Err(Invalid::new(field, "says nothing that is known here"))
        }
    }
}

pub(super) fn digest_of(field: &str, bytes: &[u8]) -> Result<[u8; 32], Invalid> {
    bytes.try_into().map_err(|_| Invalid::new(field, "is no SHA-256: that has 32 bytes"))
}

fn to_specs(specs: &[Arc<TaskSpec>]) -> Vec<proto::types::v1::TaskSpec> {
    specs.iter().map(|spec| to_task_spec(spec)).collect()
}

fn specs(field: &str, specs: Vec<proto::types::v1::TaskSpec>) -> Result<Vec<Arc<TaskSpec>>, Invalid> {
    each(field, specs, |spec| task_spec(spec).map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::testing;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_that_was_written_can_be_read(entry in testing::entry()) {
            prop_assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
        }

        #[test]
        fn an_answer_that_was_written_can_be_read(answer in testing::answer()) {
            prop_assert_eq!(decode_answer(&encode_answer(&answer)).unwrap(), answer);
        }

        #[test]
        fn bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _either = decode_entry(&bytes);
            let _either = decode_answer(&bytes);
        }
    }

    #[test]
    fn what_needs_a_newer_version_is_refused_before_it_is_read() {
        let version = VERSION_SUPPORTED + 1;
        let bytes = wire::LogEntry { version, at_us: 0, counted_us: 0, command: None }.encode_to_vec();
        assert!(matches!(decode_entry(&bytes), Err(LogError::TooNew { version: found }) if found == version));
        // Raising the cluster above what this program knows stops it, too.
        let command = Command::RaiseVersion { version };
        let bytes = encode_entry(&Entry { at: Timestamp(0), counted: ClusterTime::ZERO, command });
        assert!(matches!(decode_entry(&bytes), Err(LogError::TooNew { version: found }) if found == version));
    }
}
