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
    actor::{Rounds, Samples, Snapshot},
    meter::Usage,
    sys::bpf::{Availability, Health, Programs},
};

/// What fills as things happen.
#[derive(Debug)]
pub struct Metrics {
    /// From the assignment to the running command.
    pub task_launch: Histogram,
    pub launches_failed: Counter<u64, AtomicU64>,
    pub sessions_welcomed: Counter<u64, AtomicU64>,
    /// Sessions that were given up because the coordinator did not keep up.
    pub session_overruns: Counter<u64, AtomicU64>,
    /// Tasks of an earlier agent that this one looked for.
    pub adopted_tasks: Gauge,
    /// From the agent's start until the last of them was in hand.
    pub adoption_seconds: Gauge<f64, AtomicU64>,
    pub channels_open: Gauge,
    pub channels_opened: Family<PurposeLabel, Counter<u64, AtomicU64>>,
}

/// What a channel is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PurposeLabel {
    pub purpose: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // 1 ms to 33 s.
            task_launch: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            launches_failed: Counter::default(),
            sessions_welcomed: Counter::default(),
            session_overruns: Counter::default(),
            adopted_tasks: Gauge::default(),
            adoption_seconds: Gauge::default(),
            channels_open: Gauge::default(),
            channels_opened: Family::default(),
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
    pub fn new(metrics: &Metrics, rounds: Arc<Rounds>, programs: Option<Arc<Programs>>) -> Self {
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
    programs: Option<Arc<Programs>>,
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
struct ProgramLabel {
    program: &'static str,
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
        let health = self.0.programs.as_ref().and_then(|programs| programs.health().ok());
        encode_programs(page, health.as_ref())
    }
}

/// A figure of one task: how it is called, explained and read.
struct TaskFigure {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    read: fn(&Usage) -> Option<f64>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
        }
    }
}

const TASK_FIGURES: &[TaskFigure] = &[
    TaskFigure {
        name: "cpu",
        help: "CPU time that the task used",
        unit: Some(Unit::Seconds),
        read: |usage| usage.cpu_ns.map(seconds),
        kind: Kind::Counter,
    },
    TaskFigure {
        name: "cpu_throttled",
        help: "Time during which the CPU limit held the task back",
        unit: Some(Unit::Seconds),
        read: |usage| usage.cpu_throttled_ns.map(seconds),
        kind: Kind::Counter,
    },
    TaskFigure {
        name: "memory_usage",
        help: "Memory charged to the task",
        unit: Some(Unit::Bytes),
        read: |usage| usage.memory_bytes.map(number),
        kind: Kind::Gauge,
    },
    TaskFigure {
        name: "memory_working_set",
        help: "Memory charged to the task, less the file cache that may be dropped at once",
        unit: Some(Unit::Bytes),
        read: |usage| usage.memory_working_set_bytes.map(number),
        kind: Kind::Gauge,
    },
    TaskFigure {
        name: "memory_limit",
        help: "Memory limit of the task",
        unit: Some(Unit::Bytes),
        read: |usage| usage.memory_limit_bytes.map(number),
        kind: Kind::Gauge,
    },
    TaskFigure {
        name: "oom_kills",
        help: "Processes of the task that the kernel killed for want of memory",
        unit: None,
        read: |usage| usage.oom_kills.map(number),
        kind: Kind::Counter,
    },
    TaskFigure {
        name: "processes",
        help: "Processes of the task",
        unit: None,
        read: |usage| usage.processes.map(number),
        kind: Kind::Gauge,
    },
    TaskFigure {
        name: "threads",
        help: "Threads of the task",
        unit: None,
        read: |usage| usage.threads.map(number),
        kind: Kind::Gauge,
    },
];

fn encode_tasks(page: &mut DescriptorEncoder<'_>, samples: &Samples) -> Result<(), fmt::Error> {
    for figure in TASK_FIGURES {
        let name = format!("agent_task_{}", figure.name);
        let measured: Vec<_> = samples
            .live
            .iter()
            .filter_map(|(task_id, sample)| {
                let labels = TaskLabels {
                    task_id: task_id.as_str().to_owned(),
                    framework: sample.framework_id.as_str().to_owned(),
                };
                (figure.read)(&sample.usage).map(|value| (labels, value))
            })
            .collect();
        // A name without a single value is nothing to show.
        if measured.is_empty() {
            continue;
        }
        let mut family =
            page.encode_descriptor(&name, figure.help, figure.unit.as_ref(), figure.kind.metric_type())?;
        for (labels, value) in measured {
            let one = family.encode_family(&labels)?;
            match figure.kind {
                Kind::Counter => ConstCounter::new(value).encode(one)?,
                Kind::Gauge => ConstGauge::new(value).encode(one)?,
            }
        }
    }
    Ok(())
}

/// Over all tasks: those that run, and for counters those that ended too.
fn encode_sums(page: &mut DescriptorEncoder<'_>, samples: &Samples) -> Result<(), fmt::Error> {
    let ended = samples.ended;
    for figure in TASK_FIGURES {
        let values: Vec<f64> =
            samples.live.values().filter_map(|sample| (figure.read)(&sample.usage)).collect();
        let before = match figure.name {
            "cpu" => seconds(ended.cpu_ns),
            "cpu_throttled" => seconds(ended.cpu_throttled_ns),
            "oom_kills" => number(ended.oom_kills),
            _ => 0.0,
        };
        // Of some tasks not measured the sum would be wrong, and wrong isn't shown.
        if values.len() < samples.live.len() {
            continue;
        }
        let name = format!("agent_tasks_{}", figure.name);
        let help = format!("Sum over all tasks: {}", figure.help);
        let sum = before + values.iter().sum::<f64>();
        let one = page.encode_descriptor(&name, &help, figure.unit.as_ref(), figure.kind.metric_type())?;
        match figure.kind {
            Kind::Counter => ConstCounter::new(sum).encode(one)?,
            Kind::Gauge => ConstGauge::new(sum).encode(one)?,
        }
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
    use model::{FrameworkId, TaskId, Timestamp};

    use crate::actor::{Sample, Totals};

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
            let sample =
                Sample { framework_id: FrameworkId::new("run").unwrap(), at: Timestamp(0), usage: *usage };
            (TaskId::new(&format!("t{place}")).unwrap(), sample)
        });
        Samples {
            live: live.collect(),
            ended: Totals { cpu_ns: 500_000_000, ..Totals::default() },
            ..Samples::default()
        }
    }

    #[test]
    fn what_was_not_measured_is_not_shown() {
        let usage = Usage { cpu_ns: Some(1_500_000_000), processes: Some(2), ..Usage::default() };
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
        .assert_eq(&page(&samples(&[usage, Usage { processes: Some(1), ..Usage::default() }])));
    }

    #[test]
    fn ended_tasks_stay_in_the_sums() {
        let text = page(&samples(&[]));
        assert!(text.contains("muster_agent_tasks_cpu_seconds_total 0.5"), "{text}");
        assert!(!text.contains("task_id"), "{text}");
    }
}
