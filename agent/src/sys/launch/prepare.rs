//! The parent's side of a launch: prepares everything, clones, and gives the word.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use model::{Rlimit, RlimitKind};
use rustix::thread::CapabilitySet;

use super::birth::{self, Nursery};
use super::capability;
use super::child::{self, Hidden, Mounts, Plan, Program, Scene};
use super::paths::{self, HeldMount, Own};
use super::seccomp::{self, Seccomp};
use super::together::Member;
use super::{
    EnterRequest, Held, LaunchGroup, LaunchMember, LaunchRequest, LaunchStep, ReleaseError, Secrets,
    SpawnError,
};
use crate::sys::cgroup::Cgroups;
use crate::sys::process::{self, Process, ProcessId};
use crate::sys::{Identity, SysError};

/// The tasks' init, built by `agent/build.rs` from `agent/init/main.rs`.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/muster-init"));

/// How long a released process may take to become the command: disk and swap may be slow.
const RELEASE_PATIENCE: Duration = Duration::from_secs(30);

/// How long a process that was told to end may take.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Where a task without PATH in its environment is looked for; as in `agent/init/main.rs`.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// Tasks are the first to go when the host is out of memory, the most thirsty of them first.
const OOM_SCORE_ADJUST: u16 = 200;

/// Open files that a task may have unless it asks for more, up to the hard limit that the agent has:
/// everyone's default, because `select(2)` knows no more, and the agent's own limit is far above it.
const OPEN_FILES_SOFT: u64 = 1024;

/// Starts tasks' processes.
#[derive(Debug)]
pub struct Launcher {
    /// The init as a file that nobody can change.
    init: OwnedFd,
    capability_last: usize,
    has_shm: bool,
    /// Of every task, unless it asks otherwise.
    rlimits: BTreeMap<RlimitKind, Rlimit>,
    /// Default profiles by capabilities and pid namespace; operators allow few combinations.
    profiles: Mutex<BTreeMap<(u64, bool), seccomp::Program>>,
    nursery: Nursery,
}

impl Launcher {
    pub fn new() -> Result<Self, SysError> {
        let init = sealed_init().map_err(|source| SysError::Init { source })?;
        let path = PathBuf::from("/proc/sys/kernel/cap_last_cap");
        let text = fs::read_to_string(&path);
        let text = text.map_err(|source| SysError::Read { path: path.clone(), source })?;
        let capability_last =
            text.trim().parse().map_err(|_| SysError::Parse { path, found: text.clone() })?;
        let has_shm = Path::new("/dev/shm").is_dir();
        let nursery = Nursery::new().map_err(|source| SysError::Init { source })?;
        Ok(Self { init, capability_last, has_shm, rlimits: rlimits(), profiles: Mutex::default(), nursery })
    }

    /// The highest number of a capability that this kernel knows.
    pub fn capability_last(&self) -> usize {
        self.capability_last
    }

