//! What each kernel program needs of this kernel, and whether it is there.
//!
//! Turns the kernel's types into the table of offsets that the programs read by, and names for each program
//! what is missing. A program with anything missing is not loaded.
use std::collections::BTreeMap;

use agent_ebpf_common::Offsets;

use super::{
    Program,
    btf::{Btf, Parameter},
};

/// Offsets for the programs, and why some of them can't run.
#[derive(Debug)]
pub struct Layout {
    pub offsets: Offsets,
    missing: BTreeMap<Program, String>,
}

/// A field, who reads it, and where its offset goes.
struct Field {
    readers: &'static [Program],
    of: &'static str,
    name: &'static str,
    slot: fn(&mut Offsets) -> &mut u32,
}

macro_rules! field {
    ($of:ident . $name:ident, $slot:ident, $($reader:ident)+) => {
        Field {
            readers: &[$(Program::$reader),+],
            of: stringify!($of),
            name: stringify!($name),
            slot: |offsets| &mut offsets.$slot,
        }
    };
}

const FIELDS: &[Field] = &[
    field!(task_struct.pid, task_pid, Snap Oom),
    field!(task_struct.tgid, task_tgid, Exit Snap Oom),
    field!(task_struct.group_leader, task_group_leader, Exit),
    field!(task_struct.start_boottime, task_start_boottime, Exit),
    field!(task_struct.exit_state, task_exit_state, Snap),
    field!(task_struct.exit_code, task_exit_code, Exit),
    field!(task_struct.signal, task_signal, Exit),
    field!(task_struct.cgroups, task_cgroups, Cpu Snap Oom),
    field!(signal_struct.live, signal_live, Exit),
    field!(signal_struct.flags, signal_flags, Exit),
    field!(signal_struct.group_exit_code, signal_group_exit_code, Exit),
    field!(css_set.dfl_cgrp, css_set_dfl_cgrp, Cpu Snap Oom),
    field!(css_set.subsys, css_set_memory, Snap Oom),
    field!(cgroup_subsys_state.cgroup, css_cgroup, Snap Oom),
    field!(cgroup.kn, cgroup_kn, Cpu Snap Oom),
    field!(cgroup.root, cgroup_root, Snap),
    field!(kernfs_node.id, kernfs_node_id, Cpu Snap Oom),
    field!(mem_cgroup.memory, css_to_memory_usage, Snap Oom),
    field!(mem_cgroup.swap, css_to_swap_usage, Snap),
];

impl Layout {
    /// Finds everything in a kernel's types.
    pub fn find(btf: &Btf) -> Self {
        let mut layout = Self { offsets: Offsets::default(), missing: BTreeMap::new() };
        for field in FIELDS {
            match btf.field(field.of, field.name) {
                Some(offset) => *(field.slot)(&mut layout.offsets) = offset,
                None => layout.miss(field.readers, format!("it has no `{}.{}`", field.of, field.name)),
            }
        }
        layout.find_memory(btf);
        layout.check_tracepoints(btf);
        layout
    }

    /// Why a program can't run on this kernel.
    pub fn missing(&self, program: Program) -> Option<&str> {
        self.missing.get(&program).map(String::as_str)
    }

    /// Offsets that are sums: an entry of an array, counters seen from the `css` inside their struct.
    fn find_memory(&mut self, btf: &Btf) {
        let readers = &[Program::Snap, Program::Oom];
        let parts = || {
            let controller = btf.enum_value("cgroup_subsys_id", "memory_cgrp_id")?;
            let css = btf.field("mem_cgroup", "css")?;
            Some((controller, css, btf.field("page_counter", "usage")?, btf.field("page_counter", "max")?))
        };
        let Some((controller, css, usage, limit)) = parts() else {
            self.miss(readers, "it has no memory controller as we know it".into());
            return;
        };
        let offsets = &mut self.offsets;
        let pointer = size_of::<usize>() as u32;
        offsets.css_set_memory += controller * pointer;
        let counters =
            offsets.css_to_memory_usage.checked_sub(css).zip(offsets.css_to_swap_usage.checked_sub(css));
        let Some((memory, swap)) = counters else {
            self.miss(readers, "its `mem_cgroup` has counters before the `css`".into());
            return;
        };
        offsets.css_to_memory_usage = memory + usage;
        offsets.css_to_memory_limit = memory + limit;
        offsets.css_to_swap_usage = swap + usage;
    }

    fn check_tracepoints(&mut self, btf: &Btf) {
        let task = Parameter::PointerTo("task_struct".into());
        match btf.tracepoint("sched_stat_runtime").as_deref() {
            Some([first, _ns]) if *first == task => {}
            // Up to 6.7 a third one, and only the fair class reports: real-time tasks would count as idle.
            Some([_, _, _]) => self.miss(&[Program::Cpu], "it doesn't report real-time tasks".into()),
            _ => self.miss(&[Program::Cpu], "it has no `sched_stat_runtime` as we know it".into()),
        }
        match btf.tracepoint("sched_process_exit").as_deref() {
            Some([first]) if *first == task => {}
            Some([first, _group_dead]) if *first == task => self.offsets.exit_says_group_dead = 1,
            _ => self.miss(&[Program::Exit], "it has no `sched_process_exit` as we know it".into()),
        }
        match btf.tracepoint("mark_victim").as_deref() {
            Some([first, ..]) if *first == task => {}
            // Up to 6.9 it gives only a pid, and pids don't lead to a cgroup here.
            _ => self.miss(&[Program::Oom], "its `mark_victim` doesn't name the task".into()),
        }
    }

    fn miss(&mut self, programs: &[Program], what: String) {
        for program in programs {
            self.missing.entry(*program).or_insert_with(|| format!("not on this kernel: {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_any_type_runs_no_program() {
        let empty = [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0], &24_u32.to_ne_bytes(), &[0; 16]].concat();
        let layout = Layout::find(&Btf::parse(&empty).unwrap());
        for program in Program::ALL {
            assert!(layout.missing(program).is_some(), "{program} would be loaded");
        }
    }

    #[test]
    fn this_kernel_is_understood() {
        let Ok(btf) = Btf::of_running_kernel() else {
            eprintln!("skipped: this kernel describes no types");
            return;
        };
        let layout = Layout::find(&btf);
        let missing: Vec<_> = Program::ALL.iter().filter_map(|program| layout.missing(*program)).collect();
        assert_eq!(missing, Vec::<&str>::new());
    }
}
