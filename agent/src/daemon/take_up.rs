//! What a start needs before the first task is taken up, as far as possible at the same time: a thousand tasks
//! wait for it.

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use supervisor::{Found, Row};

use crate::{
    checkpoint::{Checkpoint, Loaded},
    config::Config,
    execute::{Directories, chain},
    sys::{
        CgroupName, Kernel, ProcessId, Sys,
        bpf::{self, Programs},
    },
};

use super::{StartError, kernel_config, make_directory, open_programs, step};

type Opened = (Arc<Checkpoint>, Arc<Kernel>, Option<Arc<Programs>>);

/// Opens the checkpoint here, and on another thread the kernel and its programs.
pub fn open(config: &Config, directories: &Directories, began: Instant) -> Result<Opened, StartError> {
    // A checkpoint that isn't understood stops the start before anything is changed.
    Checkpoint::check(&config.data_dir).map_err(StartError::Checkpoint)?;
    make_directory(directories.tasks())?;
    thread::scope(|scope| {
        let open_host = || {
            let kernel = Arc::new(Kernel::open(&kernel_config(config)).map_err(StartError::Kernel)?);
            let programs = open_programs(config, &kernel);
            step(began, "kernel");
            Ok((kernel, programs))
        };
        let host = thread::Builder::new().name("open-host".to_owned()).spawn_scoped(scope, open_host);
        let host = host.map_err(StartError::Thread)?;
        let checkpoint = Arc::new(Checkpoint::open(&config.data_dir).map_err(StartError::Checkpoint)?);
        let reserve = checkpoint.reserve();
        if reserve.is_disk_short().unwrap_or(false) && reserve.give_up() {
            tracing::warn!("the disk is short of room; gave up the space kept for records");
        }
        step(began, "checkpoint");
        let (kernel, programs) = joined(host)??;
        Ok((checkpoint, kernel, programs))
    })
}

/// Finds what is there, and meanwhile takes out of the kernel's tables what no row is about any more.
pub fn look_around_and_sweep(
    kernel: &Kernel,
    programs: Option<&Programs>,
    directories: &Directories,
    loaded: &Loaded,
    is_same_boot: bool,
) -> Result<Found, StartError> {
    thread::scope(|scope| {
        let sweep = || {
            if let Some(programs) = programs {
                sweep_programs(programs, kernel, &loaded.rows);
            }
        };
        let sweep = thread::Builder::new().name("sweep".to_owned()).spawn_scoped(scope, sweep);
        let sweep = sweep.map_err(StartError::Thread)?;
        let found = look_around(kernel, directories, loaded, is_same_boot);
        joined(sweep)?;
        found
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T, StartError> {
    thread.join().map_err(|_panic| StartError::Thread(io::Error::other("it panicked")))
}

pub fn look_around(
    kernel: &Kernel,
    directories: &Directories,
    loaded: &Loaded,
    is_same_boot: bool,
) -> Result<Found, StartError> {
    let cgroups = kernel.list_cgroups().map_err(StartError::Kernel)?;
    let path = directories.tasks();
    let failed = |source| StartError::ReadDirectory { path: path.to_owned(), source };
    let mut sandboxes = BTreeSet::new();
    for entry in path.read_dir().map_err(failed)? {
        sandboxes.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(Found {
        is_same_boot,
        damaged: loaded.damaged.clone(),
        cgroups: cgroups.iter().map(|name| name.as_str().to_owned()).collect(),
        sandboxes,
    })
}

/// Takes out of the kernel's tables what no row is about any more.
fn sweep_programs(programs: &Programs, kernel: &Kernel, rows: &[Row]) {
    let held = || rows.iter().filter(|row| row.holds_resources());
    let processes: BTreeSet<ProcessId> = held()
        .filter_map(Row::process)
        .map(|id| ProcessId { pid: id.pid, start_ticks: id.start_ticks })
        .collect();
    let cgroups: BTreeSet<_> = held()
        .filter_map(|row| kernel.cgroup_ids(&CgroupName::new(&row.attempt).ok()?).ok())
        .flatten()
        .collect();
    let swept = || -> Result<(), bpf::BpfError> {
        for (process, _) in programs.processes()? {
            if !processes.contains(&process) {
                programs.unregister_process(process)?;
            }
        }
        for cgroup in programs.cgroups()? {
            if !cgroups.contains(&cgroup) {
                programs.unregister_cgroup(cgroup)?;
            }
        }
        Ok(())
    };
    if let Err(error) = swept() {
        tracing::warn!(error = chain(&error), "can't sweep the kernel programs' tables");
    }
}
