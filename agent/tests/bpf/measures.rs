//! Every measure beside CPU time and memory, each against the kernel's own figure.
//!
//! Deeds stop where the test wants to look: between two stages, what they did is all that there was.
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use agent::sys::bpf::{
    Availability, Block, Counted, IoBytes, Measure, Measures, Options, Program, Programs, Used,
};

use crate::{
    LIMITS, Pins,
    group::{Group, Running, wait_for},
    process::{self, CONNECTIONS, FILE, FILE_BYTES, REFUSED, STAGE},
    with,
};

/// A deed in a group of its own, stopped at a stage.
struct Deed {
    child: Running,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Deed {
    fn start(group: &Group, name: &str, variables: &[(&str, &Path)]) -> Self {
        let script = process::script_that_speaks(name);
        let mut command = group.command(&script);
        command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Running(command.spawn().unwrap());
        let stdin = child.0.stdin.take().unwrap();
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut deed = Self { child, stdin, lines };
        deed.wait_for_stage();
        deed
    }

    /// Lets it go on to its next stage.
    fn go_on(&mut self) {
        self.stdin.write_all(b"go\n").unwrap();
        self.wait_for_stage();
    }

    fn wait_for_stage(&mut self) {
        let is_there = self.lines.by_ref().any(|line| line.unwrap() == STAGE);
        assert!(is_there, "the deed ended early: {:?}", self.child.0.wait());
    }

    fn end(mut self) -> Option<i32> {
        self.stdin.write_all(b"go\n").unwrap();
        self.child.0.wait().unwrap().code()
    }

    /// Of the thread that does the deed; the first one only waits for it, and may be in other namespaces.
    fn thread(&self, file: &str) -> String {
        let pid = self.child.0.id();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let names = threads.map(|thread| thread.unwrap().file_name().into_string().unwrap());
        let second =
            names.filter_map(|name| name.parse::<u32>().ok()).filter(|tid| *tid != pid).min().unwrap();
        fs::read_to_string(format!("/proc/{pid}/task/{second}/{file}")).unwrap()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.0.id())).unwrap()
    }
}

/// Programs with their tasks' cgroup, where those that the test needs can run, and that cgroup.
fn start(needs: &[Program]) -> Option<(Pins, Programs, Group)> {
    let pins = Pins::new()?;
    let group = Group::new();
    let options = Options { cgroup: Some(group.path().to_owned()), ..with(LIMITS) };
    let programs = pins.open(needs, options)?;
    programs.register_cgroup(group.id()).unwrap();
    Some((pins, programs, group))
}

fn counted(programs: &Programs, group: &Group) -> Counted {
    programs.counted(group.id()).unwrap().unwrap()
}

/// A number that stands behind a name in a file of the kernel's.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn block_io_and_faults_of_the_living_are_the_kernels_and_those_of_the_dead_are_kept() {
    let Some((_pins, programs, group)) = start(&[Program::Snap, Program::Exit]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let mut deed = Deed::start(&group, "use_the_disk", &[(FILE, &file)]);
    deed.go_on();

    let mut last = (Used::default(), Used::default());
    wait_for("bytes and faults as in /proc", || {
        let io = deed.proc("io");
        let stat = deed.proc("stat");
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let kernel = Used {
            io: Some(IoBytes {
                read: number(&io, "read_bytes"),
                written: number(&io, "write_bytes"),
                cancelled: number(&io, "cancelled_write_bytes"),
            }),
            faults_minor: fields[7].parse().unwrap(),
            faults_major: fields[9].parse().unwrap(),
        };
        let living = programs.snapshot().unwrap().cgroups[&group.id()].used;
        // A thread of the test harness may have ended before the first stage.
        last = (living.plus(counted(&programs, &group).ended.unwrap()), kernel);
        last.0 == last.1
    });
    let Used { io: Some(io), .. } = last.0 else { panic!("no account of I/O") };
    eprintln!("used: {last:?}");
    if nix::sys::statfs::statfs(folder.path()).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        eprintln!("skipped: no disk below {}", folder.path().display());
    } else {
        assert!(io.written >= FILE_BYTES && io.read >= FILE_BYTES, "{io:?}");
    }

    assert_eq!(deed.end(), Some(0));
    group.wait_empty();
    let mut kept = Used::default();
    wait_for("all that the dead had used", || {
        kept = counted(&programs, &group).ended.unwrap();
        !programs.snapshot().unwrap().cgroups.contains_key(&group.id())
    });
    eprintln!("kept: {kept:?}");
    // Dying touches a few pages more. The first who does so after a build may read them from the disk, and dirties the
    // inode with its access time.
    let more = |kept: u64, used: u64| kept.checked_sub(used).expect("nothing is forgotten");
    let (kept_io, faults) = (kept.io.unwrap(), more(kept.faults_minor, last.0.faults_minor));
    let (read, written) = (more(kept_io.read, io.read), more(kept_io.written, io.written));
    assert!(faults < 1000, "{faults} faults on the way out");
    assert!(
        read < FILE_BYTES / 4 && written < FILE_BYTES / 64,
        "{read} bytes read and {written} written on the way out"
    );
    assert_eq!(kept_io.cancelled, io.cancelled);
}

