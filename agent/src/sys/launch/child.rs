//! What a process of a task does between its birth and the command: its first, or one that joins it later.
//!
//! Runs in the agent's own memory, or in a copy of it (see `birth`): other threads' locks may be held for ever
//! here. So it makes raw system calls on what [`Plan`] prepared, writes to nothing but its stack, and never
//! allocates, locks, panics or returns.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use rustix::thread::CapabilitySet;

use super::together::Member;
use super::{LaunchStep, seccomp};
use crate::sys::raw::syscall;

/// Descriptors below this are the child's to arrange; what the plan names is at or above it.
pub const DESCRIPTOR_MIN: RawFd = 256;

/// Most v1 hierarchies that a task joins, so that their descriptors fit below `DESCRIPTOR_MIN`.
pub const HIERARCHIES_MAX: usize = 16;

// Both fit below, and what the child has at first.
const _: () = assert!(
    place::JOIN
        + HIERARCHIES_MAX
        + model::limits::MOUNTS_MAX
        + model::limits::PROCESSES_MAX * (2 + MEMBER_JOINS_MAX)
        < DESCRIPTOR_MIN as usize
);

/// Most groups that a process of a task group joins: of cpu and of memory.
pub const MEMBER_JOINS_MAX: usize = 2;

/// Where the child puts its descriptors; all but `JOIN` by agreement with `agent/init/main.rs`.
pub(super) mod place {
    pub const STATUS: usize = 3;
    pub const EXIT: usize = 4;
    pub const INIT: usize = 5;
    pub const GO: usize = 6;
    /// A group's, when the word has come: its init lets the commands begin through it.
    pub const BEGIN: usize = GO;
    /// The writing end of the command's input; the init keeps it.
    pub const INPUT: usize = 7;
    pub const JOIN: usize = 8;
}

/// Everything the child needs, in the form in which the kernel takes it.
pub struct Plan {
    pub stdin: RawFd,
    pub stdout: RawFd,
    pub stderr: RawFd,
    pub status: RawFd,
    pub go: RawFd,
    /// The writing end of `stdin`, for the init to keep.
    pub input: Option<RawFd>,
    /// v1 `tasks` files.
    pub join: Vec<RawFd>,
    /// Processes of a task group, which the init watches; empty: the init has one command.
    pub members: Vec<Member>,
    pub program: Program,
    /// Addresses of the strings in `_strings`, each list ended by a null; as the kernel takes them, and a thread
    /// may take them along.
    pub argv: Vec<usize>,
    pub envp: Vec<usize>,
    /// Owns what `argv` and `envp` point to.
    pub _strings: Vec<CString>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// What even a task of root may have at most.
    pub bounding: CapabilitySet,
    /// Those beyond it that the process starts with.
    pub capabilities_dropped: Vec<usize>,
    /// Those that it keeps as another user than root; with them, the command has them, too.
    pub capabilities_kept: u64,
    /// `None`: no filter.
    pub filter: Option<seccomp::Program>,
    pub cwd: CString,
    pub scene: Scene,
    /// Whether stdin is a terminal that shall control the process's session.
    pub has_terminal: bool,
    pub oom_score_adjust: CString,
    /// Number, soft limit, hard limit.
    pub rlimits: Vec<(usize, [u64; 2])>,
}

/// What is executed at the end.
pub enum Program {
    /// Our init, from this descriptor; it executes the command, and writes its end into `exit`.
    Init { init: RawFd, exit: RawFd },
    /// The command itself, at the first of these places that has it.
    Command(Vec<CString>),
}

/// Which namespaces the process lives in.
pub enum Scene {
    /// Those that `clone3` has just made, to be furnished.
    Own(Mounts),
    /// Those of these kinds that the process behind this pidfd has. The pid namespace is joined already.
    Joined { process: RawFd, kinds: usize },
}

impl Scene {
    /// How many descriptors it needs.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Own(mounts) => mounts.paths.len(),
            Self::Joined { .. } => 1,
        }
    }
}

