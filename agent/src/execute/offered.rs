//! What this agent does of all that a spec may ask for.
//!
//! A task that needs what isn't done here is refused with the reason, never run without it.

use std::collections::BTreeMap;

use model::TaskSpec;

use crate::sys::{Abilities, HugePageSize, capability};

use super::Rights;

/// Why the spec can't be run here; `None` when everything that it asks for is done.
///
/// `abilities` asks the host, and only for a spec that needs the answer.
pub fn refusal(spec: &TaskSpec, rights: &Rights, abilities: impl FnOnce() -> Abilities) -> Option<String> {
    if let Some(why) = forbidden(spec, rights) {
        return Some(why);
    }
    let needs_host = !spec.cpuset.is_empty() || !spec.io.is_empty() || names_huge_pages(spec);
    if !needs_host {
        return None;
    }
    let host = abilities();
    refuse_cores(spec, &host).or_else(|| refuse_io(spec, &host)).or_else(|| huge_pages(spec, &host).err())
}

/// What the operator has not allowed.
fn forbidden(spec: &TaskSpec, rights: &Rights) -> Option<String> {
    if let Some(name) = spec.capabilities.iter().find(|name| capability::of_name(name).is_none()) {
        return Some(format!("Linux knows no capability `{name}`"));
    }
    if let Some(name) = spec.capabilities.iter().find(|name| !rights.capabilities.contains(*name)) {
        return Some(format!(
            "no task may have the capability `{name}` here: `allow-capabilities` doesn't name it"
        ));
    }
    if spec.seccomp.as_deref() == Some("unconfined") && !rights.may_be_unconfined {
        return Some("no task may be unconfined here: `allow-unconfined` is off".to_owned());
    }
    if let Some(device) = spec.devices.iter().find(|device| !rights.allows_device(device)) {
        let how = if device.is_writable { "write to" } else { "read" };
        return Some(format!("no task may {how} `{}` here: `allow-devices` doesn't name it so", device.path));
    }
    let mount = spec.mounts.iter().find(|mount| rights.mount(mount).is_none())?;
    let how = if mount.is_writable { "write to" } else { "see" };
    Some(format!("no task may {how} `{}` here: `allow-mounts` doesn't name it so", mount.host_path))
}

fn refuse_cores(spec: &TaskSpec, host: &Abilities) -> Option<String> {
    if spec.cpuset.is_empty() {
        return None;
    }
    let Some(cores) = &host.cores else {
        return Some(
            "this host can't bind a task to cores: no hierarchy offers the cpuset controller".to_owned(),
        );
    };
    let absent: Vec<String> = spec.cpuset.difference(cores).map(u32::to_string).collect();
    (!absent.is_empty()).then(|| format!("this host has no core {} (or it is offline)", absent.join(", ")))
}

fn refuse_io(spec: &TaskSpec, host: &Abilities) -> Option<String> {
    let has_throttle = model::IoLimits { weight: None, ..spec.io } != model::IoLimits::default();
    if has_throttle && !host.can_throttle_io {
        let why = "this host can't limit I/O: no hierarchy offers the io (v1: blkio) controller";
        return Some(why.to_owned());
    }
    if spec.io.weight.is_some() && !host.can_weigh_io {
        let why =
            "this host can't weigh I/O: none of its disks uses the BFQ scheduler, which alone knows weights";
        return Some(why.to_owned());
    }
    None
}

const HUGE_PAGES: &str = "hugepages-";

fn names_huge_pages(spec: &TaskSpec) -> bool {
    spec.resources.scalars.keys().any(|name| name.as_str().starts_with(HUGE_PAGES))
}

