//! Boots the machine and listens to its serial port.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kernel::KernelTree;
use crate::command::{program, spelled};
use crate::libtest::{Tally, print_failure};

/// How the machine's own scripts mark what they say to us.
const MARK: &str = "@muster ";

/// One line of the plan.
#[derive(Debug, Clone)]
pub struct Command {
    pub name: String,
    /// For the machine's shell.
    pub line: String,
}

/// A machine to be booted.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Tells its lines on our screen from another's.
    pub name: &'a str,
    pub kernel: &'a KernelTree,
    pub image: &'a Path,
    /// In the order in which the machine finds them.
    pub disks: &'a [Disk<'a>],
    /// Appended to the kernel's command line.
    pub append: &'a str,
    /// Where everything that it says is kept.
    pub log: &'a Path,
}

/// What a machine has as a disk.
#[derive(Debug)]
pub enum Disk<'a> {
    /// A raw image; what the machine writes there is forgotten.
    Image(&'a Path),
    /// Whoever listens at this socket, in the NBD protocol, and decides what is kept.
    Served(&'a Path),
}

/// Boots, runs the plan, and counts.
pub fn run(machine: &Machine, plan: &[Command], deadline: Duration) -> Result<Tally> {
    let Machine { name, log, .. } = *machine;
    let started = Instant::now();
    let mut machine = start(machine)?;
    let lines = lines_of(&mut machine)?;
    let mut file = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    let mut hearing = Hearing::new(plan);
    let mut is_late = false;
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                writeln!(file, "{line}")?;
                if let Some(news) = hearing.hear(&line, started.elapsed()) {
                    println!("    {name:<12} {:7.1} s  {news}", started.elapsed().as_secs_f64());
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                machine.kill().context("can't stop the virtual machine")?;
                is_late = true;
                break;
            }
        }
    }
    let status = machine.wait().context("can't wait for the virtual machine")?;
    let tally = hearing.finish(&match is_late {
        true => format!("stopped after {} s", deadline.as_secs()),
        false => format!("qemu ended with {status}"),
    });
    println!("    {name:<12} all that the machine said: {}", log.display());
    Ok(tally)
}

/// Boots.
pub fn start(machine: &Machine) -> Result<Child> {
    // The machine ends with the thread that started it, so that none is left behind when we are killed.
    let mut command = program("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"])
        // Both processors on one thread: with a thread for each, QEMU 7.2 sometimes runs old code after the
        // kernel has patched itself, as it does when the first cgroup gets a CPU limit, and the kernel dies.
        .args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(&machine.kernel.image)
        .arg("-initrd")
        .arg(machine.image)
        // Quiet: a message of the kernel in the middle of a line would spoil it. `dmesg` has them all.
        .arg("-append")
        .arg(format!("console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off {}", machine.append))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for disk in machine.disks {
        let (options, place) = match disk {
            Disk::Image(path) => ("if=virtio,format=raw,snapshot=on,cache=unsafe,file=", path),
            // A cache that is told to be one: the machine flushes it, and each flush is passed on.
            Disk::Served(socket) => ("if=virtio,format=raw,cache=writeback,file=nbd:unix:", socket),
        };
        let mut drive = std::ffi::OsString::from(options);
        drive.push(place);
        command.arg("-drive").arg(drive);
    }
    command.spawn().with_context(|| format!("can't start `{}`", spelled(&command)))
}

/// What it says on its serial port, line by line; a last line may lack its end.
pub fn lines_of(machine: &mut Child) -> Result<mpsc::Receiver<String>> {
    let stdout = machine.stdout.take().context("the virtual machine has no serial port")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    Ok(lines)
}

/// What we made of the machine's words so far.
struct Hearing {
    total: Tally,
    waiting: Vec<String>,
    running: Option<Running>,
    is_done: bool,
}

struct Running {
    name: String,
    /// When it began, since the machine's start.
    begin: Duration,
    tally: Tally,
    output: Vec<String>,
}

impl Hearing {
    fn new(plan: &[Command]) -> Self {
        let waiting = plan.iter().map(|command| command.name.clone()).collect();
        Self { total: Tally::default(), waiting, running: None, is_done: false }
    }

    /// Takes one line in; returns what people should see of it.
    fn hear(&mut self, line: &str, now: Duration) -> Option<String> {
        let Some(news) = line.strip_prefix(MARK) else {
            if let Some(running) = &mut self.running {
                running.tally.read(line);
                running.output.push(line.to_owned());
            }
            return (line.starts_with("test ") && line.contains(" ... ")).then(|| line.to_owned());
        };
        let mut words = news.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("begin"), Some(name), None) => {
                let name = name.to_owned();
                let running = Running { name, begin: now, tally: Tally::default(), output: Vec::new() };
                self.running = Some(running);
            }
            (Some("end"), Some(_), Some(code)) => return self.end(code, now),
            (Some("done"), ..) => self.is_done = true,
            _ => {}
        }
        Some(news.to_owned())
    }

    fn end(&mut self, code: &str, now: Duration) -> Option<String> {
        let Running { name, begin, mut tally, output } = self.running.take()?;
        self.waiting.retain(|waiting| *waiting != name);
        // A failed test has been counted already; a program that died has not.
        if code != "0" && tally.failed == 0 {
            tally.add(Tally::failure(format!("ended with {code}")));
        }
        if tally.failed > 0 {
            print_failure(&output);
        }
        let Tally { passed, failed, .. } = tally;
        let (skipped, seconds) = (tally.skipped.len(), now.saturating_sub(begin).as_secs_f64());
        self.total.add(tally.located(&format!("guest {name}:")));
        Some(format!("end {name}: {passed} passed, {failed} failed, {skipped} skipped, {seconds:.1} s"))
    }

    /// The machine has stopped. Whatever it didn't come to is a failure.
    fn finish(mut self, end: &str) -> Tally {
        let mut total = self.total;
        if let Some(Running { name, tally, output, .. }) = self.running.take() {
            print_failure(&output);
            total.add(tally.located(&format!("guest {name}:")));
        }
        if !self.is_done {
            total.add(Tally::failure(format!("guest: it did not come to the end of its plan ({end})")));
        }
        for name in self.waiting {
            total.add(Tally::failure(format!("guest {name}: did not run to its end")));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(lines: &[&str]) -> Tally {
        let plan = ["a", "b"].map(|name| Command { name: name.into(), line: String::new() });
        let mut hearing = Hearing::new(&plan);
        for line in lines {
            hearing.hear(line, Duration::ZERO);
        }
        hearing.finish("the end")
    }

    #[test]
    fn a_whole_run_is_counted() {
        let tally = hear(&[
            "@muster begin a",
            "test result: ok. 3 passed; 0 failed; 0 ignored",
            "@muster end a 0",
            "@muster begin b",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
            "@muster end b 101",
            "@muster done 1",
        ]);
        assert_eq!((tally.passed, tally.failed), (4, 1));
    }

    #[test]
    fn a_program_that_died_is_a_failure() {
        let tally = hear(&[
            "@muster begin a",
            "@muster end a 139",
            "@muster begin b",
            "@muster end b 0",
            "@muster done 1",
        ]);
        assert_eq!(tally.failures, ["guest a: ended with 139"]);
    }

    #[test]
    fn a_machine_that_panics_fails_what_it_did_not_come_to() {
        let tally = hear(&["@muster begin a", "Kernel panic - not syncing"]);
        assert_eq!(tally.failed, 3, "{tally:?}");
    }
}
