//! A kernel that exists in memory, for unit tests of what stands above the seam.
//!
//! It knows these rules, each shown to be true by a kernel test: a group's name can't be used
//! twice, a group with processes can't be removed, a kill empties the group, a held process that
//! is dropped ends, and an exit record outlives the agent. It knows nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Exit;

use super::{
    Abilities, BootId, CgroupId, CgroupName, Ending, EnterRequest, Fetching, FetchingRequest, Figures,
    GroupRecord, Held, Identity, IdentityError, LaunchRequest, Layout, Limits, MemberFigures, OutputSlice,
    Pressure, Process, ProcessId, ReleaseError, Signal, SpawnError, Sys, SysError, UserPolicy, Watch,
};

/// A handle to the kernel in memory; clones share it, as two lives of an agent share a host.
#[derive(Debug, Clone)]
pub struct FakeSys {
    state: Arc<Mutex<State>>,
}

/// A call that a test can make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    CreateCgroup,
    RemoveCgroup,
    KillCgroup,
    ResolveUser,
    Spawn,
    Release,
    Reopen,
    ReadOutput,
}

#[derive(Debug)]
struct State {
    groups: BTreeMap<CgroupName, Group>,
    names_used: BTreeSet<CgroupName>,
    processes: BTreeMap<u32, Proc>,
    exit_files: BTreeMap<PathBuf, Exit>,
    group_records: BTreeMap<PathBuf, GroupRecord>,
    begun: BTreeSet<PathBuf>,
    output: BTreeMap<PathBuf, Output>,
    users: BTreeMap<String, Identity>,
    failures: BTreeMap<Call, i32>,
    ignores_term: bool,
    next: u32,
    boot: String,
    log: Vec<String>,
}

#[derive(Debug)]
struct Group {
    id: u64,
    limits: Limits,
    figures: Figures,
    watches: Vec<OwnedFd>,
    is_frozen: bool,
}

#[derive(Debug)]
struct Proc {
    group: CgroupName,
    exit_file: PathBuf,
    is_released: bool,
    exit: Option<Exit>,
    /// Written to when it ends: every clone of it becomes readable.
    done: OwnedFd,
}

#[derive(Debug, Default)]
struct Output {
    start: u64,
    data: Vec<u8>,
}

