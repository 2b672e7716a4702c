//! How the processes of a task group end, and what that makes of the task.
//!
//! Which end is the end of the whole was decided by the group's init, which writes it down; here it becomes words.

use model::{Exit, Reason, TaskId, TaskSpec, TaskState, Usage};

use crate::{Action, Now, Phase, Supervisor, Verdict, verdict::has_reached_its_limit};

/// The end of one process of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessEnd {
    pub name: String,
    pub exit: Exit,
    /// Its end was the end of the whole.
    pub is_decisive: bool,
    /// It ended before the whole began to end, so nobody had asked it to.
    pub is_own: bool,
    /// Present: the kernel killed some of it for memory.
    pub memory: Option<MemoryEnd>,
}

/// What the kernel did for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEnd {
    pub oom_kills: u64,
    /// The process' own limit, where that was reached; else it was that of the whole.
    pub limit_mib: Option<u64>,
}

impl ProcessEnd {
    fn is_failure(&self) -> bool {
        self.is_own && (self.exit != Exit::Code(0) || self.memory.is_some())
    }

    /// `reached_mib`: the limit of the whole, where that was reached.
    fn describe(&self, reached_mib: Option<u64>) -> String {
        let name = &self.name;
        let Some(MemoryEnd { oom_kills, limit_mib }) = self.memory else {
            return match self.exit {
                Exit::Code(code) => format!("the process `{name}` exited with code {code}"),
                Exit::Signal(signal) => format!("the process `{name}` was killed by signal {signal}"),
            };
        };
        let killed = if oom_kills == 1 { "1 process".to_owned() } else { format!("{oom_kills} processes") };
        match (limit_mib, reached_mib) {
            (Some(limit), _) => {
                format!(
                    "the process `{name}` reached its memory limit of {limit} MiB; the kernel killed {killed}"
                )
            }
            (None, Some(limit)) => format!(
                "the group reached its memory limit of {limit} MiB; the kernel killed {killed} of `{name}`"
            ),
            (None, None) => format!("for want of memory, the kernel killed {killed} of `{name}`"),
        }
    }
}

/// Those that failed by themselves, in words; empty where none did.
fn failures(ends: &[ProcessEnd]) -> String {
    let failed = ends.iter().filter(|end| end.is_failure() && !end.is_decisive);
    failed.map(|end| end.describe(None)).collect::<Vec<_>>().join("; ")
}

impl Verdict {
    /// The processes are over, and nobody had asked for it.
    pub fn of_group(exit: Option<Exit>, usage: Option<Usage>, ends: &[ProcessEnd], spec: &TaskSpec) -> Self {
        let decisive = ends.iter().find(|end| end.is_decisive);
        let (state, reason, first) = match (exit, decisive) {
            // Its init tells nothing: it was ended itself.
            (None, _) | (Some(Exit::Code(1..) | Exit::Signal(_)), None) => {
                return Self::of_exit(exit, usage);
            }
            (Some(Exit::Code(0)), _) => (TaskState::Finished, Reason::CommandExited, String::new()),
            (Some(Exit::Code(_) | Exit::Signal(_)), Some(end)) => {
                let reached_mib = has_reached_its_limit(usage.as_ref()).then_some(spec.mem_limit());
                let has_own = end.memory.is_some_and(|memory| memory.limit_mib.is_some());
                let reason = match (end.memory, end.exit) {
                    (Some(_), _) if has_own || reached_mib.is_some() => Reason::MemoryLimit,
                    (_, Exit::Code(_)) => Reason::CommandExited,
                    (_, Exit::Signal(_)) => Reason::CommandSignaled,
                };
                (TaskState::Failed, reason, end.describe(reached_mib))
            }
        };
        let parts = [first, failures(ends)];
        let message = parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("; ");
        Self { state, reason, message, exit, usage }
    }
}

impl Supervisor {
    /// Processes of a group ended, and the group goes on: failures are told.
    pub(crate) fn processes_ended(
        &mut self,
        task_id: &TaskId,
        ends: &[ProcessEnd],
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(task_id) else { return };
        let is_running = matches!(entry.row.phase, Phase::Running { .. }) && entry.row.kill.is_none();
        let failures = failures(ends);
        if !is_running || failures == entry.failures {
            return;
        }
        entry.failures.clone_from(&failures);
        let is_told = entry.row.statuses.last().is_some_and(|status| status.message == failures);
        if !is_told {
            self.tell(task_id, Verdict::running(failures), false, now, actions);
        }
    }
}
