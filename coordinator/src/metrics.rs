//! What `/metrics` shows: every figure of the coordinator, each with a sentence of help.
//!
//! Counters and histograms fill as things happen; gauges are read from their owners when the page
//! is asked for, by [`Figures`]. Names are `coordinator_<thing>_<unit>`; the registry adds `muster_`.
//!
//! ## Design
//!
//! The page has two forms. OpenMetrics calls a counter's family `x` and its sample `x_total`; the
//! older text format, which `promtool check metrics` and plain `curl` expect, calls both `x_total`.
//! Whoever asks for OpenMetrics gets it, everyone else gets the older form of the same registry.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicI64, AtomicU64},
};

use cluster::ClusterState;
use model::{RefusalCode, TaskState};
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
    leader::LeaderHandle,
    raft::{RaftHandle, Role},
};

/// What fills as things happen.
#[derive(Debug)]
pub struct Metrics {
    /// Requests that were refused, by stable code. Alarm on `internal` and on much `busy`.
    pub requests_refused: Family<CodeLabel, Counter<u64, AtomicU64>>,
    /// Requests that were answered, refused ones included.
    pub requests: Family<KindLabel, Counter<u64, AtomicU64>>,
    pub connections_open: Gauge<i64, AtomicI64>,
    /// Connections that were closed at once, because too many are open.
    pub connections_refused: Counter<u64, AtomicU64>,
    /// Calls that changed something and have no line in the audit log. Alarm on any.
    pub audit_lines_lost: Counter<u64, AtomicU64>,
    pub streams_open: Family<StreamLabel, Gauge<i64, AtomicI64>>,
    /// One entry, from its bytes to the bytes of its answer.
    pub apply_seconds: Histogram,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    pub code: &'static str,
}

/// How a request came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    pub kind: &'static str,
}

/// Which of the long answers is open.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamLabel {
    pub stream: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            requests_refused: Family::default(),
            requests: Family::default(),
            connections_open: Gauge::default(),
            connections_refused: Counter::default(),
            audit_lines_lost: Counter::default(),
            streams_open: Family::default(),
            // 1 µs to 0.26 s.
            apply_seconds: Histogram::new(exponential_buckets(0.000_001, 4.0, 10)),
        }
    }

    pub fn refused(&self, code: RefusalCode) {
        self.requests_refused.get_or_create(&CodeLabel { code: code.as_str() }).inc();
    }

    /// Counts a stream as open for as long as the guard lives.
    pub fn stream_opened(&self, stream: &'static str) -> OpenStream {
        let gauge = self.streams_open.get_or_create_owned(&StreamLabel { stream });
        gauge.inc();
        OpenStream(gauge)
    }
}

/// An open stream, counted.
#[derive(Debug)]
pub struct OpenStream(Gauge<i64, AtomicI64>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The page.
#[derive(Debug)]
pub struct Page {
    registry: Registry,
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
    pub fn new(metrics: &Metrics, leader: LeaderHandle, raft: RaftHandle) -> Self {
        let mut registry = Registry::with_prefix("muster");
        let instruments = raft.instruments();
        registry.register_with_unit(
            "coordinator_log_fsync",
            "How long one group of log entries took to reach the disk; alarm when it nears the heartbeat",
            Unit::Seconds,
            instruments.fsync_seconds.clone(),
        );
        registry.register(
            "coordinator_log_group_entries",
            "Log entries that one fsync made durable",
            instruments.group_entries.clone(),
        );
        registry.register(
            "coordinator_apply_batch_entries",
            "Log entries that were applied before one publication of the state",
            instruments.apply_entries.clone(),
        );
        registry.register_with_unit(
            "coordinator_snapshot",
            "How long encoding and writing one snapshot took",
            Unit::Seconds,
            instruments.snapshot_seconds.clone(),
        );
        registry.register_with_unit(
            "coordinator_apply",
            "How long one log entry took to decode, apply and answer",
            Unit::Seconds,
            metrics.apply_seconds.clone(),
        );
        registry.register(
            "coordinator_requests",
            "Requests that were answered, refused ones included",
            metrics.requests.clone(),
        );
        registry.register(
            "coordinator_requests_refused",
            "Requests that were refused, by stable code; alarm on internal, and on much busy",
            metrics.requests_refused.clone(),
        );
        registry.register(
            "coordinator_connections_open",
            "Connections that are open",
            metrics.connections_open.clone(),
        );
        registry.register(
            "coordinator_connections_refused",
            "Connections that were closed at once because too many are open",
            metrics.connections_refused.clone(),
        );
        registry.register(
            "coordinator_audit_lines_lost",
            "Calls that changed something and have no line in the audit log, because it could not be written in time; \
             look whether the disk is full or slow",
            metrics.audit_lines_lost.clone(),
        );
        registry.register(
            "coordinator_streams_open",
            "Streams that are open, by what they carry",
            metrics.streams_open.clone(),
        );
        registry.register_collector(Box::new(Figures { leader, raft }));
        Self { registry }
    }

    pub fn render(&self, format: Format) -> Result<String, fmt::Error> {
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
    let mut counters: Vec<&str> = Vec::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")) {
            counters.push(name);
        }
    }
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

/// Gauges and counters that others keep, read when the page is asked for.
struct Figures {
    leader: LeaderHandle,
    raft: RaftHandle,
}

impl fmt::Debug for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let page = &mut encoder;
        self.encode_leader(page)?;
        self.encode_log(page)?;
        encode_state(page, &self.leader.state())
    }
}

