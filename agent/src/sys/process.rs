//! Processes that can't be mistaken for another.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use model::{Exit, StopSignal};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::SysError;
use super::cgroup::reread;

/// Which process of this boot: its number, and when it started, because numbers come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    pub pid: u32,
    /// Clock ticks from boot to the start, as in field 22 of /proc/PID/stat.
    pub start_ticks: u64,
}

/// One boot of one host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub String);

/// A process that we hold: its number can't be given to another while this lives.
///
/// The descriptor becomes readable when the process has ended.
#[derive(Debug, Clone)]
pub struct Process {
    id: ProcessId,
    fd: Arc<OwnedFd>,
}

impl Process {
    pub fn new(id: ProcessId, fd: OwnedFd) -> Self {
        Self { id, fd: Arc::new(fd) }
    }

    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Waits until the process has ended; then [`super::Sys::ending`] tells how. Safe to drop.
    /// Needs a tokio runtime.
    pub async fn ended(&self) -> io::Result<()> {
        readable(self.fd.try_clone()?).await
    }

    /// Completes the id of a process that was just made.
    pub(super) fn set_start(&mut self, ticks: u64) {
        self.id.start_ticks = ticks;
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Becomes readable when it is worth to look again.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
    /// A kernel file that raises a priority event when its content changes; `fd` is an epoll
    /// instance that listens to it, because such a file by itself is always readable.
    file: Option<File>,
}

impl Watch {
    /// Of a descriptor that becomes readable, and is not after a read.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, file: None }
    }

    /// Of a file that the kernel announces changes of, as `cgroup.events` (kernfs: POLLPRI until
    /// the file is read again). Not inotify, of which a user has 128 at most by default.
    pub(super) fn on_kernel_file(file: File) -> io::Result<Self> {
        reread(&file);
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&fd, &file, epoll::EventData::new_u64(0), epoll::EventFlags::PRI)?;
        Ok(Self { fd, file: Some(file) })
    }

    /// Of something that has happened already.
    pub(super) fn raised() -> io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Ok(Self::new(rustix::event::eventfd(1, flags)?))
    }

    /// Waits until it is worth to look again. Safe to drop. Needs a tokio runtime.
    pub async fn changed(&self) -> io::Result<()> {
        readable(self.fd.try_clone()?).await?;
        self.drain();
        Ok(())
    }

    /// Takes what made it readable, so that it can become readable anew.
    pub fn drain(&self) {
        match &self.file {
            Some(file) => reread(file),
            None => {
                let mut buffer = [0_u8; 4096];
                // Nothing to read is what we want; the caller looks again anyway.
                while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|count| count == buffer.len()) {}
            }
        }
    }

    /// Waits until it is readable; false when the time is over.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        poll_readable(self.fd.as_fd(), timeout)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Whether a process has ended, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Running,
    Ended(model::Exit),
    /// Ended, and neither record nor parenthood tells how. The kernel's own record may know.
    EndedUnknown,
}

/// The signals that the agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Asks it to end.
    Stop(StopSignal),
    Kill,
    /// What a person sends, by its number.
    Other(u8),
}

/// How long an ended process that is not our child may take to be reaped by its parent.
const REAPED_PATIENCE: Duration = Duration::from_millis(50);

/// What the numbers in an exit record mean; written by `agent/init/main.rs`.
mod record {
    /// The command may have run; how it ended is written over it.
    pub const BEGUN: u32 = 4;
    pub const EXITED: u32 = 1;
    pub const SIGNALED: u32 = 2;
    pub const EXEC_FAILED: u32 = 3;
}

/// When a process started, in clock ticks since boot.
pub(super) fn start_ticks(pid: u32) -> io::Result<Option<u64>> {
    let text = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The name in parentheses may hold anything, so fields are counted from the last one (proc_pid_stat(5)).
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().nth(22 - 3).and_then(|field| field.parse().ok());
    ticks.map(Some).ok_or(io::ErrorKind::InvalidData.into())
}

pub(super) fn reopen(id: ProcessId) -> Result<Option<Process>, SysError> {
    let failed = |source| SysError::OpenProcess { pid: id.pid, source };
    let Some(pid) = id.pid.try_into().ok().and_then(rustix::process::Pid::from_raw) else { return Ok(None) };
    let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        // EINVAL: the number is a thread's now.
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    // The descriptor first: if the start time fits and the process still lives after that, the
    // number can't have changed hands in between.
    if start_ticks(id.pid).map_err(failed)? != Some(id.start_ticks) {
        return Ok(None);
    }
    if poll_readable(fd.as_fd(), Duration::ZERO).map_err(failed)? {
        return Ok(None);
    }
    Ok(Some(Process::new(id, fd)))
}

