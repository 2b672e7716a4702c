//! What an operator may set: file, then environment, then flags; the last one counts.
//!
//! Everything becomes a type that can't be wrong, once, here; relations between settings are
//! checked in [`Config::check`]. What the host offers is asked in `host`, not here.
//! The table is [`SETTINGS`].

pub(crate) mod decoders;
mod settings;
mod values;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use model::{PortRange, PortRanges};

use crate::sys::bpf::{Measures, PortPolicy};

use crate::execute::AllowedPath;

pub use settings::{SETTINGS, Setting, VARIABLE_PREFIX};
pub use values::Bytes;

/// Everything that can be set. Each default and its reason stand in [`Config::default`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// URLs of members; at least one.
    pub coordinator: Vec<String>,
    pub token_file: PathBuf,
    /// What lets this agent in, where coordinators speak TLS; needed once.
    pub join_token_file: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub cgroup_parent: PathBuf,
    /// `None`: `bpf` in the data directory.
    pub bpf_dir: Option<PathBuf>,
    /// `None`: what the host calls itself.
    pub hostname: Option<String>,
    /// `None`: all of them.
    pub cpus_milli: Option<u64>,
    /// `None`: most of it.
    pub mem_mib: Option<u64>,
    /// `None`: what is free below the data directory.
    pub disk_mib: Option<u64>,
    pub gpus: u32,
    pub ports: PortRanges,
    pub attributes: BTreeMap<String, String>,
    pub default_user: String,
    /// `None`: every user but root.
    pub allowed_users: Option<Vec<String>>,
    pub allow_root_tasks: bool,
    /// Beyond those of a task's user.
    pub allow_groups: Vec<String>,
    /// Lower case, without `cap_`.
    pub allow_capabilities: Vec<String>,
    pub allow_unconfined: bool,
    pub default_seccomp: String,
    pub seccomp_dir: PathBuf,
    pub allow_mounts: Vec<AllowedPath>,
    pub allow_devices: Vec<AllowedPath>,
    /// One for each GPU; empty: they are only counted.
    pub gpu_devices: Vec<PathBuf>,
    pub gpu_common_devices: Vec<PathBuf>,
    pub hidden_paths: Vec<PathBuf>,
    pub pids_limit: u32,
    pub unhealthy_kills_per_minute: u32,
    pub output_limit: Bytes,
    pub measures: Measures,
    pub port_policy: PortPolicy,
    pub allow_fetch_from: Vec<PathBuf>,
    pub fetch_cache_size: Bytes,
    pub fetch_size_limit: Bytes,
    pub end_tasks_on_exit: bool,
    pub log_format: LogFormat,
    pub log_filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The coordinator's own default.
            coordinator: vec!["http://127.0.0.1:5050".to_owned()],
            token_file: PathBuf::from("/var/lib/muster/coordinator/token"),
            // One machine needs none.
            join_token_file: None,
            // Where the FHS puts what a daemon must keep.
            data_dir: PathBuf::from("/var/lib/muster/agent"),
            // 5051 is where Mesos users look; loopback, because nothing else is served without mTLS.
            listen: SocketAddr::from(([127, 0, 0, 1], 5051)),
            cgroup_parent: PathBuf::from("muster"),
            // Beside the data, so that two agents on one host don't share their counters.
            bpf_dir: None,
            hostname: None,
            cpus_milli: None,
            mem_mib: None,
            disk_mib: None,
            gpus: 0,
            // As Mesos has it: below the ephemeral ports of Linux.
            ports: PortRange::new(31_000, 32_000)
                .and_then(|range| PortRanges::new(vec![range]))
                .unwrap_or_default(),
            attributes: BTreeMap::new(),
            // The user of least rights that every Linux has.
            default_user: "nobody".to_owned(),
            allowed_users: None,
            // A task of root can do much to its host; that must be somebody's decision.
            allow_root_tasks: false,
            // A group may give rights over the host, as `docker` and `disk` do.
            allow_groups: Vec::new(),
            // Each is a part of root's power.
            allow_capabilities: Vec::new(),
            // The default profile is the wall that is left where a kernel has a hole.
            allow_unconfined: false,
            default_seccomp: "default".to_owned(),
            seccomp_dir: PathBuf::from("/etc/muster/seccomp"),
            // What is on a host is its operator's business.
            allow_mounts: Vec::new(),
            // A device may be a whole disk, or the host's memory.
            allow_devices: Vec::new(),
            gpu_devices: Vec::new(),
            gpu_common_devices: Vec::new(),
            // Where coordinators and agents keep what gives power over the cluster.
            hidden_paths: vec![PathBuf::from("/var/lib/muster"), PathBuf::from("/run/muster")],
            // Enough for a large JVM, and the host survives a fork bomb.
            pids_limit: 4096,
            // One bad release is replaced in minutes; a fault of the host, which makes every task look
            // unhealthy, takes few of them.
            unhealthy_kills_per_minute: 5,
            // Hours of an ordinary log; a disk of 100 GB holds those of 2500 tasks.
            output_limit: Bytes(20 << 20),
            // What nobody measured can't be asked for afterwards, and all together cost less than a hundredth.
            measures: Measures::ALL,
            // To refuse would break programs that open a port for debugging or metrics on the day of the upgrade; to say
            // nothing would hide who takes the ports of others.
            port_policy: PortPolicy::Report,
            // Files of the host are nobody's but the operator's to give.
            allow_fetch_from: Vec::new(),
            // Some versions of some programs; on most disks not worth a thought.
            fetch_cache_size: Bytes(4 << 30),
            // Larger than any program, smaller than most disks.
            fetch_size_limit: Bytes(16 << 30),
            // An agent may be upgraded while its tasks run.
            end_tasks_on_exit: false,
            log_format: LogFormat::Human,
            // The store tells its own story, which is no operator's.
            log_filter: "info,fjall=warn,lsm_tree=warn".to_owned(),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is no log format; take `human` or `json`")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

