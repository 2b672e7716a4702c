//! Each rule has a spec that breaks it, and an error that says so.

use expect_test::expect;

use super::*;
use crate::{PortRange, PortRanges};

fn plain() -> TaskSpec {
    let resources = Resources { cpus_milli: 100, mem_mib: 64, ..Resources::default() };
    TaskSpec::new(TaskId::new("t").unwrap(), resources, vec!["true".to_owned()])
}

fn fetch(url: &str) -> Fetch {
    Fetch { url: url.to_owned(), path: None, sha256: None, is_unpacked: false, is_executable: false }
}

fn mount(host_path: &str, path: &str) -> Mount {
    Mount { host_path: host_path.to_owned(), path: path.to_owned(), is_writable: false }
}

fn health(probe: Probe) -> HealthCheck {
    HealthCheck {
        probe,
        start_period: Duration::ZERO,
        interval: HealthCheck::INTERVAL_DEFAULT,
        timeout: HealthCheck::TIMEOUT_DEFAULT,
        failures_max: 3,
        successes_min: 1,
        is_killed_when_unhealthy: false,
    }
}

#[test]
fn a_plain_spec_is_sound_and_known_to_the_first_version() {
    assert_eq!(plain().check(), Ok(()));
    assert!(plain().is_plain());
    assert!(!TaskSpec { mem_limit_mib: Some(128), ..plain() }.is_plain());
    assert!(!TaskSpec { fetches: vec![fetch("http://a/b")], ..plain() }.is_plain());
}

#[test]
fn a_spec_that_asks_for_everything_is_sound() {
    let ports = PortRanges::new(vec![PortRange::new(31000, 31001).unwrap()]).unwrap();
    let spec = TaskSpec {
        resources: Resources { ports, ..plain().resources },
        groups: vec!["audio".to_owned(), "44".to_owned()],
        mem_limit_mib: Some(128),
        cpuset: [0, 1].into(),
        io: IoLimits { read_bytes_per_second: Some(1 << 20), weight: Some(500), ..IoLimits::default() },
        rlimits: [(RlimitKind::OpenFiles, Rlimit { soft: Some(10), hard: None })].into(),
        oom_score_adjust: Some(1000),
        run_time_max: Some(Duration::from_secs(1)),
        kill_signal: StopSignal::Int,
        has_private_network: true,
        devices: vec![Device { path: "/dev/fuse".to_owned(), is_writable: true }],
        mounts: vec![mount("/srv/data", "data"), mount("/srv/data", "/data")],
        secrets: vec![Secret { name: "key.pem".to_owned(), value: SecretValue(vec![0; 100]) }],
        fetches: vec![fetch("https://a.example/b.tar.gz?x=1")],
        capabilities: ["net_raw".to_owned()].into(),
        seccomp: Some("strict".to_owned()),
        health_check: Some(health(Probe::Http { port: None, path: "/health".to_owned(), is_tls: false })),
        has_input: true,
        ..plain()
    };
    assert_eq!(spec.check(), Ok(()));
}

#[test]
fn an_input_needs_one_command_with_an_init() {
    let shared_namespaces = SharedNamespaces { pid: true, ipc: false };
    let spec = TaskSpec { has_input: true, shared_namespaces, ..plain() };
    assert_eq!(spec.check(), Err(SpecError::Input));
}

fn group() -> TaskSpec {
    let process = |name: &str| ProcessSpec::new(name, vec!["true".to_owned()]);
    let limited = ProcessSpec { cpu_limit_milli: Some(50), mem_limit_mib: Some(32), ..process("log-2") };
    let processes = vec![process("web"), ProcessSpec { is_essential: false, ..limited }];
    TaskSpec { command: Vec::new(), processes, ..plain() }
}

#[test]
fn a_group_is_sound_and_unknown_to_the_first_version() {
    assert_eq!(group().check(), Ok(()));
    assert!(!group().is_plain());
    assert_eq!(group().arguments().count(), 2);
}

