//! Tables for people, JSON for scripts, and progress on stderr.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use muster_client::types::{Exit, Health, Reason, Resources, TaskState, TaskStatus, Usage, exit};
use serde_json::{Map, Value, json};

use crate::{arguments::Format, report::Failure, units};

/// Prints rows: as a table, or as the JSON that stands beside them.
pub fn print_rows(
    format: Format,
    header: &[&str],
    rows: Vec<Vec<String>>,
    json: &Value,
) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(json),
        Format::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(header.iter().copied());
            table.add_rows(rows);
            // Columns are two blanks apart, and lines end where their text ends.
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
            let text: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
            print_text(&(text.join("\n") + "\n"))
        }
    }
}

/// Prints named facts below each other.
pub fn print_facts(format: Format, facts: &[(&str, String)], json: &Value) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(json),
        Format::Table => {
            let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
            let text: String = facts.iter().map(|(name, fact)| format!("{name:width$}{fact}\n")).collect();
            print_text(&text)
        }
    }
}

fn print_json(json: &Value) -> Result<(), Failure> {
    print_text(&format!("{json:#}\n"))
}

/// Writes to stdout; a reader that has gone (`| head`) ends the command quietly.
pub fn print_text(text: &str) -> Result<(), Failure> {
    write_all(&mut io::stdout().lock(), text.as_bytes())
}

pub fn write_all(target: &mut impl Write, bytes: &[u8]) -> Result<(), Failure> {
    match target.write_all(bytes).and_then(|()| target.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new("write the output", error.to_string())),
    }
}

/// A line beside the data, on stderr.
pub fn print_note(text: &str) {
    // Who closed stderr does not want it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A spinner on stderr that shows only on a terminal, and only after a second.
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new() -> Self {
        Self { bar: None }
    }

    /// Says what is waited for.
    pub fn say(&mut self, text: String) {
        if !io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_message(text);
    }

    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Waits for `work`; says what is waited for when that takes more than a second.
pub async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(Duration::from_secs(1), &mut work).await {
        return done;
    }
    let mut progress = Progress::new();
    progress.say(format!("{what} …"));
    let done = work.await;
    progress.clear();
    done
}

pub fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Unspecified => "unknown",
        TaskState::Waiting => "waiting",
        TaskState::Staging => "staging",
        TaskState::Starting => "starting",
        TaskState::Running => "running",
        TaskState::Killing => "killing",
        TaskState::Finished => "finished",
        TaskState::Failed => "failed",
        TaskState::Killed => "killed",
        TaskState::Error => "error",
        TaskState::Dropped => "dropped",
        TaskState::Unreachable => "unreachable",
        TaskState::Gone => "gone",
    }
}

pub fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "",
        Reason::CommandExited => "command exited",
        Reason::KillRequested => "kill requested",
        Reason::MemoryLimit => "memory limit",
        Reason::CommandNotExecutable => "command not executable",
        Reason::UserRefused => "user refused",
        Reason::LaunchFailed => "launch failed",
        Reason::ExitStatusUnknown => "exit status unknown",
        Reason::AgentRebooted => "agent rebooted",
        Reason::AgentUnreachable => "agent unreachable",
        Reason::AgentGone => "agent gone",
        Reason::FrameworkTornDown => "framework torn down",
        Reason::Reconciliation => "reconciliation",
        Reason::TaskUnknown => "task unknown",
        Reason::AgentLostTask => "agent lost task",
        Reason::CommandSignaled => "command signaled",
        Reason::RunTimeLimit => "run time limit",
        Reason::DiskLimit => "disk limit",
        Reason::Unhealthy => "unhealthy",
        Reason::FetchFailed => "fetch failed",
        Reason::SpecRefused => "spec refused",
        Reason::PortNotDeclared => "port not declared",
    }
}

pub fn show_exit(exit: Option<&Exit>) -> String {
    match exit.and_then(|exit| exit.how) {
        Some(exit::How::Code(code)) => code.to_string(),
        Some(exit::How::Signal(signal)) => format!("signal {signal}"),
        None => String::new(),
    }
}