/// How the mount namespace is to look.
pub struct Mounts {
    pub has_own_proc: bool,
    pub has_own_shm: bool,
    pub sandbox: CString,
    /// The private /tmp; `None` shares the host's.
    pub tmp: Option<CString>,
    /// In order; each covers what is there.
    pub hidden: Vec<Hidden>,
    /// Directories to make inside the private /tmp so that the sandbox can be mounted.
    pub directories_in_tmp: Vec<CString>,
    /// As `hidden`, for what lies inside the sandbox.
    pub hidden_in_sandbox: Vec<Hidden>,
    /// Held mounts of host paths, each with its place.
    pub paths: Vec<(RawFd, CString)>,
    pub secrets: Option<Secrets>,
    /// Whether the network namespace is new, and its loopback still down.
    pub has_own_network: bool,
}

/// A directory in memory with files for the task's user alone.
pub struct Secrets {
    pub directory: CString,
    /// Whole paths.
    pub files: Vec<(CString, Vec<u8>)>,
}

/// A path that the task must not see.
pub enum Hidden {
    /// Covered by an empty directory, in which these are made so that the sandbox can be mounted.
    Directory { path: CString, inside: Vec<CString> },
    /// Covered by /dev/null.
    File { path: CString },
}

/// Becomes the task. Never returns; what fails is told through the status pipe.
///
/// # Safety
/// Only in a process that `clone3` has just made, with descriptors of its own: it closes them, and leaves values
/// behind without dropping them. Nobody else may use its stack.
pub unsafe fn run(plan: &Plan) -> ! {
    let child = Child { plan, member: 0 };
    child.arrange_descriptors();
    child.join_cgroups();
    child.start_session();
    match &plan.scene {
        Scene::Own(mounts) => child.arrange_mounts(mounts),
        Scene::Joined { process: _, kinds } => child.join_namespaces(*kinds),
    }
    child.await_word();
    child.start_members();
    child.give_up_rights();
    child.install_filter();
    child.become_task()
}

pub(super) struct Child<'a> {
    pub plan: &'a Plan,
    /// Which process of a group this is, from 1 on; 0: the first of the task.
    pub member: u32,
}

