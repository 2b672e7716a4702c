//! What is derived from the records, kept up to date for speed.
//!
//! [`ClusterState::rebuild_index`] says what it should be; the test `index_is_rebuild` holds that it always is.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use model::{
    AgentId, Amounts, ClusterTime, Cursor, FrameworkEvent, FrameworkId, Resources, RoleName, TaskId,
    Timestamp,
};

use crate::state::{Agent, ClusterState, Task};

/// Ways to find records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Index {
    /// Where each waiting task stands in the queue.
    pub(crate) waiting: OrdMap<TaskId, Cursor>,
    pub(crate) by_framework: OrdMap<FrameworkId, Arc<Share>>,
    pub(crate) by_role: OrdMap<RoleName, Arc<Amounts>>,
    /// Tasks whose final status their framework has not acknowledged.
    pub(crate) unheard: OrdSet<TaskId>,
    /// Tasks that are over and heard of, oldest first.
    pub(crate) prunable: OrdSet<(ClusterTime, Timestamp, TaskId)>,
    /// Frameworks that ended, oldest first.
    pub(crate) ended: OrdMap<u64, FrameworkId>,
    /// Agents that are gone, oldest first.
    pub(crate) gone_agents: OrdMap<u64, AgentId>,
}

/// What one framework has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Share {
    /// The sum of its tasks that are not released.
    pub allocated: Amounts,
    /// Its tasks that are not both final and released.
    pub tasks: OrdSet<TaskId>,
}

impl ClusterState {
    /// Counts a task that is new to the records.
    pub(crate) fn index_task(&mut self, task: &Task) {
        if task.is_over() {
            return self.index_if_prunable(task);
        }
        let share = Arc::make_mut(self.index.by_framework.entry(task.framework.clone()).or_default());
        share.tasks.insert(task.spec.task_id.clone());
        share.allocated.add(&task.spec.resources);
        let sum = Arc::make_mut(self.index.by_role.entry(task.role.clone()).or_default());
        sum.add(&task.spec.resources);
        if let Some(agent) = self.agent_of(task) {
            agent.tasks.insert(task.spec.task_id.clone());
            agent.allocated = agent.allocated.plus(&task.spec.resources);
        }
    }

    /// Takes a task out of what is allocated: it is over now.
    ///
    /// # Panics
    /// When its agent has less allocated than the task: the sums are damaged, and resources would be
    /// promised twice if this went on.
    pub(crate) fn index_released(&mut self, task: &Task) {
        if let Some(share) = self.index.by_framework.get_mut(&task.framework) {
            let share = Arc::make_mut(share);
            share.tasks.remove(&task.spec.task_id);
            share.allocated.take(&task.spec.resources);
            if share.tasks.is_empty() {
                self.index.by_framework.remove(&task.framework);
            }
        }
        if let Some(sum) = self.index.by_role.get_mut(&task.role) {
            let sum = Arc::make_mut(sum);
            sum.take(&task.spec.resources);
            if sum.is_empty() {
                self.index.by_role.remove(&task.role);
            }
        }
        if let Some(agent) = self.agent_of(task) {
            agent.tasks.remove(&task.spec.task_id);
            let left = agent.allocated.minus(&task.spec.resources);
            assert!(left.is_some(), "an agent has less allocated than one of its tasks");
            agent.allocated = left.unwrap_or_default();
        }
        self.index_if_prunable(task);
    }

    /// The final status of these tasks is known to their framework, or will never be asked for.
    pub(crate) fn index_heard(&mut self, tasks: Vec<TaskId>) {
        for id in tasks {
            self.index.unheard.remove(&id);
            if let Some(task) = self.tasks.get(&id).cloned()
                && task.is_over()
            {
                self.index_if_prunable(&task);
            }
        }
    }

    fn index_if_prunable(&mut self, task: &Task) {
        if !self.index.unheard.contains(&task.spec.task_id) {
            let id = task.spec.task_id.clone();
            self.index.prunable.insert((task.changed_counted, task.changed_at, id));
        }
    }

    fn agent_of(&mut self, task: &Task) -> Option<&mut Agent> {
        self.agents.get_mut(task.agent.as_ref()?).map(Arc::make_mut)
    }

    /// Derives everything anew from the records.
    pub(crate) fn rebuild_index(&mut self) {
        self.index = Index::default();
        let agents = self.agents.iter().map(|(id, agent)| {
            let mut agent = Agent::clone(agent);
            agent.allocated = Resources::default();
            agent.tasks = OrdSet::new();
            (id.clone(), Arc::new(agent))
        });
        self.agents = agents.collect();
        for (id, framework) in self.frameworks.clone() {
            let mut framework = framework.as_ref().clone();
            framework.droppable = OrdSet::new();
            for (cursor, event) in &framework.events {
                match event.as_ref() {
                    FrameworkEvent::Status(status) if status.state.is_final() => {
                        self.index.unheard.insert(status.task_id.clone());
                    }
                    FrameworkEvent::Status(_)
                    | FrameworkEvent::AgentLost(_)
                    | FrameworkEvent::AgentBack(_) => {
                        framework.droppable.insert(*cursor);
                    }
                }
            }
            self.frameworks.insert(id, Arc::new(framework));
        }
        self.index.ended = self.ended.iter().map(|(id, (index, _))| (*index, id.clone())).collect();
        self.index.gone_agents =
            self.gone_agents.iter().map(|(id, (index, _))| (*index, id.clone())).collect();
        self.index.waiting =
            self.queue.iter().map(|(place, waiting)| (waiting.spec.task_id.clone(), *place)).collect();
        for task in self.tasks.clone().values() {
            self.index_task(task);
        }
    }
}
