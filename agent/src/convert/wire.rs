//! Resources, specs and statuses.

use std::{collections::BTreeMap, sync::Arc};

use model::{
    AgentId, Duration, Exit, FrameworkId, KILL_GRACE_DEFAULT, KillOrder, PortRange, PortRanges, Reason,
    Resources, ScalarName, SharedNamespaces, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp, Usage,
};
use proto::{agent::v1 as agent, types::v1 as types};
use supervisor::Assignment;

use super::ConvertError;

/// An assignment whose spec keeps every bound.
pub fn assignment_from_wire(message: agent::Assignment) -> Result<Assignment, ConvertError> {
    let agent::Assignment { framework_id, spec, kill, recorded_sequence } = message;
    let spec = spec_from_wire(spec.ok_or(ConvertError::Absent { field: "spec" })?)?;
    // The leader checked it; checked again, because this process is root.
    spec.check().map_err(|source| ConvertError::Spec { source })?;
    Ok(Assignment {
        framework_id: id("framework_id", FrameworkId::new(&framework_id))?,
        spec: Arc::new(spec),
        kill: kill.map(|agent::KillOrder { grace_ms }| KillOrder { grace: Duration::from_millis(grace_ms) }),
        recorded_sequence,
    })
}

pub fn resources_to_wire(resources: &Resources) -> types::Resources {
    let Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars } = resources;
    types::Resources {
        cpus_milli: *cpus_milli,
        mem_mib: *mem_mib,
        disk_mib: *disk_mib,
        gpus: *gpus,
        ports: ports
            .ranges()
            .iter()
            .map(|range| types::PortRange { first: range.first().into(), last: range.last().into() })
            .collect(),
        scalars: scalars.iter().map(|(name, amount)| (name.as_str().to_owned(), *amount)).collect(),
    }
}

fn resources_from_wire(message: types::Resources) -> Result<Resources, ConvertError> {
    let types::Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars } = message;
    let failed = |source| ConvertError::Resources { source };
    let ranges: Result<Vec<_>, _> =
        ports.into_iter().map(|types::PortRange { first, last }| PortRange::new(first, last)).collect();
    let mut named = BTreeMap::new();
    for (name, amount) in scalars {
        if amount > 0 {
            named.insert(id("a resource's name", ScalarName::new(&name))?, amount);
        }
    }
    Ok(Resources {
        cpus_milli,
        mem_mib,
        disk_mib,
        gpus,
        ports: PortRanges::new(ranges.map_err(failed)?).map_err(failed)?,
        scalars: named,
    })
}

pub(super) fn spec_to_wire(spec: &TaskSpec) -> types::TaskSpec {
    let TaskSpec {
        task_id,
        name,
        resources,
        command,
        env,
        user,
        cwd,
        cpu_limit_milli,
        pids_limit,
        kill_grace,
        labels,
        shared_namespaces,
    } = spec;
    types::TaskSpec {
        task_id: task_id.as_str().to_owned(),
        name: name.clone(),
        resources: Some(resources_to_wire(resources)),
        command: command.clone(),
        env: env.clone(),
        user: user.clone(),
        cwd: cwd.clone(),
        cpu_limit_milli: *cpu_limit_milli,
        pids_limit: *pids_limit,
        kill_grace_ms: Some(u64::try_from(kill_grace.as_millis()).unwrap_or(u64::MAX)),
        labels: labels.clone(),
        shared_namespaces: Some(types::SharedNamespaces {
            pid: shared_namespaces.pid,
            ipc: shared_namespaces.ipc,
        }),
    }
}

pub(super) fn spec_from_wire(message: types::TaskSpec) -> Result<TaskSpec, ConvertError> {
    let types::TaskSpec {
        task_id,
        name,
        resources,
        command,
        env,
        user,
        cwd,
        cpu_limit_milli,
        pids_limit,
        kill_grace_ms,
        labels,
        shared_namespaces,
    } = message;
    let types::SharedNamespaces { pid, ipc } = shared_namespaces.unwrap_or_default();
    Ok(TaskSpec {
        task_id: id("task_id", TaskId::new(&task_id))?,
        name,
        resources: resources_from_wire(resources.unwrap_or_default())?,
        command,
        env,
        user,
        cwd,
        cpu_limit_milli,
        pids_limit,
        kill_grace: kill_grace_ms.map_or(KILL_GRACE_DEFAULT, Duration::from_millis),
        labels,
        shared_namespaces: SharedNamespaces { pid, ipc },
    })
}

