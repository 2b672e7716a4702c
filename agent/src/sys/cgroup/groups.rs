//! Making, reading, emptying and removing tasks' groups.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::asked::Asked;
use super::guards::{Guards, MendedDevices};
use super::probe::{self, Controller, Hierarchies};
use super::{CgroupId, CgroupName, Figures, Layout, Limits, Pressure, Stalled, members};
use crate::sys::{SysError, Watch};

/// Period of the CPU quota: the kernel's own default, and what everyone's graphs expect.
pub(super) const CPU_PERIOD_US: u64 = 100_000;

/// How often an empty group's removal is tried again while the kernel still takes it apart.
const REMOVE_TRIES: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// Rounds of SIGKILL on kernels without `cgroup.kill`: freezing takes a moment, in which a process
/// may fork once more.
const KILL_ROUNDS: u32 = 16;

/// How long a group may take to stand still before whoever asked is told that it will.
const FREEZE_PATIENCE: Duration = Duration::from_secs(2);

/// The groups of one agent.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Hierarchies,
    /// Below each hierarchy's root.
    parent: PathBuf,
    /// The parent group in each v1 hierarchy in use, without repeats.
    v1_parents: Vec<PathBuf>,
    v2_parent: PathBuf,
    /// What only some tasks ask for.
    asked: Asked,
    has_own_v2_mount: bool,
    guards: Guards,
}

impl Cgroups {
    /// Finds the hierarchies and makes the agent's parent group in each.
    pub fn open(parent: &Path, own_v2: &Path) -> Result<Self, SysError> {
        let is_plain = parent.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || parent.as_os_str().is_empty() {
            return Err(SysError::GroupName { name: parent.display().to_string() });
        }
        let hierarchies = probe::probe(own_v2)?;
        let places = [&hierarchies.cpu, &hierarchies.memory, &hierarchies.pids];
        let v1_roots: BTreeSet<&PathBuf> = places
            .iter()
            .filter_map(|place| match place {
                Some(Controller::V1(root)) => Some(root),
                Some(Controller::V2) | None => None,
            })
            .collect();
        let v1_parents: Vec<PathBuf> = v1_roots.iter().map(|root| root.join(parent)).collect();
        let v2_parent = hierarchies.v2.join(parent);
        for path in v1_parents.iter().chain([&v2_parent]) {
            let made = fs::create_dir_all(path);
            made.map_err(|source| SysError::MakeGroup { path: path.clone(), source })?;
        }
        let has_own_v2_mount = hierarchies.v2 == own_v2;
        let asked = Asked::open(&hierarchies, parent, &v1_parents)?;
        let parent = parent.to_owned();
        let group = File::open(&v2_parent);
        let group = group.map_err(|source| SysError::Open { path: v2_parent.clone(), source })?;
        let guards = Guards::open(group.as_fd());
        let groups = Self { hierarchies, parent, v1_parents, v2_parent, asked, has_own_v2_mount, guards };
        groups.delegate()?;
        Ok(groups)
    }

    pub fn layout(&self) -> Layout {
        self.hierarchies.layout
    }

    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// What a task may ask for here beyond CPU, memory and processes.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// The v2 group above those of all tasks.
    pub fn v2_parent(&self) -> &Path {
        &self.v2_parent
    }

    /// Whether the kernel charges block requests to tasks' v2 groups.
    pub fn charges_block_io(&self) -> bool {
        let enabled = fs::read_to_string(self.v2_parent.join("cgroup.subtree_control"));
        enabled.is_ok_and(|enabled| enabled.split_whitespace().any(|controller| controller == "io"))
    }

