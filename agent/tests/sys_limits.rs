//! Limits that the kernel keeps, and what it counts: on the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support_sys;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::sys::cgroup::Controller;
use agent::sys::{
    CgroupName, DeviceRule, Ending, HugePageSize, LaunchStep, Layout, Limits, ReleaseError, Sys,
};
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use model::{Exit, IoLimits, Rlimit, RlimitKind};
use support_sys::{Host, LIMITS, PATIENCE, has_perl, host, stderr, stdout, until};

#[test]
fn limits_are_what_another_reader_finds() {
    let Some(host) = host("reader") else { return };
    let name = CgroupName::new("a").unwrap();
    let limits = Limits::new(1500, 250, 96 << 20, 17);
    host.kernel.create_cgroup(&name, &limits).unwrap();

    let path = Path::new(&host.parent).join(name.as_str());
    let group = cgroups_rs::fs::cgroup::Cgroup::load(cgroups_rs::fs::hierarchies::auto(), path);
    let cpu: &CpuController = group.controller_of().unwrap();
    let memory: &MemController = group.controller_of().unwrap();
    let pids: &PidController = group.controller_of().unwrap();
    assert_eq!((cpu.cfs_quota().unwrap(), cpu.cfs_period().unwrap()), (150_000, 100_000));
    let shares = if host.kernel.layout() == Layout::V2 { 25 } else { 256 };
    assert_eq!(cpu.shares().unwrap(), shares);
    assert_eq!(memory.memory_stat().limit_in_bytes, 96 << 20);
    if group.v2() {
        assert_eq!(memory.memswap_v2().limit_in_bytes, 0);
    } else if host.kernel.limitations().is_empty() {
        assert_eq!(memory.memswap().limit_in_bytes, 96 << 20);
    }
    assert_eq!(pids.get_pid_max().unwrap(), cgroups_rs::fs::MaxValue::Value(17));

    let figures = host.kernel.figures(&name).unwrap();
    assert_eq!(figures.memory_limit_bytes, Some(96 << 20));
    assert_eq!((figures.oom_kills, figures.processes), (Some(0), Some(0)));
    assert_eq!((figures.cpu_usage_ns, figures.cpu_throttled_ns), (Some(0), Some(0)));
    host.kernel.remove_cgroup(&name).unwrap();
}

#[test]
fn a_task_is_in_its_groups_from_birth() {
    let Some(host) = host("groups") else { return };
    let request = host.script("a", "cat /proc/self/cgroup");
    let id = host.kernel.cgroup_id(&request.cgroup).unwrap().unwrap();
    let held = host.spawn(&request);
    assert_eq!(host.kernel.list_cgroups().unwrap(), std::slice::from_ref(&request.cgroup));
    assert_eq!(host.kernel.cgroup_id(&request.cgroup).unwrap(), Some(id));
    let (process, released) = held.release();
    released.unwrap();
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(0)));
    host.remove(&request);
    let out = stdout(&request);
    let group = format!("/{}/a", host.parent.display());
    let hierarchies = host.kernel.cgroups().hierarchies();
    assert!(out.lines().any(|line| line == format!("0::{group}")), "{out}");
    for (place, controller) in
        [(&hierarchies.cpu, "cpu"), (&hierarchies.memory, "memory"), (&hierarchies.pids, "pids")]
    {
        let is_in = |line: &str| {
            let mut fields = line.splitn(3, ':').skip(1);
            let names = fields.next().unwrap_or_default();
            names.split(',').any(|name| name == controller) && fields.next() == Some(group.as_str())
        };
        match place {
            Some(Controller::V1(_)) => assert!(out.lines().any(is_in), "{controller} in {out}"),
            Some(Controller::V2) | None => {}
        }
    }
}