/// How many bytes of huge pages the task may have, by their size; or why it can't be held to that.
pub fn huge_pages(spec: &TaskSpec, host: &Abilities) -> Result<BTreeMap<HugePageSize, u64>, String> {
    let mut bytes = BTreeMap::new();
    for (name, milli) in &spec.resources.scalars {
        if !name.as_str().starts_with(HUGE_PAGES) {
            continue;
        }
        let size = host.huge_pages.keys().find(|size| size.resource() == name.as_str());
        let Some(size) = size else {
            return Err(format!("this host has no `{name}`, or can't hold a task to them"));
        };
        if !milli.is_multiple_of(1000) {
            return Err(format!("`{name}` come whole"));
        }
        bytes.insert(*size, (milli / 1000).saturating_mul(size.bytes()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::AllowedPath;
    use expect_test::expect;
    use model::{IoLimits, Resources, ScalarName, TaskId};

    fn spec() -> TaskSpec {
        let resources = Resources { cpus_milli: 100, mem_mib: 32, ..Resources::default() };
        TaskSpec::new(TaskId::new("t").unwrap(), resources, vec!["true".to_owned()])
    }

    fn with_pages(name: &str, milli: u64) -> TaskSpec {
        let mut spec = spec();
        spec.resources.scalars.insert(ScalarName::new(name).unwrap(), milli);
        spec
    }

    #[test]
    fn what_asks_for_nothing_asks_the_host_for_nothing() {
        let plain = with_pages("licences", 1500);
        assert_eq!(refusal(&plain, &Rights::default(), || panic!("the host was asked")), None);
    }

    #[test]
    fn what_the_host_lacks_is_refused_with_its_name() {
        let able = Abilities {
            cores: Some((0..2).collect()),
            can_throttle_io: true,
            can_weigh_io: true,
            huge_pages: BTreeMap::from([(HugePageSize::of_kib(2048), 8)]),
        };
        let throttled = IoLimits { read_bytes_per_second: Some(1 << 20), ..IoLimits::default() };
        let weighed = IoLimits { weight: Some(200), ..IoLimits::default() };
        let device = model::Device { path: "/dev/fuse".to_owned(), is_writable: true };
        let mut shown = String::new();
        for spec in [
            TaskSpec { cpuset: [0, 1].into(), ..spec() },
            TaskSpec { cpuset: [1, 2, 9].into(), ..spec() },
            TaskSpec { io: throttled, ..spec() },
            TaskSpec { io: weighed, ..spec() },
            with_pages("hugepages-2mib", 3000),
            with_pages("hugepages-2mib", 500),
            with_pages("hugepages-1gib", 1000),
            TaskSpec { devices: vec![device], cpuset: [9].into(), ..spec() },
        ] {
            for host in [&able, &Abilities::default()] {
                let why = refusal(&spec, &Rights::default(), || host.clone());
                shown += &format!("{}\n", why.unwrap_or_else(|| "done".to_owned()));
            }
        }
        expect![[r#"
            done
            this host can't bind a task to cores: no hierarchy offers the cpuset controller
            this host has no core 2, 9 (or it is offline)
            this host can't bind a task to cores: no hierarchy offers the cpuset controller
            done
            this host can't limit I/O: no hierarchy offers the io (v1: blkio) controller
            done
            this host can't weigh I/O: none of its disks uses the BFQ scheduler, which alone knows weights
            done
            this host has no `hugepages-2mib`, or can't hold a task to them
            `hugepages-2mib` come whole
            this host has no `hugepages-2mib`, or can't hold a task to them
            this host has no `hugepages-1gib`, or can't hold a task to them
            this host has no `hugepages-1gib`, or can't hold a task to them
            no task may write to `/dev/fuse` here: `allow-devices` doesn't name it so
            no task may write to `/dev/fuse` here: `allow-devices` doesn't name it so
        "#]]
        .assert_eq(&shown);
        assert_eq!(
            huge_pages(&with_pages("hugepages-2mib", 3000), &able),
            Ok(BTreeMap::from([(HugePageSize::of_kib(2048), 6 << 20)]))
        );
    }

    #[test]
    fn what_the_operator_has_not_allowed_is_refused_with_the_setting_that_would() {
        let lax = Rights {
            capabilities: ["net_raw".to_owned(), "nonsense".to_owned()].into(),
            may_be_unconfined: true,
            mounts: vec![
                AllowedPath { path: "/srv".into(), is_writable: true },
                AllowedPath { path: "/srv/data".into(), is_writable: false },
            ],
            devices: vec![AllowedPath { path: "/dev/dri".into(), is_writable: false }],
            ..Rights::default()
        };
        let with = |name: &str| TaskSpec { capabilities: [name.to_owned()].into(), ..spec() };
        let device = |path: &str, is_writable| TaskSpec {
            devices: vec![model::Device { path: path.to_owned(), is_writable }],
            ..spec()
        };
        let mount = |path: &str, is_writable| {
            let mount = model::Mount { host_path: path.to_owned(), path: "x".to_owned(), is_writable };
            TaskSpec { mounts: vec![mount], ..spec() }
        };
        let profile = |name: &str| TaskSpec { seccomp: Some(name.to_owned()), ..spec() };
        let mut shown = String::new();
        for spec in [
            with("net_raw"),
            with("sys_admin"),
            with("nonsense"),
            profile("unconfined"),
            profile("strict"),
            mount("/srv/x", true),
            mount("/srv/data/x", false),
            mount("/srv/data/x", true),
            mount("/srvx", false),
            device("/dev/dri/card0", false),
            device("/dev/dri/card0", true),
        ] {
            for rights in [&lax, &Rights::default()] {
                let why = refusal(&spec, rights, || panic!("the host was asked"));
                shown += &format!("{}\n", why.unwrap_or_else(|| "done".to_owned()));
            }
        }
        expect![[r#"
            done
            no task may have the capability `net_raw` here: `allow-capabilities` doesn't name it
            no task may have the capability `sys_admin` here: `allow-capabilities` doesn't name it
            no task may have the capability `sys_admin` here: `allow-capabilities` doesn't name it
            Linux knows no capability `nonsense`
            Linux knows no capability `nonsense`
            done
            no task may be unconfined here: `allow-unconfined` is off
            done
            done
            done
            no task may write to `/srv/x` here: `allow-mounts` doesn't name it so
            done
            no task may see `/srv/data/x` here: `allow-mounts` doesn't name it so
            no task may write to `/srv/data/x` here: `allow-mounts` doesn't name it so
            no task may write to `/srv/data/x` here: `allow-mounts` doesn't name it so
            no task may see `/srvx` here: `allow-mounts` doesn't name it so
            no task may see `/srvx` here: `allow-mounts` doesn't name it so
            done
            no task may read `/dev/dri/card0` here: `allow-devices` doesn't name it so
            no task may write to `/dev/dri/card0` here: `allow-devices` doesn't name it so
            no task may write to `/dev/dri/card0` here: `allow-devices` doesn't name it so
        "#]]
        .assert_eq(&shown);
    }
}
