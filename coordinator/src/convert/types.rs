//! `muster.types.v1`: resources, specs, states and statuses.
//!
//! The functions named after a type read it; those that begin with `to_` write it.

use std::collections::BTreeMap;

use model::{
    Amounts, Attribute, Attributes, Exit, KILL_GRACE_DEFAULT, PortRange, PortRanges, Reason, Resources,
    ScalarName, SharedNamespaces, TaskSpec, TaskState, TaskStatus, Timestamp, Usage, limits,
};
use proto::types::v1 as wire;

use super::{Invalid, Within as _, at_most, grace, id, millis, optional_id, required, text, text_of};

pub(super) fn resources(resources: wire::Resources) -> Result<Resources, Invalid> {
    let wire::Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars } = resources;
    at_most("ports", ports.len(), limits::PORT_RANGES_MAX)?;
    at_most("scalars", scalars.len(), limits::SCALARS_MAX)?;
    let mut ranges = Vec::with_capacity(ports.len());
    for (place, range) in ports.into_iter().enumerate() {
        let wire::PortRange { first, last } = range;
        let range = PortRange::new(first, last).map_err(|error| {
            Invalid::new(&format!("ports[{place}]"), format_args!("breaks a rule: {error}"))
        })?;
        ranges.push(range);
    }
    let ports = PortRanges::new(ranges)
        .map_err(|error| Invalid::new("ports", format_args!("breaks a rule: {error}")))?;
    let mut named = BTreeMap::new();
    for (name, amount) in scalars {
        let name: ScalarName = id("scalars", &name)?;
        // In the model, a name that stands for nothing doesn't stand there.
        if amount > 0 {
            named.insert(name, amount);
        }
    }
    Ok(Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars: named })
}

/// Resources that the API takes: within the bounds that keep every sum exact.
pub(super) fn checked_resources(given: wire::Resources) -> Result<Resources, Invalid> {
    let resources = resources(given)?;
    resources.check().map_err(|error| Invalid::new("", format_args!("is out of bounds: {error}")))?;
    Ok(resources)
}

pub fn to_resources(resources: &Resources) -> wire::Resources {
    let Resources { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars } = resources;
    let ports = ports
        .ranges()
        .iter()
        .map(|range| wire::PortRange { first: range.first().into(), last: range.last().into() })
        .collect();
    wire::Resources {
        cpus_milli: *cpus_milli,
        mem_mib: *mem_mib,
        disk_mib: *disk_mib,
        gpus: *gpus,
        ports,
        scalars: to_scalars(scalars),
    }
}

/// Sums over agents, in the shape of resources; ports have no sum.
pub fn to_amounts(amounts: &Amounts) -> wire::Resources {
    let Amounts { cpus_milli, mem_mib, disk_mib, gpus, scalars } = amounts;
    wire::Resources {
        cpus_milli: *cpus_milli,
        mem_mib: *mem_mib,
        disk_mib: *disk_mib,
        // A cluster with more devices than this could not be shown right; it can't be built either.
        gpus: u32::try_from(*gpus).unwrap_or(u32::MAX),
        ports: Vec::new(),
        scalars: to_scalars(scalars),
    }
}

fn to_scalars(scalars: &BTreeMap<ScalarName, u64>) -> BTreeMap<String, u64> {
    scalars.iter().map(|(name, amount)| (name.to_string(), *amount)).collect()
}

pub(super) fn attribute(attribute: wire::Attribute) -> Result<Attribute, Invalid> {
    let wire::Attribute { name, value } = attribute;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || !name.bytes().all(is_name) {
        return Err(Invalid::new(
            "name",
            format_args!("`{}` is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`", shown(&name)),
        ));
    }
    Ok(Attribute { name, value: text("value", value, limits::VALUE_BYTES_MAX)? })
}

pub(super) fn attributes(field: &str, given: Vec<wire::Attribute>) -> Result<Attributes, Invalid> {
    at_most(field, given.len(), limits::ATTRIBUTES_MAX)?;
    let mut attributes = Attributes::new();
    for Attribute { name, value } in super::each(field, given, attribute)? {
        if attributes.contains_key(&name) {
            return Err(Invalid::new(field, format_args!("names `{name}` twice")));
        }
        attributes.insert(name, value);
    }
    Ok(attributes)
}

pub fn to_attributes(attributes: &Attributes) -> Vec<wire::Attribute> {
    attributes
        .iter()
        .map(|(name, value)| wire::Attribute { name: name.clone(), value: value.clone() })
        .collect()
}

/// A spec whose ids and ranges are sound. Bounds are left to [`TaskSpec::check`], which is asked
/// where a spec comes in, and not again for one that the log took before.
pub(super) fn task_spec(spec: wire::TaskSpec) -> Result<TaskSpec, Invalid> {
    let task_id = id("task_id", &spec.task_id)?;
    task_spec_named(spec, task_id)
}

