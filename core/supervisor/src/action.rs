//! What can be done to this host for a task, and how each of it is undone.

use std::{fmt, sync::Arc};

use model::{Exit, StopSignal, TaskId, TaskSpec, TaskStatus};

use crate::{ProcessId, Row};

/// An effect still to be done. Those of one task are done in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Stores the row; it is there for the next start of the agent before the next action begins.
    WriteRecord(Box<Row>),
    /// Drops the row.
    Forget {
        task_id: TaskId,
    },
    /// Makes the task's directory and output files.
    MakeSandbox {
        task_id: TaskId,
        attempt: String,
        spec: Arc<TaskSpec>,
    },
    RemoveSandbox {
        task_id: TaskId,
        attempt: String,
    },
    /// Makes the cgroups with their limits.
    MakeCgroups {
        task_id: TaskId,
        attempt: String,
        spec: Arc<TaskSpec>,
    },
    /// Removes the empty cgroups.
    RemoveCgroups {
        task_id: TaskId,
        attempt: String,
    },
    /// Lets the kernel programs count for the cgroup.
    RegisterMeter {
        task_id: TaskId,
        attempt: String,
    },
    UnregisterMeter {
        task_id: TaskId,
        attempt: String,
    },
    /// Begins to bring the spec's files into the sandbox. Answered by `Fetched` or `FetchFailed`, in time.
    Fetch {
        task_id: TaskId,
        attempt: String,
        spec: Arc<TaskSpec>,
    },
    /// Ends the fetching that is under way, which is then answered by `FetchFailed`.
    CancelFetch {
        task_id: TaskId,
        attempt: String,
    },
    /// Starts the process inside the cgroup; it waits and does not begin. Answered by `Prepared`.
    Spawn {
        task_id: TaskId,
        attempt: String,
        spec: Arc<TaskSpec>,
    },
    /// Lets the kernel keep the process' exit status.
    RegisterProcess {
        task_id: TaskId,
        process: ProcessId,
    },
    UnregisterProcess {
        task_id: TaskId,
        process: ProcessId,
    },
    /// Lets the waiting process become the command. Answered by `Launched` or `ExecFailed`.
    Release {
        task_id: TaskId,
    },
    /// Looks for the process of an earlier start of the agent. Answered by `Launched` or `NeverBegun`, and by
    /// `Exited` in the end.
    Adopt {
        task_id: TaskId,
        attempt: String,
        process: ProcessId,
        confidence: Confidence,
        spec: Arc<TaskSpec>,
    },
    /// Asks the task again and again how it is, as its spec says. Answered by `Probed`, each time.
    BeginChecks {
        task_id: TaskId,
    },
    /// Asks no more.
    EndChecks {
        task_id: TaskId,
    },
    /// Tells that an unhealthy task was not killed, because too many were.
    Spare {
        task_id: TaskId,
    },
    /// Asks the main process to end.
    Terminate {
        task_id: TaskId,
        process: ProcessId,
        signal: StopSignal,
    },
    /// Sends SIGKILL to every process of the cgroup. Answered by `Emptied`, in time.
    KillAll {
        task_id: TaskId,
        attempt: String,
    },
    /// Kills and removes cgroups that no row names.
    RemoveStrayCgroups {
        attempt: String,
    },
    /// Removes a sandbox that no row names.
    RemoveStraySandbox {
        attempt: String,
    },
    /// Tells the leader, or waits until there is one.
    Report(Box<TaskStatus>),
}

/// What is known of a process that another start of the agent left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// It was seen to run the command.
    Confirmed,
    /// It may have waited still, and then ended by itself. Its init has written down whether it began.
    ToldByInit,
    /// The same without an init: it ended with code 0 if it waited still, so such a code is not believed.
    Doubtful,
}

impl Action {
    /// What takes this action back; `None` where nothing does or needs to.
    pub fn undo(&self) -> Option<Self> {
        match self {
            Self::MakeSandbox { task_id, attempt, .. } => {
                Some(Self::RemoveSandbox { task_id: task_id.clone(), attempt: attempt.clone() })
            }
            Self::MakeCgroups { task_id, attempt, .. } => {
                Some(Self::RemoveCgroups { task_id: task_id.clone(), attempt: attempt.clone() })
            }
            Self::RegisterMeter { task_id, attempt } => {
                Some(Self::UnregisterMeter { task_id: task_id.clone(), attempt: attempt.clone() })
            }
            Self::Fetch { task_id, attempt, .. } => {
                Some(Self::CancelFetch { task_id: task_id.clone(), attempt: attempt.clone() })
            }
            Self::RegisterProcess { task_id, process } => {
                Some(Self::UnregisterProcess { task_id: task_id.clone(), process: *process })
            }
            Self::Spawn { task_id, attempt, .. } => {
                Some(Self::KillAll { task_id: task_id.clone(), attempt: attempt.clone() })
            }
            Self::BeginChecks { task_id } => Some(Self::EndChecks { task_id: task_id.clone() }),
            // The record outlives a failed launch: it is what remembers that there was one.
            Self::WriteRecord(_) | Self::Forget { .. } => None,
            // What is gone, told, signalled or begun stays so.
            Self::RemoveSandbox { .. }
            | Self::RemoveCgroups { .. }
            | Self::UnregisterMeter { .. }
            | Self::UnregisterProcess { .. }
            | Self::CancelFetch { .. }
            | Self::Release { .. }
            | Self::Adopt { .. }
            | Self::EndChecks { .. }
            | Self::Spare { .. }
            | Self::Terminate { .. }
            | Self::KillAll { .. }
            | Self::RemoveStrayCgroups { .. }
            | Self::RemoveStraySandbox { .. }
            | Self::Report(_) => None,
        }
    }