    /// See [`crate::sys::Sys::spawn`].
    pub fn spawn(&self, cgroups: &Cgroups, request: &LaunchRequest) -> Result<Held, SpawnError> {
        let nothing = || open(Path::new("/dev/null"), File::options().read(true).write(true));
        let mut input = None;
        let streams = match &request.group {
            None => [
                match &request.stdin {
                    Some(path) => {
                        let Input { theirs, kept } = open_input(path, &request.identity)?;
                        input = Some(kept);
                        theirs
                    }
                    None => nothing()?,
                },
                self.open_output(&request.stdout, request)?,
                self.open_output(&request.stderr, request)?,
            ],
            Some(_) => [nothing()?, nothing()?, nothing()?],
        };
        // Read by a group's init, to see what its processes have written.
        let mut options = File::options();
        let exit =
            open(&request.exit_file, options.read(true).write(true).create(true).truncate(true).mode(0o600))?;
        let exit = move_up(exit).map_err(prepare("move a descriptor"))?;
        let program = match request.namespaces.pid {
            true => Program::Init { init: self.init.as_raw_fd(), exit: exit.as_raw_fd() },
            false if request.group.is_some() => {
                let source = io::ErrorKind::InvalidInput.into();
                return Err(SpawnError::Prepare { what: "watch several processes without an init", source });
            }
            false => Program::Command(places(&request.argv, &request.env)?),
        };
        let held = hold_paths(request)?;
        let mut mounts = self.plan_mounts(request)?;
        for held in &held {
            mounts.paths.push((held.tree.as_raw_fd(), text(held.target.as_os_str(), "a path")?));
        }
        let scene = Scene::Own(mounts);
        let mut kinds = libc::CLONE_NEWNS;
        if request.namespaces.network {
            kinds |= libc::CLONE_NEWNET;
        }
        if request.namespaces.pid {
            kinds |= libc::CLONE_NEWPID;
        }
        if request.namespaces.ipc {
            kinds |= libc::CLONE_NEWIPC;
        }
        let group = request.group.as_ref();
        let part = Part { streams, input, program, scene, has_terminal: false, group };
        self.start(cgroups, request, part, |group, plan| self.nursery.bear(group, kinds, plan))
    }

