//! Every manifest says the same about licence, compiler, publishing and lints.

use std::path::Path;

use super::{Complaint, Source};

/// The kernel lends some of its helpers only to programs that are also offered under the GPL.
const KERNEL_LICENCE: (&str, &str) = ("agent-ebpf/Cargo.toml", "Apache-2.0 OR GPL-2.0-only");

/// Complains of manifests that leave out what all have, or say otherwise.
pub fn check(sources: &[Source]) -> Vec<Complaint> {
    sources
        .iter()
        .filter(|source| source.path.file_name().is_some_and(|name| name == "Cargo.toml"))
        .flat_map(check_manifest)
        .collect()
}

fn check_manifest(source: &Source) -> Vec<Complaint> {
    let path = source.path.display();
    let manifest: toml::Table = match toml::from_str(&source.text) {
        Ok(manifest) => manifest,
        Err(error) => return vec![format!("{path}: {error}")],
    };
    let Some(package) = manifest.get("package").and_then(toml::Value::as_table) else {
        return Vec::new();
    };
    let mut complaints = Vec::new();
    let inherits = |key: &str| {
        package.get(key).and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
    };
    let says = |key: &str, wanted: &str| {
        package.get(key).and_then(toml::Value::as_str).is_some_and(|value| value == wanted)
    };
    let is_kernels = source.path == Path::new(KERNEL_LICENCE.0) && says("license", KERNEL_LICENCE.1);
    if !inherits("license") && !says("license", "Apache-2.0") && !is_kernels {
        complaints.push(format!("{path}: the licence must be the workspace's, or Apache-2.0"));
    }
    let is_private =
        inherits("publish") || package.get("publish").and_then(toml::Value::as_bool) == Some(false);
    if !is_private {
        complaints.push(format!("{path}: `publish` must be false"));
    }
    if !inherits("rust-version") && !package.contains_key("rust-version") {
        complaints
            .push(format!("{path}: `rust-version` is missing; without it cargo picks crates we can't build"));
    }
    if !manifest.contains_key("lints") {
        complaints.push(format!("{path}: `[lints]` is missing (`workspace = true`)"));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(text: &str) -> Vec<Complaint> {
        check(&[Source { path: "x/Cargo.toml".into(), text: text.into() }])
    }

    #[test]
    fn a_bare_manifest_lacks_four_things() {
        assert_eq!(complaints("[package]\nname = 'x'").len(), 4);
    }

    #[test]
    fn a_manifest_that_inherits_is_fine() {
        let text = "[package]\nlicense.workspace = true\npublish.workspace = true\n\
                    rust-version.workspace = true\n[lints]\nworkspace = true";
        assert!(complaints(text).is_empty());
    }

    #[test]
    fn another_licence_is_refused() {
        let text = "[package]\nlicense = 'GPL-3.0'\npublish = false\nrust-version = '1.95'\n[lints]\n";
        assert_eq!(complaints(text).len(), 1);
    }
}