/// `0.5 cpus, 64 MiB`: only what is there.
pub fn show_resources(resources: &Resources) -> String {
    let mut parts = Vec::new();
    if resources.cpus_milli > 0 {
        parts.push(format!("{} cpus", units::show_thousandths(resources.cpus_milli)));
    }
    if resources.mem_mib > 0 {
        parts.push(format!("{} mem", units::show_bytes(resources.mem_mib << 20)));
    }
    if resources.disk_mib > 0 {
        parts.push(format!("{} disk", units::show_bytes(resources.disk_mib << 20)));
    }
    if resources.gpus > 0 {
        parts.push(format!("{} gpus", resources.gpus));
    }
    if !resources.ports.is_empty() {
        let ranges: Vec<_> =
            resources.ports.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
        parts.push(format!("ports {}", ranges.join(",")));
    }
    for (name, amount) in &resources.scalars {
        parts.push(format!("{} {name}", units::show_thousandths(*amount)));
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// Microseconds since the epoch, as local time.
pub fn show_time(at_us: i64) -> String {
    if at_us == 0 {
        return String::new();
    }
    jiff::Timestamp::from_microsecond(at_us).map_or_else(
        |_| at_us.to_string(),
        |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// RFC 3339 in UTC, or null.
pub fn json_time(at_us: i64) -> Value {
    match jiff::Timestamp::from_microsecond(at_us) {
        Ok(time) if at_us != 0 => Value::String(time.to_string()),
        _ => Value::Null,
    }
}

pub fn json_resources(resources: Option<&Resources>) -> Value {
    let resources = resources.cloned().unwrap_or_default();
    let ports: Vec<_> = resources.ports.iter().map(|range| json!([range.first, range.last])).collect();
    json!({
        "cpus_milli": resources.cpus_milli,
        "mem_mib": resources.mem_mib,
        "disk_mib": resources.disk_mib,
        "gpus": resources.gpus,
        "ports": ports,
        "scalars": resources.scalars,
    })
}

/// Figures that were not available are absent.
pub fn json_usage(usage: Option<&Usage>) -> Value {
    let Some(usage) = usage else { return Value::Null };
    let mut object = Map::new();
    object.insert("at".to_owned(), json_time(usage.at_us));
    let figures = [
        ("cpu_ns", usage.cpu_ns),
        ("cpu_throttled_ns", usage.cpu_throttled_ns),
        ("memory_bytes", usage.memory_bytes),
        ("memory_working_set_bytes", usage.memory_working_set_bytes),
        ("memory_limit_bytes", usage.memory_limit_bytes),
        ("oom_kills", usage.oom_kills),
        ("processes", usage.processes),
        ("cpu_user_ns", usage.cpu_user_ns),
        ("cpu_system_ns", usage.cpu_system_ns),
        ("cpu_periods", usage.cpu_periods),
        ("cpu_periods_throttled", usage.cpu_periods_throttled),
        ("run_queue_ns", usage.run_queue_ns),
        ("switches_voluntary", usage.switches_voluntary),
        ("switches_involuntary", usage.switches_involuntary),
        ("memory_anon_bytes", usage.memory_anon_bytes),
        ("memory_file_bytes", usage.memory_file_bytes),
        ("memory_shmem_bytes", usage.memory_shmem_bytes),
        ("memory_kernel_bytes", usage.memory_kernel_bytes),
        ("memory_swap_bytes", usage.memory_swap_bytes),
        ("memory_peak_bytes", usage.memory_peak_bytes),
        ("faults_minor", usage.faults_minor),
        ("faults_major", usage.faults_major),
        ("reclaim_stalls", usage.reclaim_stalls),
        ("reclaim_stall_ns", usage.reclaim_stall_ns),
        ("pressure_cpu_some_us", usage.pressure_cpu_some_us),
        ("pressure_cpu_full_us", usage.pressure_cpu_full_us),
        ("pressure_memory_some_us", usage.pressure_memory_some_us),
        ("pressure_memory_full_us", usage.pressure_memory_full_us),
        ("pressure_io_some_us", usage.pressure_io_some_us),
        ("pressure_io_full_us", usage.pressure_io_full_us),
        ("block_read_bytes", usage.block_read_bytes),
        ("block_write_bytes", usage.block_write_bytes),
        ("block_read_operations", usage.block_read_operations),
        ("block_write_operations", usage.block_write_operations),
        ("block_ns", usage.block_ns),
        ("network_received_bytes", usage.network_received_bytes),
        ("network_sent_bytes", usage.network_sent_bytes),
        ("network_received_packets", usage.network_received_packets),
        ("network_sent_packets", usage.network_sent_packets),
        ("network_retransmits", usage.network_retransmits),
        ("connections_opened", usage.connections_opened),
        ("connections_accepted", usage.connections_accepted),
        ("connections_failed", usage.connections_failed),
        ("threads", usage.threads),
        ("forks", usage.forks),
        ("execs", usage.execs),
        ("load_milli", usage.load_milli),
    ];
    for (name, figure) in figures {
        if let Some(figure) = figure {
            object.insert(name.to_owned(), figure.into());
        }
    }
    Value::Object(object)
}

/// `None` for a task without a check, and for one that doesn't run.
pub fn health_name(health: Health) -> Option<&'static str> {
    match health {
        Health::Unspecified => None,
        Health::Unknown => Some("unknown"),
        Health::Healthy => Some("healthy"),
        Health::Unhealthy => Some("unhealthy"),
    }
}

pub fn json_status(status: Option<&TaskStatus>) -> Value {
    let Some(status) = status else { return Value::Null };
    let exit = match status.exit.and_then(|exit| exit.how) {
        Some(exit::How::Code(code)) => json!({ "code": code }),
        Some(exit::How::Signal(signal)) => json!({ "signal": signal }),
        None => Value::Null,
    };
    json!({
        "state": state_name(status.state()),
        "reason": reason_name(status.reason()),
        "message": status.message,
        "exit": exit,
        "health": health_name(status.health()),
        "at": json_time(status.at_us),
        "sequence": status.sequence,
        "usage": json_usage(status.usage.as_ref()),
    })
}
