//! The bounds and delays of one agent's task table.

use model::Duration;

/// How long a final status waits for the cgroup to be empty, so that most tasks end with one status.
pub const RELEASE_WAIT: Duration = Duration::from_secs(1);
/// How often a cgroup that won't be empty is killed again: a process in uninterruptible sleep takes its time.
pub const KILL_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Ended tasks whose sandbox is kept for their output.
pub const ENDED_KEPT_MAX: usize = 1000;
/// How long they are kept.
pub const ENDED_KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How often the launch of a task may be under way while its agent stops: more often, and it may be the reason.
/// Tasks that only wait for their turn are counted, too, so there is room for an agent that restarts in a loop.
pub const LAUNCHES_MAX: u32 = 32;
/// Statuses that one row can hold: starting, running, killing, final, released, refused.
pub const STATUSES_PER_TASK_MAX: usize = 8;

/// Undeclared ports that a task's status names; who uses more of them has made its point.
pub const PORTS_TOLD_MAX: usize = 16;
