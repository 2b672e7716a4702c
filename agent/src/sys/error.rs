//! What can go wrong between the agent and its kernel, by what was attempted.

use std::io;
use std::path::PathBuf;

/// A kernel call that failed.
#[derive(Debug, thiserror::Error)]
pub enum SysError {
    #[error("can't write `{value}` to {}", path.display())]
    Write { path: PathBuf, value: String, source: io::Error },
    #[error("can't read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("can't open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} does not hold what the kernel documents: `{found}`", path.display())]
    Parse { path: PathBuf, found: String },
    #[error("can't give devices to the control group {}", path.display())]
    Devices { path: PathBuf, source: io::Error },
    #[error("can't make the control group {}", path.display())]
    MakeGroup { path: PathBuf, source: io::Error },
    #[error("can't remove the control group {}", path.display())]
    RemoveGroup { path: PathBuf, source: io::Error },
    #[error("the control group {} is there already", path.display())]
    GroupExists { path: PathBuf },
    #[error("`{name}` can't name a control group")]
    GroupName { name: String },
    #[error("no hierarchy of this host offers the {controller} controller")]
    NoController { controller: &'static str },
    #[error("can't watch {}", path.display())]
    Watch { path: PathBuf, source: io::Error },
    #[error("can't mount {what} at {}", path.display())]
    Mount { what: &'static str, path: PathBuf, source: io::Error },
    #[error("can't open process {pid}")]
    OpenProcess { pid: u32, source: io::Error },
    #[error("can't send SIG{signal} to process {pid}")]
    SendSignal { signal: &'static str, pid: u32, source: io::Error },
    #[error("can't freeze or thaw {}", path.display())]
    Freeze { path: PathBuf, source: io::Error },
    #[error("can't ask how process {pid} ended")]
    Wait { pid: u32, source: io::Error },
    #[error("can't free the first {bytes} bytes of {}", path.display())]
    Punch { path: PathBuf, bytes: u64, source: io::Error },
    #[error("can't prepare the program that starts tasks")]
    Init { source: io::Error },
}
