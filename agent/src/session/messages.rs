//! What the two sides say, in terms of `model`.

use std::collections::BTreeSet;

use bytes::Bytes;
use model::{ClusterId, Duration, Subject, TaskId, TaskStatus, Timestamp, Usage, UsageReport};
use proto::agent::v1::{self as wire, from_agent};
use supervisor::{Assignment, Known, KnownTask};

use crate::{convert, execute::chain};

/// What Hello needs of the actor.
#[derive(Debug)]
pub struct Greeting {
    pub cluster_id: Option<ClusterId>,
    pub tasks: Vec<KnownTask>,
}

/// From the actor to the leader.
#[derive(Debug, Clone, PartialEq)]
pub enum ToLeader {
    Statuses(Vec<TaskStatus>),
    Usage(UsageReport),
    Output(OutputAnswer),
    History {
        request: u64,
        result: Result<Vec<Usage>, String>,
    },
    /// All tasks that stand still.
    Frozen(BTreeSet<TaskId>),
}

/// From the leader to the actor.
#[derive(Debug, Clone, PartialEq)]
pub enum FromLeader {
    Welcomed {
        cluster_id: String,
        epoch: u64,
        assignments: Vec<Assignment>,
        /// Tasks of which the leader knows what this session's hello said.
        unchanged: Vec<KnownTask>,
    },
    Launch(Vec<Assignment>),
    Kill {
        task_id: TaskId,
        grace: Duration,
    },
    Acknowledge(Vec<(TaskId, u64)>),
    ReadOutput(OutputRequest),
    ReadHistory {
        request: u64,
        subject: Subject,
        since: Timestamp,
        step: Duration,
    },
    /// How often usage shall be reported.
    UsagePace {
        interval: Duration,
    },
    /// Somebody wants to talk with a task.
    OpenChannel {
        channel_id: Vec<u8>,
        task_id: TaskId,
    },
}

/// Which of a task's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A wish to read a piece of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRequest {
    pub request: u64,
    pub task_id: TaskId,
    pub stream: Stream,
    pub offset: u64,
    pub tail: Option<u64>,
    /// Begins where output that is not older begins, instead.
    pub newer_than: Option<Duration>,
    pub limit: u32,
    pub wait: Duration,
    /// Of which process of a task group.
    pub process: Option<String>,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputAnswer {
    pub request: u64,
    /// `Err`: why it can't be read.
    pub result: Result<Chunk, String>,
}

/// A piece of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub offset: u64,
    pub data: Bytes,
    pub is_end: bool,
}

pub(crate) fn to_wire(message: ToLeader) -> from_agent::Message {
    match message {
        ToLeader::Statuses(statuses) => from_agent::Message::Updates(wire::StatusUpdates {
            statuses: statuses.iter().map(codec::to_task_status).collect(),
        }),
        ToLeader::Usage(report) => from_agent::Message::Usage(codec::to_usage_report(report)),
        ToLeader::History { request, result } => {
            let answer = match result {
                Ok(points) => wire::HistoryAnswer {
                    request,
                    points: points.iter().map(codec::to_usage).collect(),
                    error: String::new(),
                },
                Err(error) => wire::HistoryAnswer { request, points: Vec::new(), error },
            };
            from_agent::Message::History(answer)
        }
        ToLeader::Frozen(tasks) => from_agent::Message::Frozen(wire::FrozenTasks {
            task_ids: tasks.iter().map(|task_id| task_id.as_str().to_owned()).collect(),
        }),
        ToLeader::Output(OutputAnswer { request, result }) => {
            let answer = match result {
                Ok(Chunk { offset, data, is_end }) => {
                    wire::OutputAnswer { request, offset, data, is_end, error: String::new() }
                }
                Err(error) => wire::OutputAnswer { request, error, ..wire::OutputAnswer::default() },
            };
            from_agent::Message::Output(answer)
        }
    }
}

/// `awaits_word` is in the digests alone.
pub(crate) fn known_task(known: &KnownTask) -> wire::KnownTask {
    let KnownTask { task_id, sequence, state, awaits_word: _ } = known;
    wire::KnownTask {
        task_id: task_id.as_str().to_owned(),
        sequence: *sequence,
        state: codec::to_task_state(*state).into(),
    }
}

/// What the leader asked for, of what the hello said.
pub(crate) fn read_known(read: wire::ReadKnown, known: &Known) -> from_agent::Message {
    let wire::ReadKnown { buckets } = read;
    let tasks = known.of_buckets(&buckets).iter().map(known_task).collect();
    from_agent::Message::Known(wire::KnownTasks { tasks })
}