    /// What can't be limited here.
    pub fn limitations(&self) -> Vec<String> {
        let mut limitations = Vec::new();
        for (place, controller, loss) in [
            (&self.hierarchies.cpu, "cpu", "tasks are not held to their cpus"),
            (&self.hierarchies.memory, "memory", "tasks are not held to their memory"),
            (&self.hierarchies.pids, "pids", "a fork bomb is not held back"),
        ] {
            if place.is_none() {
                limitations.push(format!("no hierarchy offers the {controller} controller: {loss}"));
            }
        }
        if let Some(Controller::V1(root)) = &self.hierarchies.memory
            && !root.join("memory.memsw.limit_in_bytes").exists()
        {
            limitations
                .push("the kernel does not account swap: a task may swap beyond its memory".to_owned());
        }
        if !self.v2_parent.join("cgroup.kill").exists() {
            let text =
                "the kernel has no cgroup.kill (5.14 and later have): tasks are frozen and killed one by one";
            limitations.push(text.to_owned());
        }
        limitations.extend(self.asked.limitations());
        if let Some(why) = self.guards.absent() {
            let text = "the kernel can't hold tasks to their devices, so that only modes of files keep others from them";
            limitations.push(format!("{text}: {why}"));
        }
        limitations
    }

    /// Makes the group everywhere and sets its limits; takes back what it made if a step fails.
    pub fn create(&self, name: &CgroupName, limits: &Limits) -> Result<CgroupId, SysError> {
        let made = self.make_directories(name).and_then(|()| {
            self.write_limits(name, limits)?;
            self.asked.create(name, limits, || self.enable_for_tasks(&["cpuset", "io"]))?;
            if !limits.devices.is_empty() {
                let given = self.guards.give(name, self.open_v2(name)?.as_fd(), &limits.devices);
                given.map_err(|source| SysError::Devices { path: self.v2_path(name), source })?;
            }
            // Last: what is attached above holds for what is below, and the task's first process is born there.
            self.create_members(name, &limits.members)?;
            let id = self.id(name)?;
            let path = self.v2_path(name);
            id.ok_or(SysError::Read { path, source: io::ErrorKind::NotFound.into() })
        });
        if let Err(error) = &made
            && !matches!(error, SysError::GroupExists { .. })
        {
            // The first error is the story; what can't be removed now is the sweeper's.
            let _ = self.remove(name);
        }
        made
    }

    pub fn id(&self, name: &CgroupName) -> Result<Option<CgroupId>, SysError> {
        let path = self.v2_path(name);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(CgroupId(metadata.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SysError::Read { path, source }),
        }
    }

    /// The v2 group, to clone a process into: the task's, or the leaf of one that has members.
    pub fn open_v2(&self, name: &CgroupName) -> Result<OwnedFd, SysError> {
        if let Some(leaf) = self.v2_leaf(name)
            && let Ok(leaf) = File::open(leaf)
        {
            return Ok(leaf.into());
        }
        let path = self.v2_path(name);
        let file = File::open(&path).map_err(|source| SysError::Open { path, source })?;
        Ok(file.into())
    }

