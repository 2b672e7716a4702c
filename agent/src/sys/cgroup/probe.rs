//! Which hierarchies this host has, from its mounts.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Layout;
use crate::sys::SysError;

/// Where each controller that we use is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    pub layout: Layout,
    /// Root of the v2 tree.
    pub v2: PathBuf,
    pub cpu: Option<Controller>,
    pub memory: Option<Controller>,
    pub pids: Option<Controller>,
    pub cpuset: Option<Controller>,
    /// `blkio` of v1, `io` of v2.
    pub io: Option<Controller>,
    pub hugetlb: Option<Controller>,
}

/// One controller's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Controller {
    /// In a v1 hierarchy with this root.
    V1(PathBuf),
    /// In the v2 tree.
    V2,
}

/// What the mount table says about control groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mounts {
    pub v2: Option<PathBuf>,
    /// Controllers with the roots of their v1 hierarchies.
    pub v1: Vec<(String, PathBuf)>,
}

/// Reads the mount table and finds every hierarchy.
///
/// A host without a v2 tree gets one at `own_v2`: mounting cgroup2 shows the one tree that the
/// kernel always has, with the controllers that no v1 hierarchy took.
pub fn probe(own_v2: &Path) -> Result<Hierarchies, SysError> {
    let path = PathBuf::from("/proc/self/mountinfo");
    let table = fs::read(&path).map_err(|source| SysError::Read { path, source })?;
    let mounts = parse_mounts(&table);
    let v2 = match &mounts.v2 {
        Some(root) => root.clone(),
        None => mount_own_v2(own_v2)?,
    };
    let path = v2.join("cgroup.controllers");
    let offered = fs::read_to_string(&path).map_err(|source| SysError::Read { path, source })?;
    Ok(choose(&mounts, v2, &offered))
}

/// Mounts a v2 tree for a host that has none.
pub fn mount_own_v2(at: &Path) -> Result<PathBuf, SysError> {
    let failed = |source| SysError::Mount { what: "cgroup2", path: at.to_owned(), source };
    fs::create_dir_all(at).map_err(failed)?;
    let flags = rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("cgroup2", at, "cgroup2", flags, None).map_err(|error| failed(error.into()))?;
    Ok(at.to_owned())
}

fn choose(mounts: &Mounts, v2: PathBuf, offered: &str) -> Hierarchies {
    let place_of = |in_v1: &str, in_v2: &str| {
        let v1 = mounts.v1.iter().find(|(name, _)| name == in_v1);
        match v1 {
            Some((_, root)) => Some(Controller::V1(root.clone())),
            None if offered.split_whitespace().any(|name| name == in_v2) => Some(Controller::V2),
            None => None,
        }
    };
    let place = |controller| place_of(controller, controller);
    let (cpu, memory, pids) = (place("cpu"), place("memory"), place("pids"));
    let uses_v1 = [&cpu, &memory, &pids].iter().any(|place| matches!(place, Some(Controller::V1(_))));
    let layout = match (uses_v1, &mounts.v2) {
        (false, _) => Layout::V2,
        (true, Some(_)) => Layout::Hybrid,
        (true, None) => Layout::V1,
    };
    Hierarchies {
        layout,
        v2,
        cpu,
        memory,
        pids,
        cpuset: place("cpuset"),
        io: place_of("blkio", "io"),
        hugetlb: place("hugetlb"),
    }
}

/// Reads /proc/PID/mountinfo (proc_pid_mountinfo(5)).
///
/// Only mounts of a whole hierarchy count, not binds of a part of it; of several, the last one,
/// which hides the others if they share a mount point.
pub(in crate::sys) fn parse_mounts(table: &[u8]) -> Mounts {
    let mut mounts = Mounts::default();
    for line in table.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let Some(separator) = fields.iter().position(|field| *field == b"-") else { continue };
        let (Some(b"/"), Some(point)) = (fields.get(3).copied(), fields.get(4)) else { continue };
        let (Some(kind), Some(options)) = (fields.get(separator + 1), fields.get(separator + 3)) else {
            continue;
        };
        let root = PathBuf::from(std::ffi::OsString::from_vec(unescape(point)));
        match *kind {
            b"cgroup2" => mounts.v2 = Some(root),
            b"cgroup" => {
                for option in options.split(|byte| *byte == b',') {
                    let option = String::from_utf8_lossy(option).into_owned();
                    mounts.v1.retain(|(name, _)| *name != option);
                    mounts.v1.push((option, root.clone()));
                }
            }
            _ => {}
        }
    }
    mounts
}

/// Undoes the octal escapes of spaces, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\'
            && let Some((digits, after)) = tail.split_at_checked(3)
            && let Ok(digits) = std::str::from_utf8(digits)
            && let Ok(byte) = u8::from_str_radix(digits, 8)
        {
            plain.push(byte);
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(table: &str, offered: &str, expected: Expect) {
        let mounts = parse_mounts(table.as_bytes());
        let v2 = mounts.v2.clone().unwrap_or_else(|| PathBuf::from("(own)"));
        let found = choose(&mounts, v2, offered);
        let show = |place: &Option<Controller>| match place {
            Some(Controller::V1(root)) => format!("v1 {}", root.display()),
            Some(Controller::V2) => "v2".to_owned(),
            None => "none".to_owned(),
        };
        let text = format!(
            "{} at {}\ncpu {}\nmemory {}\npids {}\ncpuset {}\nio {}\nhugetlb {}\n",
            found.layout.as_str(),
            found.v2.display(),
            show(&found.cpu),
            show(&found.memory),
            show(&found.pids),
            show(&found.cpuset),
            show(&found.io),
            show(&found.hugetlb),
        );
        expected.assert_eq(&text);
    }

    #[test]
    fn a_hybrid_host_with_shared_controllers() {
        check(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
             36 31 0:33 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
            "hugetlb",
            expect![[r#"
                hybrid at /sys/fs/cgroup/unified
                cpu v1 /sys/fs/cgroup/cpu,cpuacct
                memory v1 /sys/fs/cgroup/memory
                pids v1 /sys/fs/cgroup/pids
                cpuset none
                io v1 /sys/fs/cgroup/blkio
                hugetlb v2
            "#]],
        );
    }

    #[test]
    fn a_v2_host() {
        check(
            "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            "cpuset cpu io memory hugetlb pids rdma misc\n",
            expect![[r#"
                v2 at /sys/fs/cgroup
                cpu v2
                memory v2
                pids v2
                cpuset v2
                io v2
                hugetlb v2
            "#]],
        );
    }

    #[test]
    fn a_v1_host_gets_a_v2_tree_of_our_own() {
        check(
            "32 31 0:29 / /cgroup/all rw,relatime - cgroup none rw,cpu,cpuacct,memory\n",
            "pids",
            expect![[r#"
                v1 at (own)
                cpu v1 /cgroup/all
                memory v1 /cgroup/all
                pids v2
                cpuset none
                io none
                hugetlb none
            "#]],
        );
    }

    #[test]
    fn a_bind_of_a_part_is_no_hierarchy_and_spaces_are_unescaped() {
        check(
            "29 23 0:26 /a /elsewhere rw - cgroup2 cgroup2 rw\n\
             30 23 0:26 / /with\\040space rw - cgroup2 cgroup2 rw\n",
            "cpu memory",
            expect![[r#"
                v2 at /with space
                cpu v2
                memory v2
                pids none
                cpuset none
                io none
                hugetlb none
            "#]],
        );
    }
}