pub fn status_to_wire(status: &TaskStatus) -> types::TaskStatus {
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
    } = status;
    types::TaskStatus {
        task_id: task_id.as_str().to_owned(),
        framework_id: framework_id.as_str().to_owned(),
        agent_id: agent_id.as_ref().map(|agent| agent.as_str().to_owned()).unwrap_or_default(),
        state: state_to_wire(*state).into(),
        reason: reason_to_wire(*reason).into(),
        message: message.clone(),
        exit: exit.map(exit_to_wire),
        at_us: at.0,
        sequence: *sequence,
        is_released: *is_released,
        usage: usage.as_ref().map(usage_to_wire),
    }
}

pub(super) fn status_from_wire(message: types::TaskStatus) -> Result<TaskStatus, ConvertError> {
    let types::TaskStatus {
        task_id,
        framework_id,
        agent_id,
        state,
        reason,
        message,
        exit,
        at_us,
        sequence,
        is_released,
        usage,
    } = message;
    let agent_id = match agent_id.as_str() {
        "" => None,
        text => Some(id("agent_id", AgentId::new(text))?),
    };
    Ok(TaskStatus {
        task_id: id("task_id", TaskId::new(&task_id))?,
        framework_id: id("framework_id", FrameworkId::new(&framework_id))?,
        agent_id,
        state: state_from_wire(state)?,
        reason: reason_from_wire(reason)?,
        message,
        exit: exit.map(exit_from_wire).transpose()?,
        at: Timestamp(at_us),
        sequence,
        is_released,
        usage: usage.map(usage_from_wire),
    })
}

pub fn usage_to_wire(usage: &Usage) -> types::Usage {
    let Usage {
        at,
        cpu_ns,
        cpu_throttled_ns,
        memory_bytes,
        memory_working_set_bytes,
        memory_limit_bytes,
        oom_kills,
        processes,
    } = usage;
    types::Usage {
        at_us: at.0,
        cpu_ns: *cpu_ns,
        cpu_throttled_ns: *cpu_throttled_ns,
        memory_bytes: *memory_bytes,
        memory_working_set_bytes: *memory_working_set_bytes,
        memory_limit_bytes: *memory_limit_bytes,
        oom_kills: *oom_kills,
        processes: *processes,
    }
}

pub(super) fn usage_from_wire(message: types::Usage) -> Usage {
    let types::Usage {
        at_us,
        cpu_ns,
        cpu_throttled_ns,
        memory_bytes,
        memory_working_set_bytes,
        memory_limit_bytes,
        oom_kills,
        processes,
    } = message;
    Usage {
        at: Timestamp(at_us),
        cpu_ns,
        cpu_throttled_ns,
        memory_bytes,
        memory_working_set_bytes,
        memory_limit_bytes,
        oom_kills,
        processes,
    }
}

pub(super) fn exit_to_wire(exit: Exit) -> types::Exit {
    let how = match exit {
        Exit::Code(code) => types::exit::How::Code(code.into()),
        Exit::Signal(signal) => types::exit::How::Signal(signal.into()),
    };
    types::Exit { how: Some(how) }
}

pub(super) fn exit_from_wire(message: types::Exit) -> Result<Exit, ConvertError> {
    let byte = |value: i32| {
        u8::try_from(value).map_err(|_| ConvertError::Unknown { field: "exit", value: value.into() })
    };
    match message.how.ok_or(ConvertError::Absent { field: "exit" })? {
        types::exit::How::Code(code) => Ok(Exit::Code(byte(code)?)),
        types::exit::How::Signal(signal) => Ok(Exit::Signal(byte(signal)?)),
    }
}

pub fn state_to_wire(state: TaskState) -> types::TaskState {
    match state {
        TaskState::Staging => types::TaskState::Staging,
        TaskState::Starting => types::TaskState::Starting,
        TaskState::Running => types::TaskState::Running,
        TaskState::Killing => types::TaskState::Killing,
        TaskState::Unreachable => types::TaskState::Unreachable,
        TaskState::Finished => types::TaskState::Finished,
        TaskState::Failed => types::TaskState::Failed,
        TaskState::Killed => types::TaskState::Killed,
        TaskState::Error => types::TaskState::Error,
        TaskState::Dropped => types::TaskState::Dropped,
        TaskState::Gone => types::TaskState::Gone,
    }
}