/// What the kernel says of all threads of a process: time in the run queue, how often one was put on a CPU, and
/// how often one left it, by its own will and not.
fn switches(pid: u32) -> [u64; 4] {
    let mut sums = [0; 4];
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let path = thread.unwrap().path();
        let schedstat = fs::read_to_string(path.join("schedstat")).unwrap();
        let fields: Vec<u64> = schedstat.split_ascii_whitespace().map(|word| word.parse().unwrap()).collect();
        let status = fs::read_to_string(path.join("status")).unwrap();
        let values = [
            fields[1],
            fields[2],
            number(&status, "voluntary_ctxt_switches"),
            number(&status, "nonvoluntary_ctxt_switches"),
        ];
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    sums
}

#[test]
fn waits_for_a_cpu_and_context_switches_are_the_kernels() {
    let needs = [Program::Wakeup, Program::WakeupNew, Program::Switch];
    let Some((_pins, programs, group)) = start(&needs) else { return };
    let mut deed = Deed::start(&group, "take_turns", &[]);
    let pid = deed.child.0.id();
    let look = || {
        // All threads wait by now or soon; then nothing moves.
        let mut seen = (switches(pid), counted(&programs, &group).run_queue.unwrap());
        wait_for("threads at rest", || {
            let before = seen;
            seen = (switches(pid), counted(&programs, &group).run_queue.unwrap());
            before == seen
        });
        seen
    };
    let (kernel_before, ours_before) = look();
    deed.go_on();
    let (kernel_after, ours_after) = look();

    let kernel: Vec<u64> =
        kernel_after.iter().zip(kernel_before).map(|(after, before)| after - before).collect();
    let waits: u64 = ours_after.waits.iter().sum::<u64>() - ours_before.waits.iter().sum::<u64>();
    let ours = [
        ours_after.waited_ns - ours_before.waited_ns,
        waits,
        ours_after.switches_voluntary - ours_before.switches_voluntary,
        ours_after.switches_involuntary - ours_before.switches_involuntary,
    ];
    eprintln!("waited ns, waits, voluntary, involuntary: {ours:?} counted, {kernel:?} by the kernel");
    assert_eq!(ours[2..], kernel[2..]);
    assert_eq!(programs.count(agent_ebpf_common::Stat::QueueLost).unwrap(), 0);
    assert!(ours[1].abs_diff(kernel[1]) <= kernel[1] / 100 + 2, "waits: {ours:?} {kernel:?}");
    // The kernel's clock of a run queue stops while the host of this machine takes its CPU; ours doesn't.
    let slack = kernel[0] / 10 + 5_000_000;
    assert!(ours[0].abs_diff(kernel[0]) <= slack, "time: {ours:?} {kernel:?}");
    assert!(kernel[0] > 50_000_000, "four threads on one CPU didn't wait, so the test showed nothing");
    assert_eq!(deed.end(), Some(0));
}

/// A figure of `/proc/PID/net/snmp` or `netstat`: a line of names, then one of values.
fn network(text: &str, protocol: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|this| this == name).unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

