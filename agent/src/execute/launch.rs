//! From a spec to what `sys` needs: limits, sandbox, environment.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use model::{ProcessSpec, TaskSpec};

use crate::{
    fetch,
    sys::{
        DeviceRule, Extras, Identity, LaunchGroup, LaunchMember, LaunchRequest, Limits, MemberLimits,
        Namespaces, PathMount, Secrets, capability, seccomp::Seccomp,
    },
};

use super::{
    ExecuteError, Executor, Settings, chain,
    directories::SECRETS,
    gpus::{self, GpuError},
    name, offered,
};

/// Where programs are looked for unless the spec says otherwise.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ports that are named one by one in the environment; with more, the ranges alone are.
const PORTS_NAMED_MAX: u64 = 64;

/// OOM scores of tasks that may use more memory than they asked for: above those of all others, and below
/// what nothing else could be above.
const BURST_SCORES: std::ops::RangeInclusive<u64> = 201..=990;

/// How likely the task is to be ended when the host runs out of memory; `None`: as likely as most.
///
/// The kernel adds the task's share of the memory (`oom_badness` in mm/oom_kill.c), so of those that may use
/// more than they asked for, the one that is furthest above goes first.
fn oom_score_adjust(spec: &TaskSpec, settings: &Settings) -> Option<u16> {
    if spec.oom_score_adjust.is_some() || spec.mem_limit() <= spec.resources.mem_mib {
        return spec.oom_score_adjust;
    }
    let share = spec.resources.mem_mib.saturating_mul(1000) / settings.memory_mib.max(1);
    let score = 1000_u64.saturating_sub(share).clamp(*BURST_SCORES.start(), *BURST_SCORES.end());
    u16::try_from(score).ok()
}

impl Executor {
    pub(super) fn limits(&self, attempt: &str, spec: &TaskSpec) -> Result<Limits, ExecuteError> {
        let TaskSpec { resources, .. } = spec;
        let mib = |mib: u64| mib.saturating_mul(1 << 20);
        let mut limits = Limits::new(
            spec.cpu_limit(),
            resources.cpus_milli,
            mib(spec.mem_limit()),
            spec.pids_limit.unwrap_or(self.settings.pids_limit),
        );
        limits.memory_kept_bytes = (spec.mem_limit() > resources.mem_mib).then(|| mib(resources.mem_mib));
        limits.cores = spec.cpuset.clone();
        limits.io = spec.io;
        limits.devices = self.device_rules(attempt, spec)?;
        let member = |process: &ProcessSpec| MemberLimits {
            name: process.name.clone(),
            cpu_quota_milli: process.cpu_limit_milli,
            memory_bytes: process.mem_limit_mib.map(mib),
        };
        limits.members = spec.processes.iter().map(member).collect();
        if !resources.scalars.is_empty() {
            let pages = offered::huge_pages(spec, &self.sys.abilities());
            limits.huge_pages = pages.map_err(|why| ExecuteError::Refused { why })?;
        }
        Ok(limits)
    }

    pub(super) fn make_sandbox(&self, attempt: &str, spec: &TaskSpec) -> Result<(), ExecuteError> {
        if let Some(why) = offered::refusal(spec, &self.settings.rights, || self.sys.abilities()) {
            return Err(ExecuteError::Refused { why });
        }
        // Said before anything is made.
        self.seccomp(spec)?;
        let identity = self.identity(spec)?;
        let directories = &self.directories;
        // Passed through by the task's user, listed by root alone.
        make(&directories.attempt(attempt), 0o711, None)?;
        make(&directories.sandbox(attempt), 0o755, Some(&identity))?;
        self.take_gpus(attempt, spec)?;
        make(&directories.tmp(attempt), 0o1777, None)
    }

    /// All files that the spec wants.
    pub(super) fn fetch_job(&self, attempt: &str, spec: &TaskSpec) -> Result<fetch::Job, ExecuteError> {
        let disk_mib = spec.resources.disk_mib;
        Ok(fetch::Job {
            cgroup: name(attempt)?,
            identity: self.identity(spec)?,
            files: spec.fetches.clone(),
            sandbox: self.directories.sandbox(attempt),
            directory: self.directories.attempt(attempt),
            disk_bytes: (disk_mib > 0).then(|| disk_mib.saturating_mul(1 << 20)),
        })
    }

    pub(crate) fn identity(&self, spec: &TaskSpec) -> Result<Identity, ExecuteError> {
        let user = spec.user.as_deref().unwrap_or(&self.settings.default_user);
        let policy = &self.settings.users;
        self.sys.resolve_user(user, &spec.groups, policy).map_err(ExecuteError::User)
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
        let mut env = environment(spec, &identity, &sandbox);
        if spec.resources.gpus > 0 {
            let gpus = self.gpus_of(attempt)?;
            if !gpus.is_empty() {
                env.push(("MUSTER_GPUS".into(), gpus::show(&gpus, ",").into()));
            }
        }
        let group = (!spec.processes.is_empty()).then(|| self.launch_group(attempt, spec, &env));
        Ok(LaunchRequest {
            cgroup: name(attempt)?,
            argv: spec.command.iter().map(OsString::from).collect(),
            env,
            identity,
            cwd,
            sandbox,
            tmp: Some(self.directories.tmp(attempt)),
            stdin: spec.has_input.then(|| self.directories.stdin(attempt)),
            stdout: self.directories.stdout(attempt),
            stderr: self.directories.stderr(attempt),
            exit_file: self.directories.exit_file(attempt),
            namespaces: Namespaces {
                pid: !spec.shared_namespaces.pid,
                ipc: !spec.shared_namespaces.ipc,
                network: spec.has_private_network,
            },
            hidden: self.settings.hidden.clone(),
            extras: self.extras(attempt, spec)?,
            group,
        })
    }
}

