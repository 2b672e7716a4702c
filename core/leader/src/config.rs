//! What the daemon may set, and the bounds that it may not.

use model::{ClusterId, Duration};

/// How the leader behaves; the defaults are those of the design.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What a cluster that has no id yet shall be called.
    pub cluster_new: ClusterId,
    pub offer_lease: Duration,
    pub agent_heartbeat: Duration,
    /// Silence after which an agent counts as unreachable.
    pub agent_timeout: Duration,
    /// Of a hundred agents, so many may be marked unreachable within [`UNREACHABLE_WINDOW`], but
    /// [`UNREACHABLE_IN_WINDOW_MIN`] at least; the others wait for an operator's word or for their turn.
    pub agents_unreachable_percent_max: u32,
    pub framework_heartbeat: Duration,
    /// How long a new leader lets agents and frameworks find it before it holds their absence against them.
    pub patience: Duration,
    /// Least time between two rounds of offers: what comes in between is decided together.
    pub cycle_interval: Duration,
    /// Finished tasks are kept for so long at most.
    pub finished_tasks_kept: Duration,
}

impl Config {
    pub fn new(cluster_new: ClusterId) -> Self {
        Self {
            cluster_new,
            offer_lease: Duration::from_secs(30),
            agent_heartbeat: Duration::from_secs(5),
            agent_timeout: Duration::from_secs(30),
            agents_unreachable_percent_max: 10,
            framework_heartbeat: Duration::from_secs(15),
            patience: Duration::from_secs(10),
            cycle_interval: Duration::from_millis(2),
            finished_tasks_kept: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// A round looks at every agent, some 2 µs each (5 000 agents: 13 ms), and should take half of the time at most.
pub const CYCLE_INTERVAL_PER_AGENT: Duration = Duration::from_micros(4);
/// How often the leader looks for silence, timeouts and work that was put off.
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// What of the cluster's time may be lost when the leader is: an entry in a minute costs nothing, and deadlines that
/// outlive leaders are hours and days.
pub const TIME_UNTOLD_MAX: Duration = Duration::from_secs(60);
/// Agents marked unreachable at once: when the leader itself is cut off, it has time to notice.
pub const AGENTS_MARKED_AT_ONCE_MAX: usize = 64;
/// Agents that fall silent together within this are a fault of the network rather than of each of them.
pub const UNREACHABLE_WINDOW: Duration = Duration::from_secs(600);
/// In a small cluster a tenth is less than one agent: these may always be marked.
pub const UNREACHABLE_IN_WINDOW_MIN: usize = 5;
/// Durable events sent to a framework before it must have read them.
pub const EVENTS_UNREAD_MAX: usize = 128;
/// Statuses of one agent that wait for the log: each of its tasks may send a few at an attach.
pub const STATUSES_WAITING_MAX: usize = 4 * model::limits::TASKS_PER_AGENT_MAX;
/// Tasks that one Reconcile may name.
pub const RECONCILED_MAX: usize = 10_000;
/// Offers that one Accept or Decline may name.
pub const OFFERS_PER_CALL_MAX: usize = 1024;
/// Reads of output that wait for their agents.
pub const READS_MAX: usize = 4096;
/// How long an agent may take to answer a read, beyond what it was told to wait.
pub const READ_ANSWER_TIME: Duration = Duration::from_secs(5);
/// A read is told to wait no longer than this.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(30);
/// Reads of histories that wait for their agents.
pub const HISTORIES_MAX: usize = 1024;
/// Reports of usage from all agents together: each takes some 10 µs besides the network, so a hundredth of a core.
pub const REPORTS_PER_SECOND_MAX: usize = 1000;
/// Tasks and hosts in them.
pub const SUBJECTS_PER_SECOND_MAX: usize = 20_000;
/// Agents are told to report at this pace while there are few, and no faster.
pub const USAGE_INTERVAL_MIN: Duration = Duration::from_secs(2);
/// Nor more rarely: a minute keeps the picture useful.
pub const USAGE_INTERVAL_MAX: Duration = Duration::from_secs(64);
/// Pause before something that the log had no room for is tried again.
pub const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Pause before `run` tries a task again that the log refused.
pub const REFUSED_TASK_PAUSE: Duration = Duration::from_secs(1);
/// Least time between two acknowledgements of one framework in the log.
pub const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_millis(100);
/// Waiting tasks that `run` looks at, and explains, at once.
pub const RUN_LOOKED_AT_MAX: usize = 10_000;
/// Ended offers whose fate is remembered, to say why they can't be used.
pub const OFFERS_REMEMBERED_MAX: usize = 10_000;
/// How long an offer that its framework let expire is not made again.
pub const EXPIRED_OFFER_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of assignments in one message: well below what gRPC takes by default (4 MiB).
pub const LAUNCH_BYTES_MAX: usize = 1 << 20;
/// What an assignment takes besides command and environment, roughly.
pub const ASSIGNMENT_BYTES: usize = 512;
/// Accepts whose fate is unknown: a leadership ends soon after the first.
pub const LAUNCHES_UNKNOWN_MAX: usize = 10_000;
