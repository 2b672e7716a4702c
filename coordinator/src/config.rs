//! What an operator may set: file, then environment, then flags; the last one counts.
//!
//! Everything becomes a type that can't be wrong, once, here; relations between settings are
//! checked in [`Config::check`]. Reads the file and the environment, never the network or the disk
//! behind a setting. The table is [`SETTINGS`].

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use model::ClusterId;

/// Everything that can be set. Each default and its reason stand in [`Config::default`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    /// `None`: `api.sock` in the data directory.
    pub socket: Option<PathBuf>,
    /// `None`: `token` in the data directory.
    pub token_file: Option<PathBuf>,
    pub allowed_hosts: Vec<String>,
    pub cluster_id: Option<ClusterId>,
    pub member_id: u64,
    /// host:port of any member of the cluster to be joined.
    pub join: Option<String>,
    /// Holds what lets this member in, where the cluster speaks TLS.
    pub join_token_file: Option<PathBuf>,
    /// `None`: what it listens on.
    pub advertise: Option<SocketAddr>,
    pub certificate_life: Duration,
    /// The cluster version rises no further while this member says so; `None`: as far as its program knows.
    pub cluster_version_max: Option<u32>,
    pub offer_lease: Duration,
    pub agent_heartbeat: Duration,
    pub agent_timeout: Duration,
    /// Of a hundred agents, so many may be marked unreachable within ten minutes, and five at least.
    pub agents_unreachable_percent_max: u32,
    pub framework_heartbeat: Duration,
    pub snapshot_entries: u64,
    pub election_timeout: Duration,
    pub shutdown_timeout: Duration,
    pub log_format: LogFormat,
    pub log_filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Where the FHS puts what a daemon must keep.
            data_dir: PathBuf::from("/var/lib/muster/coordinator"),
            // 5050 is where Mesos users look; loopback, because nothing else is served without mTLS.
            listen: SocketAddr::from(([127, 0, 0, 1], 5050)),
            // Beside the data, whose directory nobody else can enter.
            socket: None,
            token_file: None,
            // Loopback names are always allowed; another name is a choice.
            allowed_hosts: Vec::new(),
            // Taken from the data directory, or made for a new one.
            cluster_id: None,
            // The first member; each further one is given its own.
            member_id: 1,
            // A pristine directory begins a cluster of its own.
            join: None,
            join_token_file: None,
            // Right wherever it listens on one address.
            advertise: None,
            // Who loses a key to somebody can act within a day, and a day without coordinators locks nobody out.
            certificate_life: Duration::from_secs(24 * 3600),
            // Rises by itself when every member runs the new program.
            cluster_version_max: None,
            // Long enough to think, short enough that a stuck framework hoards for half a minute only.
            offer_lease: Duration::from_secs(30),
            // An idle agent costs one small message in five seconds.
            agent_heartbeat: Duration::from_secs(5),
            // Six lost heartbeats: more than a garbage collection, less than a coffee.
            agent_timeout: Duration::from_secs(30),
            // More than hosts die in ten minutes, less than hang on one switch.
            agents_unreachable_percent_max: 10,
            // Below the idle limit of common proxies (60 s), three times over.
            framework_heartbeat: Duration::from_secs(15),
            // A start applies at most twice as many entries, some 60 ms.
            snapshot_entries: 10_000,
            // Four heartbeats, and forty times what members in one building need to answer each.
            election_timeout: Duration::from_millis(400),
            // systemd waits 90 s; a coordinator has nothing to do that takes longer than this.
            shutdown_timeout: Duration::from_secs(10),
            log_format: LogFormat::Human,
            // The story of the day; libraries tell their own at the same level, in the words of their code.
            log_filter: "info,openraft=warn,fjall=warn,lsm_tree=warn".to_owned(),
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

