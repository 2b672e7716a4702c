//! Groups inside a task's group: one for each process of a task group, with limits of its own.
//!
//! On v1 they are in the hierarchies of cpu and memory alone, and in the v2 tree the task stays one group, so that
//! its identity for kernel programs is what it always is. Where cpu or memory are v2, a group that hands controllers
//! out may hold no process itself ("No Internal Process Constraint"): then the task's init, what enters the task
//! and what fetches for it live in a leaf, too.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::groups::{
    CPU_PERIOD_US, Cgroups, directories_in, enable, read_keys, read_number, write, write_if_there,
};
use super::probe::Controller;
use super::{CgroupId, CgroupName, MemberFigures, MemberLimits};
use crate::sys::SysError;

/// Memory is charged in steps of 64 pages (MEMCG_CHARGE_BATCH), so that the last may end so far below a limit.
const CHARGE_BYTES: u64 = 64 * 4096;

/// Where a task's init lives, in the v2 tree.
const LEAF: &str = "init";

/// No file of the kernel's begins like this, so that a process may be called as it likes.
fn directory(process: &str) -> String {
    format!("process-{process}")
}

impl Cgroups {
    /// Whether members have groups in the v2 tree.
    fn has_v2_members(&self) -> bool {
        let hierarchies = self.hierarchies();
        [&hierarchies.cpu, &hierarchies.memory].iter().any(|place| matches!(place, Some(Controller::V2)))
    }

    /// The v2 group that the task's own processes are born in, if it isn't the task's group itself.
    pub(super) fn v2_leaf(&self, name: &CgroupName) -> Option<PathBuf> {
        self.has_v2_members().then(|| self.v2_path(name).join(LEAF))
    }

    /// Makes the groups of a task's processes, inside the task's own, which must be there.
    pub(super) fn create_members(&self, name: &CgroupName, members: &[MemberLimits]) -> Result<(), SysError> {
        if members.is_empty() {
            return Ok(());
        }
        if self.has_v2_members() {
            let group = self.v2_path(name);
            make(&group.join(LEAF))?;
            let hierarchies = self.hierarchies();
            let wanted: Vec<&str> = [(&hierarchies.cpu, "+cpu"), (&hierarchies.memory, "+memory")]
                .into_iter()
                .filter(|(place, _)| matches!(place, Some(Controller::V2)))
                .map(|(_, word)| word)
                .collect();
            enable(&group, &wanted.join(" "))?;
        }
        if let Some(Controller::V1(_)) = &self.hierarchies().memory {
            // Since Linux 5.11 it can't be otherwise: what is charged to a process is charged to the whole.
            let path = self.controller_path(&self.hierarchies().memory, name).join("memory.use_hierarchy");
            write_if_there(&path, 1)?;
        }
        members.iter().try_for_each(|member| self.create_member(name, member))
    }

