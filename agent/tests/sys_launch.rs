//! What a task can and can't do, and how it ends: on the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support_sys;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use agent::sys::seccomp::{self, Seccomp};
use agent::sys::{
    Ending, GroupRecord, LaunchRequest, LaunchStep, Limits, MemberEnd, MemberLimits, PathMount, ReleaseError,
    Secrets, Signal, Sys, SysError, UserPolicy,
};
use model::{Exit, StopSignal};
use rustix::thread::CapabilitySet;
use support_sys::{LIMITS, UID, has_perl, host, stdout, until};

#[test]
fn an_exit_code_comes_back() {
    let Some(host) = host("exit-code") else { return };
    let (exit, out, err) = host.run(&host.script("a", "echo out; echo err >&2; exit 3"));
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Code(3), "out\n", "err\n"));
    let mut request = host.script("b", "exit 4");
    request.namespaces.pid = false;
    assert_eq!(host.run(&request).0, Exit::Code(4));
}

#[test]
fn a_signal_comes_back() {
    let Some(host) = host("signal") else { return };
    assert_eq!(host.run(&host.script("a", "kill -SEGV $$")).0, Exit::Signal(11));
    let mut request = host.script("b", "kill -SEGV $$");
    request.namespaces.pid = false;
    assert_eq!(host.run(&request).0, Exit::Signal(11));
}

#[test]
fn sigterm_is_passed_on_to_the_command() {
    let Some(host) = host("sigterm") else { return };
    let request = host.script("a", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    let process = host.start(&request);
    until("the trap is set", || stdout(&request) == "ready\n");
    host.kernel.signal(&process, Signal::Stop(StopSignal::Term)).unwrap();
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(5)));
    host.remove(&request);

    // And one that has no handler ends by the default action, which pid 1 would not have.
    let request = host.request("b", &["sleep", "1000"], &LIMITS);
    let process = host.start(&request);
    host.kernel.signal(&process, Signal::Stop(StopSignal::Term)).unwrap();
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Signal(15)));
    host.remove(&request);
}

#[test]
fn every_kill_signal_is_passed_on_to_the_command() {
    let Some(host) = host("kill-signals") else { return };
    for (place, signal) in StopSignal::ALL.iter().enumerate() {
        for pid in [true, false] {
            let script =
                format!("trap 'exit {place}' {}; echo ready; while :; do sleep 0.01; done", signal.as_str());
            let mut request = host.script(&format!("{}-{pid}", signal.as_str()), &script);
            request.namespaces.pid = pid;
            let process = host.start(&request);
            until("the trap is set", || stdout(&request) == "ready\n");
            host.kernel.signal(&process, Signal::Stop(*signal)).unwrap();
            let code = u8::try_from(place).unwrap();
            assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(code)), "{}", signal.as_str());
            host.remove(&request);
        }
    }
}

#[test]
fn what_cannot_be_executed_is_said_so() {
    let Some(host) = host("exec") else { return };
    for pid in [true, false] {
        for (name, command, errno, code) in [
            ("missing", "no-such-command", libc::ENOENT, 127),
            ("path", "/etc/no-such-command", libc::ENOENT, 127),
            ("file", "/etc/passwd", libc::EACCES, 126),
            ("directory", "/etc", libc::EACCES, 126),
        ] {
            let mut request = host.request(&format!("{name}-{pid}"), &[command], &LIMITS);
            request.namespaces.pid = pid;
            let error = host.start_fails(&request);
            let ReleaseError::Exec { command: named, source } = error else { panic!("{error:?}") };
            assert_eq!((named.as_str(), source.raw_os_error()), (command, Some(errno)));
            if pid {
                assert_eq!(host.kernel.read_exit_file(&request.exit_file).unwrap(), Some(Exit::Code(code)));
            }
            host.remove(&request);
        }
    }
}

#[test]
fn a_directory_that_the_user_may_not_enter_is_said_so() {
    let Some(host) = host("cwd") else { return };
    let mut request = host.script("a", "true");
    request.cwd = request.sandbox.join("closed");
    fs::create_dir(&request.cwd).unwrap();
    fs::set_permissions(&request.cwd, fs::Permissions::from_mode(0o700)).unwrap();
    let error = host.start_fails(&request);
    assert!(
        matches!(&error, ReleaseError::Step { step: LaunchStep::WorkingDirectory, source }
            if source.raw_os_error() == Some(libc::EACCES)),
        "{error:?}"
    );
    host.remove(&request);
}

