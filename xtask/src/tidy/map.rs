//! `docs/ARCHITECTURE.md` tells the truth: every folder is on the code map, every invariant has its test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::arrows::Package;
use super::{Complaint, Source, parts};

/// Complains of folders with code that the code map doesn't name, and of names that are no folders.
pub fn check_folders(architecture: &str, sources: &[Source]) -> Vec<Complaint> {
    let named = named_folders(architecture);
    if named.is_empty() {
        return vec![
            "docs/ARCHITECTURE.md has no code map: a section of that name with an indented tree".to_owned(),
        ];
    }
    let present = folders(sources);
    let mut complaints = Vec::new();
    for folder in wanted_folders(sources).difference(&named) {
        complaints.push(format!("docs/ARCHITECTURE.md: the code map doesn't name {}/", folder.display()));
    }
    for folder in named.difference(&present) {
        complaints.push(format!(
            "docs/ARCHITECTURE.md: the code map names {}/, which isn't there",
            folder.display()
        ));
    }
    complaints
}

/// The folders that the code map names: an indented tree in the first code block of its section.
///
/// A line is a folder when its first word ends with a slash; the indentation says what it lies in.
fn named_folders(architecture: &str) -> BTreeSet<PathBuf> {
    let section = architecture
        .lines()
        .skip_while(|line| !(line.starts_with('#') && line.to_lowercase().contains("code map")))
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    let block = section
        .skip_while(|line| !line.trim_start().starts_with("```"))
        .skip(1)
        .take_while(|line| !line.trim_start().starts_with("```"));

    let mut named = BTreeSet::new();
    let mut above: Vec<(usize, PathBuf)> = Vec::new();
    for line in block {
        let indentation = line.len() - line.trim_start().len();
        let Some(word) = line.split_whitespace().next() else { continue };
        let Some(name) = word.strip_suffix('/') else { continue };
        while above.last().is_some_and(|(outer, _)| *outer >= indentation) {
            above.pop();
        }
        let folder = above.last().map_or_else(|| PathBuf::from(name), |(_, outer)| outer.join(name));
        named.insert(folder.clone());
        above.push((indentation, folder));
    }
    named
}

/// Every folder that has a file somewhere below it.
fn folders(sources: &[Source]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for source in sources {
        let mut folder = source.path.parent();
        while let Some(path) = folder.filter(|path| !path.as_os_str().is_empty()) {
            folders.insert(path.to_path_buf());
            folder = path.parent();
        }
    }
    folders
}

/// The folders that a newcomer must find on the map: the top ones, crates, and folders of modules.
///
/// `src` and `tests` of a crate explain themselves.
fn wanted_folders(sources: &[Source]) -> BTreeSet<PathBuf> {
    let mut wanted = BTreeSet::new();
    for source in sources {
        let parts = parts(&source.path);
        let [top, _, ..] = parts[..] else { continue };
        if !top.starts_with('.') {
            wanted.insert(PathBuf::from(top));
        }
        let folder = source.path.parent().unwrap_or(Path::new(""));
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_crate = source.path.file_name().is_some_and(|name| name == "Cargo.toml");
        let is_module = source.path.extension().is_some_and(|extension| extension == "rs")
            && !matches!(name, "src" | "tests" | "benches" | "examples" | "bin")
            && parts.contains(&"src");
        if is_crate || is_module {
            wanted.insert(folder.to_path_buf());
        }
    }
    wanted
}

/// Complains of invariants whose test isn't where they say.
///
/// An invariant names its test as `(crate: test)` in backticks.
pub fn check_invariants(architecture: &str, packages: &[Package], sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (package, test) in named_tests(architecture) {
        let Some(folder) = folder_of(package, packages) else {
            complaints
                .push(format!("docs/ARCHITECTURE.md: `{package}: {test}`: there is no crate {package}"));
            continue;
        };
        let call = format!("fn {test}(");
        let is_there = sources
            .iter()
            .filter(|source| source.path.extension().is_some_and(|extension| extension == "rs"))
            .filter(|source| source.path.starts_with(&folder))
            .any(|source| source.text.contains(&call));
        if !is_there {
            complaints.push(format!(
                "docs/ARCHITECTURE.md: `{package}: {test}`: no test of that name in {}/",
                folder.display()
            ));
        }
    }
    complaints
}

fn folder_of(package: &str, packages: &[Package]) -> Option<PathBuf> {
    let manifest = &packages.iter().find(|known| known.name == package)?.manifest_path;
    let root = crate::command::root();
    Some(manifest.parent()?.strip_prefix(root).ok()?.to_path_buf())
}

/// All `(crate: test)` pairs, in whichever order backticks and brackets stand.
fn named_tests(architecture: &str) -> Vec<(&str, &str)> {
    let is_name = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
    };
    architecture
        .lines()
        .flat_map(|line| line.split(['`', '(', ')', ',']))
        .filter_map(|text| text.trim().split_once(": "))
        .filter(|(package, test)| is_name(package) && is_name(test) && test.contains('_'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    const MAP: &str = "# Architecture\n\n## Code map\n\nSome words.\n\n```text\n\
                       core/          thinking\n\
                       \x20 model/      nouns\n\
                       coordinator/\n\
                       \x20 src/raft/   bytes\n\
                       docs/\n\
                       ```\n\n## Next\n";

    #[test]
    fn the_tree_is_read_by_its_indentation() {
        let named: Vec<String> = named_folders(MAP).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(named, ["coordinator", "coordinator/src/raft", "core", "core/model", "docs"]);
    }

    #[test]
    fn a_folder_that_is_not_on_the_map_is_named() {
        let sources = [
            source("core/model/Cargo.toml", ""),
            source("core/model/src/lib.rs", ""),
            source("coordinator/Cargo.toml", ""),
            source("coordinator/src/raft/mod.rs", ""),
            source("coordinator/src/api/grpc.rs", ""),
            source("docs/ARCHITECTURE.md", ""),
        ];
        assert_eq!(
            check_folders(MAP, &sources),
            ["docs/ARCHITECTURE.md: the code map doesn't name coordinator/src/api/"]
        );
        assert_eq!(
            check_folders(MAP, &sources[..3]),
            [
                "docs/ARCHITECTURE.md: the code map names coordinator/src/raft/, which isn't there",
                "docs/ARCHITECTURE.md: the code map names docs/, which isn't there",
            ]
        );
    }

    #[test]
    fn an_invariant_without_its_test_is_named() {
        let package = Package {
            name: "cluster".into(),
            manifest_path: crate::command::root().join("core/cluster/Cargo.toml"),
            dependencies: Vec::new(),
        };
        let architecture = "- Never more than its total. (`cluster: conserved_sum`)\n\
                            - A task is launched once. (`cluster: launch_once`)\n";
        let sources = [source("core/cluster/tests/laws.rs", "fn conserved_sum() {}")];
        assert_eq!(
            check_invariants(architecture, &[package], &sources),
            ["docs/ARCHITECTURE.md: `cluster: launch_once`: no test of that name in core/cluster/"]
        );
    }
}
