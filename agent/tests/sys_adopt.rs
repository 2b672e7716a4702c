//! What outlives the agent, and what must not: the launching process is killed with SIGKILL.
//!
//! The launching process is this test program, started anew with a role in its environment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support_sys;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agent::sys::{CgroupName, Ending, Layout, ProcessId, Signal, Sys};
use model::{Exit, StopSignal};
use support_sys::{Host, LIMITS, host, until, wait_readable};

const ROLE: &str = "MUSTER_TEST_ROLE";
const PARENT: &str = "MUSTER_TEST_PARENT";
const DIRECTORY: &str = "MUSTER_TEST_DIRECTORY";

/// A process that launches as an agent does, until it is killed.
struct FirstLife {
    child: Child,
    /// What it launched: name and process.
    launched: Vec<(CgroupName, ProcessId)>,
}

impl FirstLife {
    fn start(host: &Host, test: &str, role: &str, count: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]);
        command.env(ROLE, role).env(PARENT, &host.parent).env(DIRECTORY, &host.directory);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let launched = lines.map(Result::unwrap).filter_map(|line| {
            let mut words = line.split(' ').skip_while(|word| *word != "launched").skip(1);
            let name = CgroupName::new(words.next()?).unwrap();
            let pid = words.next()?.parse().unwrap();
            Some((name, ProcessId { pid, start_ticks: words.next()?.parse().unwrap() }))
        });
        let launched = launched.take(count).collect();
        Self { child, launched }
    }

    fn kill(mut self) -> Vec<(CgroupName, ProcessId)> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.launched
    }
}

/// In the process that is to be killed: launches, says so, and waits for its end.
fn play(scripts: &[(&str, &str, bool)], release: bool) -> ! {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let host = Host::at(&std::env::var(PARENT).unwrap(), directory);
    let mut kept = Vec::new();
    for (name, script, pid) in scripts {
        let mut request = host.script(name, script);
        request.namespaces.pid = *pid;
        let held = host.spawn(&request);
        let id = held.process().id();
        if release {
            held.release().1.unwrap();
        } else {
            kept.push(held);
        }
        println!("launched {name} {} {}", id.pid, id.start_ticks);
    }
    loop {
        std::thread::park();
    }
}

fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

fn exit_file(host: &Host, name: &CgroupName) -> PathBuf {
    host.directory.join(format!("{name}.state/exit"))
}

#[test]
fn a_task_outlives_its_agent_and_so_does_its_exit_status() {
    const SCRIPTS: &[(&str, &str, bool)] = &[
        ("code", "while [ ! -e go ]; do sleep 0.01; done; echo later; exit 7", true),
        ("signal", "while [ ! -e go ]; do sleep 0.01; done; kill -SEGV $$", true),
        ("shared", "while [ ! -e go ]; do sleep 0.01; done; exit 8", false),
    ];
    if role().is_some() {
        play(SCRIPTS, true);
    }
    let Some(host) = host("adopt") else { return };
    let test = "a_task_outlives_its_agent_and_so_does_its_exit_status";
    let launched = FirstLife::start(&host, test, "agent", SCRIPTS.len()).kill();
    assert_eq!(launched.len(), SCRIPTS.len());
    let adopted: Vec<_> = launched
        .iter()
        .map(|(name, id)| {
            let process = host.kernel.reopen(*id).unwrap().expect("it still runs");
            assert_eq!(host.kernel.ending(&process, &exit_file(&host, name)).unwrap(), Ending::Running);
            (name, process)
        })
        .collect();
    for (name, process) in adopted {
        fs::write(host.directory.join("sandboxes").join(name.as_str()).join("go"), "").unwrap();
        wait_readable(&process);
        let ending = host.kernel.ending(&process, &exit_file(&host, name)).unwrap();
        let expected = match name.as_str() {
            "code" => vec![Ending::Ended(Exit::Code(7))],
            "signal" => vec![Ending::Ended(Exit::Signal(11))],
            // Without an init only newer kernels remember; never a wrong answer.
            _ => vec![Ending::Ended(Exit::Code(8)), Ending::EndedUnknown],
        };
        assert!(expected.contains(&ending), "{name}: {ending:?}");
        assert!(host.kernel.reopen(process.id()).unwrap().is_none());
        until("the group is empty", || host.kernel.is_cgroup_empty(name).unwrap());
        host.kernel.remove_cgroup(name).unwrap();
    }
    let output = host.directory.join("code.state/stdout");
    assert_eq!(fs::read_to_string(output).unwrap(), "later\n");
}

