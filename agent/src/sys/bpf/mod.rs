//! The kernel programs that count, from the agent's side.
//!
//! Loads and pins them, adopts what an earlier agent left running, and hands out what they counted. Each can
//! fail for itself: then its figures are *unavailable*, with a reason, and the others go on.
//! Never decides anything about tasks. Start at [`Programs::open`]; what is pinned where is in [`pins`].
//!
//! ## Design
//!
//! Programs, links and maps are pinned, so that counting goes on and exits are recorded while no agent runs.
//! What is pinned belongs to one *generation*: the hash of the object and of the map sizes. An agent that finds
//! its own generation adopts it without reading BTF or asking the verifier. Another agent's generation is
//! replaced: new programs are loaded and verified, the keys and figures so far are copied, new programs are
//! attached, old ones detached. Links of tracing programs can't be updated in place, so between copy and attach
//! up to a few milliseconds of CPU time are lost to the meters, once per upgrade; exits are not lost, for both
//! generations record them for a moment.
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_ebpf_common::{ABI, ExitRecord, ProcessKey, Stat};
use aya::{
    EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf},
    programs::{
        BtfTracePoint, Iter, ProgramError,
        links::{FdLink, LinkError, PinnedLink},
    },
};

use self::{
    btf::Btf,
    layout::Layout,
    pins::{Generation, PinFolder},
};
pub use self::{
    health::{Health, MapFill, ProgramHealth},
    oom::{OomEvent, OomEvents, OomStream},
    snapshot::{CgroupSnapshot, MemoryFigures, Snapshot},
};

use crate::sys::{CgroupId, ProcessId};

mod btf;
mod health;
mod layout;
mod oom;
mod pins;
mod snapshot;

/// The programs as `cargo xtask ebpf` built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-ebpf.o"));

/// One of the kernel programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// Charges CPU time to registered cgroups.
    Cpu,
    /// Keeps the exit status of registered processes.
    Exit,
    /// Walks threads for the memory of their cgroup.
    Snap,
    /// Reports victims of the OOM killer.
    Oom,
}

impl Program {
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Exit, Self::Snap, Self::Oom];

    /// Its name in the kernel, in the object and on bpffs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "m_cpu",
            Self::Exit => "m_exit",
            Self::Snap => "m_snap",
            Self::Oom => "m_oom",
        }
    }

    /// What it is attached to: a tracepoint, or for `Snap` the kind of thing that it walks.
    fn target(self) -> &'static str {
        match self {
            Self::Cpu => "sched_stat_runtime",
            Self::Exit => "sched_process_exit",
            Self::Snap => "task",
            Self::Oom => "mark_victim",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a program counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    Attached,
    /// It doesn't, and this is why, in words for the operator.
    Unavailable(String),
}

/// How much the maps hold.
///
/// Map memory is charged to the agent's own cgroup: a registered cgroup costs about 50 bytes and 8 for each CPU,
/// a registered process about 80 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Cgroups registered at the same time: live tasks, and those whose last figures are still to be read.
    pub cgroups: u32,
    /// Processes registered at the same time.
    pub processes: u32,
    /// OOM victims not yet read by the agent. Rounded up to whole pages of the ring buffer.
    pub oom_events: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cgroups: 8192, processes: 8192, oom_events: 1024 }
    }
}

impl Limits {
    /// Size of the ring buffer: a power of two of pages. Each event has a header of 8 bytes.
    fn oom_bytes(&self) -> u32 {
        let event = size_of::<agent_ebpf_common::OomRecord>() as u32 + 8;
        let page = page_bytes() as u32;
        self.oom_events.saturating_mul(event).max(page).checked_next_power_of_two().unwrap_or(1 << 30)
    }
}

/// What went wrong with the programs or their maps.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("can't mount a bpffs on {}", path.display())]
    Mount { path: PathBuf, source: io::Error },
    #[error("can't change the pins in {}", path.display())]
    Pins { path: PathBuf, source: io::Error },
    #[error("can't read the kernel's type information in /sys/kernel/btf/vmlinux")]
    Btf { source: io::Error },
    #[error("can't load the kernel programs")]
    Load { source: Box<aya::EbpfError> },
    #[error("can't use the map {map}")]
    Map { map: &'static str, source: Box<MapError> },
    #[error("can't register more in the map {map}: it holds {capacity} and is full")]
    Full { map: &'static str, capacity: u32 },
    #[error("can't walk the kernel's threads")]
    Snapshot { source: io::Error },
    #[error("can't read a link of the kernel program {program}")]
    Link { program: Program, source: Box<LinkError> },
    #[error("{program} isn't running: {reason}")]
    Unavailable { program: Program, reason: String },
}

/// What the kernel recorded about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// Nobody registered it, or somebody took it out again.
    NotRegistered,
    /// Registered, and not dead since then.
    Running,
    Ended(Exit),
}

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As its parent's `wait` would have it.
    pub status: std::process::ExitStatus,
    /// When its last thread died, since boot.
    pub ended_at: Duration,
}

