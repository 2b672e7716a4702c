//! What the supervisor is told.

use std::sync::Arc;

use model::{Duration, Exit, FrameworkId, KillOrder, Reason, TaskId, TaskSpec, Usage};

use crate::{KnownTask, ProcessEnd, ProcessId};

/// What the leader wants of this agent: one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub framework_id: FrameworkId,
    pub spec: Arc<TaskSpec>,
    /// Present: the task shall end.
    pub kill: Option<KillOrder>,
    /// Highest sequence in the log.
    pub recorded_sequence: u64,
}

/// Something that happened, from the leader or from this host.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A session began; these are all tasks that are not both final and released. Of `unchanged` the leader knows what
    /// the hello said; they are among the assignments, too, when they shall end.
    Welcomed { assignments: Vec<Assignment>, unchanged: Vec<KnownTask> },
    /// Tasks were launched on this agent.
    Assigned { assignments: Vec<Assignment> },
    /// A task shall end. Without a grace: that of its spec.
    KillOrdered { task_id: TaskId, grace: Option<Duration> },
    /// Statuses up to here are in the log.
    Acknowledged { task_id: TaskId, sequence: u64 },
    /// Everything is there and the process waits.
    Prepared { task_id: TaskId, process: ProcessId },
    /// Something could not be prepared; what had been is undone.
    LaunchFailed { task_id: TaskId, reason: Reason, message: String },
    /// Every file of the spec is in the sandbox.
    Fetched { task_id: TaskId },
    /// A file could not be fetched, or the fetching was ended; nothing of it is left but the cgroup.
    FetchFailed { task_id: TaskId, message: String },
    /// The command runs (or was found running after a restart).
    Launched { task_id: TaskId },
    /// The process of an earlier start of the agent is gone, and has not run the command.
    NeverBegun { task_id: TaskId },
    /// The process could not become the command, and is gone.
    ExecFailed { task_id: TaskId, message: String },
    /// The main process is over. `exit` is absent when the host doesn't know how it ended.
    /// Of a task group: `exit` is that of the process whose end was the end of the whole.
    Exited { task_id: TaskId, exit: Option<Exit>, usage: Option<Usage>, processes: Vec<ProcessEnd> },
    /// Some processes of a task group are over, and it goes on: all that ended since it began.
    ProcessesEnded { task_id: TaskId, processes: Vec<ProcessEnd> },
    /// The kernel killed a process of the task for memory; the figures of that moment.
    OutOfMemory { task_id: TaskId, usage: Usage },
    /// Its files take more than the disk that it asked for.
    DiskOutgrown { task_id: TaskId },
    /// It uses a port that it has not declared: which, in a few words.
    PortUsed { task_id: TaskId, port: String },
    /// The task's health check was answered, or wasn't: why not, in a few words.
    Probed { task_id: TaskId, failure: Option<String> },
    /// No process is left in the task's cgroup; its last figures.
    Emptied { task_id: TaskId, usage: Option<Usage> },
    /// The sandbox of an ended task is gone.
    SandboxRemoved { task_id: TaskId },
    /// The disk has little room left: what is kept of the oldest ended task goes.
    DiskShort,
    /// The agent ends and takes its tasks along.
    EndAll,
    /// Time has passed; due at [`crate::Supervisor::next_wake`].
    Tick,
}