#[test]
fn the_path_of_the_task_is_searched() {
    let Some(host) = host("path") else { return };
    let mut request = host.request("a", &["tool", "x"], &LIMITS);
    let bin = request.sandbox.join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("tool"), "#!/bin/sh\necho tool $1\n").unwrap();
    fs::set_permissions(bin.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    request.env = vec![("PATH".into(), format!("/nowhere::{}", bin.display()).into())];
    assert_eq!(host.run(&request).1, "tool x\n");
}

#[test]
fn the_environment_is_exact_and_no_descriptor_leaks() {
    let Some(host) = host("exact") else { return };
    for pid in [true, false] {
        let _held_open = fs::File::open("/etc/passwd").unwrap();
        let mut request = host.request(&format!("env-{pid}"), &["env"], &LIMITS);
        request.namespaces.pid = pid;
        request.env = vec![("A".into(), "1 2".into()), ("B".into(), "".into())];
        assert_eq!(host.run(&request).1, "A=1 2\nB=\n");

        // 3 is the listing's own.
        let mut request = host.request(&format!("fds-{pid}"), &["ls", "/proc/self/fd"], &LIMITS);
        request.namespaces.pid = pid;
        assert_eq!(host.run(&request).1, "0\n1\n2\n3\n");

        let script = "grep -E '^(Sig(Blk|Ign)|NoNewPrivs|Cap)' /proc/self/status; ulimit -c; umask";
        let mut request = host.request(&format!("state-{pid}"), &["sh", "-c", script], &LIMITS);
        request.namespaces.pid = pid;
        let out = host.run(&request).1;
        let zero = "0000000000000000";
        for line in ["SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(out.contains(&format!("{line}:\t{zero}\n")), "{line} in {out}");
        }
        assert!(out.ends_with("NoNewPrivs:\t1\n0\n0022\n"), "{out}");
    }
}

#[test]
fn a_task_is_who_it_was_asked_to_be() {
    let Some(host) = host("who") else { return };
    let mut request = host.script(
        "a",
        "id -u; id -g; id -G; echo owned >> /proc/self/fd/1; pwd; cut -d' ' -f6 /proc/self/stat",
    );
    request.identity.groups = vec![UID, 1234];
    let (exit, out, err) = host.run(&request);
    assert_eq!(exit, Exit::Code(0), "{err}");
    let lines: Vec<&str> = out.lines().map(str::trim).collect();
    assert_eq!(lines, ["65534", "65534", "65534 1234", "owned", request.sandbox.to_str().unwrap(), "2"]);
}

#[test]
fn an_unknown_user_or_root_gets_no_identity() {
    let Some(host) = host("users") else { return };
    let policy = UserPolicy::default();
    assert!(host.kernel.resolve_user("no-such-user-here", &[], &policy).is_err());
    assert!(host.kernel.resolve_user("root", &[], &policy).is_err());
    assert_eq!(host.kernel.resolve_user("nobody", &[], &policy).unwrap().uid, UID);
}

#[test]
fn a_task_cannot_become_root() {
    let Some(host) = host("root") else { return };
    let request = host.script("a", "./id -u; unshare -m true 2>/dev/null; mount -t tmpfs x /mnt; echo $?");
    let id = request.sandbox.join("id");
    let found = ["/usr/bin/id", "/bin/id"].iter().find(|path| fs::metadata(path).is_ok());
    fs::copy(found.unwrap(), &id).unwrap();
    fs::set_permissions(&id, fs::Permissions::from_mode(0o4755)).unwrap();
    let (_, out, _) = host.run(&request);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.first(), Some(&"65534"), "a setuid binary gave root: {out}");
    assert_ne!(lines.last(), Some(&"0"), "a task could mount: {out}");
}