/// The programs, running, and their maps.
///
/// Cheap calls from any thread: each is a system call or two under a lock that is held for no longer.
pub struct Programs {
    folder: PinFolder,
    generation: Generation,
    limits: Limits,
    availability: [(Program, Availability); 4],
    /// Keeps programs attached even if somebody removes the pins.
    _links: Vec<PinnedLink>,
    cpu_time: Mutex<CpuTime>,
    exits: Mutex<Exits>,
    stats: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, limits, availability, .. } = self;
        f.debug_struct("Programs")
            .field("generation", generation)
            .field("limits", limits)
            .field("availability", availability)
            .finish_non_exhaustive()
    }
}

type CpuTime = PerCpuHashMap<MapData, u64, u64>;
type Exits = HashMap<MapData, ProcessKey, ExitRecord>;

impl Programs {
    /// Loads the programs and pins them in a folder, or adopts what an earlier agent pinned there.
    ///
    /// Fails when nothing at all can work: no bpffs, no type information, no maps. A single program that
    /// can't run is reported by [`Programs::availability`] instead.
    pub fn open(folder: &Path, limits: Limits) -> Result<Self, BpfError> {
        let folder = PinFolder::ensure(folder)?;
        let generation = folder.generation(OBJECT, &limits);
        let is_whole = read_meta(&generation) == Some(ABI);
        if !is_whole {
            generation.create()?;
        }
        let absent: Vec<Program> =
            Program::ALL.into_iter().filter(|program| !generation.link(*program).exists()).collect();
        let mut others = folder.generations()?;
        others.retain(|other| *other != generation);
        let older = if is_whole { &[] } else { others.as_slice() };
        let failed = if absent.is_empty() { Vec::new() } else { load(&generation, &limits, &absent, older)? };
        if !is_whole {
            write_meta(&generation)?;
        }
        for other in &others {
            other.remove()?;
        }
        Self::adopt(folder, generation, limits, failed)
    }

    /// Takes over what is pinned.
    fn adopt(
        folder: PinFolder,
        generation: Generation,
        limits: Limits,
        failed: Vec<(Program, String)>,
    ) -> Result<Self, BpfError> {
        let mut links = Vec::new();
        let availability = Program::ALL.map(|program| {
            if let Some((_, reason)) = failed.iter().find(|(failed, _)| *failed == program) {
                return (program, Availability::Unavailable(reason.clone()));
            }
            match PinnedLink::from_pin(generation.link(program)) {
                Ok(link) => {
                    links.push(link);
                    (program, Availability::Attached)
                }
                Err(error) => (program, Availability::Unavailable(chain(&error))),
            }
        });
        Ok(Self {
            cpu_time: Mutex::new(open_map(&generation, CPU_TIME)?),
            exits: Mutex::new(open_map(&generation, EXITS)?),
            stats: open_map(&generation, STATS)?,
            folder,
            generation,
            limits,
            availability,
            _links: links,
        })
    }

    /// Which programs count, and why the others don't.
    pub fn availability(&self) -> &[(Program, Availability)] {
        &self.availability
    }

    /// Refuses with the reason when a program doesn't run.
    pub fn require(&self, program: Program) -> Result<(), BpfError> {
        match self.availability.iter().find(|(this, _)| *this == program) {
            Some((_, Availability::Unavailable(reason))) => {
                Err(BpfError::Unavailable { program, reason: reason.clone() })
            }
            Some((_, Availability::Attached)) | None => Ok(()),
        }
    }

    /// Starts to count for a v2 cgroup, from zero. Doing it again changes nothing.
    ///
    /// Call it before the first process runs there: what isn't registered is charged to *other*.
    pub fn register_cgroup(&self, cgroup: CgroupId) -> Result<(), BpfError> {
        let zeros = zeros().map_err(|source| BpfError::Btf { source })?;
        let inserted = lock(&self.cpu_time).insert(cgroup.0, zeros, NO_EXIST);
        self.check_insert(CPU_TIME, self.limits.cgroups, inserted)
    }