#[test]
fn a_spinning_task_gets_its_quota() {
    let Some(host) = host("quota") else { return };
    let limits = Limits { cpu_quota_milli: 250, cpu_weight_milli: 250, ..LIMITS };
    let request = host.request("a", &["sh", "-c", "while :; do :; done"], &limits);
    host.start(&request);
    let usage = || host.kernel.figures(&request.cgroup).unwrap();
    let (start, began) = (usage().cpu_usage_ns.unwrap(), Instant::now());
    // Long enough that single periods of 100 ms don't matter.
    until("three seconds have gone by", || began.elapsed() > Duration::from_secs(3));
    let (used, elapsed) = (usage().cpu_usage_ns.unwrap() - start, began.elapsed());
    let share = used as f64 / elapsed.as_nanos() as f64;
    assert!((0.15..0.28).contains(&share), "{share} of a core instead of 0.25");
    assert!(usage().cpu_throttled_ns.unwrap() > 0);
    host.remove(&request);
}

#[test]
fn a_task_over_its_memory_is_killed_alone() {
    let Some(host) = host("memory") else { return };
    let other = host.request("other", &["sleep", "1000"], &LIMITS);
    let other_process = host.start(&other);
    let limits = Limits { memory_bytes: 16 << 20, ..LIMITS };
    let request = host.request("a", &["tail", "/dev/zero"], &limits);
    let process = host.start(&request);
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Signal(9)));
    let figures = host.kernel.figures(&request.cgroup).unwrap();
    assert_eq!(figures.oom_kills, Some(1));
    let peak = figures.memory_peak_bytes;
    assert!(peak.is_none_or(|peak| (8 << 20..=16 << 20).contains(&peak)), "{peak:?}");
    assert_eq!(host.kernel.ending(&other_process, &other.exit_file).unwrap(), Ending::Running);
    assert_eq!(host.kernel.figures(&other.cgroup).unwrap().oom_kills, Some(0));
    host.remove(&request);
    host.remove(&other);
}

/// Before its exec, a task's process shares our memory, and the kernel ends all who share one.
#[test]
fn a_launch_that_runs_out_of_memory_ends_alone() {
    let Some(host) = host("thirst") else { return };
    let score = || std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let before = score();
    // A kernel that charges in batches now and then has some left for a group that should have none.
    let denied = (0..20).any(|round| {
        let mut denied = false;
        for (name, memory_bytes) in [("a", 0), ("b", 16 << 10), ("c", 128 << 10), ("d", 1 << 20)] {
            let limits = Limits { memory_bytes, ..LIMITS };
            let request = host.request(&format!("{name}{round}"), &["sleep", "1000"], &limits);
            let released = host.kernel.spawn(&request).map(|held| held.release().1);
            denied |= !matches!(released, Ok(Ok(())));
            host.remove(&request);
        }
        denied
    });
    assert!(denied, "nothing was denied, so nothing was tried");
    assert_eq!(score(), before);
}

#[test]
fn a_fork_bomb_stays_in_its_box() {
    let Some(host) = host("bomb") else { return };
    let limits = Limits { pids_max: 24, ..LIMITS };
    // A shell ends when it can't fork; what it has started stays, so the box stays full.
    let bomb = "(while :; do sleep 1000 & done) 2>/dev/null & exec sleep 1000";
    let request = host.request("a", &["sh", "-c", bomb], &limits);
    host.start(&request);
    let mut most = 0;
    until("the bomb fills its box", || {
        most = most.max(host.kernel.figures(&request.cgroup).unwrap().processes.unwrap());
        most >= 20
    });
    assert!(most <= 24, "{most} processes");
    host.remove(&request);
}

#[test]
fn figures_follow_what_the_task_does() {
    let Some(host) = host("figures") else { return };
    let script = "x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo ready; sleep 1000; true";
    let request = host.script("a", script);
    host.start(&request);
    until("the shell holds its string", || stdout(&request) == "ready\n");
    let figures = host.kernel.figures(&request.cgroup).unwrap();
    let (memory, working_set) = (figures.memory_bytes.unwrap(), figures.memory_working_set_bytes.unwrap());
    assert!((8_000_000..64 << 20).contains(&working_set) && working_set <= memory, "{figures:?}");
    assert!(figures.cpu_usage_ns.unwrap() > 0, "{figures:?}");
    // The init, the shell and sleep.
    until("sleep runs", || host.kernel.figures(&request.cgroup).unwrap().processes == Some(3));
    host.remove(&request);
}

