//! The table of settings: how each is named, explained, read and shown.

use std::fmt;

use model::limits;

use super::{
    Bytes, Config, OUTPUT_LIMIT_MIN,
    values::{
        Thousandths, absolute_path, address, allowed_path, attributes, boolean, capability, cgroup_path,
        cpus, hostname, list, mib, number, path, ports, show_allowed, show_paths, urls, word,
    },
};

/// One line of the table: how a setting is named, explained, read and shown.
pub struct Setting {
    /// As a flag (`--data-dir`), a key in the file (`data-dir`), and in the environment
    /// (`MUSTER_AGENT_DATA_DIR`).
    pub key: &'static str,
    /// Absent: a flag that means `true` by itself.
    pub value_name: Option<&'static str>,
    pub help: &'static str,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

impl Setting {
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.replace('-', "_").to_ascii_uppercase())
    }

    /// The default as text; empty where there is none.
    pub fn default_text(&self) -> String {
        (self.show)(&Config::default())
    }
}

/// Every environment variable of ours begins like this.
pub const VARIABLE_PREFIX: &str = "MUSTER_AGENT_";

pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "coordinator",
        value_name: Some("URL,URL"),
        help: "Where the coordinators answer; any of them will do, and the next is tried when one does not",
        set: |config, text| urls(text).map(|value| config.coordinator = value),
        show: |config| config.coordinator.join(","),
    },
    Setting {
        key: "token-file",
        value_name: Some("PATH"),
        help: "The credential that the coordinator asks for, where plain text is spoken",
        set: |config, text| path(text).map(|value| config.token_file = value),
        show: |config| config.token_file.display().to_string(),
    },
    Setting {
        key: "join-token-file",
        value_name: Some("PATH"),
        help: "What lets this agent in, from `muster token create agent`; needed once, where coordinators speak TLS",
        set: |config, text| path(text).map(|value| config.join_token_file = Some(value)),
        show: |config| optional(config.join_token_file.as_ref().map(|path| path.display())),
    },
    Setting {
        key: "data-dir",
        value_name: Some("DIR"),
        help: "Where records, sandboxes and output are kept",
        set: |config, text| path(text).map(|value| config.data_dir = value),
        show: |config| config.data_dir.display().to_string(),
    },
    Setting {
        key: "listen",
        value_name: Some("ADDRESS:PORT"),
        help: "Where health and metrics are answered; loopback only",
        set: |config, text| address(text).map(|value| config.listen = value),
        show: |config| config.listen.to_string(),
    },
    Setting {
        key: "cgroup-parent",
        value_name: Some("PATH"),
        help: "The agent's group below each cgroup hierarchy's root",
        set: |config, text| cgroup_path(text).map(|value| config.cgroup_parent = value),
        show: |config| config.cgroup_parent.display().to_string(),
    },
    Setting {
        key: "bpf-dir",
        value_name: Some("DIR"),
        help: "Where kernel programs and their maps are pinned [default: bpf in the data directory]",
        set: |config, text| path(text).map(|value| config.bpf_dir = Some(value)),
        show: |config| optional(config.bpf_dir.as_ref().map(|path| path.display())),
    },
    Setting {
        key: "hostname",
        value_name: Some("NAME"),
        help: "What this host is called in the cluster [default: its own name]",
        set: |config, text| hostname(text).map(|value| config.hostname = Some(value)),
        show: |config| optional(config.hostname.as_ref()),
    },
    Setting {
        key: "cpus",
        value_name: Some("NUMBER"),
        help: "Cores that tasks may use, such as 3.5 [default: all]",
        set: |config, text| cpus(text).map(|value| config.cpus_milli = Some(value)),
        show: |config| optional(config.cpus_milli.map(Thousandths)),
    },
    Setting {
        key: "mem",
        value_name: Some("AMOUNT"),
        help: "Memory that tasks may use, such as 4GiB [default: 90 % of what there is]",
        set: |config, text| mib(text).map(|value| config.mem_mib = Some(value)),
        show: |config| optional(config.mem_mib.map(|mib| Bytes(mib << 20))),
    },
    Setting {
        key: "disk",
        value_name: Some("AMOUNT"),
        help: "Disk that tasks may use, such as 100GiB [default: what is free below the data directory]",
        set: |config, text| mib(text).map(|value| config.disk_mib = Some(value)),
        show: |config| optional(config.disk_mib.map(|mib| Bytes(mib << 20))),
    },
    Setting {
        key: "gpus",
        value_name: Some("NUMBER"),
        help: "GPUs that tasks may use [default: as many as `gpu-devices` names]",
        set: |config, text| number(text, 0, limits::GPUS_MAX).map(|value| config.gpus = value),
        show: |config| config.gpus.to_string(),
    },
    Setting {
        key: "ports",
        value_name: Some("FIRST-LAST,…"),
        help: "Ports that tasks may use",
        set: |config, text| ports(text).map(|value| config.ports = value),
        show: |config| config.ports.to_string(),
    },
    Setting {
        key: "attributes",
        value_name: Some("NAME=VALUE,…"),
        help: "Facts about this host that frameworks may choose by",
        set: |config, text| attributes(text).map(|value| config.attributes = value),
        show: |config| {
            let pairs: Vec<_> =
                config.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
            pairs.join(",")
        },
    },
    Setting {
        key: "default-user",
        value_name: Some("USER"),
        help: "Who a task runs as when nobody says otherwise",
        set: |config, text| word(text).map(|value| config.default_user = value),
        show: |config| config.default_user.clone(),
    },
    Setting {
        key: "allowed-users",
        value_name: Some("USER,…"),
        help: "The only users that tasks may run as [default: every user but root]",
        set: |config, text| {
            let users: Result<Vec<_>, _> = list(text).map(word).collect();
            users.map(|users| config.allowed_users = Some(users))
        },
        show: |config| optional(config.allowed_users.as_ref().map(|users| users.join(","))),
    },
    Setting {
        key: "allow-root-tasks",
        value_name: None,
        help: "Let tasks run as root",
        set: |config, text| boolean(text).map(|value| config.allow_root_tasks = value),
        show: |config| config.allow_root_tasks.to_string(),
    },
    Setting {
        key: "allow-groups",
        value_name: Some("GROUP,…"),
        help: "Groups that a task may ask for, beside those of its user",
        set: |config, text| {
            let groups: Result<Vec<_>, _> = list(text).map(word).collect();
            groups.map(|groups| config.allow_groups = groups)
        },
        show: |config| config.allow_groups.join(","),
    },
    Setting {
        key: "allow-capabilities",
        value_name: Some("NAME,…"),
        help: "Capabilities that a task may ask for, such as net_raw",
        set: |config, text| {
            let names: Result<Vec<_>, _> = list(text).map(capability).collect();
            names.map(|names| config.allow_capabilities = names)
        },
        show: |config| config.allow_capabilities.join(","),
    },
    Setting {
        key: "allow-unconfined",
        value_name: None,
        help: "Let a task ask to go without a profile of system calls",
        set: |config, text| boolean(text).map(|value| config.allow_unconfined = value),
        show: |config| config.allow_unconfined.to_string(),
    },
    Setting {
        key: "default-seccomp",
        value_name: Some("PROFILE"),
        help: "Profile of system calls of a task that names none: default, unconfined, or one of `seccomp-dir`",
        set: |config, text| word(text).map(|value| config.default_seccomp = value),
        show: |config| config.default_seccomp.clone(),
    },
    Setting {
        key: "seccomp-dir",
        value_name: Some("DIR"),
        help: "Where profiles of system calls are, NAME.json each",
        set: |config, text| path(text).map(|value| config.seccomp_dir = value),
        show: |config| config.seccomp_dir.display().to_string(),
    },
    Setting {
        key: "allow-mounts",
        value_name: Some("PATH[:ro|rw],…"),
        help: "Host paths that a task may ask to see, with what is below them; read-only unless rw is said",
        set: |config, text| {
            let paths: Result<Vec<_>, _> = list(text).map(|text| allowed_path(text, false)).collect();
            paths.map(|paths| config.allow_mounts = paths)
        },
        show: |config| show_allowed(&config.allow_mounts),
    },
    Setting {
        key: "allow-devices",
        value_name: Some("PATH[:ro|rw],…"),
        help: "Devices, or directories of them, that a task may ask for; for reading and writing unless ro is said",
        set: |config, text| {
            let paths: Result<Vec<_>, _> = list(text).map(|text| allowed_path(text, true)).collect();
            paths.map(|paths| config.allow_devices = paths)
        },
        show: |config| show_allowed(&config.allow_devices),
    },
    Setting {
        key: "gpu-devices",
        value_name: Some("PATH,…"),
        help: "Device of each GPU, such as /dev/nvidia0; a task gets whole ones for itself",
        set: |config, text| {
            let paths: Result<Vec<_>, _> = list(text).map(absolute_path).collect();
            paths.map(|paths| config.gpu_devices = paths)
        },
        show: |config| show_paths(&config.gpu_devices),
    },
    Setting {
        key: "gpu-common-devices",
        value_name: Some("PATH,…"),
        help: "Devices that every task with a GPU gets, such as /dev/nvidiactl",
        set: |config, text| {
            let paths: Result<Vec<_>, _> = list(text).map(absolute_path).collect();
            paths.map(|paths| config.gpu_common_devices = paths)
        },
        show: |config| show_paths(&config.gpu_common_devices),
    },
    Setting {
        key: "hidden-paths",
        value_name: Some("PATH,…"),
        help: "Files and directories that no task sees, beside the data directory and the token",
        set: |config, text| {
            let paths: Result<Vec<_>, _> = list(text).map(absolute_path).collect();
            paths.map(|paths| config.hidden_paths = paths)
        },
        show: |config| {
            let paths: Vec<_> = config.hidden_paths.iter().map(|path| path.display().to_string()).collect();
            paths.join(",")
        },
    },
    Setting {
        key: "pids-limit",
        value_name: Some("NUMBER"),
        help: "Most processes and threads of a task whose spec says nothing",
        set: |config, text| number(text, 1, limits::PIDS_MAX).map(|value| config.pids_limit = value),
        show: |config| config.pids_limit.to_string(),
    },
    Setting {
        key: "unhealthy-kills-per-minute",
        value_name: Some("NUMBER"),
        help: "Most tasks of this agent that are killed in a minute because they are unhealthy",
        set: |config, text| number(text, 0, 100_000).map(|value| config.unhealthy_kills_per_minute = value),
        show: |config| config.unhealthy_kills_per_minute.to_string(),
    },
    Setting {
        key: "output-limit",
        value_name: Some("AMOUNT"),
        help: "How much of each output of a task is kept; the oldest goes first",
        set: |config, text| {
            let bytes = text.parse::<Bytes>()?;
            if bytes < OUTPUT_LIMIT_MIN {
                return Err(format!("`{text}` is below {OUTPUT_LIMIT_MIN}"));
            }
            config.output_limit = bytes;
            Ok(())
        },
        show: |config| config.output_limit.to_string(),
    },
    Setting {
        key: "measures",
        value_name: Some("NAME,…"),
        help: "What is measured of tasks: all, none, or some of cpu, threads, oom, run-queue, network, connections, block, forks, reclaim, pressure",
        set: |config, text| text.parse().map(|value| config.measures = value),
        show: |config| config.measures.to_string(),
    },
    Setting {
        key: "port-policy",
        value_name: Some("POLICY"),
        help: "What is done about a port that a task binds or listens on and has not declared: off, report, or refuse",
        set: |config, text| text.parse().map(|value| config.port_policy = value),
        show: |config| config.port_policy.to_string(),
    },
    Setting {
        key: "allow-fetch-from",
        value_name: Some("DIR,…"),
        help: "Directories of this host whose files a task may name in `file:` URLs, as far as its user may read them",
        set: |config, text| {
            let paths: Result<Vec<_>, _> = list(text).map(absolute_path).collect();
            paths.map(|paths| config.allow_fetch_from = paths)
        },
        show: |config| {
            let paths: Vec<_> =
                config.allow_fetch_from.iter().map(|path| path.display().to_string()).collect();
            paths.join(",")
        },
    },
    Setting {
        key: "fetch-cache-size",
        value_name: Some("AMOUNT"),
        help: "How much of what tasks fetched with a digest is kept for the next one",
        set: |config, text| text.parse().map(|bytes| config.fetch_cache_size = bytes),
        show: |config| config.fetch_cache_size.to_string(),
    },
    Setting {
        key: "fetch-size-limit",
        value_name: Some("AMOUNT"),
        help: "What the files of a task may take that asked for no amount of disk",
        set: |config, text| text.parse().map(|bytes| config.fetch_size_limit = bytes),
        show: |config| config.fetch_size_limit.to_string(),
    },
    Setting {
        key: "end-tasks-on-exit",
        value_name: None,
        help: "End all tasks when the agent ends, and leave nothing behind",
        set: |config, text| boolean(text).map(|value| config.end_tasks_on_exit = value),
        show: |config| config.end_tasks_on_exit.to_string(),
    },
    Setting {
        key: "log-format",
        value_name: Some("FORMAT"),
        help: "How log lines on stderr look: human or json",
        set: |config, text| text.parse().map(|value| config.log_format = value),
        show: |config| config.log_format.to_string(),
    },
    Setting {
        key: "log-filter",
        value_name: Some("FILTER"),
        help: "What is logged: error, warn, info, debug, trace, or target=level,…",
        set: |config, text| {
            text.parse::<tracing_subscriber::EnvFilter>()
                .map(|_| config.log_filter = text.to_owned())
                .map_err(|error| error.to_string())
        },
        show: |config| config.log_filter.clone(),
    },
];

fn optional(value: Option<impl fmt::Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