#[test]
fn a_group_that_breaks_a_rule_is_told_which() {
    let with = |change: fn(&mut ProcessSpec)| {
        let mut group = group();
        change(&mut group.processes[1]);
        group
    };
    let many = vec![group().processes.remove(0); bounds::PROCESSES_MAX + 1];
    let mut errors = String::new();
    for spec in [
        TaskSpec { command: vec!["true".to_owned()], ..group() },
        TaskSpec { shared_namespaces: SharedNamespaces { pid: true, ipc: false }, ..group() },
        TaskSpec { processes: many, ..group() },
        TaskSpec { has_input: true, ..group() },
        with(|process| process.name = "web".to_owned()),
        with(|process| process.name = "Web".to_owned()),
        with(|process| process.name = "../web".to_owned()),
        with(|process| process.name = "web-".to_owned()),
        with(|process| process.name = "x".repeat(64)),
        with(|process| process.command.clear()),
        with(|process| drop(process.env.insert("A=B".to_owned(), String::new()))),
        with(|process| process.cpu_limit_milli = Some(101)),
        with(|process| process.cpu_limit_milli = Some(9)),
        with(|process| process.mem_limit_mib = Some(65)),
        with(|process| process.mem_limit_mib = Some(3)),
        with(|process| process.command.push("x".repeat(bounds::ARGUMENT_BYTES_MAX - 8))),
    ] {
        let error = spec.check().expect_err("it breaks a rule");
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        errors += &format!("{error}{cause}\n");
    }
    expect![[r#"
        a task has a command or processes, and this one has both
        several processes need a process namespace of their own, and this task shares the host's
        17 processes are more than the 16 that are allowed
        only one command in a process namespace of its own can have an input
        processes names `web` twice
        the name of a process `Web` is not 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends
        the name of a process `../web` is not 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends
        the name of a process `web-` is not 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends
        the name of a process `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx` is not 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends
        the process `log-2` breaks a rule: the command is empty; name a program to run
        the process `log-2` breaks a rule: `A=B` can't name an environment variable: it is empty or holds `=`
        the process `log-2` breaks a rule: its cpu limit (in thousandths) of 101 is above the 100 of the whole task
        the process `log-2` breaks a rule: its cpu limit (in thousandths) must be from 10 to 100; 9 was asked for
        the process `log-2` breaks a rule: its memory limit (in MiB) of 65 is above the 64 of the whole task
        the process `log-2` breaks a rule: its memory limit (in MiB) must be from 4 to 64; 3 was asked for
        the sum of all commands has 131075 bytes; at most 131072 are allowed
    "#]].assert_eq(&errors);
}

#[test]
fn what_breaks_a_rule_is_told_which() {
    let text = |text: &str| text.to_owned();
    let rlimit = |soft, hard| [(RlimitKind::OpenFiles, Rlimit { soft, hard })].into();
    let io = |bytes| IoLimits { read_bytes_per_second: Some(bytes), ..IoLimits::default() };
    let checked = |probe| TaskSpec { health_check: Some(health(probe)), ..plain() };
    let secret = |name: &str, size| Secret { name: text(name), value: SecretValue(vec![0; size]) };
    let device = |path: &str| Device { path: text(path), is_writable: false };
    let unpacked = Fetch { is_unpacked: true, is_executable: true, ..fetch("file:///a.tar") };
    let mut errors = String::new();
    for spec in [
        TaskSpec { mem_limit_mib: Some(63), ..plain() },
        TaskSpec { mem_limit_mib: Some(u64::MAX), ..plain() },
        TaskSpec { cpuset: [bounds::CORE_NUMBER_MAX + 1].into(), ..plain() },
        TaskSpec { oom_score_adjust: Some(1001), ..plain() },
        TaskSpec { run_time_max: Some(Duration::ZERO), ..plain() },
        TaskSpec { rlimits: rlimit(Some(2), Some(1)), ..plain() },
        TaskSpec { rlimits: rlimit(None, Some(1)), ..plain() },
        TaskSpec { io: io(1), ..plain() },
        TaskSpec { io: IoLimits { weight: Some(0), ..IoLimits::default() }, ..plain() },
        TaskSpec { devices: vec![device("/etc/shadow")], ..plain() },
        TaskSpec { devices: vec![device("/dev/../etc/shadow")], ..plain() },
        TaskSpec { devices: vec![device("/dev/kvm"), device("/dev/kvm")], ..plain() },
        TaskSpec { mounts: vec![mount("data", "data")], ..plain() },
        TaskSpec { mounts: vec![mount("/data", "../data")], ..plain() },
        TaskSpec { secrets: vec![secret("../key", 1)], ..plain() },
        TaskSpec { secrets: vec![secret("key", 1 << 20)], ..plain() },
        TaskSpec { fetches: vec![fetch("ftp://a/b")], ..plain() },
        TaskSpec { fetches: vec![fetch("http://a/b c")], ..plain() },
        TaskSpec { fetches: vec![fetch("http://a/")], ..plain() },
        TaskSpec { fetches: vec![fetch("http://a/..")], ..plain() },
        TaskSpec {
            fetches: vec![Fetch { path: Some(text("/etc/passwd")), ..fetch("http://a/b") }],
            ..plain()
        },
        TaskSpec { fetches: vec![unpacked], ..plain() },
        TaskSpec { capabilities: [text("net raw")].into(), ..plain() },
        TaskSpec { seccomp: Some(text("../profile")), ..plain() },
        checked(Probe::Tcp { port: None }),
        checked(Probe::Tcp { port: Some(0) }),
        checked(Probe::Http { port: Some(80), path: text("health"), is_tls: false }),
        checked(Probe::Command { command: vec![] }),
    ] {
        let error = spec.check().expect_err("it breaks a rule");
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        errors += &format!("{error}{cause}\n");
    }
    expect![[r#"
        the memory limit of 63 MiB is below the 64 that are asked for
        resources can't be met: memory limit (in MiB) of 18446744073709551615 is more than one agent can have (68719476736)
        a core's number must be from 0 to 8191; 8192 was asked for
        the OOM score must be from 0 to 1000; 1001 was asked for
        the longest run time (in ms) must be from 1 to 31536000000; 0 was asked for
        the soft limit on nofile is above the hard limit of 1
        the soft limit on nofile is above the hard limit of 1
        bytes read in a second must be from 4096 to 9223372036854775807; 1 was asked for
        the I/O weight must be from 1 to 1000; 0 was asked for
        the device `/etc/shadow` is not below /dev
        the device `/dev/../etc/shadow` leads upwards (`..`)
        devices names `/dev/kvm` twice
        the host path `data` is not absolute
        the mount's path `../data` leads upwards (`..`)
        a secret `../key` is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, beginning without a dot
        the size of all secrets (in bytes) must be from 0 to 131072; 1048576 was asked for
        the URL `ftp://a/b` begins with none of http://, https:// and file:///
        the URL `http://a/b c` holds a blank or a control character
        the URL `http://a/` names no file; say where it is to be put
        the URL `http://a/..` names no file; say where it is to be put
        the fetched file's path `/etc/passwd` is not relative to the sandbox
        the URL `file:///a.tar` can't be both unpacked and executable
        a capability `net raw` is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, beginning without a dot
        a seccomp profile `../profile` is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, beginning without a dot
        the health check names no port, and the task has declared none
        the probe's port must be from 1 to 65535; 0 was asked for
        the probe's path `health` does not begin with `/`, or holds a blank or what is not ASCII
        the command is empty; name a program to run
    "#]].assert_eq(&errors);
}

#[test]
fn a_fetched_file_goes_where_its_url_or_path_says() {
    assert_eq!(fetch("http://a/b/c.txt?d=e/f#g").target(), "c.txt");
    assert_eq!(Fetch { is_unpacked: true, ..fetch("http://a/b.tar") }.target(), "");
    assert_eq!(Fetch { path: Some("x/y".to_owned()), ..fetch("http://a/b") }.target(), "x/y");
}

#[test]
fn a_digest_is_64_hexadecimal_digits() {
    let text = "0123456789abcdefABCDEF00000000000000000000000000000000000000ff01";
    assert_eq!(Sha256::of_hex(text).unwrap().to_string(), text.to_lowercase());
    for wrong in ["", "00", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
        assert_eq!(Sha256::of_hex(wrong), None, "{wrong}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    let secret = Secret { name: "key".to_owned(), value: SecretValue(b"hunter2".to_vec()) };
    assert_eq!(format!("{secret:?}"), r#"Secret { name: "key", value: (7 bytes) }"#);
}