#[test]
fn a_watch_tells_that_a_group_became_empty() {
    let Some(host) = host("watch") else { return };
    let request = host.request("a", &["sleep", "1000"], &LIMITS);
    host.start(&request);
    let watch = host.kernel.watch_cgroup(&request.cgroup).unwrap();
    assert!(!watch.wait(Duration::ZERO).unwrap(), "nothing has happened yet");
    assert!(!host.kernel.is_cgroup_empty(&request.cgroup).unwrap());
    host.kernel.kill_cgroup(&request.cgroup).unwrap();
    assert!(watch.wait(PATIENCE).unwrap());
    assert!(host.kernel.is_cgroup_empty(&request.cgroup).unwrap());
    watch.drain();
    assert!(!watch.wait(Duration::ZERO).unwrap(), "drained");
    host.remove(&request);
}

#[test]
fn ends_can_be_awaited() {
    let Some(host) = host("async") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let request = host.script("a", "exit 9");
        let held = host.spawn(&request);
        let watch = host.kernel.watch_cgroup(&request.cgroup).unwrap();
        let process = held.process().clone();
        held.release().1.unwrap();
        let wait = async {
            // Two at once, as two owners of one process might.
            let (one, two) = tokio::join!(process.ended(), process.ended());
            one.and(two).unwrap();
            while !host.kernel.is_cgroup_empty(&request.cgroup).unwrap() {
                watch.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
        let ending = host.kernel.ending(&process, &request.exit_file).unwrap();
        assert_eq!(ending, Ending::Ended(Exit::Code(9)));
        host.remove(&request);
    });
}

#[test]
fn removal_takes_groups_that_a_task_made_inside() {
    let Some(host) = host("nested") else { return };
    let name = CgroupName::new("a").unwrap();
    host.kernel.create_cgroup(&name, &LIMITS).unwrap();
    let v2 = host.kernel.cgroups().hierarchies().v2.join(&host.parent).join("a/inner/most");
    std::fs::create_dir_all(&v2).unwrap();
    host.kernel.remove_cgroup(&name).unwrap();
    assert!(host.kernel.list_cgroups().unwrap().is_empty());
}

#[test]
fn a_kernel_without_cgroup_kill_is_no_way_out() {
    let Some(host) = host("old-kill") else { return };
    // Forks as fast as it can while it is killed.
    let script = "while :; do (setsid sleep 1000 &); done";
    let mut request = host.request("a", &["sh", "-c", script], &Limits { pids_max: 40, ..LIMITS });
    request.namespaces.pid = false;
    let process = host.start(&request);
    until("some run", || host.kernel.figures(&request.cgroup).unwrap().processes > Some(10));
    let watch = host.kernel.watch_cgroup(&request.cgroup).unwrap();
    host.kernel.cgroups().kill_one_by_one(&request.cgroup).unwrap();
    while !host.kernel.is_cgroup_empty(&request.cgroup).unwrap() {
        assert!(watch.wait(PATIENCE).unwrap(), "some escaped");
        watch.drain();
    }
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Signal(9)));
    host.remove(&request);
    // A watch of what is gone tells so at once.
    assert!(host.kernel.watch_cgroup(&request.cgroup).unwrap().wait(Duration::ZERO).unwrap());
}

#[test]
fn a_second_agent_life_finds_the_first_ones_groups() {
    let Some(host) = host("second") else { return };
    let request = host.request("a.1", &["sleep", "1000"], &LIMITS);
    host.start(&request);
    let second = Host::at(host.parent.to_str().unwrap(), host.directory.clone());
    assert_eq!(second.kernel.list_cgroups().unwrap(), std::slice::from_ref(&request.cgroup));
    assert!(second.kernel.close().is_err(), "a task is left");
    assert!(!second.kernel.is_cgroup_empty(&request.cgroup).unwrap());
    host.remove(&request);
    second.forget();
}

