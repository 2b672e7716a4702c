//! One host for one test: its own parent group and directory, and nothing left at the end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, dead_code)]

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::sys::{
    CgroupName, Ending, Extras, Held, Identity, Kernel, KernelConfig, LaunchGroup, LaunchMember,
    LaunchRequest, Limits, MemberLimits, Namespaces, Process, ReleaseError, Sys,
};
use model::{Exit, StopSignal};

/// Ends a test that hangs. An emulated machine beside other work may take minutes for what is done in seconds here.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The user that tasks run as.
pub const UID: u32 = 65534;

pub const LIMITS: Limits = Limits::new(1000, 1000, 64 << 20, 64);

/// A kernel of one's own, with a residue check when it goes.
pub struct Host {
    pub kernel: Kernel,
    pub parent: PathBuf,
    pub directory: PathBuf,
    mounts_before: String,
    is_forgotten: bool,
}

/// Where these tests can't run, they say so; nobody should take silence for success.
pub fn host(test: &str) -> Option<Host> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: {test} needs root for control groups and namespaces");
        return None;
    }
    Some(Host::new(test))
}

impl Host {
    fn new(test: &str) -> Self {
        let unique = format!("muster-test-{}-{test}", std::process::id());
        let directory = Path::new("/var/tmp").join(&unique);
        fs::create_dir_all(&directory).unwrap();
        Self::at(&unique, directory)
    }

    /// As an agent that comes back: the same parent group and directory.
    pub fn at(parent: &str, directory: PathBuf) -> Self {
        let mounts_before = mounts(&directory);
        let config = KernelConfig {
            cgroup_parent: parent.into(),
            own_cgroup2: directory.join("cgroup2"),
            output_dir: directory.clone(),
        };
        let kernel = Kernel::open(&config).unwrap();
        Self { kernel, parent: parent.into(), directory, mounts_before, is_forgotten: false }
    }

    /// Goes without a check, where another `Host` has the same parent group.
    pub fn forget(mut self) {
        self.is_forgotten = true;
    }

    /// A request for a shell script, with a group and a sandbox of its own.
    pub fn script(&self, name: &str, script: &str) -> LaunchRequest {
        self.request(name, &["sh", "-c", script], &LIMITS)
    }

