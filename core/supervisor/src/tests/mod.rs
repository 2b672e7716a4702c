//! Stories about single tasks, and laws over every interleaving.

mod laws;
mod returns;
mod stories;
mod story;
mod world;

use std::{collections::BTreeMap, sync::Arc};

use model::{AgentId, Duration, FrameworkId, Resources, SharedNamespaces, TaskId, TaskSpec};

use crate::Assignment;

fn agent() -> AgentId {
    AgentId::new("a1").unwrap()
}

fn task(name: &str) -> TaskId {
    TaskId::new(name).unwrap()
}

fn assignment(name: &str) -> Assignment {
    let spec = TaskSpec {
        task_id: task(name),
        name: name.to_owned(),
        resources: Resources { cpus_milli: 500, mem_mib: 64, ..Resources::default() },
        command: vec!["sleep".to_owned(), "60".to_owned()],
        env: BTreeMap::new(),
        user: None,
        cwd: None,
        cpu_limit_milli: None,
        pids_limit: None,
        kill_grace: Duration::from_secs(10),
        labels: BTreeMap::new(),
        shared_namespaces: SharedNamespaces::default(),
    };
    Assignment {
        framework_id: FrameworkId::new("run").unwrap(),
        spec: Arc::new(spec),
        kill: None,
        recorded_sequence: 0,
    }
}