pub(super) fn boot_id() -> Result<BootId, SysError> {
    let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(&path).map_err(|source| SysError::Read { path, source })?;
    Ok(BootId(text.trim().to_owned()))
}

pub(super) fn stop_number(signal: StopSignal) -> rustix::process::Signal {
    match signal {
        StopSignal::Hup => rustix::process::Signal::HUP,
        StopSignal::Int => rustix::process::Signal::INT,
        StopSignal::Quit => rustix::process::Signal::QUIT,
        StopSignal::Usr1 => rustix::process::Signal::USR1,
        StopSignal::Usr2 => rustix::process::Signal::USR2,
        StopSignal::Term => rustix::process::Signal::TERM,
    }
}

pub(super) fn signal(process: &Process, signal: Signal) -> Result<(), SysError> {
    let (number, name) = match signal {
        Signal::Stop(signal) => (stop_number(signal), signal.as_str()),
        Signal::Kill => (rustix::process::Signal::KILL, "KILL"),
        Signal::Other(other) => match rustix::process::Signal::from_named_raw(other.into()) {
            Some(number) => (number, "chosen by its number"),
            None => {
                let (signal, source) = ("that has no name", io::ErrorKind::InvalidInput.into());
                return Err(SysError::SendSignal { signal, pid: process.id.pid, source });
            }
        },
    };
    match rustix::process::pidfd_send_signal(process, number) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(SysError::SendSignal { signal: name, pid: process.id.pid, source: error.into() }),
    }
}

/// By agreement with `agent/init/main.rs`.
const END_OF_INPUT: (libc::c_int, u32) = (64, 0x656e_6421);

/// See [`super::Sys::end_input`]. Queued with a value, which a signal that somebody only passes on never has.
pub(super) fn end_input(process: &Process) -> Result<(), SysError> {
    let (signal, value) = END_OF_INPUT;
    // `siginfo_t` as the kernel lays it out for queued signals: number, errno, code, a gap, who (two words), value.
    let mut info = [0_u32; 32];
    let [number, _, code, _, _, _, sent, ..] = &mut info;
    (*number, *code, *sent) = (signal.cast_unsigned(), libc::SI_QUEUE.cast_unsigned(), value);
    // SAFETY: the kernel reads the 128 bytes of a `siginfo_t`, which `info` has.
    let answer = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_fd().as_raw_fd(), signal, info.as_ptr(), 0)
    };
    let error = io::Error::last_os_error();
    if answer == 0 || error.raw_os_error() == Some(libc::ESRCH) {
        return Ok(());
    }
    Err(SysError::SendSignal { signal: "the end of its input", pid: process.id.pid, source: error })
}

pub(super) fn ending(process: &Process, exit_file: &Path) -> Result<Ending, SysError> {
    let pid = process.id.pid;
    let failed = |source| SysError::Wait { pid, source };
    if !poll_readable(process.as_fd(), Duration::ZERO).map_err(failed)? {
        return Ok(Ending::Running);
    }
    // Reap first, whoever tells how it ended: a zombie holds a process number.
    let waited = reap(process.as_fd()).map_err(failed)?;
    if let Some(exit) = read_exit_file(exit_file)? {
        return Ok(Ending::Ended(exit));
    }
    let exit = match waited {
        Some(exit) => Some(exit),
        None => recorded_by_kernel(process.as_fd()).map_err(failed)?,
    };
    Ok(exit.map_or(Ending::EndedUnknown, Ending::Ended))
}

/// `None` if the process is no child of ours, was reaped before, or still runs.
pub(super) fn reap(process: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = match rustix::process::waitid(WaitId::PidFd(process), options) {
        Ok(Some(status)) => status,
        Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok()).map(Exit::Code);
    let signal = status.terminating_signal().and_then(|signal| u8::try_from(signal).ok()).map(Exit::Signal);
    Ok(code.or(signal))
}

