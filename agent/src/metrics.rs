//! What `/metrics` shows: every figure of the agent, each with a sentence of help.
//!
//! Counters and histograms fill as things happen; the rest is read from its owner when the page is asked
//! for. A figure that nobody could measure is absent. Names are `agent_<thing>_<unit>`; the registry adds
//! `muster_`.
//!
//! ## Design
//!
//! The page has two forms, as the coordinator's: OpenMetrics for who asks for it, and the older text format,
//! in which a counter's family is called like its sample, for everybody else.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use model::{Figure, Histogram as Latencies, Kind, TaskId, TaskState, Usage};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    actor::{Rounds, Sample, Samples, Snapshot},
    meter::{Cost, Found, Watch},
    sys::bpf::{Availability, Block, Health, Programs},
};

/// What fills as things happen.
#[derive(Debug)]
pub struct Metrics {
    /// From the assignment to the running command.
    pub task_launch: Histogram,
    pub launches_failed: Counter<u64, AtomicU64>,
    pub sessions_welcomed: Counter<u64, AtomicU64>,
    /// Looks at a disk that was short of room.
    pub disk_short: Counter<u64, AtomicU64>,
    /// Sessions that were given up because the coordinator did not keep up.
    pub session_overruns: Counter<u64, AtomicU64>,
    /// Tasks of an earlier agent that this one looked for.
    pub adopted_tasks: Gauge,
    /// From the agent's start until the last of them was in hand.
    pub adoption_seconds: Gauge<f64, AtomicU64>,
    pub fetch: FetchMetrics,
    pub health_probes: Family<OutcomeLabel, Counter<u64, AtomicU64>>,
    /// Unhealthy tasks that were not killed, because too many were.
    pub health_kills_withheld: Counter<u64, AtomicU64>,
    pub channels_open: Gauge,
    pub channels_opened: Family<PurposeLabel, Counter<u64, AtomicU64>>,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    pub outcome: &'static str,
}

/// What a channel is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PurposeLabel {
    pub purpose: &'static str,
}

/// What fetching files for tasks comes to. Clones share their figures.
#[derive(Debug, Clone, Default)]
pub struct FetchMetrics {
    /// Tasks whose files are on their way or wait for their turn.
    pub jobs: Gauge,
    pub downloads: Counter<u64, AtomicU64>,
    pub downloaded_bytes: Counter<u64, AtomicU64>,
    pub failures: Family<FetchKindLabel, Counter<u64, AtomicU64>>,
    pub cache_hits: Counter<u64, AtomicU64>,
    pub cache_misses: Counter<u64, AtomicU64>,
    pub cache_evictions: Counter<u64, AtomicU64>,
    pub cache_damaged: Counter<u64, AtomicU64>,
    pub cache_bytes: Gauge,
}

/// One of [`crate::fetch::Kind::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FetchKindLabel {
    pub kind: &'static str,
}

impl FetchMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "agent_fetch_jobs",
            "Tasks whose files are being fetched, or wait for it; alarm when it stays high",
            self.jobs.clone(),
        );
        registry.register("agent_fetch_downloads", "Files downloaded for tasks", self.downloads.clone());
        registry.register_with_unit(
            "agent_fetch_downloaded",
            "Bytes downloaded for tasks",
            Unit::Bytes,
            self.downloaded_bytes.clone(),
        );
        registry.register(
            "agent_fetch_failures",
            "Tasks that did not get their files, by what was wrong; alarm when it grows",
            self.failures.clone(),
        );
        registry.register(
            "agent_fetch_cache_hits",
            "Files that came from the cache",
            self.cache_hits.clone(),
        );
        registry.register(
            "agent_fetch_cache_misses",
            "Files with a digest that were not in the cache",
            self.cache_misses.clone(),
        );
        registry.register(
            "agent_fetch_cache_evictions",
            "Files that left the cache for others; when it grows as fast as the misses, the cache is too small",
            self.cache_evictions.clone(),
        );
        registry.register(
            "agent_fetch_cache_damaged",
            "Cached files that were not what their digest says; alarm when it grows: the disk may be failing",
            self.cache_damaged.clone(),
        );
        registry.register_with_unit(
            "agent_fetch_cache",
            "Size of all files in the cache",
            Unit::Bytes,
            self.cache_bytes.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // 1 ms to 33 s.
            task_launch: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            launches_failed: Counter::default(),
            sessions_welcomed: Counter::default(),
            disk_short: Counter::default(),
            session_overruns: Counter::default(),
            adopted_tasks: Gauge::default(),
            adoption_seconds: Gauge::default(),
            health_probes: Family::default(),
            health_kills_withheld: Counter::default(),
            channels_open: Gauge::default(),
            channels_opened: Family::default(),
            fetch: FetchMetrics::default(),
        }
    }
}