    /// See [`crate::sys::Sys::enter`].
    pub fn enter(&self, cgroups: &Cgroups, request: EnterRequest) -> Result<Held, SpawnError> {
        let EnterRequest { launch, target, stdin, stdout, stderr, has_terminal } = request;
        let process = rustix::io::fcntl_dupfd_cloexec(&target, child::DESCRIPTOR_MIN)
            .map_err(|error| prepare("copy a descriptor")(error.into()))?;
        let mut kinds = libc::CLONE_NEWNS;
        if launch.namespaces.network {
            kinds |= libc::CLONE_NEWNET;
        }
        if launch.namespaces.ipc {
            kinds |= libc::CLONE_NEWIPC;
        }
        let part = Part {
            streams: [stdin, stdout, stderr],
            input: None,
            // Orphans of it go to the task's own init; none is needed here.
            program: Program::Command(places(&launch.argv, &launch.env)?),
            scene: Scene::Joined { process: process.as_raw_fd(), kinds: kinds.cast_unsigned() as usize },
            has_terminal,
            group: None,
        };
        let has_own_pids = launch.namespaces.pid;
        self.start(cgroups, &launch, part, |group, plan| {
            // A process is born into the pid namespace that its parent's thread has chosen for children. The
            // thread ends with that choice, and nothing else of this process ever sees it.
            let born = || -> io::Result<_> {
                if has_own_pids {
                    nix::sched::setns(&process, nix::sched::CloneFlags::CLONE_NEWPID)?;
                }
                birth::clone_copy(group, &plan)
            };
            thread::scope(|scope| {
                let thread = thread::Builder::new().name("enter".to_owned()).spawn_scoped(scope, born)?;
                thread.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()))
            })
        })
    }

    /// Makes the plan, clones and waits for nothing.
    fn start(
        &self,
        cgroups: &Cgroups,
        request: &LaunchRequest,
        part: Part,
        clone: impl FnOnce(RawFd, Plan) -> io::Result<(u32, OwnedFd)>,
    ) -> Result<Held, SpawnError> {
        let group = cgroups.open_v2(&request.cgroup).map_err(SpawnError::Cgroup)?;
        let tasks = cgroups.open_v1_tasks(&request.cgroup).map_err(SpawnError::Cgroup)?;
        let (go_theirs, go_ours) = pipe().map_err(prepare("make a pipe"))?;
        let (status_ours, status_theirs) = pipe().map_err(prepare("make a pipe"))?;
        let Part { streams: [stdin, stdout, stderr], input, program, scene, has_terminal, group: members } =
            part;
        let high = |fd: OwnedFd| move_up(fd).map_err(prepare("move a descriptor"));
        let [stdin, stdout, stderr, go, status] = [stdin, stdout, stderr, go_theirs, status_theirs].map(high);
        let (stdin, stdout, stderr, go, status) = (stdin?, stdout?, stderr?, go?, status?);
        let input = input.map(high).transpose()?;
        let join = tasks.into_iter().map(high).collect::<Result<Vec<_>, _>>()?;
        if join.len() > child::HIERARCHIES_MAX {
            let source = io::Error::from(io::ErrorKind::TooManyLinks);
            return Err(SpawnError::Prepare { what: "join so many hierarchies", source });
        }

        let (argv, envp, strings) = match members {
            Some(group) => strings(&init_arguments(group), &[])?,
            None => strings(&request.argv, &request.env)?,
        };
        let (members, commands, _streams) = self.plan_members(cgroups, request, members)?;
        let is_root = request.identity.uid == 0;
        let asked = request.extras.capabilities;
        let kept = if is_root { capability::OF_ROOT.union(asked) } else { asked };
        let drops = |number: &usize| match &scene {
            // Its thread in the nursery has.
            Scene::Own(_) => false,
            Scene::Joined { .. } => kept.bits() & (1 << number) == 0,
        };
        let score = request.extras.oom_score_adjust.unwrap_or(OOM_SCORE_ADJUST);
        let plan = Plan {
            stdin: stdin.as_raw_fd(),
            stdout: stdout.as_raw_fd(),
            stderr: stderr.as_raw_fd(),
            status: status.as_raw_fd(),
            go: go.as_raw_fd(),
            input: input.as_ref().map(AsRawFd::as_raw_fd),
            join: join.iter().map(AsRawFd::as_raw_fd).collect(),
            members,
            program,
            argv,
            envp,
            _strings: strings,
            uid: request.identity.uid,
            gid: request.identity.gid,
            groups: request.identity.groups.clone(),
            bounding: kept,
            capabilities_dropped: (0..=self.capability_last).filter(drops).collect(),
            // An exec by root gives it what is in its bounding set.
            capabilities_kept: if is_root { 0 } else { kept.bits() },
            filter: self.filter(request, kept),
            cwd: text(request.cwd.as_os_str(), "the working directory")?,
            scene,
            has_terminal,
            oom_score_adjust: text(OsStr::new(&score.to_string()), "the preference")?,
            rlimits: self.plan_rlimits(&request.extras.rlimits),
        };
        let failed = |source| SpawnError::Clone { cgroup: request.cgroup.clone(), source };
        let (pid, pidfd) = clone(group.as_raw_fd(), plan).map_err(failed)?;
        let process = Process::new(ProcessId { pid, start_ticks: 0 }, pidfd);
        // From here on the child is ours to end: dropping this does it.
        let mut waiting = Waiting { process, go: Some(go_ours), status: status_ours };
        let started = process::start_ticks(pid).map_err(failed)?;
        // Only its parent can take its number away, and that is us.
        let start_ticks = started.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        waiting.process.set_start(start_ticks);
        let process = waiting.process.clone();
        Ok(Held::new(process, move || waiting.release(&commands)))
    }

    /// The task's user owns its output, so that it may open /dev/stdout by name.
    fn open_output(&self, path: &Path, request: &LaunchRequest) -> Result<OwnedFd, SpawnError> {
        let fd = open(path, File::options().append(true).create(true).mode(0o640))?;
        let identity = &request.identity;
        let owned = std::os::unix::fs::fchown(&fd, Some(identity.uid), Some(identity.gid));
        owned.map_err(|source| SpawnError::Open { path: path.to_owned(), source })?;
        Ok(fd)
    }

    /// Their plans, what they are called in words, and what must stay open until they are born.
    fn plan_members(
        &self,
        cgroups: &Cgroups,
        request: &LaunchRequest,
        group: Option<&LaunchGroup>,
    ) -> Result<(Vec<Member>, Commands, Vec<OwnedFd>), SpawnError> {
        let mut commands = Commands { own: shown(&request.argv), members: Vec::new() };
        let (mut members, mut open) = (Vec::new(), Vec::new());
        for LaunchMember { name, argv, env, stdout, stderr, is_essential: _ } in
            group.iter().flat_map(|group| &group.members)
        {
            let joins = cgroups.open_member_joins(&request.cgroup, name).map_err(SpawnError::Cgroup)?;
            if joins.len() > child::MEMBER_JOINS_MAX {
                let source = io::Error::from(io::ErrorKind::TooManyLinks);
                return Err(SpawnError::Prepare { what: "join so many hierarchies", source });
            }
            let outputs = [self.open_output(stdout, request)?, self.open_output(stderr, request)?];
            let mut descriptors = Vec::with_capacity(2 + joins.len());
            for descriptor in outputs.into_iter().chain(joins) {
                let descriptor = move_up(descriptor).map_err(prepare("move a descriptor"))?;
                descriptors.push(descriptor.as_raw_fd());
                open.push(descriptor);
            }
            let [stdout, stderr, join @ ..] = descriptors.as_slice() else { continue };
            let (argv_plan, envp, strings) = strings(argv, env)?;
            members.push(Member {
                stdout: *stdout,
                stderr: *stderr,
                join: join.to_vec(),
                places: places(argv, env)?,
                argv: argv_plan,
                envp,
                _strings: strings,
            });
            commands.members.push((name.clone(), shown(argv)));
        }
        Ok((members, commands, open))
    }

    fn filter(&self, request: &LaunchRequest, capabilities: CapabilitySet) -> Option<seccomp::Program> {
        match &request.extras.seccomp {
            Seccomp::Default => {
                let key = (capabilities.bits(), request.namespaces.pid);
                let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
                let profile = profiles.entry(key);
                let made = || seccomp::default_profile(capabilities, request.namespaces.pid);
                Some(profile.or_insert_with(made).clone())
            }
            Seccomp::Unconfined => None,
            Seccomp::Custom(program) => Some(program.clone()),
        }
    }

    fn plan_rlimits(&self, asked: &BTreeMap<RlimitKind, Rlimit>) -> Vec<(usize, [u64; 2])> {
        let every = self.rlimits.iter().filter(|(kind, _)| !asked.contains_key(kind)).chain(asked);
        let value = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
        every
            .map(|(kind, Rlimit { soft, hard })| (rlimit_number(*kind), [value(*soft), value(*hard)]))
            .collect()
    }

    fn plan_mounts(&self, request: &LaunchRequest) -> Result<Mounts, SpawnError> {
        let real = |path: &Path| {
            fs::canonicalize(path).map_err(|source| SpawnError::Open { path: path.to_owned(), source })
        };
        let sandbox = real(&request.sandbox)?;
        let path = |path: &Path| text(path.as_os_str(), "a path");
        let secrets =
            request.extras.secrets.as_ref().map(|secrets| plan_secrets(secrets, &sandbox)).transpose()?;
        let secrets_path =
            secrets.as_ref().map(|secrets| Path::new(OsStr::from_bytes(secrets.directory.to_bytes())));
        let steps_to_sandbox = |from: &Path| -> Result<Vec<CString>, SpawnError> {
            let mut steps = Vec::new();
            for goal in [Some(sandbox.as_path()), secrets_path].into_iter().flatten() {
                if goal.starts_with(from) {
                    let below: Vec<&Path> = goal.ancestors().take_while(|part| *part != from).collect();
                    steps.extend(below.into_iter().rev().map(path));
                }
            }
            steps.into_iter().collect()
        };
        let mut hidden = Vec::new();
        let mut hidden_in_sandbox = Vec::new();
        for wish in &request.hidden {
            let found = match fs::canonicalize(wish) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(SpawnError::Open { path: wish.clone(), source }),
            };
            let cover = match found.is_dir() {
                true => Hidden::Directory { path: path(&found)?, inside: steps_to_sandbox(&found)? },
                false => Hidden::File { path: path(&found)? },
            };
            if found == sandbox {
                let source = io::ErrorKind::InvalidInput.into();
                return Err(SpawnError::Prepare { what: "hide the sandbox itself", source });
            }
            match found.starts_with(&sandbox) {
                true => hidden_in_sandbox.push(cover),
                false => hidden.push(cover),
            }
        }
        Ok(Mounts {
            has_own_proc: request.namespaces.pid,
            has_own_shm: request.namespaces.ipc && self.has_shm,
            tmp: request.tmp.as_deref().map(|tmp| real(tmp).and_then(|tmp| path(&tmp))).transpose()?,
            directories_in_tmp: steps_to_sandbox(Path::new("/tmp"))?,
            sandbox: path(&sandbox)?,
            hidden,
            hidden_in_sandbox,
            paths: Vec::new(),
            secrets,
            has_own_network: request.namespaces.network,
        })
    }
}

