//! From a spec to what `sys` needs: limits, sandbox, environment.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::Path,
};

use model::TaskSpec;

use crate::sys::{Identity, LaunchRequest, Limits, Namespaces};

use super::{ExecuteError, Executor, Settings, name, offered};

/// Where programs are looked for unless the spec says otherwise.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ports that are named one by one in the environment; with more, the ranges alone are.
const PORTS_NAMED_MAX: u64 = 64;

pub(super) fn limits(spec: &TaskSpec, settings: &Settings) -> Limits {
    Limits {
        cpu_quota_milli: spec.cpu_limit(),
        cpu_weight_milli: spec.resources.cpus_milli,
        memory_bytes: spec.resources.mem_mib.saturating_mul(1 << 20),
        pids_max: spec.pids_limit.unwrap_or(settings.pids_limit),
    }
}

impl Executor {
    pub(super) fn make_sandbox(&self, attempt: &str, spec: &TaskSpec) -> Result<(), ExecuteError> {
        if let Some(why) = offered::refusal(spec) {
            return Err(ExecuteError::Refused { why });
        }
        let identity = self.identity(spec)?;
        let directories = &self.directories;
        // Passed through by the task's user, listed by root alone.
        make(&directories.attempt(attempt), 0o711, None)?;
        make(&directories.sandbox(attempt), 0o755, Some(&identity))?;
        make(&directories.tmp(attempt), 0o1777, None)
    }

    fn identity(&self, spec: &TaskSpec) -> Result<Identity, ExecuteError> {
        let user = spec.user.as_deref().unwrap_or(&self.settings.default_user);
        self.sys.resolve_user(user, &self.settings.users).map_err(ExecuteError::User)
    }

    pub(super) fn launch_request(
        &self,
        attempt: &str,
        spec: &TaskSpec,
    ) -> Result<LaunchRequest, ExecuteError> {
        let identity = self.identity(spec)?;
        let sandbox = self.directories.sandbox(attempt);
        // `join` takes an absolute path as it is.
        let cwd = spec.cwd.as_ref().map_or_else(|| sandbox.clone(), |cwd| sandbox.join(cwd));
        Ok(LaunchRequest {
            cgroup: name(attempt)?,
            argv: spec.command.iter().map(OsString::from).collect(),
            env: environment(spec, &identity, &sandbox),
            identity,
            cwd,
            sandbox,
            tmp: Some(self.directories.tmp(attempt)),
            stdout: self.directories.stdout(attempt),
            stderr: self.directories.stderr(attempt),
            exit_file: self.directories.exit_file(attempt),
            namespaces: Namespaces { pid: !spec.shared_namespaces.pid, ipc: !spec.shared_namespaces.ipc },
            hidden: self.settings.hidden.clone(),
        })
    }
}

fn make(path: &Path, mode: u32, owner: Option<&Identity>) -> Result<(), ExecuteError> {
    let made = || -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(path)?;
        // The umask took some of it away.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        match owner {
            Some(identity) => chown(path, Some(identity.uid), Some(identity.gid)),
            None => Ok(()),
        }
    };
    made().map_err(|source| ExecuteError::MakeDirectory { path: path.to_owned(), source })
}

/// The spec's own variables win over ours.
fn environment(spec: &TaskSpec, identity: &Identity, sandbox: &Path) -> Vec<(OsString, OsString)> {
    let text = |text: &str| OsString::from(text);
    let ports = &spec.resources.ports;
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::from([
        (text("PATH"), text(PATH_DEFAULT)),
        (text("MUSTER_TASK_ID"), text(spec.task_id.as_str())),
        (text("MUSTER_SANDBOX"), sandbox.into()),
    ]);
    let home = identity.home.as_ref().filter(|home| home.is_dir());
    variables.insert(text("HOME"), home.map_or_else(|| sandbox.into(), |home| home.clone().into()));
    if let Some(name) = &identity.name {
        variables.insert(text("USER"), text(name));
        variables.insert(text("LOGNAME"), text(name));
    }
    if !ports.is_empty() {
        let listed: Vec<String> = match ports.count() <= PORTS_NAMED_MAX {
            true => ports
                .ranges()
                .iter()
                .flat_map(|range| range.first()..=range.last())
                .map(|port| port.to_string())
                .collect(),
            false => vec![ports.to_string()],
        };
        variables.insert(text("MUSTER_PORTS"), text(&listed.join(",")));
    }
    variables.extend(spec.env.iter().map(|(name, value)| (text(name), text(value))));
    variables.into_iter().collect()
}