/// The page.
pub struct Page {
    registry: Registry,
    shared: Arc<Shared>,
}

/// In which of the two text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Classic,
}

impl Format {
    /// What the `Accept` header asks for.
    pub fn wanted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Page {
    /// `programs`: where there are any, and what was found out about them.
    pub fn new(
        metrics: &Metrics,
        rounds: Arc<Rounds>,
        programs: Option<(Arc<Programs>, Arc<Watch>)>,
    ) -> Self {
        let mut registry = Registry::with_prefix("muster");
        registry.register_with_unit(
            "agent_task_launch",
            "How long tasks took from their assignment to the running command",
            Unit::Seconds,
            metrics.task_launch.clone(),
        );
        registry.register(
            "agent_launches_failed",
            "Tasks whose command could not be started; alarm when it grows",
            metrics.launches_failed.clone(),
        );
        registry.register(
            "agent_sessions_welcomed",
            "How often a coordinator welcomed this agent; alarm when it grows often",
            metrics.sessions_welcomed.clone(),
        );
        registry.register(
            "agent_disk_short_looks",
            "How often, once a second, the data directory's disk had less than 16 MiB left; alarm when it grows",
            metrics.disk_short.clone(),
        );
        registry.register(
            "agent_session_overruns",
            "Sessions that were given up because the coordinator did not keep up",
            metrics.session_overruns.clone(),
        );
        registry.register(
            "agent_adopted_tasks",
            "Tasks of an earlier agent that this one took in hand at its start",
            metrics.adopted_tasks.clone(),
        );
        registry.register_with_unit(
            "agent_adoption",
            "From the start of the agent until every task of the earlier one was in hand",
            Unit::Seconds,
            metrics.adoption_seconds.clone(),
        );
        registry.register(
            "agent_channels_open",
            "Conversations with tasks that are under way: exec, copies of files and the like",
            metrics.channels_open.clone(),
        );
        registry.register(
            "agent_channels_opened",
            "Conversations with tasks since the agent's start, by purpose",
            metrics.channels_opened.clone(),
        );
        metrics.fetch.register(&mut registry);
        registry.register(
            "agent_health_probes",
            "Questions that health checks asked, by their outcome",
            metrics.health_probes.clone(),
        );
        registry.register(
            "agent_health_kills_withheld",
            "Unhealthy tasks that were not killed because too many had been; alarm when it grows",
            metrics.health_kills_withheld.clone(),
        );
        let shared = Arc::new(Shared { rounds, programs, snapshot: Mutex::new(None) });
        registry.register_collector(Box::new(Figures(shared.clone())));
        Self { registry, shared }
    }

    /// `snapshot`: of the actor, where it answered.
    pub fn render(&self, snapshot: Option<Snapshot>, format: Format) -> Result<String, fmt::Error> {
        *self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(match format {
            Format::OpenMetrics => page,
            Format::Classic => classic(&page),
        })
    }
}

/// The same page with the names of the older format.
fn classic(page: &str) -> String {
    let counters: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")))
        .collect();
    let mut text = String::with_capacity(page.len());
    for line in page.lines() {
        // The older format knows neither units nor an end.
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let named = ["# HELP ", "# TYPE "].iter().find_map(|start| {
            let (name, rest) = line.strip_prefix(start)?.split_once(' ')?;
            counters.contains(&name).then(|| format!("{start}{name}_total {rest}"))
        });
        text += named.as_deref().unwrap_or(line);
        text.push('\n');
    }
    text
}

struct Shared {
    rounds: Arc<Rounds>,
    programs: Option<(Arc<Programs>, Arc<Watch>)>,
    snapshot: Mutex<Option<Snapshot>>,
}

/// Figures that others keep, read when the page is asked for.
struct Figures(Arc<Shared>);

impl fmt::Debug for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Figures")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task_id: String,
    framework: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabel {
    health: &'static str,
}

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

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let page = &mut encoder;
        let samples = self.0.rounds.samples();
        encode_tasks(page, &samples)?;
        encode_sums(page, &samples)?;
        encode_own(page)?;
        if let Some(snapshot) = &*self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner) {
            encode_snapshot(page, snapshot)?;
        }
        // Without an answer of the kernel's there is no figure.
        let Some((programs, watch)) = &self.0.programs else { return encode_programs(page, None) };
        if let Ok(Some(devices)) = programs.devices() {
            encode_devices(page, &devices)?;
        }
        encode_programs(page, programs.health().ok().as_ref())?;
        encode_watch(page, &watch.found())
    }
}

