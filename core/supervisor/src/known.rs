//! What an agent says of its tasks in one hello, and what the leader's answers to it mean.
//!
//! Everything here is as it was when the hello was said: what changed since is told by statuses, after the Welcome.

use model::{Digests, KnownRow, TaskId, TaskState};

/// What the agent says of a task when it says hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTask {
    pub task_id: TaskId,
    pub sequence: u64,
    pub state: TaskState,
    /// Whether the next Welcome changes something even if the leader knows the rest. Goes into the digests alone.
    pub awaits_word: bool,
}

/// The tasks of one hello and their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    tasks: Vec<KnownTask>,
    digests: Digests,
}

impl Known {
    pub fn new(tasks: Vec<KnownTask>) -> Self {
        let buckets = Digests::buckets_for(tasks.len());
        Self::in_buckets(tasks, buckets)
    }

    /// With another number of buckets than so many tasks want.
    pub fn in_buckets(tasks: Vec<KnownTask>, buckets: usize) -> Self {
        let digests = Digests::of(tasks.iter().map(row), buckets);
        Self { tasks, digests }
    }

    /// All of them, for a leader that knows no digests.
    pub fn tasks(&self) -> &[KnownTask] {
        &self.tasks
    }

    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// The tasks of these buckets: to be told if the leader asks for them, and known to it if it calls them unchanged.
    pub fn of_buckets(&self, buckets: &[u32]) -> Vec<KnownTask> {
        let is_wanted = |task: &&KnownTask| buckets.contains(&self.digests.bucket_of(&task.task_id));
        self.tasks.iter().filter(is_wanted).cloned().collect()
    }
}

fn row(task: &KnownTask) -> KnownRow<'_> {
    let KnownTask { task_id, sequence, state, awaits_word } = task;
    KnownRow { task_id, sequence: *sequence, state: *state, awaits_word: *awaits_word }
}
