//! The verb `test`: all tests that this machine can run, and one table at the end.
//!
//! Everything is built by one cargo invocation; then each test program is run by itself, with a deadline
//! and a log. What a machine can't try is skipped by the test itself, and listed here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::artifacts::{self, Artifacts, TestProgram};
use crate::command::{self, as_root, cargo, is_root, target_dir};
use crate::libtest::{self, Echo, Tally};
use crate::{check, ebpf, fuzz, guest, power, python, setup, sim, tidy};

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the virtual machine with another kernel.
    #[arg(long)]
    without_guest: bool,
    /// Run every kernel test and every scenario on all kernels that we support, not a choice on one: hours.
    #[arg(long, conflicts_with = "without_guest")]
    all_guests: bool,
}

/// The groups of test programs, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Each crate's own tests: no privileges, no daemons.
    Unit,
    /// The agent against the real kernel: root, cgroups, kernel programs.
    Kernel,
    /// Scenarios on real daemons.
    EndToEnd,
}

impl Group {
    /// Where a test program belongs.
    pub fn of(test: &TestProgram) -> Self {
        match (test.package.as_str(), test.is_integration) {
            ("e2e", _) => Self::EndToEnd,
            ("agent", true) => Self::Kernel,
            _ => Self::Unit,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Unit => "unit tests",
            Self::Kernel => "kernel tests",
            Self::EndToEnd => "end-to-end tests",
        }
    }

    fn deadline(self) -> Duration {
        match self {
            Self::Unit => Duration::from_secs(300),
            Self::Kernel => Duration::from_secs(600),
            Self::EndToEnd => Duration::from_secs(2400),
        }
    }

    /// Tests that measure shares of a CPU can't share it with one another.
    fn runs_alone(self) -> bool {
        match self {
            Self::Unit => false,
            Self::Kernel | Self::EndToEnd => true,
        }
    }
}

/// The verb.
pub fn run(args: &Args) -> Result<()> {
    let mut report = Report::default();
    let verdict = run_steps(args, &mut report);
    report.print();
    verdict?;
    if report.total().failed > 0 {
        bail!("not all tests passed");
    }
    Ok(())
}

fn run_steps(args: &Args, report: &mut Report) -> Result<()> {
    report.needed("setup", || setup::ensure(setup::Level::Test))?;
    report.component("format", "fmt", check::format);
    report.wanted("tidy", tidy::run);
    report.needed("kernel programs", || ebpf::build().map(drop))?;
    report.wanted("kernel programs, the same elsewhere", ebpf::check_reproducible);
    let artifacts = report.needed("build", artifacts::build_all)?;

    for group in [Group::Unit, Group::Kernel, Group::EndToEnd] {
        report.tests(group.title(), || run_group(group, &artifacts));
    }
    report.tests("examples in documentation", run_doc_tests);
    report.wanted("simulated worlds", sim::run_fresh);
    report.tests("fuzzers", fuzz::run_briefly);
    report.component("clippy", "clippy", check::clippy);
    if args.without_guest {
        println!("== left out: tests on kernel {} (--without-guest)", guest::DEFAULT_KERNEL);
        return Ok(());
    }
    let (kernels, extent) = match args.all_guests {
        true => (guest::KERNELS, guest::Extent::All),
        false => (&[guest::DEFAULT_KERNEL] as &[&str], guest::Extent::Everyday),
    };
    report.tests("power cuts", || power::run_briefly(&artifacts));
    for kernel in kernels {
        let title = format!("guest with kernel {kernel}");
        report.tests(&title, || guest::run_tests(kernel, &artifacts, extent));
    }
    Ok(())
}

fn run_group(group: Group, artifacts: &Artifacts) -> Result<Tally> {
    let mut total = Tally::default();
    for test in artifacts.tests.iter().filter(|test| Group::of(test) == group) {
        total.add(run_program(group, test, artifacts, &[])?);
    }
    Ok(total)
}

