//! What must not be left when a cluster has ended.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where a cluster could leave something.
pub struct Residue {
    /// The cgroup that all tasks of the cluster were below.
    pub cgroup_parent: String,
    /// The directory that holds everything else.
    pub directory: PathBuf,
}

impl Residue {
    /// Every left-over, one line each.
    pub fn find(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let directory = self.directory.display().to_string();
        for line in mounts.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let Some(point) = fields.get(4) else { continue };
            if point.starts_with(&directory) {
                found.push(format!("mount: {point}"));
            }
            let kind = fields.iter().position(|field| *field == "-").and_then(|dash| fields.get(dash + 1));
            if matches!(kind, Some(&"cgroup" | &"cgroup2")) {
                self.find_cgroups(Path::new(point), &mut found);
            }
        }
        self.find_processes(&mut found);
        found
    }

    fn find_cgroups(&self, root: &Path, found: &mut Vec<String>) {
        found.extend(self.parents(root).iter().map(|parent| format!("cgroup: {}", parent.display())));
    }

    /// The parents of this cluster's agents in one hierarchy: the first, and `-1`, `-2`, … for the others.
    fn parents(&self, root: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        entries
            .filter(|path| path.file_name().is_some_and(|name| self.is_ours(&name.to_string_lossy())))
            .collect()
    }

    fn is_ours(&self, group: &str) -> bool {
        group.strip_prefix(&self.cgroup_parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    fn find_processes(&self, found: &mut Vec<String>) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            // A zombie has ended; it only waits for its parent, which may be the host's init by now.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
                continue;
            }
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let is_ours = groups.lines().any(|line| {
                let path = line.splitn(3, ':').nth(2).unwrap_or_default();
                path.split('/').nth(1).is_some_and(|group| self.is_ours(group))
            });
            if is_ours {
                let command =
                    fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
                found.push(format!("process: {} {command}", entry.file_name().to_string_lossy()));
            }
        }
    }

    /// After a failed test: ends what runs and removes the groups, as far as that goes.
    pub fn sweep(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for round in 0..50 {
            let mut left = false;
            for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
                let Some(point) = line.split(' ').nth(4) else { continue };
                for parent in self.parents(Path::new(point)) {
                    left = true;
                    // Each step may fail because another hierarchy's turn comes first; the next round repeats it.
                    let _ = fs::write(parent.join("cgroup.kill"), "1");
                    for child in fs::read_dir(&parent).into_iter().flatten().flatten() {
                        let _ = fs::remove_dir(child.path());
                    }
                    let _ = fs::remove_dir(&parent);
                }
            }
            if !left {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10 + round));
        }
        let directory = self.directory.display().to_string();
        for point in mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&directory))
        {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