    fn create_member(&self, name: &CgroupName, member: &MemberLimits) -> Result<(), SysError> {
        let MemberLimits { name: process, cpu_quota_milli, memory_bytes } = member;
        for path in self.member_paths(name, process) {
            make(&path)?;
        }
        let hierarchies = self.hierarchies();
        if let Some(milli) = cpu_quota_milli {
            let quota_us = milli.saturating_mul(CPU_PERIOD_US) / 1000;
            let cpu = self.controller_path(&hierarchies.cpu, name).join(directory(process));
            match &hierarchies.cpu {
                Some(Controller::V1(_)) => {
                    write(&cpu.join("cpu.cfs_period_us"), CPU_PERIOD_US)?;
                    write(&cpu.join("cpu.cfs_quota_us"), quota_us)?;
                }
                Some(Controller::V2) => {
                    write(&cpu.join("cpu.max"), format_args!("{quota_us} {CPU_PERIOD_US}"))?;
                }
                None => {}
            }
        }
        if let Some(bytes) = memory_bytes {
            let memory = self.controller_path(&hierarchies.memory, name).join(directory(process));
            match &hierarchies.memory {
                Some(Controller::V1(_)) => {
                    write(&memory.join("memory.limit_in_bytes"), bytes)?;
                    write_if_there(&memory.join("memory.memsw.limit_in_bytes"), bytes)?;
                }
                Some(Controller::V2) => {
                    write(&memory.join("memory.max"), bytes)?;
                    write_if_there(&memory.join("memory.swap.max"), 0)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The files through which a process goes from its task's groups into its own: it writes `0`.
    pub fn open_member_joins(&self, name: &CgroupName, process: &str) -> Result<Vec<OwnedFd>, SysError> {
        let v2 = self.v2_path(name);
        let open = |group: PathBuf| {
            let file = if group.starts_with(&v2) { "cgroup.procs" } else { "tasks" };
            let path = group.join(file);
            let file = File::options().write(true).open(&path);
            file.map(OwnedFd::from).map_err(|source| SysError::Open { path, source })
        };
        self.member_paths(name, process).into_iter().map(open).collect()
    }

    /// A task's v2 group and those inside it, as kernel programs see them.
    pub fn ids(&self, name: &CgroupName) -> Result<Vec<CgroupId>, SysError> {
        let path = self.v2_path(name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(SysError::Read { path, source }),
        };
        let mut ids = vec![CgroupId(metadata.ino())];
        // A directory has a link for each one in it, and most tasks have none.
        if metadata.nlink() > 2 {
            for group in directories_in(&self.v2_path(name))? {
                if let Ok(metadata) = fs::metadata(&group) {
                    ids.push(CgroupId(metadata.ino()));
                }
            }
        }
        Ok(ids)
    }

    /// What the kernel counted for one process of a task group, with all that it started.
    pub fn member_figures(&self, name: &CgroupName, process: &str) -> Result<MemberFigures, SysError> {
        let hierarchies = self.hierarchies();
        let mut figures = MemberFigures::default();
        let memory = self.controller_path(&hierarchies.memory, name).join(directory(process));
        match &hierarchies.memory {
            Some(Controller::V1(_)) => {
                figures.oom_kills =
                    read_keys(&memory.join("memory.oom_control"))?.get("oom_kill").unwrap_or(0);
                // New kernels don't count failed charges here any more, but they know how far it came.
                let limit = read_number(&memory.join("memory.limit_in_bytes"))?;
                let most = read_number(&memory.join("memory.max_usage_in_bytes"))?;
                figures.has_reached_memory_limit = most.saturating_add(CHARGE_BYTES) >= limit;
            }
            Some(Controller::V2) => {
                let events = read_keys(&memory.join("memory.events"))?;
                figures.oom_kills = events.get("oom_kill").unwrap_or(0);
                // Counted where the limit is that was reached, and above (`Documentation/admin-guide/cgroup-v2.rst`).
                figures.has_reached_memory_limit = events.get("oom").unwrap_or(0) > 0;
            }
            None => {}
        }
        Ok(figures)
    }

    /// In each hierarchy in which members have groups.
    fn member_paths(&self, name: &CgroupName, process: &str) -> Vec<PathBuf> {
        let hierarchies = self.hierarchies();
        let mut paths = Vec::new();
        for place in [&hierarchies.cpu, &hierarchies.memory] {
            let path = self.controller_path(place, name).join(directory(process));
            // One hierarchy may have both.
            if place.is_some() && !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }
}

/// Of the groups inside a v1 memory group: this figure alone is not counted for the whole there.
pub(super) fn oom_kills_below(memory: &Path) -> Result<u64, SysError> {
    // A directory has a link for each one in it, and most tasks have none.
    if fs::metadata(memory).is_ok_and(|metadata| metadata.nlink() <= 2) {
        return Ok(0);
    }
    let mut kills = 0;
    for group in directories_in(memory)? {
        kills += read_keys(&group.join("memory.oom_control"))?.get("oom_kill").unwrap_or(0);
    }
    Ok(kills)
}

fn make(path: &Path) -> Result<(), SysError> {
    match fs::create_dir(path) {
        // One hierarchy may have several controllers.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|source| SysError::MakeGroup { path: path.to_owned(), source }),
    }
}
