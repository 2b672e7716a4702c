//! Stories about single tasks, and laws over every interleaving.

mod laws;
mod returns;
mod stories;
mod story;
mod world;

use std::sync::Arc;

use model::{AgentId, Fetch, FrameworkId, Resources, TaskId, TaskSpec, Timestamp};

use crate::{Assignment, Now, Uptime};

fn agent() -> AgentId {
    AgentId::new("a1").unwrap()
}

fn now() -> Now {
    Now { wall: Timestamp(1_000_000), uptime: Uptime::default() }
}

fn task(name: &str) -> TaskId {
    TaskId::new(name).unwrap()
}

/// The task `w` has a file to fetch, the others have none.
fn assignment(name: &str) -> Assignment {
    let file = Fetch {
        url: "http://127.0.0.1/a".to_owned(),
        path: None,
        sha256: None,
        is_unpacked: false,
        is_executable: false,
    };
    let spec = TaskSpec {
        fetches: if name == "w" { vec![file] } else { Vec::new() },
        name: name.to_owned(),
        ..TaskSpec::new(
            task(name),
            Resources { cpus_milli: 500, mem_mib: 64, ..Resources::default() },
            vec!["sleep".to_owned(), "60".to_owned()],
        )
    };
    Assignment {
        framework_id: FrameworkId::new("run").unwrap(),
        spec: Arc::new(spec),
        kill: None,
        recorded_sequence: 0,
    }
}
