//! The life of our packages on a clean Debian with its own systemd: `packages.sh`, step by step.
//!
//! The Debian is made by mmdebstrap from the archive and kept for the next time; what the machine writes
//! there is forgotten. Two versions of the packages and the script come on a second disk.
//!
//! ## Design
//!
//! Real systemd can't be had on the host (it would have to be its first process), and a fake one would
//! prove nothing about delegation, which is all about what the real one removes and rewrites.
//! The second disk is a bare tar archive: any kernel reads it, and nobody needs root to make it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{boot, initramfs, kernel::KernelTree};
use crate::artifacts::Artifacts;
use crate::command::{as_root, program, run as run_command, run_logged, target_dir};
use crate::dist::{self, Compression};
use crate::libtest::Tally;
use crate::test::log_folder;

const INIT: &str = include_str!("packages-init.sh");
const SCRIPT: &str = include_str!("packages.sh");
const UNIT: &str = include_str!("packages.service");

/// Two of each package: the same programs under two versions.
const VERSION_SUFFIXES: &[(&str, &str)] = &[("1", ""), ("2", "+next")];

/// Packages beyond dpkg, apt and what Debian calls essential.
const INCLUDED: &str = "systemd-sysv,usr-is-merged,procps";

/// The disk's size; most of it is a hole.
const DISK: &str = "1G";

/// Some five minutes on a quiet machine, and more beside other work.
const DEADLINE: Duration = Duration::from_secs(40 * 60);

/// Boots the machine and counts the steps that went well.
pub fn run(kernel: &KernelTree, artifacts: &Artifacts) -> Result<Tally> {
    let folder = target_dir().join("guest");
    let disk = debian(&folder)?;
    let payload = payload(&folder, artifacts)?;
    let image = folder.join("packages.cpio");
    initramfs::write_stage(&image, kernel, INIT, &BTreeMap::new())?;
    let plan: Vec<boot::Command> = steps().map(|name| boot::Command { name, line: String::new() }).collect();
    let log = log_folder()?.join("packages.log");
    let machine = boot::Machine {
        name: "packages",
        kernel,
        image: &image,
        disks: &[boot::Disk::Image(&disk), boot::Disk::Image(&payload)],
        // Nobody is at the machine's keyboard.
        append: "systemd.mask=getty.target systemd.mask=apt-daily.timer systemd.mask=apt-daily-upgrade.timer",
        log: &log,
    };
    let mut tally = boot::run(&machine, &plan, DEADLINE)?;
    // A step that went well is a test that passed; one that did not has been counted.
    tally.passed += (plan.len() as u64).saturating_sub(tally.failed);
    Ok(tally)
}

/// The names of the script's steps, in order.
fn steps() -> impl Iterator<Item = String> {
    let list = SCRIPT.split_once("for name in ").and_then(|(_, rest)| rest.split_once("; do"));
    let names = list.map(|(names, _)| names).unwrap_or_default();
    names.split_whitespace().filter(|word| *word != "\\").map(str::to_owned)
}

/// A disk with a clean Debian 12, made once.
fn debian(folder: &Path) -> Result<PathBuf> {
    let disk = folder.join(format!("debian-12-{}.ext4", INCLUDED.replace(',', "+")));
    if disk.exists() {
        return Ok(disk);
    }
    println!("  making a clean Debian 12");
    std::fs::create_dir_all(folder)?;
    let tree = folder.join("debian-12");
    let clean = || run_command(as_root(program("rm"))?.args(["-r", "-f"]).arg(&tree));
    clean()?;
    let mut mmdebstrap = program("mmdebstrap");
    mmdebstrap
        .args(["--mode=root", "--variant=apt", &format!("--include={INCLUDED}")])
        .arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--dpkgopt=path-exclude=/usr/share/locale/*"])
        .arg("bookworm")
        .arg(&tree);
    run_logged(&mut as_root(mmdebstrap)?, &log_folder()?.join("debian-12.log"))?;
    // QEMU would take a comma in the name for the end of it.
    let fresh = disk.with_extension("fresh");
    let mut format = program("mke2fs");
    format.args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"]);
    run_command(&mut as_root({
        format.arg(&tree).arg(&fresh).arg(DISK);
        format
    })?)?;
    clean()?;
    std::fs::rename(&fresh, &disk).context("can't move the disk into its place")?;
    Ok(disk)
}

/// The second disk: packages, the script, and the unit that runs it.
fn payload(folder: &Path, artifacts: &Artifacts) -> Result<PathBuf> {
    let tree = folder.join("packages");
    let _ = std::fs::remove_dir_all(&tree); // absent the first time
    for (name, suffix) in VERSION_SUFFIXES {
        dist::pack(artifacts, suffix, Compression::Absent, &tree.join("packages").join(name))?;
    }
    let units = tree.join("etc/systemd/system");
    std::fs::create_dir_all(units.join("multi-user.target.wants"))?;
    std::fs::write(units.join("packages.service"), UNIT)?;
    std::os::unix::fs::symlink(
        "../packages.service",
        units.join("multi-user.target.wants/packages.service"),
    )?;
    let script = tree.join("packages/packages.sh");
    std::fs::write(&script, SCRIPT)?;
    run_command(program("chmod").args(["-R", "a+rX,u+w"]).arg(&tree))?;
    run_command(program("chmod").arg("755").arg(&script))?;
    let archive = folder.join("packages.tar");
    let mut tar = program("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--file"]).arg(&archive).arg("-C").arg(&tree);
    run_command(tar.args(["packages", "etc"]))?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_the_script_is_a_function_of_it() {
        let names: Vec<String> = steps().collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(SCRIPT.contains(&format!("\n{name}() {{")), "{name}");
        }
    }
}
