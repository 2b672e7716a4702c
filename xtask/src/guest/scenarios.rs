//! The scenarios by theme: which of them every test run takes to another kernel, and what each theme costs.

/// One file of `tests/e2e`.
#[derive(Debug, Clone, Copy)]
struct Theme {
    name: &'static str,
    /// What it took in a machine that had a processor for itself; only for sharing out the work.
    seconds: u32,
    /// Which of it `cargo xtask test` runs there: what the kernel decides. The rest tries our own code, which
    /// is the same on every kernel, and runs there on demand.
    everyday: &'static [&'static str],
}

const THEMES: &[Theme] = &[
    Theme { name: "abuse", seconds: 120, everyday: &[] },
    Theme { name: "access", seconds: 100, everyday: &["access::a_task"] },
    Theme { name: "asking", seconds: 60, everyday: &["asking::"] },
    Theme { name: "attacks", seconds: 110, everyday: &["attacks::"] },
    Theme { name: "bad_input", seconds: 160, everyday: &[] },
    Theme { name: "channel", seconds: 230, everyday: &[] },
    Theme { name: "containment", seconds: 110, everyday: &["containment::"] },
    Theme { name: "dev", seconds: 50, everyday: &[] },
    Theme { name: "faults", seconds: 200, everyday: &[] },
    Theme { name: "fetch", seconds: 260, everyday: &[] },
    Theme { name: "fleet", seconds: 60, everyday: &[] },
    Theme { name: "frameworks", seconds: 20, everyday: &[] },
    Theme { name: "groups", seconds: 100, everyday: &["groups::"] },
    Theme { name: "health", seconds: 250, everyday: &[] },
    Theme { name: "limits", seconds: 100, everyday: &["limits::"] },
    Theme { name: "members", seconds: 250, everyday: &[] },
    Theme { name: "metering", seconds: 110, everyday: &["metering::"] },
    Theme { name: "metrics", seconds: 20, everyday: &[] },
    Theme { name: "outages", seconds: 680, everyday: &[] },
    Theme { name: "ports", seconds: 30, everyday: &["ports::"] },
    Theme { name: "profile", seconds: 40, everyday: &["profile::"] },
    Theme { name: "running", seconds: 210, everyday: &["running::run_streams"] },
    Theme { name: "survival", seconds: 250, everyday: &["survival::adopt_after_restart"] },
    Theme { name: "trust", seconds: 250, everyday: &[] },
    Theme { name: "users", seconds: 60, everyday: &[] },
];

/// How much of the tests a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent<'a> {
    /// What `cargo xtask test` has time for.
    Everyday,
    All,
    /// Tests whose name contains one of these.
    Named(&'a [String]),
}

/// A theme's tests, as far as they are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub theme: &'static str,
    /// What libtest is given to choose by.
    pub filters: Vec<String>,
    pub seconds: u32,
}

/// What to run, theme by theme.
pub fn select(extent: Extent) -> Vec<Selection> {
    let filters = |theme: &Theme| -> Vec<String> {
        match extent {
            Extent::Everyday => theme.everyday.iter().map(|name| (*name).to_owned()).collect(),
            Extent::All => vec![format!("{}::", theme.name)],
            // Libtest takes any of several filters, so names can't be narrowed to a theme.
            Extent::Named(_) => Vec::new(),
        }
    };
    let selections = THEMES.iter().map(|theme| {
        let Theme { name, seconds, everyday: _ } = *theme;
        Selection { theme: name, filters: filters(theme), seconds }
    });
    selections.filter(|selection| !selection.filters.is_empty()).collect()
}

/// These tests theme by theme, so that a verdict and its time belong to a theme.
pub fn select_named(tests: &[String]) -> Vec<Selection> {
    let selections = THEMES.iter().map(|theme| {
        let Theme { name, seconds, everyday: _ } = *theme;
        let is_of_theme = |test: &&String| test.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"));
        let tests: Vec<String> = tests.iter().filter(is_of_theme).cloned().collect();
        let filters = if tests.is_empty() { tests } else { [vec!["--exact".to_owned()], tests].concat() };
        Selection { theme: name, filters, seconds }
    });
    selections.filter(|selection| !selection.filters.is_empty()).collect()
}

/// Deals work out to so many machines that each has about as much to do.
pub fn deal<T>(mut work: Vec<(u32, T)>, machines: usize) -> Vec<Vec<T>> {
    // The longest first, each to whoever has the least.
    work.sort_by_key(|(seconds, _)| std::cmp::Reverse(*seconds));
    let mut hands: Vec<(u32, Vec<T>)> = (0..machines).map(|_| (0, Vec::new())).collect();
    for (seconds, item) in work {
        if let Some((total, hand)) = hands.iter_mut().min_by_key(|(total, _)| *total) {
            *total += seconds;
            hand.push(item);
        }
    }
    hands.into_iter().map(|(_, hand)| hand).filter(|hand| !hand.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_scenarios_is_a_theme() {
        let main =
            std::fs::read_to_string(crate::command::root().join("tests/e2e/tests/e2e/main.rs")).unwrap();
        let files = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
        let themes: Vec<&str> = THEMES.iter().map(|theme| theme.name).collect();
        assert_eq!(files.collect::<Vec<_>>(), themes);
    }

    #[test]
    fn what_is_run_every_day_belongs_to_its_theme() {
        for theme in THEMES {
            let prefix = format!("{}::", theme.name);
            assert!(theme.everyday.iter().all(|filter| filter.starts_with(&prefix)), "{theme:?}");
        }
    }

    #[test]
    fn named_tests_are_run_by_theme_and_no_others() {
        let names = ["faults::a", "channel::b", "faults::c"].map(str::to_owned);
        let selections = select_named(&names);
        let told: Vec<_> =
            selections.iter().map(|selection| (selection.theme, selection.filters.join(" "))).collect();
        assert_eq!(
            told,
            [
                ("channel", "--exact channel::b".to_owned()),
                ("faults", "--exact faults::a faults::c".to_owned())
            ]
        );
    }

    #[test]
    fn work_is_dealt_evenly_and_none_is_lost() {
        let hands = deal(vec![(10, 'a'), (60, 'b'), (30, 'c'), (25, 'd')], 2);
        assert_eq!(hands, [vec!['b'], vec!['c', 'd', 'a']]);
        assert_eq!(deal(vec![(1, 'a')], 2), [vec!['a']]);
    }
}
