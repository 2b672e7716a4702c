//! What the leader assigns.

use std::sync::Arc;

use codec::{Invalid, Within as _, id, required, task_spec};
use model::{Duration, KillOrder};
use proto::agent::v1 as agent;
use supervisor::Assignment;

/// An assignment whose spec keeps every bound.
pub fn assignment(message: agent::Assignment) -> Result<Assignment, Invalid> {
    let agent::Assignment { framework_id, spec, kill, recorded_sequence } = message;
    let spec = task_spec(required("spec", spec)?).within("spec")?;
    // The leader checked it; checked again, because this process is root.
    spec.check().map_err(|error| Invalid::new("spec", format_args!("breaks a rule: {error}")))?;
    Ok(Assignment {
        framework_id: id("framework_id", &framework_id)?,
        spec: Arc::new(spec),
        kill: kill.map(|agent::KillOrder { grace_ms }| KillOrder { grace: Duration::from_millis(grace_ms) }),
        recorded_sequence,
    })
}