    pub fn request(&self, name: &str, argv: &[&str], limits: &Limits) -> LaunchRequest {
        let cgroup = CgroupName::new(name).unwrap();
        self.kernel.create_cgroup(&cgroup, limits).unwrap();
        let state = self.directory.join(format!("{name}.state"));
        let sandbox = self.directory.join("sandboxes").join(name);
        for path in [&state, &sandbox.join("tmp")] {
            fs::create_dir_all(path).unwrap();
        }
        chown(&sandbox, Some(UID), Some(UID)).unwrap();
        fs::set_permissions(sandbox.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        LaunchRequest {
            stdin: None,
            cgroup,
            argv: argv.iter().map(OsString::from).collect(),
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
            identity: nobody(),
            cwd: sandbox.clone(),
            tmp: Some(sandbox.join("tmp")),
            sandbox,
            stdout: state.join("stdout"),
            stderr: state.join("stderr"),
            exit_file: state.join("exit"),
            namespaces: Namespaces { pid: true, ipc: true, network: false },
            hidden: vec![self.directory.clone()],
            extras: Extras::default(),
            group: None,
        }
    }

    /// A request for a group of scripts by name; a name that ends in `?` is of one that isn't essential.
    pub fn group(&self, name: &str, limits: &Limits, scripts: &[(&str, &str)]) -> LaunchRequest {
        let bare = |name: &str| name.trim_end_matches('?').to_owned();
        let mut limits = limits.clone();
        for (process, _) in scripts {
            if !limits.members.iter().any(|member| member.name == bare(process)) {
                let name = bare(process);
                limits.members.push(MemberLimits { name, cpu_quota_milli: None, memory_bytes: None });
            }
        }
        let request = self.request(name, &[], &limits);
        let state = request.exit_file.parent().unwrap().to_owned();
        let member = |(process, script): &(&str, &str)| LaunchMember {
            name: bare(process),
            argv: ["sh", "-c", script].map(OsString::from).to_vec(),
            env: [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("NAME", &bare(process))]
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
            stdout: state.join(format!("stdout.{}", bare(process))),
            stderr: state.join(format!("stderr.{}", bare(process))),
            is_essential: !process.ends_with('?'),
        };
        let group = LaunchGroup {
            members: scripts.iter().map(member).collect(),
            kill_signal: StopSignal::Term,
            kill_grace: PATIENCE,
        };
        LaunchRequest { group: Some(group), ..request }
    }

    pub fn spawn(&self, request: &LaunchRequest) -> Held {
        self.kernel.spawn(request).unwrap()
    }

    pub fn start(&self, request: &LaunchRequest) -> Process {
        let (process, released) = self.spawn(request).release();
        released.unwrap();
        process
    }

    pub fn start_fails(&self, request: &LaunchRequest) -> ReleaseError {
        self.spawn(request).release().1.unwrap_err()
    }

    pub fn wait(&self, process: &Process, request: &LaunchRequest) -> Ending {
        wait_readable(process);
        self.kernel.ending(process, &request.exit_file).unwrap()
    }

    /// Runs it to its end, and removes its group.
    pub fn run(&self, request: &LaunchRequest) -> (Exit, String, String) {
        let process = self.start(request);
        let ending = self.wait(&process, request);
        let Ending::Ended(exit) = ending else { panic!("{ending:?}; {}", stderr(request)) };
        self.remove(request);
        (exit, stdout(request), stderr(request))
    }

    /// What the agent does at the end of every task.
    pub fn remove(&self, request: &LaunchRequest) {
        let watch = self.kernel.watch_cgroup(&request.cgroup).unwrap();
        self.kernel.kill_cgroup(&request.cgroup).unwrap();
        while !self.kernel.is_cgroup_empty(&request.cgroup).unwrap() {
            assert!(watch.wait(PATIENCE).unwrap(), "the group never became empty");
            watch.drain();
        }
        self.kernel.remove_cgroup(&request.cgroup).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.is_forgotten {
            return;
        }
        let mut residue = Vec::new();
        for name in self.kernel.list_cgroups().unwrap_or_default() {
            residue.push(format!("cgroup {name}"));
            let _ = self.kernel.kill_cgroup(&name);
            let empty = || self.kernel.is_cgroup_empty(&name).unwrap_or(true);
            let _ = poll(Duration::from_secs(5), empty);
            let _ = self.kernel.remove_cgroup(&name);
        }
        if let Err(error) = self.kernel.close() {
            residue.push(format!("parent: {error}"));
        }
        residue.extend(processes_that_name(&self.directory).into_iter().map(|pid| format!("process {pid}")));
        if mounts(&self.directory) != self.mounts_before {
            residue.push("mounts changed".to_owned());
        }
        let _ = fs::remove_dir_all(&self.directory);
        if !std::thread::panicking() {
            assert!(residue.is_empty(), "residue: {residue:?}");
        }
    }
}

/// For scripts that make system calls which no shell makes.
pub fn has_perl() -> bool {
    let is_there = Path::new("/usr/bin/perl").exists();
    if !is_there {
        println!("skipped in part: no perl here");
    }
    is_there
}

pub fn nobody() -> Identity {
    Identity { uid: UID, gid: UID, groups: vec![UID], home: None, name: Some("nobody".to_owned()) }
}

pub fn stdout(request: &LaunchRequest) -> String {
    fs::read_to_string(&request.stdout).unwrap_or_default()
}

pub fn stderr(request: &LaunchRequest) -> String {
    fs::read_to_string(&request.stderr).unwrap_or_default()
}

pub fn wait_readable(process: &Process) {
    let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(process.as_fd(), rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1, "the process did not end");
}

/// Waits for a condition that no descriptor announces.
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(poll(PATIENCE, condition), "never came true: {what}");
}

fn poll(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// What is mounted under a test's directory, and masks that ought to be in tasks' namespaces only.
fn mounts(directory: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let directory = directory.to_str().unwrap();
    table.lines().filter(|line| line.contains(directory) || line.contains("muster-hidden")).collect()
}

/// Processes whose root, directory or command line names the test's directory.
fn processes_that_name(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if cwd.starts_with(directory) {
            found.push(name);
        }
    }
    found
}
