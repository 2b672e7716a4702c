//! The verb `e2e`: end-to-end tests, here or in a virtual machine with another kernel.
//!
//! The machine boots a Debian kernel into a user space of busybox, our programs and the test programs,
//! with cgroup v2 alone; what it prints on its serial port is all we hear. Start at [`run_tests`].
//!
//! ## Design
//!
//! Software emulation, as hosts of continuous integration have no KVM: about 17 times slower than the
//! host. Tests find `MUSTER_GUEST=1` and are patient. No network: everything is in the initramfs, which is
//! not compressed, because unpacking would cost more than copying. The disk is empty, for what tests write.

mod archive;
pub mod boot;
pub mod initramfs;
pub mod kernel;
mod packages;
mod scenarios;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::artifacts::{self, Artifacts, TestProgram};
use crate::command::{self, program, target_dir};
use crate::libtest::Tally;
use crate::test::{Group, log_folder, run_program};
use crate::{ebpf, setup};

pub use scenarios::Extent;

/// The kernel that `cargo xtask test` boots: Debian 12's backport of the newest long-term one.
pub const DEFAULT_KERNEL: &str = "6.12";

/// The kernels that Debian 12 has, all of which we support.
pub const KERNELS: &[&str] = &[DEFAULT_KERNEL, "6.1"];

/// Boot, tests, and the way down take some minutes on a quiet machine, and much more beside other work.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
const DEADLINE_OF_ALL: Duration = Duration::from_secs(2 * 60 * 60);

/// Machines at the same time, as one keeps only one processor busy.
const MACHINES: usize = 2;

/// More than any test writes.
const DISK_BYTES: u64 = 4 << 30;

/// What the kernel tests take in a machine that has a processor for itself.
const KERNEL_TESTS_SECONDS: u32 = 290;

