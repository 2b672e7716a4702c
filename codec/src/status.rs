//! What has become of a task.

use model::{Exit, Health, Reason, TaskState, TaskStatus, Timestamp, limits};
use proto::types::v1 as wire;

use crate::{Invalid, Within as _, id, optional_id, required, text_of, to_usage, usage};

pub fn task_state(field: &str, state: i32) -> Result<TaskState, Invalid> {
    let known = wire::TaskState::try_from(state)
        .map_err(|_| Invalid::new(field, format_args!("holds {state}, which is no task state known here")))?;
    match known {
        wire::TaskState::Unspecified => Err(Invalid::missing(field)),
        wire::TaskState::Waiting => {
            Err(Invalid::new(field, "is WAITING, which only the coordinator says of a task"))
        }
        wire::TaskState::Staging => Ok(TaskState::Staging),
        wire::TaskState::Starting => Ok(TaskState::Starting),
        wire::TaskState::Running => Ok(TaskState::Running),
        wire::TaskState::Killing => Ok(TaskState::Killing),
        wire::TaskState::Finished => Ok(TaskState::Finished),
        wire::TaskState::Failed => Ok(TaskState::Failed),
        wire::TaskState::Killed => Ok(TaskState::Killed),
        wire::TaskState::Error => Ok(TaskState::Error),
        wire::TaskState::Dropped => Ok(TaskState::Dropped),
        wire::TaskState::Unreachable => Ok(TaskState::Unreachable),
        wire::TaskState::Gone => Ok(TaskState::Gone),
    }
}

pub fn to_task_state(state: TaskState) -> wire::TaskState {
    match state {
        TaskState::Staging => wire::TaskState::Staging,
        TaskState::Starting => wire::TaskState::Starting,
        TaskState::Running => wire::TaskState::Running,
        TaskState::Killing => wire::TaskState::Killing,
        TaskState::Unreachable => wire::TaskState::Unreachable,
        TaskState::Finished => wire::TaskState::Finished,
        TaskState::Failed => wire::TaskState::Failed,
        TaskState::Killed => wire::TaskState::Killed,
        TaskState::Error => wire::TaskState::Error,
        TaskState::Dropped => wire::TaskState::Dropped,
        TaskState::Gone => wire::TaskState::Gone,
    }
}

pub fn reason(field: &str, reason: i32) -> Result<Reason, Invalid> {
    let known = wire::Reason::try_from(reason)
        .map_err(|_| Invalid::new(field, format_args!("holds {reason}, which is no reason known here")))?;
    Ok(match known {
        wire::Reason::Unspecified => Reason::None,
        wire::Reason::CommandExited => Reason::CommandExited,
        wire::Reason::CommandSignaled => Reason::CommandSignaled,
        wire::Reason::KillRequested => Reason::KillRequested,
        wire::Reason::MemoryLimit => Reason::MemoryLimit,
        wire::Reason::CommandNotExecutable => Reason::CommandNotExecutable,
        wire::Reason::UserRefused => Reason::UserRefused,
        wire::Reason::LaunchFailed => Reason::LaunchFailed,
        wire::Reason::ExitStatusUnknown => Reason::ExitStatusUnknown,
        wire::Reason::AgentRebooted => Reason::AgentRebooted,
        wire::Reason::AgentUnreachable => Reason::AgentUnreachable,
        wire::Reason::AgentGone => Reason::AgentGone,
        wire::Reason::AgentLostTask => Reason::AgentLostTask,
        wire::Reason::FrameworkTornDown => Reason::FrameworkTornDown,
        wire::Reason::Reconciliation => Reason::Reconciliation,
        wire::Reason::TaskUnknown => Reason::TaskUnknown,
        wire::Reason::RunTimeLimit => Reason::RunTimeLimit,
        wire::Reason::DiskLimit => Reason::DiskLimit,
        wire::Reason::Unhealthy => Reason::Unhealthy,
        wire::Reason::FetchFailed => Reason::FetchFailed,
        wire::Reason::SpecRefused => Reason::SpecRefused,
        wire::Reason::PortNotDeclared => Reason::PortNotDeclared,
    })
}

