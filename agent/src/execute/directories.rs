//! Where everything of a task stands below the data directory.

use std::path::{Path, PathBuf};

/// Beside a sandbox.
pub(super) const SECRETS: &str = "secrets";

/// `tasks/ATTEMPT/`, with `sandbox/` and `tmp/` for the task, and what is not the task's to touch beside them.
#[derive(Debug, Clone)]
pub struct Directories {
    tasks: PathBuf,
}

impl Directories {
    pub fn new(data_dir: &Path) -> Self {
        Self { tasks: data_dir.join("tasks") }
    }

    pub fn tasks(&self) -> &Path {
        &self.tasks
    }

    pub fn attempt(&self, attempt: &str) -> PathBuf {
        self.tasks.join(attempt)
    }

    /// The task's own directory.
    pub fn sandbox(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("sandbox")
    }

    /// The task's /tmp.
    pub fn tmp(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("tmp")
    }

    /// Names the GPUs that the task has.
    pub fn gpus(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("gpus")
    }

    /// Where the task sees its secrets; on the disk it never is.
    pub fn secrets(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join(SECRETS)
    }

    pub fn stdout(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("stdout")
    }

    pub fn stderr(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("stderr")
    }

    /// What entered the task later: one empty file for each process.
    pub fn entered(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("entered")
    }

    /// Where its exit status is recorded while no agent runs.
    pub fn exit_file(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("exit")
    }
}