impl Default for FakeSys {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeSys {
    /// A host that knows the users `root` (0), `nobody` (65534) and `alice` (1000).
    pub fn new() -> Self {
        let user = |name: &str, id| {
            let identity = Identity {
                uid: id,
                gid: id,
                groups: vec![id],
                home: Some(PathBuf::from("/home").join(name)),
                name: Some(name.to_owned()),
            };
            (name.to_owned(), identity)
        };
        let state = State {
            groups: BTreeMap::new(),
            names_used: BTreeSet::new(),
            processes: BTreeMap::new(),
            exit_files: BTreeMap::new(),
            group_records: BTreeMap::new(),
            begun: BTreeSet::new(),
            output: BTreeMap::new(),
            users: BTreeMap::from([user("root", 0), user("nobody", 65534), user("alice", 1000)]),
            failures: BTreeMap::new(),
            ignores_term: false,
            next: 1,
            boot: "fake-boot-1".to_owned(),
            log: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Makes the next call of this kind fail with an errno.
    pub fn fail_next(&self, call: Call, errno: i32) {
        self.lock().failures.insert(call, errno);
    }

    /// Commands from now on ignore SIGTERM.
    pub fn ignore_term(&self) {
        self.lock().ignores_term = true;
    }

    /// Lets a running process end.
    pub fn end(&self, process: ProcessId, exit: Exit) {
        self.lock().end(process.pid, exit, true);
    }

    /// What a group's init has written down so far.
    pub fn record_group(&self, exit_file: &Path, record: GroupRecord) {
        self.lock().group_records.insert(exit_file.to_owned(), record);
    }

    /// Lets a process end without an exit record, as when its init was killed.
    pub fn end_unrecorded(&self, process: ProcessId) {
        self.lock().end(process.pid, Exit::Signal(9), false);
    }

    /// The host starts anew: no processes, no groups, another boot id. Files remain.
    pub fn reboot(&self) {
        let mut state = self.lock();
        state.groups.clear();
        state.processes.clear();
        state.next += 1000;
        state.boot = format!("fake-boot-{}", state.next);
    }

    /// What the task has written.
    pub fn write_output(&self, file: &Path, data: &[u8]) {
        self.lock().output.entry(file.to_owned()).or_default().data.extend_from_slice(data);
    }

    pub fn set_figures(&self, name: &CgroupName, figures: Figures) {
        if let Some(group) = self.lock().groups.get_mut(name) {
            group.figures = figures;
        }
    }

    pub fn limits(&self, name: &CgroupName) -> Option<Limits> {
        self.lock().groups.get(name).map(|group| group.limits.clone())
    }

    /// Processes that have become their command and have not ended.
    pub fn running(&self) -> Vec<(CgroupName, ProcessId)> {
        let state = self.lock();
        let live = state.processes.iter().filter(|(_, proc)| proc.is_released && proc.exit.is_none());
        live.map(|(pid, proc)| (proc.group.clone(), process_id(*pid))).collect()
    }

    /// Every call that changed something, in order.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_failure(&mut self, call: Call) -> Option<io::Error> {
        self.failures.remove(&call).map(io::Error::from_raw_os_error)
    }

    fn end(&mut self, pid: u32, exit: Exit, is_recorded: bool) {
        let Some(process) = self.processes.get_mut(&pid).filter(|process| process.exit.is_none()) else {
            return;
        };
        process.exit = Some(exit);
        raise(&process.done);
        if is_recorded && process.is_released {
            self.exit_files.insert(process.exit_file.clone(), exit);
        }
        let name = process.group.clone();
        if let Some(group) = self.groups.get(&name)
            && self.is_empty(&name)
        {
            group.watches.iter().for_each(raise);
        }
    }

    fn is_empty(&self, name: &CgroupName) -> bool {
        !self.processes.values().any(|process| process.group == *name && process.exit.is_none())
    }
}

fn process_id(pid: u32) -> ProcessId {
    ProcessId { pid, start_ticks: 7 * u64::from(pid) }
}

fn event() -> io::Result<OwnedFd> {
    use rustix::event::EventfdFlags;
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn raise(fd: &OwnedFd) {
    // A counter that is full is readable already.
    let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
}

impl Sys for FakeSys {
    fn layout(&self) -> Layout {
        Layout::V2
    }

    fn limitations(&self) -> Vec<String> {
        Vec::new()
    }

    fn abilities(&self) -> Abilities {
        Abilities { cores: Some((0..4).collect()), can_throttle_io: true, ..Abilities::default() }
    }

    fn create_cgroup(&self, name: &CgroupName, limits: &Limits) -> Result<CgroupId, SysError> {
        let mut state = self.lock();
        let path = PathBuf::from("/fake").join(name.as_str());
        if let Some(source) = state.take_failure(Call::CreateCgroup) {
            return Err(SysError::MakeGroup { path, source });
        }
        if !state.names_used.insert(name.clone()) {
            return Err(SysError::GroupExists { path });
        }
        state.next += 1;
        let id = u64::from(state.next);
        let figures = Figures::default();
        let group = Group { id, limits: limits.clone(), figures, watches: Vec::new(), is_frozen: false };
        state.groups.insert(name.clone(), group);
        state.log.push(format!("create {name}"));
        Ok(CgroupId(id))
    }

    fn cgroup_id(&self, name: &CgroupName) -> Result<Option<CgroupId>, SysError> {
        Ok(self.lock().groups.get(name).map(|group| CgroupId(group.id)))
    }

    fn cgroup_ids(&self, name: &CgroupName) -> Result<Vec<CgroupId>, SysError> {
        Ok(self.cgroup_id(name)?.into_iter().collect())
    }

    fn member_figures(&self, _name: &CgroupName, _process: &str) -> Result<MemberFigures, SysError> {
        Ok(MemberFigures::default())
    }

    fn figures(&self, name: &CgroupName) -> Result<Figures, SysError> {
        let state = self.lock();
        let path = PathBuf::from("/fake").join(name.as_str());
        let missing = || SysError::Read { path, source: io::Error::from_raw_os_error(libc::ENOENT) };
        state.groups.get(name).map(|group| group.figures).ok_or_else(missing)
    }

    fn pressure(&self, _name: &CgroupName) -> Pressure {
        Pressure::default()
    }

    fn kill_cgroup(&self, name: &CgroupName) -> Result<(), SysError> {
        let mut state = self.lock();
        if let Some(source) = state.take_failure(Call::KillCgroup) {
            let path = PathBuf::from("/fake").join(name.as_str()).join("cgroup.kill");
            return Err(SysError::Write { path, value: "1".to_owned(), source });
        }
        state.log.push(format!("kill {name}"));
        let pids: Vec<u32> = state
            .processes
            .iter()
            .filter(|(_, process)| process.group == *name)
            .map(|(pid, _)| *pid)
            .collect();
        for pid in pids {
            state.end(pid, Exit::Signal(9), false);
        }
        Ok(())
    }

    fn is_cgroup_empty(&self, name: &CgroupName) -> Result<bool, SysError> {
        Ok(self.lock().is_empty(name))
    }

    fn watch_cgroup(&self, name: &CgroupName) -> Result<Watch, SysError> {
        let mut state = self.lock();
        let path = PathBuf::from("/fake").join(name.as_str());
        let failed = |source| SysError::Watch { path: path.clone(), source };
        let theirs = event().map_err(failed)?;
        let ours = theirs.try_clone().map_err(failed)?;
        match state.groups.get_mut(name) {
            Some(group) => group.watches.push(ours),
            None => raise(&ours),
        }
        Ok(Watch::new(theirs))
    }

    fn remove_cgroup(&self, name: &CgroupName) -> Result<(), SysError> {
        let mut state = self.lock();
        let path = PathBuf::from("/fake").join(name.as_str());
        if let Some(source) = state.take_failure(Call::RemoveCgroup) {
            return Err(SysError::RemoveGroup { path, source });
        }
        if !state.is_empty(name) {
            return Err(SysError::RemoveGroup { path, source: io::Error::from_raw_os_error(libc::EBUSY) });
        }
        if state.groups.remove(name).is_some() {
            state.log.push(format!("remove {name}"));
        }
        Ok(())
    }

    fn close(&self) -> Result<(), SysError> {
        match self.lock().groups.is_empty() {
            true => Ok(()),
            false => {
                let source = io::Error::from_raw_os_error(libc::EBUSY);
                Err(SysError::RemoveGroup { path: PathBuf::from("/fake"), source })
            }
        }
    }

    fn list_cgroups(&self) -> Result<Vec<CgroupName>, SysError> {
        Ok(self.lock().groups.keys().cloned().collect())
    }

    fn resolve_user(
        &self,
        user: &str,
        _groups: &[String],
        policy: &UserPolicy,
    ) -> Result<Identity, IdentityError> {
        let mut state = self.lock();
        if let Some(source) = state.take_failure(Call::ResolveUser) {
            return Err(IdentityError::Lookup { user: user.to_owned(), source });
        }
        let identity = match user.parse::<u32>() {
            Ok(id) => state.users.values().find(|known| known.uid == id).cloned(),
            Err(_) => state.users.get(user).cloned(),
        };
        let identity = identity.ok_or_else(|| IdentityError::Unknown { user: user.to_owned() })?;
        policy.judge(&identity)?;
        Ok(identity)
    }

    fn spawn(&self, request: &LaunchRequest) -> Result<Held, SpawnError> {
        let mut state = self.lock();
        let cgroup = request.cgroup.clone();
        let failed = |source| SpawnError::Clone { cgroup: cgroup.clone(), source };
        if let Some(source) = state.take_failure(Call::Spawn) {
            return Err(failed(source));
        }
        if !state.groups.contains_key(&cgroup) {
            return Err(failed(io::Error::from_raw_os_error(libc::ENOENT)));
        }
        let done = event().map_err(failed)?;
        let fd = done.try_clone().map_err(failed)?;
        state.next += 1;
        let pid = state.next;
        let exit_file = request.exit_file.clone();
        let process = Proc { group: cgroup.clone(), exit_file, is_released: false, exit: None, done };
        state.processes.insert(pid, process);
        state.log.push(format!("spawn {cgroup} as {}", request.identity.uid));

        let waiting = Waiting { sys: self.clone(), pid, is_released: false };
        let command =
            request.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Held::new(Process::new(process_id(pid), fd), move || waiting.release(command)))
    }

    fn enter(&self, _: EnterRequest) -> Result<Held, SpawnError> {
        Err(SpawnError::Enter(io::ErrorKind::Unsupported.into()))
    }

    fn reap(&self, _: &Process) -> Result<Option<Exit>, SysError> {
        Ok(None)
    }

    fn signal_group(&self, _: ProcessId, _: u8) -> Result<(), SysError> {
        Ok(())
    }

    fn end_session(&self, _: &CgroupName, _: ProcessId, _: Duration) -> Result<(), SysError> {
        Ok(())
    }

    fn set_frozen(&self, name: &CgroupName, is_frozen: bool) -> Result<(), SysError> {
        let mut state = self.lock();
        let group = state.groups.get_mut(name);
        let path = PathBuf::from(name.as_str());
        let group = group.ok_or(SysError::Freeze { path, source: io::ErrorKind::NotFound.into() })?;
        group.is_frozen = is_frozen;
        Ok(())
    }

    fn is_frozen(&self, name: &CgroupName) -> Result<bool, SysError> {
        Ok(self.lock().groups.get(name).is_some_and(|group| group.is_frozen))
    }

    fn spawn_fetching(&self, _request: FetchingRequest) -> Result<Fetching, SpawnError> {
        let source = io::ErrorKind::Unsupported.into();
        Err(SpawnError::Prepare { what: "fetch in a kernel that exists in memory", source })
    }

    fn reopen(&self, id: ProcessId) -> Result<Option<Process>, SysError> {
        let mut state = self.lock();
        if let Some(source) = state.take_failure(Call::Reopen) {
            return Err(SysError::OpenProcess { pid: id.pid, source });
        }
        let live = state.processes.get(&id.pid).filter(|process| process.exit.is_none());
        let Some(process) = live.filter(|_| process_id(id.pid) == id) else { return Ok(None) };
        let fd = process.done.try_clone().map_err(|source| SysError::OpenProcess { pid: id.pid, source })?;
        Ok(Some(Process::new(id, fd)))
    }

    fn boot_id(&self) -> Result<BootId, SysError> {
        Ok(BootId(self.lock().boot.clone()))
    }

    fn signal(&self, process: &Process, signal: Signal) -> Result<(), SysError> {
        let mut state = self.lock();
        state.log.push(format!("signal {signal:?}"));
        match signal {
            Signal::Stop(_) if state.ignores_term => {}
            Signal::Stop(signal) => {
                let number = super::process::stop_number(signal).as_raw();
                state.end(process.id().pid, Exit::Signal(u8::try_from(number).unwrap_or(0)), true);
            }
            Signal::Kill => state.end(process.id().pid, Exit::Signal(9), false),
            // It handles them all.
            Signal::Other(_) => {}
        }
        Ok(())
    }

    fn end_input(&self, _process: &Process) -> Result<(), SysError> {
        self.lock().log.push("end input".to_owned());
        Ok(())
    }

    fn ending(&self, process: &Process, exit_file: &Path) -> Result<Ending, SysError> {
        let state = self.lock();
        match state.processes.get(&process.id().pid) {
            Some(found) if found.exit.is_none() => Ok(Ending::Running),
            _ => {
                Ok(state.exit_files.get(exit_file).map_or(Ending::EndedUnknown, |exit| Ending::Ended(*exit)))
            }
        }
    }

    fn read_exit_file(&self, exit_file: &Path) -> Result<Option<Exit>, SysError> {
        Ok(self.lock().exit_files.get(exit_file).copied())
    }

    fn read_group_record(&self, exit_file: &Path) -> Result<Option<GroupRecord>, SysError> {
        Ok(self.lock().group_records.get(exit_file).cloned())
    }

    fn has_begun(&self, exit_file: &Path) -> Result<bool, SysError> {
        Ok(self.lock().begun.contains(exit_file))
    }

    fn trim_output(&self, file: &Path, keep_bytes: u64) -> Result<u64, SysError> {
        let mut state = self.lock();
        let Some(output) = state.output.get_mut(file) else { return Ok(0) };
        let surplus = (output.data.len() as u64).saturating_sub(keep_bytes);
        output.data.drain(..usize::try_from(surplus).unwrap_or(usize::MAX).min(output.data.len()));
        output.start += surplus;
        Ok(output.start)
    }

    fn read_output(&self, file: &Path, offset: u64, limit: usize) -> Result<OutputSlice, SysError> {
        let mut state = self.lock();
        if let Some(source) = state.take_failure(Call::ReadOutput) {
            return Err(SysError::Read { path: file.to_owned(), source });
        }
        let empty = Output::default();
        let output = state.output.get(file).unwrap_or(&empty);
        let end = output.start + output.data.len() as u64;
        let offset = offset.clamp(output.start, end);
        let skip = usize::try_from(offset - output.start).unwrap_or(usize::MAX);
        let data = output.data.iter().skip(skip).take(limit).copied().collect();
        Ok(OutputSlice { offset, data, end })
    }
}

/// A fake process before its release; ends when it is dropped first.
struct Waiting {
    sys: FakeSys,
    pid: u32,
    is_released: bool,
}

impl Waiting {
    fn release(mut self, command: String) -> Result<(), ReleaseError> {
        let mut state = self.sys.lock();
        if let Some(source) = state.take_failure(Call::Release) {
            return Err(ReleaseError::Exec { command, source });
        }
        let Some(process) = state.processes.get_mut(&self.pid).filter(|process| process.exit.is_none())
        else {
            return Err(ReleaseError::Ended);
        };
        process.is_released = true;
        let exit_file = process.exit_file.clone();
        let line = format!("release {}", process.group);
        state.log.push(line);
        state.begun.insert(exit_file);
        drop(state);
        self.is_released = true;
        Ok(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_released {
            self.sys.lock().end(self.pid, Exit::Code(0), false);
        }
    }
}
