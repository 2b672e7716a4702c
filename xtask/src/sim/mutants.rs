//! Planted bugs: the simulator must find each one within a stated number of seeds.
//!
//! They are changes of the source in `tests/sim/mutants/`, made in a copy below `target/` and nowhere else. All are built
//! into one program, which an environment variable tells which one to have: so there is one build for all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{cargo, program, root, run as run_command, target_dir};

/// Stands in the new text of a change for whether the bug is wanted.
const WANTED: &str = "PLANTED";
/// Tells the program which bug to have.
const VARIABLE: &str = "MUSTER_PLANTED";
/// Where the simulator begins to look.
const FIRST_SEED: u64 = 1;

/// The crates that are copied.
const MEMBERS: &[&str] = &[
    "core/model",
    "core/cluster",
    "core/allocator",
    "core/leader",
    "core/run",
    "core/supervisor",
    "tests/sim",
];

/// One planted bug.
#[derive(Debug, PartialEq)]
struct Mutant {
    name: String,
    /// What is wrong with it.
    story: String,
    /// It must be found in so many.
    seeds: u64,
    changes: Vec<Change>,
}

/// One piece of text of one file, and what stands there instead.
#[derive(Debug, PartialEq)]
struct Change {
    file: PathBuf,
    old: String,
    new: String,
}

/// Plants the bugs whose name contains `filter`, and looks for each.
pub fn run(filter: &str) -> Result<()> {
    let mutants = read_all()?;
    let copy = copy(&mutants)?;
    let program = build(&copy)?;
    println!("{:<30} {:>7} {:>7}  invariant", "planted bug", "seeds", "at most");
    let mut missed = Vec::new();
    for (mutant, number) in mutants.iter().zip(1..) {
        if !mutant.name.contains(filter) {
            continue;
        }
        let found = look_for(&program, number, mutant.seeds)?;
        let Mutant { name, seeds, story, .. } = mutant;
        match &found {
            Some((seed, invariant)) => {
                println!("{name:<30} {:>7} {seeds:>7}  {invariant}", seed + 1 - FIRST_SEED);
            }
            None => println!("{name:<30} {:>7} {seeds:>7}  not found: {story}", "-"),
        }
        if found.is_none() {
            missed.push(name.as_str());
        }
    }
    ensure!(missed.is_empty(), "the simulator did not find: {}", missed.join(", "));
    Ok(())
}

fn folder() -> PathBuf {
    root().join("tests/sim/mutants")
}

