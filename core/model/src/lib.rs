//! The nouns of Muster: ids, resources, roles, offers, tasks and their states.
//!
//! Plain data that can't be wrong once it exists; bounds stand in [`limits`].
//! Nothing here decides, reads a clock or knows a wire format.

mod amounts;
mod attribute;
mod digest;
mod event;
mod ids;
pub mod limits;
mod policy;
mod refusal;
mod report;
mod resources;
mod spec;
mod task;
mod time;
mod usage;

pub use amounts::Amounts;
pub use attribute::{Attribute, Attributes};
pub use digest::{Digests, KnownRow};
pub use event::{Cursor, FrameworkEvent};
pub use ids::{
    AgentId, ClusterId, DutyName, FrameworkId, IdError, MemberId, OfferId, RequestId, RoleName, ScalarName,
    SubscriptionId, TaskId, UserName,
};
pub use policy::{
    BUILT_IN_DUTIES, Denied, Grant, GrantError, Scope, Target, Verb, built_in_duty, decide, decide_anywhere,
};
pub use refusal::{Refusal, RefusalCode};
pub use report::{Opened, ReportError, Reported, Reporter, UsageReport};
pub use resources::{MilliCpus, PortRange, PortRanges, Resources, ResourcesError};
pub use spec::{
    Device, Fetch, HealthCheck, IoLimits, KILL_GRACE_DEFAULT, Mount, Probe, ProcessSpec, Rlimit, RlimitKind,
    Secret, SecretValue, Sha256, SharedNamespaces, SpecError, StopSignal, TaskSpec, is_process_name,
};
pub use task::{Exit, Health, KillOrder, Reason, TaskState, TaskStatus};
pub use time::{ClusterTime, Duration, Timestamp};
pub use usage::{Figure, Histogram, Kind, Subject, Usage};