pub(super) fn read_exit_file(path: &Path) -> Result<Option<Exit>, SysError> {
    let failed = |source| SysError::Read { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    // What stands behind it is of the processes of a group: `sys::group`.
    (&mut file).take(8).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let unknown = || SysError::Parse { path: path.to_owned(), found: format!("{bytes:?}") };
    let (kind, value) = parse_pair(&bytes).ok_or_else(unknown)?;
    if kind == record::BEGUN {
        return Ok(None);
    }
    exit_of(kind, value).map(Some).ok_or_else(unknown)
}

/// How a command ended, of the two numbers that tell it.
pub(super) fn exit_of(kind: u32, value: u32) -> Option<Exit> {
    match (kind, u8::try_from(value)) {
        (record::EXITED, Ok(code)) => Some(Exit::Code(code)),
        (record::SIGNALED, Ok(signal)) => Some(Exit::Signal(signal)),
        // As a shell would end: 127 where there is no such command, 126 where it can't be run.
        (record::EXEC_FAILED, _) if value == libc::ENOENT.unsigned_abs() => Some(Exit::Code(127)),
        (record::EXEC_FAILED, _) => Some(Exit::Code(126)),
        _ => None,
    }
}

pub(super) fn has_begun(path: &Path) -> Result<bool, SysError> {
    match std::fs::metadata(path) {
        Ok(facts) => Ok(facts.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SysError::Read { path: path.to_owned(), source }),
    }
}

/// Two numbers, as the task's processes write them.
pub(super) fn parse_pair(bytes: &[u8]) -> Option<(u32, u32)> {
    let (first, second) = bytes.split_at_checked(4)?;
    Some((u32::from_ne_bytes(first.try_into().ok()?), u32::from_ne_bytes(second.try_into().ok()?)))
}

/// Waits for a descriptor on tokio's reactor. A copy of its own, because the reactor takes each
/// number only once.
async fn readable(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is owned by the registration and stays open and itself as long as it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    let _ready = registered.readable().await?;
    Ok(())
}

pub(super) fn poll_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks the kernel how a process ended that somebody else has reaped (PIDFD_GET_INFO, Linux 6.15).
fn recorded_by_kernel(process: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    let deadline = std::time::Instant::now() + REAPED_PATIENCE;
    loop {
        match pidfd_exit(process) {
            Err(rustix::io::Errno::NOTTY | rustix::io::Errno::INVAL | rustix::io::Errno::SRCH) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
            Ok(Some(exit)) => return Ok(Some(exit)),
            Ok(None) if std::time::Instant::now() >= deadline => return Ok(None),
            // Its parent has yet to reap it; the kernel answers only after that.
            Ok(None) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// `struct pidfd_info` of include/uapi/linux/pidfd.h, in its first size.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64, "PIDFD_INFO_SIZE_VER0");

fn pidfd_exit(process: BorrowedFd<'_>) -> rustix::io::Result<Option<Exit>> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    const GET_INFO: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<PidfdInfo>(0xff, 11);
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the opcode reads and writes one `struct pidfd_info` of the size that it encodes.
    unsafe {
        let call = rustix::ioctl::Updater::<GET_INFO, PidfdInfo>::new(&mut info);
        rustix::ioctl::ioctl(process, call)?;
    }
    if info.mask & PIDFD_INFO_EXIT == 0 {
        return Ok(None);
    }
    let status = info.exit_code.cast_unsigned();
    let signal = u8::try_from(status & 0x7f).ok().filter(|signal| *signal != 0);
    let code = u8::try_from((status >> 8) & 0xff).ok();
    Ok(signal.map(Exit::Signal).or(code.map(Exit::Code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_reopened_and_no_other_in_its_place() {
        let pid = std::process::id();
        let start_ticks = start_ticks(pid).unwrap().unwrap();
        assert!(reopen(ProcessId { pid, start_ticks }).unwrap().is_some());
        assert!(reopen(ProcessId { pid, start_ticks: start_ticks + 1 }).unwrap().is_none());
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "`ending` reaps it, which is the point")]
    fn an_ended_child_is_reaped_and_its_code_known() {
        let child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let id = ProcessId { pid: child.id(), start_ticks: start_ticks(child.id()).unwrap().unwrap() };
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let process = Process::new(id, fd);
        assert!(poll_readable(process.as_fd(), Duration::from_secs(10)).unwrap());
        let nowhere = Path::new("/nonexistent/exit");
        assert_eq!(ending(&process, nowhere).unwrap(), Ending::Ended(Exit::Code(7)));
        assert!(reopen(id).unwrap().is_none());
        if pidfd_exit(process.as_fd()).is_ok() {
            // Reaped by another, as for a process that outlived its agent.
            assert_eq!(ending(&process, nowhere).unwrap(), Ending::Ended(Exit::Code(7)));
        }
    }

    #[test]
    fn an_exit_record_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exit");
        assert_eq!(read_exit_file(&path).unwrap(), None);
        fs::write(&path, b"").unwrap();
        assert_eq!(read_exit_file(&path).unwrap(), None);
        for (kind, value, exit) in [
            (record::EXITED, 3_u32, Exit::Code(3)),
            (record::SIGNALED, 9, Exit::Signal(9)),
            (record::EXEC_FAILED, 2, Exit::Code(127)),
            (record::EXEC_FAILED, 13, Exit::Code(126)),
        ] {
            fs::write(&path, [kind.to_ne_bytes(), value.to_ne_bytes()].concat()).unwrap();
            assert_eq!(read_exit_file(&path).unwrap(), Some(exit));
        }
        fs::write(&path, b"123").unwrap();
        assert!(read_exit_file(&path).is_err());
    }
}