#[test]
fn a_task_of_root_has_no_power_over_the_host() {
    let Some(host) = host("rootly") else { return };
    let script = "grep CapEff /proc/self/status; \
        echo x > /proc/sys/kernel/hostname; mkdir /sys/fs/cgroup/unified/x; mkdir /sys/fs/cgroup/x; \
        mount -t tmpfs x /mnt; umount /tmp; cat $0/secret; echo end";
    let mut request = host.request("a", &["sh", "-c", script, host.directory.to_str().unwrap()], &LIMITS);
    fs::write(host.directory.join("secret"), "secret").unwrap();
    request.identity.uid = 0;
    request.identity.gid = 0;
    request.identity.groups = vec![0];
    let (exit, out, err) = host.run(&request);
    assert_eq!((exit, out.as_str()), (Exit::Code(0), "CapEff:\t00000000000404fb\nend\n"), "{err}");
    // mount adds a hint on a line of its own.
    let refusals = err.lines().filter(|line| !line.contains("dmesg")).count();
    assert_eq!(refusals, 6, "each attempt was refused: {err}");
}

#[test]
fn a_task_cannot_see_other_processes() {
    let Some(host) = host("pids") else { return };
    let request = host.script("a", "ls -d /proc/[0-9]*; cat /proc/1/comm; ls /proc/1/fd 2>&1 | wc -l");
    let (_, out, _) = host.run(&request);
    let pids: Vec<&str> = out.lines().filter(|line| line.starts_with("/proc/")).collect();
    assert_eq!(pids, ["/proc/1", "/proc/2"], "{out}");
    assert!(out.contains("muster-init"), "{out}");
}

#[test]
fn hidden_files_are_hidden_and_the_sandbox_is_not() {
    let Some(host) = host("hidden") else { return };
    let secret = host.directory.join("token");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let file = PathBuf::from(format!("{}.alone", host.directory.display()));
    fs::write(&file, "secret").unwrap();
    let script = "cat $0/token 2>/dev/null; cat $1; ls $0; ls $0/sandboxes; echo hi > here; cat here; \
        touch $0/new 2>/dev/null || echo read-only; grep -c muster-hidden /proc/self/mountinfo";
    let argv = ["sh", "-c", script, host.directory.to_str().unwrap(), file.to_str().unwrap()];
    let mut request = host.request("a", &argv, &LIMITS);
    request.hidden.extend([file.clone(), PathBuf::from("/no/such/path")]);
    let outcome = host.run(&request);
    fs::remove_file(&file).unwrap();
    assert_eq!(outcome.1, "sandboxes\na\nhi\nread-only\n1\n", "{}", outcome.2);
    assert_eq!(fs::read_to_string(request.sandbox.join("here")).unwrap(), "hi\n");
}

#[test]
fn tmp_and_shared_memory_are_the_tasks_own() {
    let Some(host) = host("tmp") else { return };
    let script = "echo 1 > /tmp/muster-own; echo 2 > /dev/shm/muster-own; ls /tmp /dev/shm; ipcs -m | wc -l";
    let request = host.script("a", script);
    let (exit, out, err) = host.run(&request);
    assert_eq!(exit, Exit::Code(0), "{err}");
    assert!(out.starts_with("/dev/shm:\nmuster-own\n\n/tmp:\nmuster-own\n"), "{out}");
    assert!(!PathBuf::from("/tmp/muster-own").exists() && !PathBuf::from("/dev/shm/muster-own").exists());
    assert!(request.sandbox.join("tmp/muster-own").exists());

    let mut request = host.script("b", "ls /dev/shm /tmp >/dev/null; test -e /tmp/muster-own && echo shared");
    request.tmp = None;
    request.namespaces.ipc = false;
    assert_eq!(host.run(&request).1, "");
}

