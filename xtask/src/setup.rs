//! What this machine lacks, and how it gets it.
//!
//! Looks first, says what is missing and why, and only then installs; a second run finds nothing to do
//! and takes no time. Debian's packages come by apt, bpf-linker by cargo. Start at [`ensure`].
//!
//! ## Design
//!
//! promtool is taken out of Debian's `prometheus` package without installing it: the package would start
//! a daemon that nobody asked for. For the same reason etcd, and ZooKeeper with it, are left to whoever wants to see
//! them beside ours: the benchmarks name the packages and skip what isn't there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::command::{
    as_root, capture, cargo, cargo_home, find, program, run as run_command, run_logged, target_dir, tools_dir,
};
use crate::python;
use crate::toolchain::{KernelRustc, bpf_linker, has_llvm, kernel_rustc, linked_llvm, llvm_prefix};

/// The version that the kernel programs are built with; another one may give other bytes.
const BPF_LINKER_VERSION: &str = "0.13.0";

/// For whom a machine is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// To build and run a cluster here.
    Dev,
    /// To run all tests, the ones in a virtual machine too.
    Test,
    /// To run the benchmarks, beside what others have.
    Bench,
}

struct Package {
    name: &'static str,
    why: &'static str,
    level: Level,
}

/// What comes by apt on every machine. The compiler for the kernel programs is decided in [`missing`].
const PACKAGES: &[Package] = &[
    Package { name: "gcc", why: "links our programs and compiles ring", level: Level::Dev },
    Package { name: "libc6-dev", why: "what every program is linked with", level: Level::Dev },
    Package { name: "make", why: "builds libbpf inside libbpf-rs", level: Level::Test },
    Package { name: "g++", why: "builds the run time of the fuzzers", level: Level::Test },
    Package { name: "pkg-config", why: "finds libelf and zlib for libbpf-rs", level: Level::Test },
    Package {
        name: "libelf-dev",
        why: "libbpf-rs, the second judge of our kernel programs",
        level: Level::Test,
    },
    Package {
        name: "zlib1g-dev",
        why: "libbpf-rs, the second judge of our kernel programs",
        level: Level::Test,
    },
    Package { name: "iproute2", why: "tests that look at network namespaces", level: Level::Test },
    Package { name: "nftables", why: "tests that cut links between daemons", level: Level::Test },
    Package { name: "faketime", why: "tests of daemons whose clocks are wrong", level: Level::Test },
    Package { name: "qemu-system-x86", why: "end-to-end tests on another kernel", level: Level::Test },
    Package { name: "busybox-static", why: "the user space of that virtual machine", level: Level::Test },
    Package { name: "kmod", why: "finds the kernel modules of that virtual machine", level: Level::Test },
    Package {
        name: "xz-utils",
        why: "unpacks the kernel modules of that virtual machine",
        level: Level::Test,
    },
    Package { name: "mmdebstrap", why: "the clean Debian on which packages are tried", level: Level::Test },
    Package { name: "e2fsprogs", why: "the disk of that Debian", level: Level::Test },
    Package { name: "python3", why: "the Python framework example", level: Level::Test },
    Package {
        name: "python3-venv",
        why: "keeps that example's libraries out of the system",
        level: Level::Test,
    },
    Package { name: "crun", why: "a peer of our launches", level: Level::Bench },
    Package { name: "runc", why: "a peer of our launches", level: Level::Bench },
    Package { name: "wrk", why: "the load on a measured web server", level: Level::Bench },
    Package { name: "strace", why: "counts how often members wait for the disk", level: Level::Bench },
];

/// One thing that isn't here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    Package {
        name: String,
        why: &'static str,
    },
    /// LLVM's library for bpf-linker; its version is known once the compiler is.
    Llvm {
        major: Option<u32>,
    },
    BpfLinker {
        why: String,
    },
    Promtool,
    PythonLibraries,
}

impl Need {
    fn describe(&self) -> (String, String) {
        match self {
            Self::Package { name, why } => (format!("apt    {name}"), (*why).to_owned()),
            Self::Llvm { major } => {
                let version = major.map_or_else(|| "NN".to_owned(), |major| major.to_string());
                (
                    format!("apt    llvm-{version}-dev"),
                    "bpf-linker needs an LLVM as new as that compiler's".to_owned(),
                )
            }
            Self::BpfLinker { why } => (format!("cargo  bpf-linker {BPF_LINKER_VERSION}"), why.clone()),
            Self::Promtool => (
                "unpack promtool".to_owned(),
                "checks our metrics; taken from Debian's prometheus, which is not installed".to_owned(),
            ),
            Self::PythonLibraries => (
                format!("pip    into {}", python::venv().display()),
                "the Python framework example speaks gRPC".to_owned(),
            ),
        }
    }
}