/// One line of the table: how a setting is named, explained, read and shown.
pub struct Setting {
    /// As a flag (`--offer-lease`), a key in the file (`offer-lease`), and in the environment
    /// (`MUSTER_COORDINATOR_OFFER_LEASE`).
    pub key: &'static str,
    pub value_name: &'static str,
    pub help: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
    show: fn(&Config) -> String,
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
pub const VARIABLE_PREFIX: &str = "MUSTER_COORDINATOR_";

pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "data-dir",
        value_name: "DIR",
        help: "Where the log, the token and the socket are kept",
        set: |config, text| path(text).map(|value| config.data_dir = value),
        show: |config| config.data_dir.display().to_string(),
    },
    Setting {
        key: "listen",
        value_name: "ADDRESS:PORT",
        help: "Where gRPC, REST and metrics are answered; beyond loopback only with TLS, see `init`",
        set: |config, text| address(text).map(|value| config.listen = value),
        show: |config| config.listen.to_string(),
    },
    Setting {
        key: "socket",
        value_name: "PATH",
        help: "Unix socket that answers without a token, to its owner alone [default: api.sock in the data directory]",
        set: |config, text| path(text).map(|value| config.socket = Some(value)),
        show: |config| optional(config.socket.as_ref().map(|path| path.display())),
    },
    Setting {
        key: "token-file",
        value_name: "PATH",
        help: "The credential of callers; made at the first start [default: token in the data directory]",
        set: |config, text| path(text).map(|value| config.token_file = Some(value)),
        show: |config| optional(config.token_file.as_ref().map(|path| path.display())),
    },
    Setting {
        key: "allowed-hosts",
        value_name: "NAME,NAME",
        help: "Names beside the loopback ones under which callers may reach this coordinator",
        set: |config, text| hosts(text).map(|value| config.allowed_hosts = value),
        show: |config| config.allowed_hosts.join(","),
    },
    Setting {
        key: "cluster-id",
        value_name: "ID",
        help: "Refuse a data directory of another cluster [default: what the directory says]",
        set: |config, text| {
            ClusterId::new(text)
                .map(|value| config.cluster_id = Some(value))
                .map_err(|error| error.to_string())
        },
        show: |config| optional(config.cluster_id.as_ref()),
    },
    Setting {
        key: "member-id",
        value_name: "NUMBER",
        help: "This member's seat in Raft",
        set: |config, text| number(text, 1).map(|value| config.member_id = value),
        show: |config| config.member_id.to_string(),
    },
    Setting {
        key: "join",
        value_name: "HOST:PORT",
        help: "Become a member of the cluster of this coordinator, instead of beginning one; needs a `member-id` of its own",
        set: |config, text| address(text).map(|value| config.join = Some(value.to_string())),
        show: |config| optional(config.join.as_ref()),
    },
    Setting {
        key: "join-token-file",
        value_name: "PATH",
        help: "What lets this member in, from `muster token create member`; needed once, where the cluster speaks TLS",
        set: |config, text| path(text).map(|value| config.join_token_file = Some(value)),
        show: |config| optional(config.join_token_file.as_ref().map(|path| path.display())),
    },
    Setting {
        key: "advertise",
        value_name: "ADDRESS:PORT",
        help: "Where the other members reach this one [default: what it listens on]",
        set: |config, text| address(text).map(|value| config.advertise = Some(value)),
        show: |config| optional(config.advertise),
    },
    Setting {
        key: "certificate-life",
        value_name: "DURATION",
        help: "How long certificates count that this member makes; they are renewed after two thirds of it",
        set: |config, text| match duration(text)? {
            value if value < CERTIFICATE_LIFE_MIN => Err(format!("`{text}` is shorter than 5s")),
            value if value > CERTIFICATE_LIFE_MAX => Err(format!("`{text}` is longer than 60d")),
            value => {
                config.certificate_life = value;
                Ok(())
            }
        },
        show: |config| Span(config.certificate_life).to_string(),
    },
    Setting {
        key: "cluster-version-max",
        value_name: "NUMBER",
        help: "Hold the cluster version here, so that the way back to an earlier program stays open [default: what this program knows]",
        set: |config, text| match number(text, 1)? {
            value if value > u64::from(cluster::VERSION_SUPPORTED) => Err(format!(
                "`{text}` is above {}, the newest that this program knows",
                cluster::VERSION_SUPPORTED
            )),
            value => {
                config.cluster_version_max = u32::try_from(value).ok();
                Ok(())
            }
        },
        show: |config| optional(config.cluster_version_max),
    },
    Setting {
        key: "offer-lease",
        value_name: "DURATION",
        help: "How long an offer stands",
        set: |config, text| duration(text).map(|value| config.offer_lease = value),
        show: |config| Span(config.offer_lease).to_string(),
    },
    Setting {
        key: "agent-heartbeat",
        value_name: "DURATION",
        help: "How often an agent without news says that it lives",
        set: |config, text| duration(text).map(|value| config.agent_heartbeat = value),
        show: |config| Span(config.agent_heartbeat).to_string(),
    },
    Setting {
        key: "agent-timeout",
        value_name: "DURATION",
        help: "A silent agent is unreachable after this",
        set: |config, text| duration(text).map(|value| config.agent_timeout = value),
        show: |config| Span(config.agent_timeout).to_string(),
    },
    Setting {
        key: "agents-unreachable-percent-max",
        value_name: "PERCENT",
        help: "No larger part of the agents is marked unreachable within ten minutes; 100: no limit",
        set: |config, text| percent(text).map(|value| config.agents_unreachable_percent_max = value),
        show: |config| config.agents_unreachable_percent_max.to_string(),
    },
    Setting {
        key: "framework-heartbeat",
        value_name: "DURATION",
        help: "How often a framework's event stream carries a heartbeat",
        set: |config, text| duration(text).map(|value| config.framework_heartbeat = value),
        show: |config| Span(config.framework_heartbeat).to_string(),
    },
    Setting {
        key: "snapshot-entries",
        value_name: "NUMBER",
        help: "Log entries between two snapshots",
        set: |config, text| number(text, 100).map(|value| config.snapshot_entries = value),
        show: |config| config.snapshot_entries.to_string(),
    },
    Setting {
        key: "election-timeout",
        value_name: "DURATION",
        help: "How long a leader is silent, at least, before another stands; the same on all members",
        set: |config, text| election_timeout(text).map(|value| config.election_timeout = value),
        show: |config| Span(config.election_timeout).to_string(),
    },
    Setting {
        key: "shutdown-timeout",
        value_name: "DURATION",
        help: "How long a shutdown may take before the rest is dropped",
        set: |config, text| duration(text).map(|value| config.shutdown_timeout = value),
        show: |config| Span(config.shutdown_timeout).to_string(),
    },
    Setting {
        key: "log-format",
        value_name: "FORMAT",
        help: "How log lines on stderr look: human or json",
        set: |config, text| text.parse().map(|value| config.log_format = value),
        show: |config| config.log_format.to_string(),
    },
    Setting {
        key: "log-filter",
        value_name: "FILTER",
        help: "What is logged: error, warn, info, debug, trace, or target=level,…",
        set: |config, text| {
            text.parse::<tracing_subscriber::EnvFilter>()
                .map(|_| config.log_filter = text.to_owned())
                .map_err(|error| error.to_string())
        },
        show: |config| config.log_filter.clone(),
    },
];

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
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("can't understand the configuration file {}", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("there is no setting `{key}` (from {origin}){}", suggestion(key))]
    UnknownKey { key: String, origin: Source },
    #[error("setting `{key}` (from {origin}) is not valid: {why}")]
    Value { key: &'static str, origin: Source, why: String },
    #[error("settings `{first}` and `{second}` don't fit together: {why}")]
    Relation { first: &'static str, second: &'static str, why: String },
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
            let line = if value.is_empty() {
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

/// Settings as a file may hold them, for the fuzzers: what is shown of good ones can be read, and means the same.
pub(crate) fn decode(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = |text: &str| {
        let mut loaded = Loaded { config: Config::default(), sources: BTreeMap::new() };
        loaded.take_text(Path::new("settings"), text).and_then(|()| loaded.config.check()).map(|()| loaded)
    };
    let Ok(loaded) = read(text) else { return };
    let again = read(&loaded.to_text());
    let is_same = |again: &Loaded| {
        SETTINGS.iter().all(|setting| (setting.show)(&again.config) == (setting.show)(&loaded.config))
    };
    assert!(again.is_ok_and(|again| is_same(&again)), "settings aren't what was shown");
}

impl Config {
    pub fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.data_dir.join("api.sock"))
    }

    pub fn token_path(&self) -> PathBuf {
        self.token_file.clone().unwrap_or_else(|| self.data_dir.join("token"))
    }

    /// The newest cluster version that this member lets the cluster have.
    pub fn version_supported(&self) -> u32 {
        self.cluster_version_max.unwrap_or(cluster::VERSION_SUPPORTED)
    }

    /// Relations between settings; each alone is right already.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.agent_timeout <= self.agent_heartbeat * 3 {
            let (timeout, heartbeat) = (Span(self.agent_timeout), Span(self.agent_heartbeat));
            return Err(ConfigError::Relation {
                first: "agent-timeout",
                second: "agent-heartbeat",
                why: format!(
                    "an agent that is given up after {timeout} must be able to lose three heartbeats of {heartbeat}"
                ),
            });
        }
        if self.join_token_file.is_some() && self.join.is_none() {
            return Err(ConfigError::Relation {
                first: "join-token-file",
                second: "join",
                why: "a token lets this member into the cluster of the coordinator that `join` names"
                    .to_owned(),
            });
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            return Err(ConfigError::Relation {
                first: "listen",
                second: "advertise",
                why: format!(
                    "{} is every address of this machine, and the others must know one that reaches it",
                    self.listen.ip()
                ),
            });
        }
        Ok(())
    }
}

