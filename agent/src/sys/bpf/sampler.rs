//! Stacks of one task, taken while a [`Sampler`] lives.
//!
//! Loads a copy of the object for this alone, so that nothing of it is pinned and all of it is gone with the value,
//! or with the agent. Says addresses; their names are `profile`'s.
use std::io;

use agent_ebpf_common::{STACK_FRAMES_MAX, StackCount};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        PerfEvent, ProgramError,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};

use super::{BpfError, chain, map_error};
use crate::sys::CgroupId;

const PROGRAM: &str = "m_stack";
const STACKS: &str = "STACKS";
const STACK_COUNTS: &str = "STACK_COUNTS";

/// How long the reader may be away before stacks are lost, where every CPU runs the task all the time.
const AWAY_MS: u64 = 500;
/// A large machine sampled often may lose some; it is counted.
const RING_BYTES_MAX: u64 = 16 << 20;
const RING_BYTES_MIN: u64 = 256 << 10;
const RECORD_BYTES: usize = size_of::<agent_ebpf_common::StackRecord>();

/// Where a thread was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stack {
    /// Its process, as the host numbers them.
    pub pid: u32,
    /// Addresses, from the innermost; empty where it ran its own code.
    pub kernel: Box<[u64]>,
    pub user: Box<[u64]>,
}

/// Takes stacks until it is dropped.
pub struct Sampler {
    /// Holds the program; its links end with it.
    _object: Ebpf,
    ring: RingBuf<MapData>,
    counts: PerCpuArray<MapData, u64>,
}

impl Sampler {
    /// Begins with the processes of a v2 cgroup and of those below it, on every CPU, `frequency` times a second.
    ///
    /// The clock is the kernel's own: hardware counters are missing in most virtual machines.
    pub fn start(cgroup: CgroupId, frequency: u32) -> Result<Self, BpfError> {
        let cpus = aya::util::online_cpus().map_err(|(_, source)| BpfError::Cpus { source })?;
        let mut object = EbpfLoader::new()
            .override_global("PROFILED", &cgroup.0, true)
            .map_max_entries(STACKS, ring_bytes(cpus.len(), frequency))
            .load(super::OBJECT)
            .map_err(|source| BpfError::Load { source: Box::new(source) })?;
        attach(&mut object, &cpus, frequency).map_err(|error| BpfError::Sample { reason: chain(&error) })?;
        let ring = take_map(&mut object, STACKS)?;
        let counts = take_map(&mut object, STACK_COUNTS)?;
        Ok(Self { _object: object, ring, counts })
    }

    /// The next stack, if one is there.
    pub fn take(&mut self) -> Option<Stack> {
        loop {
            let item = self.ring.next()?;
            // A record of another length comes from no program of ours; pass it over.
            if let Some(stack) = decode(&item) {
                return Some(stack);
            }
        }
    }

    /// How many could not be kept, because nobody took them fast enough.
    pub fn lost(&self) -> Result<u64, BpfError> {
        let per_cpu = self.counts.get(&(StackCount::Lost as u32), 0);
        Ok(per_cpu.map_err(|source| map_error(STACK_COUNTS, source))?.iter().sum())
    }
}

fn attach(object: &mut Ebpf, cpus: &[u32], frequency: u32) -> Result<(), ProgramError> {
    let program = object.program_mut(PROGRAM).ok_or(ProgramError::NotLoaded)?;
    let program: &mut PerfEvent = program.try_into()?;
    program.load()?;
    for cpu in cpus {
        let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
        let scope = PerfEventScope::AllProcessesOneCpu { cpu: *cpu };
        program.attach(clock, scope, SamplePolicy::Frequency(frequency.into()), false)?;
    }
    Ok(())
}

fn take_map<M: TryFrom<aya::maps::Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<M, BpfError> {
    let missing = || MapError::InvalidName { name: name.to_owned() };
    let map = object.take_map(name).ok_or_else(missing).map_err(|source| map_error(name, source))?;
    M::try_from(map).map_err(|source| map_error(name, source))
}

/// A power of two, as the kernel wants it.
fn ring_bytes(cpus: usize, frequency: u32) -> u32 {
    let records = u64::from(frequency) * cpus as u64 * AWAY_MS / 1000;
    // Each has a header of 8 bytes.
    let bytes = records * (RECORD_BYTES as u64 + 8);
    let bytes = bytes.clamp(RING_BYTES_MIN, RING_BYTES_MAX).next_power_of_two();
    u32::try_from(bytes).unwrap_or(1 << 24)
}

pub(in crate::sys) fn decode(bytes: &[u8]) -> Option<Stack> {
    if bytes.len() != RECORD_BYTES {
        return None;
    }
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let frames = |at: usize, said: u32| {
        // A negative number says that there are none.
        let length = usize::try_from(said.cast_signed()).unwrap_or(0).min(8 * STACK_FRAMES_MAX);
        let words = bytes.get(at..at + length).unwrap_or_default().chunks_exact(8);
        words.filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes).collect()
    };
    let (kernel, user) = (16, 16 + 8 * STACK_FRAMES_MAX);
    Some(Stack { pid: word(0)?, kernel: frames(kernel, word(4)?), user: frames(user, word(8)?) })
}

/// Whether this kernel takes stacks at all; for whoever wants to know before a task is there.
pub fn can_sample() -> io::Result<()> {
    // No cgroup has this number, so nothing is taken.
    Sampler::start(CgroupId(u64::MAX), 1).map(drop).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_far_as_it_was_written() {
        let mut bytes = vec![0xff; RECORD_BYTES];
        bytes[0..4].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[4..8].copy_from_slice(&(-14_i32).to_ne_bytes());
        bytes[8..12].copy_from_slice(&16_i32.to_ne_bytes());
        bytes[1032..1040].copy_from_slice(&0x1000_u64.to_ne_bytes());
        bytes[1040..1048].copy_from_slice(&0x2000_u64.to_ne_bytes());
        let stack = decode(&bytes).unwrap();
        assert_eq!(stack, Stack { pid: 7, kernel: [].into(), user: [0x1000, 0x2000].into() });
        assert_eq!(decode(&bytes[..100]), None);
    }

    #[test]
    fn the_ring_is_a_power_of_two_within_its_bounds() {
        for (cpus, frequency) in [(1, 1), (2, 99), (64, 99), (512, 999)] {
            let bytes = ring_bytes(cpus, frequency);
            assert!(bytes.is_power_of_two() && u64::from(bytes) <= RING_BYTES_MAX, "{bytes}");
        }
    }
}