/// Punching holes works by filesystem blocks; less than a few of them would keep nothing.
const OUTPUT_LIMIT_MIN: Bytes = Bytes(64 << 10);

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Default,
    File(PathBuf),
    Variable(String),
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Variable(name) => write!(formatter, "environment {name}"),
            Self::Flag => formatter.write_str("flag"),
        }
    }
}

/// Why the settings can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read the configuration file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("can't understand the configuration file {}", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("there is no setting `{key}` (from {origin}){}", suggestion(key))]
    UnknownKey { key: String, origin: Source },
    #[error("setting `{key}` (from {origin}) is not valid: {why}")]
    Value { key: &'static str, origin: Source, why: String },
    #[error("settings `{first}` and `{second}` don't fit together: {why}")]
    Relation { first: &'static str, second: &'static str, why: String },
    #[error("`listen` is {listen}, which is beyond this machine, and nothing is served there without mTLS")]
    BeyondLoopback { listen: SocketAddr },
}

impl ConfigError {
    /// What the operator can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::Read { .. } => "check the path given with `--config`".to_owned(),
            Self::Parse { .. } => "mend the file; keys are those of `--help` without the dashes".to_owned(),
            Self::UnknownKey { .. } => "see `--help` for every setting".to_owned(),
            Self::Value { key, .. } => format!("see `--help` for what `{key}` takes"),
            Self::Relation { first, second, .. } => format!("change `{first}` or `{second}`"),
            Self::BeyondLoopback { .. } => "listen on a loopback address such as 127.0.0.1:5051".to_owned(),
        }
    }
}

/// Every setting together with where it came from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    sources: BTreeMap<&'static str, Source>,
}

impl Loaded {
    /// Reads the file if there is one, then the environment, then the flags.
    ///
    /// `variables` are all of the process; those with our prefix that name no setting are refused,
    /// because a misspelt one would be missed in silence.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, ConfigError> {
        let mut loaded = Self { config: Config::default(), sources: BTreeMap::new() };
        if let Some(path) = file {
            loaded.take_file(path)?;
        }
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            let key = rest.to_ascii_lowercase().replace('_', "-");
            // The file's own path is set like everything else, but is no setting inside the file.
            if key != "config" {
                loaded.set(&key, &value, Source::Variable(name.clone()))?;
            }
        }
        for (key, value) in flags {
            loaded.set(key, &value, Source::Flag)?;
        }
        loaded.config.check()?;
        Ok(loaded)
    }

    /// What `--print-config` prints: TOML with the source of each value behind it.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for setting in SETTINGS {
            let value = (setting.show)(&self.config);
            let source = self.sources.get(setting.key).unwrap_or(&Source::Default);
            // Where there is a default, nothing is a value too.
            let line = if value.is_empty() && setting.default_text().is_empty() {
                format!("# {} is not set", setting.key)
            } else {
                format!("{} = {}", setting.key, toml::Value::String(value))
            };
            text += &format!("{line:<60} # {source}\n");
        }
        text
    }

    fn take_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        self.take_text(path, &text)
    }

    fn take_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        for (key, value) in table {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Array(parts) => {
                    let parts: Vec<_> = parts
                        .iter()
                        .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
                        .collect();
                    parts.join(",")
                }
                toml::Value::Integer(_)
                | toml::Value::Float(_)
                | toml::Value::Boolean(_)
                | toml::Value::Datetime(_)
                | toml::Value::Table(_) => value.to_string(),
            };
            self.set(&key, &text, Source::File(path.to_owned()))?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, text: &str, origin: Source) -> Result<(), ConfigError> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            return Err(ConfigError::UnknownKey { key: key.to_owned(), origin });
        };
        (setting.set)(&mut self.config, text).map_err(|why| ConfigError::Value {
            key: setting.key,
            origin: origin.clone(),
            why,
        })?;
        self.sources.insert(setting.key, origin);
        Ok(())
    }
}

