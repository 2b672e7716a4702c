//! Stories about single tasks, and laws over every interleaving.

mod fetches;
mod groups;
mod health;
mod laws;
mod returns;
mod stories;
mod story;
mod world;

use std::sync::Arc;

use model::{
    AgentId, Duration, Fetch, FrameworkId, HealthCheck, Probe, Resources, TaskId, TaskSpec, Timestamp,
};

use crate::{Assignment, Now, Uptime};

fn agent() -> AgentId {
    AgentId::new("a1").unwrap()
}

fn now() -> Now {
    Now { wall: Timestamp(1_000_000), uptime: Uptime::default() }
}

/// Three failures make unhealthy, two passes healthy; failures in the first 10 s don't count.
fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp { port: Some(80) },
        start_period: Duration::from_secs(10),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        failures_max: 3,
        successes_min: 2,
        is_killed_when_unhealthy: true,
    }
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