#[test]
fn killing_gets_daemons_and_new_sessions() {
    let Some(host) = host("daemons") else { return };
    for pid in [true, false] {
        let script = "(setsid sh -c 'trap \"\" TERM HUP; echo one; while :; do sleep 1; done' &) ; \
            (sh -c 'sh -c \"trap : TERM; echo two; sleep 1000\" &' &) ; trap '' TERM; sleep 1000";
        let mut request = host.request(&format!("a-{pid}"), &["sh", "-c", script], &LIMITS);
        request.namespaces.pid = pid;
        let process = host.start(&request);
        until("both daemons run", || stdout(&request).lines().count() == 2);
        host.kernel.signal(&process, Signal::Stop(StopSignal::Term)).unwrap();
        assert_eq!(host.kernel.ending(&process, &request.exit_file).unwrap(), Ending::Running);
        host.kernel.kill_cgroup(&request.cgroup).unwrap();
        assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Signal(9)));
        host.remove(&request);
    }
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    let Some(host) = host("leftover") else { return };
    let request = host.script("a", "(sleep 1000 &); exit 0");
    let process = host.start(&request);
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(0)));
    // The namespace's first process ends after all others in it.
    assert!(host.kernel.is_cgroup_empty(&request.cgroup).unwrap());
    host.remove(&request);
}

#[test]
fn orphans_are_reaped() {
    let Some(host) = host("orphans") else { return };
    let script = "for i in 1 2 3 4 5 6 7 8; do (sh -c 'true &'); done; \
        n=1; while [ $n != 0 ]; do n=$(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l); done; echo none";
    assert_eq!(host.run(&host.script("a", script)).1, "none\n");
}

#[test]
fn a_held_process_ends_when_it_is_dropped() {
    let Some(host) = host("dropped") else { return };
    let request = host.script("a", "echo ran");
    let held = host.spawn(&request);
    let process = held.process().clone();
    assert!(!host.kernel.is_cgroup_empty(&request.cgroup).unwrap());
    assert_eq!(host.kernel.reopen(process.id()).unwrap().map(|found| found.id()), Some(process.id()));
    drop(held);
    assert_eq!(host.kernel.reopen(process.id()).unwrap().map(|found| found.id()), None);
    assert!(host.kernel.is_cgroup_empty(&request.cgroup).unwrap());
    assert_eq!(stdout(&request), "");
    host.remove(&request);
}

#[test]
fn a_launch_into_a_missing_or_killed_group_fails() {
    let Some(host) = host("no-group") else { return };
    let request = host.script("a", "true");
    assert!(matches!(host.kernel.create_cgroup(&request.cgroup, &LIMITS), Err(SysError::GroupExists { .. })));
    host.remove(&request);
    assert!(host.kernel.spawn(&request).is_err());
    // What is gone is no error to whoever removes or kills again.
    host.kernel.kill_cgroup(&request.cgroup).unwrap();
    host.kernel.remove_cgroup(&request.cgroup).unwrap();
    assert_eq!(host.kernel.cgroup_id(&request.cgroup).unwrap(), None);
}

#[test]
fn bad_limits_name_the_file_and_leave_nothing() {
    let Some(host) = host("bad-limits") else { return };
    let name = agent::sys::CgroupName::new("a").unwrap();
    let error = host.kernel.create_cgroup(&name, &Limits { pids_max: u32::MAX, ..LIMITS }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("pids.max") && text.contains("4294967295"), "{text}");
    assert!(host.kernel.list_cgroups().unwrap().is_empty());
}

#[test]
fn the_default_profile_refuses_what_reaches_beyond_the_task() {
    let Some(host) = host("seccomp") else { return };
    let script = "grep Seccomp: /proc/self/status; unshare -U true; (true; true) & wait; sleep 0; echo end";
    for pid in [true, false] {
        let mut request = host.script(&format!("a-{pid}"), script);
        request.namespaces.pid = pid;
        let (exit, out, err) = host.run(&request);
        assert_eq!((exit, out.as_str()), (Exit::Code(0), "Seccomp:\t2\nend\n"), "{err}");
        assert!(err.starts_with("unshare: ") && err.ends_with("Operation not permitted\n"), "{err}");
    }
    let mut request = host.script("b", "grep Seccomp: /proc/self/status");
    request.extras.seccomp = Seccomp::Unconfined;
    assert_eq!(host.run(&request).1, "Seccomp:\t0\n");

    // mount and its kin are refused before the kernel looks for a capability, keyctl always.
    if has_perl() && cfg!(target_arch = "x86_64") {
        let calls = "for my $call (250, 321, 298, 425, 435, 165, 1000) { \
            $! = 0; syscall($call, 0, 0, 0, 0, 0, 0); print $! + 0, ' ' }";
        let request = host.request("c", &["perl", "-e", calls], &LIMITS);
        assert_eq!(host.run(&request).1, "1 1 1 1 38 1 38 ");
    }
}