#[test]
fn what_is_above_the_request_goes_first() {
    let Some(host) = host("burst") else { return };
    let limits = Limits { memory_kept_bytes: Some(16 << 20), ..LIMITS };
    // More than the request, less than the limit.
    let script = "cat /proc/self/oom_score_adj; x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let mut request = host.request("a", &["sh", "-c", script], &limits);
    request.extras.oom_score_adjust = Some(777);
    let file = match &host.kernel.cgroups().hierarchies().memory {
        Some(Controller::V1(root)) => root.join(&host.parent).join("a/memory.soft_limit_in_bytes"),
        Some(Controller::V2) | None => {
            host.kernel.cgroups().hierarchies().v2.join(&host.parent).join("a/memory.low")
        }
    };
    assert_eq!(std::fs::read_to_string(file).unwrap().trim(), (16 << 20).to_string());
    let (exit, out, err) = host.run(&request);
    assert_eq!((exit, out.as_str()), (Exit::Code(0), "777\n30000000\n"), "{err}");
    assert_eq!(host.run(&host.script("b", "cat /proc/self/oom_score_adj")).1, "200\n");
}

#[test]
fn a_task_runs_on_its_cores_alone() {
    let Some(host) = host("cores") else { return };
    let Some(cores) = host.kernel.abilities().cores else {
        println!("skipped: this host has no cpuset controller");
        return;
    };
    let last = *cores.last().unwrap();
    let limits = Limits { cores: [last].into(), ..LIMITS };
    // Nobody moves it back: the group decides, not the process.
    let script = "grep Cpus_allowed_list /proc/self/status; nproc; taskset -pc 0-4095 $$ >/dev/null; \
        grep Cpus_allowed_list /proc/self/status";
    let (_, out, err) = host.run(&host.request("a", &["sh", "-c", script], &limits));
    let line = format!("Cpus_allowed_list:\t{last}\n");
    assert_eq!(out, format!("{line}1\n{line}"), "{err}");

    let name = CgroupName::new("b").unwrap();
    let absent = Limits { cores: [8191].into(), ..LIMITS };
    let error = host.kernel.create_cgroup(&name, &absent).unwrap_err().to_string();
    assert!(error.contains("cpuset.cpus") && error.contains("8191"), "{error}");
    assert!(host.kernel.list_cgroups().unwrap().is_empty());

    // And one that asked for none has them all.
    let (_, out, _) = host.run(&host.script("c", "nproc"));
    assert_eq!(out.trim().parse::<usize>().unwrap(), cores.len());
}

#[test]
fn writing_is_as_slow_as_it_was_asked_to_be() {
    let Some(host) = host("io") else { return };
    if !host.kernel.abilities().can_throttle_io {
        println!("skipped: this host has no io controller");
        return;
    }
    let io = IoLimits { write_bytes_per_second: Some(1 << 20), ..IoLimits::default() };
    let script = "dd if=/dev/zero of=there bs=64k count=32 oflag=direct 2>&1";
    let request = host.request("a", &["sh", "-c", script], &Limits { io, ..LIMITS });
    let device = std::os::unix::fs::MetadataExt::dev(&request.sandbox.metadata().unwrap());
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    if !Path::new("/sys/dev/block").join(&number).exists() {
        println!("skipped: {} is not on a disk", request.sandbox.display());
        host.remove(&request);
        return;
    }
    let began = Instant::now();
    let (exit, out, _) = host.run(&request);
    let took = began.elapsed();
    assert_eq!(exit, Exit::Code(0), "{out}");
    // Two MiB at one in a second; the kernel lets a slice of 100 ms go ahead.
    assert!(took > Duration::from_millis(1500), "{took:?} for 2 MiB; {out}");
    println!("2 MiB at 1 MiB/s: {took:?}");
}

#[test]
fn a_weight_needs_a_disk_that_knows_weights() {
    let Some(host) = host("weight") else { return };
    let name = CgroupName::new("a").unwrap();
    let io = IoLimits { weight: Some(300), ..IoLimits::default() };
    if !host.kernel.abilities().can_throttle_io {
        println!("skipped: this host has no io controller");
        return;
    }
    let hierarchies = host.kernel.cgroups().hierarchies();
    match host.kernel.create_cgroup(&name, &Limits { io, ..LIMITS }) {
        Ok(_) => {
            let file = match &hierarchies.io {
                Some(Controller::V1(root)) => root.join(&host.parent).join("a/blkio.bfq.weight"),
                Some(Controller::V2) | None => hierarchies.v2.join(&host.parent).join("a/io.bfq.weight"),
            };
            let text = std::fs::read_to_string(file).unwrap();
            assert!(text.split_whitespace().any(|word| word == "300"), "{text}");
            host.kernel.remove_cgroup(&name).unwrap();
        }
        // A kernel without BFQ.
        Err(error) => assert!(error.to_string().contains("bfq.weight"), "{error}"),
    }
}

