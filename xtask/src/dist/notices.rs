//! What the licences of other people's crates want to be shipped with a program that contains them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{capture, cargo};

/// How files that hold licences and notices are called.
const NAMES: &[&str] = &["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// Every crate that a crate of ours is linked with, its licence, and the texts.
pub fn of(krate: &str) -> Result<String> {
    let mut command = cargo();
    command.args(["tree", "--locked", "--package", krate, "--edges", "normal", "--prefix", "none"]);
    let listing = capture(command.args(["--format", "{p}\t{l}"]))?;
    let metadata = capture(cargo().args(["metadata", "--locked", "--format-version", "1"]))?;
    let folders = folders(&metadata)?;
    let mut lines = BTreeSet::new();
    // Many crates carry the same text.
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in listing.lines() {
        let (name, licence) = line.split_once('\t').unwrap_or((line, ""));
        // A path in brackets is ours; so is the mark of what was listed before.
        let name = name.trim_end_matches(" (*)").trim_end_matches(" (proc-macro)");
        let Some(folder) = folders.get(name).filter(|_| !name.ends_with(')')) else { continue };
        lines.insert(format!("{name}: {}", licence.trim_end_matches(" (*)")));
        for text in texts_in(folder)? {
            texts.entry(text).or_default().insert(name.to_owned());
        }
    }
    let mut notices = String::from("This program contains these libraries:\n\n");
    for line in lines {
        notices += &format!("  {line}\n");
    }
    for (text, names) in texts {
        let names: Vec<String> = names.into_iter().collect();
        notices += &format!("\n{}\n{}:\n\n{}\n", "-".repeat(72), names.join(", "), text.trim_end());
    }
    Ok(notices)
}

/// Where each crate's source lies, by name and version as `cargo tree` shows them.
fn folders(metadata: &str) -> Result<BTreeMap<String, PathBuf>> {
    let metadata: serde_json::Value =
        serde_json::from_str(metadata).context("can't read cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo's metadata names no packages")?;
    let folder = |package: &serde_json::Value| {
        let path = Path::new(package["manifest_path"].as_str()?).parent()?.to_owned();
        // Ours has no source.
        package["source"].as_str()?;
        Some((format!("{} v{}", package["name"].as_str()?, package["version"].as_str()?), path))
    };
    Ok(packages.iter().filter_map(folder).collect())
}

fn texts_in(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    let is_notice = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_uppercase();
        path.is_file() && NAMES.iter().any(|start| name.starts_with(start))
    };
    Ok(paths
        .iter()
        .filter(|path| is_notice(path))
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect())
}
