//! The bounds of everything, each with its reason.

/// Ids become file and cgroup names, whose bound is 255 bytes (NAME_MAX); half leaves room for suffixes.
pub const ID_BYTES_MAX: usize = 128;
/// Request ids are kept in the log's window of answers; they only have to be unique there.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Roles, scalars and attribute names are metric labels and map keys.
pub const NAME_BYTES_MAX: usize = 64;
/// A name for people fits on one line of a terminal.
pub const DISPLAY_NAME_BYTES_MAX: usize = 128;
/// Attribute and label values.
pub const VALUE_BYTES_MAX: usize = 256;
/// Attributes of one agent, labels of one task.
pub const ATTRIBUTES_MAX: usize = 64;
/// A status message is one sentence.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// What an agent can't do, one line each.
pub const LIMITATIONS_MAX: usize = 64;

/// One agent has at most 2^20 cores: 2^30 thousandths.
pub const CPUS_MILLI_MAX: u64 = 1 << 30;
/// One agent has at most 2^36 MiB (64 PiB) of memory or disk.
pub const MIB_MAX: u64 = 1 << 36;
/// One agent has at most so many devices.
pub const GPUS_MAX: u32 = 1 << 16;
/// One agent has at most 2^36 thousandths of a named scalar.
pub const SCALAR_MILLI_MAX: u64 = 1 << 36;
/// Kinds of named scalars of one agent or task.
pub const SCALARS_MAX: usize = 32;
/// Port ranges of one agent or task.
pub const PORT_RANGES_MAX: usize = 1024;

/// Agents of one cluster.
pub const AGENTS_MAX: u64 = 1 << 17;
/// Agents of which an operator said that they are gone, and whose ids are remembered: as many as there can be at once.
/// One that is forgotten and comes back all the same is a new agent, whose old tasks end.
pub const GONE_AGENTS_KEPT_MAX: usize = 1 << 17;
/// Join tokens that are known: one for each machine of a large rack row, several times over.
pub const JOIN_TOKENS_MAX: usize = 10_000;
/// Users: people and frameworks with credentials of their own.
pub const USERS_MAX: usize = 10_000;
/// Tokens of one user: one in use, one that follows it, and some for other places.
pub const TOKENS_PER_USER_MAX: usize = 8;
/// Duties that somebody made.
pub const DUTIES_MAX: usize = 1_000;
/// Duties of one user.
pub const DUTIES_PER_USER_MAX: usize = 16;
/// Grants of one duty.
pub const GRANTS_PER_DUTY_MAX: usize = 64;
/// Names whose certificates were revoked: every agent of a large cluster could be.
pub const REVOCATIONS_MAX: usize = AGENTS_MAX as usize;
/// Roles whose weight was set.
pub const ROLES_MAX: usize = 10_000;
/// Thousandths of a role's weight.
pub const WEIGHT_MILLI_MAX: u64 = 1_000_000;

// Sums over the cluster fit in u64, and shares are compared in u128:
// (sum of allocated) × (sum of total) × weight.
const _: () = assert!(MIB_MAX.ilog2() + AGENTS_MAX.ilog2() < 64);
const _: () = assert!(2 * (MIB_MAX.ilog2() + AGENTS_MAX.ilog2()) + WEIGHT_MILLI_MAX.ilog2() < 127);
const _: () = assert!(CPUS_MILLI_MAX <= MIB_MAX && SCALAR_MILLI_MAX <= MIB_MAX);

/// Arguments of a command, and variables of an environment.
pub const ARGUMENTS_MAX: usize = 1024;
/// Bytes of arguments and of environment, each: Linux takes a quarter of an 8 MiB stack and 128 KiB for one string.
pub const ARGUMENT_BYTES_MAX: usize = 128 * 1024;
/// Processes of one task group: each costs cgroups, two output files and descriptors at its launch.
pub const PROCESSES_MAX: usize = 16;
/// A DNS label (RFC 1035).
pub const PROCESS_NAME_BYTES_MAX: usize = 63;
/// Paths end at PATH_MAX with their NUL.
pub const PATH_BYTES_MAX: usize = 4095;
/// Processes and threads of one task; pid_max is at most 2^22.
pub const PIDS_MAX: u32 = 1 << 22;
/// The smallest CPU limit that the kernel takes: 1 ms in a period of 100 ms.
pub const CPU_LIMIT_MILLI_MIN: u64 = 10;
/// The smallest memory that a task can start in, in MiB.
pub const TASK_MEM_MIB_MIN: u64 = 4;
/// A day is long enough to end well.
pub const KILL_GRACE_MS_MAX: u64 = 24 * 3600 * 1000;

