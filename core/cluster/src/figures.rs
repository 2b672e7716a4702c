//! Which measured figures the log keeps of the end of a task.
//!
//! There is one status for each end, and the state keeps it as long as the task: what a reader of an old task
//! asks for is kept, the rest is history on the agent. Histograms are never kept.

use model::{Figure, TaskStatus, Usage};

/// The figures that a status may hold at this cluster version.
pub fn kept(usage: &Usage, version: u32) -> Usage {
    usage.only(|figure| since(figure).is_some_and(|since| since <= version))
}

/// The cluster version from which on these statuses may stand in the log.
pub(crate) fn version_needed(statuses: &[TaskStatus]) -> u32 {
    let is_old = |usage: &Usage| {
        usage.run_queue_latency.is_none()
            && usage.block_latency.is_none()
            && usage.figures().all(|(figure, _)| since(figure) == Some(1))
    };
    if statuses.iter().filter_map(|status| status.usage.as_ref()).all(is_old) { 1 } else { 2 }
}

/// The cluster version that first kept the figure.
fn since(figure: Figure) -> Option<u32> {
    match figure {
        Figure::CpuNs
        | Figure::CpuThrottledNs
        | Figure::MemoryBytes
        | Figure::MemoryWorkingSetBytes
        | Figure::MemoryLimitBytes
        | Figure::OomKills
        | Figure::Processes => Some(1),
        Figure::CpuUserNs
        | Figure::CpuSystemNs
        | Figure::RunQueueNs
        | Figure::MemoryPeakBytes
        | Figure::FaultsMajor
        | Figure::BlockReadBytes
        | Figure::BlockWriteBytes
        | Figure::NetworkReceivedBytes
        | Figure::NetworkSentBytes
        | Figure::Threads
        | Figure::Forks => Some(2),
        Figure::CpuPeriods
        | Figure::CpuPeriodsThrottled
        | Figure::SwitchesVoluntary
        | Figure::SwitchesInvoluntary
        | Figure::MemoryAnonBytes
        | Figure::MemoryFileBytes
        | Figure::MemoryShmemBytes
        | Figure::MemoryKernelBytes
        | Figure::MemorySwapBytes
        | Figure::FaultsMinor
        | Figure::ReclaimStalls
        | Figure::ReclaimStallNs
        | Figure::PressureCpuSomeUs
        | Figure::PressureCpuFullUs
        | Figure::PressureMemorySomeUs
        | Figure::PressureMemoryFullUs
        | Figure::PressureIoSomeUs
        | Figure::PressureIoFullUs
        | Figure::BlockReadOperations
        | Figure::BlockWriteOperations
        | Figure::BlockNs
        | Figure::NetworkReceivedPackets
        | Figure::NetworkSentPackets
        | Figure::NetworkRetransmits
        | Figure::ConnectionsOpened
        | Figure::ConnectionsAccepted
        | Figure::ConnectionsFailed
        | Figure::Execs => None,
    }
}

#[cfg(test)]
mod tests {
    use model::{FrameworkId, Histogram, Reason, TaskId, TaskState, Timestamp};

    use super::*;

    fn needed(usage: Usage) -> u32 {
        let status = TaskStatus {
            task_id: TaskId::new("t").unwrap(),
            framework_id: FrameworkId::new("f").unwrap(),
            agent_id: None,
            state: TaskState::Finished,
            reason: Reason::CommandExited,
            message: String::new(),
            exit: None,
            at: Timestamp(1),
            sequence: 1,
            is_released: true,
            usage: Some(usage),
        };
        version_needed(&[status])
    }

    #[test]
    fn what_is_kept_at_a_version_needs_no_newer_one() {
        let mut full = Usage::default();
        full.run_queue_latency = Some(Histogram::default());
        Figure::ALL.into_iter().for_each(|figure| full.set(figure, Some(7)));
        assert_eq!(needed(full.clone()), 2);
        assert_eq!(needed(kept(&full, 1)), 1);
        assert_eq!(needed(kept(&full, 2)), 2);
        assert_eq!(kept(&full, 1).figures().count(), 7);
        assert_eq!(kept(&full, 2).figures().count(), 18);
    }
}