/// A duration as people write it: `1500ms`, `30s`, `5m`, `1h`.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match UNITS.iter().rev().find(|(_, unit)| ms > 0 && ms.is_multiple_of(u128::from(*unit))) {
            Some((name, unit)) => write!(formatter, "{}{name}", ms / u128::from(*unit)),
            None => write!(formatter, "{ms}ms"),
        }
    }
}

/// Milliseconds in each unit.
const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is no duration; write it like `500ms`, `30s`, `5m` or `1h`");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(refuse)?;
    let (amount, unit) = text.split_at(digits);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
    let ms = amount.parse::<u64>().ok().and_then(|amount| amount.checked_mul(*unit)).ok_or_else(refuse)?;
    if ms == 0 || ms > DURATION_MS_MAX {
        return Err(format!("`{text}` is not between 1ms and 24h"));
    }
    Ok(Duration::from_millis(ms))
}

/// From 1 on: with 0 no host of a large cluster would ever be missed.
fn percent(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(value @ 1..=100) => Ok(value),
        _ => Err(format!("`{text}` is no whole number from 1 to 100")),
    }
}

/// Below it, members of a busy host would depose each other; above it, nobody would wait.
fn election_timeout(text: &str) -> Result<Duration, String> {
    let value = duration(text)?;
    match (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&value) {
        true => Ok(value),
        false => Err(format!("`{text}` is not between 100ms and 60s")),
    }
}

