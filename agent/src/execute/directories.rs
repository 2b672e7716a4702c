//! Where everything of a task stands below the data directory.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use model::{ProcessSpec, TaskSpec, is_process_name};

/// Beside a sandbox.
pub(super) const SECRETS: &str = "secrets";

/// How the names of directories begin that are on their way into a sandbox.
const INCOMING: &str = "incoming.";

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

    /// The pipe that a task with an input reads; gone when its input has ended.
    pub fn stdin(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("stdin")
    }

    pub fn stdout(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("stdout")
    }

    pub fn stderr(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("stderr")
    }

    /// What one process of a task group writes.
    pub fn stdout_of(&self, attempt: &str, process: &str) -> PathBuf {
        self.attempt(attempt).join(format!("stdout.{process}"))
    }

    pub fn stderr_of(&self, attempt: &str, process: &str) -> PathBuf {
        self.attempt(attempt).join(format!("stderr.{process}"))
    }

    /// All that a task or a group with these processes writes.
    pub fn outputs(&self, attempt: &str, group: Option<&TaskSpec>) -> Vec<PathBuf> {
        let Some(group) = group else { return vec![self.stdout(attempt), self.stderr(attempt)] };
        let of = |process: &ProcessSpec| {
            [self.stdout_of(attempt, &process.name), self.stderr_of(attempt, &process.name)]
        };
        group.processes.iter().flat_map(of).collect()
    }

    /// The processes of a group that has written here, also when nobody knows its spec any more.
    pub fn processes(&self, attempt: &str) -> Vec<String> {
        let entries = fs::read_dir(self.attempt(attempt)).into_iter().flatten().flatten();
        // A list of times ends in a second word: no process has a dot in its name.
        let of = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_prefix("stdout.")?.to_owned());
        let mut names: Vec<String> = entries.filter_map(of).filter(|name| is_process_name(name)).collect();
        names.sort();
        names
    }

    /// What entered the task later: one empty file for each process.
    pub fn entered(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("entered")
    }

    /// A new directory for what is on its way into the sandbox.
    pub fn incoming(&self, attempt: &str) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        self.attempt(attempt).join(format!("{INCOMING}{number}"))
    }

    /// Removes what an earlier agent was copying when it ended.
    pub(super) fn remove_incoming(&self, attempt: &str) {
        for entry in fs::read_dir(self.attempt(attempt)).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(INCOMING))
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, attempt, "what an earlier agent was copying stays");
            }
        }
    }

    /// Where its exit status is recorded while no agent runs.
    pub fn exit_file(&self, attempt: &str) -> PathBuf {
        self.attempt(attempt).join("exit")
    }
}
