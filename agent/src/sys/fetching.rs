//! Processes that read what tasks wrote: this program again, with the rights of a user and no more.
//!
//! One fetches a task's files. It is born in the task's groups, so what it takes is the task's, and who kills the
//! group kills it. The other names addresses by what stands in a task's programs; it gets nothing but descriptors.
//! Neither can outlive the thread that started it. Between fork and exec they make raw system calls on what was
//! prepared.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::cgroup::Cgroups;
use super::raw::syscall;
use super::{CgroupName, Identity, SpawnError};

/// The verb of `muster-agent` that is this process.
pub const FETCH_VERB: &str = "fetch";

/// The verb of `muster-agent` that is the process which names addresses.
pub const NAME_VERB: &str = "name-addresses";

/// What that one may take, whatever it is made to read.
const NAMING_MEMORY_BYTES: u64 = 512 << 20;
const NAMING_CPU_SECONDS: u64 = 30;
/// A user that owns nothing (`nobody` on every distribution that we know).
const NOBODY: u32 = 65534;

/// What of our environment it needs: where an operator keeps other trusted certificates.
const VARIABLES: &[&str] = &["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Tasks' score, see `launch::prepare`: it goes before the agent when the host is out of memory.
const OOM_SCORE_ADJUST: &[u8] = b"200";

/// What it is made of.
#[derive(Debug)]
pub struct FetchingRequest {
    pub cgroup: CgroupName,
    pub identity: Identity,
    /// Becomes its standard input.
    pub socket: OwnedFd,
}

/// The process. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Fetching {
    child: Child,
    killer: Killer,
    is_reaped: bool,
}

/// Ends the process from another thread; harmless when it has ended. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Killer(Arc<OwnedFd>);

impl Killer {
    pub fn kill(&self) {
        // What has ended can't be killed, and needn't.
        let _ = rustix::process::pidfd_send_signal(&*self.0, Signal::KILL);
    }
}

impl Fetching {
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.is_reaped = true;
        Ok(status)
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.killer.kill();
            // Without it, a zombie is left until the agent ends; there is nobody to tell.
            let _ = self.child.wait();
        }
    }
}

pub(super) fn spawn(
    cgroups: &Cgroups,
    capability_last: usize,
    request: FetchingRequest,
) -> Result<Fetching, SpawnError> {
    let FetchingRequest { cgroup, identity, socket } = request;
    let prepare = |what| move |source| SpawnError::Prepare { what, source };
    let group = cgroups.open_v2(&cgroup).map_err(SpawnError::Cgroup)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs = rustix::fs::openat(&group, "cgroup.procs", flags, Mode::empty())
        .map_err(|error| prepare("open its control group")(error.into()))?;
    let mut join = cgroups.open_v1_tasks(&cgroup).map_err(SpawnError::Cgroup)?;
    join.push(procs);
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("muster-fetch")
        .arg(FETCH_VERB)
        .env_clear()
        .envs(VARIABLES.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let rights = Rights {
        agent: std::process::id(),
        join: join.iter().map(|fd| fd.as_raw_fd()).collect(),
        capability_last,
        identity,
        limits: Vec::new(),
    };
    // SAFETY: `give_up` makes raw system calls on memory that was prepared before the fork; it allocates nothing,
    // takes no lock and does not panic.
    unsafe { command.pre_exec(move || rights.give_up()) };
    let child = command.spawn().map_err(|source| SpawnError::Clone { cgroup, source })?;
    // The group's descriptors live until the child has used them: `spawn` returns after its exec.
    drop(join);
    hold(child).map_err(prepare("hold the process that fetches"))
}

/// Starts the process that names addresses; `socket` becomes its standard input.
///
/// In the agent's own groups: a task that is looked at pays nothing for it, and can't kill it.
pub fn spawn_naming(socket: OwnedFd) -> io::Result<Fetching> {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
    let capability_last = last.trim().parse().map_err(io::Error::other)?;
    let identity = Identity { uid: NOBODY, gid: NOBODY, groups: Vec::new(), home: None, name: None };
    let limit = |resource: libc::__rlimit_resource_t, most: u64| (resource as usize, [most, most]);
    let limits = vec![
        limit(libc::RLIMIT_AS, NAMING_MEMORY_BYTES),
        limit(libc::RLIMIT_CPU, NAMING_CPU_SECONDS),
        limit(libc::RLIMIT_FSIZE, 0),
    ];
    let rights = Rights { agent: std::process::id(), join: Vec::new(), capability_last, identity, limits };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("muster-name")
        .arg(NAME_VERB)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: as above.
    unsafe { command.pre_exec(move || rights.give_up()) };
    hold(command.spawn()?)
}

fn hold(child: Child) -> io::Result<Fetching> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd = match pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(pidfd)) => pidfd,
        failed => {
            let mut child = child;
            // Nobody could end it later.
            let _ = child.kill().and_then(|()| child.wait());
            let error = failed.map_or(io::ErrorKind::NotFound.into(), |error| match error {
                Ok(_) => io::ErrorKind::NotFound.into(),
                Err(error) => error.into(),
            });
            return Err(error);
        }
    };
    Ok(Fetching { child, killer: Killer(Arc::new(pidfd)), is_reaped: false })
}