    /// Forgets a cgroup and its figures. Read them first.
    pub fn unregister_cgroup(&self, cgroup: CgroupId) -> Result<(), BpfError> {
        check_remove(CPU_TIME, lock(&self.cpu_time).remove(&cgroup.0))
    }

    /// CPU time that a registered cgroup has used, exact to the last report of the scheduler.
    ///
    /// `None` when it isn't registered, or nobody counts.
    pub fn cpu_ns(&self, cgroup: CgroupId) -> Result<Option<u64>, BpfError> {
        if self.require(Program::Cpu).is_err() {
            return Ok(None);
        }
        let per_cpu = found(CPU_TIME, lock(&self.cpu_time).get(&cgroup.0, 0))?;
        Ok(per_cpu.map(|per_cpu| per_cpu.iter().sum()))
    }

    /// Which cgroups are registered; after an agent's restart, what the earlier one left.
    pub fn cgroups(&self) -> Result<Vec<CgroupId>, BpfError> {
        let keys: Result<_, MapError> = lock(&self.cpu_time).keys().map(|key| key.map(CgroupId)).collect();
        keys.map_err(|source| map_error(CPU_TIME, source))
    }

    /// Keeps the exit status of a process for whoever asks later. Doing it again changes nothing.
    ///
    /// Must happen while the process can't die unseen: before its parent waits for it.
    pub fn register_process(&self, process: ProcessId) -> Result<(), BpfError> {
        self.require(Program::Exit)?;
        let inserted = lock(&self.exits).insert(key_of(process), ExitRecord::default(), NO_EXIST);
        self.check_insert(EXITS, self.limits.processes, inserted)
    }

    /// What the kernel recorded about a process, also while no agent ran.
    pub fn process_state(&self, process: ProcessId) -> Result<ProcessState, BpfError> {
        let record = found(EXITS, lock(&self.exits).get(&key_of(process), 0))?;
        Ok(record.map_or(ProcessState::NotRegistered, state_of))
    }

    /// Forgets a process. Record its exit status elsewhere first.
    pub fn unregister_process(&self, process: ProcessId) -> Result<(), BpfError> {
        check_remove(EXITS, lock(&self.exits).remove(&key_of(process)))
    }

    /// Every registered process and how it fares; after an agent's restart, what the earlier one left.
    pub fn processes(&self) -> Result<Vec<(ProcessId, ProcessState)>, BpfError> {
        let records: Result<Vec<_>, MapError> = lock(&self.exits).iter().collect();
        let records = records.map_err(|source| map_error(EXITS, source))?;
        let process = |key: ProcessKey| ProcessId { pid: key.tgid, start_ticks: key.start_ticks };
        Ok(records.into_iter().map(|(key, record)| (process(key), state_of(record))).collect())
    }

    /// Walks all threads now. Costs about 2 µs for each thread on the machine.
    pub fn snapshot(&self) -> Result<Snapshot, BpfError> {
        self.require(Program::Snap)?;
        snapshot::take(&self.generation.link(Program::Snap))
    }

    /// The stream of OOM victims. There is one: two readers would share its events between them.
    pub fn oom_events(&self) -> Result<OomEvents, BpfError> {
        self.require(Program::Oom)?;
        let ring: RingBuf<MapData> = open_map(&self.generation, OOM_EVENTS)?;
        Ok(OomEvents::new(ring))
    }

    /// How often each verdict was given, since the programs were loaded.
    pub fn count(&self, stat: Stat) -> Result<u64, BpfError> {
        let per_cpu = self.stats.get(&(stat as u32), 0).map_err(|source| map_error(STATS, source))?;
        Ok(per_cpu.iter().sum())
    }

    /// How the programs themselves fare.
    pub fn health(&self) -> Result<Health, BpfError> {
        health::examine(self)
    }

    /// Detaches everything, removes every pin, and unmounts what we mounted: nothing of us remains.
    ///
    /// Somebody who holds no `Programs` does the same with [`remove`].
    pub fn remove(self) -> Result<(), BpfError> {
        self.folder.remove()
    }

    fn check_insert(
        &self,
        map: &'static str,
        capacity: u32,
        inserted: Result<(), MapError>,
    ) -> Result<(), BpfError> {
        match inserted {
            Ok(()) => Ok(()),
            Err(error) if errno(&error) == Some(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) if errno(&error) == Some(rustix::io::Errno::TOOBIG) => {
                Err(BpfError::Full { map, capacity })
            }
            Err(source) => Err(map_error(map, source)),
        }
    }
}