#[test]
fn an_exit_that_nobody_saw_is_in_its_record() {
    const SCRIPTS: &[(&str, &str, bool)] = &[("a", "while [ ! -e go ]; do sleep 0.01; done; exit 42", true)];
    if role().is_some() {
        play(SCRIPTS, true);
    }
    let Some(host) = host("unseen") else { return };
    let launched = FirstLife::start(&host, "an_exit_that_nobody_saw_is_in_its_record", "agent", 1).kill();
    let [(name, id)] = launched.as_slice() else { panic!("{launched:?}") };
    fs::write(host.directory.join("sandboxes/a/go"), "").unwrap();
    until("it has ended", || host.kernel.is_cgroup_empty(name).unwrap());
    until("nobody has its number", || host.kernel.reopen(*id).unwrap().is_none());
    assert_eq!(host.kernel.read_exit_file(&exit_file(&host, name)).unwrap(), Some(Exit::Code(42)));
    host.kernel.remove_cgroup(name).unwrap();
}

#[test]
fn a_task_that_was_not_released_ends_with_its_agent() {
    const SCRIPTS: &[(&str, &str, bool)] = &[("a", "echo ran", true), ("b", "echo ran", false)];
    if role().is_some() {
        play(SCRIPTS, false);
    }
    let Some(host) = host("unreleased") else { return };
    let test = "a_task_that_was_not_released_ends_with_its_agent";
    let life = FirstLife::start(&host, test, "agent", SCRIPTS.len());
    for (_, id) in &life.launched {
        assert!(host.kernel.reopen(*id).unwrap().is_some(), "it waits");
    }
    for (name, id) in life.kill() {
        until("it has ended", || host.kernel.is_cgroup_empty(&name).unwrap());
        until("it is gone", || host.kernel.reopen(id).unwrap().is_none());
        host.kernel.remove_cgroup(&name).unwrap();
        let output = host.directory.join(format!("{name}.state/stdout"));
        assert_eq!(fs::read_to_string(output).unwrap(), "");
    }
}

#[test]
fn a_host_without_a_v2_tree_gets_one() {
    if role().is_some() {
        let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
        let host = Host::at(&std::env::var(PARENT).unwrap(), directory);
        assert_eq!(host.kernel.layout(), Layout::V1);
        let request = host.script("a", "exit 5");
        assert!(host.kernel.cgroup_id(&request.cgroup).unwrap().is_some());
        assert_eq!(host.run(&request).0, Exit::Code(5));
        let request = host.request("b", &["sleep", "1000"], &LIMITS);
        let process = host.start(&request);
        host.kernel.signal(&process, Signal::Stop(StopSignal::Term)).unwrap();
        assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Signal(15)));
        host.remove(&request);
        return;
    }
    let Some(host) = host("v1") else { return };
    if host.kernel.layout() != Layout::Hybrid {
        println!("skipped: only a hybrid host can play a v1 host; this one is {:?}", host.kernel.layout());
        return;
    }
    let v2 = host.kernel.cgroups().hierarchies().v2.clone();
    // A mount namespace where the v2 tree is not mounted; the host's is untouched.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", "umount \"$0\" && exec \"$@\""]);
    command.arg(&v2).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "a_host_without_a_v2_tree_gets_one", "--nocapture"]);
    let directory = host.directory.join("inside");
    fs::create_dir(&directory).unwrap();
    let parent = format!("{}-inside", host.parent.display());
    let output = command.env(ROLE, "v1").env(PARENT, parent).env(DIRECTORY, directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn an_agent_steps_aside_for_its_tasks() {
    let unit = |parent: &str| format!("{parent}-unit");
    if role().is_some() {
        let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
        let parent = std::env::var(PARENT).unwrap();
        let group = PathBuf::from("/sys/fs/cgroup").join(unit(&parent));
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        // The agent is in the group that is to hand out controllers, as under systemd.
        let host = Host::at(&format!("{}/tasks", unit(&parent)), directory);
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(own.trim(), format!("0::/{}/muster-agent", unit(&parent)));
        let (exit, out, _) = host.run(&host.script("a", "cat /proc/self/cgroup; exit 5"));
        assert_eq!(exit, Exit::Code(5));
        assert_eq!(out.trim(), format!("0::/{}/tasks/a", unit(&parent)));
        return;
    }
    let Some(host) = host("unit") else { return };
    if host.kernel.layout() != Layout::V2 {
        println!("skipped: only a host with cgroup v2 alone hands controllers down");
        return;
    }
    let group = PathBuf::from("/sys/fs/cgroup").join(unit(host.parent.to_str().unwrap()));
    fs::create_dir(&group).unwrap();
    let directory = host.directory.join("inside");
    fs::create_dir(&directory).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "an_agent_steps_aside_for_its_tasks", "--nocapture"]);
    let output =
        command.env(ROLE, "unit").env(PARENT, &host.parent).env(DIRECTORY, directory).output().unwrap();
    for leaf in ["muster-agent", "tasks", ""] {
        let _ = fs::remove_dir(group.join(leaf));
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!group.exists());
}