/// What the child needs to become powerless.
struct Rights {
    agent: u32,
    join: Vec<RawFd>,
    capability_last: usize,
    identity: Identity,
    /// Of resources, each the soft and the hard one.
    limits: Vec<(usize, [u64; 2])>,
}

impl Rights {
    fn give_up(&self) -> io::Result<()> {
        for group in &self.join {
            must(libc::SYS_write, [group.cast_unsigned() as usize, b"0".as_ptr() as usize, 1, 0, 0, 0])?;
        }
        prefer_for_oom();
        let none = [0_u64; 2];
        let core = libc::RLIMIT_CORE as usize;
        must(libc::SYS_prlimit64, [0, core, &raw const none as usize, 0, 0, 0])?;
        for (resource, limit) in &self.limits {
            must(libc::SYS_prlimit64, [0, *resource, limit.as_ptr() as usize, 0, 0, 0])?;
        }
        for capability in 0..=self.capability_last {
            prctl(libc::PR_CAPBSET_DROP, capability)?;
        }
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize)?;
        let Identity { uid, gid, groups, home: _, name: _ } = &self.identity;
        must(libc::SYS_setgroups, [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0])?;
        let (uid, gid) = (*uid as usize, *gid as usize);
        must(libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0])?;
        must(libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0])?;
        // Of root, too, whom the bounding set takes them from only at the exec.
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
        // After the change of user, which takes it back. Ends with the thread that waits for it.
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize)?;
        let parent = must(libc::SYS_getppid, [0; 6])?;
        if parent != self.agent as usize {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    }
}

/// The same preference as its task's; without it, it is a process all the same.
fn prefer_for_oom() {
    let path = c"/proc/self/oom_score_adj".as_ptr() as usize;
    let here = libc::AT_FDCWD as usize;
    let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as usize;
    if let Ok(file) = must(libc::SYS_openat, [here, path, flags, 0, 0, 0]) {
        let bytes = OOM_SCORE_ADJUST;
        let _ = must(libc::SYS_write, [file, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]);
    }
}

fn prctl(option: i32, argument: usize) -> io::Result<()> {
    must(libc::SYS_prctl, [option.cast_unsigned() as usize, argument, 0, 0, 0, 0]).map(drop)
}

fn must(number: i64, arguments: [usize; 6]) -> io::Result<usize> {
    // SAFETY: every pointer above is to memory that lives during the call.
    let answer = unsafe { syscall(number, arguments) };
    usize::try_from(answer)
        .map_err(|_| io::Error::from_raw_os_error(i32::try_from(-answer).unwrap_or(libc::EIO)))
}

/// What the process that fetches must never do again, whatever it is made to read: start a program or a process,
/// look into others or signal them, change what it sees of the host, or speak to parts of the kernel that it has
/// no use for.
const FORBIDDEN: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mknodat,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_personality,
    libc::SYS_swapon,
    libc::SYS_reboot,
    libc::SYS_fchmodat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
];

/// Takes from this process for ever what fetching needs not.
pub fn confine_fetching() -> io::Result<()> {
    confine().map_err(|error| io::Error::other(format!("can't confine the process that fetches: {error}")))
}

fn confine() -> Result<(), Box<dyn std::error::Error>> {
    let arch = std::env::consts::ARCH.try_into()?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FORBIDDEN.iter().map(|number| (*number, Vec::new())).collect();
    // A thread is allowed (a resolver may want one), a process is not.
    let thread = libc::CLONE_THREAD as u64;
    let no_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_thread])?]);
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?;
    seccompiler::apply_filter(&filter)?;
    // Its flags are behind a pointer, where no filter can see them; libc then takes the older call.
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let filter: BpfProgram = SeccompFilter::new(clone3, SeccompAction::Allow, absent, arch)?.try_into()?;
    Ok(seccompiler::apply_filter(&filter)?)
}

/// All that the process that names addresses may do: read descriptors that it was given, answer, and end.
const NAMING: &[i64] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Leaves this process for ever with [`NAMING`].
pub fn confine_naming() -> io::Result<()> {
    let confine = || -> Result<(), Box<dyn std::error::Error>> {
        let rules = NAMING.iter().map(|number| (*number, Vec::new())).collect();
        let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        let arch = std::env::consts::ARCH.try_into()?;
        let filter: BpfProgram = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()?;
        Ok(seccompiler::apply_filter(&filter)?)
    };
    confine().map_err(|error| io::Error::other(format!("can't confine the process that names: {error}")))
}
