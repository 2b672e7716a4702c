//! Limits that a task has only if it asks for them: cores, I/O on disks, huge pages.
//!
//! Their v1 groups and v2 controllers are made for the tasks that ask, so that the others don't pay for them.
//! Huge pages are the exception: where the host has some, every task is held to what it asked for, or to none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::IoLimits;

use super::groups::{read, write};
use super::probe::{Controller, Hierarchies};
use super::{CgroupName, Limits};
use crate::sys::SysError;

/// A size of huge pages, as the kernel names it in its files: `2MB`, `1GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HugePageSize {
    kib: u64,
}

impl HugePageSize {
    pub fn of_kib(kib: u64) -> Self {
        Self { kib }
    }

    pub fn bytes(self) -> u64 {
        self.kib.saturating_mul(1024)
    }

    /// The name of the scalar resource, in which one page is one: `hugepages-2mib`.
    pub fn resource(self) -> String {
        match self.kib {
            kib if kib.is_multiple_of(1 << 20) => format!("hugepages-{}gib", kib >> 20),
            kib if kib.is_multiple_of(1 << 10) => format!("hugepages-{}mib", kib >> 10),
            kib => format!("hugepages-{kib}kib"),
        }
    }
}

impl fmt::Display for HugePageSize {
    /// As in the names of the controller's files (`mem_fmt` in mm/hugetlb_cgroup.c).
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kib {
            kib if kib >= 1 << 20 => write!(formatter, "{}GB", kib >> 20),
            kib if kib >= 1 << 10 => write!(formatter, "{}MB", kib >> 10),
            kib => write!(formatter, "{kib}KB"),
        }
    }
}

/// The places of these limits on this host.
#[derive(Debug)]
pub struct Asked {
    cpuset: Option<Place>,
    io: Option<Place>,
    hugetlb: Option<Place>,
    /// Pages of each size that the host has set aside.
    huge_pages: BTreeMap<HugePageSize, u64>,
    /// v1 parents that are not those of every task.
    v1_parents: Vec<PathBuf>,
}

/// Where one controller's groups of tasks are.
#[derive(Debug)]
struct Place {
    is_v1: bool,
    parent: PathBuf,
    /// Whether every task has a group there anyway.
    is_shared: bool,
    /// Lists the cores of the whole hierarchy, where it is about cores.
    root_cores: PathBuf,
}

impl Asked {
    /// Makes the parent groups, and reads what the host has.
    pub(super) fn open(
        hierarchies: &Hierarchies,
        parent: &Path,
        of_every_task: &[PathBuf],
    ) -> Result<Self, SysError> {
        let place = |controller: &Option<Controller>| match controller {
            Some(Controller::V1(root)) => {
                let parent = root.join(parent);
                let is_shared = of_every_task.contains(&parent);
                Some(Place { is_v1: true, is_shared, parent, root_cores: root.join("cpuset.effective_cpus") })
            }
            Some(Controller::V2) => {
                let root = &hierarchies.v2;
                let (parent, root_cores) = (root.join(parent), root.join("cpuset.cpus.effective"));
                Some(Place { is_v1: false, is_shared: true, parent, root_cores })
            }
            None => None,
        };
        let cpuset = place(&hierarchies.cpuset);
        let io = place(&hierarchies.io);
        let huge_pages = huge_pages()?;
        // Where there are none, there is nothing to hold tasks to.
        let hugetlb = place(&hierarchies.hugetlb).filter(|_| !huge_pages.is_empty());
        let v1_parents: BTreeSet<PathBuf> = [&cpuset, &io, &hugetlb]
            .into_iter()
            .flatten()
            .filter(|place| place.is_v1 && !place.is_shared)
            .map(|place| place.parent.clone())
            .collect();
        for path in &v1_parents {
            let made = fs::create_dir_all(path);
            made.map_err(|source| SysError::MakeGroup { path: path.clone(), source })?;
        }
        if let (Some(Controller::V1(root)), Some(_)) = (&hierarchies.cpuset, &cpuset) {
            fill_cpuset(root, parent)?;
        }
        let v1_parents = v1_parents.into_iter().collect();
        Ok(Self { cpuset, io, hugetlb, huge_pages, v1_parents })
    }

    pub(super) fn v1_parents(&self) -> &[PathBuf] {
        &self.v1_parents
    }

