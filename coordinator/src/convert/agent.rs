//! `muster.agent.v1`: the conversation between an agent and the leader.

use cluster::{AgentFacts, KnownTask};
use leader::{
    Assignment, ChannelId, FromAgent, Hello, HistoryRequest, Known, OutputChunk, OutputRequest, OutputStream,
    ToAgent,
};
use model::{Digests, KillOrder, Refusal, Subject, limits};
use proto::{agent::v1 as wire, types::v1 as types};

use codec::{
    Invalid, Within as _, at_most, attributes, checked_resources, each, id, ids, millis, optional_id,
    required, task_state, task_status, text, to_task_spec, usage, usage_report,
};

/// A host name (RFC 1035), and with it `host:port`, ends well below this.
const ADDRESS_BYTES_MAX: usize = 262;
/// A kernel's boot id is a UUID; versions and the like are as short.
const SHORT_BYTES_MAX: usize = 64;
/// What a host can't do is a list of a dozen lines.
const LIMITATIONS_MAX: usize = 64;
/// Live tasks and those whose end was not acknowledged yet.
const KNOWN_TASKS_MAX: usize = 8 * limits::TASKS_PER_AGENT_MAX;
/// Points of one history: some 400 bytes each.
const HISTORY_POINTS_MAX: usize = 1024;
/// Data in one answer.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// What digests must be.
const DIGESTS_WRONG: &str = "are not 16 bytes for each of 1 to 32 buckets";

/// What an agent sent: Hello once, as the first; then the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Hello(Box<Hello>),
    Message(FromAgent),
}

pub fn heard(message: wire::FromAgent) -> Result<Heard, Invalid> {
    use wire::from_agent::Message;
    let wire::FromAgent { message } = message;
    Ok(match required("message", message)? {
        Message::Hello(greeting) => Heard::Hello(Box::new(hello(greeting).within("hello")?)),
        Message::Heartbeat(wire::Heartbeat {}) => Heard::Message(FromAgent::Heartbeat),
        Message::Updates(wire::StatusUpdates { statuses }) => {
            let cut = |mut status: types::TaskStatus| {
                cut_to(&mut status.message, limits::MESSAGE_BYTES_MAX);
                task_status(status)
            };
            Heard::Message(FromAgent::Updates(each("updates.statuses", statuses, cut)?))
        }
        Message::Usage(report) => Heard::Message(FromAgent::Usage(usage_report(report).within("usage")?)),
        Message::History(answer) => history_answer(answer).within("history").map(Heard::Message)?,
        Message::Frozen(wire::FrozenTasks { task_ids }) => {
            Heard::Message(FromAgent::Frozen(ids("frozen.task_ids", &task_ids, KNOWN_TASKS_MAX)?))
        }
        Message::Known(wire::KnownTasks { tasks }) => {
            at_most("known.tasks", tasks.len(), KNOWN_TASKS_MAX)?;
            Heard::Message(FromAgent::Known(each("known.tasks", tasks, known_task)?))
        }
        Message::Output(answer) => output_answer(answer).within("output").map(Heard::Message)?,
    })
}

fn hello(hello: wire::Hello) -> Result<Hello, Invalid> {
    let wire::Hello {
        agent_id,
        cluster_id,
        hostname,
        boot_id,
        address,
        version,
        total,
        attributes: facts,
        limitations,
        tasks,
        digests,
    } = hello;
    at_most("limitations", limitations.len(), LIMITATIONS_MAX)?;
    at_most("tasks", tasks.len(), KNOWN_TASKS_MAX)?;
    let limitations = limitations
        .into_iter()
        .map(|line| text("limitations", line, limits::MESSAGE_BYTES_MAX))
        .collect::<Result<_, _>>()?;
    if boot_id.is_empty() {
        return Err(Invalid::missing("boot_id"));
    }
    Ok(Hello {
        agent: id("agent_id", &agent_id)?,
        cluster: optional_id("cluster_id", &cluster_id)?,
        facts: AgentFacts {
            hostname: text("hostname", hostname, ADDRESS_BYTES_MAX)?,
            boot_id: text("boot_id", boot_id, SHORT_BYTES_MAX)?,
            address: text("address", address, ADDRESS_BYTES_MAX)?,
            version: text("version", version, SHORT_BYTES_MAX)?,
            total: checked_resources(required("total", total)?).within("total")?,
            attributes: attributes("attributes", facts)?,
            limitations,
        },
        tasks: if digests.is_empty() {
            Known::All(each("tasks", tasks, known_task)?)
        } else {
            Known::Digests(
                Digests::from_bytes(&digests).ok_or_else(|| Invalid::new("digests", DIGESTS_WRONG))?,
            )
        },
    })
}