/// What to run, and where.
#[derive(clap::Args)]
pub struct Args {
    /// Boot this kernel (6.12 or 6.1) in a virtual machine instead of testing here.
    #[arg(long)]
    kernel: Option<String>,
    /// Install, upgrade and remove our packages on a clean Debian in a virtual machine, instead of tests.
    #[arg(long, conflicts_with_all = ["names", "command", "kernel"])]
    packages: bool,
    /// Only what `cargo xtask test` runs in a virtual machine.
    #[arg(long, requires = "kernel", conflicts_with_all = ["names", "command"])]
    everyday: bool,
    /// Only tests whose name contains one of these.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Run this shell command in the virtual machine instead of the tests.
    #[arg(long, requires = "kernel", conflicts_with = "names")]
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
    let extent = match (args.everyday, args.names.as_slice()) {
        (true, _) => Extent::Everyday,
        (false, []) => Extent::All,
        (false, names) => Extent::Named(names),
    };
    let tally = match &args.kernel {
        Some(kernel) => run_tests(kernel, &artifacts, extent)?,
        None => {
            let mut total = Tally::default();
            for (group, test) in guest_programs(&artifacts) {
                total.add(run_program(group, test, &artifacts, &args.names)?);
            }
            total
        }
    };
    for reason in &tally.skipped {
        println!("skipped: {reason}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if !args.names.is_empty() && tally.passed + tally.failed == 0 {
        anyhow::bail!("no test has `{}` in its name", args.names.join("` or `"));
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

/// Boots `kernel`, on machines that share the work, and runs there as many of the tests that touch the kernel.
pub fn run_tests(kernel: &str, artifacts: &Artifacts, extent: Extent) -> Result<Tally> {
    let tree = kernel::fetch(kernel)?;
    let hands = scenarios::deal(plan(artifacts, extent)?, MACHINES);
    let machine = |number: usize, hand: Vec<(&TestProgram, boot::Command)>| {
        let name = format!("guest-{}", number + 1);
        run_machine(&name, kernel, &tree, artifacts, &hand, extent)
    };
    std::thread::scope(|scope| {
        let machines: Vec<_> = hands
            .into_iter()
            .enumerate()
            .map(|(number, hand)| scope.spawn(move || machine(number, hand)))
            .collect();
        let mut total = Tally::default();
        for machine in machines {
            total.add(machine.join().expect("the thread of a machine doesn't panic")?);
        }
        Ok(total)
    })
}

/// Every run of a test program, and about how many seconds it takes.
fn plan<'a>(
    artifacts: &'a Artifacts,
    extent: Extent,
) -> Result<Vec<(u32, (&'a TestProgram, boot::Command))>> {
    let mut plan = Vec::new();
    let programs = guest_programs(artifacts);
    let kernel_programs = programs.iter().filter(|(group, _)| *group == Group::Kernel).count();
    for (group, test) in programs {
        let command = |name: String, filters: &[String]| {
            let words = [&[guest_path(test), "--show-output --test-threads=1".to_owned()], filters].concat();
            (test, boot::Command { name, line: words.join(" ") })
        };
        match (group, extent) {
            (Group::EndToEnd, Extent::Named(names)) => {
                let selections = scenarios::select_named(&named(test, names)?);
                plan.extend(selections.into_iter().map(|selection| {
                    (selection.seconds, command(selection.theme.to_owned(), &selection.filters))
                }));
            }
            (Group::Kernel | Group::Unit, Extent::Named(names)) => {
                if !named(test, names)?.is_empty() {
                    plan.push((1, command(test.name(), names)));
                }
            }
            (Group::EndToEnd, Extent::Everyday | Extent::All) => {
                let selections = scenarios::select(extent);
                plan.extend(selections.into_iter().map(|selection| {
                    (selection.seconds, command(selection.theme.to_owned(), &selection.filters))
                }));
            }
            (Group::Kernel | Group::Unit, Extent::Everyday | Extent::All) => {
                let seconds = KERNEL_TESTS_SECONDS / kernel_programs as u32;
                plan.push((seconds, command(test.name(), &[])));
            }
        }
    }
    Ok(plan)
}

/// A test program's tests of such names, so that no machine is booted for nothing.
fn named(test: &TestProgram, names: &[String]) -> Result<Vec<String>> {
    let listing = command::capture(program(&test.path).arg("--list").args(names))?;
    Ok(listing.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Boots one machine with these runs of test programs.
fn run_machine(
    machine: &str,
    kernel: &str,
    tree: &kernel::KernelTree,
    artifacts: &Artifacts,
    runs: &[(&TestProgram, boot::Command)],
    extent: Extent,
) -> Result<Tally> {
    let image = target_dir().join("guest").join(format!("initramfs-{kernel}-{machine}.cpio"));
    let mut files: BTreeMap<String, &Path> = BTreeMap::new();
    for (name, path) in &artifacts.programs {
        files.insert(format!("/muster/bin/{name}"), path);
    }
    for (test, _) in runs {
        files.insert(guest_path(test), &test.path);
    }
    let plan: Vec<boot::Command> = runs.iter().map(|(_, command)| command.clone()).collect();
    initramfs::write(&image, tree, &files, &plan)?;
    let log = log_folder()?.join(format!("guest-{kernel}-{machine}.log"));
    let name = format!("{kernel} {machine}");
    boot::run(
        &boot::Machine {
            name: &name,
            kernel: tree,
            image: &image,
            disks: &[boot::Disk::Image(&disk()?)],
            append: "",
            log: &log,
        },
        &plan,
        if extent == Extent::Everyday { DEADLINE } else { DEADLINE_OF_ALL },
    )
}

/// An empty disk, made once. Most of it is a hole, and every machine forgets what it wrote.
fn disk() -> Result<PathBuf> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = target_dir().join("guest/empty.ext4");
    if !path.exists() {
        let fresh = path.with_extension("fresh");
        let made = File::create(&fresh).and_then(|file| file.set_len(DISK_BYTES));
        made.with_context(|| format!("can't make {}", fresh.display()))?;
        command::run(program("mkfs.ext4").arg("-q").arg(&fresh))?;
        std::fs::rename(&fresh, &path).context("can't move the disk into its place")?;
    }
    Ok(path)
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
    let mut files = BTreeMap::new();
    for path in with {
        let name = path.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        files.insert(format!("/muster/bin/{name}"), path.as_path());
    }
    initramfs::write(&image, &tree, &files, &plan)?;
    let log = log_folder()?.join(format!("guest-{kernel}-command.log"));
    let machine = boot::Machine {
        name: "command",
        kernel: &tree,
        image: &image,
        disks: &[boot::Disk::Image(&disk()?)],
        append: "",
        log: &log,
    };
    let tally = boot::run(&machine, &plan, DEADLINE)?;
    print!("{}", std::fs::read_to_string(&log)?);
    anyhow::ensure!(tally.failed == 0, "the command failed: {}", tally.failures.join(", "));
    Ok(())
}