pub(crate) fn welcomed(welcome: wire::Welcome, known: &Known) -> Vec<FromLeader> {
    let wire::Welcome {
        cluster_id,
        epoch,
        term: _,
        assignments: listed,
        heartbeat_interval_ms: _,
        unchanged: buckets,
    } = welcome;
    let unchanged = known.of_buckets(&buckets);
    vec![FromLeader::Welcomed { cluster_id, epoch, assignments: assignments(listed), unchanged }]
}

pub(crate) fn launch(launch: wire::Launch) -> Vec<FromLeader> {
    let wire::Launch { assignments: listed } = launch;
    vec![FromLeader::Launch(assignments(listed))]
}

pub(crate) fn kill(kill: wire::Kill) -> Vec<FromLeader> {
    let wire::Kill { task_id, grace_ms } = kill;
    let grace = Duration::from_millis(grace_ms);
    valid_id(&task_id).map(|task_id| FromLeader::Kill { task_id, grace }).into_iter().collect()
}

pub(crate) fn acknowledge(acknowledge: wire::Acknowledge) -> Vec<FromLeader> {
    let wire::Acknowledge { tasks } = acknowledge;
    let tasks = tasks.into_iter().filter_map(|wire::Acknowledged { task_id, sequence }| {
        valid_id(&task_id).map(|task_id| (task_id, sequence))
    });
    vec![FromLeader::Acknowledge(tasks.collect())]
}

pub(crate) fn read_output(read: wire::ReadOutput) -> Vec<FromLeader> {
    let wire::ReadOutput {
        request,
        task_id,
        stream,
        offset,
        tail_bytes,
        limit,
        wait_ms,
        newer_than_ms,
        process,
    } = read;
    let stream = match stream {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => {
            tracing::error!(stream, "the coordinator asked for an output that no task has");
            return Vec::new();
        }
    };
    let wait = Duration::from_millis(wait_ms);
    let newer_than = newer_than_ms.map(Duration::from_millis);
    let process = (!process.is_empty()).then_some(process);
    // It becomes part of a file's name.
    if process.as_deref().is_some_and(|name| !model::is_process_name(name)) {
        tracing::error!("the coordinator asked for an output of what can't be a process");
        return Vec::new();
    }
    let wish = |task_id| {
        let tail = tail_bytes;
        FromLeader::ReadOutput(OutputRequest {
            request,
            task_id,
            stream,
            offset,
            tail,
            newer_than,
            limit,
            wait,
            process,
        })
    };
    valid_id(&task_id).map(wish).into_iter().collect()
}

pub(crate) fn read_history(read: wire::ReadHistory) -> Vec<FromLeader> {
    let wire::ReadHistory { request, task_id, since_us, step_ms } = read;
    let (since, step) = (Timestamp(since_us), Duration::from_millis(step_ms));
    let subject =
        if task_id.is_empty() { Some(Subject::Host) } else { valid_id(&task_id).map(Subject::Task) };
    let wish = |subject| FromLeader::ReadHistory { request, subject, since, step };
    subject.map(wish).into_iter().collect()
}

pub(crate) fn usage_pace(pace: wire::UsagePace) -> Vec<FromLeader> {
    let wire::UsagePace { interval_ms } = pace;
    vec![FromLeader::UsagePace { interval: Duration::from_millis(interval_ms) }]
}

pub(crate) fn open_channel(open: wire::OpenChannel) -> Vec<FromLeader> {
    let wire::OpenChannel { channel_id, task_id } = open;
    let open = |task_id| FromLeader::OpenChannel { channel_id: channel_id.to_vec(), task_id };
    valid_id(&task_id).map(open).into_iter().collect()
}

/// What can't be understood is left out and said: the leader had checked it.
fn assignments(listed: Vec<wire::Assignment>) -> Vec<Assignment> {
    let mut valid = Vec::with_capacity(listed.len());
    for assignment in listed {
        match convert::assignment(assignment) {
            Ok(assignment) => valid.push(assignment),
            Err(error) => {
                tracing::error!(error = chain(&error), "the coordinator assigned what can't be run")
            }
        }
    }
    valid
}

fn valid_id(text: &str) -> Option<TaskId> {
    match TaskId::new(text) {
        Ok(task_id) => Some(task_id),
        Err(error) => {
            tracing::error!(error = chain(&error), "the coordinator named a task that can't be");
            None
        }
    }
}