impl Figures {
    fn encode_leader(&self, page: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.leader.figures();
        gauge(
            page,
            "is_leader",
            "1 on the member that leads; alarm when no member does",
            u64::from(figures.is_leader),
        )?;
        gauge(
            page,
            "offers_outstanding",
            "Offers that are neither used, declined nor over",
            figures.offers_outstanding,
        )?;
        gauge(page, "agent_sessions_open", "Agents that talk to this member", figures.sessions_open)?;
        gauge(
            page,
            "subscriptions_open",
            "Frameworks that listen to this member",
            figures.subscriptions_open,
        )?;
        gauge(
            page,
            "agents_held_back",
            "Silent agents that are not marked unreachable, because too many are silent together; alarm above 0: \
             `muster agent list` shows which, docs/guides/agents.md what to do",
            figures.agents_held_back,
        )?;
        gauge(page, "proposals_in_flight", "Commands that wait for the log", figures.proposals_in_flight)?;
        counter(page, "turns", "Turns of the leader's loop", figures.turns_total)?;
        counter(
            page,
            "streams_too_slow",
            "Streams that were ended because nobody read them",
            figures.streams_too_slow_total,
        )?;
        counter(
            page,
            "calls_busy",
            "Calls that the leader's queue had no room for",
            figures.calls_busy_total,
        )?;
        let counts = figures.counts;
        counter(page, "allocation_cycles", "Rounds of offers", counts.cycles)?;
        counter(page, "offers_made", "Offers that were made", counts.offers_made)?;
        counter(page, "offers_accepted", "Offers that were used", counts.offers_accepted)?;
        counter(page, "offers_declined", "Offers that were declined", counts.offers_declined)?;
        counter(
            page,
            "offers_expired",
            "Offers whose lease ran out; many mean a framework that hoards",
            counts.offers_expired,
        )?;
        counter(page, "offers_rescinded", "Offers that were taken back", counts.offers_rescinded)?;
        counter(page, "tasks_launched", "Tasks that were launched", counts.tasks_launched)?;
        counter(
            page,
            "launches_refused",
            "Tasks of an Accept that were not launched",
            counts.launches_refused,
        )?;
        counter(page, "statuses_recorded", "Task statuses that the log took", counts.statuses_recorded)?;
        counter(
            page,
            "agents_marked_unreachable",
            "How often an agent was silent for too long; alarm when it grows",
            counts.agents_marked_unreachable,
        )?;
        counter(
            page,
            "subscriptions_replaced",
            "Subscriptions that ended because a newer one came",
            counts.subscriptions_replaced,
        )?;
        counter(
            page,
            "known_tasks_told",
            "Tasks of which agents told when they attached, because this leader knew them otherwise or the agent is older",
            counts.known_tasks_told,
        )?;
        counter(
            page,
            "known_tasks_spared",
            "Tasks of which attaching agents told nothing, because their digests showed that this leader knows them",
            counts.known_tasks_spared,
        )
    }