/// The host's paths as mounts, out of the way of the numbers that the child gives out.
fn hold_paths(request: &LaunchRequest) -> Result<Vec<HeldMount>, SpawnError> {
    if request.extras.mounts.is_empty() {
        return Ok(Vec::new());
    }
    let mut places = vec![(request.sandbox.as_path(), request.sandbox.as_path())];
    if let Some(tmp) = &request.tmp {
        places.push((Path::new("/tmp"), tmp));
    }
    let own = Own { places, identity: &request.identity };
    let mut held = Vec::with_capacity(request.extras.mounts.len());
    for mount in &request.extras.mounts {
        let HeldMount { tree, target } = paths::hold(mount, &request.hidden, &own)?;
        held.push(HeldMount { tree: move_up(tree).map_err(prepare("move a descriptor"))?, target });
    }
    Ok(held)
}

/// `sandbox` is real: no link leads to the directory beside it.
fn plan_secrets(secrets: &Secrets, sandbox: &Path) -> Result<child::Secrets, SpawnError> {
    let missing = || prepare("find a place for secrets")(io::ErrorKind::InvalidInput.into());
    let (beside, name) = (sandbox.parent(), secrets.directory.file_name());
    let directory = beside.zip(name).map(|(beside, name)| beside.join(name)).ok_or_else(missing)?;
    let mut files = Vec::with_capacity(secrets.files.len());
    for model::Secret { name, value } in &secrets.files {
        files.push((text(directory.join(name).as_os_str(), "a secret")?, value.0.clone()));
    }
    Ok(child::Secrets { directory: text(directory.as_os_str(), "a path")?, files })
}

