//! What each kernel program needs of this kernel, and whether it is there.
//!
//! Turns the kernel's types into the table of offsets that the programs read by, and names for each program
//! what is missing. A program with anything missing is not loaded.
use std::collections::BTreeMap;

use agent_ebpf_common::{ABSENT, Offsets};

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
    /// A struct and its field; where that is a struct itself, a field of that one too, and so on.
    path: &'static [(&'static str, &'static str)],
    slot: fn(&mut Offsets) -> &mut u32,
}

macro_rules! field {
    ($($of:ident . $name:ident)/+, $slot:ident, $readers:expr) => {
        Field {
            readers: $readers,
            path: &[$((stringify!($of), stringify!($name))),+],
            slot: |offsets| &mut offsets.$slot,
        }
    };
}

use Program::{
    Bind4, Bind6, Block, Connect, Cpu, DirectIn, DirectOut, Exec, Exit, Fork, Listen, MemcgIn, MemcgOut, Oom,
    Retransmit, Snap, Switch, Wakeup, WakeupNew,
};

/// Who reads the cgroup of a thread.
const OF_THREADS: &[Program] = &[
    Cpu, Exit, Snap, Oom, Wakeup, WakeupNew, Switch, Fork, Exec, DirectIn, DirectOut, MemcgIn, MemcgOut,
    Bind4, Bind6,
];
/// Who reads the number of a cgroup, however it is found.
const OF_CGROUPS: &[Program] = &[
    Cpu, Exit, Snap, Oom, Wakeup, WakeupNew, Switch, Fork, Exec, DirectIn, DirectOut, MemcgIn, MemcgOut,
    Connect, Retransmit, Block, Bind4, Bind6, Listen,
];
const OF_RECLAIM: &[Program] = &[DirectIn, DirectOut, MemcgIn, MemcgOut];

const FIELDS: &[Field] = &[
    field!(
        task_struct.pid,
        task_pid,
        &[Snap, Oom, Wakeup, WakeupNew, Switch, Fork, DirectIn, DirectOut, MemcgIn, MemcgOut]
    ),
    field!(task_struct.tgid, task_tgid, &[Exit, Snap, Oom, Fork]),
    field!(task_struct.group_leader, task_group_leader, &[Exit]),
    field!(task_struct.start_boottime, task_start_boottime, &[Exit]),
    field!(task_struct.exit_code, task_exit_code, &[Exit]),
    field!(task_struct.signal, task_signal, &[Exit]),
    field!(task_struct.cgroups, task_cgroups, OF_THREADS),
    field!(task_struct.flags, task_flags, &[Snap]),
    field!(task_struct.min_flt, task_faults_minor, &[Exit, Snap]),
    field!(task_struct.maj_flt, task_faults_major, &[Exit, Snap]),
    field!(signal_struct.live, signal_live, &[Exit]),
    field!(signal_struct.flags, signal_flags, &[Exit]),
    field!(signal_struct.group_exit_code, signal_group_exit_code, &[Exit]),
    field!(css_set.dfl_cgrp, css_set_dfl_cgrp, OF_THREADS),
    field!(css_set.subsys, css_set_memory, &[Snap, Oom]),
    field!(cgroup_subsys_state.cgroup, css_cgroup, &[Snap, Oom]),
    field!(cgroup.kn, cgroup_kn, OF_CGROUPS),
    field!(cgroup.root, cgroup_root, &[Snap]),
    field!(kernfs_node.id, kernfs_node_id, OF_CGROUPS),
    field!(mem_cgroup.memory, css_to_memory_usage, &[Snap, Oom]),
    field!(mem_cgroup.swap, css_to_swap_usage, &[Snap]),
    field!(sock.sk_cgrp_data / sock_cgroup_data.cgroup, sock_cgroup, &[Connect, Retransmit, Listen]),
    field!(sock.__sk_common / sock_common.skc_num, sock_port, &[Listen]),
    field!(request.q, request_queue, &[Block]),
    field!(request.cmd_flags, request_flags, &[Block]),
    field!(request.__data_len, request_bytes, &[Block]),
    field!(request.start_time_ns, request_start_ns, &[Block]),
    field!(request.bio, request_bio, &[Block]),
    field!(request_queue.disk, queue_disk, &[Block]),
    field!(gendisk.major, disk_major, &[Block]),
    field!(gendisk.first_minor, disk_minor, &[Block]),
    field!(bio.bi_blkg, bio_group, &[Block]),
    field!(blkcg_gq.blkcg, block_group_owner, &[Block]),
    field!(blkcg.css / cgroup_subsys_state.cgroup, block_owner_cgroup, &[Block]),
];

