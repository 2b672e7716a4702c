//! The agreed state: records in persistent maps, so that a clone is a snapshot.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use model::{
    AgentId, Amounts, ClusterId, ClusterTime, Cursor, FrameworkEvent, FrameworkId, KillOrder, Reason,
    Resources, RoleName, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp, limits,
};

use crate::{
    access::Access,
    answers::Answers,
    command::{AgentFacts, FrameworkInfo},
    index::{Index, Share},
    join_token::JoinToken,
};

/// The newest cluster version that this build understands; a log or snapshot above it must be refused.
///
/// - 1: what the first release had.
/// - 2: statuses hold [more figures, reasons and health](crate::kept); specs ask for more than plain ones.
/// - 3: the members count the [cluster's time](ClusterTime), and deadlines are by it.
/// - 4: join tokens.
/// - 5: operators take agents out of use, and say that they are gone.
/// - 6: users, duties, and certificates that are revoked.
/// - 7: join tokens expire by the cluster's time.
pub const VERSION_SUPPORTED: u32 = 7;
/// The cluster version from which on entries say what their proposer counted.
pub const CLUSTER_TIME_SINCE: u32 = 3;
/// The cluster version from which on operators may say what they know of agents.
pub const AGENT_CARE_SINCE: u32 = 5;
/// Id and name of the built-in framework that owns one-off tasks.
pub const RUN_FRAMEWORK: &str = "run";
/// The weight of a role that nobody set.
pub const WEIGHT_MILLI_DEFAULT: u64 = 1000;

/// Everything that the members agree on.
///
/// Clones are cheap and share what they have in common. Only [`crate::apply`] changes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterState {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) version: u32,
    /// Index of the last entry.
    pub(crate) applied: u64,
    /// The latest that any entry said.
    pub(crate) counted: ClusterTime,
    pub(crate) frameworks: OrdMap<FrameworkId, Arc<Framework>>,
    /// When each was torn down, by index and time.
    pub(crate) ended: OrdMap<FrameworkId, (u64, Timestamp)>,
    pub(crate) agents: OrdMap<AgentId, Arc<Agent>>,
    /// When an operator said of each that it never comes back, by index and time.
    pub(crate) gone_agents: OrdMap<AgentId, (u64, Timestamp)>,
    pub(crate) tasks: OrdMap<TaskId, Arc<Task>>,
    pub(crate) roles: OrdMap<RoleName, Role>,
    pub(crate) queue: OrdMap<Cursor, Waiting>,
    /// By id.
    pub(crate) join_tokens: OrdMap<String, JoinToken>,
    pub(crate) access: Access,
    /// For requests that no framework makes, or that begin or end one.
    pub(crate) answers: Answers,
    pub(crate) index: Index,
}

/// One that receives offers and launches tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framework {
    pub info: FrameworkInfo,
    pub state: FrameworkState,
    pub is_built_in: bool,
    /// Durable events that it has not acknowledged, oldest first.
    pub events: OrdMap<Cursor, Arc<FrameworkEvent>>,
    /// The latest event that it acknowledged.
    pub acknowledged: Cursor,
    /// The latest event that was dropped unacknowledged.
    pub compacted_to: Option<Cursor>,
    pub(crate) answers: Answers,
    /// Events that may be dropped: all but final statuses.
    pub(crate) droppable: OrdSet<Cursor>,
}

/// Whether a framework has a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameworkState {
    Connected,
    Disconnected {
        /// For people to read.
        at: Timestamp,
        /// From when on its failover timeout counts; the beginning where an older version wrote it down.
        counted: ClusterTime,
    },
}

/// One machine's daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Shared, because the record changes with each of its tasks and these don't.
    pub facts: Arc<AgentFacts>,
    /// Grows with each registration; what carries an older one is refused.
    pub epoch: u64,
    pub is_reachable: bool,
    pub availability: Availability,
    /// When this epoch began.
    pub registered_at: Timestamp,
    pub changed_at: Timestamp,
    /// The sum of its tasks that are not released.
    pub allocated: Resources,
    /// Its tasks that are not both final and released.
    pub tasks: OrdSet<TaskId>,
}

/// Whether an agent may be given new tasks; an operator's word, that outlives registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Availability {
    #[default]
    Active,
    Deactivated,
}

impl Agent {
    /// What can be launched here; nothing of a kind that shrank below what is allocated.
    pub fn free(&self) -> Resources {
        self.facts.total.minus_at_most(&self.allocated)
    }

    /// Whether it registered with less than its tasks have: nothing more of that kind can be launched.
    pub fn is_overdrawn(&self) -> bool {
        !self.facts.total.contains(&self.allocated)
    }
}

/// One thing running, to run, or that ran on one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub spec: Arc<TaskSpec>,
    pub framework: FrameworkId,
    pub role: RoleName,
    /// Absent when it ended while it waited.
    pub agent: Option<AgentId>,
    /// Of the agent when the task was launched.
    pub epoch: u64,
    pub state: TaskState,
    /// The wish that it should end.
    pub kill: Option<KillOrder>,
    /// Whether its resources are free again; only final tasks are released.
    pub is_released: bool,
    /// The latest, numbered as its framework hears it. Absent until the first.
    pub status: Option<TaskStatus>,
    /// Highest sequence that its *agent* gave a status that is recorded.
    ///
    /// The agent's numbers and those that the framework hears differ, because the log has statuses of its
    /// own to tell (UNREACHABLE, GONE), and the agent counts on without knowing of them.
    pub recorded_sequence: u64,
    /// When it was submitted or launched.
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
    /// The same as the cluster counts; the beginning where an older version wrote it down.
    pub changed_counted: ClusterTime,
}