#[test]
fn huge_pages_are_those_that_were_asked_for() {
    let Some(host) = host("huge") else { return };
    let size = HugePageSize::of_kib(2048);
    if !host.kernel.abilities().huge_pages.contains_key(&size) {
        println!("skipped: this host has set no huge pages of 2 MiB aside, or can't hold tasks to them");
        return;
    }
    if !has_perl() || cfg!(not(target_arch = "x86_64")) {
        println!("skipped: the script knows the system calls of x86-64 only");
        return;
    }
    // mmap(.., MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB), and a byte of /dev/zero into it.
    let script = "open(Z, '</dev/zero'); my $p = syscall(9, 0, 2 << 20, 3, 0x40022, -1, 0); \
        print $p == -1 ? 'none' : syscall(0, fileno(Z), $p, 1) == 1 ? 'had' : 'refused'";
    let with = Limits { huge_pages: [(size, 2 << 20)].into(), ..LIMITS };
    assert_eq!(host.run(&host.request("a", &["perl", "-e", script], &with)).1, "had");
    assert_eq!(host.run(&host.request("b", &["perl", "-e", script], &LIMITS)).1, "refused");
}

#[test]
fn limits_of_the_process_are_those_that_were_asked_for() {
    let Some(host) = host("rlimits") else { return };
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hf; ulimit -Ss";
    let mut request = host.script("a", script);
    let limit = |soft, hard| Rlimit { soft, hard };
    request.extras.rlimits = [
        (RlimitKind::OpenFiles, limit(Some(99), Some(100))),
        (RlimitKind::Core, limit(None, None)),
        (RlimitKind::FileSize, limit(Some(4096), Some(8192))),
        (RlimitKind::Stack, limit(Some(1 << 20), None)),
    ]
    .into();
    // dash counts files in blocks of 512, and stacks in KiB.
    assert_eq!(host.run(&request).1, "99\n100\nunlimited\n16\n1024\n");

    let (_, out, _) = host.run(&host.script("b", "ulimit -Sn; ulimit -Sc"));
    assert_eq!(out, "1024\n0\n", "the agent's own limit is not the task's");

    let mut request = host.script("c", "true");
    request.extras.rlimits = [(RlimitKind::OpenFiles, limit(None, None))].into();
    let error = host.start_fails(&request);
    assert!(matches!(error, ReleaseError::Step { step: LaunchStep::Limits, .. }), "{error:?}");
    host.remove(&request);
}

#[test]
fn devices_are_the_usual_ones_and_those_that_were_given() {
    let Some(host) = host("devices") else { return };
    let others = ["/dev/loop-control", "/dev/fuse", "/dev/net/tun", "/dev/vda"].map(Path::new);
    let found: Vec<&Path> = others.into_iter().filter(|path| path.exists()).collect();
    let [given, other, ..] = found.as_slice() else {
        println!("skipped: this host has none of the devices that the test knows");
        return;
    };
    let (shown, other) = (given.display(), other.display());
    let script = format!(
        "for d in null zero full random urandom; do head -c 1 /dev/$d > /dev/null 2>&1 || echo no $d; done; \
         echo x > /dev/null && echo null; \
         true < {shown} && echo read; true >> {shown} && echo write; true < {other} && echo other; true"
    );
    let run = |name: &str, devices: Vec<DeviceRule>| {
        let mut request = host.request(name, &["sh", "-c", &script], &Limits { devices, ..LIMITS });
        // Modes keep others from these devices; root is kept from them by the program alone.
        (request.identity.uid, request.identity.gid) = (0, 0);
        let (_, out, err) = host.run(&request);
        (out, err)
    };
    let (out, err) = run("none", Vec::new());
    assert_eq!(out, "null\n", "{err}");
    assert!(err.contains("Operation not permitted"), "{err}");
    let (out, err) = run("read", vec![DeviceRule::of_path(given, false).unwrap()]);
    assert_eq!(out, "null\nread\n", "{err}");
    let (out, err) = run("write", vec![DeviceRule::of_path(given, true).unwrap()]);
    assert_eq!(out, "null\nread\nwrite\n", "{err}");
    // Once more without: what one task was given is no other's.
    assert_eq!(run("again", Vec::new()).0, "null\n");
    assert!(DeviceRule::of_path(Path::new("/etc/passwd"), false).is_err());
}