pub(super) fn state_from_wire(value: i32) -> Result<TaskState, ConvertError> {
    let unknown = ConvertError::Unknown { field: "state", value: value.into() };
    match types::TaskState::try_from(value) {
        Ok(types::TaskState::Staging) => Ok(TaskState::Staging),
        Ok(types::TaskState::Starting) => Ok(TaskState::Starting),
        Ok(types::TaskState::Running) => Ok(TaskState::Running),
        Ok(types::TaskState::Killing) => Ok(TaskState::Killing),
        Ok(types::TaskState::Unreachable) => Ok(TaskState::Unreachable),
        Ok(types::TaskState::Finished) => Ok(TaskState::Finished),
        Ok(types::TaskState::Failed) => Ok(TaskState::Failed),
        Ok(types::TaskState::Killed) => Ok(TaskState::Killed),
        Ok(types::TaskState::Error) => Ok(TaskState::Error),
        Ok(types::TaskState::Dropped) => Ok(TaskState::Dropped),
        Ok(types::TaskState::Gone) => Ok(TaskState::Gone),
        // Waiting tasks have no agent.
        Ok(types::TaskState::Unspecified | types::TaskState::Waiting) | Err(_) => Err(unknown),
    }
}

pub(super) fn reason_to_wire(reason: Reason) -> types::Reason {
    match reason {
        Reason::None => types::Reason::Unspecified,
        Reason::CommandExited => types::Reason::CommandExited,
        Reason::CommandSignaled => types::Reason::CommandSignaled,
        Reason::KillRequested => types::Reason::KillRequested,
        Reason::MemoryLimit => types::Reason::MemoryLimit,
        Reason::CommandNotExecutable => types::Reason::CommandNotExecutable,
        Reason::UserRefused => types::Reason::UserRefused,
        Reason::LaunchFailed => types::Reason::LaunchFailed,
        Reason::ExitStatusUnknown => types::Reason::ExitStatusUnknown,
        Reason::AgentRebooted => types::Reason::AgentRebooted,
        Reason::AgentUnreachable => types::Reason::AgentUnreachable,
        Reason::AgentGone => types::Reason::AgentGone,
        Reason::AgentLostTask => types::Reason::AgentLostTask,
        Reason::FrameworkTornDown => types::Reason::FrameworkTornDown,
        Reason::Reconciliation => types::Reason::Reconciliation,
        Reason::TaskUnknown => types::Reason::TaskUnknown,
    }
}

pub(super) fn reason_from_wire(value: i32) -> Result<Reason, ConvertError> {
    match types::Reason::try_from(value) {
        Ok(types::Reason::Unspecified) => Ok(Reason::None),
        Ok(types::Reason::CommandExited) => Ok(Reason::CommandExited),
        Ok(types::Reason::CommandSignaled) => Ok(Reason::CommandSignaled),
        Ok(types::Reason::KillRequested) => Ok(Reason::KillRequested),
        Ok(types::Reason::MemoryLimit) => Ok(Reason::MemoryLimit),
        Ok(types::Reason::CommandNotExecutable) => Ok(Reason::CommandNotExecutable),
        Ok(types::Reason::UserRefused) => Ok(Reason::UserRefused),
        Ok(types::Reason::LaunchFailed) => Ok(Reason::LaunchFailed),
        Ok(types::Reason::ExitStatusUnknown) => Ok(Reason::ExitStatusUnknown),
        Ok(types::Reason::AgentRebooted) => Ok(Reason::AgentRebooted),
        Ok(types::Reason::AgentUnreachable) => Ok(Reason::AgentUnreachable),
        Ok(types::Reason::AgentGone) => Ok(Reason::AgentGone),
        Ok(types::Reason::AgentLostTask) => Ok(Reason::AgentLostTask),
        Ok(types::Reason::FrameworkTornDown) => Ok(Reason::FrameworkTornDown),
        Ok(types::Reason::Reconciliation) => Ok(Reason::Reconciliation),
        Ok(types::Reason::TaskUnknown) => Ok(Reason::TaskUnknown),
        Err(_) => Err(ConvertError::Unknown { field: "reason", value: value.into() }),
    }
}

pub(super) fn id<T>(field: &'static str, id: Result<T, model::IdError>) -> Result<T, ConvertError> {
    id.map_err(|source| ConvertError::Id { field, source })
}