/// The limits of every task: no core dumps, which would hold its memory, and few open files at first.
fn rlimits() -> BTreeMap<RlimitKind, Rlimit> {
    let nothing = Rlimit { soft: Some(0), hard: Some(0) };
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let soft = files.maximum.map_or(OPEN_FILES_SOFT, |hard| hard.min(OPEN_FILES_SOFT));
    let files = Rlimit { soft: Some(soft), hard: files.maximum };
    BTreeMap::from([(RlimitKind::Core, nothing), (RlimitKind::OpenFiles, files)])
}

fn rlimit_number(kind: RlimitKind) -> usize {
    let number = match kind {
        RlimitKind::AddressSpace => libc::RLIMIT_AS,
        RlimitKind::Core => libc::RLIMIT_CORE,
        RlimitKind::Cpu => libc::RLIMIT_CPU,
        RlimitKind::Data => libc::RLIMIT_DATA,
        RlimitKind::FileSize => libc::RLIMIT_FSIZE,
        RlimitKind::LockedMemory => libc::RLIMIT_MEMLOCK,
        RlimitKind::MessageQueues => libc::RLIMIT_MSGQUEUE,
        RlimitKind::Nice => libc::RLIMIT_NICE,
        RlimitKind::OpenFiles => libc::RLIMIT_NOFILE,
        RlimitKind::Processes => libc::RLIMIT_NPROC,
        RlimitKind::RealTimePriority => libc::RLIMIT_RTPRIO,
        RlimitKind::RealTimeTimeout => libc::RLIMIT_RTTIME,
        RlimitKind::PendingSignals => libc::RLIMIT_SIGPENDING,
        RlimitKind::Stack => libc::RLIMIT_STACK,
    };
    number as usize
}

