//! One daemon under test.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::patience;

/// A child process with its log; killed when dropped.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; what it says is appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log can be written");
        let errors = file.try_clone().expect("a descriptor can be cloned");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits"))
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Panics with the end of the log when the daemon has ended.
    pub fn assert_alive(&mut self) {
        assert!(self.is_alive(), "{} ended; its log ends with:\n{}", self.name, self.log_tail());
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our own child can be signalled");
    }

    /// As a crash would end it.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// Sends a signal and waits for the end.
    pub async fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.until_ended().await
    }

    pub async fn until_ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + patience();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end:\n{}", self.name, self.log_tail());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a failed test only; the child may have ended already.
        let _: io::Result<()> = self.child.kill();
        let _: io::Result<ExitStatus> = self.child.wait();
    }
}
