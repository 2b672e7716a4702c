//! Rows of the checkpoint.

use std::sync::Arc;

use model::{FrameworkId, Timestamp};
use proto::checkpoint::v1 as stored;
use supervisor::{Kill, KillCause, Phase, ProcessId, Row, Verdict};

use super::{
    ConvertError,
    wire::{
        exit_from_wire, exit_to_wire, id, reason_from_wire, reason_to_wire, spec_from_wire, spec_to_wire,
        state_from_wire, state_to_wire, status_from_wire, status_to_wire, usage_from_wire, usage_to_wire,
    },
};

pub fn row_to_wire(row: &Row) -> stored::Row {
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
        launches,
    } = row;
    stored::Row {
        spec: Some(spec_to_wire(spec)),
        framework_id: framework_id.as_str().to_owned(),
        attempt: attempt.clone(),
        phase: Some(stored::Phase { phase: Some(phase_to_wire(phase)) }),
        kill: kill.map(|Kill { cause, deadline }| stored::Kill {
            cause: cause_to_wire(cause).into(),
            deadline_us: deadline.0,
        }),
        statuses: statuses.iter().map(status_to_wire).collect(),
        sequence: *sequence,
        acknowledged: *acknowledged,
        assigned_at_us: assigned_at.0,
        launches: Some(*launches),
    }
}

pub fn row_from_wire(message: stored::Row) -> Result<Row, ConvertError> {
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
    } = message;
    let spec = spec_from_wire(spec.ok_or(ConvertError::Absent { field: "spec" })?)?;
    let phase = phase.and_then(|phase| phase.phase).ok_or(ConvertError::Absent { field: "phase" })?;
    let statuses: Result<Vec<_>, _> = statuses.into_iter().map(status_from_wire).collect();
    if attempt.is_empty() {
        return Err(ConvertError::Absent { field: "attempt" });
    }
    Ok(Row {
        task_id: spec.task_id.clone(),
        framework_id: id("framework_id", FrameworkId::new(&framework_id))?,
        spec: Arc::new(spec),
        attempt,
        phase: phase_from_wire(phase)?,
        kill: kill.map(kill_from_wire).transpose()?,
        statuses: statuses?,
        sequence,
        acknowledged,
        assigned_at: Timestamp(assigned_at_us),
        launches: launches.unwrap_or(1),
    })
}

fn phase_to_wire(phase: &Phase) -> stored::phase::Phase {
    match phase {
        Phase::Preparing => stored::phase::Phase::Preparing(stored::Nothing {}),
        Phase::Releasing { process } => stored::phase::Phase::Releasing(process_to_wire(*process)),
        Phase::Running { process } => stored::phase::Phase::Running(process_to_wire(*process)),
        Phase::Ending { process, verdict, since } => {
            let Verdict { state, reason, message, exit, usage } = verdict;
            stored::phase::Phase::Ending(stored::Ending {
                process: process.map(process_to_wire),
                state: state_to_wire(*state).into(),
                reason: reason_to_wire(*reason).into(),
                message: message.clone(),
                exit: exit.map(exit_to_wire),
                usage: usage.as_ref().map(usage_to_wire),
                since_us: since.0,
            })
        }
        Phase::Lingering { process, since } => stored::phase::Phase::Lingering(stored::Lingering {
            process: process.map(process_to_wire),
            since_us: since.0,
        }),
        Phase::Ended { at } => stored::phase::Phase::Ended(stored::Ended { at_us: at.0 }),
        Phase::Removing => stored::phase::Phase::Removing(stored::Nothing {}),
    }
}

fn phase_from_wire(message: stored::phase::Phase) -> Result<Phase, ConvertError> {
    Ok(match message {
        stored::phase::Phase::Preparing(stored::Nothing {}) => Phase::Preparing,
        stored::phase::Phase::Releasing(process) => Phase::Releasing { process: process_from_wire(&process) },
        stored::phase::Phase::Running(process) => Phase::Running { process: process_from_wire(&process) },
        stored::phase::Phase::Ending(ending) => {
            let stored::Ending { process, state, reason, message, exit, usage, since_us } = ending;
            Phase::Ending {
                process: process.as_ref().map(process_from_wire),
                verdict: Verdict {
                    state: state_from_wire(state)?,
                    reason: reason_from_wire(reason)?,
                    message,
                    exit: exit.map(exit_from_wire).transpose()?,
                    usage: usage.map(usage_from_wire),
                },
                since: Timestamp(since_us),
            }
        }
        stored::phase::Phase::Lingering(stored::Lingering { process, since_us }) => {
            Phase::Lingering { process: process.as_ref().map(process_from_wire), since: Timestamp(since_us) }
        }
        stored::phase::Phase::Ended(stored::Ended { at_us }) => Phase::Ended { at: Timestamp(at_us) },
        stored::phase::Phase::Removing(stored::Nothing {}) => Phase::Removing,
    })
}

fn process_to_wire(process: ProcessId) -> stored::Process {
    let ProcessId { pid, start_ticks } = process;
    stored::Process { pid, start_ticks }
}

fn process_from_wire(message: &stored::Process) -> ProcessId {
    let stored::Process { pid, start_ticks } = message;
    ProcessId { pid: *pid, start_ticks: *start_ticks }
}

fn cause_to_wire(cause: KillCause) -> stored::KillCause {
    match cause {
        KillCause::Ordered => stored::KillCause::Ordered,
        KillCause::NotAssigned => stored::KillCause::NotAssigned,
        KillCause::AgentEnds => stored::KillCause::AgentEnds,
    }
}

fn kill_from_wire(message: stored::Kill) -> Result<Kill, ConvertError> {
    let stored::Kill { cause, deadline_us } = message;
    let unknown = ConvertError::Unknown { field: "kill.cause", value: cause.into() };
    let cause = match stored::KillCause::try_from(cause) {
        Ok(stored::KillCause::Ordered) => KillCause::Ordered,
        Ok(stored::KillCause::NotAssigned) => KillCause::NotAssigned,
        Ok(stored::KillCause::AgentEnds) => KillCause::AgentEnds,
        Ok(stored::KillCause::Unspecified) | Err(_) => return Err(unknown),
    };
    Ok(Kill { cause, deadline: Timestamp(deadline_us) })
}