    /// Whether every task's v2 group needs a limit of ours.
    pub(super) fn limits_every_task_in_v2(&self) -> bool {
        self.hugetlb.as_ref().is_some_and(|place| !place.is_v1)
    }

    /// Cores that a task may be bound to; `None` where the host can't bind.
    pub fn cores(&self) -> Option<BTreeSet<u32>> {
        let place = self.cpuset.as_ref()?;
        let text = fs::read_to_string(&place.root_cores).ok()?;
        Some(parse_cores(&text))
    }

    /// Whether reading and writing can be limited.
    pub fn can_throttle(&self) -> bool {
        self.io.is_some()
    }

    /// Whether a weight would count: only BFQ knows weights of groups, and some disk must use it.
    pub fn can_weigh(&self) -> bool {
        let uses_bfq = |disk: &Disk| {
            let path = Path::new("/sys/block").join(&disk.name).join("queue/scheduler");
            fs::read_to_string(path).is_ok_and(|text| text.contains("[bfq]"))
        };
        self.io.is_some() && disks().is_ok_and(|disks| disks.iter().any(uses_bfq))
    }

    /// Pages of each size that tasks can be given; `None` where tasks can't be held to them.
    pub fn huge_pages(&self) -> Option<&BTreeMap<HugePageSize, u64>> {
        self.hugetlb.as_ref().map(|_| &self.huge_pages)
    }

    pub(super) fn limitations(&self) -> Vec<String> {
        let mut limitations = Vec::new();
        if self.cpuset.is_none() {
            limitations
                .push("no hierarchy offers the cpuset controller: no task can choose its cores".to_owned());
        }
        if self.io.is_none() {
            limitations
                .push("no hierarchy offers the io controller: no task's I/O can be limited".to_owned());
        }
        if self.hugetlb.is_none() && !self.huge_pages.is_empty() {
            let text = "no hierarchy offers the hugetlb controller: any task may take the host's huge pages";
            limitations.push(text.to_owned());
        }
        limitations
    }

    /// Makes the groups that these limits need, and writes the limits; the task's other groups are there.
    /// `enable` hands the controllers down in the v2 tree.
    pub(super) fn create(
        &self,
        name: &CgroupName,
        limits: &Limits,
        enable: impl Fn() -> Result<(), SysError>,
    ) -> Result<(), SysError> {
        let wants_io = !limits.io.is_empty();
        if !limits.cores.is_empty() || wants_io {
            enable()?;
        }
        if !limits.cores.is_empty() {
            let group = made(name, &self.cpuset, "cpuset")?;
            if self.cpuset.as_ref().is_some_and(|place| place.is_v1) {
                let parent = group.parent().unwrap_or(&group);
                write(&group.join("cpuset.mems"), read(&parent.join("cpuset.mems"))?.trim())?;
            }
            write(&group.join("cpuset.cpus"), show_cores(&limits.cores))?;
        }
        if wants_io {
            let group = made(name, &self.io, "io")?;
            let is_v1 = self.io.as_ref().is_some_and(|place| place.is_v1);
            limit_io(&group, is_v1, &limits.io)?;
        }
        if self.hugetlb.is_some() {
            let group = made(name, &self.hugetlb, "hugetlb")?;
            let last =
                if self.hugetlb.as_ref().is_some_and(|place| place.is_v1) { "limit_in_bytes" } else { "max" };
            for size in self.huge_pages.keys() {
                let bytes = limits.huge_pages.get(size).copied().unwrap_or(0);
                write(&group.join(format!("hugetlb.{size}.{last}")), bytes)?;
            }
        }
        Ok(())
    }
}

/// The task's group in one hierarchy, there if it wasn't.
fn made(name: &CgroupName, place: &Option<Place>, controller: &'static str) -> Result<PathBuf, SysError> {
    let place = place.as_ref().ok_or(SysError::NoController { controller })?;
    let path = place.parent.join(name.as_str());
    if !place.is_shared {
        match fs::create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(SysError::MakeGroup { path, source });
            }
            // Two of the controllers may be mounted together.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(path)
}