/// The verb.
pub fn run(level: Level, dry_run: bool) -> Result<()> {
    let needs = missing(level)?;
    if needs.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    if dry_run {
        announce(level, &needs);
        bail!("{} things are missing", needs.len());
    }
    ensure(level)
}

/// Installs what is missing; silent and quick when nothing is.
pub fn ensure(level: Level) -> Result<()> {
    let needs = missing(level)?;
    if needs.is_empty() {
        return Ok(());
    }
    announce(level, &needs);
    install_packages(&needs)?;
    // The compiler is here now, and with it the version of LLVM that bpf-linker needs.
    let needs = missing(level)?;
    install_packages(&needs)?;
    for need in &needs {
        match need {
            Need::Package { .. } | Need::Llvm { .. } => {}
            Need::BpfLinker { .. } => install_bpf_linker()?,
            Need::Promtool => unpack_promtool()?,
            Need::PythonLibraries => python::install()?,
        }
    }
    let left = missing(level)?;
    if !left.is_empty() {
        announce(level, &left);
        bail!("these are still missing after the installation");
    }
    println!("setup: done\n");
    Ok(())
}

fn announce(level: Level, needs: &[Need]) {
    let purpose = match level {
        Level::Dev => "to build and run Muster",
        Level::Test => "to build, run and test Muster",
        Level::Bench => "to build, run, test and measure Muster",
    };
    println!("setup: this machine lacks, {purpose}:");
    for need in needs {
        let (what, why) = need.describe();
        println!("  {what:<38}  {why}");
    }
    println!();
}

/// What isn't here, in the order in which it is installed.
fn missing(level: Level) -> Result<Vec<Need>> {
    let mut needs = Vec::new();
    let wanted: Vec<&Package> = PACKAGES.iter().filter(|package| package.level <= level).collect();
    let names: Vec<&str> = wanted.iter().map(|package| package.name).collect();
    let absent = absent_packages(&names)?;
    for package in wanted {
        if absent.iter().any(|name| name == package.name) {
            needs.push(Need::Package { name: package.name.to_owned(), why: package.why });
        }
    }

    let compiler = kernel_rustc();
    if compiler.is_none() {
        for name in ["rustc-web", "rust-web-src"] {
            let why = "builds the kernel programs, as no nightly with rust-src is here";
            needs.push(Need::Package { name: name.to_owned(), why });
        }
    }
    if let Some(why) = bpf_linker_lack(compiler.as_ref()) {
        let major = compiler.as_ref().map(|compiler| compiler.llvm_major);
        if major.is_none_or(|major| !has_llvm(major)) {
            needs.push(Need::Llvm { major });
        }
        needs.push(Need::BpfLinker { why });
    }

    if level >= Level::Test {
        if find("promtool").is_none() {
            needs.push(Need::Promtool);
        }
        if !python::is_installed() {
            needs.push(Need::PythonLibraries);
        }
    }
    Ok(needs)
}

/// Those of `names` that dpkg doesn't know as installed. On another distribution, none is known absent.
fn absent_packages(names: &[&str]) -> Result<Vec<String>> {
    if find("dpkg-query").is_none() {
        return Ok(Vec::new());
    }
    // dpkg-query fails when any name is unknown, and still prints the others.
    let output = program("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Abbrev}\n"])
        .args(names)
        .output()
        .context("can't start `dpkg-query`")?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let is_installed = |name: &str| {
        listing.lines().any(|line| {
            let mut fields = line.split_whitespace();
            fields.next() == Some(name) && fields.next() == Some("ii")
        })
    };
    Ok(names.iter().filter(|name| !is_installed(name)).map(|name| (*name).to_owned()).collect())
}

/// Why the bpf-linker that is here won't do; `None` when it will.
fn bpf_linker_lack(compiler: Option<&KernelRustc>) -> Option<String> {
    let links = "links the kernel programs".to_owned();
    let Some(path) = bpf_linker() else { return Some(links) };
    let Ok(version) = capture(program(&path).arg("--version")) else {
        return Some(format!("{links}; the one here doesn't start"));
    };
    if version.split_whitespace().nth(1) != Some(BPF_LINKER_VERSION) {
        return Some(format!("{links}; here is {}", version.trim()));
    }
    let (Some(own), Some(compiler)) = (linked_llvm(&path), compiler) else { return None };
    (own < compiler.llvm_major)
        .then(|| format!("{links}; the one here has LLVM {own}, {} {}", compiler.name, compiler.llvm_major))
}

