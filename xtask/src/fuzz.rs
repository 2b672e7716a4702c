//! Runs the fuzzers of `tests/fuzz` on their corpora, and keeps what they find.
//!
//! ## Design
//!
//! Only our own crates are watched by the fuzzer: cargo calls this program as their compiler's wrapper
//! ([`as_compiler`]), which adds what LLVM needs. So everything else is shared with the tests' build, any tool chain
//! will do, and a run begins within minutes on a machine that has built the tests.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{self, cargo, find, run as run_command, target_dir};
use crate::libtest::Tally;
use crate::setup;

/// Set for the compilers that we wrap.
const WRAPPED: &str = "MUSTER_FUZZ_COMPILER";

/// What LLVM must add to our code: which branches were taken, and what was compared
/// (<https://clang.llvm.org/docs/SanitizerCoverage.html>).
const WATCHED: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// How long a run of all tests fuzzes, all targets together.
const SECONDS_IN_TESTS: u64 = 60;
/// What a corpus may hold, in bytes; all of them are below 300 KB of text.
const CORPUS_BYTES_MAX: usize = 4 << 10;
/// Longer inputs find nothing that shorter ones don't, and are slow.
const INPUT_BYTES_MAX: usize = 2048;

/// What to fuzz.
#[derive(clap::Args)]
pub struct Args {
    /// Only targets whose name contains this.
    target: Option<String>,
    /// How long each target is fuzzed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Put what is new into the corpora of `tests/fuzz`, without what covers nothing more.
    #[arg(long)]
    keep: bool,
}

/// Whether this process was called as a compiler. If so, it becomes one and returns only its failure.
pub fn as_compiler() -> Option<std::io::Error> {
    use std::os::unix::process::CommandExt as _;
    std::env::var_os(WRAPPED)?;
    let mut arguments = std::env::args_os().skip(1);
    let mut compiler = Command::new(arguments.next()?);
    let arguments: Vec<_> = arguments.collect();
    // Scripts of builds and macros run without the fuzzer.
    let is_watched =
        !arguments.iter().any(|argument| argument == "build_script_build" || argument == "proc-macro");
    compiler.args(arguments);
    if is_watched {
        compiler.args(WATCHED);
    }
    Some(compiler.exec())
}

/// The verb.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Level::Test)?;
    let fuzzer = build()?;
    let part = args.target.as_deref().unwrap_or_default();
    let targets: Vec<String> = corpora()?.into_iter().filter(|name| name.contains(part)).collect();
    ensure!(!targets.is_empty(), "no target's name contains `{part}`; there are {}", corpora()?.join(" "));
    fuzz(&fuzzer, &targets, Duration::from_secs(args.seconds))?;
    if args.keep {
        for target in &targets {
            keep(&fuzzer, target)?;
        }
    }
    Ok(())
}

/// For the run of all tests: all targets, briefly.
pub fn run_briefly() -> Result<Tally> {
    if find("c++").is_none() {
        return Ok(Tally::skip("fuzzers: there is no C++ compiler (g++) to build libFuzzer with".to_owned()));
    }
    let fuzzer = build()?;
    let targets = corpora()?;
    let seconds = (SECONDS_IN_TESTS * jobs() as u64 / targets.len().max(1) as u64).max(1);
    fuzz(&fuzzer, &targets, Duration::from_secs(seconds))?;
    Ok(Tally::default())
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Builds the fuzzer, and gives its path.
fn build() -> Result<PathBuf> {
    let folder = target_dir().join("fuzz");
    std::fs::create_dir_all(&folder)?;
    // This program's own file may have been built anew since it began.
    let compiler = folder.join("compiler");
    std::fs::copy("/proc/self/exe", &compiler).context("can't copy this program")?;
    let mut command = cargo();
    command
        .args(["build", "--locked", "--package", "fuzz", "--bin", "fuzz", "--features", "libfuzzer"])
        .env("RUSTC_WORKSPACE_WRAPPER", &compiler)
        .env(WRAPPED, "1");
    run_command(&mut command).context("the fuzzers can't be built")?;
    Ok(target_dir().join("debug/fuzz"))
}

/// The names of all targets: each has a corpus.
fn corpora() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(kept()).context("can't read tests/fuzz/corpora")?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}

fn kept() -> PathBuf {
    command::root().join("tests/fuzz/corpora")
}

/// Where libFuzzer works on a target: a file for each input.
fn work(target: &str) -> PathBuf {
    target_dir().join("fuzz").join(target)
}

