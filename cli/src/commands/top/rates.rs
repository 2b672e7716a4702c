//! What there is to see of a task or host, as columns: rates from two samples, and levels of the newer one.
//!
//! A figure that was not available in one of the two is absent, never zero.

use muster_client::types::Usage;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Of one core, or of time.
    Percent,
    Bytes,
    BytesPerSecond,
    PerSecond,
    Count,
    /// Two decimals.
    Exact,
}

/// One thing to see and to sort by.
pub struct Column {
    pub name: &'static str,
    /// In JSON.
    pub key: &'static str,
    pub unit: Unit,
    pub about: &'static str,
    pub value: fn(&Pair) -> Option<f64>,
}

/// Two samples of the same subject.
#[derive(Debug, Clone, Default)]
pub struct Pair {
    pub before: Option<Usage>,
    pub now: Usage,
}

impl Pair {
    /// Takes a newer sample in; an older one, or the same again, changes nothing.
    pub fn push(&mut self, usage: Usage) {
        if usage.at_us > self.now.at_us {
            self.before = Some(std::mem::replace(&mut self.now, usage));
        }
    }

    pub fn has_rates(&self) -> bool {
        self.before.is_some()
    }

    /// How much a counter grew in a second.
    pub fn rate(&self, figure: fn(&Usage) -> Option<u64>) -> Option<f64> {
        let before = self.before.as_ref()?;
        let seconds = (self.now.at_us - before.at_us) as f64 / 1e6;
        // A counter that begins anew (an agent without its kernel programs) has no rate then.
        let grown = figure(&self.now)?.checked_sub(figure(before)?)?;
        (seconds > 0.0).then(|| grown as f64 / seconds)
    }

    /// A counter of nanoseconds: its share of the time.
    fn share_ns(&self, figure: fn(&Usage) -> Option<u64>) -> Option<f64> {
        self.rate(figure).map(|ns| ns / 1e7)
    }

    /// A counter of microseconds: its share of the time.
    fn share_us(&self, figure: fn(&Usage) -> Option<u64>) -> Option<f64> {
        self.rate(figure).map(|us| us / 1e4)
    }
}

fn level(figure: Option<u64>) -> Option<f64> {
    figure.map(|figure| figure as f64)
}

/// Both, or the one that there is.
fn sum(left: Option<f64>, right: Option<f64>) -> Option<f64> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left + right),
        (one, other) => one.or(other),
    }
}

