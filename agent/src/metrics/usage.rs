//! What tasks, all of them together, and the host use.
//!
//! One table names every figure; what was not measured is absent, and a sum of which a part is unknown is, too.

use std::fmt;

use model::{Figure, Histogram as Latencies, Kind, TaskId, Usage};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::number;
use crate::actor::{Sample, Samples};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task_id: String,
    framework: String,
}

/// A figure of a task, of all tasks or of the host: how it is called and explained.
struct Shown {
    figure: Figure,
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    /// In that unit.
    scale: fn(u64) -> f64,
}

impl Shown {
    const fn new(
        figure: Figure,
        name: &'static str,
        help: &'static str,
        unit: Option<Unit>,
        scale: fn(u64) -> f64,
    ) -> Self {
        Self { figure, name, help, unit, scale }
    }

    fn read(&self, usage: &Usage) -> Option<f64> {
        usage.get(self.figure).map(self.scale)
    }

    fn metric_type(&self) -> MetricType {
        match self.figure.kind() {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        }
    }

    fn encode(&self, value: f64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self.figure.kind() {
            Kind::Counter => ConstCounter::new(value).encode(encoder),
            Kind::Gauge => ConstGauge::new(value).encode(encoder),
        }
    }
}

const SHOWN: &[Shown] = &[
    Shown::new(Figure::CpuNs, "cpu", "CPU time used", Some(Unit::Seconds), seconds),
    Shown::new(
        Figure::CpuUserNs,
        "cpu_user",
        "CPU time outside the kernel, by samples of the clock tick",
        Some(Unit::Seconds),
        seconds,
    ),
    Shown::new(
        Figure::CpuSystemNs,
        "cpu_system",
        "CPU time inside the kernel, by samples of the clock tick",
        Some(Unit::Seconds),
        seconds,
    ),
    Shown::new(
        Figure::CpuThrottledNs,
        "cpu_throttled",
        "Time during which the CPU limit held something back",
        Some(Unit::Seconds),
        seconds,
    ),
    Shown::new(
        Figure::CpuPeriods,
        "cpu_periods",
        "Periods of the CPU limit in which something ran",
        None,
        number,
    ),
    Shown::new(
        Figure::CpuPeriodsThrottled,
        "cpu_periods_throttled",
        "Periods of the CPU limit in which it held something back",
        None,
        number,
    ),
    Shown::new(
        Figure::RunQueueNs,
        "run_queue",
        "Time that runnable threads waited for a CPU",
        Some(Unit::Seconds),
        seconds,
    ),
    Shown::new(
        Figure::SwitchesVoluntary,
        "switches_voluntary",
        "Threads left the CPU because they waited for something",
        None,
        number,
    ),
    Shown::new(
        Figure::SwitchesInvoluntary,
        "switches_involuntary",
        "Threads left the CPU though they could have gone on",
        None,
        number,
    ),
    Shown::new(Figure::MemoryBytes, "memory_usage", "Memory charged", Some(Unit::Bytes), number),
    Shown::new(
        Figure::MemoryWorkingSetBytes,
        "memory_working_set",
        "Memory charged, less the file cache that may be dropped at once",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(Figure::MemoryLimitBytes, "memory_limit", "Memory limit", Some(Unit::Bytes), number),
    Shown::new(
        Figure::MemoryAnonBytes,
        "memory_anon",
        "Memory that no file stands behind",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::MemoryFileBytes,
        "memory_file",
        "File cache, shared memory included",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::MemoryShmemBytes,
        "memory_shmem",
        "Shared memory and tmpfs",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::MemoryKernelBytes,
        "memory_kernel",
        "The kernel's own structures",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::MemorySwapBytes,
        "memory_swap",
        "Memory that is swapped out",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::MemoryPeakBytes,
        "memory_peak",
        "The most memory that was ever charged",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::OomKills,
        "oom_kills",
        "Processes that the kernel killed for want of memory",
        None,
        number,
    ),
    Shown::new(Figure::FaultsMinor, "faults_minor", "Page faults that needed no disk", None, number),
    Shown::new(Figure::FaultsMajor, "faults_major", "Page faults that waited for a disk", None, number),
    Shown::new(
        Figure::ReclaimStalls,
        "reclaim_stalls",
        "How often a thread had to free memory before it got any",
        None,
        number,
    ),
    Shown::new(
        Figure::ReclaimStallNs,
        "reclaim_stalled",
        "Time that threads spent freeing memory before they got any",
        Some(Unit::Seconds),
        seconds,
    ),
    Shown::new(
        Figure::PressureCpuSomeUs,
        "pressure_cpu_some",
        "Time in which some thread wanted a CPU and had none",
        Some(Unit::Seconds),
        micros,
    ),
    Shown::new(
        Figure::PressureCpuFullUs,
        "pressure_cpu_full",
        "Time in which all threads that had work wanted a CPU and had none",
        Some(Unit::Seconds),
        micros,
    ),
    Shown::new(
        Figure::PressureMemorySomeUs,
        "pressure_memory_some",
        "Time in which some thread waited for memory",
        Some(Unit::Seconds),
        micros,
    ),
    Shown::new(
        Figure::PressureMemoryFullUs,
        "pressure_memory_full",
        "Time in which all threads that had work waited for memory",
        Some(Unit::Seconds),
        micros,
    ),
    Shown::new(
        Figure::PressureIoSomeUs,
        "pressure_io_some",
        "Time in which some thread waited for block I/O",
        Some(Unit::Seconds),
        micros,
    ),
    Shown::new(
        Figure::PressureIoFullUs,
        "pressure_io_full",
        "Time in which all threads that had work waited for block I/O",
        Some(Unit::Seconds),
        micros,
    ),
    Shown::new(
        Figure::BlockReadBytes,
        "block_read",
        "Bytes read from block devices",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::BlockWriteBytes,
        "block_written",
        "Bytes written to block devices",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::BlockReadOperations,
        "block_reads",
        "Finished read requests of block devices; absent where the kernel can't tell whose they are",
        None,
        number,
    ),
    Shown::new(
        Figure::BlockWriteOperations,
        "block_writes",
        "Finished write requests of block devices; absent where the kernel can't tell whose they are",
        None,
        number,
    ),
    Shown::new(
        Figure::BlockNs,
        "block_io",
        "Time that block requests took, added up",
        Some(Unit::Seconds),
        seconds,
    ),
    Shown::new(
        Figure::NetworkReceivedBytes,
        "network_received",
        "Bytes received in IP packets",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(
        Figure::NetworkReceivedPackets,
        "network_received_packets",
        "IP packets received",
        None,
        number,
    ),
    Shown::new(
        Figure::NetworkSentBytes,
        "network_sent",
        "Bytes sent in IP packets",
        Some(Unit::Bytes),
        number,
    ),
    Shown::new(Figure::NetworkSentPackets, "network_sent_packets", "IP packets sent", None, number),
    Shown::new(Figure::NetworkRetransmits, "network_retransmits", "TCP segments sent again", None, number),
    Shown::new(Figure::ConnectionsOpened, "connections_opened", "TCP connections opened", None, number),
    Shown::new(
        Figure::ConnectionsAccepted,
        "connections_accepted",
        "TCP connections that others opened",
        None,
        number,
    ),
    Shown::new(
        Figure::ConnectionsFailed,
        "connections_failed",
        "TCP connections that did not come about",
        None,
        number,
    ),
    Shown::new(Figure::Processes, "processes", "Processes", None, number),
    Shown::new(Figure::Threads, "threads", "Threads", None, number),
    Shown::new(Figure::Forks, "forks", "Processes made", None, number),
    Shown::new(Figure::Execs, "execs", "Programs started", None, number),
    Shown::new(Figure::LoadMilli, "load", "Load average over a minute", None, thousandths),
];

/// Everything that is known of what is used.
pub fn encode(page: &mut DescriptorEncoder<'_>, samples: &Samples) -> Result<(), fmt::Error> {
    encode_tasks(page, samples)?;
    encode_sums(page, samples)?;
    encode_host(page, samples)
}

fn encode_tasks(page: &mut DescriptorEncoder<'_>, samples: &Samples) -> Result<(), fmt::Error> {
    for figure in SHOWN {
        let name = format!("agent_task_{}", figure.name);
        let measured: Vec<_> = samples
            .live
            .iter()
            .filter_map(|(task_id, sample)| Some((labels(task_id, sample), figure.read(&sample.usage)?)))
            .collect();
        // A name without a single value is nothing to show.
        if measured.is_empty() {
            continue;
        }
        let mut family =
            page.encode_descriptor(&name, figure.help, figure.unit.as_ref(), figure.metric_type())?;
        for (labels, value) in measured {
            figure.encode(value, family.encode_family(&labels)?)?;
        }
    }
    encode_task_latencies(
        page,
        samples,
        "agent_task_run_queue_latency",
        "How long each runnable thread waited for a CPU",
        |usage| Some((usage.run_queue_latency.as_ref()?, usage.get(Figure::RunQueueNs)?)),
    )?;
    encode_task_latencies(
        page,
        samples,
        "agent_task_block_latency",
        "How long each block request took; absent where the kernel can't tell whose it is",
        |usage| Some((usage.block_latency.as_ref()?, usage.get(Figure::BlockNs)?)),
    )
}

fn labels(task_id: &TaskId, sample: &Sample) -> TaskLabels {
    TaskLabels { task_id: task_id.as_str().to_owned(), framework: sample.framework_id.as_str().to_owned() }
}

/// One histogram of each task that has it, given the counts and the sum of all that was counted.
fn encode_task_latencies(
    page: &mut DescriptorEncoder<'_>,
    samples: &Samples,
    name: &str,
    help: &str,
    read: fn(&Usage) -> Option<(&Latencies, u64)>,
) -> Result<(), fmt::Error> {
    let mut measured =
        samples.live.iter().filter_map(|(id, sample)| Some((id, sample, read(&sample.usage)?)));
    let Some(first) = measured.next() else { return Ok(()) };
    let mut family = page.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (task_id, sample, (latencies, sum_ns)) in std::iter::once(first).chain(measured) {
        encode_latencies(latencies.counts(), sum_ns, family.encode_family(&labels(task_id, sample))?)?;
    }
    Ok(())
}

/// Two of our buckets are one on the page: a factor of four from one to the next is enough there.
pub fn encode_latencies(
    counts: &[u64],
    sum_ns: u64,
    mut encoder: MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    let bucket = |place: usize| {
        let count = [place, place + 1].iter().filter_map(|place| counts.get(*place)).sum();
        let end = Latencies::end_of(place + 1);
        (end.map_or(f64::INFINITY, |end| end.as_nanos() as f64 / 1e9), count)
    };
    let buckets: Vec<(f64, u64)> = (0..Latencies::BUCKETS).step_by(2).map(bucket).collect();
    encoder.encode_histogram::<NoLabelSet>(seconds(sum_ns), counts.iter().sum(), &buckets, None)
}

/// Over all tasks: those that run, and for counters those that ended too.
fn encode_sums(page: &mut DescriptorEncoder<'_>, samples: &Samples) -> Result<(), fmt::Error> {
    for figure in SHOWN {
        let values: Vec<f64> =
            samples.live.values().filter_map(|sample| figure.read(&sample.usage)).collect();
        let before = samples.ended.get(&figure.figure).copied();
        // Of some tasks not measured the sum would be wrong, and wrong isn't shown; nor is one that nobody measured.
        if values.len() < samples.live.len() || values.is_empty() && before.is_none() {
            continue;
        }
        let name = format!("agent_tasks_{}", figure.name);
        let help = format!("Sum over all tasks: {}", figure.help);
        let sum = before.map_or(0.0, figure.scale) + values.iter().sum::<f64>();
        let one = page.encode_descriptor(&name, &help, figure.unit.as_ref(), figure.metric_type())?;
        figure.encode(sum, one)?;
    }
    Ok(())
}

/// The host's own, where the kernel tells them.
fn encode_host(page: &mut DescriptorEncoder<'_>, samples: &Samples) -> Result<(), fmt::Error> {
    let Some(host) = &samples.host else { return Ok(()) };
    for figure in SHOWN {
        let Some(value) = figure.read(host) else { continue };
        let name = format!("agent_host_{}", figure.name);
        let help = format!("Of the whole host: {}", figure.help);
        let one = page.encode_descriptor(&name, &help, figure.unit.as_ref(), figure.metric_type())?;
        figure.encode(value, one)?;
    }
    Ok(())
}

fn micros(us: u64) -> f64 {
    number(us) / 1e6
}

fn thousandths(value: u64) -> f64 {
    number(value) / 1e3
}

fn seconds(ns: u64) -> f64 {
    number(ns) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::Sample;
    use crate::metrics::classic;
    use expect_test::expect;
    use model::{FrameworkId, Timestamp};
    use prometheus_client::{collector::Collector, encoding::text, registry::Registry};
    use std::collections::BTreeMap;

    fn page(samples: &Samples) -> String {
        let mut registry = Registry::with_prefix("muster");
        #[derive(Debug)]
        struct Fixed(Samples);
        impl Collector for Fixed {
            fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
                super::encode(&mut encoder, &self.0)
            }
        }
        registry.register_collector(Box::new(Fixed(samples.clone())));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        classic(&page)
    }

    fn samples(usages: &[Usage]) -> Samples {
        let live = usages.iter().enumerate().map(|(place, usage)| {
            let sample = Sample { framework_id: FrameworkId::new("run").unwrap(), usage: usage.clone() };
            (TaskId::new(&format!("t{place}")).unwrap(), sample)
        });
        Samples {
            live: live.collect(),
            ended: BTreeMap::from([(Figure::CpuNs, 500_000_000)]),
            ..Samples::default()
        }
    }

    fn usage() -> Usage {
        Usage::new(Timestamp(0))
    }

    #[test]
    fn every_figure_is_on_the_page_once() {
        let mut shown: Vec<Figure> = SHOWN.iter().map(|figure| figure.figure).collect();
        shown.sort();
        assert_eq!(shown, Figure::ALL);
    }

    #[test]
    fn latencies_are_shown_in_coarser_buckets_that_lose_nothing() {
        let mut usage = usage().with(Figure::RunQueueNs, 5_000_000_000);
        usage.run_queue_latency = Some(Latencies::of_counts([3, 4, 5].into_iter().chain([0; 22]).chain([1])));
        let text = page(&samples(&[usage]));
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("latency")).collect();
        let labels = r#"task_id="t0",framework="run""#;
        let bucket = |le: &str, count: u64| {
            format!(r#"muster_agent_task_run_queue_latency_seconds_bucket{{le="{le}",{labels}}} {count}"#)
        };
        assert!(lines.contains(&&*bucket("0.000002048", 7)), "{text}");
        assert!(lines.contains(&&*bucket("+Inf", 13)), "{text}");
        let sum = format!("muster_agent_task_run_queue_latency_seconds_sum{{{labels}}} 5.0");
        assert!(lines.contains(&&*sum), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_not_shown() {
        let usage = usage().with(Figure::CpuNs, 1_500_000_000).with(Figure::Processes, 2);
        expect![[r##"
            # HELP muster_agent_task_cpu_seconds_total CPU time used
            # TYPE muster_agent_task_cpu_seconds_total counter
            muster_agent_task_cpu_seconds_total{task_id="t0",framework="run"} 1.5
            # HELP muster_agent_task_processes Processes
            # TYPE muster_agent_task_processes gauge
            muster_agent_task_processes{task_id="t0",framework="run"} 2.0
            muster_agent_task_processes{task_id="t1",framework="run"} 1.0
            # HELP muster_agent_tasks_processes Sum over all tasks: Processes
            # TYPE muster_agent_tasks_processes gauge
            muster_agent_tasks_processes 3.0
        "##]]
        .assert_eq(&page(&samples(&[usage, self::usage().with(Figure::Processes, 1)])));
    }

    #[test]
    fn ended_tasks_stay_in_the_sums() {
        let text = page(&samples(&[]));
        assert!(text.contains("muster_agent_tasks_cpu_seconds_total 0.5"), "{text}");
        assert!(!text.contains("task_id"), "{text}");
    }

    #[test]
    fn the_host_has_the_same_figures_and_its_load() {
        let host = usage().with(Figure::CpuNs, 2_000_000_000).with(Figure::LoadMilli, 1_250);
        expect![[r##"
            # HELP muster_agent_host_cpu_seconds_total Of the whole host: CPU time used
            # TYPE muster_agent_host_cpu_seconds_total counter
            muster_agent_host_cpu_seconds_total 2.0
            # HELP muster_agent_host_load Of the whole host: Load average over a minute
            # TYPE muster_agent_host_load gauge
            muster_agent_host_load 1.25
        "##]]
        .assert_eq(&page(&Samples { host: Some(host), ..Samples::default() }));
    }
}
