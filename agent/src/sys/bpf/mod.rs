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
    collections::BTreeMap,
    fmt, fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_ebpf_common::{ABI, BlockFigures, CgroupFigures, ExitRecord, PortRules, ProcessKey, Stat};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf},
    programs::links::LinkError,
};

pub use agent_ebpf_common::PortHow;

pub(in crate::sys) use self::raw::numbers_of;
pub use self::{
    figures::{Block, Connections, Counted, IoBytes, Network, Operations, Reclaim, RunQueue, Used},
    health::{Health, MapFill, ProgramHealth},
    oom::OomEvent,
    ports::{PortEvent, PortPolicy},
    program::{Measure, Measures, Program},
    sampler::{Sampler, Stack, can_sample},
    snapshot::{CgroupSnapshot, MemoryFigures, Snapshot},
    stream::{EventStream, Events, Record},
};
use self::{
    load::Held,
    pins::{Generation, PinFolder},
};

use crate::sys::{CgroupId, ProcessId};

pub(in crate::sys) mod btf;
mod figures;
mod health;
pub(in crate::sys) mod layout;
mod load;
pub(in crate::sys) mod oom;
pub(in crate::sys) mod pins;
pub(in crate::sys) mod ports;
mod program;
#[expect(unsafe_code, reason = "a call of bpf(2) that no safe function makes")]
mod raw;
pub(in crate::sys) mod sampler;
pub(in crate::sys) mod snapshot;
pub(in crate::sys) mod stream;

/// The programs as `cargo xtask ebpf` built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-ebpf.o"));

/// Whether a program counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    Attached,
    /// It doesn't, because the operator doesn't want it.
    Off,
    /// It doesn't, and this is why, in words for the operator.
    Unavailable(String),
}

/// How much the maps hold.
///
/// Map memory is charged to the agent's own cgroup. Room for a cgroup costs about 50 bytes and 8 for each CPU, and
/// one that is registered 0.4 KiB more for each CPU (0.9 where block requests are charged to it); room for a process
/// costs about 80 bytes. What doesn't depend on these is about 0.3 MiB.
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

/// Most block devices whose requests are counted; a host with more knows what it does without our help.
const DEVICES_MAX: u32 = 512;

/// What to run, and how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub limits: Limits,
    pub measures: Measures,
    /// The v2 cgroup above those that will be registered; packets are counted below it alone.
    pub cgroup: Option<PathBuf>,
    /// Whether the kernel charges block requests to the cgroups that will be registered.
    pub charges_block_io: bool,
    /// Whether ports are guarded, of those cgroups that [`Programs::guard_ports`] names.
    pub guards_ports: bool,
}

impl Options {
    fn want(&self, program: Program) -> bool {
        if program.guards_ports() { self.guards_ports } else { self.measures.want(program) }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            measures: Measures::ALL,
            cgroup: None,
            charges_block_io: false,
            guards_ports: false,
        }
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
    #[error("can't tell how many CPUs this machine may have")]
    Cpus { source: io::Error },
    #[error("can't pin the map {map} again")]
    Pin { map: &'static str, source: Box<aya::pin::PinError> },
    #[error("can't use the map {map}")]
    Map { map: &'static str, source: Box<MapError> },
    #[error("can't register more in the map {map}: it holds {capacity} and is full")]
    Full { map: &'static str, capacity: u32 },
    #[error("can't walk the kernel's threads")]
    Snapshot { source: io::Error },
    #[error("can't take stacks: {reason}")]
    Sample { reason: String },
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
    options: Options,
    running: Mutex<Running>,
    cpu_time: Mutex<CpuTime>,
    figures: Mutex<Figures>,
    block: Mutex<BlockByCgroup>,
    devices: Mutex<BlockByDevice>,
    exits: Mutex<Exits>,
    port_rules: Mutex<Ports>,
    stats: PerCpuArray<MapData, u64>,
    /// Every map once more, to pin it again.
    maps: Vec<(&'static str, MapData)>,
}

/// What is attached now.
struct Running {
    held: Vec<Held>,
    failed: BTreeMap<Program, String>,
}

/// A program that somebody had detached or unpinned, and that runs again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    pub program: Program,
    pub damage: &'static str,
    /// Why it doesn't run again after all.
    pub failed: Option<String>,
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, options, .. } = self;
        f.debug_struct("Programs")
            .field("generation", generation)
            .field("options", options)
            .field("availability", &self.availability())
            .finish_non_exhaustive()
    }
}

type CpuTime = PerCpuHashMap<MapData, u64, u64>;
type Figures = PerCpuHashMap<MapData, u64, CgroupFigures>;
type BlockByCgroup = PerCpuHashMap<MapData, u64, BlockFigures>;
type BlockByDevice = PerCpuHashMap<MapData, u32, BlockFigures>;
type Exits = HashMap<MapData, ProcessKey, ExitRecord>;
type Ports = HashMap<MapData, u64, PortRules>;

impl Programs {
    /// Loads the programs and pins them in a folder, or adopts what an earlier agent pinned there.
    ///
    /// Fails when nothing at all can work: no bpffs, no type information, no maps. A single program that
    /// can't run is reported by [`Programs::availability`] instead.
    pub fn open(folder: &Path, options: Options) -> Result<Self, BpfError> {
        let is_new = !folder.exists();
        let half = PinFolder::find(folder).generation(OBJECT, &options.limits);
        let opened = PinFolder::ensure(folder).and_then(|pins| Self::open_in(pins, options));
        if opened.is_err() {
            // The first error is the story; what can't be removed now is tried again at the agent's end.
            if is_new {
                let _ = remove(folder);
            } else if read_meta(&half).is_none() {
                let _ = half.remove();
            }
        }
        opened
    }