#[test]
fn packets_and_connections_are_those_of_the_network_namespace() {
    let needs = [Program::NetIn, Program::NetOut, Program::Connect, Program::Retransmit];
    let Some((_pins, programs, group)) = start(&needs) else { return };
    let mut deed = Deed::start(&group, "talk", &[]);
    let nothing = counted(&programs, &group);
    assert_eq!(nothing.connections.unwrap(), Default::default());

    // All goes well: every packet has a socket, so both count the same.
    deed.go_on();
    let mut last = ([0; 4], [0; 4]);
    wait_for("the packets of the namespace", || {
        let (snmp, netstat) = (deed.thread("net/snmp"), deed.thread("net/netstat"));
        let kernel = [
            network(&netstat, "IpExt", "InOctets"),
            network(&snmp, "Tcp", "InSegs") + network(&snmp, "Udp", "InDatagrams"),
            network(&netstat, "IpExt", "OutOctets"),
            network(&snmp, "Tcp", "OutSegs") + network(&snmp, "Udp", "OutDatagrams"),
        ];
        let ours = counted(&programs, &group).network.unwrap();
        last = ([ours.received_bytes, ours.received_packets, ours.sent_bytes, ours.sent_packets], kernel);
        last.0 == last.1
    });
    eprintln!(
        "received bytes, packets, sent bytes, packets: {:?} counted, {:?} by the kernel",
        last.0, last.1
    );
    assert!(last.0[2] > CONNECTIONS * 103_000, "{last:?}");
    let connections = counted(&programs, &group).connections.unwrap();
    assert_eq!([connections.opened, connections.accepted, connections.failed], [CONNECTIONS, CONNECTIONS, 0]);

    // Nobody listens.
    deed.go_on();
    let connections = counted(&programs, &group).connections.unwrap();
    let snmp = deed.thread("net/snmp");
    assert_eq!(connections.failed, REFUSED);
    assert_eq!(connections.failed, network(&snmp, "Tcp", "AttemptFails"));
    assert_eq!(connections.opened + connections.failed, network(&snmp, "Tcp", "ActiveOpens"));
    assert_eq!(connections.accepted, network(&snmp, "Tcp", "PassiveOpens"));
    assert_eq!(counted(&programs, &group).retransmits, Some(network(&snmp, "Tcp", "RetransSegs")));

    // Nobody answers.
    deed.go_on();
    let is_veth_here = deed.thread("net/dev").contains("muster-a");
    if is_veth_here {
        wait_for("segments sent again", || {
            let kernel = network(&deed.thread("net/snmp"), "Tcp", "RetransSegs");
            let ours = counted(&programs, &group).retransmits.unwrap();
            // The next one may come between the two looks.
            assert!(ours.abs_diff(kernel) <= 1, "{ours} counted, {kernel} by the kernel");
            ours > 0 && ours == kernel
        });
        assert_eq!(deed.end(), Some(0));
    } else {
        eprintln!("skipped: no link here that loses packets");
    }
}

/// A device whose requests are all ours, or `None` and a line that says so.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        fs::write(file, vec![0; 8 << 20]).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let made = made.ok().filter(|output| output.status.success());
        let Some(output) = made else {
            eprintln!("skipped: no loop device here");
            return None;
        };
        Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }

    /// Reads and writes: operations, sectors, milliseconds (`Documentation/admin-guide/iostats.rst`).
    fn kernel(&self) -> [u64; 6] {
        let text = fs::read_to_string(format!("/sys/block/{}/stat", self.name())).unwrap();
        let fields: Vec<u64> = text.split_ascii_whitespace().map(|word| word.parse().unwrap()).collect();
        [fields[0], fields[2], fields[3], fields[4], fields[6], fields[7]]
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let done = Command::new("losetup").arg("--detach").arg(&self.0).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("left behind: {}", self.0.display());
        }
    }
}