fn install_packages(needs: &[Need]) -> Result<()> {
    let wants_packages = needs.iter().any(|need| matches!(need, Need::Package { .. } | Need::Llvm { .. }));
    if !wants_packages {
        return Ok(());
    }
    if find("apt-get").is_none() {
        bail!("there is no apt-get here: install what is listed above yourself, then try again");
    }
    update_package_lists()?;

    let mut names = Vec::new();
    for need in needs {
        match need {
            Need::Package { name, .. } => names.push(name.clone()),
            Need::Llvm { major } => {
                // Without the compiler we ask the package lists which LLVM it will bring.
                if let Some(major) = major.or_else(llvm_of_debian_rustc) {
                    names.push(format!("llvm-{major}-dev"));
                }
            }
            Need::BpfLinker { .. } | Need::Promtool | Need::PythonLibraries => {}
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let mut install = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
    install.extend(names.iter().map(String::as_str));

    let mut rehearsal = install.clone();
    rehearsal.push("--simulate");
    let plan = capture(&mut apt_get(&rehearsal)).context("apt can't install these packages")?;
    let removed: Vec<&str> =
        plan.lines().filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next()).collect();
    if !removed.is_empty() {
        println!("setup: apt removes these, which can't stay beside them: {}\n", removed.join(" "));
    }
    println!("setup: installing {}", names.join(" "));
    run_logged(&mut as_root(apt_get(&install))?, &log("apt-install")?)
}

fn update_package_lists() -> Result<()> {
    println!("setup: reading the package lists");
    run_logged(&mut as_root(apt_get(&["update", "--quiet"]))?, &log("apt-update")?)
}

/// Where a talkative program's output goes.
fn log(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("setup-logs");
    std::fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    Ok(folder.join(format!("{name}.log")))
}

fn apt_get(arguments: &[&str]) -> std::process::Command {
    let mut command = program("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// The LLVM that Debian's rustc-web depends on, from the package lists.
fn llvm_of_debian_rustc() -> Option<u32> {
    let tree = capture(program("apt-cache").env("LC_ALL", "C").args([
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
        "rustc-web",
    ]))
    .ok()?;
    tree.split_whitespace().find_map(|word| word.strip_prefix("libllvm")?.parse().ok())
}

fn install_bpf_linker() -> Result<()> {
    let compiler = kernel_rustc().context("no compiler for the kernel programs was found")?;
    let major = compiler.llvm_major;
    println!("setup: building bpf-linker with LLVM {major}, as {} has it; this takes minutes", compiler.name);
    let mut command = cargo();
    command
        .args(["install", "bpf-linker", "--locked", "--force", "--version", BPF_LINKER_VERSION])
        .args(["--no-default-features", "--features", &format!("llvm-{major}"), "--root"])
        .arg(cargo_home())
        .env("LLVM_PREFIX", llvm_prefix(major))
        // Most of its work is done inside LLVM: speed of its own code isn't worth minutes of building.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env_remove("CARGO_TARGET_DIR")
        // Outside the checkout, so that its .cargo/config.toml has no say.
        .current_dir("/");
    run_command(&mut command)
}

/// Takes promtool out of Debian's prometheus package.
fn unpack_promtool() -> Result<()> {
    let tree = download_package("prometheus")?;
    let folder = tools_dir().join("bin");
    std::fs::create_dir_all(&folder).context("can't make the folder for tools")?;
    std::fs::copy(tree.join("usr/bin/promtool"), folder.join("promtool"))
        .context("can't take promtool out of Debian's prometheus package")?;
    std::fs::remove_dir_all(&tree).context("can't remove what was unpacked of prometheus")?;
    Ok(())
}

/// Downloads a Debian package and unpacks it, without installing it; returns the folder.
///
/// Package lists that are older than the archive are fetched anew, once.
pub fn download_package(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("packages").join(name);
    let downloads = folder.with_extension("download");
    let _ = std::fs::remove_dir_all(&folder); // absent the first time
    let _ = std::fs::remove_dir_all(&downloads); // absent the first time
    std::fs::create_dir_all(&downloads).context("can't make a folder for the download")?;
    let download = |folder: &Path| {
        let mut command = apt_get(&["download", "--quiet", "-o", "APT::Sandbox::User=root", name]);
        run_logged(command.current_dir(folder), &log("apt-download")?)
    };
    if download(&downloads).is_err() {
        update_package_lists()?;
        download(&downloads)?;
    }
    let package = std::fs::read_dir(&downloads)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get left no file of package {name}"))?;
    std::fs::create_dir_all(&folder)?;
    run_command(program("dpkg-deb").arg("--extract").arg(&package).arg(&folder))?;
    std::fs::remove_dir_all(&downloads)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_needs_less_than_test() {
        let count = |level| PACKAGES.iter().filter(|package| package.level <= level).count();
        assert!(count(Level::Dev) < count(Level::Test));
    }
}