    /// The v1 groups' `tasks` files, for a process to write itself into. A single thread that
    /// moves itself is spared the kernel's lock over all forks and exits (`cgroup_procs_write_start`
    /// in kernel/cgroup/cgroup.c), which a write to `cgroup.procs` takes.
    pub fn open_v1_tasks(&self, name: &CgroupName) -> Result<Vec<OwnedFd>, SysError> {
        let open = |parent: &PathBuf| {
            let path = parent.join(name.as_str()).join("tasks");
            let file = File::options().write(true).open(&path);
            file.map(OwnedFd::from).map_err(|source| SysError::Open { path, source })
        };
        let mut tasks: Vec<OwnedFd> = self.v1_parents.iter().map(open).collect::<Result<_, _>>()?;
        for parent in self.asked.v1_parents() {
            match open(parent) {
                Ok(file) => tasks.push(file),
                // It has not asked for that.
                Err(SysError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(tasks)
    }

    pub fn figures(&self, name: &CgroupName) -> Result<Figures, SysError> {
        let v2 = self.v2_path(name);
        // Every v2 group counts CPU time, with or without the controller (since Linux 4.15).
        let cpu = read_keys(&v2.join("cpu.stat"))?;
        let mut figures = Figures {
            cpu_usage_ns: cpu.get("usage_usec").map(|usec| usec * 1000),
            cpu_user_ns: cpu.get("user_usec").map(|usec| usec * 1000),
            cpu_system_ns: cpu.get("system_usec").map(|usec| usec * 1000),
            cpu_throttled_ns: cpu.get("throttled_usec").map(|usec| usec * 1000),
            cpu_periods: cpu.get("nr_periods"),
            cpu_periods_throttled: cpu.get("nr_throttled"),
            ..Figures::default()
        };
        if let Some(Controller::V1(_)) = &self.hierarchies.cpu {
            let stat = read_keys(&self.controller_path(&self.hierarchies.cpu, name).join("cpu.stat"))?;
            figures.cpu_throttled_ns = stat.get("throttled_time");
            figures.cpu_periods = stat.get("nr_periods");
            figures.cpu_periods_throttled = stat.get("nr_throttled");
        }
        let memory = self.controller_path(&self.hierarchies.memory, name);
        match &self.hierarchies.memory {
            Some(Controller::V1(_)) => {
                figures.memory_bytes = Some(read_number(&memory.join("memory.usage_in_bytes"))?);
                figures.memory_peak_bytes = Some(read_number(&memory.join("memory.max_usage_in_bytes"))?);
                figures.memory_limit_bytes = Some(read_number(&memory.join("memory.limit_in_bytes"))?);
                let own = read_keys(&memory.join("memory.oom_control"))?.get("oom_kill");
                figures.oom_kills =
                    own.map(|own| members::oom_kills_below(&memory).map(|more| own + more)).transpose()?;
                let kinds = read_keys(&memory.join("memory.stat"))?;
                let inactive = kinds.get("total_inactive_file");
                figures.memory_working_set_bytes = working_set(figures.memory_bytes, inactive);
                figures.memory_anon_bytes = kinds.get("total_rss");
                figures.memory_file_bytes = kinds.get("total_cache");
                figures.memory_shmem_bytes = kinds.get("total_shmem");
                figures.memory_kernel_bytes =
                    read_number_if_there(&memory.join("memory.kmem.usage_in_bytes"))?;
            }
            Some(Controller::V2) => {
                figures.memory_bytes = Some(read_number(&memory.join("memory.current"))?);
                figures.memory_peak_bytes = read_number_if_there(&memory.join("memory.peak"))?;
                figures.memory_limit_bytes = read_number_or_max(&memory.join("memory.max"))?;
                figures.oom_kills = read_keys(&memory.join("memory.events"))?.get("oom_kill");
                let kinds = read_keys(&memory.join("memory.stat"))?;
                figures.memory_working_set_bytes =
                    working_set(figures.memory_bytes, kinds.get("inactive_file"));
                figures.memory_anon_bytes = kinds.get("anon");
                figures.memory_file_bytes = kinds.get("file");
                figures.memory_shmem_bytes = kinds.get("shmem");
                figures.memory_kernel_bytes = kinds.get("kernel");
            }
            None => {}
        }
        if self.hierarchies.pids.is_some() {
            let path = self.controller_path(&self.hierarchies.pids, name).join("pids.current");
            figures.processes = Some(read_number(&path)?);
        }
        Ok(figures)
    }

    /// Needs no controller: the kernel keeps these for every v2 group, unless it was told not to.
    pub fn pressure(&self, name: &CgroupName) -> Pressure {
        let group = self.v2_path(name);
        let stalled = |file: &str| stalled(&fs::read_to_string(group.join(file)).ok()?);
        Pressure {
            cpu: stalled("cpu.pressure"),
            memory: stalled("memory.pressure"),
            io: stalled("io.pressure"),
        }
    }

    pub fn kill(&self, name: &CgroupName) -> Result<(), SysError> {
        let group = self.v2_path(name);
        let path = group.join("cgroup.kill");
        match write_existing(&path, "1") {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && group.exists() => {
                self.kill_one_by_one(name)
            }
            Err(error) if is_gone(&error) => Ok(()),
            Err(source) => Err(SysError::Write { path, value: "1".to_owned(), source }),
        }
    }

    /// For kernels without `cgroup.kill`: frozen, nobody can fork away from the signal.
    pub fn kill_one_by_one(&self, name: &CgroupName) -> Result<(), SysError> {
        let group = self.v2_path(name);
        let freeze = group.join("cgroup.freeze");
        // A kernel without a freezer (before 5.2) is chased instead; the rounds bound the chase.
        let is_frozen = write_existing(&freeze, "1").is_ok();
        let killed = (0..KILL_ROUNDS).try_for_each(|_| kill_below(&group));
        if is_frozen {
            // Dying processes leave the freezer by themselves; a group that is gone needs no thaw.
            let _ = write_existing(&freeze, "0");
        }
        killed
    }

    /// Waits until the kernel has stopped them all, for a moment: one that waits for a disk takes longer.
    pub fn set_frozen(&self, name: &CgroupName, is_frozen: bool) -> Result<(), SysError> {
        let group = self.v2_path(name);
        let path = group.join("cgroup.freeze");
        let value = if is_frozen { "1" } else { "0" };
        write_existing(&path, value).map_err(|source| SysError::Freeze { path, source })?;
        let watch = self.watch(name)?;
        let deadline = Instant::now() + FREEZE_PATIENCE;
        loop {
            let is_there =
                read_keys(&group.join("cgroup.events"))?.get("frozen") == Some(u64::from(is_frozen));
            let left = deadline.saturating_duration_since(Instant::now());
            if is_there || left.is_zero() {
                return Ok(());
            }
            // An error is seen again by the next look.
            let _ = watch.wait(left);
            watch.drain();
        }
    }

    pub fn is_frozen(&self, name: &CgroupName) -> Result<bool, SysError> {
        let path = self.v2_path(name).join("cgroup.freeze");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim() == "1"),
            // Kernels before 5.2 have no such file.
            Err(error) if is_gone(&error) => Ok(false),
            Err(source) => Err(SysError::Read { path, source }),
        }
    }

    /// Every process of the group and of those below it, as this process numbers them.
    pub fn processes(&self, name: &CgroupName) -> Result<Vec<rustix::process::Pid>, SysError> {
        processes_below(&self.v2_path(name))
    }

    pub fn is_empty(&self, name: &CgroupName) -> Result<bool, SysError> {
        let path = self.v2_path(name).join("cgroup.events");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let keys = Keys(text);
                let populated = keys.get("populated");
                populated.map(|count| count == 0).ok_or(SysError::Parse { path, found: keys.0 })
            }
            Err(error) if is_gone(&error) => Ok(true),
            Err(source) => Err(SysError::Read { path, source }),
        }
    }

    pub fn watch(&self, name: &CgroupName) -> Result<Watch, SysError> {
        let path = self.v2_path(name).join("cgroup.events");
        let failed = |source| SysError::Watch { path: path.clone(), source };
        match File::open(&path) {
            Ok(events) => Watch::on_kernel_file(events).map_err(failed),
            Err(error) if is_gone(&error) => Watch::raised().map_err(failed),
            Err(source) => Err(failed(source)),
        }
    }

    /// Removes the group from every hierarchy, the v2 one last: while it is there, the group is
    /// listed and can be found by its id.
    pub fn remove(&self, name: &CgroupName) -> Result<(), SysError> {
        self.guards.forget(name);
        for parent in self.parents() {
            remove_tree(&parent.join(name.as_str()))?;
        }
        Ok(())
    }

    /// Puts back the device programs that somebody detached.
    pub fn mend_devices(&self) -> Result<Vec<MendedDevices>, SysError> {
        self.guards.mend(&self.v2_parent, || self.list())
    }

    pub fn list(&self) -> Result<Vec<CgroupName>, SysError> {
        let mut names = BTreeSet::new();
        for parent in self.parents() {
            for child in directories_in(parent)? {
                // What we could not have made is not ours to name.
                let name = child
                    .file_name()
                    .and_then(|name| name.to_str())
                    .and_then(|name| CgroupName::new(name).ok());
                names.extend(name.filter(|name| name.as_str() != AGENT_LEAF));
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Removes the agent's parent groups, and the v2 mount if it is ours. Fails while a task's
    /// group is left.
    pub fn close(&self) -> Result<(), SysError> {
        for parent in self.parents() {
            let root_depth = self.parent.components().count();
            for path in parent.ancestors().take(root_depth) {
                // Another's, who lent it to us: systemd would miss it.
                if is_delegated(path) {
                    break;
                }
                match fs::remove_dir(path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // Above our own group others may live.
                    Err(_) if path != parent => break,
                    Err(source) => return Err(SysError::RemoveGroup { path: path.to_owned(), source }),
                }
            }
        }
        if self.has_own_v2_mount {
            let path = &self.hierarchies.v2;
            let failed = |error: rustix::io::Errno| SysError::Mount {
                what: "nothing more",
                path: path.clone(),
                source: error.into(),
            };
            rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty()).map_err(failed)?;
        }
        Ok(())
    }

    /// Of every hierarchy, the v2 one last.
    fn parents(&self) -> impl Iterator<Item = &PathBuf> {
        self.v1_parents.iter().chain(self.asked.v1_parents()).chain([&self.v2_parent])
    }

    pub(super) fn v2_path(&self, name: &CgroupName) -> PathBuf {
        self.v2_parent.join(name.as_str())
    }

    pub(super) fn controller_path(&self, place: &Option<Controller>, name: &CgroupName) -> PathBuf {
        match place {
            Some(Controller::V1(root)) => root.join(&self.parent).join(name.as_str()),
            Some(Controller::V2) | None => self.v2_path(name),
        }
    }

    fn make_directories(&self, name: &CgroupName) -> Result<(), SysError> {
        // The v2 group first: it is removed last, so its absence means that nothing is there.
        for parent in [&self.v2_parent].into_iter().chain(&self.v1_parents) {
            let path = parent.join(name.as_str());
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(SysError::GroupExists { path });
                }
                Err(source) => return Err(SysError::MakeGroup { path, source }),
            }
        }
        Ok(())
    }

    fn write_limits(&self, name: &CgroupName, limits: &Limits) -> Result<(), SysError> {
        let quota_us = limits.cpu_quota_milli.saturating_mul(CPU_PERIOD_US) / 1000;
        let cpu = self.controller_path(&self.hierarchies.cpu, name);
        match &self.hierarchies.cpu {
            Some(Controller::V1(_)) => {
                write(&cpu.join("cpu.cfs_period_us"), CPU_PERIOD_US)?;
                write(&cpu.join("cpu.cfs_quota_us"), quota_us)?;
                write(&cpu.join("cpu.shares"), cpu_shares(limits.cpu_weight_milli))?;
            }
            Some(Controller::V2) => {
                write(&cpu.join("cpu.max"), format_args!("{quota_us} {CPU_PERIOD_US}"))?;
                write(&cpu.join("cpu.weight"), cpu_weight(limits.cpu_weight_milli))?;
            }
            None => {}
        }
        let memory = self.controller_path(&self.hierarchies.memory, name);
        match &self.hierarchies.memory {
            Some(Controller::V1(_)) => {
                write(&memory.join("memory.limit_in_bytes"), limits.memory_bytes)?;
                // Memory and swap together may never be below memory alone, so this comes second.
                write_if_there(&memory.join("memory.memsw.limit_in_bytes"), limits.memory_bytes)?;
                if let Some(kept) = limits.memory_kept_bytes {
                    write_if_there(&memory.join("memory.soft_limit_in_bytes"), kept)?;
                }
            }
            Some(Controller::V2) => {
                write(&memory.join("memory.max"), limits.memory_bytes)?;
                write_if_there(&memory.join("memory.swap.max"), 0)?;
                // One victim, as on v1: the command decides whether losing a process is the end.
                write_if_there(&memory.join("memory.oom.group"), 0)?;
                if let Some(kept) = limits.memory_kept_bytes {
                    write_if_there(&memory.join("memory.low"), kept)?;
                }
            }
            None => {}
        }
        if self.hierarchies.pids.is_some() {
            write(&self.controller_path(&self.hierarchies.pids, name).join("pids.max"), limits.pids_max)?;
        }
        Ok(())
    }

    /// Hands the v2 controllers that every task needs down from the root to the tasks' groups.
    fn delegate(&self) -> Result<(), SysError> {
        let Hierarchies { cpu, memory, pids, io, .. } = &self.hierarchies;
        // With the last one, block requests are charged to whose they are, so that they can be measured.
        let mut wanted: Vec<&str> = [(cpu, "cpu"), (memory, "memory"), (pids, "pids"), (io, "io")]
            .into_iter()
            .filter(|(place, _)| matches!(place, Some(Controller::V2)))
            .map(|(_, word)| word)
            .collect();
        if self.asked.limits_every_task_in_v2() {
            wanted.push("hugetlb");
        }
        self.enable_for_tasks(&wanted)
    }

    /// Hands v2 controllers down, those of them that the v2 tree has.
    fn enable_for_tasks(&self, controllers: &[&str]) -> Result<(), SysError> {
        let path = self.hierarchies.v2.join("cgroup.controllers");
        let offered = read(&path)?;
        let has = |controller: &&str| offered.split_whitespace().any(|name| name == *controller);
        let wanted: Vec<String> =
            controllers.iter().copied().filter(has).map(|name| format!("+{name}")).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let wanted = wanted.join(" ");
        let mut group = self.hierarchies.v2.clone();
        let below = self.parent.components().map(Some).chain([None]);
        for next in below {
            enable(&group, &wanted)?;
            if let Some(next) = next {
                group.push(next);
            }
        }
        Ok(())
    }
}

