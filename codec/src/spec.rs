//! What a user wants to run.

use model::{KILL_GRACE_DEFAULT, SharedNamespaces, TaskSpec};
use proto::types::v1 as wire;

use crate::{Invalid, Within as _, grace, id, millis, resources, to_resources};

/// A spec whose ids and ranges are sound. Bounds are left to [`TaskSpec::check`], which is asked
/// where a spec comes in, and not again for one that the log took before.
pub fn task_spec(spec: wire::TaskSpec) -> Result<TaskSpec, Invalid> {
    let task_id = id("task_id", &spec.task_id)?;
    task_spec_named(spec, task_id)
}

/// The same, with an id that the spec itself doesn't hold.
pub fn task_spec_named(spec: wire::TaskSpec, task_id: model::TaskId) -> Result<TaskSpec, Invalid> {
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