    fn open_in(folder: PinFolder, options: Options) -> Result<Self, BpfError> {
        let generation = folder.generation(OBJECT, &options.limits);
        let is_whole = read_meta(&generation) == Some(ABI);
        if !is_whole {
            generation.create()?;
        }
        let mut held = Vec::new();
        let mut absent = Vec::new();
        for program in Program::ALL {
            if !options.want(program) {
                generation.forget(program)?;
                continue;
            }
            match Held::find(&generation, program, &options) {
                Ok(found) => held.push(found),
                Err(_absent) => absent.push(program),
            }
        }
        let mut others = folder.generations()?;
        others.retain(|other| *other != generation);
        let older = if is_whole { &[] } else { others.as_slice() };
        let mut failed = BTreeMap::new();
        if !absent.is_empty() {
            failed.extend(load::load(&generation, &options, &absent, older, |_| {})?);
        }
        if !is_whole {
            write_meta(&generation)?;
        }
        for other in &others {
            other.remove()?;
        }
        for program in absent {
            hold(&generation, program, &options, &mut held, &mut failed);
        }
        let maps: Result<Vec<_>, BpfError> = MAPS
            .iter()
            .map(|map| {
                let data = MapData::from_pin(generation.map(map)).map_err(|source| map_error(map, source))?;
                Ok((*map, data))
            })
            .collect();
        let programs = Self {
            running: Mutex::new(Running { held, failed }),
            cpu_time: Mutex::new(open_map(&generation, CPU_TIME)?),
            figures: Mutex::new(open_map(&generation, FIGURES)?),
            block: Mutex::new(open_map(&generation, BLOCK)?),
            devices: Mutex::new(open_map(&generation, DEVICES)?),
            exits: Mutex::new(open_map(&generation, EXITS)?),
            port_rules: Mutex::new(open_map(&generation, PORT_RULES)?),
            stats: open_map(&generation, STATS)?,
            maps: maps?,
            folder,
            generation,
            options,
        };
        programs.look_for_devices()?;
        Ok(programs)
    }

    /// Which programs count, and why the others don't.
    pub fn availability(&self) -> Vec<(Program, Availability)> {
        let running = lock(&self.running);
        let availability = |program: Program| {
            if running.held.iter().any(|held| held.program == program) {
                return Availability::Attached;
            }
            match running.failed.get(&program) {
                Some(reason) => Availability::Unavailable(reason.clone()),
                None => Availability::Off,
            }
        };
        Program::ALL.into_iter().map(|program| (program, availability(program))).collect()
    }

    /// Refuses with the reason when a program doesn't run.
    pub fn require(&self, program: Program) -> Result<(), BpfError> {
        let running = lock(&self.running);
        if running.held.iter().any(|held| held.program == program) {
            return Ok(());
        }
        let off = || match program.guards_ports() {
            true => "it is switched off (setting `port-policy` is off)".to_owned(),
            false => format!("it is switched off (setting `measures` is {})", self.options.measures),
        };
        let reason = running.failed.get(&program).cloned().unwrap_or_else(off);
        Err(BpfError::Unavailable { program, reason })
    }