/// Where the agent moves itself when it stands in the way of its own tasks' group.
const AGENT_LEAF: &str = "muster-agent";

/// Enables controllers for a group's children. A group that hands out controllers may hold no
/// processes itself unless it is the root (cgroup v2, "No Internal Process Constraint"): if we
/// are the only one in it, we move into a leaf below.
pub(super) fn enable(group: &Path, wanted: &str) -> Result<(), SysError> {
    let path = group.join("cgroup.subtree_control");
    // What is as we want it stays untouched: above a subtree that was delegated to us, groups are another's.
    let has = fs::read_to_string(&path).unwrap_or_default();
    if wanted
        .split_whitespace()
        .all(|word| has.split_whitespace().any(|own| word.strip_prefix('+') == Some(own)))
    {
        return Ok(());
    }
    let Err(error) = write_existing(&path, wanted) else { return Ok(()) };
    let failed = |source| SysError::Write { path: path.clone(), value: wanted.to_owned(), source };
    if error.raw_os_error() != Some(libc::EBUSY) {
        return Err(failed(error));
    }
    let members = group.join("cgroup.procs");
    let list =
        fs::read_to_string(&members).map_err(|source| SysError::Read { path: members.clone(), source })?;
    let own = std::process::id().to_string();
    if list.lines().any(|pid| pid != own) {
        return Err(failed(error));
    }
    let leaf = group.join(AGENT_LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(SysError::MakeGroup { path: leaf, source: error });
        }
        Ok(()) | Err(_) => {}
    }
    write(&leaf.join("cgroup.procs"), own)?;
    write_existing(&path, wanted).map_err(failed)
}

