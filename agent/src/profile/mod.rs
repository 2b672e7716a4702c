//! Where a task spends its CPU time: stacks, gathered for a while, with names for their addresses.
//!
//! Knows what a stack means, not how it is taken (`sys::bpf::Sampler`) nor who asked (`channel::profile`).
//! Start at [`gather`].
//!
//! ## Design
//!
//! Addresses get their names where the programs are: on this host, when the profile is over. What a task wrote may be
//! hostile, so the agent itself never reads its programs. It opens them, as the task's own root shows them, and hands
//! the descriptors to a process without rights ([`child`]); what that one answers is cut, cleaned and only shown.
//! Mappings are read when a process is first seen, so that what ends before the profile does has names, too.
//! Addresses of the kernel are never told to anybody: a frame without a name is `[kernel]`.

pub mod child;
pub(crate) mod decoders;
mod elf;
mod kernel;
mod limits;
mod modules;
mod names;

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

pub use self::kernel::keep_kernel_symbols;
use self::{
    modules::{Modules, Process},
    names::Names,
};
use crate::sys::{
    CgroupId,
    bpf::{BpfError, Sampler, Stack},
};

/// What is to be profiled, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub cgroup: CgroupId,
    pub duration: Duration,
    /// Samples per second and CPU.
    pub frequency: u32,
}

/// What was gathered, with its names.
#[derive(Debug, Default)]
pub struct Profile {
    stacks: BTreeMap<Stack, u64>,
    processes: BTreeMap<u32, Process>,
    names: Names,
    pub samples: u64,
    /// Taken, but not kept.
    pub lost: u64,
}

/// Takes stacks until the time is over or nobody holds the other end of `stop`. Blocks.
pub fn gather(wish: Wish, stop: &Receiver<()>) -> Result<Profile, BpfError> {
    let mut sampler = Sampler::start(wish.cgroup, wish.frequency)?;
    let end = Instant::now() + wish.duration;
    let mut gathered = Gathered::default();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let is_last = match stop.recv_timeout(left.min(limits::LOOK_EVERY)) {
            Err(RecvTimeoutError::Timeout) => left.is_zero(),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        };
        // Bounded, though the task may write as fast as we read.
        for _ in 0..limits::STACKS_PER_LOOK_MAX {
            let Some(stack) = sampler.take() else { break };
            gathered.add(stack);
        }
        if is_last {
            break;
        }
    }
    let lost = sampler.lost()?;
    drop(sampler);
    Ok(gathered.named(lost))
}

/// Stacks and the processes that they are of.
#[derive(Debug, Default)]
struct Gathered {
    stacks: BTreeMap<Stack, u64>,
    bytes: usize,
    samples: u64,
    lost: u64,
    processes: BTreeMap<u32, Process>,
    modules: Modules,
}

impl Gathered {
    fn add(&mut self, stack: Stack) {
        self.meet(&stack);
        self.count(stack);
    }

    fn count(&mut self, stack: Stack) {
        if let Some(count) = self.stacks.get_mut(&stack) {
            *count += 1;
            self.samples += 1;
            return;
        }
        let bytes = 8 * (stack.kernel.len() + stack.user.len()) + limits::STACK_OVERHEAD_BYTES;
        if self.bytes + bytes > limits::STACK_BYTES_MAX {
            self.lost += 1;
            return;
        }
        self.bytes += bytes;
        self.samples += 1;
        self.stacks.insert(stack, 1);
    }

    /// Looks at what the process has mapped: the first time, and when it runs where nothing was mapped then.
    fn meet(&mut self, stack: &Stack) {
        let known = self.processes.len();
        match self.processes.get_mut(&stack.pid) {
            Some(process) if stack.user.iter().all(|address| process.has(*address)) => {}
            Some(process) => process.look_again(stack.pid, &mut self.modules),
            None if known < limits::PROCESSES_MAX => {
                self.processes.insert(stack.pid, Process::look(stack.pid, &mut self.modules));
            }
            None => {}
        }
    }

    fn named(self, lost: u64) -> Profile {
        let Self { stacks, bytes: _, samples, lost: not_kept, processes, modules } = self;
        let mut names = Names::default();
        for stack in stacks.keys() {
            names.want(stack, processes.get(&stack.pid));
        }
        names.find(&modules);
        Profile { stacks, processes, names, samples, lost: lost + not_kept }
    }
}

impl Profile {
    /// Each stack as one line: frames from the outermost, between semicolons, a blank, and how often it was seen.
    ///
    /// The first frame is the process. A kernel function ends with `_[k]`, as tools that draw these know it.
    pub fn folded(&self) -> impl Iterator<Item = String> {
        self.stacks.iter().map(|(stack, count)| {
            let process = self.processes.get(&stack.pid);
            let mut line = process.map_or("[unknown]", |process| &process.name).to_owned();
            let user = (0..stack.user.len()).rev().map(|place| self.names.of_user(stack, place, process));
            let kernel = (0..stack.kernel.len()).rev().map(|place| self.names.of_kernel(stack, place));
            let mut last = String::new();
            for frame in user.chain(kernel) {
                // Unknown neighbours say nothing by their number.
                if frame.starts_with('[') && frame == last {
                    continue;
                }
                line.push(';');
                line.push_str(&frame);
                last = frame;
            }
            line.push_str(&format!(" {count}\n"));
            line
        })
    }
}

/// What the process or a program calls itself, as it may stand in a line: no separators, and nothing that a terminal
/// takes for more than text.
fn clean(name: &str) -> String {
    let mut clean: String = name
        .chars()
        .map(|letter| if letter.is_control() || letter == ';' { '_' } else { letter })
        .take(limits::NAME_LETTERS_MAX)
        .collect();
    if clean.is_empty() {
        clean.push_str("[unknown]");
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(pid: u32, user: &[u64]) -> Stack {
        Stack { pid, kernel: [].into(), user: user.into() }
    }

    #[test]
    fn names_can_break_no_line() {
        assert_eq!(clean("a;b\nc\u{1b}[31m"), "a_b_c_[31m");
        assert_eq!(clean(""), "[unknown]");
        assert_eq!(clean(&"x".repeat(10_000)).len(), limits::NAME_LETTERS_MAX);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_rest_is_counted() {
        let mut gathered = Gathered::default();
        let each = 8 * 100 + limits::STACK_OVERHEAD_BYTES;
        let room = limits::STACK_BYTES_MAX / each;
        for number in 0..room as u64 + 10 {
            gathered.count(stack(1, &[number; 100]));
        }
        gathered.count(stack(1, &[0; 100]));
        assert_eq!((gathered.samples, gathered.lost), (room as u64 + 1, 10));
    }

    #[test]
    fn stacks_are_told_from_the_outermost_with_what_is_not_known_once() {
        let mut gathered = Gathered::default();
        for _ in 0..3 {
            gathered.count(Stack { pid: 1, kernel: [5, 6].into(), user: [1, 2, 3].into() });
        }
        let profile = gathered.named(2);
        let lines: Vec<String> = profile.folded().collect();
        assert_eq!(lines, ["[unknown];[unknown];[kernel]_[k] 3\n"]);
        assert_eq!((profile.samples, profile.lost), (3, 2));
    }
}
