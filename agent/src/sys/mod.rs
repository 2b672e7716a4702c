//! The kernel seam: the only place that calls the kernel for tasks, and the only one with `unsafe`.
//!
//! It does what it is told and says what it found; it decides nothing.
//! [`Sys`] is what `execute` sees: [`Kernel`] does it, [`fake::FakeSys`] plays it in unit tests.
//! Calls block (some for milliseconds); never make them on a thread that others wait for.

mod abilities;
pub mod beneath;
pub mod bpf;
pub mod cgroup;
pub(crate) mod decoders;
pub mod disk;
mod error;
pub mod fake;
mod fetching;
pub mod filter;
mod group;
mod identity;
mod kernel;
mod launch;
pub mod network;
mod output;
mod process;
mod raw;
mod session;
mod stream;
pub mod terminal;

use std::path::Path;
use std::time::Duration;

pub use abilities::Abilities;
pub use cgroup::{
    CgroupId, CgroupName, DeviceRule, Figures, HugePageSize, Layout, Limits, MemberFigures, MemberLimits,
    Pressure, Stalled,
};
pub use error::SysError;
pub use fetching::{
    FETCH_VERB, Fetching, FetchingRequest, Killer, NAME_VERB, confine_fetching, confine_naming, spawn_naming,
};
pub use group::{GroupRecord, MemberEnd};
pub use identity::{Identity, IdentityError, UserPolicy};
pub use kernel::{Kernel, KernelConfig};
pub use launch::{
    EnterRequest, Extras, Held, LaunchGroup, LaunchMember, LaunchRequest, LaunchStep, Namespaces, PathMount,
    ReleaseError, Secrets, SpawnError,
};
pub use launch::{capability, seccomp};
pub use output::OutputSlice;
pub use process::{BootId, Ending, Process, ProcessId, Signal, Watch};
pub use stream::ByteStream;