/// Removes what any agent pinned in a folder, attached or not. Nothing there is no error.
pub fn remove(folder: &Path) -> Result<(), BpfError> {
    PinFolder::find(folder).remove()
}

/// Has the kernel measure every program's runs and time, for as long as the answer is held.
///
/// Costs each run of each program on the machine some 20 ns.
pub fn measure_runs() -> io::Result<impl Sized> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| error.io_error)
}

const CPU_TIME: &str = "CPU_TIME";
const EXITS: &str = "EXITS";
const OOM_EVENTS: &str = "OOM_EVENTS";
const STATS: &str = "STATS";
const META: &str = "META";

/// `BPF_NOEXIST`: insert, but don't replace.
const NO_EXIST: u64 = 1;

/// Loads and attaches programs into a generation; returns those that can't be, with the reason.
fn load(
    generation: &Generation,
    limits: &Limits,
    programs: &[Program],
    older: &[Generation],
) -> Result<Vec<(Program, String)>, BpfError> {
    let types = Btf::of_running_kernel().map_err(|source| BpfError::Btf { source })?;
    let layout = Layout::find(&types);
    drop(types);
    let btf = aya::Btf::from_sys_fs().map_err(|source| BpfError::Btf { source: io::Error::other(source) })?;

    let mut loader = EbpfLoader::new();
    loader
        .override_global("OFFSETS", &layout.offsets, true)
        .map_max_entries(CPU_TIME, limits.cgroups)
        .map_max_entries(EXITS, limits.processes)
        .map_max_entries(OOM_EVENTS, limits.oom_bytes());
    for map in [CPU_TIME, EXITS, OOM_EVENTS, STATS, META] {
        loader.map_pin_path(map, generation.map(map));
    }
    let mut object = loader.load(OBJECT).map_err(|source| BpfError::Load { source: Box::new(source) })?;

    let mut failed = Vec::new();
    let mut loaded = Vec::new();
    for program in programs.iter().copied() {
        let verdict = match layout.missing(program).map(str::to_owned).or_else(|| unfit_namespace(program)) {
            Some(reason) => Err(reason),
            None => verify(&mut object, program, &btf).map_err(|error| chain(&error)),
        };
        match verdict {
            Ok(()) => loaded.push(program),
            Err(reason) => failed.push((program, reason)),
        }
    }
    for old in older {
        copy_figures(old, generation)?;
    }
    for program in loaded {
        if let Err(error) = attach(&mut object, program, generation) {
            failed.push((program, chain(&*error)));
        }
    }
    for old in older {
        old.detach()?;
        copy_exits(old, generation)?;
    }
    Ok(failed)
}

/// Has the kernel verify a program.
fn verify(object: &mut aya::Ebpf, program: Program, btf: &aya::Btf) -> Result<(), ProgramError> {
    let loaded = object.program_mut(program.name()).ok_or(ProgramError::NotLoaded)?;
    if program == Program::Snap {
        let iter: &mut Iter = loaded.try_into()?;
        return iter.load(program.target(), btf);
    }
    let tracepoint: &mut BtfTracePoint = loaded.try_into()?;
    tracepoint.load(program.target(), btf)
}

/// Attaches a verified program and pins it with its link.
fn attach(
    object: &mut aya::Ebpf,
    program: Program,
    generation: &Generation,
) -> Result<(), Box<dyn std::error::Error>> {
    // Left by an agent that ended between the two pins.
    generation.forget(program)?;
    let loaded = object.program_mut(program.name()).ok_or(ProgramError::NotLoaded)?;
    let link: FdLink = if program == Program::Snap {
        let iter: &mut Iter = loaded.try_into()?;
        iter.pin(generation.program(program))?;
        let id = iter.attach()?;
        iter.take_link(id)?.try_into()?
    } else {
        let tracepoint: &mut BtfTracePoint = loaded.try_into()?;
        tracepoint.pin(generation.program(program))?;
        let id = tracepoint.attach()?;
        tracepoint.take_link(id)?.into()
    };
    link.pin(generation.link(program))?;
    Ok(())
}

/// Why a program would count wrongly in the namespaces that we are in.
fn unfit_namespace(program: Program) -> Option<String> {
    if program != Program::Exit {
        return None;
    }
    // Pids and start times in the kernel's records are those of the initial namespaces, whose inode numbers
    // are fixed (`include/uapi/linux/nsfs.h`; the same since they exist).
    for (kind, initial) in [("pid", "pid:[4026531836]"), ("time", "time:[4026531834]")] {
        let here = std::fs::read_link(format!("/proc/self/ns/{kind}"));
        if here.is_ok_and(|here| here.as_os_str() != initial) {
            return Some(format!("the agent runs in a {kind} namespace of its own"));
        }
    }
    None
}