/// Supplementary groups of one task; the kernel takes 65 536, nobody needs them.
pub const GROUPS_MAX: usize = 64;
/// Linux knows 41 capabilities.
pub const CAPABILITIES_MAX: usize = 64;
/// Linux takes at most 8192 cores (CONFIG_NR_CPUS).
pub const CORE_NUMBER_MAX: u32 = 8191;
/// The most likely to be ended for memory (proc(5), oom_score_adj).
pub const OOM_SCORE_ADJUST_MAX: u16 = 1000;
/// As blkio.weight of cgroup v1; v2's reaches 10 000, and is scaled.
pub const IO_WEIGHT_MAX: u16 = 1000;
/// Devices, and mounts, of one task.
pub const DEVICES_MAX: usize = 64;
pub const MOUNTS_MAX: usize = 64;
/// Secrets of one task, and their bytes together: keys and certificates, which travel in the log.
pub const SECRETS_MAX: usize = 32;
pub const SECRET_BYTES_MAX: u64 = 128 * 1024;
/// Files that one task has fetched.
pub const FETCHES_MAX: usize = 64;
/// More often than this, the questions cost more than the answers tell.
pub const PROBE_INTERVAL_MS_MIN: u64 = 100;
/// Failures or successes in a row.
pub const PROBES_IN_A_ROW_MAX: u64 = 1000;

/// Tasks that one agent may have unreleased: process ids, cgroups and map rows are sized by it.
pub const TASKS_PER_AGENT_MAX: usize = 8192;
/// Tasks in one bucket of an agent's hello, while the buckets reach: one that differs is told with a row of some 40
/// bytes for each.
pub const TASKS_PER_BUCKET: usize = 16;
/// Buckets of one hello: with 16 bytes each they leave half of a KiB for what else it says.
pub const BUCKETS_MAX: usize = 32;
/// Tasks in one Accept.
pub const TASKS_PER_ACCEPT_MAX: usize = 1024;
/// Tasks of one Run request.
pub const RUN_COUNT_MAX: u32 = 10_000;
/// Tasks that wait in the `run` framework.
pub const RUN_QUEUE_MAX: usize = 100_000;
/// Statuses in one log entry: an entry stays below 1 MiB.
pub const STATUSES_PER_ENTRY_MAX: usize = 512;
/// Answers that are kept for repeats, per framework; a client has far fewer requests in flight.
pub const ANSWERS_KEPT_MAX: usize = 1024;
/// Results inside the kept answers of one window: a `run` of many tasks has many in one answer.
pub const ANSWER_ITEMS_KEPT_MAX: usize = 65_536;
/// Durable events kept per framework that are not final statuses.
pub const EVENTS_KEPT_MAX: usize = 100_000;
/// Final statuses that a framework may leave unacknowledged before it can't launch more: they are never dropped.
pub const FINALS_UNACKNOWLEDGED_MAX: usize = 100_000;
/// Tasks dropped by one Prune, so that no entry holds the log up for long.
pub const PRUNED_PER_ENTRY_MAX: usize = 10_000;
/// Final tasks that are kept for people to look at.
pub const FINISHED_TASKS_KEPT_MAX: usize = 10_000;
/// Frameworks, disconnected ones included.
pub const FRAMEWORKS_MAX: usize = 10_000;
/// Torn down frameworks whose ids are remembered as ended.
pub const ENDED_FRAMEWORKS_KEPT_MAX: usize = 10_000;
/// Outstanding offers.
pub const OFFERS_MAX: usize = 200_000;
/// Channels open at once: to one task, because each may hold a process in it; to one agent and in all, because
/// each holds two connections' buffers.
pub const CHANNELS_PER_TASK_MAX: usize = 8;
pub const CHANNELS_PER_AGENT_MAX: usize = 64;
pub const CHANNELS_MAX: usize = 512;
/// Data in one frame of a channel.
pub const CHANNEL_FRAME_BYTES_MAX: usize = 64 * 1024;
const _: () =
    assert!(CHANNELS_PER_TASK_MAX <= CHANNELS_PER_AGENT_MAX && CHANNELS_PER_AGENT_MAX <= CHANNELS_MAX);

/// Demands that one framework may state.
pub const DEMANDS_MAX: usize = 64;
/// Decline filters of one framework.
pub const FILTERS_PER_FRAMEWORK_MAX: usize = 100_000;
/// A year: longer filters and timeouts are cut to it.
pub const TIMEOUT_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

// The largest answer fits into the window alone.
const _: () = assert!(RUN_COUNT_MAX as usize <= ANSWER_ITEMS_KEPT_MAX);
const _: () = assert!(TASKS_PER_ACCEPT_MAX <= ANSWER_ITEMS_KEPT_MAX);
