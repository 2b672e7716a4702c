//! What may not stand in any file, and files that grew too long.

use super::{Complaint, Source, parts};

/// About where a file starts to have a second main idea.
const LINES_MAX: usize = 800;

struct Ban {
    word: String,
    why: &'static str,
}

/// The list. Words are put together here, so that this file doesn't break its own rule.
fn bans() -> Vec<Ban> {
    let mut bans = Vec::new();
    let mut ban = |word: String, why| bans.push(Ban { word, why });
    ban(["FIX", "ME"].concat(), "mend it, or write an issue");
    ban(["todo", "!("].concat(), "unfinished code may not be merged");
    ban(["unimplemented", "!("].concat(), "unfinished code may not be merged");
    ban(["dbg", "!("].concat(), "use tracing");
    ban(["sub", "agent"].concat(), "an agent has no such part (see the glossary)");
    for home in ["home", "root", "work", "Users"] {
        ban(format!("/{home}/"), "a path of one machine: say it from the top of the checkout");
    }
    ban(["/tmp/", "setup"].concat(), "a path of one machine: say it from the top of the checkout");
    bans
}

/// Complains of banned words, and of modules that don't say what they are.
pub fn check(sources: &[Source]) -> Vec<Complaint> {
    let bans = bans();
    let mut complaints = Vec::new();
    for source in sources {
        if source.path.extension().is_some_and(|extension| extension == "lock") {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            for ban in bans.iter().filter(|ban| has_word(line, &ban.word)) {
                let path = source.path.display();
                complaints.push(format!("{path}:{}: `{}`: {}", number + 1, ban.word, ban.why));
            }
        }
        if lacks_header(source) {
            complaints
                .push(format!("{}: a module starts by saying what it is (`//!`)", source.path.display()));
        }
    }
    complaints
}

/// A path must start there: in the middle of a longer one, the same letters name something else.
fn has_word(line: &str, word: &str) -> bool {
    let Some(at) = line.find(word) else { return false };
    if !word.starts_with('/') {
        return true;
    }
    !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | ')' | '*'))
}

fn lacks_header(source: &Source) -> bool {
    source.path.extension().is_some_and(|extension| extension == "rs")
        && !source.text.lines().any(|line| line.starts_with("//!"))
}

/// Files that are long enough to be looked at again.
pub fn long_files(sources: &[Source]) -> Vec<Complaint> {
    sources
        .iter()
        .filter(|source| {
            let extension = source.path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("rs" | "py" | "sh" | "proto"))
                && !parts(&source.path).contains(&"generated")
        })
        .filter_map(|source| {
            let lines = source.text.lines().count();
            (lines > LINES_MAX)
                .then(|| format!("{} has {lines} lines: look for its second idea", source.path.display()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_banned_word_is_found_with_its_line() {
        let text = format!("//! Header.\n\n// {}: later\n", ["FIX", "ME"].concat());
        let complaints = check(&[source("a/b.rs", &text)]);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("a/b.rs:3: "), "{complaints:?}");
    }

    #[test]
    fn only_a_path_from_the_top_is_a_path_of_one_machine() {
        let home = ["/ho", "me/"].concat();
        assert_eq!(check(&[source("a.md", &format!("see {home}me/x"))]).len(), 1);
        assert_eq!(check(&[source("a.md", &format!("see data{home}x"))]).len(), 0);
    }

    #[test]
    fn a_module_without_a_header_is_refused() {
        assert_eq!(check(&[source("a.rs", "fn main() {}\n")]).len(), 1);
        assert_eq!(check(&[source("a.rs", "#![no_std]\n//! A header.\n")]).len(), 0);
    }

    #[test]
    fn long_files_are_listed() {
        assert_eq!(long_files(&[source("a.rs", &"x\n".repeat(801))]).len(), 1);
        assert_eq!(long_files(&[source("a.md", &"x\n".repeat(801))]).len(), 0);
    }
}