/// A figure of one task: how it is called and explained.
struct TaskFigure {
    figure: Figure,
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    /// In that unit.
    scale: fn(u64) -> f64,
}

impl TaskFigure {
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

const TASK_FIGURES: &[TaskFigure] = &[
    TaskFigure::new(Figure::CpuNs, "cpu", "CPU time that the task used", Some(Unit::Seconds), seconds),
    TaskFigure::new(
        Figure::CpuUserNs,
        "cpu_user",
        "CPU time outside the kernel, by samples of the clock tick",
        Some(Unit::Seconds),
        seconds,
    ),
    TaskFigure::new(
        Figure::CpuSystemNs,
        "cpu_system",
        "CPU time inside the kernel, by samples of the clock tick",
        Some(Unit::Seconds),
        seconds,
    ),
    TaskFigure::new(
        Figure::CpuThrottledNs,
        "cpu_throttled",
        "Time during which the CPU limit held the task back",
        Some(Unit::Seconds),
        seconds,
    ),
    TaskFigure::new(
        Figure::CpuPeriods,
        "cpu_periods",
        "Periods of the CPU limit in which the task ran",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::CpuPeriodsThrottled,
        "cpu_periods_throttled",
        "Periods of the CPU limit in which it held the task back",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::RunQueueNs,
        "run_queue",
        "Time that runnable threads waited for a CPU",
        Some(Unit::Seconds),
        seconds,
    ),
    TaskFigure::new(
        Figure::SwitchesVoluntary,
        "switches_voluntary",
        "Threads left the CPU because they waited for something",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::SwitchesInvoluntary,
        "switches_involuntary",
        "Threads left the CPU though they could have gone on",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::MemoryBytes,
        "memory_usage",
        "Memory charged to the task",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::MemoryWorkingSetBytes,
        "memory_working_set",
        "Memory charged to the task, less the file cache that may be dropped at once",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::MemoryLimitBytes,
        "memory_limit",
        "Memory limit of the task",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::MemoryAnonBytes,
        "memory_anon",
        "Memory that no file stands behind",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::MemoryFileBytes,
        "memory_file",
        "File cache, shared memory included",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::MemoryShmemBytes,
        "memory_shmem",
        "Shared memory and tmpfs",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::MemoryKernelBytes,
        "memory_kernel",
        "The kernel's own structures for the task",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::MemorySwapBytes,
        "memory_swap",
        "Memory of the task that is swapped out",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::MemoryPeakBytes,
        "memory_peak",
        "The most memory that was ever charged",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::OomKills,
        "oom_kills",
        "Processes of the task that the kernel killed for want of memory",
        None,
        number,
    ),
    TaskFigure::new(Figure::FaultsMinor, "faults_minor", "Page faults that needed no disk", None, number),
    TaskFigure::new(Figure::FaultsMajor, "faults_major", "Page faults that waited for a disk", None, number),
    TaskFigure::new(
        Figure::ReclaimStalls,
        "reclaim_stalls",
        "How often a thread had to free memory before it got any",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::ReclaimStallNs,
        "reclaim_stalled",
        "Time that threads spent freeing memory before they got any",
        Some(Unit::Seconds),
        seconds,
    ),
    TaskFigure::new(
        Figure::PressureCpuSomeUs,
        "pressure_cpu_some",
        "Time in which some thread wanted a CPU and had none",
        Some(Unit::Seconds),
        micros,
    ),
    TaskFigure::new(
        Figure::PressureCpuFullUs,
        "pressure_cpu_full",
        "Time in which all threads that had work wanted a CPU and had none",
        Some(Unit::Seconds),
        micros,
    ),
    TaskFigure::new(
        Figure::PressureMemorySomeUs,
        "pressure_memory_some",
        "Time in which some thread waited for memory",
        Some(Unit::Seconds),
        micros,
    ),
    TaskFigure::new(
        Figure::PressureMemoryFullUs,
        "pressure_memory_full",
        "Time in which all threads that had work waited for memory",
        Some(Unit::Seconds),
        micros,
    ),
    TaskFigure::new(
        Figure::PressureIoSomeUs,
        "pressure_io_some",
        "Time in which some thread waited for block I/O",
        Some(Unit::Seconds),
        micros,
    ),
    TaskFigure::new(
        Figure::PressureIoFullUs,
        "pressure_io_full",
        "Time in which all threads that had work waited for block I/O",
        Some(Unit::Seconds),
        micros,
    ),
    TaskFigure::new(
        Figure::BlockReadBytes,
        "block_read",
        "Bytes that the task caused to be read from block devices",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::BlockWriteBytes,
        "block_written",
        "Bytes that the task caused to be written to block devices",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::BlockReadOperations,
        "block_reads",
        "Finished read requests of block devices; absent where the kernel can't tell whose they are",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::BlockWriteOperations,
        "block_writes",
        "Finished write requests of block devices; absent where the kernel can't tell whose they are",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::BlockNs,
        "block_io",
        "Time that block requests took, added up",
        Some(Unit::Seconds),
        seconds,
    ),
    TaskFigure::new(
        Figure::NetworkReceivedBytes,
        "network_received",
        "Bytes of IP packets that the task's sockets received",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::NetworkReceivedPackets,
        "network_received_packets",
        "Packets that the task's sockets received",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::NetworkSentBytes,
        "network_sent",
        "Bytes of IP packets that the task's sockets sent",
        Some(Unit::Bytes),
        number,
    ),
    TaskFigure::new(
        Figure::NetworkSentPackets,
        "network_sent_packets",
        "Packets that the task's sockets sent",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::NetworkRetransmits,
        "network_retransmits",
        "TCP segments that the task sent again",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::ConnectionsOpened,
        "connections_opened",
        "TCP connections that the task opened",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::ConnectionsAccepted,
        "connections_accepted",
        "TCP connections that others opened to the task",
        None,
        number,
    ),
    TaskFigure::new(
        Figure::ConnectionsFailed,
        "connections_failed",
        "TCP connections that did not come about",
        None,
        number,
    ),
    TaskFigure::new(Figure::Processes, "processes", "Processes of the task", None, number),
    TaskFigure::new(Figure::Threads, "threads", "Threads of the task", None, number),
    TaskFigure::new(Figure::Forks, "forks", "Processes that the task made", None, number),
    TaskFigure::new(Figure::Execs, "execs", "Programs that the task started", None, number),
];

fn encode_tasks(page: &mut DescriptorEncoder<'_>, samples: &Samples) -> Result<(), fmt::Error> {
    for figure in TASK_FIGURES {
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
fn encode_latencies(counts: &[u64], sum_ns: u64, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
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
    for figure in TASK_FIGURES {
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

/// Requests of the host's block devices, whoever made them.
fn encode_devices(
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
fn encode_watch(page: &mut DescriptorEncoder<'_>, found: &Found) -> Result<(), fmt::Error> {
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
        ConstCounter::new(*times).encode(family.encode_family(&ProgramLabel { program: program.name() })?)?;
    }
    Ok(())
}

/// What the agent itself costs.
fn encode_own(page: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let (user, system) = (usage.user_time(), usage.system_time());
        let us = user.num_microseconds() + system.num_microseconds();
        let one = page.encode_descriptor(
            "agent_cpu",
            "CPU time that the agent itself used",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        ConstCounter::new(us as f64 / 1e6).encode(one)?;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    if let Some(kib) = resident {
        let one = page.encode_descriptor(
            "agent_memory_resident",
            "Resident memory of the agent itself",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?;
        ConstGauge::new(number(kib << 10)).encode(one)?;
    }
    Ok(())
}

fn encode_snapshot(page: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> Result<(), fmt::Error> {
    let mut family = page.encode_descriptor(
        "agent_tasks",
        "Tasks by state, ended ones while their output is kept",
        None,
        MetricType::Gauge,
    )?;
    for state in TaskState::ALL {
        let count = snapshot.states.get(state).copied().unwrap_or(0);
        ConstGauge::new(count).encode(family.encode_family(&StateLabel { state: state.as_str() })?)?;
    }
    let mut family = page.encode_descriptor(
        "agent_tasks_checked",
        "Running tasks with a health check, by their health; alarm when many are unhealthy",
        None,
        MetricType::Gauge,
    )?;
    for health in model::Health::ALL {
        let count = snapshot.healths.get(health).copied().unwrap_or(0);
        ConstGauge::new(count).encode(family.encode_family(&HealthLabel { health: health.as_str() })?)?;
    }
    gauge(
        page,
        "statuses_unacknowledged",
        "Statuses that the coordinator has not acknowledged; alarm when it stays high",
        snapshot.statuses_unacknowledged,
    )?;
    gauge(
        page,
        "session_is_open",
        "1 while a coordinator knows this agent; alarm when it stays 0",
        u64::from(snapshot.is_connected),
    )
}

fn encode_programs(page: &mut DescriptorEncoder<'_>, health: Option<&Health>) -> Result<(), fmt::Error> {
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

fn gauge(page: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    let name = format!("agent_{name}");
    ConstGauge::new(value).encode(page.encode_descriptor(&name, help, None, MetricType::Gauge)?)
}

fn micros(us: u64) -> f64 {
    number(us) / 1e6
}

fn seconds(ns: u64) -> f64 {
    number(ns) / 1e9
}

/// Exact to 2^53, which is 9 PB or 104 days of nanoseconds; a page has nothing finer than doubles.
fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use model::{FrameworkId, Timestamp};

    fn page(samples: &Samples) -> String {
        let mut registry = Registry::with_prefix("muster");
        #[derive(Debug)]
        struct Fixed(Samples);
        impl Collector for Fixed {
            fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
                encode_tasks(&mut encoder, &self.0)?;
                encode_sums(&mut encoder, &self.0)
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
    fn every_figure_of_a_task_is_on_the_page_once() {
        let mut shown: Vec<Figure> = TASK_FIGURES.iter().map(|figure| figure.figure).collect();
        // A host's alone.
        shown.push(Figure::LoadMilli);
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
            # HELP muster_agent_task_cpu_seconds_total CPU time that the task used
            # TYPE muster_agent_task_cpu_seconds_total counter
            muster_agent_task_cpu_seconds_total{task_id="t0",framework="run"} 1.5
            # HELP muster_agent_task_processes Processes of the task
            # TYPE muster_agent_task_processes gauge
            muster_agent_task_processes{task_id="t0",framework="run"} 2.0
            muster_agent_task_processes{task_id="t1",framework="run"} 1.0
            # HELP muster_agent_tasks_processes Sum over all tasks: Processes of the task
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
}