/// Whether systemd has handed this group over and leaves alone what is below it
/// (systemd.resource-control(5), "Delegate="; marked since systemd 240).
pub fn is_delegated(group: &Path) -> bool {
    let mut value = [0_u8; 8];
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let length = rustix::fs::getxattr(group, *name, value.as_mut_slice());
        length.is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

/// v1: 1024 for one core, and never below the kernel's least.
fn cpu_shares(milli: u64) -> u64 {
    (milli.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// v2: 100 for one core, which is what the kernel takes 1024 shares for
/// (`sched_weight_from_cgroup` in kernel/sched/sched.h).
fn cpu_weight(milli: u64) -> u64 {
    (milli / 10).clamp(1, 10_000)
}

fn working_set(usage: Option<u64>, inactive_file: Option<u64>) -> Option<u64> {
    Some(usage?.saturating_sub(inactive_file?))
}

fn kill_below(group: &Path) -> Result<(), SysError> {
    for pid in processes_below(group)? {
        match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                return Err(SysError::SendSignal { signal: "SIGKILL", pid, source: error.into() });
            }
        }
    }
    Ok(())
}

fn processes_below(group: &Path) -> Result<Vec<rustix::process::Pid>, SysError> {
    let path = group.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(source) => return Err(SysError::Read { path, source }),
    };
    let mut pids: Vec<_> = text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
        .collect();
    for child in directories_in(group)? {
        pids.extend(processes_below(&child)?);
    }
    Ok(pids)
}

