//! The verb `e2e`: end-to-end tests, here or in a virtual machine with another kernel.
//!
//! The machine boots a Debian kernel into a user space of busybox, our programs and the test programs,
//! with cgroup v2 alone; what it prints on its serial port is all we hear. Start at [`run_tests`].
//!
//! ## Design
//!
//! Software emulation, as hosts of continuous integration have no KVM: about 17 times slower than the
//! host. Tests find `MUSTER_GUEST=1` and are patient. No network and no disk: everything is in the
//! initramfs, which is not compressed, because unpacking would cost more than copying.

mod archive;
mod boot;
mod initramfs;
mod kernel;
mod packages;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::artifacts::{self, Artifacts, TestProgram};
use crate::command::target_dir;
use crate::libtest::Tally;
use crate::test::{Group, log_folder, run_program};
use crate::{ebpf, setup};

/// The kernel that `cargo xtask test` boots: Debian 12's backport of the newest long-term one.
pub const DEFAULT_KERNEL: &str = "6.12";

/// Boot, all tests, and the way down: some five minutes on a quiet machine, and much more beside other work.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// The scenarios that a slow machine is worth: what the kernel decides about limits, metering, kills and
/// adoption. The others try our own code, which is the same on every kernel; by name they run there too.
const SCENARIOS: &[&str] = &[
    "access::a_task",
    "containment::",
    "limits::",
    "metering::",
    "running::run_streams",
    "survival::adopt_after_restart",
];

/// What to run, and where.
#[derive(clap::Args)]
pub struct Args {
    /// Boot this kernel (6.12 or 6.1) in a virtual machine instead of testing here.
    #[arg(long)]
    kernel: Option<String>,
    /// Install, upgrade and remove our packages on a clean Debian in a virtual machine, instead of tests.
    #[arg(long, conflicts_with_all = ["name", "command", "kernel"])]
    packages: bool,
    /// Only tests whose name contains this.
    name: Option<String>,
    /// Run this shell command in the virtual machine instead of the tests.
    #[arg(long, requires = "kernel", conflicts_with = "name")]
    command: Option<String>,
    /// Take this program along for `--command`, as `/muster/bin/NAME`.
    #[arg(long, value_name = "PROGRAM", requires = "command")]
    with: Vec<PathBuf>,
}

/// The verb.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Level::Test)?;
    if let (Some(kernel), Some(command)) = (&args.kernel, &args.command) {
        return run_command(kernel, command, &args.with);
    }
    ebpf::build()?;
    if args.packages {
        let tally = run_packages(&artifacts::build_programs(false)?)?;
        println!("{} passed, {} failed", tally.passed, tally.failed);
        anyhow::ensure!(tally.failed == 0, "not all steps of the packages' life went well");
        return Ok(());
    }
    let artifacts = artifacts::build_all()?;
    let filter = args.name.as_deref();
    let tally = match &args.kernel {
        Some(kernel) => run_tests(kernel, &artifacts, filter)?,
        None => {
            let mut total = Tally::default();
            for (group, test) in guest_programs(&artifacts) {
                total.add(run_program(group, test, &artifacts, filter)?);
            }
            total
        }
    };
    for reason in &tally.skipped {
        println!("skipped: {reason}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if let (Some(name), 0) = (filter, tally.passed + tally.failed) {
        anyhow::bail!("no test has `{name}` in its name");
    }
    anyhow::ensure!(tally.failed == 0, "not all tests passed");
    Ok(())
}

/// Makes packages of these programs and has them live through everything on a clean Debian.
pub fn run_packages(artifacts: &Artifacts) -> Result<Tally> {
    packages::run(&kernel::fetch(DEFAULT_KERNEL)?, artifacts)
}

/// What is worth another kernel: what touches the kernel.
fn guest_programs(artifacts: &Artifacts) -> Vec<(Group, &TestProgram)> {
    let touches_kernel = |group| matches!(group, Group::Kernel | Group::EndToEnd);
    artifacts
        .tests
        .iter()
        .map(|test| (Group::of(test), test))
        .filter(|(group, _)| touches_kernel(*group))
        .collect()
}

