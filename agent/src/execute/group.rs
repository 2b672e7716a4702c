//! What is known of task groups beyond what every task has: how their processes end.

use std::sync::Arc;

use model::{TaskId, TaskSpec};
use supervisor::{MemoryEnd, ProcessEnd};

use super::{ExecuteError, Executor, chain, name};
use crate::sys::{CgroupName, MemberEnd};

impl Executor {
    pub(super) fn note_group(&self, task_id: &TaskId, spec: &Arc<TaskSpec>) {
        if !spec.processes.is_empty() {
            self.lock().groups.insert(task_id.clone(), spec.clone());
        }
    }

    /// The spec of a task that is a group and was launched or adopted.
    pub fn group_of(&self, task_id: &TaskId) -> Option<Arc<TaskSpec>> {
        self.lock().groups.get(task_id).cloned()
    }

    /// Knows the task's cgroups from now on.
    pub(super) fn own_cgroups(&self, task_id: &TaskId, attempt: &str) -> Result<(), ExecuteError> {
        let ids = self.sys.cgroup_ids(&name(attempt)?).map_err(ExecuteError::Cgroup)?;
        let mut state = self.lock();
        ids.into_iter().for_each(|id| drop(state.cgroups.insert(id, task_id.clone())));
        Ok(())
    }

    /// How the processes of a group ended, as far as they have; nothing for a task with one command.
    pub fn ends(&self, task_id: &TaskId, attempt: &str) -> Vec<ProcessEnd> {
        let Some(spec) = self.group_of(task_id) else { return Vec::new() };
        let record = match self.sys.read_group_record(&self.directories.exit_file(attempt)) {
            Ok(record) => record.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%task_id, error = chain(&error), "can't read how a group's processes ended");
                return Vec::new();
            }
        };
        let Ok(cgroup) = name(attempt) else { return Vec::new() };
        let mut ends = Vec::new();
        for (place, (process, end)) in spec.processes.iter().zip(&record.ends).enumerate() {
            let Some(MemberEnd { exit, is_own }) = *end else { continue };
            ends.push(ProcessEnd {
                name: process.name.clone(),
                exit,
                is_decisive: record.decisive == Some(place),
                is_own,
                memory: self.memory_end(&cgroup, &process.name, process.mem_limit_mib),
            });
        }
        ends
    }

    fn memory_end(&self, cgroup: &CgroupName, process: &str, limit_mib: Option<u64>) -> Option<MemoryEnd> {
        // Gone with its cgroup: then it ended in another way than by this.
        let figures = self.sys.member_figures(cgroup, process).ok()?;
        let limit_mib = limit_mib.filter(|_| figures.has_reached_memory_limit);
        (figures.oom_kills > 0).then_some(MemoryEnd { oom_kills: figures.oom_kills, limit_mib })
    }
}
