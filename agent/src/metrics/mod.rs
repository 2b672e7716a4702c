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

mod kernel;
mod usage;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use model::TaskState;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
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
    actor::{Rounds, Snapshot},
    meter::Watch,
    sys::bpf::Programs,
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
    pub ports_undeclared: Family<PortLabel, Counter<u64, AtomicU64>>,
}

/// What was done about a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PortLabel {
    pub how: &'static str,
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
            ports_undeclared: Family::default(),
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
    /// `programs`: where there are any; `watch`: what was found out about them.
    pub fn new(
        metrics: &Metrics,
        rounds: Arc<Rounds>,
        programs: Option<Arc<Programs>>,
        watch: Arc<Watch>,
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
        registry.register(
            "agent_ports_undeclared",
            "Ports that tasks used and had not declared, each once for a task, by what was done; when it grows, \
             `muster task list` says whose",
            metrics.ports_undeclared.clone(),
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
        let shared = Arc::new(Shared { rounds, programs, watch, snapshot: Mutex::new(None) });
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
    programs: Option<Arc<Programs>>,
    watch: Arc<Watch>,
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
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabel {
    health: &'static str,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let page = &mut encoder;
        usage::encode(page, &self.0.rounds.samples())?;
        encode_own(page)?;
        if let Some(snapshot) = &*self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner) {
            encode_snapshot(page, snapshot)?;
        }
        // Without an answer of the kernel's there is no figure.
        let programs = self.0.programs.as_ref();
        if let Some(devices) = programs.and_then(|programs| programs.devices().ok()?) {
            kernel::encode_devices(page, &devices)?;
        }
        kernel::encode_programs(page, programs.and_then(|programs| programs.health().ok()).as_ref())?;
        kernel::encode_watch(page, &self.0.watch.found())
    }
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

fn gauge(page: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    let name = format!("agent_{name}");
    ConstGauge::new(value).encode(page.encode_descriptor(&name, help, None, MetricType::Gauge)?)
}

/// Exact to 2^53, which is 9 PB or 104 days of nanoseconds; a page has nothing finer than doubles.
fn number(value: u64) -> f64 {
    value as f64
}