pub fn to_reason(reason: Reason) -> wire::Reason {
    match reason {
        Reason::None => wire::Reason::Unspecified,
        Reason::CommandExited => wire::Reason::CommandExited,
        Reason::CommandSignaled => wire::Reason::CommandSignaled,
        Reason::KillRequested => wire::Reason::KillRequested,
        Reason::MemoryLimit => wire::Reason::MemoryLimit,
        Reason::CommandNotExecutable => wire::Reason::CommandNotExecutable,
        Reason::UserRefused => wire::Reason::UserRefused,
        Reason::LaunchFailed => wire::Reason::LaunchFailed,
        Reason::ExitStatusUnknown => wire::Reason::ExitStatusUnknown,
        Reason::AgentRebooted => wire::Reason::AgentRebooted,
        Reason::AgentUnreachable => wire::Reason::AgentUnreachable,
        Reason::AgentGone => wire::Reason::AgentGone,
        Reason::AgentLostTask => wire::Reason::AgentLostTask,
        Reason::FrameworkTornDown => wire::Reason::FrameworkTornDown,
        Reason::Reconciliation => wire::Reason::Reconciliation,
        Reason::TaskUnknown => wire::Reason::TaskUnknown,
        Reason::RunTimeLimit => wire::Reason::RunTimeLimit,
        Reason::DiskLimit => wire::Reason::DiskLimit,
        Reason::Unhealthy => wire::Reason::Unhealthy,
        Reason::FetchFailed => wire::Reason::FetchFailed,
        Reason::SpecRefused => wire::Reason::SpecRefused,
        Reason::PortNotDeclared => wire::Reason::PortNotDeclared,
    }
}

pub fn exit(exit: wire::Exit) -> Result<Exit, Invalid> {
    let small = |field: &str, value: i32| {
        u8::try_from(value).map_err(|_| Invalid::new(field, format_args!("of {value} is not 0 to 255")))
    };
    match required("how", exit.how)? {
        wire::exit::How::Code(code) => small("code", code).map(Exit::Code),
        wire::exit::How::Signal(signal) => small("signal", signal).map(Exit::Signal),
    }
}

pub fn to_exit(exit: Exit) -> wire::Exit {
    let how = match exit {
        Exit::Code(code) => wire::exit::How::Code(code.into()),
        Exit::Signal(signal) => wire::exit::How::Signal(signal.into()),
    };
    wire::Exit { how: Some(how) }
}

pub fn task_status(status: wire::TaskStatus) -> Result<TaskStatus, Invalid> {
    let wire::TaskStatus {
        task_id,
        framework_id,
        agent_id,
        state,
        reason: why,
        message,
        exit: how,
        at_us,
        sequence,
        is_released,
        usage: figures,
        health: judged,
    } = status;
    if message.len() > limits::MESSAGE_BYTES_MAX {
        let (size, max) = (message.len(), limits::MESSAGE_BYTES_MAX);
        return Err(Invalid::new("message", format_args!("has {size} bytes; at most {max} are allowed")));
    }
    Ok(TaskStatus {
        task_id: id("task_id", &task_id)?,
        framework_id: id("framework_id", &framework_id)?,
        agent_id: optional_id("agent_id", &agent_id)?,
        state: task_state("state", state)?,
        reason: reason("reason", why)?,
        message,
        exit: how.map(exit).transpose().within("exit")?,
        at: Timestamp(at_us),
        sequence,
        is_released,
        usage: figures.map(usage),
        health: health("health", judged)?,
    })
}

pub fn to_task_status(status: &TaskStatus) -> wire::TaskStatus {
    let TaskStatus {
        task_id,
        framework_id,
        agent_id,
        state,
        reason,
        message,
        exit,
        at,
        sequence,
        is_released,
        usage,
        health,
    } = status;
    wire::TaskStatus {
        task_id: task_id.to_string(),
        framework_id: framework_id.to_string(),
        agent_id: text_of(agent_id.as_ref()),
        state: to_task_state(*state).into(),
        reason: to_reason(*reason).into(),
        message: message.clone(),
        exit: exit.map(to_exit),
        at_us: at.0,
        sequence: *sequence,
        is_released: *is_released,
        usage: usage.as_ref().map(to_usage),
        health: to_health(*health).into(),
    }
}

fn health(field: &str, health: i32) -> Result<Option<Health>, Invalid> {
    let known = wire::Health::try_from(health)
        .map_err(|_| Invalid::new(field, format_args!("holds {health}, which is no health known here")))?;
    Ok(match known {
        wire::Health::Unspecified => None,
        wire::Health::Unknown => Some(Health::Unknown),
        wire::Health::Healthy => Some(Health::Healthy),
        wire::Health::Unhealthy => Some(Health::Unhealthy),
    })
}

fn to_health(health: Option<Health>) -> wire::Health {
    match health {
        None => wire::Health::Unspecified,
        Some(Health::Unknown) => wire::Health::Unknown,
        Some(Health::Healthy) => wire::Health::Healthy,
        Some(Health::Unhealthy) => wire::Health::Unhealthy,
    }
}
