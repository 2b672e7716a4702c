//! Builds the kernel programs.
//!
//! Finds a Rust compiler with the sources of `core`, and bpf-linker; builds `agent-ebpf` with both, and puts
//! the object where `agent/build.rs` embeds it. Never installs anything: that is `cargo xtask setup`.
//! Start at [`build`]; what it wants of a machine is [`ToolChain::find`].
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::toolchain;

/// `cargo xtask ebpf`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build twice more, in two other folders with empty targets, and compare the bytes
    #[arg(long)]
    pub check_reproducible: bool,
    /// Don't load the object to see what the verifier thinks of it
    #[arg(long)]
    pub no_verifier: bool,
}

/// Builds the object; as root, also shows what the verifier thought of each program.
pub fn run(args: &Args) -> Result<()> {
    let object = build()?;
    eprintln!("built {} ({} bytes)", object.display(), fs::metadata(&object)?.len());
    if args.check_reproducible {
        check_reproducible()?;
    }
    if args.no_verifier {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: the verifier's opinion needs root");
        return Ok(());
    }
    show_verifier()
}

/// Builds the object at `agent-ebpf/target/agent-ebpf.o`, wherever `CARGO_TARGET_DIR` points.
///
/// Touches the file only when its bytes change, so that the agent isn't built again for nothing.
pub fn build() -> Result<PathBuf> {
    let root = workspace_root()?;
    let object = root.join("agent-ebpf/target/agent-ebpf.o");
    let built = ToolChain::find()?.build(&root)?;
    if fs::read(&object).is_ok_and(|present| present == built) {
        return Ok(object);
    }
    // Written beside and renamed: who embeds it at this moment gets the old one or the new one, whole.
    let fresh = object.with_extension(format!("o.{}", std::process::id()));
    fs::write(&fresh, &built).with_context(|| format!("can't write {}", fresh.display()))?;
    fs::rename(&fresh, &object).with_context(|| format!("can't put {} in place", object.display()))?;
    Ok(object)
}

/// Builds copies of the sources in two other folders, and refuses if any byte depends on where they are.
pub fn check_reproducible() -> Result<()> {
    let root = workspace_root()?;
    let tool_chain = ToolChain::find()?;
    let here = tool_chain.build(&root)?;
    // Two depths and lengths, so that a path of either kind would show.
    let scratch = std::env::temp_dir().join(format!("muster-ebpf-{}", std::process::id()));
    let result = ["a", "another/and deeper"].iter().try_for_each(|name| {
        let copy = scratch.join(name);
        copy_sources(&root, &copy)?;
        let there = tool_chain.build(&copy)?;
        if here != there {
            let kept = root.join("agent-ebpf/target/agent-ebpf.differs.o");
            fs::write(&kept, there)?;
            bail!(
                "the kernel programs aren't reproducible: built in {}, they differ; see {}",
                copy.display(),
                kept.display()
            );
        }
        Ok(())
    });
    let removed = fs::remove_dir_all(&scratch);
    result?;
    removed.with_context(|| format!("can't remove {}", scratch.display()))?;
    eprintln!("reproducible: three folders, the same {} bytes", here.len());
    Ok(())
}

/// What the kernel programs are built with.
#[derive(Debug)]
pub struct ToolChain {
    rustc: PathBuf,
    cargo: PathBuf,
    sysroot: PathBuf,
    linker: PathBuf,
}

impl ToolChain {
    /// Finds one, or says what is missing.
    ///
    /// Any rustc will do that has the sources of `core` beside it: see [`toolchain::kernel_rustc`].
    pub fn find() -> Result<Self> {
        let Some(linker) = toolchain::bpf_linker() else {
            bail!(
                "can't build the kernel programs: bpf-linker is neither in PATH nor in cargo's bin folder\n\
                 next:  cargo xtask setup"
            );
        };
        if let Some(toolchain::KernelRustc { rustc, sysroot, .. }) = toolchain::kernel_rustc() {
            // The standard library's manifests are best read by the cargo of the same release.
            let own_cargo = sysroot.join("bin/cargo");
            let is_rustup = !sysroot.starts_with("/usr");
            let cargo = if is_rustup && own_cargo.exists() { own_cargo } else { outer_cargo() };
            return Ok(Self { rustc, cargo, sysroot, linker });
        }
        bail!(
            "can't build the kernel programs: no rustc here has the sources of `core` beside it\n\
             why:   they are built for a target that has no ready-made `core`\n\
             next:  cargo xtask setup   (rustup's rust-src, or Debian's rustc-web and rust-web-src)"
        )
    }