impl Executor {
    /// `env`: what every process of the group has.
    fn launch_group(&self, attempt: &str, spec: &TaskSpec, env: &[(OsString, OsString)]) -> LaunchGroup {
        let member = |process: &ProcessSpec| {
            let own: BTreeMap<OsString, OsString> =
                process.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
            let mut env: BTreeMap<OsString, OsString> = env.iter().cloned().collect();
            env.insert("MUSTER_PROCESS".into(), (&process.name).into());
            env.extend(own);
            LaunchMember {
                name: process.name.clone(),
                argv: process.command.iter().map(OsString::from).collect(),
                env: env.into_iter().collect(),
                stdout: self.directories.stdout_of(attempt, &process.name),
                stderr: self.directories.stderr_of(attempt, &process.name),
                is_essential: process.is_essential,
            }
        };
        LaunchGroup {
            members: spec.processes.iter().map(member).collect(),
            kill_signal: spec.kill_signal,
            kill_grace: spec.kill_grace,
        }
    }

    fn extras(&self, attempt: &str, spec: &TaskSpec) -> Result<Extras, ExecuteError> {
        let sandbox = self.directories.sandbox(attempt);
        let directory = self.directories.secrets(attempt);
        let secrets = Secrets { directory, files: spec.secrets.clone() };
        let names = spec.capabilities.iter();
        let capabilities = names.filter_map(|name| capability::of_name(name)).collect();
        Ok(Extras {
            rlimits: spec.rlimits.clone(),
            oom_score_adjust: oom_score_adjust(spec, &self.settings),
            capabilities,
            seccomp: self.seccomp(spec)?,
            mounts: spec.mounts.iter().filter_map(|mount| self.path_mount(mount, &sandbox)).collect(),
            secrets: (!spec.secrets.is_empty()).then_some(secrets),
        })
    }

    pub(super) fn take_gpus(&self, attempt: &str, spec: &TaskSpec) -> Result<(), ExecuteError> {
        let all = &self.settings.rights.gpus;
        let wanted = spec.resources.gpus as usize;
        if wanted == 0 || all.is_empty() {
            return Ok(());
        }
        let taken = self.gpus.take(attempt, wanted, all, &self.directories, self.sys.as_ref());
        taken.map_err(ExecuteError::Gpus)
    }

    fn gpus_of(&self, attempt: &str) -> Result<Vec<PathBuf>, ExecuteError> {
        let found = self.gpus.of(attempt, &self.directories, self.sys.as_ref());
        found.map_err(|error| ExecuteError::Gpus(GpuError::Read(error)))
    }

    /// Devices that the spec asks for, and those of its GPUs.
    fn device_rules(&self, attempt: &str, spec: &TaskSpec) -> Result<Vec<DeviceRule>, ExecuteError> {
        let mut rules = Vec::new();
        let mut add = |path: &Path, is_writable| match DeviceRule::of_path(path, is_writable) {
            Ok(rule) => {
                rules.push(rule);
                Ok(())
            }
            Err(error) => {
                let why = format!("the task can't have the device {}: {error}", path.display());
                Err(ExecuteError::Refused { why })
            }
        };
        for device in &spec.devices {
            add(Path::new(&device.path), device.is_writable)?;
        }
        if spec.resources.gpus > 0 {
            let gpus = self.gpus_of(attempt)?;
            let common = self.settings.rights.gpu_common.iter().filter(|_| !gpus.is_empty());
            gpus.iter().chain(common).try_for_each(|path| add(path, true))?;
        }
        Ok(rules)
    }

    /// `None` for what the operator hasn't allowed, which was refused before.
    fn path_mount(&self, mount: &model::Mount, sandbox: &Path) -> Option<PathMount> {
        let allowed = self.settings.rights.mount(mount)?;
        Some(PathMount {
            allowed: allowed.path.clone(),
            host_path: mount.host_path.clone().into(),
            // `join` takes an absolute path as it is.
            target: sandbox.join(&mount.path),
            is_writable: mount.is_writable,
        })
    }

    /// The spec's profile of system calls, or the agent's.
    fn seccomp(&self, spec: &TaskSpec) -> Result<Seccomp, ExecuteError> {
        let name = spec.seccomp.as_ref().or(self.settings.rights.default_seccomp.as_ref());
        match name.map(String::as_str) {
            None | Some("default") => Ok(Seccomp::Default),
            Some("unconfined") => Ok(Seccomp::Unconfined),
            Some(name) => match self.profiles.get(name) {
                Ok(program) => Ok(Seccomp::Custom(program)),
                Err(error) => Err(ExecuteError::Refused { why: chain(&error) }),
            },
        }
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
    if !spec.secrets.is_empty()
        && let Some(beside) = sandbox.parent()
    {
        variables.insert(text("MUSTER_SECRETS"), beside.join(SECRETS).into());
    }
    variables.extend(spec.env.iter().map(|(name, value)| (text(name), text(value))));
    variables.into_iter().collect()
}