    fn encode_log(&self, page: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.raft.metrics();
        let role = match figures.role {
            Role::Leader => "leader",
            Role::Candidate => "candidate",
            Role::Follower => "follower",
            Role::Learner => "learner",
            Role::Stopped => "stopped",
        };
        let roles = ["leader", "candidate", "follower", "learner", "stopped"];
        let family = roles.iter().map(|name| ("role", *name, u64::from(*name == role)));
        labelled(page, "member_role", "1 for what this member is in Raft; alarm on stopped", family)?;
        gauge(page, "log_term", "Term of this member; alarm when it grows often", figures.term)?;
        gauge(page, "log_last_index", "Index of the last entry in the log", figures.last_log_index)?;
        gauge(page, "log_committed_index", "Index of the last entry agreed on", figures.committed_index)?;
        gauge(page, "log_applied_index", "Index of the last entry applied", figures.applied_index)?;
        gauge(page, "log_snapshot_index", "Index of the last entry in a snapshot", figures.snapshot_index)?;
        gauge(page, "log_purged_index", "Index of the last entry that was removed", figures.purged_index)?;
        gauge(page, "log_size_bytes", "Bytes of all entries in the log", figures.log_bytes)?;
        gauge(
            page,
            "proposals_waiting_bytes",
            "Weight of commands that wait for the log",
            figures.proposals_bytes,
        )?;
        counter(page, "proposals_busy", "Commands that the log had no room for", figures.busy_total)
    }
}

fn encode_state(page: &mut DescriptorEncoder<'_>, state: &ClusterState) -> Result<(), fmt::Error> {
    let mut tasks: BTreeMap<&str, u64> = TaskState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    for task in state.tasks().values() {
        *tasks.entry(task.state.as_str()).or_default() += 1;
    }
    tasks.insert("waiting", state.queue().len() as u64);
    labelled(
        page,
        "tasks",
        "Tasks by state, finished ones while they are kept",
        tasks.iter().map(|(state, count)| ("state", *state, *count)),
    )?;
    let reachable = state.agents().values().filter(|agent| agent.is_reachable).count() as u64;
    let agents = [("yes", reachable), ("no", state.agents().len() as u64 - reachable)];
    labelled(
        page,
        "agents",
        "Agents by whether they answer; alarm when those that don't grow",
        agents.iter().map(|(answer, count)| ("is_reachable", *answer, *count)),
    )?;
    gauge(page, "frameworks", "Frameworks, built-in ones included", state.frameworks().len() as u64)?;
    gauge(
        page,
        "events_pending",
        "Durable events that frameworks have not acknowledged",
        state.frameworks().values().map(|framework| framework.events.len() as u64).sum(),
    )?;
    let (mut total, mut allocated) = (model::Amounts::default(), model::Amounts::default());
    for agent in state.agents().values() {
        if agent.is_reachable {
            total.add(&agent.facts.total);
        }
        allocated.add(&agent.allocated);
    }
    let kinds = |amounts: &model::Amounts| {
        let model::Amounts { cpus_milli, mem_mib, disk_mib, gpus, scalars: _too_many_names } = amounts;
        [("cpus_milli", *cpus_milli), ("mem_mib", *mem_mib), ("disk_mib", *disk_mib), ("gpus", *gpus)]
    };
    labelled(
        page,
        "resources_capacity",
        "What agents that answer have, in the unit of each kind",
        kinds(&total).into_iter().map(|(kind, amount)| ("kind", kind, amount)),
    )?;
    labelled(
        page,
        "resources_allocated",
        "What tasks that are not released hold, in the unit of each kind",
        kinds(&allocated).into_iter().map(|(kind, amount)| ("kind", kind, amount)),
    )
}

fn gauge(page: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    let name = format!("coordinator_{name}");
    ConstGauge::new(value).encode(page.encode_descriptor(&name, help, None, MetricType::Gauge)?)
}

fn counter(page: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    let name = format!("coordinator_{name}");
    ConstCounter::new(value).encode(page.encode_descriptor(&name, help, None, MetricType::Counter)?)
}

/// One gauge for each value of one label.
fn labelled<'a>(
    page: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'a str, &'a str, u64)>,
) -> Result<(), fmt::Error> {
    let name = format!("coordinator_{name}");
    let mut encoder = page.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (label, value, count) in values {
        ConstGauge::new(count).encode(encoder.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_form_names_a_counter_as_its_samples() {
        let page = "# HELP a_x Sentence.\n# TYPE a_x counter\na_x_total{k=\"v\"} 1\n\
                    # HELP a_y_seconds S.\n# TYPE a_y_seconds histogram\n# UNIT a_y_seconds seconds\n\
                    a_y_seconds_sum 0.0\n# EOF\n";
        assert_eq!(
            classic(page),
            "# HELP a_x_total Sentence.\n# TYPE a_x_total counter\na_x_total{k=\"v\"} 1\n\
             # HELP a_y_seconds S.\n# TYPE a_y_seconds histogram\na_y_seconds_sum 0.0\n"
        );
    }

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        assert_eq!(Format::wanted("*/*"), Format::Classic);
        assert_eq!(
            Format::wanted("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5"),
            Format::OpenMetrics
        );
    }
}