    /// Looks whether somebody detached or unpinned anything, and puts it back.
    ///
    /// Cheap when nothing is wrong. A program that must be attached anew misses what happens for some microseconds;
    /// one whose link was detached missed what happened since.
    pub fn mend(&self) -> Result<Vec<Mended>, BpfError> {
        let mut running = lock(&self.running);
        let damaged: Vec<(Program, &'static str)> = running
            .held
            .iter()
            .filter_map(|held| Some((held.program, held.damage(&self.generation, &self.options)?)))
            .collect();
        let is_unpinned = |name: &str| !self.generation.map(name).exists();
        if damaged.is_empty() && !self.maps.iter().any(|(name, _)| is_unpinned(name)) {
            return Ok(Vec::new());
        }
        self.folder.restore(&self.generation)?;
        for (name, map) in self.maps.iter().filter(|(name, _)| is_unpinned(name)) {
            let pinned = map.pin(self.generation.map(name));
            pinned.map_err(|source| BpfError::Pin { map: name, source: Box::new(source) })?;
        }
        if damaged.is_empty() {
            return Ok(Vec::new());
        }
        let programs: Vec<Program> = damaged.iter().map(|(program, _)| *program).collect();
        let Running { held, failed } = &mut *running;
        let refused = load::load(&self.generation, &self.options, &programs, &[], |program| {
            held.retain(|held| held.program != program);
        })?;
        failed.extend(refused);
        for program in &programs {
            hold(&self.generation, *program, &self.options, held, failed);
        }
        let mended = |(program, damage)| Mended { program, damage, failed: failed.get(&program).cloned() };
        Ok(damaged.into_iter().map(mended).collect())
    }

    /// Starts to count for a v2 cgroup, from zero. Doing it again changes nothing.
    ///
    /// Call it before the first process runs there: what isn't registered is charged to *other*.
    pub fn register_cgroup(&self, cgroup: CgroupId) -> Result<(), BpfError> {
        let capacity = self.options.limits.cgroups;
        // The last of these is what makes it registered.
        let inserted = lock(&self.figures).insert(cgroup.0, zeros()?, NO_EXIST);
        check_insert(FIGURES, capacity, inserted)?;
        if self.options.charges_block_io {
            let inserted = lock(&self.block).insert(cgroup.0, zeros()?, NO_EXIST);
            check_insert(BLOCK, capacity, inserted)?;
        }
        let inserted = lock(&self.cpu_time).insert(cgroup.0, zeros()?, NO_EXIST);
        check_insert(CPU_TIME, capacity, inserted)
    }

    /// Forgets a cgroup and its figures. Read them first.
    pub fn unregister_cgroup(&self, cgroup: CgroupId) -> Result<(), BpfError> {
        check_remove(CPU_TIME, lock(&self.cpu_time).remove(&cgroup.0))?;
        check_remove(BLOCK, lock(&self.block).remove(&cgroup.0))?;
        check_remove(FIGURES, lock(&self.figures).remove(&cgroup.0))?;
        self.unguard_ports(cgroup)
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

    /// Everything else that was counted for a registered cgroup; `None` when it isn't registered.
    pub fn counted(&self, cgroup: CgroupId) -> Result<Option<Counted>, BpfError> {
        let Some(per_cpu) = found(FIGURES, lock(&self.figures).get(&cgroup.0, 0))? else { return Ok(None) };
        let mut counted = figures::of_cpus(&per_cpu);
        if self.options.charges_block_io {
            let per_cpu = found(BLOCK, lock(&self.block).get(&cgroup.0, 0))?;
            counted.block = per_cpu.map(|per_cpu| figures::block_of_cpus(&per_cpu));
        }
        let runs = |programs: &[Program]| programs.iter().all(|program| self.require(*program).is_ok());
        let only = |programs: &[Program]| runs(programs).then_some(());
        use Program::{
            Block, Connect, DirectIn, DirectOut, Exec, Exit, Fork, MemcgIn, MemcgOut, NetIn, NetOut,
            Retransmit, Switch, Wakeup, WakeupNew,
        };
        let Counted { run_queue, network, connections, retransmits, forks, execs, reclaim, block, ended } =
            counted;
        Ok(Some(Counted {
            run_queue: only(&[Wakeup, WakeupNew, Switch]).and(run_queue),
            network: only(&[NetIn, NetOut]).and(network),
            connections: only(&[Connect]).and(connections),
            retransmits: only(&[Retransmit]).and(retransmits),
            forks: only(&[Fork]).and(forks),
            execs: only(&[Exec]).and(execs),
            reclaim: only(&[DirectIn, DirectOut, MemcgIn, MemcgOut]).and(reclaim),
            block: only(&[Block]).and(block),
            ended: only(&[Exit]).and(ended),
        }))
    }

    /// Starts to count for block devices that came since the last look. Those that went are forgotten.
    pub fn look_for_devices(&self) -> Result<(), BpfError> {
        let present: BTreeMap<u32, String> = block_devices().into_iter().take(DEVICES_MAX as usize).collect();
        let mut devices = lock(&self.devices);
        let known: Result<Vec<u32>, MapError> = devices.keys().collect();
        let known = known.map_err(|source| map_error(DEVICES, source))?;
        for gone in known.iter().filter(|number| !present.contains_key(number)) {
            check_remove(DEVICES, devices.remove(gone))?;
        }
        for number in present.keys() {
            check_insert(DEVICES, DEVICES_MAX, devices.insert(*number, zeros()?, NO_EXIST))?;
        }
        Ok(())
    }

    /// Requests of each block device that had any, by its name; `None` when nobody counts them.
    pub fn devices(&self) -> Result<Option<BTreeMap<String, Block>>, BpfError> {
        if self.require(Program::Block).is_err() {
            return Ok(None);
        }
        let names = block_devices();
        let mut devices = BTreeMap::new();
        for entry in lock(&self.devices).iter() {
            let (number, per_cpu) = entry.map_err(|source| map_error(DEVICES, source))?;
            let block = figures::block_of_cpus(&per_cpu);
            if let Some(name) = names.get(&number)
                && block != Block::default()
            {
                devices.insert(name.clone(), block);
            }
        }
        Ok(Some(devices))
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
        check_insert(EXITS, self.options.limits.processes, inserted)
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
    pub fn oom_events(&self) -> Result<Events<OomEvent>, BpfError> {
        self.require(Program::Oom)?;
        let ring: RingBuf<MapData> = open_map(&self.generation, OOM_EVENTS)?;
        Ok(Events::new(ring))
    }

    /// The stream of ports used and not declared. There is one, as above.
    pub fn port_events(&self) -> Result<Events<PortEvent>, BpfError> {
        self.require(Program::Bind4)?;
        let ring: RingBuf<MapData> = open_map(&self.generation, PORT_EVENTS)?;
        Ok(Events::new(ring))
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
}

/// Takes hold of a program that was just attached, unless it couldn't be.
fn hold(
    generation: &Generation,
    program: Program,
    options: &Options,
    held: &mut Vec<Held>,
    failed: &mut BTreeMap<Program, String>,
) {
    if failed.contains_key(&program) {
        return;
    }
    match Held::find(generation, program, options) {
        Ok(found) => held.push(found),
        Err(what) => {
            failed.insert(program, what.to_owned());
        }
    }
}

/// Whole block devices: their numbers as the kernel keeps them (`MKDEV`), with their names.
fn block_devices() -> BTreeMap<u32, String> {
    // A host without the folder has no block devices to count for.
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let device = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        let number = major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?;
        Some((number, entry.file_name().into_string().ok()?))
    };
    entries.filter_map(device).collect()
}

fn check_insert(map: &'static str, capacity: u32, inserted: Result<(), MapError>) -> Result<(), BpfError> {
    match inserted {
        Ok(()) => Ok(()),
        Err(error) if errno(&error) == Some(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) if errno(&error) == Some(rustix::io::Errno::TOOBIG) => {
            Err(BpfError::Full { map, capacity })
        }
        Err(source) => Err(map_error(map, source)),
    }
}

/// Removes what any agent pinned in a folder, attached or not. Nothing there is no error.
pub fn remove(folder: &Path) -> Result<(), BpfError> {
    PinFolder::find(folder).remove()
}

/// Has the kernel measure every program's runs and time, for as long as the answer is held.
///
/// Costs each run of each program on the machine some 20 ns.
pub fn measure_runs() -> io::Result<Measuring> {
    let measuring = aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| error.io_error)?;
    Ok(Measuring { _fd: measuring })
}

/// While it lives, the kernel measures.
#[derive(Debug)]
pub struct Measuring {
    _fd: OwnedFd,
}

const CPU_TIME: &str = "CPU_TIME";
const FIGURES: &str = "FIGURES";
const BLOCK: &str = "BLOCK";
const DEVICES: &str = "DEVICES";
const QUEUED: &str = "QUEUED";
const RECLAIMING: &str = "RECLAIMING";
const EXITS: &str = "EXITS";
const OOM_EVENTS: &str = "OOM_EVENTS";
const STATS: &str = "STATS";
const PORT_RULES: &str = "PORT_RULES";
const PORT_EVENTS: &str = "PORT_EVENTS";
const META: &str = "META";

/// All of them.
const MAPS: [&str; 12] = [
    CPU_TIME,
    FIGURES,
    BLOCK,
    DEVICES,
    QUEUED,
    RECLAIMING,
    EXITS,
    OOM_EVENTS,
    PORT_RULES,
    PORT_EVENTS,
    STATS,
    META,
];

/// News of ports that wait for the agent: a thousand, before some are lost and counted.
const PORT_EVENT_BYTES: u32 = 32 << 10;

/// `BPF_NOEXIST`: insert, but don't replace.
const NO_EXIST: u64 = 1;

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

/// A fresh value for a map that keeps one for each CPU.
fn zeros<V: Pod + Default>() -> Result<PerCpuValues<V>, BpfError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| BpfError::Cpus { source })?;
    PerCpuValues::try_from(vec![V::default(); cpus]).map_err(|source| BpfError::Cpus { source })
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