/// Boots `kernel` and runs there every test that touches the kernel and whose name contains `filter`.
///
/// Kernel tests and scenarios have a machine each, as one machine keeps only one processor busy.
pub fn run_tests(kernel: &str, artifacts: &Artifacts, filter: Option<&str>) -> Result<Tally> {
    let tree = kernel::fetch(kernel)?;
    if filter.is_none() {
        println!("  every kernel test, and of the scenarios: {}", SCENARIOS.join(" "));
    }
    let machine = |name: &'static str, group| {
        let programs = guest_programs(artifacts).into_iter().filter(|(own, _)| *own == group);
        let programs: Vec<&TestProgram> = programs.map(|(_, test)| test).collect();
        run_machine(name, kernel, &tree, artifacts, &programs, filter)
    };
    std::thread::scope(|scope| {
        let kernel_tests = scope.spawn(|| machine("kernel", Group::Kernel));
        let scenarios = scope.spawn(|| machine("scenarios", Group::EndToEnd));
        let mut total = Tally::default();
        for machine in [kernel_tests, scenarios] {
            total.add(machine.join().expect("the thread of a machine doesn't panic")?);
        }
        Ok(total)
    })
}

/// Boots one machine with these test programs.
fn run_machine(
    machine: &str,
    kernel: &str,
    tree: &kernel::KernelTree,
    artifacts: &Artifacts,
    programs: &[&TestProgram],
    filter: Option<&str>,
) -> Result<Tally> {
    let mut plan = Vec::new();
    for test in programs {
        let mut words = vec![guest_path(test), "--show-output".to_owned()];
        words.push("--test-threads=1".to_owned());
        match (filter, Group::of(test)) {
            (Some(name), _) => words.push(name.to_owned()),
            (None, Group::EndToEnd) => words.extend(SCENARIOS.iter().map(|name| (*name).to_owned())),
            (None, Group::Kernel | Group::Unit) => {}
        }
        plan.push(boot::Command { name: test.name(), line: words.join(" ") });
    }
    let image = target_dir().join("guest").join(format!("initramfs-{kernel}-{machine}.cpio"));
    let mut files: Vec<(String, &Path)> = Vec::new();
    for (name, path) in &artifacts.programs {
        files.push((format!("/muster/bin/{name}"), path));
    }
    for test in programs {
        files.push((guest_path(test), &test.path));
    }
    initramfs::write(&image, tree, &files, &plan)?;
    let log = log_folder()?.join(format!("guest-{kernel}-{machine}.log"));
    boot::run(
        &boot::Machine { name: machine, kernel: tree, image: &image, disks: &[], append: "", log: &log },
        &plan,
        DEADLINE,
    )
}

/// Where a test program lies in the virtual machine.
fn guest_path(test: &TestProgram) -> String {
    format!("/muster/tests/{}", test.name().replace("::", "-"))
}

/// Boots `kernel` and runs one shell command there: for looking around.
fn run_command(kernel: &str, line: &str, with: &[PathBuf]) -> Result<()> {
    let tree = kernel::fetch(kernel)?;
    let plan = [boot::Command { name: "command".to_owned(), line: line.to_owned() }];
    let image = target_dir().join("guest").join(format!("initramfs-{kernel}-command.cpio"));
    let mut files = Vec::new();
    for path in with {
        let name = path.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        files.push((format!("/muster/bin/{name}"), path.as_path()));
    }
    initramfs::write(&image, &tree, &files, &plan)?;
    let log = log_folder()?.join(format!("guest-{kernel}-command.log"));
    let machine =
        boot::Machine { name: "command", kernel: &tree, image: &image, disks: &[], append: "", log: &log };
    let tally = boot::run(&machine, &plan, DEADLINE)?;
    print!("{}", std::fs::read_to_string(&log)?);
    anyhow::ensure!(tally.failed == 0, "the command failed: {}", tally.failures.join(", "));
    Ok(())
}
