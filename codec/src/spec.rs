//! What a user wants to run.

use std::time::Duration;

use model::{
    Device, Fetch, HealthCheck, IoLimits, KILL_GRACE_DEFAULT, Mount, Probe, ProcessSpec, Rlimit, RlimitKind,
    Secret, SecretValue, Sha256, SharedNamespaces, StopSignal, TaskSpec, limits,
};
use proto::types::v1 as wire;

use crate::{
    Invalid, Within as _, at_most, each, grace, id, millis, required, resources, shown, timeout, to_resources,
};

/// A spec whose ids and ranges are sound. Bounds are left to [`TaskSpec::check`], which is asked
/// where a spec comes in, and not again for one that the log took before.
pub fn task_spec(spec: wire::TaskSpec) -> Result<TaskSpec, Invalid> {
    let task_id = id("task_id", &spec.task_id)?;
    task_spec_named(spec, task_id)
}

/// The same, with an id that the spec itself doesn't hold.
pub fn task_spec_named(spec: wire::TaskSpec, task_id: model::TaskId) -> Result<TaskSpec, Invalid> {
    let kill_signal = kill_signal(&spec)?;
    let wire::TaskSpec {
        task_id: _replaced,
        name,
        resources: amounts,
        command,
        env,
        user,
        cwd,
        cpu_limit_milli,
        pids_limit,
        kill_grace_ms,
        labels,
        shared_namespaces,
        groups,
        mem_limit_mib,
        run_time_max_ms,
        kill_signal: _read,
        cpuset,
        io,
        rlimits,
        oom_score_adjust,
        devices,
        mounts,
        secrets,
        fetches,
        capabilities,
        seccomp,
        private_network,
        health_check: check,
        processes,
        stdin,
    } = spec;
    let kill_grace = match kill_grace_ms {
        Some(ms) => grace("kill_grace_ms", ms)?,
        None => KILL_GRACE_DEFAULT,
    };
    let wire::SharedNamespaces { pid, ipc } = shared_namespaces.unwrap_or_default();
    // Bounds before copies: what is too long is refused before it is turned over.
    at_most("cpuset", cpuset.len(), limits::CORE_NUMBER_MAX as usize + 1)?;
    at_most("processes", processes.len(), limits::PROCESSES_MAX)?;
    at_most("rlimits", rlimits.len(), RlimitKind::ALL.len())?;
    let mut kinds = std::collections::BTreeMap::new();
    for (place, limit) in rlimits.into_iter().enumerate() {
        let (kind, limit) = rlimit(limit).within_item("rlimits", place)?;
        if kinds.insert(kind, limit).is_some() {
            return Err(Invalid::new("rlimits", format_args!("names `{}` twice", kind.as_str())));
        }
    }
    Ok(TaskSpec {
        task_id,
        name,
        resources: resources(amounts.unwrap_or_default()).within("resources")?,
        command,
        processes: processes.into_iter().map(process).collect(),
        env,
        user,
        groups,
        cwd,
        cpu_limit_milli,
        mem_limit_mib,
        pids_limit,
        cpuset: cpuset.into_iter().collect(),
        io: io.map(io_limits).transpose().within("io")?.unwrap_or_default(),
        rlimits: kinds,
        oom_score_adjust: oom_score_adjust.map(|score| short("oom_score_adjust", score)).transpose()?,
        run_time_max: run_time_max_ms.map(timeout),
        kill_signal,
        kill_grace,
        labels,
        shared_namespaces: SharedNamespaces { pid, ipc },
        has_private_network: private_network,
        devices: devices.into_iter().map(device).collect(),
        mounts: mounts.into_iter().map(mount).collect(),
        secrets: secrets.into_iter().map(secret).collect(),
        fetches: each("fetches", fetches, fetch)?,
        capabilities: capabilities.into_iter().collect(),
        seccomp,
        health_check: check.map(health_check).transpose().within("health_check")?,
        has_input: stdin,
    })
}