/// What the agent asks of the kernel.
pub trait Sys: Send + Sync + 'static {
    /// How this host lays out its control groups.
    fn layout(&self) -> Layout;

    /// What this host can't do, each as a sentence for `doctor` and the operator.
    fn limitations(&self) -> Vec<String>;

    /// What a task may ask for here beyond what every task has.
    fn abilities(&self) -> Abilities;

    /// Makes the group in every hierarchy and sets its limits. Its id is the v2 one, by which eBPF
    /// knows it. A group that is there already is refused: every attempt needs a fresh name.
    fn create_cgroup(&self, name: &CgroupName, limits: &Limits) -> Result<CgroupId, SysError>;

    /// The id of a group that is there; `None` if it is not.
    fn cgroup_id(&self, name: &CgroupName) -> Result<Option<CgroupId>, SysError>;

    /// The ids of a group and of those inside it, as kernel programs see them; empty if it is not there.
    fn cgroup_ids(&self, name: &CgroupName) -> Result<Vec<CgroupId>, SysError>;

    /// What the kernel counted for one process of a task group.
    fn member_figures(&self, name: &CgroupName, process: &str) -> Result<MemberFigures, SysError>;

    /// What the kernel counted for the group. A figure that this host does not have is `None`.
    fn figures(&self, name: &CgroupName) -> Result<Figures, SysError>;

    /// How long the group's threads were held up for want of something; empty where nobody can tell.
    fn pressure(&self, name: &CgroupName) -> Pressure;

    /// Sends SIGKILL to every process of the group; new ones die at birth. Does not wait.
    /// A group that is gone is no error.
    fn kill_cgroup(&self, name: &CgroupName) -> Result<(), SysError>;

    /// Whether no process is left in the group, or the group is gone.
    fn is_cgroup_empty(&self, name: &CgroupName) -> Result<bool, SysError>;

    /// A descriptor that becomes readable whenever the group may have become empty.
    /// Take it first, then ask [`Sys::is_cgroup_empty`], then await [`Watch::changed`] and ask again.
    fn watch_cgroup(&self, name: &CgroupName) -> Result<Watch, SysError>;

    /// Removes the empty group everywhere; what is gone already is no error.
    fn remove_cgroup(&self, name: &CgroupName) -> Result<(), SysError>;

    /// Removes the agent's parent group, and whatever else is left when the last task is gone.
    /// Fails while a task's group is there: call it at the end of a clean stop.
    fn close(&self) -> Result<(), SysError>;

    /// Every group under the agent's parent group, in any hierarchy: for the sweeper.
    fn list_cgroups(&self) -> Result<Vec<CgroupName>, SysError>;

    /// Turns a user's name or number into ids, and refuses who is not allowed. With groups, those are its
    /// supplementary groups instead of the user's own.
    fn resolve_user(
        &self,
        user: &str,
        groups: &[String],
        policy: &UserPolicy,
    ) -> Result<Identity, IdentityError>;

    /// Starts a process in its groups and namespaces that waits for [`Held::release`] before it
    /// becomes the command. It ends by itself when the `Held` is dropped or this process dies.
    fn spawn(&self, request: &LaunchRequest) -> Result<Held, SpawnError>;

    /// Starts one more process in a task that runs: in its groups and namespaces, with its rights, in a session
    /// of its own. Waits for [`Held::release`], and ends by itself, as [`Sys::spawn`].
    fn enter(&self, request: EnterRequest) -> Result<Held, SpawnError>;

    /// How a process of [`Sys::enter`] ended; `None` while it runs, and if it was asked before.
    fn reap(&self, process: &Process) -> Result<Option<model::Exit>, SysError>;

    /// Sends a signal to the process group of a process of [`Sys::enter`] that was not reaped yet.
    fn signal_group(&self, leader: ProcessId, number: u8) -> Result<(), SysError>;

    /// Ends whatever is left of the session that a process of [`Sys::enter`] led: SIGHUP, and SIGKILL when the
    /// patience is over. Others in the group are left alone.
    fn end_session(&self, name: &CgroupName, leader: ProcessId, patience: Duration) -> Result<(), SysError>;

    /// Stops every process of the group where it stands, or lets them go on. New ones stop at birth.
    fn set_frozen(&self, name: &CgroupName, is_frozen: bool) -> Result<(), SysError>;

    /// Whether the group was told to stand still; false where it is gone or the kernel can't freeze.
    fn is_frozen(&self, name: &CgroupName) -> Result<bool, SysError>;

    /// Starts the process that fetches a task's files, in the task's groups and with its user's rights alone.
    fn spawn_fetching(&self, request: FetchingRequest) -> Result<Fetching, SpawnError>;

    /// Takes hold of a process that outlived its agent; `None` when it has ended, even if another
    /// has its number now.
    fn reopen(&self, id: ProcessId) -> Result<Option<Process>, SysError>;

    /// This boot of the host: process ids of another one mean nothing.
    fn boot_id(&self) -> Result<BootId, SysError>;

    /// Sends a signal to the task's first process, which passes it on to the command.
    /// A process that has ended is no error.
    fn signal(&self, process: &Process, signal: Signal) -> Result<(), SysError>;

    /// Tells the init of a task with an input that nothing more comes, so that it lets its end go.
    /// A process that has ended is no error.
    fn end_input(&self, process: &Process) -> Result<(), SysError>;

    /// Whether the process has ended, and how. Reaps it if it is our child.
    /// `exit_file` is the one given to [`Sys::spawn`].
    fn ending(&self, process: &Process, exit_file: &Path) -> Result<Ending, SysError>;

    /// How the task ended, by the record that outlives the agent; for tasks without a process to
    /// ask. `None` where nothing was recorded.
    fn read_exit_file(&self, exit_file: &Path) -> Result<Option<model::Exit>, SysError>;

    /// How the processes of a task group ended, as far as they have. `None` where nothing was recorded.
    fn read_group_record(&self, exit_file: &Path) -> Result<Option<GroupRecord>, SysError>;

    /// Whether the task's init has begun, and so its command may have run. Where the init never wrote a
    /// word, the command has not. Tasks without an init write nothing either.
    fn has_begun(&self, exit_file: &Path) -> Result<bool, SysError>;

    /// Frees all but the last `keep_bytes` of an output file. Offsets stay what they were: the
    /// freed head reads as a hole. Answers the offset of the first byte that is kept.
    fn trim_output(&self, file: &Path, keep_bytes: u64) -> Result<u64, SysError>;

    /// Reads up to `limit` bytes at a logical offset; an offset in the trimmed head moves up to the
    /// first byte that is kept.
    fn read_output(&self, file: &Path, offset: u64, limit: usize) -> Result<OutputSlice, SysError>;
}
