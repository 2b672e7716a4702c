//! How single values are written: amounts, cores, ports, paths. Each is checked alone.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use crate::execute::AllowedPath;

use model::{PortRange, PortRanges, limits};

/// An amount of memory or disk, as people write it: `64MiB`, `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const UNITS: &[(&str, u32)] = &[("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no amount; write it like `64MiB` or `4GiB`");
        let (digits, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| text.strip_suffix(unit).map(|digits| (digits.trim_end(), *shift)))
            .ok_or_else(refuse)?;
        let amount = digits.parse::<u64>().ok().and_then(|amount| amount.checked_mul(1 << shift));
        amount.map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS.iter().find(|(_, shift)| self.0 > 0 && self.0.is_multiple_of(1 << shift));
        match fitting {
            Some((unit, shift)) => write!(formatter, "{}{unit}", self.0 >> shift),
            None => write!(formatter, "{}KiB", self.0 >> 10),
        }
    }
}

/// Shows thousandths as a decimal.
pub(super) struct Thousandths(pub u64);

impl fmt::Display for Thousandths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        formatter.write_str(digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

pub(super) fn cpus(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is no number of cores; write it like `4` or `0.5`");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse());
    }
    let whole = whole.parse::<u64>().map_err(|_| refuse())?;
    let part = format!("{part:0<3}").parse::<u64>().map_err(|_| refuse())?;
    let milli = whole.checked_mul(1000).and_then(|milli| milli.checked_add(part)).ok_or_else(refuse)?;
    if milli == 0 || milli > limits::CPUS_MILLI_MAX {
        return Err(refuse());
    }
    Ok(milli)
}

pub(super) fn mib(text: &str) -> Result<u64, String> {
    let Bytes(bytes) = text.parse()?;
    let mib = bytes >> 20;
    if mib == 0 || mib > limits::MIB_MAX {
        return Err(format!("`{text}` is less than 1MiB or more than any host has"));
    }
    Ok(mib)
}

pub(super) fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(format!("`{text}` is no whole number from {min} to {max}")),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`{text}` is neither `true` nor `false`")),
    }
}

pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

pub(super) fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
        return Err(format!("`{}` is no name", text.escape_debug()));
    }
    Ok(text.to_owned())
}

/// `PATH`, `PATH:ro` or `PATH:rw`.
pub(super) fn allowed_path(text: &str, is_writable_unless_said: bool) -> Result<AllowedPath, String> {
    let (text, is_writable) = match (text.strip_suffix(":rw"), text.strip_suffix(":ro")) {
        (Some(path), _) => (path, true),
        (None, Some(path)) => (path, false),
        (None, None) => (text, is_writable_unless_said),
    };
    Ok(AllowedPath { path: absolute_path(text)?, is_writable })
}

pub(super) fn show_allowed(paths: &[AllowedPath]) -> String {
    let word = |is_writable| if is_writable { "rw" } else { "ro" };
    let shown: Vec<_> = paths
        .iter()
        .map(|allowed| format!("{}:{}", allowed.path.display(), word(allowed.is_writable)))
        .collect();
    shown.join(",")
}

pub(super) fn show_paths(paths: &[PathBuf]) -> String {
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(",")
}

pub(super) fn capability(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let name = name.strip_prefix("cap_").map(str::to_owned).unwrap_or(name);
    match crate::sys::capability::of_name(&name) {
        Some(_) => Ok(name),
        None => Err(format!("Linux knows no capability `{}`", text.escape_debug())),
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("a path can't be empty or hold a NUL".to_owned());
    }
    // Tasks get paths below the data directory, and see the world from elsewhere.
    std::path::absolute(text).map_err(|error| error.to_string())
}

pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') {
        true => path(text),
        false => Err(format!("`{text}` is no absolute path")),
    }
}

pub(super) fn cgroup_path(text: &str) -> Result<PathBuf, String> {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    if !text.split('/').all(is_part) {
        return Err(format!(
            "`{}` is no relative path of plain names, such as `muster`",
            text.escape_debug()
        ));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address with a port, such as 127.0.0.1:5051"))
}

fn url(text: &str) -> Result<String, String> {
    let refuse = || format!("`{text}` is no URL such as http://127.0.0.1:5050 or https://10.0.0.1:5050");
    let uri: axum::http::Uri = text.parse().map_err(|_| refuse())?;
    let host = match (uri.scheme_str(), uri.host(), uri.path()) {
        (Some("http" | "https"), Some(host), "/") if uri.query().is_none() => host,
        _ => return Err(refuse()),
    };
    let is_secured = uri.scheme_str() == Some("https");
    // The port that TLS has elsewhere is not where coordinators listen.
    if is_secured && uri.port().is_none() {
        return Err(refuse());
    }
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_secured && !is_here {
        return Err(format!(
            "`{text}` is beyond this machine, where nothing is said in plain text; write https://"
        ));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// One or more, with commas between them.
pub(super) fn urls(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|part| url(part.trim())).collect()
}

pub(super) fn hostname(text: &str) -> Result<String, String> {
    if text.is_empty()
        || text.len() > 253
        || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
    {
        return Err(format!("`{}` is no host name", text.escape_debug()));
    }
    Ok(text.to_owned())
}

pub(super) fn ports(text: &str) -> Result<PortRanges, String> {
    let mut ranges = Vec::new();
    for part in list(text) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let refuse = || format!("`{part}` is no port and no range such as 31000-32000");
        let (first, last) = (first.parse().map_err(|_| refuse())?, last.parse().map_err(|_| refuse())?);
        ranges.push(PortRange::new(first, last).map_err(|error| error.to_string())?);
    }
    PortRanges::new(ranges).map_err(|error| error.to_string())
}

pub(super) fn attributes(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut attributes = BTreeMap::new();
    for part in list(text) {
        let refuse = |why: &str| Err(format!("`{}` {why}", part.escape_debug()));
        let Some((name, value)) = part.split_once('=') else {
            return refuse("is no NAME=VALUE");
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            return refuse("has a name that isn't 1 to 64 of [A-Za-z0-9._-]");
        }
        if value.len() > limits::VALUE_BYTES_MAX {
            return refuse("has a value of more than 256 bytes");
        }
        if attributes.insert(name.to_owned(), value.to_owned()).is_some() {
            return refuse("is the second of its name");
        }
    }
    if attributes.len() > limits::ATTRIBUTES_MAX {
        return Err(format!("more than {} attributes", limits::ATTRIBUTES_MAX));
    }
    Ok(attributes)
}