impl Child<'_> {
    fn arrange_descriptors(&self) {
        let step = LaunchStep::Descriptors;
        let plan = self.plan;
        // The status pipe first: without it nothing can be told.
        self.place(plan.status, place::STATUS);
        self.place(plan.stdin, 0);
        self.place(plan.stdout, 1);
        self.place(plan.stderr, 2);
        self.place(plan.go, place::GO);
        match plan.input {
            Some(input) => self.place(input, place::INPUT),
            None => close(place::INPUT),
        }
        match &plan.program {
            Program::Init { init, exit } => {
                self.place(*init, place::INIT);
                self.place(*exit, place::EXIT);
            }
            Program::Command(_) => {
                close(place::EXIT);
                close(place::INIT);
            }
        }
        let mut next = place::JOIN;
        for tasks in &plan.join {
            self.place(*tasks, next);
            next += 1;
        }
        match &plan.scene {
            Scene::Joined { process, kinds: _ } => {
                self.place(*process, next);
                next += 1;
            }
            Scene::Own(mounts) => {
                for (tree, _) in &mounts.paths {
                    self.place(*tree, next);
                    next += 1;
                }
            }
        }
        for member in &plan.members {
            for descriptor in member.descriptors() {
                self.place(descriptor, next);
                next += 1;
            }
        }
        // Everything else of the agent's, other tasks' pipes too: who holds the end of a pipe that
        // another waits on would keep it waiting after the agent's death.
        self.must(step, call(libc::SYS_close_range, [next, usize::MAX >> 32, 0, 0, 0, 0]));
    }

    fn place(&self, from: RawFd, to: usize) {
        let answer = call(libc::SYS_dup3, [from.cast_unsigned() as usize, to, 0, 0, 0, 0]);
        self.must(LaunchStep::Descriptors, answer);
    }

    fn join_cgroups(&self) {
        for index in 0..self.plan.join.len() {
            let descriptor = place::JOIN + index;
            self.must(LaunchStep::JoinCgroup, write(descriptor, b"0"));
            close(descriptor);
        }
    }

    fn start_session(&self) {
        let step = LaunchStep::Session;
        self.must(step, call(libc::SYS_setsid, [0; 6]));
        if self.plan.has_terminal {
            self.must(step, call(libc::SYS_ioctl, [0, libc::TIOCSCTTY as usize, 0, 0, 0, 0]));
        }
        call(libc::SYS_umask, [0o022, 0, 0, 0, 0, 0]);
        // Handlers are gone since birth (CLONE_CLEAR_SIGHAND); what was ignored still is.
        let default = KernelSignalAction::default();
        for signal in 1..=64_usize {
            if signal != libc::SIGKILL as usize && signal != libc::SIGSTOP as usize {
                let action = &raw const default as usize;
                self.must(step, call(libc::SYS_rt_sigaction, [signal, action, 0, SIGNAL_SET_BYTES, 0, 0]));
            }
        }
        // The init expects every signal blocked; the command expects none.
        let mask: u64 = match self.plan.program {
            Program::Init { .. } => u64::MAX,
            Program::Command(_) => 0,
        };
        let set = libc::SIG_SETMASK as usize;
        let mask = &raw const mask as usize;
        self.must(step, call(libc::SYS_rt_sigprocmask, [set, mask, 0, SIGNAL_SET_BYTES, 0, 0]));
    }

    fn join_namespaces(&self, kinds: usize) {
        let step = LaunchStep::JoinNamespaces;
        // From here on the task sees this process, which is still full of the agent's memory and rights: it
        // must not be looked into (as in CVE-2016-9962). The command's exec takes this back.
        self.must(step, call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 0, 0, 0, 0, 0]));
        let process = place::JOIN + self.plan.join.len();
        self.must(step, call(libc::SYS_setns, [process, kinds, 0, 0, 0, 0]));
        close(process);
    }

    fn raise_loopback(&self) {
        let step = LaunchStep::Network;
        let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize;
        let socket = call(libc::SYS_socket, [libc::AF_INET as usize, kind, 0, 0, 0, 0]);
        let socket = self.must(step, socket).cast_unsigned();
        let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let request = InterfaceFlags { name: *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0", flags, rest: [0; 22] };
        let arguments = [socket, libc::SIOCSIFFLAGS as usize, &raw const request as usize, 0, 0, 0];
        self.must(step, call(libc::SYS_ioctl, arguments));
        close(socket);
    }

    fn write_secrets(&self, secrets: &Secrets) {
        let step = LaunchStep::Secrets;
        let plain = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        // Not tmpfs: that may be swapped out, to a disk.
        let kind = Some(c"ramfs");
        let path = &secrets.directory;
        self.must(step, mount(Some(c"muster-secrets"), path, kind, plain, Some(c"mode=0500")));
        let (uid, gid) = (self.plan.uid as usize, self.plan.gid as usize);
        let directory = [AT_FDCWD, pointer(path), uid, gid, libc::AT_SYMLINK_NOFOLLOW as usize, 0];
        for (path, value) in &secrets.files {
            let flags = (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC) as usize;
            let file = call(libc::SYS_openat, [AT_FDCWD, pointer(path), flags, 0o400, 0, 0]);
            let file = self.must(step, file).cast_unsigned();
            let mut left = value.as_slice();
            while !left.is_empty() {
                let count = self.must(step, write(file, left)).cast_unsigned();
                left = left.get(count..).unwrap_or_default();
            }
            self.must(step, call(libc::SYS_fchown, [file, uid, gid, 0, 0, 0]));
            close(file);
        }
        self.must(step, call(libc::SYS_fchownat, directory));
        let flags = plain | libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
        self.must(step, mount(None, path, None, flags, None));
    }

    fn arrange_mounts(&self, mounts: &Mounts) {
        if mounts.has_own_network {
            self.raise_loopback();
        }
        // What the host unmounts later goes away here too, and nothing of ours reaches the host.
        let slave = libc::MS_REC | libc::MS_SLAVE;
        self.must(LaunchStep::PrivateMounts, mount(None, c"/", None, slave, None));

        let sandbox = self.hold(&mounts.sandbox);
        let tmp = mounts.tmp.as_ref().map(|tmp| self.hold(tmp));

        if self.plan.uid == 0 {
            // What a root without capabilities could change would be the host's: programs, configuration.
            // What is attached below is its own, and keeps its own mode.
            self.make_read_only(c"/");
        }
        let plain = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        if mounts.has_own_proc {
            let answer = mount(Some(c"proc"), c"/proc", Some(c"proc"), plain, None);
            self.must(LaunchStep::MountProc, answer);
        }
        for hidden in &mounts.hidden {
            self.hide(hidden);
        }
        if let Some(tmp) = tmp {
            self.must(LaunchStep::MountTmp, attach(tmp, c"/tmp"));
            self.make_directories(LaunchStep::MountTmp, &mounts.directories_in_tmp);
        }
        if mounts.has_own_shm {
            let flags = libc::MS_NOSUID | libc::MS_NODEV;
            let answer = mount(Some(c"shm"), c"/dev/shm", Some(c"tmpfs"), flags, Some(c"mode=1777"));
            self.must(LaunchStep::MountShm, answer);
        }
        self.must(LaunchStep::ShowSandbox, attach(sandbox, &mounts.sandbox));
        for hidden in &mounts.hidden_in_sandbox {
            self.hide(hidden);
        }
        for (index, (_, target)) in mounts.paths.iter().enumerate() {
            let tree = place::JOIN + self.plan.join.len() + index;
            self.must(LaunchStep::ShowPath, attach(tree, target));
        }
        if let Some(secrets) = &mounts.secrets {
            self.write_secrets(secrets);
        }
        self.make_read_only(c"/sys");
        if self.plan.uid == 0 {
            // A root without capabilities still owns these files.
            for path in [c"/proc/sys", c"/proc/irq", c"/proc/bus", c"/proc/fs", c"/proc/sysrq-trigger"] {
                self.make_read_only(path);
            }
        }
    }

    /// A copy of the mount at a path that can be attached elsewhere.
    fn hold(&self, path: &CStr) -> usize {
        let flags = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
        let answer = call(libc::SYS_open_tree, [AT_FDCWD, pointer(path), flags, 0, 0, 0]);
        self.must(LaunchStep::KeepSandbox, answer).cast_unsigned()
    }

    fn hide(&self, hidden: &Hidden) {
        let step = LaunchStep::HidePath;
        match hidden {
            Hidden::File { path } => {
                self.must(step, mount(Some(c"/dev/null"), path, None, libc::MS_BIND, None));
            }
            Hidden::Directory { path, inside } => {
                let plain = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
                let options = Some(c"mode=0755,size=64k");
                self.must(step, mount(Some(c"muster-hidden"), path, Some(c"tmpfs"), plain, options));
                self.make_directories(step, inside);
                let flags = plain | libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
                self.must(step, mount(None, path, None, flags, None));
            }
        }
    }

    fn make_directories(&self, step: LaunchStep, paths: &[CString]) {
        for path in paths {
            let answer = call(libc::SYS_mkdirat, [AT_FDCWD, pointer(path), 0o755, 0, 0, 0]);
            if answer != -(libc::EEXIST as isize) {
                self.must(step, answer);
            }
        }
    }

    /// With all that is mounted below. Where a path is no mount of its own it becomes one.
    fn make_read_only(&self, path: &CStr) {
        let step = LaunchStep::ReadOnly;
        let attributes =
            libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
        let arguments = [
            AT_FDCWD,
            pointer(path),
            libc::AT_RECURSIVE as usize,
            &raw const attributes as usize,
            size_of::<libc::mount_attr>(),
            0,
        ];
        let mut answer = call(libc::SYS_mount_setattr, arguments);
        if answer == -(libc::EINVAL as isize) {
            let bind = mount(Some(path), path, None, libc::MS_BIND | libc::MS_REC, None);
            self.must(step, bind);
            answer = call(libc::SYS_mount_setattr, arguments);
        }
        // Kernels before 5.12 can't, hosts without /sys needn't; file modes still protect it.
        if answer != -(libc::ENOSYS as isize) && answer != -(libc::ENOENT as isize) {
            self.must(step, answer);
        }
    }

    /// Waits for the agent's word. Its end of the pipe closes when it dies: then so do we.
    fn await_word(&self) {
        let mut word = 0_u8;
        let answer = call(libc::SYS_read, [place::GO, &raw mut word as usize, 1, 0, 0, 0]);
        if answer != 1 {
            exit(0);
        }
        close(place::GO);
    }

    pub(super) fn give_up_rights(&self) {
        let plan = self.plan;
        for (number, limit) in &plan.rlimits {
            let limit = &raw const *limit as usize;
            self.must(LaunchStep::Limits, call(libc::SYS_prlimit64, [0, *number, limit, 0, 0, 0]));
        }
        self.prefer_for_oom();

        let step = LaunchStep::Capabilities;
        for capability in &plan.capabilities_dropped {
            let drop = libc::PR_CAPBSET_DROP as usize;
            self.must(step, call(libc::SYS_prctl, [drop, *capability, 0, 0, 0, 0]));
        }
        let ambient = libc::PR_CAP_AMBIENT as usize;
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as usize;
        self.must(step, call(libc::SYS_prctl, [ambient, clear, 0, 0, 0, 0]));

        if plan.capabilities_kept != 0 {
            // Without it, the change of user would take them all.
            let keep = libc::PR_SET_KEEPCAPS as usize;
            self.must(step, call(libc::SYS_prctl, [keep, 1, 0, 0, 0, 0]));
        }

        let step = LaunchStep::Groups;
        let groups = plan.groups.as_ptr() as usize;
        self.must(step, call(libc::SYS_setgroups, [plan.groups.len(), groups, 0, 0, 0, 0]));
        let (uid, gid) = (plan.uid as usize, plan.gid as usize);
        self.must(step, call(libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0]));
        self.must(LaunchStep::User, call(libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0]));
        match plan.capabilities_kept {
            // Inheritable ones would survive the change of user and an exec.
            0 => self.clear_inheritable_capabilities(),
            kept => self.hand_down_capabilities(kept),
        }

        let forbid = libc::PR_SET_NO_NEW_PRIVS as usize;
        self.must(LaunchStep::NoNewPrivileges, call(libc::SYS_prctl, [forbid, 1, 0, 0, 0, 0]));
        // As the user, who may not be allowed in.
        self.must(LaunchStep::WorkingDirectory, call(libc::SYS_chdir, [pointer(&plan.cwd), 0, 0, 0, 0, 0]));
    }

    /// The last of all: what comes after it is the command's.
    pub(super) fn install_filter(&self) {
        let Some(filter) = &self.plan.filter else { return };
        let program = libc::sock_fprog {
            // The kernel takes 4096 at most, and refuses a length that is not the program's.
            len: u16::try_from(filter.len()).unwrap_or(u16::MAX),
            filter: filter.as_ptr().cast_mut(),
        };
        let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
        // Without the flag, kernels before 5.16 slow down every task that has a filter (spec_store_bypass).
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as usize;
        let answer = call(libc::SYS_seccomp, [mode, flags, &raw const program as usize, 0, 0, 0]);
        self.must(LaunchStep::Filter, answer);
    }

    /// Only ambient capabilities get past an exec of what is no file of root's (capabilities(7)).
    fn hand_down_capabilities(&self, kept: u64) {
        let step = LaunchStep::Capabilities;
        let header = [CAPABILITY_VERSION_3, 0];
        let [low, high] = [kept as u32, (kept >> 32) as u32];
        let sets = [[low; 3], [high; 3]];
        let arguments = [&raw const header as usize, &raw const sets as usize, 0, 0, 0, 0];
        self.must(step, call(libc::SYS_capset, arguments));
        for number in (0..64).filter(|number| kept & (1 << number) != 0) {
            let (ambient, raise) = (libc::PR_CAP_AMBIENT as usize, libc::PR_CAP_AMBIENT_RAISE as usize);
            self.must(step, call(libc::SYS_prctl, [ambient, raise, number, 0, 0, 0]));
        }
    }

    /// Tasks go before the agent when the whole host is out of memory.
    fn prefer_for_oom(&self) {
        let path = pointer(c"/proc/self/oom_score_adj");
        let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as usize;
        let file = call(libc::SYS_openat, [AT_FDCWD, path, flags, 0, 0, 0]);
        if let Ok(file) = usize::try_from(file) {
            // A task without the preference is a task all the same.
            write(file, self.plan.oom_score_adjust.as_bytes());
            close(file);
        }
    }

    fn clear_inheritable_capabilities(&self) {
        let step = LaunchStep::Capabilities;
        let header = [CAPABILITY_VERSION_3, 0];
        let mut sets = [[0_u32; 3]; 2];
        let arguments = [&raw const header as usize, &raw mut sets as usize, 0, 0, 0, 0];
        self.must(step, call(libc::SYS_capget, arguments));
        for set in &mut sets {
            let [_effective, _permitted, inheritable] = set;
            *inheritable = 0;
        }
        let arguments = [&raw const header as usize, &raw const sets as usize, 0, 0, 0, 0];
        self.must(step, call(libc::SYS_capset, arguments));
    }

    fn become_task(&self) -> ! {
        let plan = self.plan;
        let (argv, envp) = (plan.argv.as_ptr() as usize, plan.envp.as_ptr() as usize);
        let cloexec = libc::FD_CLOEXEC as usize;
        let set = libc::F_SETFD as usize;
        match &plan.program {
            Program::Init { .. } => {
                self.must(LaunchStep::Init, call(libc::SYS_fcntl, [place::INIT, set, cloexec, 0, 0, 0]));
                let flags = libc::AT_EMPTY_PATH as usize;
                let answer = call(libc::SYS_execveat, [place::INIT, pointer(c""), argv, envp, flags, 0]);
                self.fail(LaunchStep::Init, answer)
            }
            Program::Command(places) => {
                self.must(LaunchStep::Exec, call(libc::SYS_fcntl, [place::STATUS, set, cloexec, 0, 0, 0]));
                let answer =
                    first_of(places, |path| call(libc::SYS_execve, [pointer(path), argv, envp, 0, 0, 0]));
                self.fail(LaunchStep::Exec, answer)
            }
        }
    }

    pub(super) fn must(&self, step: LaunchStep, answer: isize) -> isize {
        if answer < 0 {
            self.fail(step, answer);
        }
        answer
    }

    pub(super) fn fail(&self, step: LaunchStep, answer: isize) -> ! {
        let pair = [step.number() | self.member << 8, u32::try_from(-answer).unwrap_or(0)];
        let [first, second] = pair.map(u32::to_ne_bytes);
        let [a, b, c, d] = first;
        let [e, f, g, h] = second;
        // If the agent can't be told it sees the pipe closed, and asks how we ended.
        write(place::STATUS, &[a, b, c, d, e, f, g, h]);
        exit(126)
    }
}

