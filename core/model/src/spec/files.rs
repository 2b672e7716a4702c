//! What a task finds on its disk: devices, host paths, secrets, fetched files.

use std::collections::BTreeSet;
use std::fmt;

use super::{SpecError, check_count, check_name, check_nul, check_range, check_size, shown};
use crate::limits as bounds;

/// A device of the host that a task may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute, below /dev.
    pub path: String,
    pub is_writable: bool,
}

/// A file or directory of the host that a task sees. The operator of the agent must allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute.
    pub host_path: String,
    /// Where the task sees it: absolute, or relative to its sandbox.
    pub path: String,
    pub is_writable: bool,
}

/// A file that never touches a disk: it appears in the directory that `MUSTER_SECRETS` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// A file name.
    pub name: String,
    pub value: SecretValue,
}

/// Bytes that no message, log or screen shows.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(pub Vec<u8>);

impl fmt::Debug for SecretValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "({} bytes)", self.0.len())
    }
}

/// A file that the agent brings into the sandbox before the command begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// `http:`, `https:` or `file:`.
    pub url: String,
    /// Relative to the sandbox; a directory when it is unpacked. Absent: the last part of the URL, or the
    /// sandbox itself when it is unpacked.
    pub path: Option<String>,
    /// What it must hash to. With it, the agent may serve it from its cache.
    pub sha256: Option<Sha256>,
    /// It is an archive, to be unpacked: tar, tar.gz, tar.bz2, tar.xz, tar.zst or zip.
    pub is_unpacked: bool,
    pub is_executable: bool,
}

/// A digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl Sha256 {
    /// Of 64 hexadecimal digits.
    pub fn of_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() {
            return None;
        }
        for (place, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *place = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        // `from_str_radix` takes a sign.
        text.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(Self(digest))
    }
}

pub(super) fn check_devices(devices: &[Device]) -> Result<(), SpecError> {
    check_count("devices", devices.len(), bounds::DEVICES_MAX)?;
    for Device { path, is_writable: _ } in devices {
        check_absolute("the device", path)?;
        if !path.starts_with("/dev/") {
            let rule = "is not below /dev";
            return Err(SpecError::Breaks { what: "the device", found: shown(path), rule });
        }
    }
    distinct("devices", devices.iter().map(|device| device.path.as_str()))
}

pub(super) fn check_mounts(mounts: &[Mount]) -> Result<(), SpecError> {
    check_count("mounts", mounts.len(), bounds::MOUNTS_MAX)?;
    for Mount { host_path, path, is_writable: _ } in mounts {
        check_absolute("the host path", host_path)?;
        match path.starts_with('/') {
            true => check_absolute("the mount's path", path)?,
            false => check_relative("the mount's path", path)?,
        }
    }
    distinct("mounts", mounts.iter().map(|mount| mount.path.as_str()))
}

pub(super) fn check_secrets(secrets: &[Secret]) -> Result<(), SpecError> {
    check_count("secrets", secrets.len(), bounds::SECRETS_MAX)?;
    let mut size = 0;
    for Secret { name, value } in secrets {
        check_name("a secret", name)?;
        size += value.0.len();
    }
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    check_range("the size of all secrets (in bytes)", size, 0, bounds::SECRET_BYTES_MAX)?;
    distinct("secrets", secrets.iter().map(|secret| secret.name.as_str()))
}

pub(super) fn check_fetches(fetches: &[Fetch]) -> Result<(), SpecError> {
    check_count("fetches", fetches.len(), bounds::FETCHES_MAX)?;
    for Fetch { url, path, sha256: _, is_unpacked, is_executable } in fetches {
        check_size("a URL", url.len(), bounds::PATH_BYTES_MAX)?;
        let broken = |rule| SpecError::Breaks { what: "the URL", found: shown(url), rule };
        let known = ["http://", "https://", "file:///"];
        if !known.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(broken("begins with none of http://, https:// and file:///"));
        }
        if url.chars().any(|c| c.is_control() || c == ' ') {
            return Err(broken("holds a blank or a control character"));
        }
        match path {
            Some(path) => check_relative("the fetched file's path", path)?,
            None if *is_unpacked || !last_part(url).is_empty() => {}
            None => return Err(broken("names no file; say where it is to be put")),
        }
        if *is_unpacked && *is_executable {
            return Err(broken("can't be both unpacked and executable"));
        }
    }
    Ok(())
}

impl Fetch {
    /// Where it goes, relative to the sandbox; empty: the sandbox itself.
    pub fn target(&self) -> &str {
        match (&self.path, self.is_unpacked) {
            (Some(path), _) => path,
            (None, true) => "",
            (None, false) => last_part(&self.url),
        }
    }
}

/// The name of the file in a URL, without query and fragment.
fn last_part(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let after_scheme = path.split_once("://").map_or(path, |(_, rest)| rest);
    match after_scheme.rsplit_once('/') {
        Some((_, ".." | ".")) | None => "",
        Some((_, name)) => name,
    }
}

fn check_absolute(what: &'static str, path: &str) -> Result<(), SpecError> {
    check_path(what, path)?;
    if !path.starts_with('/') {
        return Err(SpecError::Breaks { what, found: shown(path), rule: "is not absolute" });
    }
    Ok(())
}

fn check_relative(what: &'static str, path: &str) -> Result<(), SpecError> {
    check_path(what, path)?;
    if path.is_empty() || path.starts_with('/') {
        return Err(SpecError::Breaks { what, found: shown(path), rule: "is not relative to the sandbox" });
    }
    Ok(())
}

fn check_path(what: &'static str, path: &str) -> Result<(), SpecError> {
    check_size(what, path.len(), bounds::PATH_BYTES_MAX)?;
    check_nul(what, path)?;
    if path.split('/').any(|part| part == "..") {
        return Err(SpecError::Breaks { what, found: shown(path), rule: "leads upwards (`..`)" });
    }
    Ok(())
}

pub(super) fn distinct<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), SpecError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(SpecError::Twice { what, name: shown(name) });
        }
    }
    Ok(())
}