/// Takes the keys and figures of an older generation over into one whose programs aren't attached yet.
///
/// Only a generation of the same ABI can be read. Nothing counts into the new maps yet, so nothing is overwritten.
fn copy_figures(old: &Generation, new: &Generation) -> Result<(), BpfError> {
    if read_meta(old) != Some(ABI) {
        return Ok(());
    }
    let from: CpuTime = open_map(old, CPU_TIME)?;
    let mut to: CpuTime = open_map(new, CPU_TIME)?;
    for entry in from.iter() {
        let (cgroup_id, figures) = entry.map_err(|source| map_error(CPU_TIME, source))?;
        to.insert(cgroup_id, figures, 0).map_err(|source| map_error(CPU_TIME, source))?;
    }
    copy_exits(old, new)
}

/// Takes over registered processes, and exits that only the older generation saw.
fn copy_exits(old: &Generation, new: &Generation) -> Result<(), BpfError> {
    if read_meta(old) != Some(ABI) {
        return Ok(());
    }
    let from: Exits = open_map(old, EXITS)?;
    let mut to: Exits = open_map(new, EXITS)?;
    for entry in from.iter() {
        let (process, record) = entry.map_err(|source| map_error(EXITS, source))?;
        let is_news = record.ended != 0 || found(EXITS, to.get(&process, 0))?.is_none();
        if is_news {
            to.insert(process, record, 0).map_err(|source| map_error(EXITS, source))?;
        }
    }
    Ok(())
}

/// The ABI of a generation that was finished; `None` for one that wasn't.
fn read_meta(generation: &Generation) -> Option<u64> {
    let meta: Array<MapData, u64> = open_map(generation, META).ok()?;
    meta.get(&0, 0).ok().filter(|abi| *abi != 0)
}

/// Marks a generation as whole.
fn write_meta(generation: &Generation) -> Result<(), BpfError> {
    let mut meta: Array<MapData, u64> = open_map(generation, META)?;
    meta.set(0, ABI, 0).map_err(|source| map_error(META, source))
}

/// Opens a pinned map as a type that fits it.
fn open_map<M: TryFrom<Map, Error = MapError>>(
    generation: &Generation,
    map: &'static str,
) -> Result<M, BpfError> {
    MapData::from_pin(generation.map(map))
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(|source| map_error(map, source))
}

fn key_of(process: ProcessId) -> ProcessKey {
    ProcessKey { tgid: process.pid, reserved: 0, start_ticks: process.start_ticks }
}

fn state_of(record: ExitRecord) -> ProcessState {
    use std::os::unix::process::ExitStatusExt as _;
    if record.ended & ExitRecord::ENDED == 0 {
        return ProcessState::Running;
    }
    let status = std::process::ExitStatus::from_raw(record.ended as u32 as i32);
    ProcessState::Ended(Exit { status, ended_at: Duration::from_nanos(record.ended_at_ns) })
}

fn zeros() -> io::Result<PerCpuValues<u64>> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    PerCpuValues::try_from(vec![0; cpus])
}

/// The unit of the kernel's page counters.
fn page_bytes() -> u64 {
    use nix::unistd::{SysconfVar, sysconf};
    // The call can't fail for this variable; every kernel since 2.0 tells the program its page size.
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

/// Absence is an answer, not an error.
fn found<V>(map: &'static str, result: Result<V, MapError>) -> Result<Option<V>, BpfError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(map_error(map, source)),
    }
}

fn check_remove(map: &'static str, removed: Result<(), MapError>) -> Result<(), BpfError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(rustix::io::Errno::NOENT) => Ok(()),
        Err(source) => Err(map_error(map, source)),
    }
}

fn errno(error: &MapError) -> Option<rustix::io::Errno> {
    match error {
        MapError::SyscallError(error) => rustix::io::Errno::from_io_error(&error.io_error),
        _ => None,
    }
}

fn map_error(map: &'static str, source: MapError) -> BpfError {
    BpfError::Map { map, source: Box::new(source) }
}

/// An error with its causes, in one line. The verifier's log may be long; its end says why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    const KEPT: usize = 400;
    match text.char_indices().rev().nth(KEPT) {
        Some((start, _)) if text.len() > 2 * KEPT => format!("... {}", text[start..].trim()),
        _ => text,
    }
}

/// A thread that panicked under the lock left the map as the kernel has it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
