//! A task's spec in a file, for `muster run --spec`: the fields of the API's `TaskSpec`, as TOML or JSON.
//!
//! What it doesn't know it refuses, and says where it stands. Rules about values are the coordinator's.
//! Start at [`read`].

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use muster_client::types::{self, health_check};
use serde::Deserialize;

use crate::report::{Attempted, Failure};

/// The spec in a file; its ending says how it is written.
pub fn read(path: &Path) -> Result<types::TaskSpec, Failure> {
    let attempted = format!("read the spec in {}", path.display());
    let text = fs::read_to_string(path).attempted(&attempted)?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let spec = match ending {
        "toml" => toml::from_str::<Spec>(&text).map_err(|error| error.to_string()),
        "json" => serde_json::from_str::<Spec>(&text).map_err(|error| error.to_string()),
        _ => Err("its name ends neither in .toml nor in .json".to_owned()),
    };
    // The reader's own words end in a line break.
    spec.map(Spec::message).map_err(|why| Failure::new(&attempted, why.trim_end()).misused())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Spec {
    name: String,
    resources: Resources,
    command: Vec<String>,
    env: HashMap<String, String>,
    user: Option<String>,
    cwd: Option<String>,
    cpu_limit_milli: Option<u64>,
    pids_limit: Option<u32>,
    kill_grace_ms: Option<u64>,
    labels: HashMap<String, String>,
    shared_namespaces: Option<SharedNamespaces>,
    groups: Vec<String>,
    mem_limit_mib: Option<u64>,
    run_time_max_ms: Option<u64>,
    kill_signal: KillSignal,
    cpuset: Vec<u32>,
    io: Option<IoLimits>,
    rlimits: Vec<Rlimit>,
    oom_score_adjust: Option<u32>,
    devices: Vec<Device>,
    mounts: Vec<Mount>,
    secrets: Vec<Secret>,
    fetches: Vec<Fetch>,
    capabilities: Vec<String>,
    seccomp: Option<String>,
    private_network: bool,
    health_check: Option<HealthCheck>,
    processes: Vec<Process>,
    stdin: bool,
}

/// What isn't said is as without a file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Resources {
    cpus_milli: u64,
    mem_mib: u64,
    disk_mib: u64,
    gpus: u32,
    ports: Vec<PortRange>,
    scalars: HashMap<String, u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortRange {
    first: u32,
    last: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SharedNamespaces {
    pid: bool,
    ipc: bool,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum KillSignal {
    Hup,
    Int,
    Quit,
    Usr1,
    Usr2,
    #[default]
    Term,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct IoLimits {
    read_bytes_per_second: Option<u64>,
    write_bytes_per_second: Option<u64>,
    read_operations_per_second: Option<u64>,
    write_operations_per_second: Option<u64>,
    weight: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rlimit {
    kind: String,
    soft: Option<u64>,
    hard: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    path: String,
    #[serde(default)]
    writable: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mount {
    host_path: String,
    path: String,
    #[serde(default)]
    writable: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fetch {
    url: String,
    path: Option<String>,
    sha256: Option<String>,
    #[serde(default)]
    unpack: bool,
    #[serde(default)]
    executable: bool,
}

/// One of `http`, `tcp`, `grpc` and `command`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HealthCheck {
    http: Option<HttpProbe>,
    tcp: Option<TcpProbe>,
    grpc: Option<GrpcProbe>,
    command: Option<CommandProbe>,
    start_period_ms: u64,
    interval_ms: Option<u64>,
    timeout_ms: Option<u64>,
    failures_max: Option<u32>,
    successes_min: Option<u32>,
    kill_when_unhealthy: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpProbe {
    port: Option<u32>,
    path: String,
    tls: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TcpProbe {
    port: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GrpcProbe {
    port: Option<u32>,
    service: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandProbe {
    command: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Process {
    name: String,
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cpu_limit_milli: Option<u64>,
    mem_limit_mib: Option<u64>,
    essential: Option<bool>,
}

impl Spec {
    fn message(self) -> types::TaskSpec {
        let Self {
            name,
            resources,
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
            kill_signal,
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
            health_check,
            processes,
            stdin,
        } = self;
        types::TaskSpec {
            task_id: String::new(),
            name,
            resources: Some(resources.message()),
            command,
            env: env.into_iter().collect(),
            user,
            cwd,
            cpu_limit_milli,
            pids_limit,
            kill_grace_ms,
            labels: labels.into_iter().collect(),
            shared_namespaces: shared_namespaces
                .map(|SharedNamespaces { pid, ipc }| types::SharedNamespaces { pid, ipc }),
            groups,
            mem_limit_mib,
            run_time_max_ms,
            kill_signal: kill_signal.message().into(),
            cpuset,
            io: io.map(IoLimits::message),
            rlimits: rlimits
                .into_iter()
                .map(|Rlimit { kind, soft, hard }| types::Rlimit { kind, soft, hard })
                .collect(),
            oom_score_adjust,
            devices: devices
                .into_iter()
                .map(|Device { path, writable }| types::Device { path, writable })
                .collect(),
            mounts: mounts
                .into_iter()
                .map(|Mount { host_path, path, writable }| types::Mount { host_path, path, writable })
                .collect(),
            secrets: secrets
                .into_iter()
                .map(|Secret { name, value }| types::Secret { name, value: value.into_bytes().into() })
                .collect(),
            fetches: fetches.into_iter().map(Fetch::message).collect(),
            capabilities,
            seccomp,
            private_network,
            health_check: health_check.map(HealthCheck::message),
            processes: processes.into_iter().map(Process::message).collect(),
            stdin,
        }
    }
}

impl Resources {
    fn message(self) -> types::Resources {
        let Self { cpus_milli, mem_mib, disk_mib, gpus, ports, scalars } = self;
        let ports = ports.into_iter().map(|PortRange { first, last }| types::PortRange { first, last });
        types::Resources {
            cpus_milli,
            mem_mib,
            disk_mib,
            gpus,
            ports: ports.collect(),
            scalars: scalars.into_iter().collect(),
        }
    }
}

impl KillSignal {
    fn message(self) -> types::KillSignal {
        match self {
            Self::Hup => types::KillSignal::Hup,
            Self::Int => types::KillSignal::Int,
            Self::Quit => types::KillSignal::Quit,
            Self::Usr1 => types::KillSignal::Usr1,
            Self::Usr2 => types::KillSignal::Usr2,
            Self::Term => types::KillSignal::Unspecified,
        }
    }
}

impl IoLimits {
    fn message(self) -> types::IoLimits {
        let Self {
            read_bytes_per_second,
            write_bytes_per_second,
            read_operations_per_second,
            write_operations_per_second,
            weight,
        } = self;
        types::IoLimits {
            read_bytes_per_second,
            write_bytes_per_second,
            read_operations_per_second,
            write_operations_per_second,
            weight,
        }
    }
}

impl Fetch {
    fn message(self) -> types::Fetch {
        let Self { url, path, sha256, unpack, executable } = self;
        types::Fetch { url, path, sha256, unpack, executable }
    }
}

impl HealthCheck {
    /// Of several probes the first counts.
    fn message(self) -> types::HealthCheck {
        let Self {
            http,
            tcp,
            grpc,
            command,
            start_period_ms,
            interval_ms,
            timeout_ms,
            failures_max,
            successes_min,
            kill_when_unhealthy,
        } = self;
        let http = http.map(|HttpProbe { port, path, tls }| {
            health_check::Probe::Http(types::HttpProbe { port, path, tls })
        });
        let tcp = tcp.map(|TcpProbe { port }| health_check::Probe::Tcp(types::TcpProbe { port }));
        let grpc = grpc
            .map(|GrpcProbe { port, service }| health_check::Probe::Grpc(types::GrpcProbe { port, service }));
        let command = command
            .map(|CommandProbe { command }| health_check::Probe::Command(types::CommandProbe { command }));
        types::HealthCheck {
            probe: http.or(tcp).or(grpc).or(command),
            start_period_ms,
            interval_ms,
            timeout_ms,
            failures_max,
            successes_min,
            kill_when_unhealthy,
        }
    }
}

impl Process {
    fn message(self) -> types::Process {
        let Self { name, command, env, cpu_limit_milli, mem_limit_mib, essential } = self;
        let env = env.into_iter().collect();
        types::Process { name, command, env, cpu_limit_milli, mem_limit_mib, essential }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../docs/guides/group.toml");

    fn refused(name: &str, text: &str) -> String {
        let directory = std::env::temp_dir().join(format!("muster-spec-{}-{name}", std::process::id()));
        fs::write(&directory, text).unwrap();
        let failure = read(&directory).unwrap_err();
        fs::remove_file(&directory).unwrap();
        failure.to_string()
    }

    #[test]
    fn the_example_of_the_guide_is_understood() {
        let spec = toml::from_str::<Spec>(EXAMPLE).unwrap().message();
        let names: Vec<&str> = spec.processes.iter().map(|process| process.name.as_str()).collect();
        assert_eq!((names, spec.processes[1].essential), (vec!["web", "log"], Some(false)));
        assert_eq!(spec.resources.unwrap().mem_mib, 128);
    }

    #[test]
    fn json_says_the_same_as_toml() {
        let toml = "name = 'a'\ncommand = ['x']\nkill_signal = 'INT'\n[health_check.tcp]\nport = 80\n";
        let json = r#"{"name":"a","command":["x"],"kill_signal":"INT","health_check":{"tcp":{"port":80}}}"#;
        let toml = toml::from_str::<Spec>(toml).unwrap().message();
        assert_eq!(toml, serde_json::from_str::<Spec>(json).unwrap().message());
        assert_eq!(toml.kill_signal(), types::KillSignal::Int);
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        let text =
            refused("a.toml", "name = 'a'\n[[processes]]\nname = 'web'\ncommand = ['x']\nmemory = 3\n");
        assert!(text.contains("line 5, column 1") && text.contains("`memory`"), "{text}");
        let text = refused("b.json", "{\n \"name\": \"a\",\n \"comand\": []\n}");
        assert!(text.contains("line 3") && text.contains("`comand`"), "{text}");
        let text = refused("c.toml", "kill_signal = 'KILL'");
        assert!(text.contains("line 1") && text.contains("KILL"), "{text}");
        assert!(refused("d.yaml", "").contains("neither in .toml nor in .json"));
    }
}
