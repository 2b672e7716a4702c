//! Short ways to write down tasks and resources in tests.

use std::sync::Arc;

use model::{Resources, TaskId, TaskSpec};

/// Reads `cpus=1.5 mem=64 gpus=1`.
pub fn resources(words: &[&str]) -> Resources {
    let mut resources = Resources::default();
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        match name {
            "cpus" => resources.cpus_milli = (value.parse::<f64>().unwrap() * 1000.0) as u64,
            "mem" => resources.mem_mib = value.parse().unwrap(),
            "gpus" => resources.gpus = value.parse().unwrap(),
            other => panic!("what is {other}?"),
        }
    }
    resources
}

pub fn task(id: &str, resources: Resources) -> Arc<TaskSpec> {
    Arc::new(TaskSpec {
        name: id.to_owned(),
        ..TaskSpec::new(TaskId::new(id).unwrap(), resources, vec!["true".to_owned()])
    })
}