/// What a first process and one that joins do not have in common.
struct Part<'a> {
    streams: [OwnedFd; 3],
    /// Of the first, the other end.
    input: Option<OwnedFd>,
    program: Program,
    scene: Scene,
    has_terminal: bool,
    group: Option<&'a LaunchGroup>,
}

/// What is to be executed, for messages.
struct Commands {
    own: String,
    /// By the names of a group's processes.
    members: Vec<(String, String)>,
}

fn shown(argv: &[OsString]) -> String {
    argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a group's init must know; see `agent/init/main.rs`. No command of a task begins with an empty word.
fn init_arguments(group: &LaunchGroup) -> Vec<OsString> {
    let signal = process::stop_number(group.kill_signal).as_raw();
    let essential = |member: &LaunchMember| if member.is_essential { "e" } else { "n" };
    let settings = [String::new(), signal.to_string(), group.kill_grace.as_millis().to_string()];
    let members = group.members.iter().map(essential).map(str::to_owned);
    settings.into_iter().chain(members).map(OsString::from).collect()
}

/// Both ends of a task's input.
struct Input {
    theirs: OwnedFd,
    kept: OwnedFd,
}

/// Makes the pipe anew. The task's user owns it, so that it may open /dev/stdin by name.
fn open_input(path: &Path, identity: &Identity) -> Result<Input, SpawnError> {
    let failed = |source| SpawnError::Open { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600))
        .map_err(|error| failed(error.into()))?;
    // With both ends at once it doesn't wait for another (fifo(7)), and so neither do the two after it.
    let both = open(path, File::options().read(true).write(true))?;
    let owned = std::os::unix::fs::fchown(&both, Some(identity.uid), Some(identity.gid));
    owned.map_err(failed)?;
    Ok(Input {
        theirs: open(path, File::options().read(true))?,
        kept: open(path, File::options().write(true))?,
    })
}

fn prepare(what: &'static str) -> impl Fn(io::Error) -> SpawnError {
    move |source| SpawnError::Prepare { what, source }
}

/// A child before its release; ends when this is dropped first.
struct Waiting {
    process: Process,
    go: Option<OwnedFd>,
    status: OwnedFd,
}

impl Waiting {
    fn release(mut self, commands: &Commands) -> Result<(), ReleaseError> {
        let Some(go) = self.go.take() else { return Err(ReleaseError::Ended) };
        match File::from(go).write_all(b"!") {
            Ok(()) => {}
            // It could not prepare itself, or was killed; the status pipe tells which.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(source) => return Err(ReleaseError::Pipe { source }),
        }
        let answer = self.await_answer(commands);
        if answer.is_err() {
            self.end();
        }
        answer
    }

    /// The pipe closes without a word when the command is there (or the process was killed before,
    /// which its end then tells).
    fn await_answer(&self, commands: &Commands) -> Result<(), ReleaseError> {
        let pipe = |source| ReleaseError::Pipe { source };
        if !process::poll_readable(self.status.as_fd(), RELEASE_PATIENCE).map_err(pipe)? {
            return Err(ReleaseError::TimedOut { seconds: RELEASE_PATIENCE.as_secs() });
        }
        let mut bytes = [0_u8; 8];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&self.status, &mut bytes));
        if count.map_err(|error| pipe(error.into()))? == 0 {
            return Ok(());
        }
        let (number, errno) = process::parse_pair(&bytes).unwrap_or_default();
        let source = io::Error::from_raw_os_error(errno.cast_signed());
        // Above the step stands which process of a group it was, from 1 on.
        let member = usize::try_from(number >> 8).ok().and_then(|number| number.checked_sub(1));
        let member = member.and_then(|place| commands.members.get(place));
        let command = member.map_or(&commands.own, |(_, command)| command).clone();
        let error = match LaunchStep::from_number(number & 0xff) {
            Some(LaunchStep::Exec) => ReleaseError::Exec { command, source },
            Some(step) => ReleaseError::Step { step, source },
            None => return Err(ReleaseError::Ended),
        };
        Err(match member {
            Some((name, _)) => ReleaseError::Member { name: name.clone(), error: Box::new(error) },
            None => error,
        })
    }

    /// Makes sure that the process ends, and reaps it.
    fn end(&mut self) {
        drop(self.go.take());
        let process = &self.process;
        // It ends by itself in microseconds; the signal is for one that hangs in a mount.
        let has_ended = process::poll_readable(process.as_fd(), END_PATIENCE);
        if !has_ended.is_ok_and(|ended| ended) {
            // Nothing better than SIGKILL is left to try.
            let _ = process::signal(process, crate::sys::Signal::Kill);
            let _ = process::poll_readable(process.as_fd(), END_PATIENCE);
        }
        // If it still is no zombie, the caller's `ending` will reap it.
        let _ = process::reap(process.as_fd());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.go.is_some() {
            self.end();
        }
    }
}

