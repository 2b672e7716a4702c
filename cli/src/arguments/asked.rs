//! What a task may ask for beyond cores and memory, as flags of `muster run`, and as the spec that they make.

use std::{fs, path::PathBuf};

use clap::Args;
use muster_client::types::{Device, IoLimits, Mount, Resources, Rlimit, Secret, TaskSpec};

use crate::{
    report::{Attempted, Failure},
    units,
};

/// Limits that the kernel keeps.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Hard limit on memory, at least --mem; what is above --mem goes first when the host is short [default: the same]
    #[arg(long, value_parser = units::mebibytes, value_name = "SIZE")]
    pub mem_limit: Option<u64>,
    /// The only cores that it may use, for example 0-3,8
    #[arg(long, value_parser = cores, value_name = "CORES")]
    pub cpuset: Option<Cores>,
    /// Named resource, for example hugepages-2mib=16; may be repeated
    #[arg(long, value_parser = scalar, value_name = "NAME=NUMBER")]
    pub scalar: Vec<(String, u64)>,
    /// Most bytes read in a second from each disk, for example 10MiB
    #[arg(long, value_parser = units::mebibytes, value_name = "SIZE")]
    pub io_read_bps: Option<u64>,
    /// Most bytes written in a second to each disk
    #[arg(long, value_parser = units::mebibytes, value_name = "SIZE")]
    pub io_write_bps: Option<u64>,
    /// Most reads in a second from each disk
    #[arg(long, value_name = "NUMBER")]
    pub io_read_iops: Option<u64>,
    /// Most writes in a second to each disk
    #[arg(long, value_name = "NUMBER")]
    pub io_write_iops: Option<u64>,
    /// Share among those who wait for the same disk, 1 to 1000; 100 is everyone's; needs the BFQ scheduler
    #[arg(long, value_name = "NUMBER")]
    pub io_weight: Option<u32>,
    /// Limit of setrlimit(2), for example nofile=1024:2048 or core=unlimited; may be repeated
    #[arg(long, value_parser = rlimit, value_name = "KIND=SOFT[:HARD]")]
    pub ulimit: Vec<Rlimit>,
    /// How likely it is ended when the host runs out of memory, 0 to 1000 [default: the agent's, 200]
    #[arg(long, value_name = "NUMBER")]
    pub oom_score: Option<u32>,
}

/// What it sees and may do on its host. The agent's operator must have allowed most of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rights")]
pub struct Rights {
    /// Supplementary group, by name or number; may be repeated [default: the user's own]
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Device of the host; may be repeated
    #[arg(long, value_parser = device, value_name = "PATH[:ro|rw]")]
    pub device: Vec<Device>,
    /// Path of the host, read-only unless it says rw, seen at PATH (relative to the sandbox unless absolute); may be repeated
    #[arg(long, value_parser = mount, value_name = "HOST:PATH[:ro|rw]")]
    pub mount: Vec<Mount>,
    /// File in memory that only the task's user reads, below $MUSTER_SECRETS; may be repeated
    #[arg(long, value_parser = secret, value_name = "NAME=@FILE")]
    pub secret: Vec<(String, PathBuf)>,
    /// Capability beyond those of every task, for example net_raw; may be repeated
    #[arg(long, value_name = "NAME")]
    pub cap_add: Vec<String>,
    /// Profile of system calls: default, unconfined, or one that the agent's operator installed
    #[arg(long, value_name = "PROFILE")]
    pub seccomp: Option<String>,
    /// A network of its own, with nothing in it but loopback
    #[arg(long)]
    pub private_network: bool,
}

impl Limits {
    /// Writes them into a spec, over what it has.
    pub fn apply(self, spec: &mut TaskSpec) {
        let Self {
            mem_limit,
            cpuset,
            scalar,
            io_read_bps,
            io_write_bps,
            io_read_iops,
            io_write_iops,
            io_weight,
            ulimit,
            oom_score,
        } = self;
        let bytes = |mib: Option<u64>| mib.map(|mib| mib.saturating_mul(1 << 20));
        let filed = spec.io.take().unwrap_or_default();
        let io = IoLimits {
            read_bytes_per_second: bytes(io_read_bps).or(filed.read_bytes_per_second),
            write_bytes_per_second: bytes(io_write_bps).or(filed.write_bytes_per_second),
            read_operations_per_second: io_read_iops.or(filed.read_operations_per_second),
            write_operations_per_second: io_write_iops.or(filed.write_operations_per_second),
            weight: io_weight.or(filed.weight),
        };
        spec.mem_limit_mib = mem_limit.or(spec.mem_limit_mib);
        if let Some(Cores(cores)) = cpuset {
            spec.cpuset = cores;
        }
        spec.io = (io != IoLimits::default()).then_some(io);
        spec.rlimits.retain(|filed| ulimit.iter().all(|typed| typed.kind != filed.kind));
        spec.rlimits.extend(ulimit);
        spec.oom_score_adjust = oom_score.or(spec.oom_score_adjust);
        let resources = spec.resources.get_or_insert_with(Resources::default);
        resources.scalars.extend(scalar);
    }
}