/// Shorter ones would be renewed all the time.
const CERTIFICATE_LIFE_MIN: Duration = Duration::from_secs(5);
/// What is revoked is remembered for longer than any certificate lives, with the 30 days in which it may be renewed.
const CERTIFICATE_LIFE_MAX: Duration = Duration::from_secs(60 * 24 * 3600);

/// No setting means anything beyond a day.
const DURATION_MS_MAX: u64 = 24 * 3_600_000;

fn number(text: &str, min: u64) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(value) if value >= min => Ok(value),
        _ => Err(format!("`{text}` is no whole number from {min} on")),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("a path can't be empty or hold a NUL".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address with a port, such as 127.0.0.1:5050"))
}

fn hosts(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<_> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    for name in &names {
        if !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'))
        {
            return Err(format!("`{}` is no host name", name.escape_debug()));
        }
    }
    Ok(names.iter().map(|name| name.to_ascii_lowercase()).collect())
}

fn optional(value: Option<impl fmt::Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// ` (did you mean …?)` for a key that is nearly right.
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

    fn refused(file: &str, variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> String {
        let error = load(file, variables, flags).unwrap_err();
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let text = format!("{error}{cause}\n");
        // The directory is another one each time.
        let mut shown = text;
        while let Some(start) = shown.find("/tmp/") {
            let end = shown[start..].find("c.toml").map_or(shown.len(), |end| start + end);
            shown.replace_range(start..end, "…");
        }
        shown
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let loaded = load(
            "offer-lease = '10s'\nagent-heartbeat = '1s'\nsnapshot-entries = 500",
            &[
                ("MUSTER_COORDINATOR_OFFER_LEASE", "20s"),
                ("MUSTER_COORDINATOR_AGENT_TIMEOUT", "4s"),
                ("HOME", "/"),
            ],
            &[("offer-lease", "40s")],
        )
        .unwrap();
        assert_eq!(loaded.config.offer_lease, Duration::from_secs(40));
        assert_eq!(loaded.config.agent_heartbeat, Duration::from_secs(1));
        assert_eq!(loaded.config.agent_timeout, Duration::from_secs(4));
        assert_eq!(loaded.config.snapshot_entries, 500);
        assert_eq!(loaded.sources["offer-lease"], Source::Flag);
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
        let loaded = load("allowed-hosts = ['a.example', 'b']", &[], &[("listen", "127.0.0.1:1")]).unwrap();
        let again = load(&loaded.to_text(), &[], &[]).unwrap();
        assert_eq!(again.config, loaded.config);
        assert!(loaded.to_text().contains("listen = \"127.0.0.1:1\""), "{}", loaded.to_text());
        assert!(loaded.to_text().contains("# flag"), "{}", loaded.to_text());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_name_and_its_place() {
        let mut shown = String::new();
        shown += &refused("ofer-lease = '1s'", &[], &[]);
        shown += &refused("", &[("MUSTER_COORDINATOR_LISTN", "1")], &[]);
        shown += &refused("offer-lease = 30", &[], &[]);
        shown += &refused("", &[("MUSTER_COORDINATOR_MEMBER_ID", "-1")], &[]);
        shown += &refused("", &[], &[("listen", "localhost")]);
        shown += &refused("", &[], &[("listen", "0.0.0.0:5050")]);
        shown += &refused("", &[], &[("join-token-file", "/t")]);
        shown += &refused("", &[], &[("advertise", "here")]);
        shown += &refused("", &[], &[("certificate-life", "4s")]);
        shown += &refused("", &[], &[("agent-timeout", "15s")]);
        shown += &refused("", &[], &[("election-timeout", "99ms")]);
        shown += &refused("", &[], &[("log-format", "xml")]);
        shown += &refused("", &[], &[("allowed-hosts", "a b")]);
        expect![[r#"
            there is no setting `ofer-lease` (from file …c.toml); did you mean `offer-lease`?
            there is no setting `listn` (from environment MUSTER_COORDINATOR_LISTN)
            setting `offer-lease` (from file …c.toml) is not valid: `30` is no duration; write it like `500ms`, `30s`, `5m` or `1h`
            setting `member-id` (from environment MUSTER_COORDINATOR_MEMBER_ID) is not valid: `-1` is no whole number from 1 on
            setting `listen` (from flag) is not valid: `localhost` is no address with a port, such as 127.0.0.1:5050
            settings `listen` and `advertise` don't fit together: 0.0.0.0 is every address of this machine, and the others must know one that reaches it
            settings `join-token-file` and `join` don't fit together: a token lets this member into the cluster of the coordinator that `join` names
            setting `advertise` (from flag) is not valid: `here` is no address with a port, such as 127.0.0.1:5050
            setting `certificate-life` (from flag) is not valid: `4s` is shorter than 5s
            settings `agent-timeout` and `agent-heartbeat` don't fit together: an agent that is given up after 15s must be able to lose three heartbeats of 5s
            setting `election-timeout` (from flag) is not valid: `99ms` is not between 100ms and 60s
            setting `log-format` (from flag) is not valid: `xml` is no log format; take `human` or `json`
            setting `allowed-hosts` (from flag) is not valid: `a b` is no host name
        "#]].assert_eq(&shown);
    }
}