fn known_task(known: wire::KnownTask) -> Result<KnownTask, Invalid> {
    let wire::KnownTask { task_id, sequence, state } = known;
    Ok(KnownTask { task: id("task_id", &task_id)?, sequence, state: task_state("state", state)? })
}

fn history_answer(answer: wire::HistoryAnswer) -> Result<FromAgent, Invalid> {
    let wire::HistoryAnswer { request, points, mut error } = answer;
    at_most("points", points.len(), HISTORY_POINTS_MAX)?;
    let result = if error.is_empty() {
        Ok(points.into_iter().map(usage).collect())
    } else {
        cut_to(&mut error, limits::MESSAGE_BYTES_MAX);
        Err(error)
    };
    Ok(FromAgent::History { request, result })
}

fn output_answer(answer: wire::OutputAnswer) -> Result<FromAgent, Invalid> {
    let wire::OutputAnswer { request, offset, data, is_end, error } = answer;
    at_most("data", data.len(), OUTPUT_BYTES_MAX)?;
    let result = if error.is_empty() {
        Ok(OutputChunk { offset, data: data.into(), is_end })
    } else {
        let mut error = error;
        cut_to(&mut error, limits::MESSAGE_BYTES_MAX);
        Err(error)
    };
    Ok(FromAgent::Output { request, result })
}

pub fn to_agent(message: ToAgent) -> wire::ToAgent {
    use wire::to_agent::Message;
    let message = match message {
        ToAgent::ReadKnown { buckets } => Message::ReadKnown(wire::ReadKnown { buckets }),
        ToAgent::Welcome { cluster, epoch, term, assignments, unchanged, heartbeat_interval } => {
            Message::Welcome(wire::Welcome {
                cluster_id: cluster.to_string(),
                epoch,
                term,
                assignments: assignments.iter().map(to_assignment).collect(),
                heartbeat_interval_ms: millis(heartbeat_interval),
                unchanged,
            })
        }
        ToAgent::Launch(assignments) => {
            Message::Launch(wire::Launch { assignments: assignments.iter().map(to_assignment).collect() })
        }
        ToAgent::Kill { task, grace } => {
            Message::Kill(wire::Kill { task_id: task.to_string(), grace_ms: millis(grace) })
        }
        ToAgent::Acknowledge(tasks) => Message::Acknowledge(wire::Acknowledge {
            tasks: tasks
                .into_iter()
                .map(|(task, sequence)| wire::Acknowledged { task_id: task.to_string(), sequence })
                .collect(),
        }),
        ToAgent::ReadOutput { request, output } => {
            let OutputRequest { task, stream, offset, tail, newer_than, limit, wait, process } = output;
            Message::ReadOutput(wire::ReadOutput {
                request,
                task_id: task.to_string(),
                stream: match stream {
                    OutputStream::Stdout => 1,
                    OutputStream::Stderr => 2,
                },
                offset,
                tail_bytes: tail,
                newer_than_ms: newer_than.map(millis),
                limit,
                wait_ms: millis(wait),
                process: process.unwrap_or_default(),
            })
        }
        ToAgent::ReadHistory { request, history } => {
            let HistoryRequest { subject, since, step } = history;
            let task_id = match subject {
                Subject::Host => String::new(),
                Subject::Task(task) => task.to_string(),
            };
            let (since_us, step_ms) = (since.0, millis(step));
            Message::ReadHistory(wire::ReadHistory { request, task_id, since_us, step_ms })
        }
        ToAgent::UsagePace { interval } => {
            Message::UsagePace(wire::UsagePace { interval_ms: millis(interval) })
        }
        ToAgent::OpenChannel { channel: ChannelId(bytes), task } => Message::OpenChannel(wire::OpenChannel {
            channel_id: bytes.to_vec().into(),
            task_id: task.to_string(),
        }),
        ToAgent::Heartbeat => Message::Heartbeat(wire::Heartbeat {}),
        ToAgent::Refused { refusal: Refusal { code, message }, is_final } => {
            Message::Refused(wire::Refused { code: code.to_string(), message, is_final })
        }
    };
    wire::ToAgent { message: Some(message) }
}

fn to_assignment(assignment: &Assignment) -> wire::Assignment {
    let Assignment { framework, spec, kill, recorded_sequence } = assignment;
    wire::Assignment {
        framework_id: framework.to_string(),
        spec: Some(to_task_spec(spec)),
        kill: kill.map(|KillOrder { grace }| wire::KillOrder { grace_ms: millis(grace) }),
        recorded_sequence: *recorded_sequence,
    }
}

/// Shortens a sentence for people: refusing a status for it would lose the status.
fn cut_to(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
}
