//! Rules about the repository that no compiler checks.
//!
//! Each rule is a pure function from what it looks at to complaints, so that it can be tested on bad
//! examples. Start at [`run`].

mod arrows;
mod changelog;
mod errors;
mod manifests;
mod map;
mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{capture, cargo, program, root};

/// A rule that is broken, in a sentence that says where.
pub type Complaint = String;

/// A file of the repository, with its path from the top.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    /// Empty for a file that isn't text.
    pub text: String,
}

/// The verb.
pub fn run() -> Result<()> {
    let sources = sources()?;
    let packages = arrows::packages(&metadata(None)?)?;
    let kernel_packages = match root().join("agent-ebpf/Cargo.toml") {
        manifest if manifest.exists() => arrows::packages(&metadata(Some(&manifest))?)?,
        _ => Vec::new(),
    };
    let architecture = text_of(&sources, "docs/ARCHITECTURE.md");

    let mut complaints = Vec::new();
    complaints.extend(arrows::check(&packages));
    complaints.extend(arrows::check(&kernel_packages));
    complaints.extend(manifests::check(&sources));
    complaints.extend(map::check_folders(architecture, &sources));
    complaints.extend(map::check_invariants(architecture, &packages, &sources));
    complaints.extend(changelog::check(&sources));
    complaints.extend(errors::check(&sources));
    complaints.extend(words::check(&sources));

    for warning in words::long_files(&sources) {
        println!("tidy: warning: {warning}");
    }
    for complaint in &complaints {
        println!("tidy: {complaint}");
    }
    if !complaints.is_empty() {
        bail!("tidy found {} things to mend", complaints.len());
    }
    println!("tidy: {} files and {} crates are in order", sources.len(), packages.len());
    Ok(())
}

fn text_of<'s>(sources: &'s [Source], path: &str) -> &'s str {
    sources.iter().find(|source| source.path == Path::new(path)).map_or("", |source| source.text.as_str())
}

fn metadata(manifest: Option<&Path>) -> Result<String> {
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    if let Some(manifest) = manifest {
        command.arg("--manifest-path").arg(manifest);
    }
    capture(&mut command)
}

/// Every file that git tracks, or would track.
fn sources() -> Result<Vec<Source>> {
    let listing = capture(program("git").args([
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))
    .context("tidy asks git which files there are")?;
    let mut sources = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file that is deleted and not yet committed is still in git's list.
        let Ok(bytes) = std::fs::read(root().join(path)) else { continue };
        sources.push(Source { path: path.into(), text: String::from_utf8(bytes).unwrap_or_default() });
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources.dedup_by(|a, b| a.path == b.path);
    Ok(sources)
}

/// The folder names and the file name of a path.
fn parts(path: &Path) -> Vec<&str> {
    path.iter().filter_map(|part| part.to_str()).collect()
}