/// Of tasks; a narrow terminal shows the first ones.
pub const TASK: &[Column] = &[
    Column {
        name: "CPU%",
        key: "cpu_percent",
        unit: Unit::Percent,
        about: "of one core",
        value: |pair| pair.share_ns(|usage| usage.cpu_ns),
    },
    Column {
        name: "THR%",
        key: "throttled_percent",
        unit: Unit::Percent,
        about: "held back by its CPU limit, of one core",
        value: |pair| pair.share_ns(|usage| usage.cpu_throttled_ns),
    },
    Column {
        name: "WAIT%",
        key: "run_queue_percent",
        unit: Unit::Percent,
        about: "runnable without a CPU, of one core",
        value: |pair| pair.share_ns(|usage| usage.run_queue_ns),
    },
    Column {
        name: "MEM",
        key: "memory_bytes",
        unit: Unit::Bytes,
        about: "charged to it",
        value: |pair| level(pair.now.memory_bytes),
    },
    Column {
        name: "FLT/s",
        key: "faults_per_second",
        unit: Unit::PerSecond,
        about: "page faults",
        value: |pair| sum(pair.rate(|usage| usage.faults_minor), pair.rate(|usage| usage.faults_major)),
    },
    Column {
        name: "RX/s",
        key: "network_received_bytes_per_second",
        unit: Unit::BytesPerSecond,
        about: "received from the network",
        value: |pair| pair.rate(|usage| usage.network_received_bytes),
    },
    Column {
        name: "TX/s",
        key: "network_sent_bytes_per_second",
        unit: Unit::BytesPerSecond,
        about: "sent to the network",
        value: |pair| pair.rate(|usage| usage.network_sent_bytes),
    },
    Column {
        name: "RD/s",
        key: "block_read_bytes_per_second",
        unit: Unit::BytesPerSecond,
        about: "read from block devices",
        value: |pair| pair.rate(|usage| usage.block_read_bytes),
    },
    Column {
        name: "WR/s",
        key: "block_write_bytes_per_second",
        unit: Unit::BytesPerSecond,
        about: "written to block devices",
        value: |pair| pair.rate(|usage| usage.block_write_bytes),
    },
    Column {
        name: "WSET",
        key: "memory_working_set_bytes",
        unit: Unit::Bytes,
        about: "memory without file cache that may be dropped",
        value: |pair| level(pair.now.memory_working_set_bytes),
    },
    Column {
        name: "LIMIT",
        key: "memory_limit_bytes",
        unit: Unit::Bytes,
        about: "memory limit",
        value: |pair| level(pair.now.memory_limit_bytes),
    },
    Column {
        name: "MAJ/s",
        key: "faults_major_per_second",
        unit: Unit::PerSecond,
        about: "page faults that waited for a disk",
        value: |pair| pair.rate(|usage| usage.faults_major),
    },
    Column {
        name: "CTX/s",
        key: "switches_per_second",
        unit: Unit::PerSecond,
        about: "context switches",
        value: |pair| {
            let involuntary = pair.rate(|usage| usage.switches_involuntary);
            sum(pair.rate(|usage| usage.switches_voluntary), involuntary)
        },
    },
    Column {
        name: "RTX/s",
        key: "retransmits_per_second",
        unit: Unit::PerSecond,
        about: "TCP segments sent again",
        value: |pair| pair.rate(|usage| usage.network_retransmits),
    },
    Column {
        name: "THRDS",
        key: "threads",
        unit: Unit::Count,
        about: "threads",
        value: |pair| level(pair.now.threads),
    },
    Column {
        name: "OOM",
        key: "oom_kills",
        unit: Unit::Count,
        about: "processes killed for want of memory",
        value: |pair| level(pair.now.oom_kills),
    },
];

/// Of the hosts of agents.
pub const AGENT: &[Column] = &[
    Column {
        name: "CPU%",
        key: "cpu_percent",
        unit: Unit::Percent,
        about: "of one core",
        value: |pair| pair.share_ns(|usage| usage.cpu_ns),
    },
    Column {
        name: "LOAD",
        key: "load",
        unit: Unit::Exact,
        about: "load average of a minute",
        value: |pair| level(pair.now.load_milli).map(|milli| milli / 1000.0),
    },
    Column {
        name: "PCPU%",
        key: "pressure_cpu_percent",
        unit: Unit::Percent,
        about: "of the time some thread waited for a CPU",
        value: |pair| pair.share_us(|usage| usage.pressure_cpu_some_us),
    },
    Column {
        name: "PMEM%",
        key: "pressure_memory_percent",
        unit: Unit::Percent,
        about: "of the time some thread waited for memory",
        value: |pair| pair.share_us(|usage| usage.pressure_memory_some_us),
    },
    Column {
        name: "PIO%",
        key: "pressure_io_percent",
        unit: Unit::Percent,
        about: "of the time some thread waited for I/O",
        value: |pair| pair.share_us(|usage| usage.pressure_io_some_us),
    },
    Column {
        name: "MEM",
        key: "memory_working_set_bytes",
        unit: Unit::Bytes,
        about: "memory that can't be dropped at once",
        value: |pair| level(pair.now.memory_working_set_bytes),
    },
    Column {
        name: "TOTAL",
        key: "memory_limit_bytes",
        unit: Unit::Bytes,
        about: "memory of the host",
        value: |pair| level(pair.now.memory_limit_bytes),
    },
    Column {
        name: "RX/s",
        key: "network_received_bytes_per_second",
        unit: Unit::BytesPerSecond,
        about: "received from the network",
        value: |pair| pair.rate(|usage| usage.network_received_bytes),
    },
    Column {
        name: "TX/s",
        key: "network_sent_bytes_per_second",
        unit: Unit::BytesPerSecond,
        about: "sent to the network",
        value: |pair| pair.rate(|usage| usage.network_sent_bytes),
    },
    Column {
        name: "RD/s",
        key: "block_read_bytes_per_second",
        unit: Unit::BytesPerSecond,
        about: "read from block devices",
        value: |pair| pair.rate(|usage| usage.block_read_bytes),
    },
    Column {
        name: "WR/s",
        key: "block_write_bytes_per_second",
        unit: Unit::BytesPerSecond,
        about: "written to block devices",
        value: |pair| pair.rate(|usage| usage.block_write_bytes),
    },
    Column {
        name: "FLT/s",
        key: "faults_per_second",
        unit: Unit::PerSecond,
        about: "page faults",
        value: |pair| sum(pair.rate(|usage| usage.faults_minor), pair.rate(|usage| usage.faults_major)),
    },
    Column {
        name: "SWAP",
        key: "memory_swap_bytes",
        unit: Unit::Bytes,
        about: "swapped out",
        value: |pair| level(pair.now.memory_swap_bytes),
    },
    Column {
        name: "THRDS",
        key: "threads",
        unit: Unit::Count,
        about: "threads",
        value: |pair| level(pair.now.threads),
    },
    Column {
        name: "OOM",
        key: "oom_kills",
        unit: Unit::Count,
        about: "processes killed for want of memory",
        value: |pair| level(pair.now.oom_kills),
    },
];

