//! What the log keeps of statuses and specs, and from which cluster version on.
//!
//! There is one status for each end of a task, and the state keeps it as long as the task: what a reader of an old task
//! asks for is kept, the rest is history on the agent. Histograms are never kept.

use std::sync::Arc;

use model::{Figure, Reason, TaskSpec, TaskStatus, Usage};

/// The status as it may stand in the log at this cluster version.
pub fn kept(status: TaskStatus, version: u32) -> TaskStatus {
    let usage = status.usage.as_ref().map(|usage| kept_usage(usage, version));
    let reason = if reason_since(status.reason) <= version { status.reason } else { Reason::None };
    let health = if version < 2 { None } else { status.health };
    TaskStatus { usage, reason, health, ..status }
}

/// The figures that a status may hold at this cluster version.
pub fn kept_usage(usage: &Usage, version: u32) -> Usage {
    usage.only(|figure| since(figure).is_some_and(|since| since <= version))
}

/// The cluster version from which on these statuses may stand in the log.
pub(crate) fn statuses_since(statuses: &[TaskStatus]) -> u32 {
    let is_old = |usage: &Usage| {
        usage.run_queue_latency.is_none()
            && usage.block_latency.is_none()
            && usage.figures().all(|(figure, _)| since(figure) == Some(1))
    };
    let of_status = |status: &TaskStatus| {
        let is_old = status.usage.as_ref().is_none_or(is_old) && status.health.is_none();
        reason_since(status.reason).max(if is_old { 1 } else { 2 })
    };
    statuses.iter().map(of_status).max().unwrap_or(1)
}

/// The cluster version from which on these specs may stand in the log.
pub(crate) fn specs_since(specs: &[Arc<TaskSpec>]) -> u32 {
    if specs.iter().all(|spec| spec.is_plain()) { 1 } else { 2 }
}

/// The cluster version that first knew the reason.
fn reason_since(reason: Reason) -> u32 {
    match reason {
        Reason::None
        | Reason::CommandExited
        | Reason::CommandSignaled
        | Reason::KillRequested
        | Reason::MemoryLimit
        | Reason::CommandNotExecutable
        | Reason::UserRefused
        | Reason::LaunchFailed
        | Reason::ExitStatusUnknown
        | Reason::AgentRebooted
        | Reason::AgentUnreachable
        | Reason::AgentGone
        | Reason::AgentLostTask
        | Reason::FrameworkTornDown
        | Reason::Reconciliation
        | Reason::TaskUnknown => 1,
        Reason::RunTimeLimit
        | Reason::DiskLimit
        | Reason::Unhealthy
        | Reason::FetchFailed
        | Reason::SpecRefused
        | Reason::PortNotDeclared => 2,
    }
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
        | Figure::Execs
        | Figure::LoadMilli => None,
    }
}

#[cfg(test)]
mod tests {
    use model::{FrameworkId, Health, Histogram, Resources, TaskId, TaskState, Timestamp};

    use super::*;

    fn needed(usage: Usage) -> u32 {
        statuses_since(&[TaskStatus { usage: Some(usage), ..status(Reason::CommandExited, None) }])
    }

    #[test]
    fn what_is_kept_at_a_version_needs_no_newer_one() {
        let mut full = Usage::default();
        full.run_queue_latency = Some(Histogram::default());
        Figure::ALL.into_iter().for_each(|figure| full.set(figure, Some(7)));
        assert_eq!(needed(full.clone()), 2);
        assert_eq!(needed(kept_usage(&full, 1)), 1);
        assert_eq!(needed(kept_usage(&full, 2)), 2);
        assert_eq!(kept_usage(&full, 1).figures().count(), 7);
        assert_eq!(kept_usage(&full, 2).figures().count(), 18);
    }

    fn status(reason: Reason, health: Option<Health>) -> TaskStatus {
        TaskStatus {
            task_id: TaskId::new("t").unwrap(),
            framework_id: FrameworkId::new("f").unwrap(),
            agent_id: None,
            state: TaskState::Failed,
            reason,
            message: String::new(),
            exit: None,
            at: Timestamp(0),
            sequence: 1,
            is_released: false,
            usage: None,
            health,
        }
    }

    #[test]
    fn what_the_first_version_did_not_know_is_not_shown_to_it() {
        for reason in Reason::ALL {
            for health in [None, Some(Health::Healthy)] {
                let status = status(*reason, health);
                assert_eq!(statuses_since(&[kept(status.clone(), 1)]), 1);
                assert_eq!(kept(status.clone(), 2), status);
            }
        }
        assert_eq!(statuses_since(&[status(Reason::DiskLimit, None)]), 2);
        assert_eq!(statuses_since(&[status(Reason::None, Some(Health::Unknown))]), 2);
    }

    #[test]
    fn a_spec_that_asks_for_more_needs_the_second_version() {
        let id = TaskId::new("t").unwrap();
        let plain = TaskSpec::new(id, Resources::default(), Vec::new());
        let more = TaskSpec { has_private_network: true, ..plain.clone() };
        assert_eq!(specs_since(&[Arc::new(plain.clone())]), 1);
        assert_eq!(specs_since(&[Arc::new(plain), Arc::new(more)]), 2);
    }
}
