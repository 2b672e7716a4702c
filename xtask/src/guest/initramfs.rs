//! What the virtual machine finds: busybox, our programs, the tests, their libraries, and a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::archive::Archive;
use super::boot::Command;
use super::kernel::KernelTree;
use crate::command::{capture, find, program, run, target_dir};

/// The first process of the machine, and the second one.
const INIT: &str = include_str!("init.sh");
const RUN: &str = include_str!("run.sh");

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n\
                      tester:x:1000:1000:tester:/tmp:/bin/sh\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\ntester:x:1000:\n";

/// Programs of this machine that tests start as tasks or look around with. Where busybox has one of the
/// same name, this one counts: a task shall behave there as it does on a host.
const PROGRAMS: &[&str] = &[
    "bash",
    "chrt",
    "dash",
    "fsfreeze",
    "gzip",
    "ip",
    "losetup",
    "mkfs.ext4",
    "prlimit",
    "setsid",
    "tar",
    "taskset",
];

/// The package whose programs all come along, for the same reason.
const PACKAGE: &str = "coreutils";

/// The package that comes along as it is, each file where it belongs: Perl needs its modules.
const WHOLE_PACKAGE: &str = "perl-base";

/// Writes the whole user space of the machine into `image`: ours, and programs by the path that they get.
pub fn write(
    image: &Path,
    kernel: &KernelTree,
    files: &BTreeMap<String, &Path>,
    plan: &[Command],
) -> Result<()> {
    if let Some(folder) = image.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = File::create(image).with_context(|| format!("can't write {}", image.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for folder in
        ["proc", "sys", "dev", "tmp", "run", "root", "mnt", "var/lib", "var/log", "var/tmp", "new", "sbin"]
    {
        archive.folder(folder)?;
    }
    let busybox = find("busybox").context("busybox is not here")?;
    archive.file("/bin/busybox", 0o755, &busybox)?;
    archive.link("/bin/sh", "dash")?;
    archive.bytes("/init", 0o755, INIT.as_bytes())?;
    archive.bytes("/muster/run.sh", 0o755, RUN.as_bytes())?;
    archive.bytes("/muster/plan", 0o644, plan_text(plan).as_bytes())?;
    archive.bytes("/etc/passwd", 0o644, PASSWD.as_bytes())?;
    archive.bytes("/etc/group", 0o644, GROUP.as_bytes())?;
    archive.bytes("/etc/hosts", 0o644, b"127.0.0.1 localhost\n")?;
    archive.bytes("/etc/nsswitch.conf", 0o644, b"passwd: files\ngroup: files\nhosts: files\n")?;

    add_modules(&mut archive, &kernel.modules)?;

    let mut libraries = BTreeSet::new();
    let mut programs = package_programs(PACKAGE)?;
    programs.extend(PROGRAMS.iter().filter_map(|name| find(name)));
    for path in &programs {
        let name = path.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        libraries.extend(shared_libraries(path)?);
        archive.file(&format!("/bin/{name}"), 0o755, path)?;
    }
    for path in package_files(WHOLE_PACKAGE)? {
        libraries.extend(shared_libraries(&path)?);
        let into = path.to_str().context("a file whose path isn't text")?;
        archive.file(into, 0o755, &path)?;
    }
    add_ours(&mut archive, files, libraries)?;
    archive.finish()
}

/// Writes a user space of busybox, an init that knows what it wants, and programs by the path that they get.
pub fn write_stage(
    image: &Path,
    kernel: &KernelTree,
    init: &str,
    files: &BTreeMap<String, &Path>,
) -> Result<()> {
    let file = File::create(image).with_context(|| format!("can't write {}", image.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    let busybox = find("busybox").context("busybox is not here")?;
    archive.file("/bin/busybox", 0o755, &busybox)?;
    archive.bytes("/init", 0o755, init.as_bytes())?;
    add_modules(&mut archive, &kernel.disk_modules)?;
    add_ours(&mut archive, files, BTreeSet::new())?;
    archive.finish()
}

/// Our programs, and their libraries beside those that others need.
fn add_ours<W: Write>(
    archive: &mut Archive<W>,
    files: &BTreeMap<String, &Path>,
    mut libraries: BTreeSet<PathBuf>,
) -> Result<()> {
    for (into, path) in files {
        libraries.extend(shared_libraries(path)?);
        archive.file(into, 0o755, &stripped(path)?)?;
    }
    for library in &libraries {
        let path = library.to_str().context("a library whose path isn't text")?;
        archive.file(path, 0o755, library)?;
    }
    Ok(())
}

/// With a list of their names in the order in which they are loaded.
fn add_modules<W: Write>(archive: &mut Archive<W>, modules: &[PathBuf]) -> Result<()> {
    let mut list = String::new();
    for module in modules {
        let name = module.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
        archive.file(&format!("/lib/modules/{name}"), 0o644, module)?;
        list.push_str(name);
        list.push('\n');
    }
    archive.bytes("/lib/modules/list", 0o644, list.as_bytes())
}

/// The programs that a Debian package installed here.
fn package_programs(package: &str) -> Result<Vec<PathBuf>> {
    let is_program = |path: &PathBuf| path.parent().is_some_and(|folder| folder.ends_with("bin"));
    Ok(package_files(package)?.into_iter().filter(is_program).collect())
}

/// The files that a Debian package installed here, but no links.
fn package_files(package: &str) -> Result<Vec<PathBuf>> {
    let listing = capture(program("dpkg-query").args(["--listfiles", package]))?;
    let is_file = |path: &PathBuf| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    Ok(listing.lines().map(PathBuf::from).filter(is_file).collect())
}

/// One line for each command: its name, a tab, what to run.
fn plan_text(plan: &[Command]) -> String {
    plan.iter().map(|command| format!("{}\t{}\n", command.name, command.line)).collect()
}

/// The libraries that the loader would look for, and the loader.
fn shared_libraries(program_path: &Path) -> Result<Vec<PathBuf>> {
    // A static program makes ldd fail, and needs nothing.
    let Ok(listing) = capture(program("ldd").arg(program_path)) else { return Ok(Vec::new()) };
    Ok(parse_ldd(&listing))
}

fn parse_ldd(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| {
            let line = line.trim();
            let path = line.split_once(" => ").map_or(line, |(_, path)| path);
            let path = path.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

/// The program without debugging information, which is most of its size; a script as it is.
fn stripped(path: &Path) -> Result<PathBuf> {
    let mut magic = [0; 4];
    let is_elf =
        File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF";
    if !is_elf {
        return Ok(path.to_path_buf());
    }
    let folder = target_dir().join("guest/stripped");
    std::fs::create_dir_all(&folder)?;
    let into = folder.join(path.file_name().context("a program without a name")?);
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if modified(&into).is_none_or(|ours| modified(path).is_some_and(|theirs| theirs >= ours)) {
        // Beside and renamed, as two machines may want the same program at once.
        let fresh = into.with_extension(format!("fresh-{:?}", std::thread::current().id()));
        run(program("strip").arg("--strip-debug").arg("-o").arg(&fresh).arg(path))?;
        std::fs::rename(&fresh, &into)?;
    }
    Ok(into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_the_kernels_own_is_not() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f83)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f84)\n";
        assert_eq!(
            parse_ldd(listing),
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
    }
}
