//! How a task ended, in one place.

use model::{Exit, Figure, Reason, TaskSpec, TaskState, Usage};

use crate::{Kill, KillCause};

/// The end of a task, before it is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub state: TaskState,
    pub reason: Reason,
    pub message: String,
    pub exit: Option<Exit>,
    pub usage: Option<Usage>,
}

impl Verdict {
    /// Nothing began, or it is not this agent's to tell how it ended.
    pub fn without_exit(state: TaskState, reason: Reason, message: impl Into<String>) -> Self {
        Self { state, reason, message: message.into(), exit: None, usage: None }
    }

    /// The task was asked to end and has not yet.
    pub fn killing(cause: KillCause, message: impl Into<String>) -> Self {
        Self::without_exit(TaskState::Killing, cause.reason(), message)
    }

    /// A kill was under way: whatever happened then, that is why.
    pub fn killed(kill: Kill, spec: &TaskSpec, exit: Option<Exit>, usage: Option<Usage>) -> Self {
        let state = match kill.cause {
            KillCause::Ordered | KillCause::NotAssigned | KillCause::AgentEnds => TaskState::Killed,
            // Nobody asked for it: the task has not kept to its spec.
            KillCause::RunTimeLimit | KillCause::DiskLimit | KillCause::Unhealthy => TaskState::Failed,
        };
        let message = match kill.cause {
            KillCause::Ordered => "ended because somebody asked for it".to_owned(),
            KillCause::NotAssigned => "ended because the leader does not know the task".to_owned(),
            KillCause::AgentEnds => "ended because its agent was stopped together with its tasks".to_owned(),
            KillCause::DiskLimit => {
                let disk = spec.resources.disk_mib;
                format!("ended because its sandbox and /tmp outgrew the {disk} MiB of disk that it asked for")
            }
            KillCause::RunTimeLimit => {
                let longest = spec.run_time_max.unwrap_or_default().as_secs_f64();
                format!("ended because it ran for {longest} s, the longest that its spec allows")
            }
            KillCause::Unhealthy => {
                let failures = spec.health_check.as_ref().map_or(0, |check| check.failures_max);
                format!("ended because its health check failed {failures} times in a row")
            }
        };
        Self { state, reason: kill.cause.reason(), message, exit, usage }
    }

    /// It runs, and how.
    pub fn running(message: impl Into<String>) -> Self {
        Self::without_exit(TaskState::Running, Reason::None, message)
    }

    /// Of one that runs: with the ports that it uses and has not declared.
    #[must_use]
    pub fn with_ports(self, ports: &[String]) -> Self {
        if ports.is_empty() {
            return self;
        }
        let said = format!("uses ports that it has not declared: {}", ports.join(", "));
        let message = if self.message.is_empty() { said } else { format!("{}; {said}", self.message) };
        Self { reason: Reason::PortNotDeclared, message, ..self }
    }

    /// The main process is over and nobody had asked for it.
    pub fn of_exit(exit: Option<Exit>, usage: Option<Usage>) -> Self {
        let oom_kills = usage.as_ref().and_then(|usage| usage.get(Figure::OomKills)).unwrap_or(0);
        let (state, reason, message) = match exit {
            None => (
                TaskState::Failed,
                Reason::ExitStatusUnknown,
                "ended while the agent was away, and this host kept no exit status".to_owned(),
            ),
            Some(Exit::Code(0)) => (TaskState::Finished, Reason::CommandExited, String::new()),
            Some(Exit::Code(_) | Exit::Signal(_))
                if oom_kills > 0 && has_reached_its_limit(usage.as_ref()) =>
            {
                (TaskState::Failed, Reason::MemoryLimit, describe_memory(usage.as_ref(), oom_kills))
            }
            Some(Exit::Code(code)) => {
                let why = blame_host(oom_kills);
                (TaskState::Failed, Reason::CommandExited, format!("exited with code {code}{why}"))
            }
            Some(Exit::Signal(signal)) => {
                let why = blame_host(oom_kills);
                (TaskState::Failed, Reason::CommandSignaled, format!("killed by signal {signal}{why}"))
            }
        };
        Self { state, reason, message, exit, usage }
    }
}

/// Whether the kernel killed because of the task's own limit, and not for want of memory on the host or in a group
/// above the task's: it counts both as the task's OOM kills. The most that was ever in use is up to some hundred
/// pages short of a limit that was reached. Where one of both isn't known, the limit is the usual cause.
pub(crate) fn has_reached_its_limit(usage: Option<&Usage>) -> bool {
    let figure = |figure| usage.and_then(|usage| usage.get(figure));
    match (figure(Figure::MemoryPeakBytes), figure(Figure::MemoryLimitBytes)) {
        (Some(peak), Some(limit)) => peak >= limit - limit / 8,
        _ => true,
    }
}

fn blame_host(oom_kills: u64) -> String {
    match oom_kills {
        0 => String::new(),
        _ => format!("; the host ran out of memory, and the kernel killed {}", processes(oom_kills)),
    }
}

fn processes(count: u64) -> String {
    if count == 1 { "1 process of it".to_owned() } else { format!("{count} processes of it") }
}

fn describe_memory(usage: Option<&Usage>, oom_kills: u64) -> String {
    let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20);
    let used = usage
        .and_then(|usage| usage.get(Figure::MemoryBytes))
        .map(|bytes| format!(", {} in use", mib(bytes)));
    let limit = usage
        .and_then(|usage| usage.get(Figure::MemoryLimitBytes))
        .map(|bytes| format!(" of {}", mib(bytes)));
    let processes = if oom_kills == 1 { "1 process".to_owned() } else { format!("{oom_kills} processes") };
    format!(
        "reached its memory limit{}{}; the kernel killed {processes}",
        limit.unwrap_or_default(),
        used.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_memory_is_not_the_tasks_limit() {
        let usage = |peak| {
            Usage::default()
                .with(Figure::OomKills, Some(1))
                .with(Figure::MemoryLimitBytes, Some(64 << 20))
                .with(Figure::MemoryPeakBytes, peak)
        };
        let verdict = |peak| Verdict::of_exit(Some(Exit::Signal(9)), Some(usage(peak)));
        assert_eq!(verdict(Some((64 << 20) - 4096)).reason, Reason::MemoryLimit);
        assert_eq!(verdict(None).reason, Reason::MemoryLimit);
        let starved = verdict(Some(20 << 20));
        assert_eq!(starved.reason, Reason::CommandSignaled);
        let why = "killed by signal 9; the host ran out of memory, and the kernel killed 1 process of it";
        assert_eq!(starved.message, why);
    }
}