#[test]
fn devices_that_somebody_set_free_are_held_again() {
    let Some(host) = host("guards") else { return };
    let [given, other] = ["/dev/loop-control", "/dev/fuse"].map(Path::new);
    if !given.exists() || !other.exists() {
        println!("skipped: this host has none of the devices that the test knows");
        return;
    }
    let mended = || -> Vec<PathBuf> {
        let mended = host.kernel.cgroups().mend_devices().unwrap();
        assert!(mended.iter().all(|mended| mended.failed.is_none()), "{mended:?}");
        assert_eq!(host.kernel.cgroups().mend_devices().unwrap(), [], "it wasn't put back");
        mended.into_iter().map(|mended| mended.group).collect()
    };
    let of_root = |name: &str, script: &str, devices: Vec<DeviceRule>| {
        let mut request = host.request(name, &["sh", "-c", script], &Limits { devices, ..LIMITS });
        (request.identity.uid, request.identity.gid) = (0, 0);
        request
    };
    let parent = host.kernel.cgroups().v2_parent().to_owned();
    let opens_other = format!("true < {} && echo opened; true", other.display());
    assert_eq!(mended(), Vec::<PathBuf>::new());
    detach_devices(&parent);
    assert_eq!(host.run(&of_root("free", &opens_other, Vec::new())).1, "opened\n");
    assert_eq!(mended(), std::slice::from_ref(&parent));
    assert_eq!(host.run(&of_root("held", &opens_other, Vec::new())).1, "");

    // A task's own: without it the parent's decides, and it has lost what it was given.
    let waits = format!(
        "for step in 1 2 3; do until [ -e $step ]; do sleep 0.05; done; true < {} && echo $step; done; true",
        given.display()
    );
    let rule = DeviceRule::of_path(given, false).unwrap();
    let request = of_root("given", &waits, vec![rule]);
    let process = host.start(&request);
    let step = |number: u32, expected: &str| {
        std::fs::write(request.sandbox.join(number.to_string()), "").unwrap();
        until("the step is done", || {
            let said = format!("{}{}", stdout(&request), stderr(&request));
            said.lines().count() == number as usize
        });
        assert_eq!(stdout(&request), expected);
    };
    let group = parent.join("given");
    detach_devices(&group);
    step(1, "");
    assert_eq!(mended(), std::slice::from_ref(&group));
    step(2, "2\n");
    // The next life of the agent knows the task's group, too, once it has looked.
    let second = Host::at(host.parent.to_str().unwrap(), host.directory.clone());
    assert_eq!(second.kernel.cgroups().mend_devices().unwrap(), []);
    detach_devices(&group);
    let mended = second.kernel.cgroups().mend_devices().unwrap();
    assert_eq!(mended.iter().map(|mended| &mended.group).collect::<Vec<_>>(), [&group]);
    step(3, "2\n3\n");
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(0)));
    host.remove(&request);
    second.forget();
}

/// As anyone may who is root: takes the device program off a group.
#[expect(unsafe_code, reason = "no safe call detaches what it didn't attach")]
fn detach_devices(group: &Path) {
    use std::os::fd::AsRawFd as _;
    let group = std::fs::File::open(group).unwrap();
    // SAFETY: the call takes two numbers, and the descriptor is open until it returns.
    let answer = unsafe {
        let kind = libbpf_rs::libbpf_sys::BPF_CGROUP_DEVICE;
        libbpf_rs::libbpf_sys::bpf_prog_detach(group.as_raw_fd(), kind)
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}