/// Fields of the kernel's account of I/O, which it may be built without.
const IO_FIELDS: &[Field] = &[
    field!(task_struct.ioac / task_io_accounting.read_bytes, task_read_bytes, &[]),
    field!(task_struct.ioac / task_io_accounting.write_bytes, task_write_bytes, &[]),
    field!(task_struct.ioac / task_io_accounting.cancelled_write_bytes, task_cancelled_bytes, &[]),
];

impl Field {
    fn offset(&self, btf: &Btf) -> Option<u32> {
        self.path.iter().map(|(of, name)| btf.field(of, name)).sum()
    }
}

impl Layout {
    /// Finds everything in a kernel's types.
    pub fn find(btf: &Btf) -> Self {
        let mut layout = Self { offsets: Offsets::default(), missing: BTreeMap::new() };
        for field in FIELDS {
            match field.offset(btf) {
                Some(offset) => *(field.slot)(&mut layout.offsets) = offset,
                None => {
                    let path: Vec<_> = field.path.iter().map(|(of, name)| format!("`{of}.{name}`")).collect();
                    layout.miss(field.readers, format!("it has no {}", path.join(" with ")));
                }
            }
        }
        for field in IO_FIELDS {
            *(field.slot)(&mut layout.offsets) = field.offset(btf).unwrap_or(ABSENT);
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
        match btf.tracepoint("sched_switch").as_deref() {
            Some([_preempt, from, to, _state]) if *from == task && *to == task => {}
            // The order of its arguments changed in 5.18.
            _ => self.miss(&[Switch], "it has no `sched_switch` as we know it".into()),
        }
        for (name, program) in [("sched_wakeup", Wakeup), ("sched_wakeup_new", WakeupNew)] {
            if btf.tracepoint(name).as_deref() != Some(std::slice::from_ref(&task)) {
                self.miss(&[program], format!("it has no `{name}` as we know it"));
            }
        }
        match btf.tracepoint("sched_process_fork").as_deref() {
            Some([parent, child]) if *parent == task && *child == task => {}
            _ => self.miss(&[Fork], "it has no `sched_process_fork` as we know it".into()),
        }
        match btf.tracepoint("sched_process_exec").as_deref() {
            Some([first, ..]) if *first == task => {}
            _ => self.miss(&[Exec], "it has no `sched_process_exec` as we know it".into()),
        }
        let sock = Parameter::PointerTo("sock".into());
        match btf.tracepoint("inet_sock_set_state").as_deref() {
            Some([first, _old, _new]) if *first == sock => {}
            _ => self.miss(&[Connect, Listen], "it has no `inet_sock_set_state` as we know it".into()),
        }
        match btf.tracepoint("tcp_retransmit_skb").as_deref() {
            Some([first, _skb]) if *first == sock => {}
            // 6.15 or so is the first kernel that tells of failed ones too.
            Some([first, _skb, _error]) if *first == sock => self.offsets.retransmit_says_error = 1,
            _ => self.miss(&[Retransmit], "it has no `tcp_retransmit_skb` as we know it".into()),
        }
        match btf.tracepoint("block_rq_complete").as_deref() {
            Some([first, _error, _bytes]) if *first == Parameter::PointerTo("request".into()) => {}
            _ => self.miss(&[Block], "it has no `block_rq_complete` as we know it".into()),
        }
        for (program, name) in OF_RECLAIM.iter().zip([
            "mm_vmscan_direct_reclaim_begin",
            "mm_vmscan_direct_reclaim_end",
            "mm_vmscan_memcg_reclaim_begin",
            "mm_vmscan_memcg_reclaim_end",
        ]) {
            if btf.tracepoint(name).is_none() {
                self.miss(&[*program], format!("it has no `{name}`"));
            }
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
            // These read nothing but what the kernel's interface promises.
            let needs_types = !matches!(program, Program::NetIn | Program::NetOut);
            assert_eq!(layout.missing(program).is_some(), needs_types, "{program}");
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
