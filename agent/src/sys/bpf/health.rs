//! How the programs themselves fare: attached, how often they ran, what they lost, how full their maps are.
use std::{collections::BTreeMap, time::Duration};

use agent_ebpf_common::Stat;
use aya::programs::ProgramInfo;

use super::{
    Availability, BpfError, CPU_TIME, DEVICES, DEVICES_MAX, EXITS, Program, Programs, lock, map_error, raw,
};

/// How all programs fare.
#[derive(Clone, Debug)]
pub struct Health {
    pub programs: Vec<ProgramHealth>,
    pub maps: Vec<MapFill>,
}

/// How a program fares. A figure that the kernel doesn't tell is absent.
#[derive(Clone, Debug)]
pub struct ProgramHealth {
    pub program: Program,
    pub availability: Availability,
    /// What it counted for registered cgroups or processes.
    pub counted: u64,
    /// What it saw of others.
    pub other: u64,
    /// What it should have counted and couldn't, for any reason that it or the kernel knows of.
    pub lost: u64,
    /// How often it ran, and for how long altogether, while the kernel measured that (`kernel.bpf_stats_enabled`).
    pub runs: Option<u64>,
    pub run_time: Option<Duration>,
    /// What the verifier walked through; a measure for which kernels will still accept it.
    pub verified_instructions: Option<u32>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub map: &'static str,
    pub used: u64,
    pub capacity: u64,
}

pub(super) fn examine(programs: &Programs) -> Result<Health, BpfError> {
    let examined: Result<Vec<_>, _> = programs
        .availability()
        .into_iter()
        .map(|(program, availability)| examine_program(programs, program, availability))
        .collect();
    let devices: Result<Vec<u32>, _> = lock(&programs.devices).keys().collect();
    let devices = devices.map_err(|source| map_error(DEVICES, source))?;
    let limits = &programs.options.limits;
    let fill =
        |map, used: usize, capacity: u32| MapFill { map, used: used as u64, capacity: capacity.into() };
    Ok(Health {
        programs: examined?,
        maps: vec![
            fill(CPU_TIME, programs.cgroups()?.len(), limits.cgroups),
            fill(EXITS, programs.processes()?.len(), limits.processes),
            fill(DEVICES, devices.len(), DEVICES_MAX),
        ],
    })
}

fn examine_program(
    programs: &Programs,
    program: Program,
    availability: Availability,
) -> Result<ProgramHealth, BpfError> {
    let (counted, other, lost) = verdicts(program);
    let lost = lost.map(|stat| programs.count(stat)).transpose()?;
    let kernel = kernel_figures(programs, program);
    let figure = |name: &str| kernel.get(name).copied();
    Ok(ProgramHealth {
        program,
        availability,
        counted: programs.count(counted)?,
        other: other.map_or(Ok(0), |stat| programs.count(stat))?,
        // A program that would interrupt itself on the same CPU is skipped by the kernel.
        lost: lost.unwrap_or(0) + figure("recursion_misses").unwrap_or(0),
        runs: figure("run_cnt"),
        run_time: figure("run_time_ns").map(Duration::from_nanos),
        verified_instructions: figure("verified_insns").and_then(|count| count.try_into().ok()),
    })
}

/// Where a program counts what it counted, what was others', and what it lost.
///
/// The four programs of reclaim share their counters; those of its ends stand for all.
fn verdicts(program: Program) -> (Stat, Option<Stat>, Option<Stat>) {
    match program {
        Program::Cpu => (Stat::CpuCharged, Some(Stat::CpuOther), Some(Stat::CpuLost)),
        Program::Exit => (Stat::ExitRecorded, Some(Stat::ExitOther), None),
        Program::Snap => (Stat::SnapWritten, Some(Stat::SnapOther), None),
        Program::Oom => (Stat::OomReported, Some(Stat::OomOther), Some(Stat::OomLost)),
        Program::Wakeup | Program::WakeupNew => {
            (Stat::QueueEntered, Some(Stat::QueueOther), Some(Stat::QueueLost))
        }
        Program::Switch => (Stat::SwitchCounted, Some(Stat::SwitchOther), None),
        Program::NetIn => (Stat::ReceivedCounted, Some(Stat::ReceivedOther), None),
        Program::NetOut => (Stat::SentCounted, Some(Stat::SentOther), None),
        Program::Connect => (Stat::ConnectionCounted, Some(Stat::ConnectionOther), None),
        Program::Retransmit => (Stat::RetransmitCounted, Some(Stat::RetransmitOther), None),
        Program::Block => (Stat::BlockCounted, Some(Stat::BlockOther), Some(Stat::BlockUntimed)),
        Program::Fork => (Stat::ForkCounted, Some(Stat::ForkOther), None),
        Program::Exec => (Stat::ExecCounted, Some(Stat::ExecOther), None),
        Program::DirectIn | Program::MemcgIn => {
            (Stat::ReclaimBegun, Some(Stat::ReclaimOther), Some(Stat::ReclaimLost))
        }
        Program::DirectOut | Program::MemcgOut => (Stat::ReclaimCounted, None, None),
        // Shared likewise.
        Program::Bind4 | Program::Bind6 | Program::Listen => {
            (Stat::PortJudged, Some(Stat::PortOther), Some(Stat::PortLost))
        }
    }
}

/// What the kernel says about a program in `/proc/self/fdinfo`.
///
/// The only place that gives `recursion_misses` without a system call of our own making.
fn kernel_figures(programs: &Programs, program: Program) -> BTreeMap<String, u64> {
    let info = ProgramInfo::from_pin(programs.generation.program(program));
    // What isn't pinned is absent.
    info.and_then(|info| info.fd()).map(|fd| raw::numbers_of(&fd)).unwrap_or_default()
}
