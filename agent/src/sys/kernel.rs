//! The real kernel, as [`Sys`].

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::Exit;

use super::cgroup::Cgroups;
use super::launch::Launcher;
use super::{
    Abilities, BootId, CgroupId, CgroupName, Ending, EnterRequest, Fetching, FetchingRequest, Figures,
    GroupRecord, Held, Identity, IdentityError, LaunchRequest, Layout, Limits, MemberFigures, OutputSlice,
    Pressure, Process, ProcessId, Signal, SpawnError, Sys, SysError, UserPolicy, Watch, fetching, group,
    identity, output, process, session,
};

/// What the operator sets.
#[derive(Debug, Clone)]
pub struct KernelConfig {
    /// The agent's group below each hierarchy's root; its tasks' groups are in it.
    pub cgroup_parent: PathBuf,
    /// Where a host without a v2 tree gets one.
    pub own_cgroup2: PathBuf,
    /// Where task output is kept; its filesystem is asked what it can do.
    pub output_dir: PathBuf,
}

/// The kernel of this host.
#[derive(Debug)]
pub struct Kernel {
    cgroups: Cgroups,
    launcher: Launcher,
    limitations: Vec<String>,
}

impl Kernel {
    /// Finds out what this host offers, and makes the agent's parent group.
    pub fn open(config: &KernelConfig) -> Result<Self, SysError> {
        let cgroups = Cgroups::open(&config.cgroup_parent, &config.own_cgroup2)?;
        let launcher = Launcher::new()?;
        let mut limitations = cgroups.limitations();
        if !output::can_trim(&config.output_dir)? {
            limitations.push(format!(
                "the filesystem of {} can't free the head of a file: task output grows without a bound",
                config.output_dir.display(),
            ));
        }
        Ok(Self { cgroups, launcher, limitations })
    }

    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }
}

impl Sys for Kernel {
    fn layout(&self) -> Layout {
        self.cgroups.layout()
    }

    fn limitations(&self) -> Vec<String> {
        self.limitations.clone()
    }

    fn abilities(&self) -> Abilities {
        let asked = self.cgroups.asked();
        let huge_pages = asked.huge_pages();
        Abilities {
            cores: asked.cores(),
            can_throttle_io: asked.can_throttle(),
            can_weigh_io: asked.can_weigh(),
            huge_pages: huge_pages.into_iter().flatten().map(|(size, pages)| (*size, *pages)).collect(),
        }
    }

    fn create_cgroup(&self, name: &CgroupName, limits: &Limits) -> Result<CgroupId, SysError> {
        self.cgroups.create(name, limits)
    }

    fn cgroup_id(&self, name: &CgroupName) -> Result<Option<CgroupId>, SysError> {
        self.cgroups.id(name)
    }

    fn cgroup_ids(&self, name: &CgroupName) -> Result<Vec<CgroupId>, SysError> {
        self.cgroups.ids(name)
    }

    fn member_figures(&self, name: &CgroupName, process: &str) -> Result<MemberFigures, SysError> {
        self.cgroups.member_figures(name, process)
    }

    fn figures(&self, name: &CgroupName) -> Result<Figures, SysError> {
        self.cgroups.figures(name)
    }

    fn pressure(&self, name: &CgroupName) -> Pressure {
        self.cgroups.pressure(name)
    }

    fn kill_cgroup(&self, name: &CgroupName) -> Result<(), SysError> {
        self.cgroups.kill(name)
    }

    fn is_cgroup_empty(&self, name: &CgroupName) -> Result<bool, SysError> {
        self.cgroups.is_empty(name)
    }

    fn watch_cgroup(&self, name: &CgroupName) -> Result<Watch, SysError> {
        self.cgroups.watch(name)
    }

    fn remove_cgroup(&self, name: &CgroupName) -> Result<(), SysError> {
        self.cgroups.remove(name)
    }

    fn close(&self) -> Result<(), SysError> {
        self.cgroups.close()
    }

    fn list_cgroups(&self) -> Result<Vec<CgroupName>, SysError> {
        self.cgroups.list()
    }

    fn resolve_user(
        &self,
        user: &str,
        groups: &[String],
        policy: &UserPolicy,
    ) -> Result<Identity, IdentityError> {
        identity::resolve(user, groups, policy)
    }

    fn spawn(&self, request: &LaunchRequest) -> Result<Held, SpawnError> {
        self.launcher.spawn(&self.cgroups, request)
    }

    fn enter(&self, request: EnterRequest) -> Result<Held, SpawnError> {
        self.launcher.enter(&self.cgroups, request)
    }

    fn reap(&self, process: &Process) -> Result<Option<Exit>, SysError> {
        let pid = process.id().pid;
        process::reap(process.as_fd()).map_err(|source| SysError::Wait { pid, source })
    }

    fn signal_group(&self, leader: ProcessId, number: u8) -> Result<(), SysError> {
        session::signal_group(leader, number)
    }

    fn end_session(&self, name: &CgroupName, leader: ProcessId, patience: Duration) -> Result<(), SysError> {
        session::end(&self.cgroups, name, leader, patience)
    }

    fn set_frozen(&self, name: &CgroupName, is_frozen: bool) -> Result<(), SysError> {
        self.cgroups.set_frozen(name, is_frozen)
    }

    fn is_frozen(&self, name: &CgroupName) -> Result<bool, SysError> {
        self.cgroups.is_frozen(name)
    }

    fn spawn_fetching(&self, request: FetchingRequest) -> Result<Fetching, SpawnError> {
        fetching::spawn(&self.cgroups, self.launcher.capability_last(), request)
    }

    fn reopen(&self, id: ProcessId) -> Result<Option<Process>, SysError> {
        process::reopen(id)
    }

    fn boot_id(&self) -> Result<BootId, SysError> {
        process::boot_id()
    }

    fn signal(&self, process: &Process, signal: Signal) -> Result<(), SysError> {
        process::signal(process, signal)
    }

    fn end_input(&self, process: &Process) -> Result<(), SysError> {
        process::end_input(process)
    }

    fn ending(&self, process: &Process, exit_file: &Path) -> Result<Ending, SysError> {
        process::ending(process, exit_file)
    }

    fn read_exit_file(&self, exit_file: &Path) -> Result<Option<Exit>, SysError> {
        process::read_exit_file(exit_file)
    }

    fn read_group_record(&self, exit_file: &Path) -> Result<Option<GroupRecord>, SysError> {
        group::read(exit_file)
    }

    fn has_begun(&self, exit_file: &Path) -> Result<bool, SysError> {
        process::has_begun(exit_file)
    }

    fn trim_output(&self, file: &Path, keep_bytes: u64) -> Result<u64, SysError> {
        output::trim(file, keep_bytes)
    }

    fn read_output(&self, file: &Path, offset: u64, limit: usize) -> Result<OutputSlice, SysError> {
        output::read(file, offset, limit)
    }
}