#[test]
fn a_profile_of_the_operator_holds() {
    let Some(host) = host("profile") else { return };
    let line = |code: u32, jt, jf, k| seccomp::Instruction { code: code as u16, jt, jf, k };
    let (load, jump, answer) = (libc::BPF_LD | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ, libc::BPF_RET);
    // The number; is it one of mkdir's? then EXDEV, which nothing else would answer.
    #[cfg(target_arch = "x86_64")]
    let old = libc::SYS_mkdir as u32;
    #[cfg(not(target_arch = "x86_64"))]
    let old = libc::SYS_mkdirat as u32;
    let program = [
        line(load, 0, 0, 0),
        line(jump, 1, 0, old),
        line(jump, 0, 1, libc::SYS_mkdirat as u32),
        line(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EXDEV as u32),
        line(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let mut request = host.script("a", "mkdir x || ls");
    request.extras.seccomp = Seccomp::Custom(std::sync::Arc::from(program));
    let (_, out, err) = host.run(&request);
    assert!(err.contains("ross-device link"), "{err}");
    assert!(!out.lines().any(|line| line == "x"), "{out}");

    // What the kernel does not take is told as such.
    let mut request = host.script("b", "true");
    request.extras.seccomp = Seccomp::Custom(std::sync::Arc::from([line(load, 0, 0, 0)]));
    let error = host.start_fails(&request);
    assert!(matches!(error, ReleaseError::Step { step: LaunchStep::Filter, .. }), "{error:?}");
    host.remove(&request);
}

#[test]
fn capabilities_reach_the_command_and_nothing_more_does() {
    let Some(host) = host("capabilities") else { return };
    let script =
        "grep ^Cap /proc/self/status | cut -f2 | sort -u; cat /proc/1/status | grep CapEff | cut -f2";
    for pid in [true, false] {
        let mut request = host.script(&format!("a-{pid}"), script);
        request.namespaces.pid = pid;
        request.extras.capabilities = CapabilitySet::NET_RAW | CapabilitySet::SYS_NICE;
        let out = host.run(&request).1;
        assert!(out.starts_with("0000000000802000\n"), "{out}");
        if pid {
            assert_eq!(out, "0000000000802000\n0000000000802000\n");
        }
    }
    let mut request = host.script("root", "grep CapEff /proc/self/status; grep CapBnd /proc/self/status");
    request.extras.capabilities = CapabilitySet::NET_RAW;
    (request.identity.uid, request.identity.gid) = (0, 0);
    assert_eq!(host.run(&request).1, "CapEff:\t00000000000424fb\nCapBnd:\t00000000000424fb\n");
}

/// On a thread of its own, as a filter is for good.
#[test]
#[expect(unsafe_code, reason = "the libraries' own calls would really end the host")]
fn a_filtered_thread_can_not_end_the_host_and_lives_on() {
    let Some(_host) = host("filter") else { return };
    std::thread::spawn(|| {
        // Without the magic numbers of reboot(2) nothing happens, filter or not.
        let end_the_host = || {
            // SAFETY: numbers only, and a command that does not exist.
            let answer = unsafe { libc::syscall(libc::SYS_reboot, 0, 0, 0, 0) };
            assert_eq!(answer, -1);
            std::io::Error::last_os_error().raw_os_error().unwrap()
        };
        assert_eq!(end_the_host(), libc::EINVAL);
        agent::sys::filter::install(rustix::thread::CapabilitySet::empty()).unwrap();
        assert_eq!(end_the_host(), libc::EPERM);
        assert!(fs::read_to_string("/proc/thread-self/status").unwrap().contains("Seccomp:\t2"));
        // What it starts is filtered, too, and works as ever.
        let output = std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("Seccomp:\t2"));
    })
    .join()
    .unwrap();
}

#[test]
fn a_network_of_its_own_has_loopback_alone() {
    let Some(host) = host("network") else { return };
    let mut request = host.script("names", "tail -n +3 /proc/net/dev | cut -d: -f1");
    request.namespaces.network = true;
    assert_eq!(host.run(&request).1.trim(), "lo");
    if !has_perl() {
        return;
    }
    let script = "perl -e 'use Socket; \
        socket(S, PF_INET, SOCK_STREAM, 0) and bind(S, sockaddr_in(7, INADDR_LOOPBACK)) and listen(S, 1) or die $!; \
        socket(C, PF_INET, SOCK_STREAM, 0) and connect(C, sockaddr_in(7, INADDR_LOOPBACK)) or die $!; print \"up\\n\"'";
    let mut request = host.script("a", script);
    request.namespaces.network = true;
    // Whose network it is, its user may not decide: a low port takes the capability.
    request.extras.capabilities = CapabilitySet::NET_BIND_SERVICE;
    let (_, out, err) = host.run(&request);
    assert_eq!(out, "up\n", "{err}");
}

#[test]
fn secrets_are_in_memory_for_the_user_alone() {
    let Some(host) = host("secrets") else { return };
    let secret = |name: &str, value: &str| model::Secret {
        name: name.to_owned(),
        value: model::SecretValue(value.as_bytes().to_vec()),
    };
    let mut request = host.script("a", "true");
    let directory = request.sandbox.parent().unwrap().join("secrets");
    let shown = directory.display();
    let script = format!(
        "cd {shown} && cat a; stat -c '%n %a %u %s' a empty .; stat -f -c %T .; echo x > a; echo x > new; \
         chmod 777 . ; ls; echo ready; sleep 1000"
    );
    request.argv = ["sh", "-c", &script].map(Into::into).to_vec();
    request.extras.secrets = Some(Secrets {
        directory: directory.clone(),
        files: vec![secret("a", "hush\n"), secret("empty", "")],
    });
    host.start(&request);
    until("it has looked", || stdout(&request).ends_with("ready\n"));
    let expected = "hush\na 400 65534 5\nempty 400 65534 0\n. 500 65534 0\nramfs\na\nempty\nready\n";
    assert_eq!(stdout(&request), expected, "{}", support_sys::stderr(&request));
    // Nobody else sees them: not the host, not another task.
    assert!(!directory.exists());
    let other = host.request("b", &["ls", directory.to_str().unwrap()], &LIMITS);
    assert_ne!(host.run(&other).0, Exit::Code(0));
    host.remove(&request);
}

#[test]
fn host_paths_are_seen_where_they_were_asked_for() {
    let Some(host) = host("paths") else { return };
    let root = PathBuf::from(format!("{}.paths", host.directory.display()));
    fs::create_dir_all(root.join("data/deep")).unwrap();
    fs::write(root.join("data/deep/file"), "from the host\n").unwrap();
    fs::set_permissions(root.join("data/deep"), fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink("deep", root.join("data/inside")).unwrap();
    std::os::unix::fs::symlink("/etc", root.join("data/outside")).unwrap();

    let script = "cat in/deep/file; cat one; echo x > in/deep/new || echo read-only; echo y > /tmp/rw/mine; ls /mnt; \
        grep -c ' [^ ]*nosuid,nodev' /proc/self/mountinfo > /dev/null; touch /tmp/rw/c && ls /tmp/rw";
    let mut request = host.script("a", script);
    let sandbox = request.sandbox.clone();
    let mount = |host_path: &str, target: PathBuf, is_writable| PathMount {
        allowed: root.join("data"),
        host_path: root.join(host_path),
        target,
        is_writable,
    };
    request.extras.mounts = vec![
        mount("data", sandbox.join("in"), false),
        mount("data/deep/file", sandbox.join("one"), false),
        mount("data/inside", "/tmp/rw".into(), true),
        mount("data/deep", "/mnt".into(), false),
    ];
    let (_, out, err) = host.run(&request);
    assert_eq!(out, "from the host\nfrom the host\nread-only\nfile\nmine\nc\nfile\nmine\n", "{err}");
    assert_eq!(fs::read_to_string(root.join("data/deep/mine")).unwrap(), "y\n");
    assert!(!root.join("data/deep/new").exists() && !PathBuf::from("/tmp/rw").exists());

    // Out of what is allowed, by link or by name; onto nothing; onto what is of another kind; over a link.
    let hidden = host.directory.clone();
    for (name, mounts, expected) in [
        ("link", vec![mount("data/outside", sandbox.join("x"), false)], "cross-device"),
        ("absent", vec![mount("data/none", sandbox.join("x"), false)], "No such file"),
        ("beside", vec![mount("other", sandbox.join("x"), false)], "cross-device"),
        ("nowhere", vec![mount("data", "/no/such/place".into(), false)], "nothing to mount on"),
        ("kind", vec![mount("data", "/etc/passwd".into(), false)], "nothing to mount on"),
        (
            "hidden",
            vec![PathMount {
                allowed: "/".into(),
                host_path: hidden,
                target: "/mnt".into(),
                is_writable: false,
            }],
            "hidden from tasks",
        ),
        (
            "above",
            vec![PathMount {
                allowed: "/".into(),
                host_path: "/var".into(),
                target: "/mnt".into(),
                is_writable: false,
            }],
            "hidden from tasks",
        ),
    ] {
        let mut request = host.script(name, "true");
        let at_home = request.sandbox.clone();
        request.extras.mounts = mounts;
        for mount in &mut request.extras.mounts {
            if let Ok(below) = mount.target.strip_prefix(&sandbox) {
                mount.target = at_home.join(below);
            }
        }
        let error = host.kernel.spawn(&request).unwrap_err();
        let text = agent::execute::chain(&error);
        assert!(text.contains(expected), "{name}: {text}");
        host.remove(&request);
    }

    // A sandbox that its user (or an archive) has filled with links leads the agent nowhere.
    let mut request = host.script("links", "true");
    std::os::unix::fs::symlink(&root, request.sandbox.join("way")).unwrap();
    request.extras.mounts = vec![mount("data", request.sandbox.join("way/out"), false)];
    let error = agent::execute::chain(&host.kernel.spawn(&request).unwrap_err());
    assert!(error.contains("nothing to mount on"), "{error}");
    assert!(!root.join("out").exists());
    host.remove(&request);
    fs::remove_dir_all(&root).unwrap();
}

/// What a process of a group has written.
fn wrote(request: &LaunchRequest, process: &str) -> String {
    let member = request.group.as_ref().unwrap().members.iter().find(|member| member.name == process);
    fs::read_to_string(&member.unwrap().stdout).unwrap_or_default()
}

fn own(exit: Exit) -> Option<MemberEnd> {
    Some(MemberEnd { exit, is_own: true })
}

fn asked(exit: Exit) -> Option<MemberEnd> {
    Some(MemberEnd { exit, is_own: false })
}

#[test]
fn a_group_shares_its_sandbox_and_ends_with_an_essential_process() {
    let Some(host) = host("group") else { return };
    let request = host.group(
        "a",
        &LIMITS,
        &[
            ("web", "echo $NAME; ls /proc/self/fd | tr '\\n' ' '; echo here > file; exec sleep 1000"),
            ("log", "until [ -s file ]; do sleep 0.01; done; cat file; echo $$; exit 3"),
            ("aside?", "until [ -s file ]; do sleep 0.01; done; exit 4"),
        ],
    );
    let process = host.start(&request);
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(3)));
    // 3 is the listing's own. The first process of the namespace is the init.
    assert_eq!(wrote(&request, "web"), "web\n0 1 2 3 ");
    assert_eq!(wrote(&request, "log"), "here\n3\n");
    let record = host.kernel.read_group_record(&request.exit_file).unwrap().unwrap();
    assert_eq!(
        (record.decisive, record.ends[0], record.ends[1]),
        (Some(1), asked(Exit::Signal(15)), own(Exit::Code(3)))
    );
    host.remove(&request);
}