/// Removes a group and those below it (a task that runs as root might have made some).
fn remove_tree(path: &Path) -> Result<(), SysError> {
    let mut tries_left = REMOVE_TRIES;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries_left > 0 => {
                tries_left -= 1;
                let children = directories_in(path)?;
                if children.is_empty() {
                    // The last process has left, and the kernel may still be letting go of it.
                    thread::sleep(REMOVE_PAUSE);
                }
                children.iter().try_for_each(|child| remove_tree(child))?;
            }
            Err(source) => return Err(SysError::RemoveGroup { path: path.to_owned(), source }),
        }
    }
}

pub(super) fn directories_in(path: &Path) -> Result<Vec<PathBuf>, SysError> {
    let failed = |source| SysError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A file of a group that was removed answers ENODEV to those who hold it open.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

pub(super) fn write(path: &Path, value: impl ToString) -> Result<(), SysError> {
    let value = value.to_string();
    write_existing(path, &value).map_err(|source| SysError::Write { path: path.to_owned(), value, source })
}

pub(super) fn write_if_there(path: &Path, value: impl ToString) -> Result<(), SysError> {
    let value = value.to_string();
    match write_existing(path, &value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(|source| SysError::Write { path: path.to_owned(), value, source }),
    }
}

fn write_existing(path: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

pub(super) fn read(path: &Path) -> Result<String, SysError> {
    fs::read_to_string(path).map_err(|source| SysError::Read { path: path.to_owned(), source })
}

pub(super) fn read_number(path: &Path) -> Result<u64, SysError> {
    let text = read(path)?;
    let number = text.trim().parse();
    number.map_err(|_| SysError::Parse { path: path.to_owned(), found: text.clone() })
}

fn read_number_or_max(path: &Path) -> Result<Option<u64>, SysError> {
    if read(path)?.trim() == "max" {
        return Ok(None);
    }
    read_number(path).map(Some)
}

fn read_number_if_there(path: &Path) -> Result<Option<u64>, SysError> {
    match read_number(path) {
        Err(SysError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// The totals of a pressure file (`Documentation/accounting/psi.rst`).
pub(in crate::sys) fn stalled(text: &str) -> Option<Stalled> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split(' ').find_map(|word| word.strip_prefix("total="))?.parse().ok()
    };
    Some(Stalled { some_us: total("some ")?, full_us: total("full ") })
}

/// A file of lines "key number".
pub(in crate::sys) struct Keys(pub(in crate::sys) String);

impl Keys {
    pub(in crate::sys) fn get(&self, key: &str) -> Option<u64> {
        let mut pairs = self.0.lines().filter_map(|line| line.split_once(' '));
        pairs.find(|(name, _)| *name == key).and_then(|(_, value)| value.trim().parse().ok())
    }
}

pub(super) fn read_keys(path: &Path) -> Result<Keys, SysError> {
    read(path).map(Keys)
}

/// Reads the start of a file again, without moving.
pub(in crate::sys) fn reread(file: &File) {
    let mut buffer = [0_u8; 256];
    // Only the reading matters: it tells the kernel which state we have seen.
    let _ = file.read_at(&mut buffer, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_the_ratio_of_requests() {
        assert_eq!(cpu_shares(1000), 1024);
        assert_eq!(cpu_shares(1), 2);
        assert_eq!(cpu_weight(1000), 100);
        assert_eq!((cpu_weight(250), cpu_weight(750)), (25, 75));
        assert_eq!(cpu_weight(1), 1);
    }

    #[test]
    fn pressure_is_the_total_and_some_kernels_lack_one() {
        let some = "some avg10=0.00 avg60=0.00 avg300=0.00 total=17\n";
        assert_eq!(stalled(some), Some(Stalled { some_us: 17, full_us: None }));
        let both = format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n");
        assert_eq!(stalled(&both), Some(Stalled { some_us: 17, full_us: Some(5) }));
        assert_eq!(stalled(""), None);
    }

    #[test]
    fn keys_are_found_by_their_whole_name() {
        let keys = Keys("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n".to_owned());
        assert_eq!(keys.get("oom_kill"), Some(3));
        assert_eq!(keys.get("oom"), None);
    }
}
