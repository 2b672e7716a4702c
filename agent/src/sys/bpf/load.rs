//! Loading, attaching and replacing the programs of a generation.
//!
//! What is attached is *held*: its descriptor keeps it running even if somebody removes the pins.
use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use agent_ebpf_common::{ABI, ABI_SAME_REGISTRATIONS, CgroupFigures};
use aya::{
    EbpfLoader, Pod,
    maps::{MapData, PerCpuHashMap},
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, Iter, ProgramError,
        ProgramInfo, links::FdLink,
    },
};

use super::{
    BLOCK, BpfError, CPU_TIME, DEVICES, EXITS, Exits, FIGURES, MAPS, OOM_EVENTS, Options, PORT_EVENT_BYTES,
    PORT_EVENTS, PORT_RULES, Program, QUEUED, btf::Btf, chain, found, layout::Layout, map_error, open_map,
    pins::Generation, program::Kind, raw, read_meta, zeros,
};

/// An attached program.
#[derive(Debug)]
pub struct Held {
    pub program: Program,
    link_id: u64,
    _link: OwnedFd,
}

impl Held {
    /// Takes hold of what is pinned, if it is attached where it should be.
    ///
    /// Otherwise says what is wrong with it.
    pub fn find(generation: &Generation, program: Program, options: &Options) -> Result<Self, &'static str> {
        let link = raw::open_pin(&generation.link(program)).map_err(|_absent| "its link isn't pinned")?;
        let pinned =
            ProgramInfo::from_pin(generation.program(program)).map_err(|_absent| "it isn't pinned")?;
        let numbers = raw::numbers_of(&link);
        let number = |name: &str| numbers.get(name).copied();
        if number("prog_id") != Some(pinned.id().into()) {
            return Err("another program is pinned in its place");
        }
        let is_of_cgroup = matches!(program.kind(), Kind::Ingress | Kind::Egress | Kind::Bind);
        // The kernel says 0 for a link that was detached, or whose cgroup is gone.
        if is_of_cgroup && number("cgroup_id") != options.cgroup.as_deref().and_then(cgroup_id) {
            return Err("it isn't attached to the tasks' cgroup");
        }
        Ok(Self { program, link_id: number("link_id").unwrap_or_default(), _link: link })
    }

    /// What somebody did to it since, if anything.
    pub fn damage(&self, generation: &Generation, options: &Options) -> Option<&'static str> {
        match Self::find(generation, self.program, options) {
            Ok(now) if now.link_id == self.link_id => None,
            Ok(_other) => Some("another link is pinned in its place"),
            Err(what) => Some(what),
        }
    }
}

fn cgroup_id(path: &Path) -> Option<u64> {
    fs::metadata(path).map(|data| data.ino()).ok()
}