    /// Builds `agent-ebpf` below `root`, in a target folder of its own, and returns the object.
    fn build(&self, root: &Path) -> Result<Vec<u8>> {
        let package = root.join("agent-ebpf");
        let target = package.join("target");
        let mut command = Command::new(&self.cargo);
        // The caller's cargo and CI leave settings in the environment that are meant for another target.
        for (name, _) in std::env::vars_os() {
            let is_setting = name.to_string_lossy().starts_with("CARGO_") && name != "CARGO_HOME";
            if is_setting || name == "RUSTFLAGS" || name == "RUSTC_WRAPPER" || name == "RUSTUP_TOOLCHAIN" {
                command.env_remove(&name);
            }
        }
        let output = command
            .current_dir(&package)
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTC", &self.rustc)
            // Lets a stable compiler build `core`. Our own crate uses one unstable feature: a line of assembly.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(&package)?)
            .output()
            .with_context(|| format!("can't run {}", self.cargo.display()))?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!(
                "can't build the kernel programs with {} and {}\n{complaints}\n\
                 A complaint about bitcode means that bpf-linker's LLVM is older than that rustc's: \
                 `cargo xtask setup` builds a matching one.",
                self.rustc.display(),
                self.linker.display(),
            );
        }
        eprint!("{complaints}");
        let built = target.join("bpfel-unknown-none/release/agent-ebpf");
        fs::read(&built).with_context(|| format!("can't read {}", built.display()))
    }

    /// Compiler flags, in cargo's encoding. No path of this machine may reach the object.
    fn flags(&self, package: &Path) -> Result<OsString> {
        let package = package.canonicalize().with_context(|| format!("can't find {}", package.display()))?;
        let rust = self.sysroot.join("lib/rustlib/src/rust");
        let mut flags: Vec<OsString> = vec![
            concat("-Clinker=", &self.linker, ""),
            // BTF is made from the debug information; the kernel wants the types of our functions.
            "-Cdebuginfo=2".into(),
            "-Clink-arg=--btf".into(),
        ];
        let mut remap = |from: &Path, to: &str| flags.push(concat("--remap-path-prefix=", from, to));
        remap(&package, "=agent-ebpf");
        remap(&cargo_home().join("registry"), "=registry");
        remap(&rust.canonicalize()?, "=rust");
        // The last one that matches counts, and Debian's folder is a link.
        remap(&rust, "=rust");
        Ok(flags.join(std::ffi::OsStr::new("\u{1f}")))
    }
}

/// Loads the object through the agent's own loader and prints a row for each program.
fn show_verifier() -> Result<()> {
    let status = Command::new(outer_cargo())
        .current_dir(workspace_root()?)
        .args(["run", "--quiet", "--locked", "--package", "agent", "--example", "ebpf_verifier"])
        .status()
        .context("can't run cargo")?;
    ensure!(status.success(), "the kernel programs don't load here; see above");
    Ok(())
}

/// Copies what a build of the kernel programs reads.
fn copy_sources(root: &Path, copy: &Path) -> Result<()> {
    fs::create_dir_all(copy)?;
    // `common` takes its version and edition from the main workspace.
    fs::copy(root.join("Cargo.toml"), copy.join("Cargo.toml"))?;
    copy_folder(&root.join("agent-ebpf"), &copy.join("agent-ebpf"))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("can't list {}", from.display()))? {
        let entry = entry?;
        if entry.file_name() == "target" {
            continue;
        }
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

fn cargo_home() -> PathBuf {
    let home = || std::env::home_dir().unwrap_or_default().join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// The cargo that runs us.
fn outer_cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

fn workspace_root() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().map(Path::to_path_buf).context("xtask lies at the root of the file system")
}

fn concat(before: &str, path: &Path, after: &str) -> OsString {
    let mut joined = OsString::from(before);
    joined.push(path);
    joined.push(after);
    joined
}