/// Runs one test program here, or those of its tests whose name contains one of `names`.
pub fn run_program(
    group: Group,
    test: &TestProgram,
    artifacts: &Artifacts,
    names: &[String],
) -> Result<Tally> {
    let started = Instant::now();
    let name = test.name();
    let log = log_folder()?.join(format!("{}.log", name.replace("::", "-")));
    let mut command = command::program(&test.path);
    command.current_dir(&test.folder).arg("--show-output").args(names);
    if group.runs_alone() {
        command.arg("--test-threads=1");
    }
    set_environment(&mut command, test, artifacts);
    if group != Group::Unit && !is_root() {
        // Without root these tests skip themselves, and say so.
        match as_root(command) {
            Ok(elevated) => command = elevated,
            Err(reason) => {
                println!("  {name}: {reason}");
                command = command::program(&test.path);
                command.current_dir(&test.folder).arg("--show-output").args(names);
                set_environment(&mut command, test, artifacts);
            }
        }
    }
    let echo = if group == Group::Unit { Echo::Nothing } else { Echo::Verdicts };
    let tally = libtest::run(&name, &mut command, &log, group.deadline(), echo)?;
    println!(
        "  {name:<32} {:>4} passed, {} failed, {} skipped, {:.1} s",
        tally.passed,
        tally.failed,
        tally.skipped.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(tally)
}

/// What tests find in their environment, besides what cargo would give them.
fn set_environment(command: &mut Command, test: &TestProgram, artifacts: &Artifacts) {
    command.env("CARGO_MANIFEST_DIR", &test.folder).env("MUSTER_PYTHON", python::interpreter());
    if let Ok(folder) = artifacts.program_folder() {
        command.env("MUSTER_BIN_DIR", folder);
    }
    for (name, path) in &artifacts.programs {
        command.env(format!("CARGO_BIN_EXE_{name}"), path);
    }
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        command.env("RUST_BACKTRACE", "1");
    }
}

fn run_doc_tests() -> Result<Tally> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked", "--doc", "--no-fail-fast"]);
    let log = log_folder()?.join("doc.log");
    libtest::run("doc", &mut command, &log, Duration::from_secs(600), Echo::Nothing)
}

/// Where the whole output of each test program is kept.
pub fn log_folder() -> Result<PathBuf> {
    let folder = target_dir().join("test-logs");
    std::fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    Ok(folder)
}

/// All steps, how long they took, and what came out.
#[derive(Default)]
struct Report {
    steps: Vec<Step>,
}

struct Step {
    name: String,
    elapsed: Duration,
    tally: Tally,
}

impl Report {
    /// A step without which there is no going on.
    fn needed<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {name}");
        let started = Instant::now();
        let result = step();
        let tally = match &result {
            Ok(_) => Tally::default(),
            Err(_) => Tally::failure(name),
        };
        self.steps.push(Step { name: name.to_owned(), elapsed: started.elapsed(), tally });
        result
    }

    /// A step whose failure counts, and doesn't keep the others from running.
    fn wanted(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        self.tests(name, || step().map(|()| Tally::default()));
    }

    /// A step that a part of the Rust tool chain does, which may not be installed.
    fn component(&mut self, name: &str, subcommand: &str, step: impl FnOnce() -> Result<()>) {
        self.tests(name, || {
            if check::has_component(subcommand) {
                return step().map(|()| Tally::default());
            }
            Ok(Tally::skip(format!("{name}: this tool chain has no `cargo {subcommand}`")))
        });
    }

    /// Tests. That they can't run at all counts as one failure.
    fn tests(&mut self, name: &str, step: impl FnOnce() -> Result<Tally>) {
        println!("== {name}");
        let started = Instant::now();
        let tally = step().unwrap_or_else(|error| {
            println!("  {error:#}");
            Tally::failure(format!("{name}: {error}"))
        });
        self.steps.push(Step { name: name.to_owned(), elapsed: started.elapsed(), tally });
    }

    fn total(&self) -> Tally {
        let mut total = Tally::default();
        for step in &self.steps {
            total.add(step.tally.clone());
        }
        total
    }

    fn print(&self) {
        let total = self.total();
        println!("\n{:<32} {:>8} {:>8} {:>8} {:>8}", "step", "seconds", "passed", "failed", "skipped");
        for Step { name, elapsed, tally } in &self.steps {
            println!(
                "{name:<32} {:>8.1} {:>8} {:>8} {:>8}",
                elapsed.as_secs_f64(),
                tally.passed,
                tally.failed,
                tally.skipped.len()
            );
        }
        if !total.skipped.is_empty() {
            println!("\nskipped, and why:");
            for reason in &total.skipped {
                println!("  {reason}");
            }
        }
        if !total.failures.is_empty() {
            println!("\nfailed:");
            for name in &total.failures {
                println!("  {name}");
            }
        }
        println!("\nlogs: {}\n", display_from_root(&target_dir().join("test-logs")));
        println!("{} passed, {} failed", total.passed, total.failed);
    }
}

fn display_from_root(path: &Path) -> String {
    path.strip_prefix(command::root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(package: &str, is_integration: bool) -> TestProgram {
        TestProgram {
            package: package.into(),
            target: "x".into(),
            is_integration,
            path: PathBuf::new(),
            folder: PathBuf::new(),
        }
    }

    #[test]
    fn every_test_program_belongs_to_one_group() {
        assert_eq!(Group::of(&program("agent", false)), Group::Unit);
        assert_eq!(Group::of(&program("agent", true)), Group::Kernel);
        assert_eq!(Group::of(&program("coordinator", true)), Group::Unit);
        assert_eq!(Group::of(&program("e2e", true)), Group::EndToEnd);
    }
}