#[test]
fn a_gigabyte_of_output_keeps_few_blocks() {
    use std::os::unix::fs::MetadataExt;
    const KEEP: u64 = 4 << 20;
    let Some(host) = host("output") else { return };
    // dd and not a shell loop: a gigabyte in a second or two.
    let script = "dd if=/dev/zero bs=64k count=16384 2>/dev/null | tr '\\0' x; echo end";
    let request = host.script("a", script);
    let process = host.start(&request);
    let file = Path::new(&request.stdout);
    let mut most = 0;
    let mut trims = 0;
    until("it has ended", || {
        let start = host.kernel.trim_output(file, KEEP).unwrap();
        let metadata = fs::metadata(file).unwrap();
        trims += usize::from(start > 0);
        most = most.max(metadata.blocks() * 512);
        host.kernel.reopen(process.id()).unwrap().is_none()
    });
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(0)));
    let start = host.kernel.trim_output(file, KEEP).unwrap();
    let metadata = fs::metadata(file).unwrap();
    assert_eq!(metadata.len(), (1 << 30) + 4, "no byte is lost, and offsets stay");
    assert!(metadata.len() - start <= KEEP);
    assert!(metadata.blocks() * 512 <= KEEP + (1 << 20), "{} bytes on disk", metadata.blocks() * 512);
    println!("{trims} trims while it wrote, {most} bytes on disk at most");
    let tail = host.kernel.read_output(file, metadata.len() - 5, 100).unwrap();
    assert_eq!((tail.data.as_slice(), tail.end), (b"xend\n".as_slice(), metadata.len()));
    let head = host.kernel.read_output(file, 0, 3).unwrap();
    assert_eq!((head.offset, head.data.as_slice()), (start, b"xxx".as_slice()));
    host.remove(&request);
}

#[test]
fn a_kill_of_the_init_has_no_record_but_an_ending() {
    let Some(host) = host("init-kill") else { return };
    let request = host.request("a", &["sleep", "1000"], &LIMITS);
    let process = host.start(&request);
    host.kernel.signal(&process, Signal::Kill).unwrap();
    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Signal(9)));
    assert_eq!(host.kernel.read_exit_file(&request.exit_file).unwrap(), None);
    host.remove(&request);
}

#[test]
fn many_launches_at_once_do_not_hold_each_other() {
    let Some(host) = host("many") else { return };
    let host = &host;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..10 {
                    let request = host.script(&format!("t{thread}.{round}"), "exit 6");
                    let held = host.spawn(&request);
                    if round % 3 == 0 {
                        drop(held);
                        host.remove(&request);
                        continue;
                    }
                    let (process, released) = held.release();
                    released.unwrap();
                    assert_eq!(host.wait(&process, &request), Ending::Ended(Exit::Code(6)));
                    host.remove(&request);
                }
            });
        }
    });
}