#[test]
fn what_is_not_essential_ends_alone_and_without_essential_ones_all_must_end() {
    let Some(host) = host("aside") else { return };
    let request =
        host.group("a", &LIMITS, &[("one?", "exit 7"), ("two", "until [ -e go ]; do sleep 0.01; done")]);
    let process = host.start(&request);
    let record = || host.kernel.read_group_record(&request.exit_file).unwrap().unwrap();
    until("the first is over", || record().ends[0].is_some());
    let expected = GroupRecord { decisive: None, ends: vec![own(Exit::Code(7)), None] };
    assert_eq!(record(), expected);
    assert_eq!(host.kernel.read_exit_file(&request.exit_file).unwrap(), None);
    fs::write(request.sandbox.join("go"), "").unwrap();
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(0)));
    assert_eq!(
        record(),
        GroupRecord { decisive: Some(1), ends: vec![own(Exit::Code(7)), own(Exit::Code(0))] }
    );
    host.remove(&request);

    let request = host.group("b", &LIMITS, &[("one?", "exit 7"), ("two?", "kill -9 $$")]);
    let process = host.start(&request);
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(0)));
    let record = host.kernel.read_group_record(&request.exit_file).unwrap().unwrap();
    assert_eq!(record, GroupRecord { decisive: None, ends: vec![own(Exit::Code(7)), own(Exit::Signal(9))] });
    host.remove(&request);
}

