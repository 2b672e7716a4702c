//! What cargo built: programs and test executables, read from its own messages.
//!
//! The whole workspace is built by one cargo invocation, so that no crate is compiled twice with
//! different features; the executables are then started one by one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::{cargo, spelled};

/// One test executable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TestProgram {
    /// The package it tests.
    pub package: String,
    /// The target's name: a library, a program or a file in `tests/`.
    pub target: String,
    /// Whether it comes from the package's `tests/` folder.
    pub is_integration: bool,
    /// The executable.
    pub path: PathBuf,
    /// The package's folder, where cargo would start it.
    pub folder: PathBuf,
}

impl TestProgram {
    /// How we call it: `agent` for a crate's own tests, `agent::cgroups` for a file in its `tests/`.
    pub fn name(&self) -> String {
        if self.is_integration { format!("{}::{}", self.package, self.target) } else { self.target.clone() }
    }
}

/// All that one build gave.
#[derive(Debug, Clone, Default)]
pub struct Artifacts {
    /// Sorted by package and target.
    pub tests: Vec<TestProgram>,
    /// Programs by name, examples by `examples/` and name: where they lie in the build's folder.
    pub programs: BTreeMap<String, PathBuf>,
}

impl Artifacts {
    /// The folder of our daemons, which tests find as `MUSTER_BIN_DIR`.
    pub fn program_folder(&self) -> Result<&Path> {
        let path = self.programs.get("muster-agent").context("cargo built no muster-agent")?;
        path.parent().context("a program without a folder")
    }
}

/// Builds every library, program, example and test of the workspace.
pub fn build_all() -> Result<Artifacts> {
    build(&["--workspace", "--lib", "--bins", "--examples", "--tests"])
}

/// Builds the three programs alone.
pub fn build_programs(is_release: bool) -> Result<Artifacts> {
    let mut selection = vec!["--bins", "--package", "coordinator", "--package", "agent", "--package", "cli"];
    if is_release {
        selection.push("--release");
    }
    build(&selection)
}

/// Builds a member, and who writes to it while its power is cut.
pub fn build_for_power_cuts(is_release: bool) -> Result<Artifacts> {
    let mut selection = vec!["--bins", "--package", "coordinator", "--package", "harness"];
    if is_release {
        selection.push("--release");
    }
    build(&selection)
}

fn build(selection: &[&str]) -> Result<Artifacts> {
    let mut command = cargo();
    command.args(["build", "--locked", "--message-format=json-render-diagnostics"]).args(selection);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start `{}`", spelled(&command)))?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut artifacts = Artifacts::default();
    for line in BufReader::new(stdout).lines() {
        artifacts.note(&line.context("can't read cargo's messages")?)?;
    }
    let status = child.wait().context("can't wait for cargo")?;
    if !status.success() {
        bail!("the build failed (`{}`)", spelled(&command));
    }
    artifacts.tests.sort();
    Ok(artifacts)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Artifacts {
    fn note(&mut self, line: &str) -> Result<()> {
        let message: Message = match serde_json::from_str(line) {
            Ok(message) => message,
            // A build script's stray output, not a message.
            Err(_) => return Ok(()),
        };
        let (true, Some(path), Some(target), Some(profile), Some(manifest)) = (
            message.reason == "compiler-artifact",
            message.executable,
            message.target,
            message.profile,
            message.manifest_path,
        ) else {
            return Ok(());
        };
        let is = |kind: &str| target.kind.iter().any(|own| own == kind);
        if profile.test {
            let folder = manifest.parent().context("a manifest without a folder")?.to_path_buf();
            let package = package_name(&manifest)?;
            self.tests.push(TestProgram {
                package,
                is_integration: is("test"),
                target: target.name,
                path,
                folder,
            });
        } else if is("example") {
            self.programs.insert(format!("examples/{}", target.name), path);
        } else if is("bin") && target.name != "xtask" {
            self.programs.insert(target.name, path);
        }
        Ok(())
    }
}

fn package_name(manifest: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Manifest {
        package: Package,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
    }
    let text =
        std::fs::read_to_string(manifest).with_context(|| format!("can't read {}", manifest.display()))?;
    let manifest: Manifest = toml::from_str(&text)?;
    Ok(manifest.package.name)
}
