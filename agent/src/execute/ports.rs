//! Which ports a task may use: those that it has declared.

use model::{TaskId, TaskSpec};
use supervisor::Row;

use super::{ExecuteError, Executor, chain, name};
use crate::sys::{CgroupId, bpf::PortPolicy};

impl Executor {
    /// After a restart: another policy may hold, and newer programs begin without rules.
    pub fn guard_ports_again(&self, rows: &[Row]) {
        for row in rows {
            let cgroups =
                name(&row.attempt).and_then(|name| self.sys.cgroup_ids(&name).map_err(ExecuteError::Cgroup));
            for cgroup in cgroups.unwrap_or_default() {
                self.guard_ports(&row.task_id, cgroup, &row.spec);
            }
        }
    }

    /// Guards the ports of a task that shares the host's network. Again, it follows the policy of today.
    pub fn guard_ports(&self, task_id: &TaskId, cgroup: CgroupId, spec: &TaskSpec) {
        let Some(recorder) = &self.recorder else { return };
        // In a network of its own, nobody else has any use for them.
        if spec.has_private_network || self.settings.port_policy == PortPolicy::Off {
            return;
        }
        let declared: Vec<(u16, u16)> =
            spec.resources.ports.ranges().iter().map(|range| (range.first(), range.last())).collect();
        let refuses = self.settings.port_policy == PortPolicy::Refuse;
        if let Err(error) = recorder.guard_ports(cgroup, &declared, refuses) {
            tracing::warn!(%task_id, error = chain(&error), "nobody watches which ports a task uses");
        }
    }
}
