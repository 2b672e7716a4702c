//! The verb `power`: a member whose power is cut while it writes, again and again, forgets nothing it acknowledged.
//!
//! A machine boots the real coordinator with its data on a disk that is served from here, and a writer that says on
//! the console what was acknowledged. Then the disk stops at some write or flush, QEMU is killed, and the disk
//! loses or tears what wasn't flushed. The next boot, on the same disk, must find all that was acknowledged.
//!
//! ## Design
//!
//! Killing QEMU alone proves little: the host's page cache keeps what was written, flushed or not. So the disk has a
//! cache of its own (`power/disk.rs`), and QEMU reaches it in the NBD protocol (`power/nbd.rs`).
//! The power goes at a count of writes and flushes, not at a time, so that it goes in the middle of things.
//! Sectors are whole or absent, as disks promise; writes of several are not.
//! A seed decides counts and losses; when the machine writes what is its own affair, so no run is the same twice.

mod dice;
mod disk;
mod ledger;
mod nbd;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, PoisonError, mpsc::RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::artifacts::{self, Artifacts};
use crate::command::{program, run as run_command, target_dir};
use crate::guest::{DEFAULT_KERNEL, boot, initramfs, kernel};
use crate::libtest::Tally;
use crate::setup;
use crate::test::log_folder;
use dice::Dice;
use disk::Disk;
use ledger::{Ledger, Said};

const INIT: &str = include_str!("power/init.sh");

/// fjall keeps 64 MiB of journals; the rest is room.
const DISK_BYTES: usize = 256 << 20;

/// How often every run of all tests cuts the power.
const CUTS_IN_TESTS: u64 = 3;

/// After so many writes and flushes under load, at most, the power goes.
const REQUESTS_MAX: u64 = 1500;
/// A start needs about so many; every fourth time the power goes during it.
const REQUESTS_OF_START: u64 = 120;
/// A planted mistake must be found after so many cuts.
const CUTS_PLANTED_MAX: u64 = 10;

/// What a start may take on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(180);
/// The power goes at the latest after so long under load.
const LOAD_DEADLINE: Duration = Duration::from_secs(20);

/// What to cut, and how often.
#[derive(clap::Args)]
pub struct Args {
    /// How often the power is cut.
    #[arg(long, default_value_t = 20)]
    cuts: u64,
    /// Decides when the power goes and what that costs; without it, a fresh one by the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// Build the coordinator for speed: longer to build, and several times as many commands between two cuts.
    #[arg(long)]
    release: bool,
    /// Plant a mistake, which must be found.
    #[arg(long, value_enum)]
    planted: Option<Planted>,
}

/// A mistake that must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Planted {
    /// The disk says that it flushed, and didn't: as if the log never synced.
    Lies,
    /// The writer says that something was acknowledged before it was.
    Early,
}

/// The verb.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Level::Test)?;
    let artifacts = artifacts::build_for_power_cuts(args.release)?;
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64 % 1_000_000_000,
    };
    let Some(planted) = args.planted else {
        return cut_again_and_again(&artifacts, seed, args.cuts, None);
    };
    match cut_again_and_again(&artifacts, seed, CUTS_PLANTED_MAX, Some(planted)) {
        Ok(()) => bail!("the planted mistake was not found in {CUTS_PLANTED_MAX} cuts"),
        Err(found) => {
            println!("the planted mistake was found: {found:#}");
            Ok(())
        }
    }
}

/// For the run of all tests: a few cuts.
pub fn run_briefly(artifacts: &Artifacts) -> Result<Tally> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64 % 1_000_000_000;
    cut_again_and_again(artifacts, seed, CUTS_IN_TESTS, None)?;
    let mut tally = Tally::default();
    tally.passed = CUTS_IN_TESTS;
    Ok(tally)
}

fn cut_again_and_again(artifacts: &Artifacts, seed: u64, cuts: u64, planted: Option<Planted>) -> Result<()> {
    println!("  seed {seed}: {cuts} cuts");
    let mut bench = Bench::new(artifacts, seed, planted)?;
    let started = Instant::now();
    let verdict = (1..=cuts).try_for_each(|number| {
        bench.boot_and_cut(number, false).with_context(|| format!("cut {number} of seed {seed}"))
    });
    let verdict = verdict.and_then(|()| bench.boot_and_cut(cuts + 1, true).context("after the last cut"));
    println!(
        "  {} acknowledged commands looked for after {} cuts in {:.0} s; {} more were there that the power had kept \
         from being acknowledged; {} flushes",
        bench.ledger.acknowledged(),
        bench.cuts,
        started.elapsed().as_secs_f64(),
        bench.ledger.unasked(),
        bench.disk().flushes()
    );
    if verdict.is_err() && planted.is_none() {
        let image = target_dir().join("power/found.img");
        std::fs::write(&image, bench.disk().stable())?;
        println!("  the disk as it is: {}", image.display());
        println!("  all that the machine said: {}", bench.log.display());
    }
    verdict
}

/// The machine, its disk, and what is known of both.
struct Bench {
    kernel: kernel::KernelTree,
    image: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    planted: Option<Planted>,
    disk: Mutex<Disk>,
    dice: Dice,
    ledger: Ledger,
    cuts: u64,
}

