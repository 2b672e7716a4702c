//! What is read of the kernel and of what a task's processes leave, for the fuzzers: see [`crate::decoders`].

use super::{
    bpf::{
        btf::Btf, layout::Layout, oom::OomEvent, pins, ports::PortEvent, sampler, snapshot, stream::Record,
    },
    cgroup::{asked, groups, probe},
    group,
};

pub fn exit_record(bytes: &[u8]) {
    let Some(Some(record)) = group::parse(bytes) else { return };
    assert!(record.ends.len() <= bytes.len() / 8, "more processes than were written");
}

/// What kernel programs tell; the first byte says which.
pub fn kernel_records(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => drop(sampler::decode(bytes)),
        1 => drop(snapshot::sum_up(bytes)),
        2 => drop(PortEvent::decode(bytes)),
        _ => drop(OomEvent::decode(bytes)),
    }
}

/// Types of the kernel, and all that is looked up in them.
pub fn kernel_types(bytes: &[u8]) {
    let Ok(types) = Btf::parse(bytes) else { return };
    drop(Layout::find(&types));
    for name in ["signal_wake_up", "sched_switch", "a"] {
        // They may not be there.
        let _ = types.tracepoint(name);
        let _ = types.field(name, "b");
        let _ = types.enum_value(name, "c");
    }
}

pub fn kernel_files(bytes: &[u8]) {
    drop(probe::parse_mounts(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Each may find nothing.
    let _ = groups::stalled(text);
    let _ = groups::Keys(text.to_owned()).get("oom_kill");
    let _ = pins::parse_mount(text);
    let cores = asked::parse_cores(text);
    assert!(asked::parse_cores(&asked::show_cores(&cores)) == cores, "cores aren't what was written");
}