/// The init in memory, sealed: tasks execute it, and none can change what the next one executes.
fn sealed_init() -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Since Linux 6.3 it must be said that it is to be executed.
    let made = match rustix::fs::memfd_create(c"muster-init", flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(c"muster-init", flags),
        made => made,
    };
    let mut file = File::from(made?);
    file.write_all(INIT)?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o555))?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    // Read-only from here: what is open for writing can't be executed.
    let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    move_up(readable.into())
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn open(path: &Path, options: &fs::OpenOptions) -> Result<OwnedFd, SpawnError> {
    let file = options.open(path);
    file.map(OwnedFd::from).map_err(|source| SpawnError::Open { path: path.to_owned(), source })
}

/// Out of the way of the numbers that the child gives out.
fn move_up(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= child::DESCRIPTOR_MIN {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, child::DESCRIPTOR_MIN).map_err(|error| match error {
        // As F_DUPFD says of a number beyond RLIMIT_NOFILE (fcntl(2)).
        rustix::io::Errno::INVAL => rustix::io::Errno::MFILE.into(),
        other => other.into(),
    })
}

type Pointers = Vec<usize>;

/// Arguments and environment as `execve` wants them, with their owner.
fn strings(
    argv: &[OsString],
    env: &[(OsString, OsString)],
) -> Result<(Pointers, Pointers, Vec<CString>), SpawnError> {
    let mut strings = Vec::with_capacity(argv.len() + env.len());
    for argument in argv {
        strings.push(text(argument, "an argument")?);
    }
    for (name, value) in env {
        let mut variable = name.as_bytes().to_vec();
        variable.push(b'=');
        variable.extend_from_slice(value.as_bytes());
        let variable = CString::new(variable).map_err(|_| SpawnError::Nul { what: "a variable" })?;
        strings.push(variable);
    }
    // A CString's bytes stay where they are when the CString moves.
    let pointers = |strings: &[CString]| -> Pointers {
        strings.iter().map(|string| string.as_ptr() as usize).chain([0]).collect()
    };
    let (arguments, variables) = strings.split_at(argv.len());
    let (argv, envp) = (pointers(arguments), pointers(variables));
    Ok((argv, envp, strings))
}

/// Where the command may be.
fn places(argv: &[OsString], env: &[(OsString, OsString)]) -> Result<Vec<CString>, SpawnError> {
    let Some(name) = argv.first() else { return Ok(Vec::new()) };
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![text(name, "an argument")?]);
    }
    let path = env.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new(PATH_DEFAULT), |(_, value)| value.as_os_str());
    let mut places = Vec::new();
    for directory in path.as_bytes().split(|byte| *byte == b':') {
        // An empty entry means the working directory.
        let directory = if directory.is_empty() { b"." } else { directory };
        let place = [directory, b"/", name.as_bytes()].concat();
        places.push(CString::new(place).map_err(|_| SpawnError::Nul { what: "a variable" })?);
    }
    Ok(places)
}

fn text(text: &OsStr, what: &'static str) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|_| SpawnError::Nul { what })
}