#[test]
fn requests_of_a_block_device_are_those_of_its_statistics() {
    let Some((_pins, programs, _group)) = start(&[Program::Block]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = Loop::new(&folder.path().join("image")) else { return };
    programs.look_for_devices().unwrap();
    let ours = || programs.devices().unwrap().unwrap().remove(device.name()).unwrap_or_default();
    let (before, ours_before) = (device.kernel(), ours());

    let dd = |arguments: &[String]| {
        let status = Command::new("dd").args(arguments).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "dd {arguments:?}");
    };
    let path = device.0.display();
    dd(&[
        "if=/dev/zero".into(),
        format!("of={path}"),
        "bs=64k".into(),
        "count=100".into(),
        "oflag=direct".into(),
    ]);
    dd(&[
        format!("if={path}"),
        "of=/dev/null".into(),
        "bs=4k".into(),
        "count=500".into(),
        "iflag=direct".into(),
    ]);

    let mut last = ([0; 6], [0; 6], Block::default());
    wait_for("the device's own statistics", || {
        let kernel = device.kernel();
        let now = ours();
        let figures = |block: &Block| {
            [&block.reads, &block.writes].map(|kind| [kind.count, kind.bytes / 512, kind.ns]).concat()
        };
        let ours: Vec<u64> =
            figures(&now).iter().zip(figures(&ours_before)).map(|(now, before)| now - before).collect();
        for place in 0..6 {
            last.0[place] = ours[place];
            last.1[place] = kernel[place] - before[place];
        }
        last.2 = now;
        [0, 1, 3, 4].iter().all(|place| last.0[*place] == last.1[*place])
    });
    eprintln!(
        "read operations, sectors, time, written likewise: {:?} ns counted, {:?} ms by the kernel",
        last.0, last.1
    );
    let (ours, kernel, block) = last;
    assert!(ours[0] >= 500 && ours[3] >= 100, "{ours:?}");
    for (place, latency) in [(2, block.reads.latency), (5, block.writes.latency)] {
        let (ours_us, kernel_us) = (ours[place] / 1000, kernel[place] * 1000);
        // The kernel looks at its clock a moment later, and cuts to milliseconds.
        assert!(
            ours_us.abs_diff(kernel_us) <= kernel_us / 10 + 5000,
            "{ours_us} µs counted, {kernel_us} by the kernel"
        );
        assert!(latency.iter().sum::<u64>() >= 100);
    }
}

#[test]
fn forks_and_execs_are_counted_and_threads_are_no_forks() {
    let Some((_pins, programs, group)) = start(&[Program::Fork, Program::Exec]) else { return };
    let script = "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done";
    assert!(group.command(script).status().unwrap().success());
    let before = counted(&programs, &group);
    // The shell that runs the loop is one more that was started, but not made, in the group.
    assert_eq!((before.forks, before.execs), (Some(100), Some(101)));

    let mut deed = Deed::start(&group, "take_turns", &[]);
    deed.go_on();
    let after = counted(&programs, &group);
    assert_eq!(after.forks, Some(100));
    assert_eq!(after.execs, Some(103), "a shell, and the deed");
    assert_eq!(deed.end(), Some(0));
}

#[test]
fn stalls_to_free_memory_are_part_of_the_kernels_pressure() {
    let needs = [Program::DirectIn, Program::DirectOut, Program::MemcgIn, Program::MemcgOut];
    let Some((_pins, programs, group)) = start(&needs) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    if nix::sys::statfs::statfs(folder.path()).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        eprintln!("skipped: file cache of a file system in memory can't be freed");
        return;
    }
    fs::write(&file, vec![1; 64 << 20]).unwrap();
    group.limit_memory(16 << 20);
    // On one CPU: the kernel's figure is a mean over CPUs, weighted by how busy each one was.
    let script = format!(
        "i=0; while [ $i -lt 10 ]; do taskset 1 cat {} > /dev/null; i=$((i+1)); done",
        file.display()
    );
    // What this test wrote is in the cache, charged to the test; the group must read it itself.
    let written = fs::File::open(&file).unwrap();
    written.sync_all().unwrap();
    process::forget_cache(&written);
    assert!(group.command(&script).status().unwrap().success());
    let reclaim = counted(&programs, &group).reclaim.unwrap();
    let pressure_us = group.kernel_memory_pressure_us();
    eprintln!("{reclaim:?}, pressure {pressure_us} µs");
    assert!(reclaim.stalls > 0 && reclaim.ns > 0, "{reclaim:?}");
    // One thread at a time. The kernel counts a little more: pages that come back, and its own way there.
    let ours_us = reclaim.ns / 1000;
    let slack = pressure_us / 10 + 2000;
    assert!(ours_us.abs_diff(pressure_us) <= slack, "{ours_us} µs counted, {pressure_us} by the kernel");
    assert_eq!(programs.count(agent_ebpf_common::Stat::ReclaimLost).unwrap(), 0);
}