/// Loads and attaches programs into a generation; returns those that can't be, with the reason.
///
/// `release` is told of each program right before it is attached anew.
pub fn load(
    generation: &Generation,
    options: &Options,
    programs: &[Program],
    older: &[Generation],
    mut release: impl FnMut(Program),
) -> Result<Vec<(Program, String)>, BpfError> {
    let types = Btf::of_running_kernel().map_err(|source| BpfError::Btf { source })?;
    let mut layout = Layout::find(&types);
    drop(types);
    layout.offsets.block_is_unified = u32::from(options.charges_block_io);
    let btf = aya::Btf::from_sys_fs().map_err(|source| BpfError::Btf { source: io::Error::other(source) })?;

    let limits = &options.limits;
    let mut loader = EbpfLoader::new();
    loader
        .override_global("OFFSETS", &layout.offsets, true)
        .map_max_entries(CPU_TIME, limits.cgroups)
        .map_max_entries(FIGURES, limits.cgroups)
        .map_max_entries(BLOCK, limits.cgroups)
        .map_max_entries(DEVICES, super::DEVICES_MAX)
        .map_max_entries(QUEUED, agent_ebpf_common::QUEUED_SLOTS)
        .map_max_entries(EXITS, limits.processes)
        .map_max_entries(OOM_EVENTS, limits.oom_bytes())
        .map_max_entries(PORT_RULES, limits.cgroups)
        .map_max_entries(PORT_EVENTS, PORT_EVENT_BYTES);
    for map in MAPS {
        loader.map_pin_path(map, generation.map(map));
    }
    let mut object =
        loader.load(super::OBJECT).map_err(|source| BpfError::Load { source: Box::new(source) })?;

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
        release(program);
        if let Err(error) = attach(&mut object, program, generation, options) {
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
    match program.kind() {
        Kind::TaskIterator => {
            let iter: &mut Iter = loaded.try_into()?;
            iter.load("task", btf)
        }
        Kind::Tracepoint(name) => {
            let tracepoint: &mut BtfTracePoint = loaded.try_into()?;
            tracepoint.load(name, btf)
        }
        Kind::Ingress | Kind::Egress => {
            let filter: &mut CgroupSkb = loaded.try_into()?;
            filter.load()
        }
        Kind::Bind => {
            let guard: &mut CgroupSockAddr = loaded.try_into()?;
            guard.load()
        }
    }
}

/// Attaches a verified program and pins it with its link.
fn attach(
    object: &mut aya::Ebpf,
    program: Program,
    generation: &Generation,
    options: &Options,
) -> Result<(), Box<dyn std::error::Error>> {
    // Left by an agent that ended between the two pins, or by whoever damaged them.
    generation.forget(program)?;
    let loaded = object.program_mut(program.name()).ok_or(ProgramError::NotLoaded)?;
    let link: FdLink = match program.kind() {
        Kind::TaskIterator => {
            let iter: &mut Iter = loaded.try_into()?;
            iter.pin(generation.program(program))?;
            let id = iter.attach()?;
            iter.take_link(id)?.try_into()?
        }
        Kind::Tracepoint(_) => {
            let tracepoint: &mut BtfTracePoint = loaded.try_into()?;
            tracepoint.pin(generation.program(program))?;
            let id = tracepoint.attach()?;
            tracepoint.take_link(id)?.into()
        }
        Kind::Bind => {
            let cgroup = tasks_cgroup(options)?;
            let guard: &mut CgroupSockAddr = loaded.try_into()?;
            guard.pin(generation.program(program))?;
            // As below.
            let id = guard.attach(cgroup, CgroupAttachMode::Single)?;
            guard.take_link(id)?.try_into()?
        }
        direction @ (Kind::Ingress | Kind::Egress) => {
            let cgroup = tasks_cgroup(options)?;
            let direction = match direction {
                Kind::Ingress => CgroupSkbAttachType::Ingress,
                _ => CgroupSkbAttachType::Egress,
            };
            let filter: &mut CgroupSkb = loaded.try_into()?;
            filter.pin(generation.program(program))?;
            // A link by nature leaves room for others beside it; a flag that says so is refused.
            let id = filter.attach(cgroup, direction, CgroupAttachMode::Single)?;
            filter.take_link(id)?.try_into()?
        }
    };
    link.pin(generation.link(program))?;
    Ok(())
}

fn tasks_cgroup(options: &Options) -> Result<File, Box<dyn std::error::Error>> {
    let path = options.cgroup.as_ref().ok_or("the tasks' v2 cgroup isn't known")?;
    Ok(File::open(path)?)
}

/// Why a program would count wrongly in the namespaces that we are in.
fn unfit_namespace(program: Program) -> Option<String> {
    if program != Program::Exit {
        return None;
    }
    // Pids and start times in the kernel's records are those of the initial namespaces, whose inode numbers
    // are fixed (`include/uapi/linux/nsfs.h`; the same since they exist).
    for (kind, initial) in [("pid", "pid:[4026531836]"), ("time", "time:[4026531834]")] {
        let here = fs::read_link(format!("/proc/self/ns/{kind}"));
        if here.is_ok_and(|here| here.as_os_str() != initial) {
            return Some(format!("the agent runs in a {kind} namespace of its own"));
        }
    }
    None
}

/// Takes the keys and figures of an older generation over into one whose programs aren't attached yet.
///
/// Nothing counts into the new maps yet, so nothing is overwritten. An older layout of figures can't be read; its
/// cgroups stay registered, and those figures begin at zero.
fn copy_figures(old: &Generation, new: &Generation) -> Result<(), BpfError> {
    let Some(abi) = readable_abi(old) else { return Ok(()) };
    copy_per_cpu::<u64, u64>(old, new, CPU_TIME)?;
    if abi == ABI {
        copy_per_cpu::<u64, CgroupFigures>(old, new, FIGURES)?;
        copy_per_cpu::<u64, agent_ebpf_common::BlockFigures>(old, new, BLOCK)?;
        copy_per_cpu::<u32, agent_ebpf_common::BlockFigures>(old, new, DEVICES)?;
    } else {
        let registered: PerCpuHashMap<MapData, u64, u64> = open_map(old, CPU_TIME)?;
        let mut figures: PerCpuHashMap<MapData, u64, CgroupFigures> = open_map(new, FIGURES)?;
        for cgroup in registered.keys() {
            let cgroup = cgroup.map_err(|source| map_error(CPU_TIME, source))?;
            figures.insert(cgroup, zeros()?, 0).map_err(|source| map_error(FIGURES, source))?;
        }
    }
    copy_exits(old, new)
}

fn copy_per_cpu<K: Pod, V: Pod>(
    old: &Generation,
    new: &Generation,
    map: &'static str,
) -> Result<(), BpfError> {
    let from: PerCpuHashMap<MapData, K, V> = open_map(old, map)?;
    let mut to: PerCpuHashMap<MapData, K, V> = open_map(new, map)?;
    for entry in from.iter() {
        let (key, figures) = entry.map_err(|source| map_error(map, source))?;
        to.insert(key, figures, 0).map_err(|source| map_error(map, source))?;
    }
    Ok(())
}

/// Takes over registered processes, and exits that only the older generation saw.
fn copy_exits(old: &Generation, new: &Generation) -> Result<(), BpfError> {
    if readable_abi(old).is_none() {
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

/// The version of an older generation, if its registrations are laid out as ours.
fn readable_abi(old: &Generation) -> Option<u64> {
    read_meta(old).filter(|abi| (ABI_SAME_REGISTRATIONS..=ABI).contains(abi))
}
