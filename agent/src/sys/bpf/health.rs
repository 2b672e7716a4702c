//! How the programs themselves fare: attached, how often they ran, what they lost, how full their maps are.
use std::{collections::BTreeMap, fs, os::fd::AsRawFd as _, time::Duration};

use agent_ebpf_common::Stat;
use aya::programs::ProgramInfo;

use super::{Availability, BpfError, CPU_TIME, EXITS, Program, Programs};

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
        .iter()
        .map(|(program, availability)| examine_program(programs, *program, availability))
        .collect();
    Ok(Health {
        programs: examined?,
        maps: vec![
            MapFill {
                map: CPU_TIME,
                used: programs.cgroups()?.len() as u64,
                capacity: programs.limits.cgroups.into(),
            },
            MapFill {
                map: EXITS,
                used: programs.processes()?.len() as u64,
                capacity: programs.limits.processes.into(),
            },
        ],
    })
}

fn examine_program(
    programs: &Programs,
    program: Program,
    availability: &Availability,
) -> Result<ProgramHealth, BpfError> {
    let (counted, other, lost) = match program {
        Program::Cpu => (Stat::CpuCharged, Stat::CpuOther, Some(Stat::CpuLost)),
        Program::Exit => (Stat::ExitRecorded, Stat::ExitOther, None),
        Program::Snap => (Stat::SnapWritten, Stat::SnapOther, None),
        Program::Oom => (Stat::OomReported, Stat::OomOther, Some(Stat::OomLost)),
    };
    let lost = lost.map(|stat| programs.count(stat)).transpose()?;
    let kernel = kernel_figures(programs, program);
    let figure = |name: &str| kernel.get(name).copied();
    Ok(ProgramHealth {
        program,
        availability: availability.clone(),
        counted: programs.count(counted)?,
        other: programs.count(other)?,
        // A program that would interrupt itself on the same CPU is skipped by the kernel.
        lost: lost.unwrap_or(0) + figure("recursion_misses").unwrap_or(0),
        runs: figure("run_cnt"),
        run_time: figure("run_time_ns").map(Duration::from_nanos),
        verified_instructions: figure("verified_insns").and_then(|count| count.try_into().ok()),
    })
}

/// What the kernel says about a program in `/proc/self/fdinfo`.
///
/// The only place that gives `recursion_misses` without a system call of our own making.
fn kernel_figures(programs: &Programs, program: Program) -> BTreeMap<String, u64> {
    let read = || {
        let info = ProgramInfo::from_pin(programs.generation.program(program)).ok()?;
        let fd = info.fd().ok()?;
        fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).ok()
    };
    use std::os::fd::AsFd as _;
    let text = read().unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}
