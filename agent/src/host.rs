//! What this host has: cores, memory, disk, its name.
//!
//! Reads `/proc` and asks the filesystem; an operator's setting always wins over what is found.

use std::{collections::BTreeMap, fs, path::Path, thread};

use model::{Resources, ScalarName, limits};

use crate::{config::Config, sys::HugePageSize};

/// The rest is for the kernel, the agent and whoever else lives here.
const MEMORY_SHARE_PERCENT: u64 = 90;

/// What the agent offers; `pages`: the huge pages that it can give to tasks.
pub fn resources(config: &Config, pages: &BTreeMap<HugePageSize, u64>) -> Resources {
    let name = |size: &HugePageSize| ScalarName::new(&size.resource()).ok();
    let scalars = pages.iter().filter_map(|(size, count)| {
        Some((name(size)?, count.saturating_mul(1000).min(limits::SCALAR_MILLI_MAX)))
    });
    let set_aside: u64 = pages.iter().map(|(size, count)| size.bytes().saturating_mul(*count)).sum();
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    Resources {
        cpus_milli: config.cpus_milli.unwrap_or(cores * 1000).min(limits::CPUS_MILLI_MAX),
        mem_mib: config
            .mem_mib
            .unwrap_or_else(|| memory_mib().saturating_sub(set_aside >> 20) * MEMORY_SHARE_PERCENT / 100)
            .min(limits::MIB_MAX),
        disk_mib: config.disk_mib.unwrap_or_else(|| disk_mib(&config.data_dir)).min(limits::MIB_MAX),
        gpus: match config.gpus {
            // Nobody names devices to offer none of them.
            0 => u32::try_from(config.gpu_devices.len()).unwrap_or(limits::GPUS_MAX).min(limits::GPUS_MAX),
            gpus => gpus,
        },
        ports: config.ports.clone(),
        scalars: scalars.collect(),
    }
}

/// What the host calls itself.
pub fn hostname() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = text.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

/// What is there for everyone.
pub fn memory_mib() -> u64 {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text)).unwrap_or(0);
    // In a container, the root of what we see may have a limit.
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit =
        limits.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()).min();
    total.min(limit.unwrap_or(u64::MAX)) >> 20
}

pub(crate) fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn disk_mib(data_dir: &Path) -> u64 {
    // Before the first start it isn't there; then where it will be.
    let found = data_dir.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    found.map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_something_to_offer() {
        let found = resources(&Config { data_dir: "/tmp".into(), ..Config::default() }, &BTreeMap::new());
        assert!(found.cpus_milli >= 1000 && found.mem_mib > 0 && found.disk_mib > 0, "{found}");
        found.check().unwrap();
    }

    #[test]
    fn an_operator_knows_better() {
        let config =
            Config { cpus_milli: Some(500), mem_mib: Some(7), disk_mib: Some(9), ..Config::default() };
        let pages = BTreeMap::from([(HugePageSize::of_kib(2048), 16)]);
        let found = resources(&config, &pages).to_string();
        assert_eq!(found, "cpus=0.5 mem=7MiB disk=9MiB ports=31000-32000 hugepages-2mib=16");
    }

    #[test]
    fn the_kernels_word_for_memory_is_read() {
        assert_eq!(meminfo_total("MemTotal:       24689092 kB\nMemFree: 1 kB\n"), Some(24_689_092 << 10));
        assert_eq!(meminfo_total("nothing"), None);
    }
}