/// The same, with an id that the spec itself doesn't hold.
pub(super) fn task_spec_named(spec: wire::TaskSpec, task_id: model::TaskId) -> Result<TaskSpec, Invalid> {
    let wire::TaskSpec {
        task_id: _replaced,
        name,
        resources: amounts,
        command,
        env,
        user,
        cwd,
        cpu_limit_milli,
        pids_limit,
        kill_grace_ms,
        labels,
        shared_namespaces,
    } = spec;
    let kill_grace = match kill_grace_ms {
        Some(ms) => grace("kill_grace_ms", ms)?,
        None => KILL_GRACE_DEFAULT,
    };
    let wire::SharedNamespaces { pid, ipc } = shared_namespaces.unwrap_or_default();
    Ok(TaskSpec {
        task_id,
        name,
        resources: resources(amounts.unwrap_or_default()).within("resources")?,
        command,
        env,
        user,
        cwd,
        cpu_limit_milli,
        pids_limit,
        kill_grace,
        labels,
        shared_namespaces: SharedNamespaces { pid, ipc },
    })
}

pub fn to_task_spec(spec: &TaskSpec) -> wire::TaskSpec {
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
        shared_namespaces: SharedNamespaces { pid, ipc },
    } = spec;
    wire::TaskSpec {
        task_id: task_id.to_string(),
        name: name.clone(),
        resources: Some(to_resources(resources)),
        command: command.clone(),
        env: env.clone(),
        user: user.clone(),
        cwd: cwd.clone(),
        cpu_limit_milli: *cpu_limit_milli,
        pids_limit: *pids_limit,
        kill_grace_ms: Some(millis(*kill_grace)),
        labels: labels.clone(),
        shared_namespaces: Some(wire::SharedNamespaces { pid: *pid, ipc: *ipc }),
    }
}

pub(super) fn task_state(field: &str, state: i32) -> Result<TaskState, Invalid> {
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

fn reason(field: &str, reason: i32) -> Result<Reason, Invalid> {
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
    })
}

fn to_reason(reason: Reason) -> wire::Reason {
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
    }
}

fn exit(exit: wire::Exit) -> Result<Exit, Invalid> {
    let small = |field: &str, value: i32| {
        u8::try_from(value).map_err(|_| Invalid::new(field, format_args!("of {value} is not 0 to 255")))
    };
    match required("how", exit.how)? {
        wire::exit::How::Code(code) => small("code", code).map(Exit::Code),
        wire::exit::How::Signal(signal) => small("signal", signal).map(Exit::Signal),
    }
}

fn to_exit(exit: Exit) -> wire::Exit {
    let how = match exit {
        Exit::Code(code) => wire::exit::How::Code(code.into()),
        Exit::Signal(signal) => wire::exit::How::Signal(signal.into()),
    };
    wire::Exit { how: Some(how) }
}

pub(super) fn task_status(status: wire::TaskStatus) -> Result<TaskStatus, Invalid> {
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
    }
}

pub(super) fn usage(usage: wire::Usage) -> Usage {
    let wire::Usage {
        at_us,
        cpu_ns,
        cpu_throttled_ns,
        memory_bytes,
        memory_working_set_bytes,
        memory_limit_bytes,
        oom_kills,
        processes,
    } = usage;
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

pub fn to_usage(usage: &Usage) -> wire::Usage {
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
    wire::Usage {
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

/// A text that can't be trusted, short enough for a message and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::testing;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_can_be_read(
            given in testing::resources(),
            spec in testing::spec(),
            status in testing::status(),
        ) {
            prop_assert_eq!(resources(to_resources(&given)).unwrap(), given);
            prop_assert_eq!(task_spec(to_task_spec(&spec)).unwrap(), spec);
            prop_assert_eq!(task_status(to_task_status(&status)).unwrap(), status);
        }
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, Invalid>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_the_field_and_the_rule() {
        let ports = |first, last| wire::Resources {
            ports: vec![wire::PortRange { first, last }],
            ..wire::Resources::default()
        };
        let spec = |task_id: &str, resources| wire::TaskSpec {
            task_id: task_id.to_owned(),
            resources: Some(resources),
            ..wire::TaskSpec::default()
        };
        let mut errors = String::new();
        for error in [
            refused(task_spec(spec("", wire::Resources::default()))),
            refused(task_spec(spec("../../etc", wire::Resources::default()))),
            refused(task_spec(spec("a", ports(9, 1)))),
            refused(task_spec(spec("a", ports(0, 70_000)))),
            refused(task_state("state", 99)),
            refused(task_state("state", 1)),
            refused(
                checked_resources(wire::Resources { mem_mib: u64::MAX, ..Default::default() })
                    .within("shape"),
            ),
            refused(exit(wire::Exit { how: Some(wire::exit::How::Code(300)) })),
            refused(attribute(wire::Attribute { name: "a b".to_owned(), value: String::new() })),
        ] {
            errors += &format!("{error}\n");
        }
        expect_test::expect![[r#"
            `task_id` is missing
            `task_id` is no task id: `../../etc`: only A-Z, a-z, 0-9, `.`, `_` and `-` are allowed
            `resources.ports[0]` breaks a rule: port range 9-1 is not valid: ports are 1 to 65535, and the first comes first
            `resources.ports[0]` breaks a rule: port range 0-70000 is not valid: ports are 1 to 65535, and the first comes first
            `state` holds 99, which is no task state known here
            `state` is WAITING, which only the coordinator says of a task
            `shape` is out of bounds: mem (in MiB) of 18446744073709551615 is more than one agent can have (68719476736)
            `code` of 300 is not 0 to 255
            `name` `a b` is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`
        "#]].assert_eq(&errors);
    }
}