pub fn to_task_spec(spec: &TaskSpec) -> wire::TaskSpec {
    let TaskSpec {
        task_id,
        name,
        resources,
        command,
        processes,
        env,
        user,
        groups,
        cwd,
        cpu_limit_milli,
        mem_limit_mib,
        pids_limit,
        cpuset,
        io,
        rlimits,
        oom_score_adjust,
        run_time_max,
        kill_signal,
        kill_grace,
        labels,
        shared_namespaces: SharedNamespaces { pid, ipc },
        has_private_network,
        devices,
        mounts,
        secrets,
        fetches,
        capabilities,
        seccomp,
        health_check,
        has_input,
    } = spec;
    wire::TaskSpec {
        task_id: task_id.to_string(),
        name: name.clone(),
        resources: Some(to_resources(resources)),
        command: command.clone(),
        env: env.clone(),
        user: user.clone(),
        cwd: cwd.clone(),
        cpu_limit_milli: *cpu_limit_milli,
        pids_limit: *pids_limit,
        kill_grace_ms: Some(millis(*kill_grace)),
        labels: labels.clone(),
        shared_namespaces: Some(wire::SharedNamespaces { pid: *pid, ipc: *ipc }),
        groups: groups.clone(),
        mem_limit_mib: *mem_limit_mib,
        run_time_max_ms: run_time_max.map(millis),
        kill_signal: to_kill_signal(*kill_signal).into(),
        cpuset: cpuset.iter().copied().collect(),
        io: (!io.is_empty()).then(|| to_io_limits(io)),
        rlimits: rlimits.iter().map(|(kind, limit)| to_rlimit(*kind, *limit)).collect(),
        oom_score_adjust: oom_score_adjust.map(u32::from),
        devices: devices.iter().map(to_device).collect(),
        mounts: mounts.iter().map(to_mount).collect(),
        secrets: secrets.iter().map(to_secret).collect(),
        fetches: fetches.iter().map(to_fetch).collect(),
        capabilities: capabilities.iter().cloned().collect(),
        seccomp: seccomp.clone(),
        private_network: *has_private_network,
        health_check: health_check.as_ref().map(to_health_check),
        processes: processes.iter().map(to_process).collect(),
        stdin: *has_input,
    }
}

/// The spec as people may see it: without what its secrets hold.
pub fn to_shown_task_spec(spec: &TaskSpec) -> wire::TaskSpec {
    let mut shown = to_task_spec(spec);
    for secret in &mut shown.secrets {
        secret.value.clear();
    }
    shown
}

fn process(process: wire::Process) -> ProcessSpec {
    let wire::Process { name, command, env, cpu_limit_milli, mem_limit_mib, essential } = process;
    let is_essential = essential.unwrap_or(true);
    ProcessSpec { name, command, env, cpu_limit_milli, mem_limit_mib, is_essential }
}

fn to_process(process: &ProcessSpec) -> wire::Process {
    let ProcessSpec { name, command, env, cpu_limit_milli, mem_limit_mib, is_essential } = process;
    wire::Process {
        name: name.clone(),
        command: command.clone(),
        env: env.clone(),
        cpu_limit_milli: *cpu_limit_milli,
        mem_limit_mib: *mem_limit_mib,
        essential: Some(*is_essential),
    }
}

fn kill_signal(spec: &wire::TaskSpec) -> Result<StopSignal, Invalid> {
    let number = spec.kill_signal;
    let known = wire::KillSignal::try_from(number).map_err(|_| {
        Invalid::new("kill_signal", format_args!("holds {number}, which is no signal for this known here"))
    })?;
    Ok(match known {
        wire::KillSignal::Hup => StopSignal::Hup,
        wire::KillSignal::Int => StopSignal::Int,
        wire::KillSignal::Quit => StopSignal::Quit,
        wire::KillSignal::Usr1 => StopSignal::Usr1,
        wire::KillSignal::Usr2 => StopSignal::Usr2,
        wire::KillSignal::Unspecified | wire::KillSignal::Term => StopSignal::Term,
    })
}