impl Task {
    /// Whether nothing will change any more.
    pub fn is_over(&self) -> bool {
        self.state.is_final() && self.is_released
    }

    /// The number of the latest status, as its framework hears it; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.status.as_ref().map_or(0, |status| status.sequence)
    }

    /// The latest status, or one that says that nothing was heard yet.
    pub fn latest_status(&self) -> TaskStatus {
        let status = self.status.clone().unwrap_or_else(|| TaskStatus {
            task_id: self.spec.task_id.clone(),
            framework_id: self.framework.clone(),
            agent_id: self.agent.clone(),
            state: self.state,
            reason: Reason::None,
            message: String::new(),
            exit: None,
            at: self.changed_at,
            sequence: 0,
            is_released: false,
            usage: None,
            health: None,
        });
        TaskStatus { is_released: self.is_released, ..status }
    }
}

/// A named share of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Thousandths; [`WEIGHT_MILLI_DEFAULT`] where nobody set it.
    pub weight_milli: u64,
}

/// A task of the built-in framework `run` for which no offer was used yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub spec: Arc<TaskSpec>,
    pub submitted_at: Timestamp,
}

impl ClusterState {
    /// Before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Absent until the cluster is initialised.
    pub fn cluster(&self) -> Option<&ClusterId> {
        self.cluster.as_ref()
    }

    /// What commands the log may hold; 0 until the cluster is initialised.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Index of the last entry that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// What the leaders had counted when the last entry was proposed.
    pub fn counted(&self) -> ClusterTime {
        self.counted
    }

    /// All that are not torn down, by id.
    pub fn frameworks(&self) -> &OrdMap<FrameworkId, Arc<Framework>> {
        &self.frameworks
    }

    pub fn framework(&self, framework: &FrameworkId) -> Option<&Framework> {
        self.frameworks.get(framework).map(AsRef::as_ref)
    }

    /// Whether the framework was torn down, as far as that is remembered.
    pub fn has_ended(&self, framework: &FrameworkId) -> bool {
        self.ended.contains_key(framework)
    }

    /// All that ever registered and are not gone, by id.
    pub fn agents(&self) -> &OrdMap<AgentId, Arc<Agent>> {
        &self.agents
    }

    /// When an operator said that this agent never comes back, as far as that is remembered.
    pub fn agent_gone_at(&self, agent: &AgentId) -> Option<Timestamp> {
        self.gone_agents.get(agent).map(|(_, at)| *at)
    }

    pub fn agent(&self, agent: &AgentId) -> Option<&Agent> {
        self.agents.get(agent).map(AsRef::as_ref)
    }

    /// All that are launched or finished, by id; those that wait stand in the queue.
    pub fn tasks(&self) -> &OrdMap<TaskId, Arc<Task>> {
        &self.tasks
    }

    pub fn task(&self, task: &TaskId) -> Option<&Task> {
        self.tasks.get(task).map(AsRef::as_ref)
    }

    /// Roles whose weight somebody set.
    pub fn roles(&self) -> &OrdMap<RoleName, Role> {
        &self.roles
    }

    /// The weight of a role, set or not, in thousandths.
    pub fn weight_milli(&self, role: &RoleName) -> u64 {
        self.roles.get(role).map_or(WEIGHT_MILLI_DEFAULT, |role| role.weight_milli)
    }

    /// What waits in the built-in framework `run`, oldest first.
    pub fn queue(&self) -> &OrdMap<Cursor, Waiting> {
        &self.queue
    }

    /// What lets somebody come into the cluster, by id; those that ended long ago are forgotten.
    pub fn join_tokens(&self) -> &OrdMap<String, JoinToken> {
        &self.join_tokens
    }

    /// Who may do what.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The waiting task of this id.
    pub fn waiting(&self, task: &TaskId) -> Option<&Waiting> {
        self.queue.get(self.index.waiting.get(task)?)
    }

    /// The tasks of a framework that are not both final and released, and their sum; also of one that ended.
    pub fn share_of_framework(&self, framework: &FrameworkId) -> Option<&Share> {
        self.index.by_framework.get(framework).map(AsRef::as_ref)
    }

    /// The sum of all tasks of a role that are not released.
    pub fn allocated_by_role(&self, role: &RoleName) -> Option<&Amounts> {
        self.index.by_role.get(role).map(AsRef::as_ref)
    }

    /// The roles that have tasks which are not released, with their sums.
    pub fn allocated_roles(&self) -> &OrdMap<RoleName, Arc<Amounts>> {
        &self.index.by_role
    }

    /// Whether somebody may come in with a token whose end is by the cluster's time.
    pub fn has_open_join_tokens(&self) -> bool {
        self.join_tokens
            .values()
            .any(|token| token.end.is_none() && token.until.is_some_and(|until| self.counted < until))
    }

    /// How many tasks are final, released, and known as such to their framework: those that Prune may drop.
    pub fn prunable_count(&self) -> usize {
        self.index.prunable.len()
    }

    /// When the oldest task that Prune may drop ended.
    pub fn prunable_since(&self) -> Option<ClusterTime> {
        self.index.prunable.get_min().map(|(counted, _, _)| *counted)
    }

    /// Whether Prune with the default bound would drop something.
    pub fn is_prune_due(&self) -> bool {
        self.prunable_count() > limits::FINISHED_TASKS_KEPT_MAX
    }
}