#[test]
fn each_measure_can_be_switched_off_alone() {
    let Some(pins) = Pins::new() else { return };
    let group = Group::new();
    let options = |measures| Options { measures, cgroup: Some(group.path().to_owned()), ..with(LIMITS) };
    let able = pins.open(&[], options(Measures::ALL)).unwrap();
    able.register_cgroup(group.id()).unwrap();
    let states = able.availability();
    drop(able);
    let is_able = |program| states.contains(&(program, Availability::Attached));
    for off in Measure::ALL {
        let programs = pins.open(&[], options(Measures::ALL.without(off))).unwrap();
        for (program, availability) in programs.availability() {
            // Guards of ports measure nothing, and are off unless they are wanted.
            let is_off = program.measure() == Some(off) || states.contains(&(program, Availability::Off));
            assert_eq!(availability == Availability::Off, is_off, "{program} without {}", off.name());
            assert_eq!(availability == Availability::Attached, !is_off && is_able(program), "{program}");
        }
        let counted = counted(&programs, &group);
        let has = |measure| off != measure;
        assert_eq!(counted.run_queue.is_some(), has(Measure::RunQueue));
        assert_eq!(counted.network.is_some(), has(Measure::Network));
        assert_eq!(counted.connections.is_some(), has(Measure::Connections));
        assert_eq!(counted.forks.is_some(), has(Measure::Forks));
        assert_eq!(counted.reclaim.is_some(), has(Measure::Reclaim));
        assert_eq!(programs.devices().unwrap().is_some(), has(Measure::Block));
        assert!(counted.ended.is_some());
    }
    let none = pins.open(&[], options(Measures::NONE)).unwrap();
    let running = none.availability().into_iter().filter(|(_, state)| *state == Availability::Attached);
    assert_eq!(running.map(|(program, _)| program).collect::<Vec<_>>(), [Program::Exit]);
    assert_eq!(none.cgroups().unwrap(), [group.id()], "a choice of measures lost a registration");
}

#[test]
fn what_somebody_detached_or_unpinned_is_put_back() {
    let needs = [Program::Cpu, Program::NetIn, Program::Fork];
    let Some((pins, programs, group)) = start(&needs) else { return };
    assert_eq!(programs.mend().unwrap(), []);
    let generation = crate::generation(&pins);

    let mended = |programs: &Programs| -> Vec<(Program, &'static str)> {
        let mended = programs.mend().unwrap();
        assert!(mended.iter().all(|mended| mended.failed.is_none()), "{mended:?}");
        assert_eq!(programs.mend().unwrap(), [], "it wasn't put back");
        mended.into_iter().map(|mended| (mended.program, mended.damage)).collect()
    };
    fs::remove_file(generation.join("m_cpu_link")).unwrap();
    assert_eq!(mended(&programs), [(Program::Cpu, "its link isn't pinned")]);
    fs::remove_file(generation.join("m_fork")).unwrap();
    assert_eq!(mended(&programs), [(Program::Fork, "it isn't pinned")]);
    libbpf_rs::Link::open(generation.join("m_net_in_link")).unwrap().detach().unwrap();
    assert_eq!(mended(&programs), [(Program::NetIn, "it isn't attached to the tasks' cgroup")]);

    // All of it: maps keep their figures, and the pins are back for the next agent.
    assert!(group.command("/bin/true; /bin/true; :").status().unwrap().success());
    let forks = counted(&programs, &group).forks;
    assert_eq!(forks, Some(2));
    for entry in fs::read_dir(&generation).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::remove_dir(&generation).unwrap();
    let attached = programs.availability().into_iter().filter(|(_, state)| *state == Availability::Attached);
    assert_eq!(mended(&programs).len(), attached.count());
    assert!(group.command("/bin/true; /bin/true; :").status().unwrap().success());
    assert_eq!(counted(&programs, &group).forks, Some(4));
    drop(programs);
    let options = Options { cgroup: Some(group.path().to_owned()), ..with(LIMITS) };
    let next = pins.open(&needs, options).unwrap();
    assert_eq!(counted(&next, &group).forks, Some(4));
}
