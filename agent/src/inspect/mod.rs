//! Recorded, running and on disk, side by side: what a person asks first when something is wrong.
//!
//! Beside a running agent the record is the agent's own view, asked over HTTP; else it is read from the
//! checkpoint. Kernel and disk are always looked at directly. Changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{
    checkpoint::{Checkpoint, CheckpointError, Lock, LockError},
    config::Config,
    daemon::kernel_config,
    execute::{Directories, chain},
    sys::{Kernel, Sys, SysError},
};

/// Why nothing can be shown of the record; kernel and disk still are.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("can't open the data directory")]
    Lock(#[source] LockError),
    #[error("can't read the checkpoint")]
    Checkpoint(#[source] CheckpointError),
    #[error("can't ask the running agent")]
    Ask(#[source] io::Error),
    #[error("the running agent says: {0}")]
    Answer(String),
}

/// How long the running agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The table as text.
pub fn report(config: &Config) -> String {
    let mut text = String::new();
    // Attempt to one line of the record.
    let mut recorded = BTreeMap::new();
    match records(config) {
        Ok((source, rows)) => {
            text += &format!("record: {source}\n");
            recorded = rows;
        }
        Err(error) => text += &format!("record: not to be had: {}\n", chain(&error)),
    }
    let mut running = BTreeSet::new();
    match list_cgroups(config) {
        Ok(names) => running.extend(names),
        Err(error) => text += &format!("kernel: not to be had: {}\n", chain(&error)),
    }
    let directories = Directories::new(&config.data_dir);
    let mut on_disk = BTreeSet::new();
    match fs::read_dir(directories.tasks()) {
        Ok(entries) => {
            on_disk.extend(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()));
        }
        Err(error) => text += &format!("disk: not to be had: {error}\n"),
    }
    let attempts: BTreeSet<&String> = recorded.keys().chain(&running).chain(&on_disk).collect();
    let mark = |is_there: bool| if is_there { "yes" } else { "no" };
    text += &format!("{:<48} {:<7} {:<7} RECORD\n", "ATTEMPT", "CGROUP", "SANDBOX");
    for attempt in attempts {
        let record = recorded.get(attempt).map_or("none", String::as_str);
        let (cgroup, sandbox) = (running.contains(attempt), on_disk.contains(attempt));
        text += &format!("{attempt:<48} {:<7} {:<7} {record}\n", mark(cgroup), mark(sandbox));
    }
    text
}

fn list_cgroups(config: &Config) -> Result<Vec<String>, SysError> {
    let kernel = Kernel::open(&kernel_config(config))?;
    let names: Vec<String> = kernel.list_cgroups()?.iter().map(|name| name.as_str().to_owned()).collect();
    // Opening made the parent group if it wasn't there. Beside a running agent it was, and stays.
    let is_ours = Lock::take(&config.data_dir);
    if names.is_empty() && is_ours.is_ok() {
        kernel.close()?;
    }
    Ok(names)
}

fn records(config: &Config) -> Result<(&'static str, BTreeMap<String, String>), RecordError> {
    match Lock::take(&config.data_dir) {
        Ok(_lock) => {
            let checkpoint = Checkpoint::open(&config.data_dir).map_err(RecordError::Checkpoint)?;
            let loaded = checkpoint.load().map_err(RecordError::Checkpoint)?;
            let rows = loaded.rows.iter().map(|row| (row.attempt.clone(), row.to_string()));
            let damaged = loaded.damaged.iter().map(|task| (task.as_str().to_owned(), "damaged".to_owned()));
            Ok(("the checkpoint; no agent runs", rows.chain(damaged).collect()))
        }
        Err(LockError::Held { .. }) => Ok(("the running agent's own view", ask(config)?)),
        Err(error) => Err(RecordError::Lock(error)),
    }
}

fn ask(config: &Config) -> Result<BTreeMap<String, String>, RecordError> {
    let token = fs::read_to_string(&config.token_file).map_err(RecordError::Ask)?;
    let mut stream = TcpStream::connect(config.listen).map_err(RecordError::Ask)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(RecordError::Ask)?;
    let request = format!(
        "GET /inspect HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        config.listen,
        token.trim()
    );
    stream.write_all(request.as_bytes()).map_err(RecordError::Ask)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(RecordError::Ask)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        return Err(RecordError::Answer(status.to_owned()));
    }
    // Task id, attempt, and the row in words.
    let row = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (_, attempt, row) = (words.next()?, words.next()?, words.next()?);
        Some((attempt.to_owned(), row.to_owned()))
    };
    Ok(body.lines().filter_map(row).collect())
}
