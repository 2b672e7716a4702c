//! Fuzzers of every decoder that faces the network, the disk, the kernel or a task.
//!
//! A target is a name and a function that must return whatever bytes it is given: it may refuse them, and neither
//! panic, hang nor take memory beyond all measure. The daemons list theirs (`decoders.rs` of each); those of shared
//! crates stand here. Start at [`targets`]. `cargo xtask fuzz` runs libFuzzer on them; the tests here try again what
//! was found so far, without it.
//!
//! ## Design
//!
//! - One program for all targets, so that it is linked once; an environment variable chooses.
//! - A corpus is a text file, one input a line in hexadecimal digits: short, and a change of it can be read.
//! - No address sanitizer: what is fuzzed is safe Rust. Arithmetic that overflows and broken assertions count.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::OnceLock,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, ensure};

/// Names the target of this process.
pub const CHOICE: &str = "MUSTER_FUZZ_TARGET";

/// Something to be fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Bytes(fn(&[u8])),
    File(fn(File)),
    /// Is given a directory, too, and may leave nothing beside it.
    Archive,
}

/// All of them.
pub fn targets() -> Vec<Target> {
    let bytes = [coordinator::decoders::DECODERS, agent::decoders::DECODERS, SHARED].concat();
    let files = [coordinator::decoders::FILE_DECODERS, agent::decoders::FILE_DECODERS].concat();
    let mut targets: Vec<Target> =
        bytes.into_iter().map(|(name, run)| Target { name, kind: Kind::Bytes(run) }).collect();
    targets.extend(files.into_iter().map(|(name, run)| Target { name, kind: Kind::File(run) }));
    targets.push(Target { name: "archive", kind: Kind::Archive });
    targets
}

const SHARED: &[agent::decoders::Decoder] =
    &[("join-token", join_token), ("certificate", certificate), ("identity", identity_name)];

/// A token that can be read is written as it was read.
fn join_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(token) = text.parse::<identity::JoinToken>() else { return };
    assert!(token.reveal() == text.trim(), "a token isn't what was written");
}

/// A certificate, or a request for one.
fn certificate(bytes: &[u8]) {
    // It may be neither.
    let _ = identity::Facts::read(bytes).map(|facts| facts.life());
    let _ = identity::request_key(bytes);
}

/// A name that can be read means the same when it was written.
fn identity_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(name) = identity::Identity::from_uri(text) else { return };
    assert!(identity::Identity::from_uri(&name.uri()) == Ok(name), "a name isn't what was written");
}

impl Target {
    /// Gives it some bytes. Fails where the target did what it may not, and panics where it does.
    pub fn run(&self, bytes: &[u8]) -> Result<()> {
        match self.kind {
            Kind::Bytes(run) => run(bytes),
            Kind::File(run) => run(file_of(bytes)?),
            Kind::Archive => unpack(bytes)?,
        }
        Ok(())
    }

    /// What the fuzzers found to be of interest, and what was mended.
    pub fn corpus(&self) -> Result<Vec<Vec<u8>>> {
        let path = folder().join(self.name);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        text.lines().map(|line| of_hex(line).with_context(|| format!("no hexadecimal: {line}"))).collect()
    }
}

/// Where the corpora are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora")
}

/// For libFuzzer: the target that the environment names.
pub fn run_chosen(bytes: &[u8]) {
    static CHOSEN: OnceLock<Option<Target>> = OnceLock::new();
    let choose = || {
        let name = std::env::var(CHOICE).ok()?;
        targets().into_iter().find(|target| target.name == name)
    };
    let Some(target) = CHOSEN.get_or_init(choose) else {
        let names: Vec<&str> = targets().iter().map(|target| target.name).collect();
        eprintln!("{CHOICE} must name one of: {}", names.join(" "));
        std::process::exit(2);
    };
    if let Err(error) = target.run(bytes) {
        eprintln!("{error:#}");
        std::process::abort();
    }
}

fn file_of(bytes: &[u8]) -> Result<File> {
    let memory = rustix::fs::memfd_create("muster-fuzz", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Unpacks an archive into a directory of its own, and sees that nothing came to lie beside it.
fn unpack(bytes: &[u8]) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let outside = std::env::temp_dir().join(format!("muster-fuzz-{}-{number}", std::process::id()));
    let inside = outside.join("inside");
    std::fs::create_dir_all(&inside)?;
    agent::decoders::archive(file_of(bytes)?, File::open(&inside)?.into());
    let found: BTreeSet<_> =
        std::fs::read_dir(&outside)?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    std::fs::remove_dir_all(&outside)?;
    ensure!(found == BTreeSet::from(["inside".into()]), "an archive left its directory: {found:?}");
    Ok(())
}

fn of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_fuzzers_found_harms_nobody() {
        for target in targets() {
            for (line, input) in (1..).zip(target.corpus().unwrap()) {
                // A panic tells where; this tells of what.
                eprintln!("{} line {line}", target.name);
                target.run(&input).unwrap();
            }
        }
    }

    #[test]
    fn every_corpus_is_of_a_target() {
        let names: BTreeSet<String> = targets().iter().map(|target| target.name.to_owned()).collect();
        assert_eq!(names.len(), targets().len(), "two targets have one name");
        let corpora: BTreeSet<String> = std::fs::read_dir(folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(corpora, names);
    }
}