impl Rights {
    /// Writes them into a spec, over what it has; reads the files of secrets.
    pub fn apply(self, spec: &mut TaskSpec) -> Result<(), Failure> {
        let Self { group, device, mount, secret, cap_add, seccomp, private_network } = self;
        if !group.is_empty() {
            spec.groups = group;
        }
        spec.devices.retain(|filed| device.iter().all(|typed| typed.path != filed.path));
        spec.devices.extend(device);
        spec.mounts.retain(|filed| mount.iter().all(|typed| typed.path != filed.path));
        spec.mounts.extend(mount);
        spec.secrets.retain(|filed| secret.iter().all(|(name, _)| *name != filed.name));
        for (name, path) in secret {
            let value = fs::read(&path).attempted(&format!("read the secret in {}", path.display()))?;
            spec.secrets.push(Secret { name, value: value.into() });
        }
        let capabilities = cap_add
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .map(|name| name.strip_prefix("cap_").map(str::to_owned).unwrap_or(name));
        spec.capabilities.extend(capabilities);
        spec.seccomp = seccomp.or(spec.seccomp.take());
        spec.private_network |= private_network;
        Ok(())
    }
}

/// Numbers of cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(Vec<u32>);

/// More than Linux knows.
const CORES_MAX: u32 = 8192;

fn cores(text: &str) -> Result<Cores, String> {
    let refuse = || format!("`{text}` is no list of cores like 0-3,8");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) =
            (first.parse().map_err(|_| refuse())?, last.parse().map_err(|_| refuse())?);
        if first > last || last >= CORES_MAX {
            return Err(refuse());
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    Ok(Cores(cores))
}

fn scalar(text: &str) -> Result<(String, u64), String> {
    let (name, number) = units::key_value(text)?;
    Ok((name, units::thousandths(&number)?))
}

fn rlimit(text: &str) -> Result<Rlimit, String> {
    let refuse = || format!("`{text}` is not of the form nofile=1024:2048 or core=unlimited");
    let (kind, values) = units::key_value(text).map_err(|_| refuse())?;
    let number = |text: &str| match text {
        "unlimited" => Ok(None),
        text => text.parse::<u64>().map(Some).map_err(|_| refuse()),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((&values, &values));
    Ok(Rlimit { kind, soft: number(soft)?, hard: number(hard)? })
}

/// What stands before `:ro` or `:rw`, and whether it is writable.
fn access(text: &str, is_writable_unless_said: bool) -> (&str, bool) {
    match (text.strip_suffix(":rw"), text.strip_suffix(":ro")) {
        (Some(path), _) => (path, true),
        (None, Some(path)) => (path, false),
        (None, None) => (text, is_writable_unless_said),
    }
}

fn device(text: &str) -> Result<Device, String> {
    let (path, writable) = access(text, true);
    Ok(Device { path: path.to_owned(), writable })
}

fn mount(text: &str) -> Result<Mount, String> {
    let (paths, writable) = access(text, false);
    match paths.split_once(':') {
        Some((host_path, path)) if !host_path.is_empty() && !path.is_empty() => {
            Ok(Mount { host_path: host_path.to_owned(), path: path.to_owned(), writable })
        }
        _ => Err(format!("`{text}` is not of the form HOST:PATH or HOST:PATH:rw")),
    }
}

fn secret(text: &str) -> Result<(String, PathBuf), String> {
    let refuse = || {
        format!("`{text}` is not of the form NAME=@FILE; a value on the command line would be seen by all")
    };
    let (name, value) = units::key_value(text).map_err(|_| refuse())?;
    let path = value.strip_prefix('@').filter(|path| !path.is_empty()).ok_or_else(refuse)?;
    Ok((name, PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_listed_as_the_kernel_lists_them() {
        assert_eq!(cores("0-2,8,1"), Ok(Cores(vec![0, 1, 2, 8])));
        for bad in ["", "-", "3-1", "x", "0-99999", "1,,2"] {
            assert!(cores(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn limits_have_a_soft_and_a_hard_value() {
        let limit = |soft, hard| Rlimit { kind: "nofile".to_owned(), soft, hard };
        assert_eq!(rlimit("nofile=10:20"), Ok(limit(Some(10), Some(20))));
        assert_eq!(rlimit("nofile=10"), Ok(limit(Some(10), Some(10))));
        assert_eq!(rlimit("nofile=10:unlimited"), Ok(limit(Some(10), None)));
        for bad in ["nofile", "nofile=", "nofile=x", "nofile=-1", "=3", "nofile=1:2:3"] {
            assert!(rlimit(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn paths_say_whether_they_are_writable() {
        let made = |host: &str, path: &str, writable| Mount {
            host_path: host.to_owned(),
            path: path.to_owned(),
            writable,
        };
        assert_eq!(mount("/srv/data:data"), Ok(made("/srv/data", "data", false)));
        assert_eq!(mount("/srv/data:/data:rw"), Ok(made("/srv/data", "/data", true)));
        assert!(mount("/srv/data").is_err() && mount(":x").is_err() && mount("/x:ro").is_err());
        assert!(device("/dev/fuse").unwrap().writable && !device("/dev/kmsg:ro").unwrap().writable);
        assert!(secret("key=value").is_err() && secret("key=@").is_err());
        assert_eq!(secret("key=@a=b"), Ok(("key".to_owned(), PathBuf::from("a=b"))));
    }
}