    /// Whether it takes no time worth speaking of: the one who decides does it himself, before
    /// anything that comes after it in the same answer. The others wait for their turn in the task's lane.
    pub fn is_immediate(&self) -> bool {
        match self {
            Self::WriteRecord(_)
            | Self::Forget { .. }
            | Self::BeginChecks { .. }
            | Self::EndChecks { .. }
            | Self::Spare { .. }
            | Self::Report(_) => true,
            Self::MakeSandbox { .. }
            | Self::RemoveSandbox { .. }
            | Self::MakeCgroups { .. }
            | Self::RemoveCgroups { .. }
            | Self::RegisterMeter { .. }
            | Self::UnregisterMeter { .. }
            | Self::Fetch { .. }
            | Self::CancelFetch { .. }
            | Self::Spawn { .. }
            | Self::RegisterProcess { .. }
            | Self::UnregisterProcess { .. }
            | Self::Release { .. }
            | Self::Adopt { .. }
            | Self::Terminate { .. }
            | Self::KillAll { .. }
            | Self::RemoveStrayCgroups { .. }
            | Self::RemoveStraySandbox { .. } => false,
        }
    }

    /// The task that it is done for; `None` for what no row names.
    pub fn task_id(&self) -> Option<&TaskId> {
        match self {
            Self::WriteRecord(row) => Some(&row.task_id),
            Self::Report(status) => Some(&status.task_id),
            Self::Forget { task_id }
            | Self::MakeSandbox { task_id, .. }
            | Self::RemoveSandbox { task_id, .. }
            | Self::MakeCgroups { task_id, .. }
            | Self::RemoveCgroups { task_id, .. }
            | Self::RegisterMeter { task_id, .. }
            | Self::UnregisterMeter { task_id, .. }
            | Self::Fetch { task_id, .. }
            | Self::CancelFetch { task_id, .. }
            | Self::Spawn { task_id, .. }
            | Self::RegisterProcess { task_id, .. }
            | Self::UnregisterProcess { task_id, .. }
            | Self::Release { task_id }
            | Self::Adopt { task_id, .. }
            | Self::BeginChecks { task_id }
            | Self::EndChecks { task_id }
            | Self::Spare { task_id }
            | Self::Terminate { task_id, .. }
            | Self::KillAll { task_id, .. } => Some(task_id),
            Self::RemoveStrayCgroups { .. } | Self::RemoveStraySandbox { .. } => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteRecord(row) => write!(formatter, "write record {}: {row}", row.task_id),
            Self::Forget { task_id } => write!(formatter, "forget {task_id}"),
            Self::MakeSandbox { attempt, .. } => write!(formatter, "make sandbox {attempt}"),
            Self::RemoveSandbox { attempt, .. } => write!(formatter, "remove sandbox {attempt}"),
            Self::MakeCgroups { attempt, spec, .. } => {
                write!(formatter, "make cgroups {attempt} {}", spec.resources)
            }
            Self::RemoveCgroups { attempt, .. } => write!(formatter, "remove cgroups {attempt}"),
            Self::RegisterMeter { attempt, .. } => write!(formatter, "register meter {attempt}"),
            Self::UnregisterMeter { attempt, .. } => write!(formatter, "unregister meter {attempt}"),
            Self::Fetch { attempt, spec, .. } => {
                write!(formatter, "fetch {attempt}, files: {}", spec.fetches.len())
            }
            Self::CancelFetch { attempt, .. } => write!(formatter, "cancel fetch {attempt}"),
            Self::Spawn { attempt, spec, .. } if spec.processes.is_empty() => {
                write!(formatter, "spawn {attempt} {:?}", spec.command)
            }
            Self::Spawn { attempt, spec, .. } => {
                let names: Vec<&str> = spec.processes.iter().map(|process| process.name.as_str()).collect();
                write!(formatter, "spawn {attempt}, processes: {}", names.join(" "))
            }
            Self::RegisterProcess { task_id, process } => {
                write!(formatter, "register process {process} of {task_id}")
            }
            Self::UnregisterProcess { task_id, process } => {
                write!(formatter, "unregister process {process} of {task_id}")
            }
            Self::Release { task_id } => write!(formatter, "release {task_id}"),
            Self::Adopt { task_id, process, .. } => write!(formatter, "adopt {process} of {task_id}"),
            Self::BeginChecks { task_id } => write!(formatter, "begin checks of {task_id}"),
            Self::EndChecks { task_id } => write!(formatter, "end checks of {task_id}"),
            Self::Spare { task_id } => write!(formatter, "spare {task_id}"),
            Self::Terminate { task_id, process, signal } => {
                write!(formatter, "terminate {process} of {task_id} by {}", signal.as_str())
            }
            Self::KillAll { attempt, .. } => write!(formatter, "kill all {attempt}"),
            Self::RemoveStrayCgroups { attempt } => write!(formatter, "remove stray cgroups {attempt}"),
            Self::RemoveStraySandbox { attempt } => write!(formatter, "remove stray sandbox {attempt}"),
            Self::Report(status) => {
                write!(
                    formatter,
                    "report {} #{} {}",
                    status.task_id,
                    status.sequence,
                    status.state.as_str()
                )?;
                if let Some(health) = status.health {
                    write!(formatter, " {}", health.as_str())?;
                }
                match status.exit {
                    Some(Exit::Code(code)) => write!(formatter, " code {code}")?,
                    Some(Exit::Signal(signal)) => write!(formatter, " signal {signal}")?,
                    None => {}
                }
                if status.is_released {
                    write!(formatter, " released")?;
                }
                if !status.message.is_empty() {
                    write!(formatter, " ({:?}: {})", status.reason, status.message)?;
                }
                Ok(())
            }
        }
    }
}
