//! The audit log: who changed what, when and from where, and whether it was refused.
//!
//! One JSON object for each call that changes something, in files of their own that are rotated by size. Never holds
//! a secret, and never makes a call wait: a line for which there is no room is counted as lost.
//! Start at [`Audit`]; what a line says is `api/audited.rs`'s.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::metrics::Metrics;

/// What a file may hold before the next one is begun: some 200 000 lines.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Older files that are kept, so that all take half a gigabyte at most.
const FILES_KEPT: usize = 7;
/// Lines that wait for the disk: seconds of a busy cluster.
const LINES_WAITING_MAX: usize = 8192;
/// Before a file that can't be written is tried again.
const PAUSE: Duration = Duration::from_secs(1);
const FILE: &str = "audit.log";

/// Where lines are handed over; cheap to clone. The last clone that goes ends the writing.
#[derive(Debug, Clone)]
pub struct Audit {
    lines: SyncSender<String>,
    metrics: std::sync::Arc<Metrics>,
    member: u64,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("can't make {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("can't write {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("can't start the thread that writes the audit log")]
    Thread(#[source] io::Error),
}

impl AuditError {
    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::Make { path, .. } | Self::Open { path, .. } => {
                format!("check who owns {} and its directory, and that the disk has room", path.display())
            }
            Self::Thread(_) => "see the cause".to_owned(),
        }
    }
}

/// What there is to say of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// As people say it: `user/ann`, `an operator`.
    pub who: String,
    /// The credential among several of the same one: a token's id.
    pub credential: Option<String>,
    pub from: String,
    /// The service's method: `operator.v1.Operator/KillTask`.
    pub method: String,
    /// What the message named.
    pub what: Value,
    /// `None`: it was done.
    pub refused: Option<String>,
}

impl Audit {
    /// Opens the folder `audit` of a data directory. Must be writable at the start; what fails later is counted.
    pub fn open(data_dir: &Path, member: u64, metrics: std::sync::Arc<Metrics>) -> Result<Self, AuditError> {
        let folder = data_dir.join("audit");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| AuditError::Make { path: folder.clone(), source })?;
        let path = folder.join(FILE);
        let file = Rotated::open(path.clone(), FILE_BYTES_MAX)
            .map_err(|source| AuditError::Open { path, source })?;
        let (lines, waiting) = sync_channel(LINES_WAITING_MAX);
        let lost = metrics.clone();
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_all(&waiting, file, &lost))
            .map_err(AuditError::Thread)?;
        Ok(Self { lines, metrics, member })
    }

    /// Hands a line over.
    pub fn tell(&self, line: Line) {
        let Line { who, credential, from, method, what, refused } = line;
        let mut object = json!({
            "at": show_now(),
            "member": self.member,
            "who": who,
            "from": from,
            "method": method,
            "what": what,
            "outcome": if refused.is_some() { "refused" } else { "done" },
        });
        if let Some(credential) = credential {
            object["credential"] = credential.into();
        }
        if let Some(code) = refused {
            object["code"] = code.into();
        }
        if self.lines.try_send(format!("{object}\n")).is_err() {
            self.metrics.audit_lines_lost.inc();
        }
    }
}

/// The time as machines like to read it, in UTC.
fn show_now() -> String {
    use tracing_subscriber::fmt::{
        format::Writer,
        time::{FormatTime as _, SystemTime},
    };
    let mut text = String::new();
    // Writing into a text can't fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn write_all(waiting: &Receiver<String>, mut file: Rotated, metrics: &Metrics) {
    let mut is_failing = false;
    while let Ok(line) = waiting.recv() {
        match file.write(&line) {
            Ok(()) => is_failing = false,
            Err(error) => {
                metrics.audit_lines_lost.inc();
                if !is_failing {
                    tracing::error!(error = %error, "can't write the audit log");
                }
                is_failing = true;
                thread::sleep(PAUSE);
            }
        }
    }
}

/// A file that gives way to a new one when it is full: `audit.log`, before it `audit.log.1`, and so on.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl Rotated {
    fn open(path: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let file = append_to(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, bytes_max })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.bytes_max {
            self.rotate()?;
        }
        // One call for one line: a crash leaves none that is half written, unless the disk is full.
        self.file.write_all(line.as_bytes())?;
        self.bytes += length;
        Ok(())
    }

    /// Oldest first: a crash in between leaves a gap in the numbers, and loses no file but the oldest.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (0..FILES_KEPT).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.file = append_to(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        match number {
            0 => self.path.clone(),
            number => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{number}"));
                name.into()
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn line(who: &str) -> Line {
        Line {
            who: who.to_owned(),
            credential: None,
            from: "127.0.0.1:1".to_owned(),
            method: "operator.v1.Operator/KillTask".to_owned(),
            what: json!({ "task_id": "t1" }),
            refused: None,
        }
    }

    #[test]
    fn full_files_give_way_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut file = Rotated::open(path.clone(), 20).unwrap();
        for number in 0..30 {
            file.write(&format!("line {number:02}..\n")).unwrap();
        }
        // Two lines of ten bytes fit in each.
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 28..\nline 29..\n");
        assert_eq!(fs::read_to_string(file.numbered(1)).unwrap(), "line 26..\nline 27..\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), FILES_KEPT + 1);
        // It goes on where it was.
        drop(file);
        let mut file = Rotated::open(path.clone(), 20).unwrap();
        file.write("one more.\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one more.\n");
    }

    #[test]
    fn each_call_is_one_line_and_what_does_not_fit_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new());
        let audit = Audit::open(folder.path(), 1, metrics.clone()).unwrap();
        audit.tell(line("user/ann"));
        audit.tell(Line { refused: Some("not-permitted".to_owned()), ..line("user/\"\n") });
        drop(audit);
        let path = folder.path().join("audit").join(FILE);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let mut text = String::new();
        while text.lines().count() < 2 && std::time::Instant::now() < deadline {
            text = fs::read_to_string(&path).unwrap();
            thread::yield_now();
        }
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["who"], "user/ann");
        assert_eq!(lines[0]["outcome"], "done");
        assert_eq!((&lines[1]["outcome"], &lines[1]["code"]), (&json!("refused"), &json!("not-permitted")));
        assert!(lines[0]["at"].as_str().unwrap().ends_with('Z'), "{text}");

        // Nobody writes these down.
        let (lines, _waiting) = sync_channel(1);
        let audit = Audit { lines, metrics: metrics.clone(), member: 1 };
        for _ in 0..3 {
            audit.tell(line("user/ann"));
        }
        assert_eq!(metrics.audit_lines_lost.get(), 2);
    }
}
