//! Task groups: several processes that are one task.

use std::collections::BTreeMap;

use super::{SpecError, TaskSpec, check_command, check_count, check_env, check_size, files, shown};
use crate::limits as bounds;

/// One of several processes that are begun and ended together, with one sandbox and the same namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// A DNS label, unique in its task.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Added to the task's own; wins over it.
    pub env: BTreeMap<String, String>,
    /// Hard limit in thousandths of a core; absent: that of the whole.
    pub cpu_limit_milli: Option<u64>,
    /// Hard limit in MiB; absent: that of the whole.
    pub mem_limit_mib: Option<u64>,
    /// Whether its end is the end of the whole.
    pub is_essential: bool,
}

impl ProcessSpec {
    /// An essential one, that asks for nothing beyond its command.
    pub fn new(name: impl Into<String>, command: Vec<String>) -> Self {
        Self {
            name: name.into(),
            command,
            env: BTreeMap::new(),
            cpu_limit_milli: None,
            mem_limit_mib: None,
            is_essential: true,
        }
    }

    fn check(&self, whole: &TaskSpec) -> Result<(), SpecError> {
        let Self { name, command, env, cpu_limit_milli, mem_limit_mib, is_essential: _ } = self;
        if !is_process_name(name) {
            let rule = "is not 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends";
            return Err(SpecError::Breaks { what: "the name of a process", found: shown(name), rule });
        }
        let of_process = |error: SpecError| SpecError::Process { name: name.clone(), error: Box::new(error) };
        check_command(command).map_err(of_process)?;
        check_env(env).map_err(of_process)?;
        for (what, limit, least, most) in [
            (
                "its cpu limit (in thousandths)",
                cpu_limit_milli,
                bounds::CPU_LIMIT_MILLI_MIN,
                whole.cpu_limit(),
            ),
            ("its memory limit (in MiB)", mem_limit_mib, bounds::TASK_MEM_MIB_MIN, whole.mem_limit()),
        ] {
            let Some(limit) = limit else { continue };
            if *limit > most {
                let error = SpecError::AboveWhole { what, limit: *limit, whole: most };
                return Err(of_process(error));
            }
            super::check_range(what, *limit, least, most).map_err(of_process)?;
        }
        Ok(())
    }
}

/// Whether this may name a process of a group: it becomes part of file and cgroup names.
pub fn is_process_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=bounds::PROCESS_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// What a task runs: one command, or several processes.
pub(super) fn check(spec: &TaskSpec) -> Result<(), SpecError> {
    let processes = &spec.processes;
    if processes.is_empty() {
        return check_command(&spec.command);
    }
    if !spec.command.is_empty() {
        return Err(SpecError::CommandAndProcesses);
    }
    if spec.shared_namespaces.pid {
        return Err(SpecError::ProcessesOfHost);
    }
    check_count("processes", processes.len(), bounds::PROCESSES_MAX)?;
    files::distinct("processes", processes.iter().map(|process| process.name.as_str()))?;
    processes.iter().try_for_each(|process| process.check(spec))?;
    // Together no more than one task may have: a spec must fit into an entry of the log.
    let arguments = processes.iter().flat_map(|process| &process.command).map(|word| word.len() + 1).sum();
    check_size("the sum of all commands", arguments, bounds::ARGUMENT_BYTES_MAX)?;
    let variables = processes.iter().flat_map(|process| &process.env);
    let environment = variables.map(|(name, value)| name.len() + value.len() + 2).sum();
    check_size("the sum of all environments", environment, bounds::ARGUMENT_BYTES_MAX)
}
