//! Every stable error code has a page in `docs/errors/`, and every page has its code.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Complaint, Source};

/// Where codes are defined, as `Name = "code",`, `Self::Name => "code",` or `.code("code")`.
const DEFINED_IN: &[&str] = &[
    "core/model/src/refusal.rs",
    "coordinator/src/daemon.rs",
    "agent/src/daemon.rs",
    "cli/src/error.rs",
    "cli/src/commands/dev.rs",
];
const PAGES: &str = "docs/errors";

/// Complains of codes without a page and of pages without a code.
pub fn check(sources: &[Source]) -> Vec<Complaint> {
    let defined: BTreeSet<&str> = sources
        .iter()
        .filter(|source| DEFINED_IN.iter().any(|path| source.path == Path::new(path)))
        .flat_map(|source| source.text.lines().filter_map(code))
        .collect();
    let described: BTreeSet<&str> = sources
        .iter()
        .filter(|source| source.path.parent() == Some(Path::new(PAGES)))
        .filter_map(|source| source.path.file_stem().and_then(|stem| stem.to_str()))
        .filter(|stem| *stem != "README")
        .collect();
    let lacking =
        defined.difference(&described).map(|code| format!("{PAGES}/{code}.md: the code has no page"));
    let orphaned =
        described.difference(&defined).map(|code| format!("{PAGES}/{code}.md: the page has no code"));
    lacking.chain(orphaned).collect()
}

/// The code that a line defines.
fn code(line: &str) -> Option<&str> {
    let (_, rest) = ["=> \"", " = \"", ".code(\""].iter().find_map(|before| line.split_once(before))?;
    let (code, after) = rest.split_once('"')?;
    let is_code = !code.is_empty() && code.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    (is_code && after.starts_with([',', ')'])).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn codes_and_pages_go_together() {
        let code = source("core/model/src/refusal.rs", "    Busy = \"busy\",\n    Gone = \"output-gone\",\n");
        let busy = source("docs/errors/busy.md", "");
        let other = source("docs/errors/other.md", "");
        assert_eq!(
            check(&[code, busy, other]),
            [
                "docs/errors/output-gone.md: the code has no page",
                "docs/errors/other.md: the page has no code"
            ]
        );
    }

    #[test]
    fn what_is_no_code_is_left_alone() {
        assert_eq!(code("Self::Busy => \"busy\","), Some("busy"));
        assert_eq!(code(".code(\"root-needed\"));"), Some("root-needed"));
        assert_eq!(code("const KEY: &str = \"muster-code\";"), None);
        assert_eq!(code("#[error(\"can't\")]"), None);
    }
}