fn to_kill_signal(signal: StopSignal) -> wire::KillSignal {
    match signal {
        StopSignal::Hup => wire::KillSignal::Hup,
        StopSignal::Int => wire::KillSignal::Int,
        StopSignal::Quit => wire::KillSignal::Quit,
        StopSignal::Usr1 => wire::KillSignal::Usr1,
        StopSignal::Usr2 => wire::KillSignal::Usr2,
        // As those have it who never heard of signals.
        StopSignal::Term => wire::KillSignal::Unspecified,
    }
}

fn io_limits(limits: wire::IoLimits) -> Result<IoLimits, Invalid> {
    let wire::IoLimits {
        read_bytes_per_second,
        write_bytes_per_second,
        read_operations_per_second,
        write_operations_per_second,
        weight,
    } = limits;
    Ok(IoLimits {
        read_bytes_per_second,
        write_bytes_per_second,
        read_operations_per_second,
        write_operations_per_second,
        weight: weight.map(|weight| short("weight", weight)).transpose()?,
    })
}

fn to_io_limits(limits: &IoLimits) -> wire::IoLimits {
    let IoLimits {
        read_bytes_per_second,
        write_bytes_per_second,
        read_operations_per_second,
        write_operations_per_second,
        weight,
    } = limits;
    wire::IoLimits {
        read_bytes_per_second: *read_bytes_per_second,
        write_bytes_per_second: *write_bytes_per_second,
        read_operations_per_second: *read_operations_per_second,
        write_operations_per_second: *write_operations_per_second,
        weight: weight.map(u32::from),
    }
}

fn rlimit(limit: wire::Rlimit) -> Result<(RlimitKind, Rlimit), Invalid> {
    let wire::Rlimit { kind: name, soft, hard } = limit;
    let kind = RlimitKind::of_name(&name)
        .ok_or_else(|| Invalid::new("kind", format_args!("`{}` is none of setrlimit(2)", shown(&name))))?;
    Ok((kind, Rlimit { soft, hard }))
}

fn to_rlimit(kind: RlimitKind, Rlimit { soft, hard }: Rlimit) -> wire::Rlimit {
    wire::Rlimit { kind: kind.as_str().to_owned(), soft, hard }
}

fn device(wire::Device { path, writable }: wire::Device) -> Device {
    Device { path, is_writable: writable }
}

fn to_device(Device { path, is_writable }: &Device) -> wire::Device {
    wire::Device { path: path.clone(), writable: *is_writable }
}

fn mount(wire::Mount { host_path, path, writable }: wire::Mount) -> Mount {
    Mount { host_path, path, is_writable: writable }
}

fn to_mount(Mount { host_path, path, is_writable }: &Mount) -> wire::Mount {
    wire::Mount { host_path: host_path.clone(), path: path.clone(), writable: *is_writable }
}

fn secret(wire::Secret { name, value }: wire::Secret) -> Secret {
    Secret { name, value: SecretValue(value.into()) }
}

fn to_secret(Secret { name, value }: &Secret) -> wire::Secret {
    wire::Secret { name: name.clone(), value: value.0.clone().into() }
}

fn fetch(fetch: wire::Fetch) -> Result<Fetch, Invalid> {
    let wire::Fetch { url, path, sha256, unpack, executable } = fetch;
    let digest = |text: String| {
        let wrong =
            || Invalid::new("sha256", format_args!("`{}` is not 64 hexadecimal digits", shown(&text)));
        Sha256::of_hex(&text).ok_or_else(wrong)
    };
    let sha256 = sha256.map(digest).transpose()?;
    Ok(Fetch { url, path, sha256, is_unpacked: unpack, is_executable: executable })
}