/// Tries a program at its places, as a shell would: goes on where it isn't, and answers what came of the last try.
pub(super) fn first_of(places: &[CString], attempt: impl Fn(&CStr) -> isize) -> isize {
    let mut refused = -(libc::ENOENT as isize);
    for path in places {
        let answer = attempt(path);
        match i32::try_from(-answer) {
            Ok(libc::ENOENT | libc::ENOTDIR) => {}
            Ok(libc::EACCES) => refused = answer,
            _ => return answer,
        }
    }
    refused
}

pub(super) const AT_FDCWD: usize = libc::AT_FDCWD as isize as usize;
pub(super) const SIGNAL_SET_BYTES: usize = 8;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `struct ifreq` of include/uapi/linux/if.h, of which only the flags are used.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; 16],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceFlags>() == size_of::<libc::ifreq>());

/// What the kernel (not libc) calls `struct sigaction`; all zero is the default action.
#[repr(C)]
#[derive(Default)]
struct KernelSignalAction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> isize {
    let optional = |text: Option<&CStr>| text.map_or(0, pointer);
    let flags = usize::try_from(flags).unwrap_or(0);
    call(libc::SYS_mount, [optional(source), pointer(target), optional(kind), flags, optional(data), 0])
}

/// Attaches a held mount at a path, and lets go of it.
fn attach(tree: usize, at: &CStr) -> isize {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH as usize;
    let answer = call(libc::SYS_move_mount, [tree, pointer(c""), AT_FDCWD, pointer(at), flags, 0]);
    close(tree);
    answer
}

pub(super) fn write(descriptor: usize, bytes: &[u8]) -> isize {
    call(libc::SYS_write, [descriptor, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0])
}

pub(super) fn close(descriptor: usize) {
    call(libc::SYS_close, [descriptor, 0, 0, 0, 0, 0]);
}

pub(super) fn exit(code: usize) -> ! {
    loop {
        call(libc::SYS_exit_group, [code, 0, 0, 0, 0, 0]);
    }
}

pub(super) fn pointer(text: &CStr) -> usize {
    text.as_ptr() as usize
}

pub(super) fn call(number: libc::c_long, arguments: [usize; 6]) -> isize {
    // SAFETY: every call in this file passes numbers, or pointers to values that outlive the call;
    // none maps, unmaps or shares memory.
    unsafe { syscall(number, arguments) }
}
