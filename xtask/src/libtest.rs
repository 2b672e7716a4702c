//! Runs test executables and understands what they print.
//!
//! What libtest prints is a promise to nobody, but it has been the same for ten years, and the
//! alternative is a nightly compiler.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::command::spelled;

/// What a run of tests came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    /// What was not tried here: in the tests' own words, or because it is marked so.
    pub skipped: Vec<String>,
    /// What failed: tests by name, or what happened to the whole program.
    pub failures: Vec<String>,
    place: Place,
}

/// Where in libtest's output we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Elsewhere,
    /// What this test printed.
    OutputOf(String),
    /// The list of names at the end; a section of the same title, with a blank line first, is none.
    ListOfFailures,
}

impl Tally {
    /// Adds what another run came to.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.failures.extend(other.failures);
    }

    /// Says of each failure and skip where it was.
    pub fn located(mut self, place: &str) -> Self {
        for name in self.failures.iter_mut().chain(&mut self.skipped) {
            *name = format!("{place} {name}");
        }
        self
    }

    /// A run that failed as a whole.
    pub fn failure(what: impl Into<String>) -> Self {
        Self { failed: 1, failures: vec![what.into()], ..Self::default() }
    }

    /// What could not be tried as a whole.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self { skipped: vec![reason.into()], ..Self::default() }
    }

    /// Takes one line of output into account.
    pub fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
        } else if let Some((name, reason)) = parse_ignored(line) {
            self.skipped.push(format!("{name}: ignored{reason}"));
        } else if line == "failures:" {
            self.place = Place::ListOfFailures;
        } else if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.place = Place::OutputOf(name.to_owned());
        } else if let Some(reason) = line.trim_start().strip_prefix("skipped: ") {
            self.skipped.push(match &self.place {
                Place::OutputOf(name) => format!("{name}: {reason}"),
                Place::Elsewhere | Place::ListOfFailures => reason.to_owned(),
            });
        } else if self.place == Place::ListOfFailures {
            match line.strip_prefix("    ") {
                Some(name) => self.failures.push(name.to_owned()),
                None => self.place = Place::Elsewhere,
            }
        }
    }
}

/// The name and the reason in `test NAME ... ignored, REASON`.
fn parse_ignored(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ignored")
}

fn number_before(text: &str, word: &str) -> u64 {
    text.split_once(word)
        .and_then(|(before, _)| before.rsplit(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// What of a program's output goes to the screen as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// Each test's verdict.
    Verdicts,
    /// Nothing; failures are shown at the end.
    Nothing,
}

/// Runs one program of tests to its end or its deadline, keeps its output in `log`, and counts.
pub fn run(name: &str, command: &mut Command, log: &Path, deadline: Duration, echo: Echo) -> Result<Tally> {
    let (reader, writer) = std::io::pipe().context("can't make a pipe")?;
    command.stdin(std::process::Stdio::null());
    command.stdout(writer.try_clone().context("can't share a pipe")?).stderr(writer);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("can't start `{}`", spelled(command)))?;
    // The command still holds our ends of the pipe, which would keep it open for ever.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());

    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });

    let mut file = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    let mut tally = Tally::default();
    let mut output = Vec::new();
    let mut has_result = false;
    let mut status = None;
    let mut is_late = false;
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                writeln!(file, "{line}")?;
                tally.read(&line);
                has_result |= line.starts_with("test result: ");
                if echo == Echo::Verdicts && line.starts_with("test ") && line.contains(" ... ") {
                    println!("    {line}");
                }
                output.push(line);
                continue;
            }
            // All that could write has ended.
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        // Whatever the program left behind may hold the pipe open: its own end is enough.
        if status.is_some() {
            break;
        }
        status = child.try_wait().context("can't wait for the tests")?;
        if status.is_none() && started.elapsed() > deadline {
            is_late = true;
            child.kill().context("can't stop the tests")?;
        }
    }
    let status = match status {
        Some(status) => status,
        None => child.wait().context("can't wait for the tests")?,
    };

    if is_late {
        tally.add(Tally::failure(format!("still running after {} s, stopped", deadline.as_secs())));
    } else if !status.success() && (!has_result || tally.failed == 0) {
        tally.add(Tally::failure(format!("ended with {status}")));
    }
    if tally.failed > 0 {
        print_failure(&output);
        println!("    all of its output: {}", log.display());
    }
    Ok(tally.located(&format!("{name}:")))
}

/// The part of the output that says what went wrong.
pub fn print_failure(output: &[String]) {
    const LINES_MAX: usize = 200;
    // Libtest prints what failed after a line of its own; a program that died has none.
    let start = output.iter().position(|line| line == "failures:").unwrap_or(0);
    let part = &output[start..];
    let skipped = part.len().saturating_sub(LINES_MAX);
    if skipped > 0 {
        println!("    ... {skipped} lines left out");
    }
    for line in &part[skipped..] {
        println!("    {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn results_failures_and_skips_are_counted() {
        // As libtest prints it with --show-output.
        let tally = tally(
            "running 3 tests\n\
             test a ... ok\n\
             test long ... ignored, takes an hour\n\
             test b::c ... noise of a daemon\n\
             FAILED\n\
             \n\
             successes:\n\
             \n\
             ---- a stdout ----\n\
             skipped: needs root for cgroups\n\
             \n\
             \n\
             successes:\n\
             \x20   a\n\
             \n\
             failures:\n\
             \n\
             ---- b::c stdout ----\n\
             thread 'b::c' panicked\n\
             \n\
             failures:\n\
             \x20   b::c\n\
             \n\
             test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out\n\
             \n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!((tally.passed, tally.failed), (15, 1));
        assert_eq!(tally.skipped, ["long: ignored, takes an hour", "a: needs root for cgroups"]);
        assert_eq!(tally.failures, ["b::c"]);
    }

    #[test]
    fn a_program_that_dies_without_a_result_is_a_failure() {
        let log = std::env::temp_dir().join(format!("xtask-libtest-{}", std::process::id()));
        let mut dies = Command::new("sh");
        dies.args(["-c", "echo 'test a ... ok'; exit 134"]);
        let tally = run("dies", &mut dies, &log, Duration::from_secs(20), Echo::Nothing).unwrap();
        assert_eq!((tally.passed, tally.failed), (0, 1));
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_program_that_hangs_is_stopped_at_the_deadline() {
        let log = std::env::temp_dir().join(format!("xtask-libtest-hang-{}", std::process::id()));
        let mut hangs = Command::new("sleep");
        hangs.arg("100");
        let tally = run("hangs", &mut hangs, &log, Duration::from_millis(50), Echo::Nothing).unwrap();
        assert_eq!(tally.failed, 1);
        assert!(tally.failures[0].contains("still running"), "{tally:?}");
        std::fs::remove_file(log).unwrap();
    }
}