fn to_fetch(fetch: &Fetch) -> wire::Fetch {
    let Fetch { url, path, sha256, is_unpacked, is_executable } = fetch;
    wire::Fetch {
        url: url.clone(),
        path: path.clone(),
        sha256: sha256.map(|digest| digest.to_string()),
        unpack: *is_unpacked,
        executable: *is_executable,
    }
}

fn health_check(check: wire::HealthCheck) -> Result<HealthCheck, Invalid> {
    let wire::HealthCheck {
        probe: question,
        start_period_ms,
        interval_ms,
        timeout_ms,
        failures_max,
        successes_min,
        kill_when_unhealthy,
    } = check;
    let interval = interval_ms.map_or(HealthCheck::INTERVAL_DEFAULT, timeout);
    Ok(HealthCheck {
        probe: probe(required("probe", question)?)?,
        start_period: timeout(start_period_ms),
        interval,
        timeout: timeout_ms.map_or(HealthCheck::TIMEOUT_DEFAULT.min(interval), timeout),
        failures_max: failures_max.unwrap_or(HealthCheck::FAILURES_MAX_DEFAULT),
        successes_min: successes_min.unwrap_or(1),
        is_killed_when_unhealthy: kill_when_unhealthy,
    })
}

fn to_health_check(check: &HealthCheck) -> wire::HealthCheck {
    let HealthCheck {
        probe,
        start_period,
        interval,
        timeout,
        failures_max,
        successes_min,
        is_killed_when_unhealthy,
    } = check;
    let ms = |duration: &Duration| millis(*duration);
    wire::HealthCheck {
        probe: Some(to_probe(probe)),
        start_period_ms: ms(start_period),
        interval_ms: Some(ms(interval)),
        timeout_ms: Some(ms(timeout)),
        failures_max: Some(*failures_max),
        successes_min: Some(*successes_min),
        kill_when_unhealthy: *is_killed_when_unhealthy,
    }
}

fn probe(probe: wire::health_check::Probe) -> Result<Probe, Invalid> {
    let port = |kind: &str, port: Option<u32>| {
        let field = format!("{kind}.port");
        port.map(|port| short(&field, port)).transpose()
    };
    Ok(match probe {
        wire::health_check::Probe::Http(wire::HttpProbe { port: number, path, tls }) => {
            let path = if path.is_empty() { "/".to_owned() } else { path };
            Probe::Http { port: port("http", number)?, path, is_tls: tls }
        }
        wire::health_check::Probe::Tcp(wire::TcpProbe { port: number }) => {
            Probe::Tcp { port: port("tcp", number)? }
        }
        wire::health_check::Probe::Grpc(wire::GrpcProbe { port: number, service }) => {
            Probe::Grpc { port: port("grpc", number)?, service }
        }
        wire::health_check::Probe::Command(wire::CommandProbe { command }) => Probe::Command { command },
    })
}

fn to_probe(probe: &Probe) -> wire::health_check::Probe {
    match probe {
        Probe::Http { port, path, is_tls } => wire::health_check::Probe::Http(wire::HttpProbe {
            port: port.map(u32::from),
            path: path.clone(),
            tls: *is_tls,
        }),
        Probe::Tcp { port } => wire::health_check::Probe::Tcp(wire::TcpProbe { port: port.map(u32::from) }),
        Probe::Grpc { port, service } => wire::health_check::Probe::Grpc(wire::GrpcProbe {
            port: port.map(u32::from),
            service: service.clone(),
        }),
        Probe::Command { command } => {
            wire::health_check::Probe::Command(wire::CommandProbe { command: command.clone() })
        }
    }
}

/// A number that the model holds in 16 bits.
fn short(field: &str, value: u32) -> Result<u16, Invalid> {
    u16::try_from(value).map_err(|_| Invalid::new(field, format_args!("of {value} is above {}", u16::MAX)))
}
