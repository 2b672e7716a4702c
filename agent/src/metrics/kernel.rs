//! What the kernel programs saw of block devices, what they cost, and how they are.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::{gauge, number, usage::encode_latencies};
use crate::{
    meter::{Cost, Found},
    sys::bpf::{Availability, Block, Health},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProgramLabel {
    program: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    device: String,
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabel {
    map: &'static str,
}

/// Requests of the host's block devices, whoever made them.
pub fn encode_devices(
    page: &mut DescriptorEncoder<'_>,
    devices: &BTreeMap<String, Block>,
) -> Result<(), fmt::Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let each = || {
        devices.iter().flat_map(|(device, block)| {
            [("read", &block.reads), ("write", &block.writes)]
                .map(|(operation, kind)| (DeviceLabels { device: device.clone(), operation }, kind))
        })
    };
    let help = "How long each request of a block device took, from when it was made until it was done";
    let mut family =
        page.encode_descriptor("agent_device_latency", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (labels, kind) in each() {
        encode_latencies(&kind.latency, kind.ns, family.encode_family(&labels)?)?;
    }
    let help = "Bytes that were read from or written to a block device";
    let mut family =
        page.encode_descriptor("agent_device_io", help, Some(&Unit::Bytes), MetricType::Counter)?;
    for (labels, kind) in each() {
        ConstCounter::new(number(kind.bytes)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// What the kernel programs cost when they were last measured, and how often one was put back.
pub fn encode_watch(page: &mut DescriptorEncoder<'_>, found: &Found) -> Result<(), fmt::Error> {
    let mut program_gauge = |name: &str, help: &str, unit: Option<Unit>, read: fn(&Cost) -> Option<f64>| {
        let measured: Vec<_> =
            found.costs.iter().filter_map(|(program, cost)| Some((program, read(cost)?))).collect();
        if measured.is_empty() {
            return Ok(());
        }
        let mut family = page.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (program, value) in measured {
            let labels = ProgramLabel { program: program.name() };
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    };
    program_gauge(
        "agent_bpf_event_cost",
        "What one run of a kernel program cost, measured for one second of each minute",
        Some(Unit::Seconds),
        |cost| cost.per_run.map(|per_run| per_run.as_secs_f64()),
    )?;
    program_gauge(
        "agent_bpf_event_rate",
        "How often a kernel program ran in a second, on the whole host, when it was last measured",
        None,
        |cost| Some(cost.runs_per_second),
    )?;
    program_gauge(
        "agent_bpf_cpu",
        "Part of one CPU that a kernel program took when it was last measured; alarm when it nears 0.01 of all CPUs",
        Some(Unit::Ratios),
        |cost| Some(cost.share),
    )?;
    if found.mended.is_empty() {
        return Ok(());
    }
    let help =
        "How often a kernel program that somebody had detached or unpinned was put back; alarm when it grows";
    let mut family = page.encode_descriptor("agent_bpf_mended", help, None, MetricType::Counter)?;
    for (program, times) in &found.mended {
        ConstCounter::new(*times).encode(family.encode_family(&ProgramLabel { program })?)?;
    }
    Ok(())
}

pub fn encode_programs(page: &mut DescriptorEncoder<'_>, health: Option<&Health>) -> Result<(), fmt::Error> {
    let programs = health.map(|health| health.programs.as_slice()).unwrap_or_default();
    let loaded = programs.iter().filter(|program| program.availability == Availability::Attached).count();
    gauge(
        page,
        "bpf_programs_loaded",
        "Kernel programs that are attached; alarm when it is below what the host can do",
        loaded as u64,
    )?;
    let Some(health) = health else { return Ok(()) };
    let mut family = page.encode_descriptor(
        "agent_bpf_events_lost",
        "Events that a kernel program should have counted and could not; alarm when it grows",
        None,
        MetricType::Counter,
    )?;
    for program in programs {
        let labels = ProgramLabel { program: program.program.name() };
        ConstCounter::new(program.lost).encode(family.encode_family(&labels)?)?;
    }
    let mut family = page.encode_descriptor(
        "agent_bpf_events",
        "Events that a kernel program counted for tasks",
        None,
        MetricType::Counter,
    )?;
    for program in programs {
        let labels = ProgramLabel { program: program.program.name() };
        ConstCounter::new(program.counted).encode(family.encode_family(&labels)?)?;
    }
    let mut family = page.encode_descriptor(
        "agent_bpf_map_entries",
        "Entries in a map of the kernel programs; alarm when it nears the capacity",
        None,
        MetricType::Gauge,
    )?;
    for map in &health.maps {
        ConstGauge::new(map.used).encode(family.encode_family(&MapLabel { map: map.map })?)?;
    }
    let mut family = page.encode_descriptor(
        "agent_bpf_map_capacity",
        "Entries that a map of the kernel programs can hold",
        None,
        MetricType::Gauge,
    )?;
    for map in &health.maps {
        ConstGauge::new(map.capacity).encode(family.encode_family(&MapLabel { map: map.map })?)?;
    }
    Ok(())
}