/// A new v1 cpuset has neither cores nor memory, and takes no process until it has both.
fn fill_cpuset(root: &Path, parent: &Path) -> Result<(), SysError> {
    let mut above = root.to_owned();
    for part in parent.components() {
        let group = above.join(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if read(&group.join(file))?.trim().is_empty() {
                write(&group.join(file), read(&above.join(file))?.trim())?;
            }
        }
        above = group;
    }
    Ok(())
}

fn limit_io(group: &Path, is_v1: bool, limits: &IoLimits) -> Result<(), SysError> {
    let IoLimits {
        read_bytes_per_second: read_bytes,
        write_bytes_per_second: write_bytes,
        read_operations_per_second: reads,
        write_operations_per_second: writes,
        weight,
    } = *limits;
    let throttles = [
        (read_bytes, "read_bps", "rbps"),
        (write_bytes, "write_bps", "wbps"),
        (reads, "read_iops", "riops"),
        (writes, "write_iops", "wiops"),
    ];
    for Disk { number, .. } in disks()? {
        if is_v1 {
            for (value, v1, _) in throttles {
                let Some(value) = value else { continue };
                write(&group.join(format!("blkio.throttle.{v1}_device")), format_args!("{number} {value}"))?;
            }
            continue;
        }
        let words = throttles.iter().filter_map(|(value, _, v2)| value.map(|value| format!(" {v2}={value}")));
        let words: String = words.collect();
        if !words.is_empty() {
            write(&group.join("io.max"), number + &words)?;
        }
    }
    if let Some(weight) = weight {
        let file = if is_v1 { "blkio.bfq.weight" } else { "io.bfq.weight" };
        // BFQ's own scale: 1 to 1000, and 100 is everyone's.
        write(&group.join(file), weight)?;
    }
    Ok(())
}

/// A whole disk.
struct Disk {
    name: String,
    /// `major:minor`.
    number: String,
}

/// Every whole disk that has room: an unused loop device has none.
fn disks() -> Result<Vec<Disk>, SysError> {
    let path = Path::new("/sys/block");
    let failed = |source| SysError::Read { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let text = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let sectors = text("size").trim().parse::<u64>().unwrap_or(0);
        let number = text("dev").trim().to_owned();
        let name = entry.file_name().to_string_lossy().into_owned();
        // Memory in the guise of a disk has nothing to wait for.
        let is_memory = name.starts_with("ram") || name.starts_with("zram");
        if sectors > 0 && !number.is_empty() && !is_memory {
            found.push(Disk { name, number });
        }
    }
    Ok(found)
}

/// Sizes of which the host has set some aside, or may on demand.
fn huge_pages() -> Result<BTreeMap<HugePageSize, u64>, SysError> {
    let path = Path::new("/sys/kernel/mm/hugepages");
    let failed = |source| SysError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        // A kernel without huge pages.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kib = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB")?.parse().ok());
        let Some(kib) = kib else { continue };
        let number = |file: &str| {
            let text = fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            text.trim().parse::<u64>().unwrap_or(0)
        };
        let pages = number("nr_hugepages") + number("nr_overcommit_hugepages");
        if pages > 0 {
            found.insert(HugePageSize::of_kib(kib), pages);
        }
    }
    Ok(found)
}

/// No kernel is built for more (NR_CPUS).
const CORES_MAX: usize = 8192;

/// `0-3,8` as numbers.
pub(in crate::sys) fn parse_cores(text: &str) -> BTreeSet<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().take(CORES_MAX).collect()
}

pub(in crate::sys) fn show_cores(cores: &BTreeSet<u32>) -> String {
    let cores: Vec<String> = cores.iter().map(u32::to_string).collect();
    cores.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_the_kernel_lists_them() {
        assert_eq!(parse_cores("0-2,8\n"), BTreeSet::from([0, 1, 2, 8]));
        assert_eq!(parse_cores("\n"), BTreeSet::new());
        assert_eq!(show_cores(&parse_cores("3,0-1")), "0,1,3");
    }

    #[test]
    fn sizes_are_named_as_the_kernel_and_as_people_do() {
        let shown = [64, 2048, 32 << 10, 1 << 20].map(|kib| {
            let size = HugePageSize::of_kib(kib);
            format!("{size} {}", size.resource())
        });
        assert_eq!(
            shown,
            ["64KB hugepages-64kib", "2MB hugepages-2mib", "32MB hugepages-32mib", "1GB hugepages-1gib"]
        );
    }
}
