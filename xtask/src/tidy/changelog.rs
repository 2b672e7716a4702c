//! Entries of the changelog: one file for each change that a user can notice.
//!
//! `changelog/README.md` describes the form to people.

use super::{Complaint, Source, parts};

const KINDS: &[&str] = &["added", "changed", "fixed", "removed", "security"];

/// Complains of entries that don't have the form.
pub fn check(sources: &[Source]) -> Vec<Complaint> {
    sources
        .iter()
        .filter(|source| parts(&source.path).starts_with(&["changelog", "unreleased"]))
        .filter(|source| source.path.file_name().is_some_and(|name| name != ".gitkeep"))
        .filter_map(|source| {
            let problem = problem(source)?;
            Some(format!("{}: {problem}", source.path.display()))
        })
        .collect()
}

fn problem(source: &Source) -> Option<String> {
    if source.path.extension().is_none_or(|extension| extension != "md") {
        return Some("an entry is a Markdown file".to_owned());
    }
    let paragraphs: Vec<&str> = source.text.trim().split("\n\n").collect();
    let [change, upgrade] = paragraphs[..] else {
        return Some(
            "an entry has two paragraphs: `kind: what changed.` and `Upgrade: what to do.`".to_owned(),
        );
    };
    let Some((kind, sentence)) = change.split_once(": ") else {
        return Some(format!("the first paragraph starts with a kind, one of {}", KINDS.join(", ")));
    };
    if !KINDS.contains(&kind) {
        return Some(format!("`{kind}` is no kind, it is one of {}", KINDS.join(", ")));
    }
    if !sentence.trim().ends_with('.') {
        return Some("the change is said in a sentence".to_owned());
    }
    match upgrade.strip_prefix("Upgrade: ") {
        Some(what) if what.trim().ends_with('.') => None,
        _ => Some("the second paragraph is `Upgrade: what to do.`, or `Upgrade: nothing to do.`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> usize {
        check(&[Source { path: path.into(), text: text.into() }]).len()
    }

    #[test]
    fn an_entry_has_a_kind_a_sentence_and_an_upgrade() {
        let path = "changelog/unreleased/run.md";
        assert_eq!(complaints(path, "added: `muster run`.\n\nUpgrade: nothing to do.\n"), 0);
        assert_eq!(complaints(path, "new: `muster run`.\n\nUpgrade: nothing to do.\n"), 1);
        assert_eq!(complaints(path, "added: `muster run`.\n"), 1);
        assert_eq!(complaints(path, "added: muster run\n\nUpgrade: nothing to do.\n"), 1);
        assert_eq!(complaints("changelog/unreleased/run.txt", "added: x.\n\nUpgrade: y.\n"), 1);
        assert_eq!(complaints("changelog/README.md", "whatever"), 0);
    }
}