fn read_all() -> Result<Vec<Mutant>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .with_context(|| format!("can't list {}", folder().display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Mutant> {
    let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    parse(name, &text).with_context(|| format!("can't make sense of {}", path.display()))
}

/// A sentence, the number of seeds, then the changes: `in FILE`, old lines with `- `, new ones with `+ `.
fn parse(name: &str, text: &str) -> Result<Mutant> {
    let mut lines = text.lines();
    let story = lines.next().context("it is empty")?.to_owned();
    let seeds =
        lines.next().and_then(|line| line.strip_prefix("seeds ")).context("line 2 says no `seeds N`")?;
    let mut changes: Vec<Change> = Vec::new();
    for line in lines {
        if let Some(file) = line.strip_prefix("in ") {
            changes.push(Change { file: file.into(), old: String::new(), new: String::new() });
            continue;
        }
        let change = changes.last_mut().context("a line comes before the first `in FILE`")?;
        let (text, line) = match (line.strip_prefix('-'), line.strip_prefix('+')) {
            (Some(line), _) => (&mut change.old, line.strip_prefix(' ').unwrap_or(line)),
            (_, Some(line)) => (&mut change.new, line.strip_prefix(' ').unwrap_or(line)),
            (None, None) => bail!("the line `{line}` is neither old nor new"),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
    ensure!(!changes.is_empty(), "it changes nothing");
    Ok(Mutant { name: name.to_owned(), story, seeds: seeds.parse()?, changes })
}

/// Changes the text of one file. What is to be changed must be there once.
fn plant(text: &str, change: &Change, number: usize, is_model: bool) -> Result<String> {
    let count = text.matches(&change.old).count();
    ensure!(count == 1, "{} has {count} times:\n{}", change.file.display(), change.old);
    let crate_name = if is_model { "crate" } else { "model" };
    let wanted = format!("{crate_name}::is_planted({number})");
    Ok(text.replace(&change.old, &change.new.replace(WANTED, &wanted)))
}

/// Copies core and simulator, with every bug planted.
fn copy(mutants: &[Mutant]) -> Result<PathBuf> {
    let copy = target_dir().join("sim-mutants");
    for part in ["core", "tests/sim"] {
        copy_folder(&root().join(part), &copy.join(part))?;
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).context("can't read Cargo.toml")?;
    write(&copy.join("Cargo.toml"), &without_others(&manifest)?)?;
    fs::copy(root().join("Cargo.lock"), copy.join("Cargo.lock")).context("can't copy Cargo.lock")?;
    for (mutant, number) in mutants.iter().zip(1..) {
        for change in &mutant.changes {
            let path = copy.join(&change.file);
            let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
            let is_model = change.file.starts_with("core/model");
            let text = plant(&text, change, number, is_model)
                .with_context(|| format!("can't plant `{}`", mutant.name))?;
            write(&path, &text)?;
        }
    }
    let model = copy.join("core/model/src/lib.rs");
    let text = fs::read_to_string(&model).with_context(|| format!("can't read {}", model.display()))?;
    let is_planted = format!(
        "\n/// Whether this planted bug is wanted.\npub fn is_planted(number: usize) -> bool {{\n    \
         static WANTED: std::sync::LazyLock<Option<usize>> =\n        \
         std::sync::LazyLock::new(|| std::env::var(\"{VARIABLE}\").ok()?.parse().ok());\n    \
         *WANTED == Some(number)\n}}\n"
    );
    write(&model, &(text + &is_planted))?;
    Ok(copy)
}

/// The manifest of a workspace that has nothing but core and simulator.
fn without_others(manifest: &str) -> Result<String> {
    let (before, rest) = manifest.split_once("members = [").context("Cargo.toml names no members")?;
    let (_, after) = rest.split_once("]\n").context("the list of members has no end")?;
    let after: Vec<&str> = after.lines().filter(|line| !line.starts_with("exclude")).collect();
    let members: Vec<String> = MEMBERS.iter().map(|member| format!("\"{member}\"")).collect();
    Ok(format!("{before}members = [{}]\n{}\n", members.join(", "), after.join("\n")))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("can't make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("can't list {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            let text = fs::read_to_string(&from).with_context(|| format!("can't read {}", from.display()))?;
            write(&to, &text)?;
        }
    }
    Ok(())
}

/// Leaves a file alone that says the same already, so that cargo need not build it again.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

fn build(copy: &Path) -> Result<PathBuf> {
    let mut build = cargo();
    build.current_dir(copy).env("CARGO_TARGET_DIR", copy.join("target"));
    run_command(build.args(["build", "--release", "--offline", "--quiet", "--package", "sim"]))?;
    Ok(copy.join("target/release/sim"))
}

/// The first bad seed, and the invariant that it violates.
fn look_for(simulator: &Path, number: usize, seeds: u64) -> Result<Option<(u64, String)>> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = program(simulator);
    command.env(VARIABLE, number.to_string()).arg("--quiet");
    command.args(["--seed", &FIRST_SEED.to_string(), "--runs", &seeds.to_string()]);
    command.args(["--jobs", &jobs.to_string()]);
    // A bad seed is no error here.
    let output = command.output().with_context(|| format!("can't run {}", simulator.display()))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(line) = told.lines().find(|line| line.starts_with("seed ")) else { return Ok(None) };
    let (seed, rest) = line.trim_start_matches("seed ").split_once(": ").context("it says no seed")?;
    let invariant = rest.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(Some((seed.parse()?, invariant)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_can_be_planted() {
        let mutants = read_all().unwrap();
        assert!(mutants.len() >= 16);
        for mutant in &mutants {
            for change in &mutant.changes {
                let text = fs::read_to_string(root().join(&change.file)).unwrap();
                let planted = plant(&text, change, 1, false);
                assert!(planted.unwrap().contains("is_planted(1)"), "{}", mutant.name);
            }
        }
    }

    #[test]
    fn a_mutant_is_read() {
        let text = "It is wrong.\nseeds 20\nin a.rs\n- one\n-   two\n+ three(PLANTED)\n";
        let mutant = parse("wrong", text).unwrap();
        let change = Change { file: "a.rs".into(), old: "one\n  two".into(), new: "three(PLANTED)".into() };
        assert_eq!(
            plant("zero\none\n  two\n", &change, 7, false).unwrap(),
            "zero\nthree(model::is_planted(7))\n"
        );
        assert!(plant("one\n  two\none\n  two\n", &change, 7, false).is_err());
        assert_eq!((mutant.seeds, mutant.changes), (20, vec![change]));
    }
}