impl Config {
    /// Whether coordinators are spoken to with TLS; [`Self::check`] sees to it that it is all of them or none.
    pub fn speaks_tls(&self) -> bool {
        self.coordinator.iter().any(|url| url.starts_with("https://"))
    }

    pub fn bpf_path(&self) -> PathBuf {
        self.bpf_dir.clone().unwrap_or_else(|| self.data_dir.join("bpf"))
    }

    /// Relations between settings; each alone is right already.
    pub fn check(&self) -> Result<(), ConfigError> {
        let secured = self.coordinator.iter().filter(|url| url.starts_with("https://")).count();
        if secured != 0 && secured != self.coordinator.len() {
            return Err(ConfigError::Relation {
                first: "coordinator",
                second: "coordinator",
                why: "either all coordinators of a cluster speak TLS, or none".to_owned(),
            });
        }
        if secured == 0 && self.join_token_file.is_some() {
            return Err(ConfigError::Relation {
                first: "join-token-file",
                second: "coordinator",
                why: "a join token is for coordinators that speak TLS, whose addresses begin with https://"
                    .to_owned(),
            });
        }
        if !self.listen.ip().is_loopback() {
            return Err(ConfigError::BeyondLoopback { listen: self.listen });
        }
        if matches!(self.default_user.as_str(), "root" | "0") && !self.allow_root_tasks {
            return Err(ConfigError::Relation {
                first: "default-user",
                second: "allow-root-tasks",
                why: "tasks would run as root, which is not allowed".to_owned(),
            });
        }
        let named = u32::try_from(self.gpu_devices.len()).unwrap_or(u32::MAX);
        if named > 0 && self.gpus > named {
            return Err(ConfigError::Relation {
                first: "gpus",
                second: "gpu-devices",
                why: format!("{} are offered, and {named} are named", self.gpus),
            });
        }
        if let Some(users) = &self.allowed_users
            && !users.contains(&self.default_user)
        {
            return Err(ConfigError::Relation {
                first: "default-user",
                second: "allowed-users",
                why: format!("the default user `{}` is not among the allowed ones", self.default_user),
            });
        }
        Ok(())
    }
}