impl Bench {
    fn new(artifacts: &Artifacts, seed: u64, planted: Option<Planted>) -> Result<Self> {
        let folder = target_dir().join("power");
        std::fs::create_dir_all(&folder)?;
        let kernel = kernel::fetch(DEFAULT_KERNEL)?;
        let mut files: BTreeMap<String, &Path> = BTreeMap::new();
        for name in ["muster-coordinator", "power-writer"] {
            let path = artifacts.programs.get(name).with_context(|| format!("cargo built no {name}"))?;
            files.insert(format!("/muster/bin/{name}"), path);
        }
        let image = folder.join("initramfs.cpio");
        initramfs::write_stage(&image, &kernel, INIT, &files)?;
        // The path of a socket is short.
        let socket = std::env::temp_dir().join(format!("muster-power-{}.sock", std::process::id()));
        Ok(Self {
            kernel,
            image,
            socket,
            log: log_folder()?.join("power.log"),
            planted,
            disk: Mutex::new(Disk::new(empty_disk(&folder)?, planted == Some(Planted::Lies))),
            dice: Dice::new(seed),
            ledger: Ledger::default(),
            cuts: 0,
        })
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Boots on what the last cut left, judges it, and lets the machine write until its power goes; the last time it
    /// is only judged.
    fn boot_and_cut(&mut self, number: u64, is_last: bool) -> Result<()> {
        self.disk().turn_on();
        let is_during_start = !is_last && self.dice.below(4) == 0;
        if is_during_start {
            let requests = self.dice.below(REQUESTS_OF_START);
            self.disk().cut_after(requests);
        }
        let load_requests = if is_last { 0 } else { self.dice.below(REQUESTS_MAX) };
        let _ = std::fs::remove_file(&self.socket); // absent the first time
        let listener = UnixListener::bind(&self.socket)
            .with_context(|| format!("can't listen at {}", self.socket.display()))?;
        let before = self.ledger.acknowledged();
        let mut hearing = Hearing { started: Instant::now(), found: None, ledger: &mut self.ledger };
        let machine = boot::Machine {
            name: "power",
            kernel: &self.kernel,
            image: &self.image,
            disks: &[boot::Disk::Served(&self.socket)],
            append: if self.planted == Some(Planted::Early) { "power.early" } else { "" },
            log: &self.log,
        };
        let (disk, socket) = (&self.disk, &self.socket);
        let heard = std::thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (stream, _) = listener.accept()?;
                nbd::serve(&stream, disk)
            });
            let heard = boot::start(&machine).and_then(|mut child| {
                let heard = hear(&mut child, disk, &mut hearing, load_requests, &self.log);
                // The power is gone: for the machine, too.
                let killed = child.kill().and_then(|()| child.wait());
                killed.context("can't stop the virtual machine")?;
                let rest = heard?;
                rest.into_iter().try_for_each(|line| hearing.hear(&line))
            });
            // For a machine that never came to its disk.
            drop(UnixStream::connect(socket));
            match server.join() {
                Ok(Ok(())) => heard,
                // Its death may leave half a request behind.
                Ok(Err(error)) if error.kind() != std::io::ErrorKind::InvalidData => heard,
                Ok(Err(error)) => heard.and(Err(error).context("the disk can't be served")),
                Err(_) => heard.and_then(|()| bail!("the disk panicked")),
            }
        });
        let found = hearing.found;
        let _ = std::fs::remove_file(&self.socket); // it is ours, and of no more use
        heard?;
        if is_last {
            return Ok(());
        }
        self.cuts += 1;
        let loss = self.disk.lock().unwrap_or_else(PoisonError::into_inner).cut(&mut self.dice);
        let opened = match found {
            Some(after) => format!("found everything after {:.1} s", after.as_secs_f64()),
            None => "lost its power during the start".to_owned(),
        };
        println!(
            "    cut {number}: {opened}, {} acknowledged; of {} unflushed writes ({} sectors) {} sectors were kept: {:?}",
            self.ledger.acknowledged() - before,
            loss.writes,
            loss.sectors,
            loss.kept,
            loss.fate
        );
        Ok(())
    }
}

/// What one boot has said so far.
struct Hearing<'a> {
    started: Instant,
    /// When it had opened its data, and was judged.
    found: Option<Duration>,
    ledger: &'a mut Ledger,
}

impl Hearing<'_> {
    fn hear(&mut self, line: &str) -> Result<()> {
        match ledger::parse(line) {
            None => Ok(()),
            Some(Said::Wrong(what)) => bail!("the machine said: {what}"),
            Some(Said::Found(counts)) => {
                self.found = Some(self.started.elapsed());
                self.ledger.find(counts)
            }
            Some(Said::Acknowledged { writer, number }) => self.ledger.acknowledge(writer, number),
        }
    }
}

/// Listens until the power goes; gives the lines that were on their way.
fn hear(
    child: &mut Child,
    disk: &Mutex<Disk>,
    hearing: &mut Hearing,
    load_requests: u64,
    log: &Path,
) -> Result<Vec<String>> {
    const LOOK: Duration = Duration::from_millis(5);
    let disk = || disk.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = boot::lines_of(child)?;
    let mut file = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    while !disk().is_off() {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                writeln!(file, "{line}")?;
                let was_found = hearing.found.is_some();
                hearing.hear(&line)?;
                if hearing.found.is_some() && !was_found {
                    disk().cut_after(load_requests);
                    if load_requests == 0 {
                        break;
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the machine ended by itself"),
        }
        match hearing.found {
            Some(found) if hearing.started.elapsed() > found + LOAD_DEADLINE => break,
            None => {
                ensure!(hearing.started.elapsed() < START_DEADLINE, "the machine did not come up in time")
            }
            Some(_) => {}
        }
    }
    // What it had said before it lost its power counts.
    child.kill().context("can't stop the virtual machine")?;
    let rest: Vec<String> = lines.iter().collect();
    rest.iter().try_for_each(|line| writeln!(file, "{line}"))?;
    Ok(rest)
}

/// An ext4 with nothing on it.
fn empty_disk(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join("empty.ext4");
    let file = File::create(&path).with_context(|| format!("can't make {}", path.display()))?;
    file.set_len(DISK_BYTES as u64).context("can't make a disk")?;
    run_command(program("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&path))?;
    std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))
}
