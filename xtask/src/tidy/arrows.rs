//! Which crate may import which: arrows point inwards.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Complaint;

/// A crate of ours, and what it imports.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    pub name: String,
    pub manifest_path: PathBuf,
    pub dependencies: Vec<Dependency>,
}

/// One line of a manifest.
#[derive(Debug, Clone, Deserialize)]
pub struct Dependency {
    pub name: String,
    /// Absent for a normal one, else `dev` or `build`.
    pub kind: Option<String>,
    /// Present for a crate of ours.
    pub path: Option<PathBuf>,
}

/// Who may import whom; what isn't listed is refused. One line for each crate.
const ALLOWED: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("cluster", &["model"]),
    ("allocator", &["model"]),
    ("supervisor", &["model"]),
    ("routing", &["model"]),
    ("apps", &["cluster", "model"]),
    ("jobs", &["cluster", "model"]),
    ("run", &["cluster", "model"]),
    ("leader", &["model", "cluster", "allocator", "apps", "jobs", "run", "routing"]),
    (
        "coordinator",
        &[
            "model",
            "cluster",
            "allocator",
            "apps",
            "jobs",
            "run",
            "routing",
            "leader",
            "proto",
            "codec",
            "identity",
        ],
    ),
    ("agent", &["model", "supervisor", "routing", "proto", "codec", "identity", "agent-ebpf-common"]),
    ("agent-ebpf", &["agent-ebpf-common"]),
    ("agent-ebpf-common", &[]),
    ("proto", &[]),
    ("codec", &["model", "proto"]),
    ("identity", &[]),
    ("cli", &["proto", "identity"]),
    ("sim", &["model", "cluster", "allocator", "apps", "jobs", "run", "routing", "leader", "supervisor"]),
    ("fuzz", &["coordinator", "agent", "identity"]),
    ("attacker", &[]),
    ("harness", &["cli"]),
    ("e2e", &["cli", "harness"]),
    ("xtask", &[]),
];

/// Measures anything of ours; nothing imports it.
const MEASURES: &str = "bench";

/// The crates that think: they see nothing of the world, and little of other people's code.
const CORE: &[&str] =
    &["model", "cluster", "allocator", "apps", "jobs", "run", "leader", "routing", "supervisor"];

/// Other people's crates that `core` may use: plain data and functions of it, no I/O.
const CORE_THIRD_PARTY: &[&str] = &["imbl", "sha2", "smallvec", "thiserror"];
const CORE_THIRD_PARTY_DEV: &[&str] = &["expect-test", "proptest"];

/// Reads the answer of `cargo metadata`.
pub fn packages(metadata: &str) -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let metadata: Metadata = serde_json::from_str(metadata).context("can't read cargo's metadata")?;
    Ok(metadata.packages)
}

/// Complains of every arrow that isn't allowed.
pub fn check(packages: &[Package]) -> Vec<Complaint> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Complaint> {
    let name = package.name.as_str();
    let is_core = CORE.contains(&name);
    let Some(allowed) = ALLOWED.iter().find(|(from, _)| *from == name).map(|(_, to)| *to) else {
        return match name {
            MEASURES => Vec::new(),
            _ => vec![format!("crate {name} is unknown: say in tidy/arrows.rs whom it may import")],
        };
    };
    let mut complaints = Vec::new();
    for dependency in &package.dependencies {
        let is_dev = dependency.kind.as_deref() == Some("dev");
        let target = dependency.name.as_str();
        let is_fine = match (dependency.path.is_some(), is_core) {
            (true, _) if target == MEASURES => false,
            // Tests of the core may set up a scene with the rest of it.
            (true, true) if is_dev => CORE.contains(&target),
            (true, false) if is_dev => true,
            (true, _) => allowed.contains(&target),
            (false, true) if is_dev => {
                CORE_THIRD_PARTY_DEV.contains(&target) || CORE_THIRD_PARTY.contains(&target)
            }
            (false, true) => CORE_THIRD_PARTY.contains(&target),
            (false, false) => true,
        };
        if !is_fine {
            let kind = dependency.kind.as_deref().unwrap_or("normal");
            complaints.push(format!("crate {name} may not import {target} ({kind} dependency)"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>, bool)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind, is_ours)| Dependency {
                name: (*name).into(),
                kind: kind.map(str::to_owned),
                path: is_ours.then(PathBuf::new),
            })
            .collect();
        Package { name: name.into(), manifest_path: PathBuf::new(), dependencies }
    }

    #[test]
    fn an_arrow_outwards_is_refused() {
        let complaints = check(&[package("model", &[("cluster", None, true)])]);
        assert_eq!(complaints, ["crate model may not import cluster (normal dependency)"]);
        assert!(check(&[package("cluster", &[("model", None, true)])]).is_empty());
    }

    #[test]
    fn the_core_imports_few_crates_of_others() {
        let complaints = check(&[package("leader", &[("tokio", None, false), ("imbl", None, false)])]);
        assert_eq!(complaints, ["crate leader may not import tokio (normal dependency)"]);
        assert!(check(&[package("leader", &[("proptest", Some("dev"), false)])]).is_empty());
        assert!(check(&[package("agent", &[("tokio", None, false)])]).is_empty());
    }

    #[test]
    fn nothing_imports_the_benchmarks_and_they_import_all() {
        assert_eq!(check(&[package("e2e", &[("bench", Some("dev"), true)])]).len(), 1);
        assert!(check(&[package("bench", &[("allocator", None, true)])]).is_empty());
    }

    #[test]
    fn a_new_crate_must_be_listed() {
        assert_eq!(check(&[package("helpers", &[])]).len(), 1);
    }
}
