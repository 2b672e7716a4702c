//! Figures and reports of them as records, and back.

use model::{Figure, Histogram, Opened, Subject, Timestamp, Usage, UsageReport};
use proto::{agent::v1 as agent, types::v1 as wire};

use crate::{Invalid, each, optional_id, required};

/// Whether the columns fit together is seen when the report is taken.
pub fn usage_report(report: agent::UsageReport) -> Result<UsageReport, Invalid> {
    let agent::UsageReport { at_us, ended, opened, keys, changed, by } = report;
    let opened = each("opened", opened, |opened| {
        let agent::OpenedUsage { key, task_id, usage: figures } = opened;
        let subject = optional_id("task_id", &task_id)?.map_or(Subject::Host, Subject::Task);
        let mut figures = required("usage", figures)?;
        (figures.run_queue_latency, figures.block_latency) = (None, None);
        Ok(Opened { key, subject, usage: usage(figures) })
    })?;
    Ok(UsageReport { at: Timestamp(at_us), ended, opened, keys, changed, by })
}

pub fn to_usage_report(report: UsageReport) -> agent::UsageReport {
    let UsageReport { at, ended, opened, keys, changed, by } = report;
    let opened = opened.into_iter().map(|Opened { key, subject, usage }| agent::OpenedUsage {
        key,
        task_id: match subject {
            Subject::Host => String::new(),
            Subject::Task(task_id) => task_id.to_string(),
        },
        usage: Some(to_usage(&usage)),
    });
    agent::UsageReport { at_us: at.0, ended, opened: opened.collect(), keys, changed, by }
}

pub fn usage(mut message: wire::Usage) -> Usage {
    let mut usage = Usage::new(Timestamp(message.at_us));
    for figure in Figure::ALL {
        usage.set(figure, *field(&mut message, figure));
    }
    let wire::Usage { run_queue_latency, block_latency, .. } = message;
    usage.run_queue_latency = run_queue_latency.map(histogram);
    usage.block_latency = block_latency.map(histogram);
    usage
}

pub fn to_usage(usage: &Usage) -> wire::Usage {
    let mut message = wire::Usage {
        at_us: usage.at.0,
        run_queue_latency: usage.run_queue_latency.as_ref().map(to_histogram),
        block_latency: usage.block_latency.as_ref().map(to_histogram),
        ..wire::Usage::default()
    };
    for (figure, value) in usage.figures() {
        *field(&mut message, figure) = Some(value);
    }
    message
}

fn histogram(message: wire::Histogram) -> Histogram {
    let wire::Histogram { counts } = message;
    Histogram::of_counts(counts)
}

fn to_histogram(histogram: &Histogram) -> wire::Histogram {
    wire::Histogram { counts: histogram.counts().to_vec() }
}

/// Where the wire holds the figure: the one list for both ways.
fn field(message: &mut wire::Usage, figure: Figure) -> &mut Option<u64> {
    match figure {
        Figure::CpuNs => &mut message.cpu_ns,
        Figure::CpuThrottledNs => &mut message.cpu_throttled_ns,
        Figure::MemoryBytes => &mut message.memory_bytes,
        Figure::MemoryWorkingSetBytes => &mut message.memory_working_set_bytes,
        Figure::MemoryLimitBytes => &mut message.memory_limit_bytes,
        Figure::OomKills => &mut message.oom_kills,
        Figure::Processes => &mut message.processes,
        Figure::CpuUserNs => &mut message.cpu_user_ns,
        Figure::CpuSystemNs => &mut message.cpu_system_ns,
        Figure::CpuPeriods => &mut message.cpu_periods,
        Figure::CpuPeriodsThrottled => &mut message.cpu_periods_throttled,
        Figure::RunQueueNs => &mut message.run_queue_ns,
        Figure::SwitchesVoluntary => &mut message.switches_voluntary,
        Figure::SwitchesInvoluntary => &mut message.switches_involuntary,
        Figure::MemoryAnonBytes => &mut message.memory_anon_bytes,
        Figure::MemoryFileBytes => &mut message.memory_file_bytes,
        Figure::MemoryShmemBytes => &mut message.memory_shmem_bytes,
        Figure::MemoryKernelBytes => &mut message.memory_kernel_bytes,
        Figure::MemorySwapBytes => &mut message.memory_swap_bytes,
        Figure::MemoryPeakBytes => &mut message.memory_peak_bytes,
        Figure::FaultsMinor => &mut message.faults_minor,
        Figure::FaultsMajor => &mut message.faults_major,
        Figure::ReclaimStalls => &mut message.reclaim_stalls,
        Figure::ReclaimStallNs => &mut message.reclaim_stall_ns,
        Figure::PressureCpuSomeUs => &mut message.pressure_cpu_some_us,
        Figure::PressureCpuFullUs => &mut message.pressure_cpu_full_us,
        Figure::PressureMemorySomeUs => &mut message.pressure_memory_some_us,
        Figure::PressureMemoryFullUs => &mut message.pressure_memory_full_us,
        Figure::PressureIoSomeUs => &mut message.pressure_io_some_us,
        Figure::PressureIoFullUs => &mut message.pressure_io_full_us,
        Figure::BlockReadBytes => &mut message.block_read_bytes,
        Figure::BlockWriteBytes => &mut message.block_write_bytes,
        Figure::BlockReadOperations => &mut message.block_read_operations,
        Figure::BlockWriteOperations => &mut message.block_write_operations,
        Figure::BlockNs => &mut message.block_ns,
        Figure::NetworkReceivedBytes => &mut message.network_received_bytes,
        Figure::NetworkSentBytes => &mut message.network_sent_bytes,
        Figure::NetworkReceivedPackets => &mut message.network_received_packets,
        Figure::NetworkSentPackets => &mut message.network_sent_packets,
        Figure::NetworkRetransmits => &mut message.network_retransmits,
        Figure::ConnectionsOpened => &mut message.connections_opened,
        Figure::ConnectionsAccepted => &mut message.connections_accepted,
        Figure::ConnectionsFailed => &mut message.connections_failed,
        Figure::Threads => &mut message.threads,
        Figure::Forks => &mut message.forks,
        Figure::Execs => &mut message.execs,
        Figure::LoadMilli => &mut message.load_milli,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::testing;

    proptest! {
        #[test]
        fn what_was_written_can_be_read(given in testing::usage()) {
            let bytes = to_usage(&given).encode_to_vec();
            prop_assert_eq!(usage(wire::Usage::decode(bytes.as_slice()).unwrap()), given);
        }
    }

    proptest! {
        #[test]
        fn a_report_that_was_written_can_be_read(given in testing::usage_report()) {
            let bytes = to_usage_report(given.clone()).encode_to_vec();
            let read = agent::UsageReport::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(usage_report(read).unwrap(), given);
        }
    }

    #[test]
    fn the_number_of_a_figure_is_that_of_its_field() {
        for figure in Figure::ALL {
            let bytes = to_usage(&Usage::default().with(figure, 1)).encode_to_vec();
            let (key, _) = prost::encoding::decode_key(&mut bytes.as_slice()).unwrap();
            assert_eq!(key, u32::from(figure.number()), "{figure:?}");
        }
    }
}
