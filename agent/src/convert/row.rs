//! Rows of the checkpoint.

use std::sync::Arc;

use codec::{
    Invalid, Within as _, each, exit, id, reason, required, task_spec, task_state, task_status, to_exit,
    to_reason, to_task_spec, to_task_state, to_task_status, to_usage, usage,
};
use model::{Duration, Timestamp};
use proto::checkpoint::v1 as stored;
use supervisor::{Kill, KillCause, Phase, ProcessId, Row, Uptime, Verdict};

pub fn to_row(row: &Row) -> stored::Row {
    let Row {
        task_id: _, // The key, and in the spec.
        framework_id,
        spec,
        attempt,
        phase,
        kill,
        statuses,
        sequence,
        acknowledged,
        assigned_at,
        began,
        launches,
    } = row;
    let mut spec = to_task_spec(spec);
    for secret in &mut spec.secrets {
        // Secrets are on no disk of the agent's; the leader has them.
        secret.value.clear();
    }
    stored::Row {
        spec: Some(spec),
        framework_id: framework_id.as_str().to_owned(),
        attempt: attempt.clone(),
        phase: Some(stored::Phase { phase: Some(to_phase(phase)) }),
        kill: kill.map(|Kill { cause, deadline }| stored::Kill {
            cause: to_cause(cause).into(),
            deadline_uptime_us: Some(to_us(deadline)),
        }),
        statuses: statuses.iter().map(to_task_status).collect(),
        sequence: *sequence,
        acknowledged: *acknowledged,
        assigned_at_us: assigned_at.0,
        launches: Some(*launches),
        began_uptime_us: began.map(to_us),
    }
}

pub fn row(message: stored::Row) -> Result<Row, Invalid> {
    let stored::Row {
        spec,
        framework_id,
        attempt,
        phase,
        kill,
        statuses,
        sequence,
        acknowledged,
        assigned_at_us,
        launches,
        began_uptime_us,
    } = message;
    let spec = task_spec(required("spec", spec)?).within("spec")?;
    let phase = required("phase", phase.and_then(|phase| phase.phase))?;
    if attempt.is_empty() {
        return Err(Invalid::missing("attempt"));
    }
    Ok(Row {
        task_id: spec.task_id.clone(),
        framework_id: id("framework_id", &framework_id)?,
        spec: Arc::new(spec),
        attempt,
        phase: phase_of(phase).within("phase")?,
        kill: kill.map(kill_of).transpose().within("kill")?,
        statuses: each("statuses", statuses, task_status)?,
        sequence,
        acknowledged,
        assigned_at: Timestamp(assigned_at_us),
        began: began_uptime_us.map(uptime),
        launches: launches.unwrap_or(1),
    })
}

fn to_phase(phase: &Phase) -> stored::phase::Phase {
    match phase {
        Phase::Preparing => stored::phase::Phase::Preparing(stored::Nothing {}),
        Phase::Releasing { process } => stored::phase::Phase::Releasing(to_process(*process)),
        Phase::Running { process } => stored::phase::Phase::Running(to_process(*process)),
        Phase::Ending { process, verdict, since } => {
            let Verdict { state, reason, message, exit, usage } = verdict;
            stored::phase::Phase::Ending(stored::Ending {
                process: process.map(to_process),
                state: to_task_state(*state).into(),
                reason: to_reason(*reason).into(),
                message: message.clone(),
                exit: exit.map(to_exit),
                usage: usage.as_ref().map(to_usage),
                since_uptime_us: to_us(*since),
            })
        }
        Phase::Lingering { process, since } => stored::phase::Phase::Lingering(stored::Lingering {
            process: process.map(to_process),
            since_uptime_us: to_us(*since),
        }),
        Phase::Ended { at } => stored::phase::Phase::Ended(stored::Ended { at_us: at.0 }),
        Phase::Removing => stored::phase::Phase::Removing(stored::Nothing {}),
    }
}

fn phase_of(message: stored::phase::Phase) -> Result<Phase, Invalid> {
    Ok(match message {
        stored::phase::Phase::Preparing(stored::Nothing {}) => Phase::Preparing,
        stored::phase::Phase::Releasing(process) => Phase::Releasing { process: process_of(&process) },
        stored::phase::Phase::Running(process) => Phase::Running { process: process_of(&process) },
        stored::phase::Phase::Ending(ending) => {
            let stored::Ending {
                process,
                state,
                reason: why,
                message,
                exit: how,
                usage: figures,
                since_uptime_us,
            } = ending;
            Phase::Ending {
                process: process.as_ref().map(process_of),
                verdict: Verdict {
                    state: task_state("state", state)?,
                    reason: reason("reason", why)?,
                    message,
                    exit: how.map(exit).transpose().within("exit")?,
                    usage: figures.map(usage),
                },
                since: uptime(since_uptime_us),
            }
        }
        stored::phase::Phase::Lingering(stored::Lingering { process, since_uptime_us }) => {
            Phase::Lingering { process: process.as_ref().map(process_of), since: uptime(since_uptime_us) }
        }
        stored::phase::Phase::Ended(stored::Ended { at_us }) => Phase::Ended { at: Timestamp(at_us) },
        stored::phase::Phase::Removing(stored::Nothing {}) => Phase::Removing,
    })
}

fn to_us(uptime: Uptime) -> u64 {
    u64::try_from(uptime.0.as_micros()).unwrap_or(u64::MAX)
}

fn uptime(us: u64) -> Uptime {
    Uptime(Duration::from_micros(us))
}

fn to_process(process: ProcessId) -> stored::Process {
    let ProcessId { pid, start_ticks } = process;
    stored::Process { pid, start_ticks }
}

fn process_of(message: &stored::Process) -> ProcessId {
    let stored::Process { pid, start_ticks } = message;
    ProcessId { pid: *pid, start_ticks: *start_ticks }
}

fn to_cause(cause: KillCause) -> stored::KillCause {
    match cause {
        KillCause::Ordered => stored::KillCause::Ordered,
        KillCause::NotAssigned => stored::KillCause::NotAssigned,
        KillCause::AgentEnds => stored::KillCause::AgentEnds,
        KillCause::RunTimeLimit => stored::KillCause::RunTimeLimit,
        KillCause::DiskLimit => stored::KillCause::DiskLimit,
        KillCause::Unhealthy => stored::KillCause::Unhealthy,
    }
}

fn kill_of(message: stored::Kill) -> Result<Kill, Invalid> {
    let stored::Kill { cause, deadline_uptime_us } = message;
    let unknown = Invalid::new("cause", format_args!("holds {cause}, which is no cause known here"));
    let cause = match stored::KillCause::try_from(cause) {
        Ok(stored::KillCause::Ordered) => KillCause::Ordered,
        Ok(stored::KillCause::NotAssigned) => KillCause::NotAssigned,
        Ok(stored::KillCause::AgentEnds) => KillCause::AgentEnds,
        Ok(stored::KillCause::RunTimeLimit) => KillCause::RunTimeLimit,
        Ok(stored::KillCause::DiskLimit) => KillCause::DiskLimit,
        Ok(stored::KillCause::Unhealthy) => KillCause::Unhealthy,
        Ok(stored::KillCause::Unspecified) | Err(_) => return Err(unknown),
    };
    Ok(Kill { cause, deadline: deadline_uptime_us.map_or(Uptime(Duration::MAX), uptime) })
}