#[test]
fn of_a_group_with_one_process_that_is_not_there_none_begins() {
    let Some(host) = host("group-missing") else { return };
    let mut request = host.group("a", &LIMITS, &[("one", "echo begun"), ("two", "")]);
    request.group.as_mut().unwrap().members[1].argv = vec!["muster-no-such-program".into()];
    let error = host.start_fails(&request);
    let ReleaseError::Member { name, error } = &error else { panic!("{error:?}") };
    assert_eq!(name, "two");
    assert_eq!(error.to_string(), "can't run `muster-no-such-program`");
    assert_eq!(wrote(&request, "one"), "");
    host.remove(&request);

    // What no look at the program can tell: then the others may have begun, and end with it.
    let mut request = host.group("b", &LIMITS, &[("one", "sleep 1000"), ("two", "")]);
    let broken = request.sandbox.join("broken");
    fs::write(&broken, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    request.group.as_mut().unwrap().members[1].argv = vec![broken.into()];
    assert!(host.start_fails(&request).is_of_command());
    host.remove(&request);
}

#[test]
fn a_process_of_a_group_is_held_to_its_own_memory() {
    let Some(host) = host("group-memory") else { return };
    let limits = Limits {
        members: vec![MemberLimits {
            name: "eater".to_owned(),
            cpu_quota_milli: Some(500),
            memory_bytes: Some(16 << 20),
        }],
        ..LIMITS
    };
    // `tail` keeps the whole of a line without end.
    let eat = "head -c 200000000 /dev/zero | tail";
    let request = host.group("a", &limits, &[("eater", eat), ("other", "sleep 1000")]);
    let process = host.start(&request);
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(137)));
    let eater = host.kernel.member_figures(&request.cgroup, "eater").unwrap();
    assert!(eater.oom_kills > 0 && eater.has_reached_memory_limit, "{eater:?}");
    let other = host.kernel.member_figures(&request.cgroup, "other").unwrap();
    assert_eq!((other.oom_kills, other.has_reached_memory_limit), (0, false));
    // The whole knows of it on every kind of host.
    assert_eq!(host.kernel.figures(&request.cgroup).unwrap().oom_kills, Some(eater.oom_kills));
    host.remove(&request);
}

#[test]
fn a_group_is_asked_to_end_and_killed_together() {
    let Some(host) = host("group-kill") else { return };
    let wait = "trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.01; done";
    let request = host.group("a", &LIMITS, &[("one", wait), ("two", wait), ("three", stubborn)]);
    let process = host.start(&request);
    for name in ["one", "two", "three"] {
        until("the traps are set", || wrote(&request, name) == "ready\n");
    }
    host.kernel.signal(&process, Signal::Stop(StopSignal::Term)).unwrap();
    for name in ["one", "two"] {
        until("it was asked to end, once", || wrote(&request, name) == "ready\nterm\n");
    }
    let record = || host.kernel.read_group_record(&request.exit_file).unwrap().unwrap();
    until("two are over", || record().ends.iter().flatten().count() == 2);
    assert_eq!(record().ends, [asked(Exit::Code(5)), asked(Exit::Code(5)), None]);
    host.kernel.kill_cgroup(&request.cgroup).unwrap();
    host.wait(&process, &request);
    host.remove(&request);
}