fn fuzz(fuzzer: &Path, targets: &[String], each: Duration) -> Result<()> {
    let mut waiting = targets.iter();
    let mut running = Vec::new();
    let mut failed = Vec::new();
    loop {
        while running.len() < jobs()
            && let Some(target) = waiting.next()
        {
            unpack(target)?;
            let log = work(target).with_extension("log");
            let file = std::fs::File::create(&log).context("can't make a log")?;
            let child = libfuzzer(fuzzer, target)
                .arg(format!("-max_total_time={}", each.as_secs()))
                .arg(work(target))
                .stdout(file.try_clone()?)
                .stderr(file)
                .spawn()
                .with_context(|| format!("can't start {}", fuzzer.display()))?;
            running.push((target, child, log, Instant::now()));
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        let mut still = Vec::new();
        for (target, mut child, log, began) in running {
            match child.try_wait()? {
                None => still.push((target, child, log, began)),
                Some(status) => {
                    let text = std::fs::read_to_string(&log).unwrap_or_default();
                    let done = text.lines().rev().find(|line| line.starts_with("Done ")).unwrap_or_default();
                    println!("  {target:<24} {:>6.1} s  {done}", began.elapsed().as_secs_f64());
                    if !status.success() {
                        failed.push((target, log));
                    }
                }
            }
        }
        running = still;
    }
    for (target, log) in &failed {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let told = text.lines().filter(|line| line.contains("panicked") || line.contains("ERROR"));
        println!("\n{target} failed; all of it is in {}:", log.display());
        told.take(4).for_each(|line| println!("  {line}"));
        for input in inputs(&work(target).with_extension("failed"))? {
            println!("  input, as a line of tests/fuzz/corpora/{target}: {}", hex(&input));
        }
    }
    if !failed.is_empty() {
        bail!("{} targets failed; mend them, and add the inputs to their corpora", failed.len());
    }
    Ok(())
}

fn libfuzzer(fuzzer: &Path, target: &str) -> Command {
    let failures = work(target).with_extension("failed");
    // Absent, or there already: libFuzzer says so when it can't write.
    let _ = std::fs::create_dir_all(&failures);
    let mut command = command::program(fuzzer);
    command
        .env("MUSTER_FUZZ_TARGET", target)
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=0", "-use_value_profile=1"])
        .arg(format!("-artifact_prefix={}/", failures.display()));
    if Path::new("/dev/shm").is_dir() {
        // What is unpacked needs no disk.
        command.env("TMPDIR", "/dev/shm");
    }
    command
}

/// Makes a file of each line of the corpus, besides those that earlier runs left.
fn unpack(target: &str) -> Result<()> {
    let folder = work(target);
    std::fs::create_dir_all(&folder)?;
    // What failed before may be mended.
    let _ = std::fs::remove_dir_all(folder.with_extension("failed"));
    let text = std::fs::read_to_string(kept().join(target))?;
    for (number, line) in text.lines().enumerate() {
        let input =
            of_hex(line).with_context(|| format!("line {} of {target} is no hexadecimal", number + 1))?;
        std::fs::write(folder.join(format!("kept-{number}")), input)?;
    }
    Ok(())
}

/// Puts the inputs that cover something into the corpus, those of today's corpus first and then the shortest.
fn keep(fuzzer: &Path, target: &str) -> Result<()> {
    let merged = work(target).with_extension("merged");
    let _ = std::fs::remove_dir_all(&merged); // absent the first time
    std::fs::create_dir_all(&merged)?;
    let mut command = libfuzzer(fuzzer, target);
    command.args(["-merge=1", "-use_value_profile=0"]).arg(&merged).arg(work(target));
    command::run_logged(&mut command, &work(target).with_extension("merge.log"))?;
    let path = kept().join(target);
    let old: Vec<String> = std::fs::read_to_string(&path)?.lines().map(str::to_owned).collect();
    let mut new = inputs(&merged)?;
    new.sort_by_key(Vec::len);
    let mut known: BTreeSet<String> = old.iter().cloned().collect();
    let mut bytes = old.iter().map(|line| line.len() / 2).sum::<usize>();
    let mut lines = old;
    for input in new {
        let line = hex(&input);
        if bytes + input.len() <= CORPUS_BYTES_MAX && known.insert(line.clone()) {
            bytes += input.len();
            lines.push(line);
        }
    }
    lines.retain(|line| !line.is_empty());
    let mut text = lines.join("\n");
    text.push('\n');
    std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    println!("  {target:<24} {} inputs, {bytes} bytes", lines.len());
    Ok(())
}

fn inputs(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    entries.filter_map(Result::ok).map(|entry| Ok(std::fs::read(entry.path())?)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).collect()
}