/// `; did you mean …?` for a key that is nearly right.
fn suggestion(key: &str) -> String {
    let plain = key.replace('_', "-").to_ascii_lowercase();
    let near = |setting: &&Setting| {
        setting.key == plain || setting.key.split('-').any(|word| plain.split('-').any(|part| part == word))
    };
    SETTINGS.iter().find(near).map(|setting| format!("; did you mean `{}`?", setting.key)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn load(
        file: &str,
        variables: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, file).unwrap();
        Loaded::load(
            Some(&path),
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            flags.iter().map(|(key, value)| (*key, (*value).to_owned())),
        )
    }

    fn refused(variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> String {
        format!("{}\n", load("", variables, flags).unwrap_err())
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let loaded = load(
            "cpus = '1'\nmem = '1GiB'\npids-limit = 7\nallow-root-tasks = true",
            &[("MUSTER_AGENT_CPUS", "2"), ("MUSTER_AGENT_MEM", "2GiB"), ("HOME", "/")],
            &[("cpus", "3.25")],
        )
        .unwrap();
        assert_eq!(loaded.config.cpus_milli, Some(3250));
        assert_eq!(loaded.config.mem_mib, Some(2048));
        assert_eq!(loaded.config.pids_limit, 7);
        assert!(loaded.config.allow_root_tasks);
        assert_eq!(loaded.sources["cpus"], Source::Flag);
    }

    #[test]
    fn every_default_can_be_read_back() {
        let loaded = Loaded::load(None, [], []).unwrap();
        assert_eq!(loaded.config, Config::default());
        let flags = SETTINGS.iter().map(|setting| (setting.key, setting.default_text()));
        let again = Loaded::load(None, [], flags.filter(|(_, text)| !text.is_empty())).unwrap();
        assert_eq!(again.config, Config::default());
    }

    #[test]
    fn what_is_printed_can_be_read_as_a_file() {
        let loaded = load(
            "attributes = ['rack=a', 'zone=b']\nallowed-users = ['nobody', 'alice']",
            &[],
            &[("ports", "1-2,80"), ("cpus", "0.5")],
        )
        .unwrap();
        let again = load(&loaded.to_text(), &[], &[]).unwrap();
        assert_eq!(again.config, loaded.config);
        assert!(loaded.to_text().contains("# flag"), "{}", loaded.to_text());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_name_and_its_place() {
        let mut shown = String::new();
        shown += &refused(&[("MUSTER_AGENT_LISTN", "1")], &[]);
        shown += &refused(&[("MUSTER_AGENT_DATA", "1")], &[]);
        for (key, text) in [
            ("listen", "localhost"),
            ("listen", "0.0.0.0:5051"),
            ("coordinator", "127.0.0.1:5050"),
            ("coordinator", "https://x"),
            ("coordinator", "http://10.0.0.1:5050"),
            ("coordinator", "https://10.0.0.1:5050,http://127.0.0.1:5050"),
            ("join-token-file", "/t"),
            ("cpus", "-1"),
            ("cpus", "0"),
            ("cpus", "0.0001"),
            ("mem", "64"),
            ("mem", "99999999TiB"),
            ("ports", "5-4"),
            ("ports", "1-5,5-6"),
            ("attributes", "rack"),
            ("attributes", "a b=c"),
            ("default-user", "root"),
            ("allowed-users", "alice"),
            ("hidden-paths", "etc"),
            ("allow-capabilities", "net_raw,everything"),
            ("allow-mounts", "srv:rw"),
            ("cgroup-parent", "../x"),
            ("pids-limit", "0"),
            ("unhealthy-kills-per-minute", "few"),
            ("output-limit", "1KiB"),
            ("end-tasks-on-exit", "yes"),
        ] {
            shown += &refused(&[], &[(key, text)]);
        }
        expect![[r#"
            there is no setting `listn` (from environment MUSTER_AGENT_LISTN)
            there is no setting `data` (from environment MUSTER_AGENT_DATA); did you mean `data-dir`?
            setting `listen` (from flag) is not valid: `localhost` is no address with a port, such as 127.0.0.1:5051
            `listen` is 0.0.0.0:5051, which is beyond this machine, and nothing is served there without mTLS
            setting `coordinator` (from flag) is not valid: `127.0.0.1:5050` is no URL such as http://127.0.0.1:5050 or https://10.0.0.1:5050
            setting `coordinator` (from flag) is not valid: `https://x` is no URL such as http://127.0.0.1:5050 or https://10.0.0.1:5050
            setting `coordinator` (from flag) is not valid: `http://10.0.0.1:5050` is beyond this machine, where nothing is said in plain text; write https://
            settings `coordinator` and `coordinator` don't fit together: either all coordinators of a cluster speak TLS, or none
            settings `join-token-file` and `coordinator` don't fit together: a join token is for coordinators that speak TLS, whose addresses begin with https://
            setting `cpus` (from flag) is not valid: `-1` is no number of cores; write it like `4` or `0.5`
            setting `cpus` (from flag) is not valid: `0` is no number of cores; write it like `4` or `0.5`
            setting `cpus` (from flag) is not valid: `0.0001` is no number of cores; write it like `4` or `0.5`
            setting `mem` (from flag) is not valid: `64` is no amount; write it like `64MiB` or `4GiB`
            setting `mem` (from flag) is not valid: `99999999TiB` is no amount; write it like `64MiB` or `4GiB`
            setting `ports` (from flag) is not valid: port range 5-4 is not valid: ports are 1 to 65535, and the first comes first
            setting `ports` (from flag) is not valid: port ranges overlap at 5
            setting `attributes` (from flag) is not valid: `rack` is no NAME=VALUE
            setting `attributes` (from flag) is not valid: `a b=c` has a name that isn't 1 to 64 of [A-Za-z0-9._-]
            settings `default-user` and `allow-root-tasks` don't fit together: tasks would run as root, which is not allowed
            settings `default-user` and `allowed-users` don't fit together: the default user `nobody` is not among the allowed ones
            setting `hidden-paths` (from flag) is not valid: `etc` is no absolute path
            setting `allow-capabilities` (from flag) is not valid: Linux knows no capability `everything`
            setting `allow-mounts` (from flag) is not valid: `srv` is no absolute path
            setting `cgroup-parent` (from flag) is not valid: `../x` is no relative path of plain names, such as `muster`
            setting `pids-limit` (from flag) is not valid: `0` is no whole number from 1 to 4194304
            setting `unhealthy-kills-per-minute` (from flag) is not valid: `few` is no whole number from 0 to 100000
            setting `output-limit` (from flag) is not valid: `1KiB` is below 64KiB
            setting `end-tasks-on-exit` (from flag) is not valid: `yes` is neither `true` nor `false`
        "#]].assert_eq(&shown);
    }
}