/// At most six characters.
pub fn show(value: Option<f64>, unit: Unit) -> String {
    let Some(value) = value else { return "-".to_owned() };
    match unit {
        Unit::Percent if value >= 9999.5 => scaled(value, 1000.0, &["", "k", "M", "G", "T"]),
        Unit::Percent => format!("{value:.1}"),
        Unit::Exact => format!("{value:.2}"),
        Unit::Count | Unit::PerSecond => scaled(value, 1000.0, &["", "k", "M", "G", "T"]),
        Unit::Bytes | Unit::BytesPerSecond => scaled(value, 1024.0, &["", "K", "M", "G", "T", "P"]),
    }
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut place = 0;
    // Never four digits before a unit.
    while value >= 999.5 && place + 1 < units.len() {
        value /= base;
        place += 1;
    }
    let unit = units.get(place).copied().unwrap_or_default();
    if place == 0 || value >= 99.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(at_us: i64, cpu_ns: u64) -> Usage {
        Usage { at_us, cpu_ns: Some(cpu_ns), memory_bytes: Some(5), ..Usage::default() }
    }

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let mut pair = Pair { before: None, now: usage(1_000_000, 100) };
        let cpu = |pair: &Pair| (TASK[0].value)(pair);
        assert_eq!(cpu(&pair), None);
        assert_eq!((TASK[3].value)(&pair), Some(5.0));
        pair.push(usage(3_000_000, 500_000_100));
        assert_eq!(cpu(&pair), Some(25.0));
        pair.push(usage(3_000_000, 900_000_000));
        assert_eq!(cpu(&pair), Some(25.0));
        pair.push(usage(4_000_000, 0));
        assert_eq!(cpu(&pair), None);
        assert_eq!((TASK[1].value)(&pair), None);
    }

    #[test]
    fn values_fit_into_their_columns() {
        let show = |value, unit| show(Some(value), unit);
        assert_eq!(show(12.34, Unit::Percent), "12.3");
        assert_eq!(show(40_000.0, Unit::Percent), "40.0k");
        assert_eq!(show(999.6, Unit::PerSecond), "1.0k");
        assert_eq!(show(1_048_576.0, Unit::Bytes), "1.0M");
        assert_eq!(show(1000.0 * 1024.0, Unit::Bytes), "1.0M");
        for unit in [Unit::Percent, Unit::Bytes, Unit::BytesPerSecond, Unit::PerSecond, Unit::Count] {
            for exponent in 0..16 {
                for factor in [1.0, 1.05, 9.96, 9.999] {
                    let text = show(factor * 10_f64.powi(exponent), unit);
                    assert!(text.len() <= 6, "{text} of {unit:?}");
                }
            }
        }
    }

    #[test]
    fn keys_and_names_are_unique() {
        for columns in [TASK, AGENT] {
            let names: std::collections::BTreeSet<_> = columns.iter().map(|column| column.name).collect();
            let keys: std::collections::BTreeSet<_> = columns.iter().map(|column| column.key).collect();
            assert_eq!((names.len(), keys.len()), (columns.len(), columns.len()));
        }
    }
}
