//! Launches a second on one agent, and how long each takes.
//!
//! A whole life of `/bin/true` (groups with limits, process, exit status, removal) by `sys::Kernel`, in turns with
//! the floor: a bare C program that does no more than the kernel needs for the same groups. Once without and
//! once with the same namespaces; and by crun and runc where they are installed.
//!
//! Of CPU time, which a busy machine does not blur: groups, fork and exec 1.7 ms (the floor), new namespaces 0.25 ms;
//! ours are six mounts 0.1 ms, and the task's init with its exec 0.3 ms.

mod peers;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent::sys::cgroup::Controller;
use agent::sys::{
    CgroupName, Ending, Extras, Identity, Kernel, KernelConfig, LaunchRequest, Limits, Namespaces, Sys,
};
use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// The floor's source, compiled where it runs.
const FLOOR: &str = include_str!("launch/floor.c");

const LIMITS: Limits = Limits::new(1000, 1000, 64 << 20, 64);

/// `bench launch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Launches in each round
    #[arg(long, default_value_t = 400)]
    launches: usize,
    /// Rounds of each kind, in turns
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How many at a time
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    at_a_time: Vec<usize>,
}

pub use peers::{PeerArgs, run_peer};

/// Memory that the bench fills before it launches: an agent with many tasks has about as much, and a launch must
/// not cost more for it.
const AGENT_BYTES: usize = 32 << 20;

/// What came of one round.
pub(crate) struct Round {
    elapsed: Duration,
    each: Vec<Duration>,
    /// Of all processes that the round was made of; what the kernel does later on its own is in none of them.
    cpu: Duration,
}

impl Round {
    /// Reads nanoseconds, a line each: of everything, then of each launch.
    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(|line| line.trim().parse().map(Duration::from_nanos));
        let elapsed = lines.next().context("no figures")??;
        Ok(Self { elapsed, each: lines.collect::<Result<_, _>>()?, cpu: Duration::ZERO })
    }

    fn per_second(&self) -> f64 {
        self.each.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn cpu_ms_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e3 / self.each.len() as f64
    }
}

/// CPU time of this process, and of its children as far as they were waited for.
fn cpu_time() -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            sum += Duration::from_micros(u64::try_from(time.num_microseconds())?);
        }
    }
    Ok(sum)
}

/// Who launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Floor,
    FloorWithNamespaces,
    Peer(peers::Peer),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "muster",
            Self::Floor => "floor",
            Self::FloorWithNamespaces => "floor with namespaces",
            Self::Peer(peer) => peer.name(),
        }
    }

    /// Peers are ten to fifty times slower: fewer of their launches tell as much.
    fn launches(self, launches: usize, workers: usize) -> usize {
        match self {
            Self::Ours | Self::Floor | Self::FloorWithNamespaces => launches,
            Self::Peer(_) => launches / 8,
        }
        .max(1)
        .next_multiple_of(workers)
    }
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "control groups need root");
    ensure!(args.rounds > 0 && args.launches > 0, "no round, no figures");
    let as_an_agent = vec![1_u8; AGENT_BYTES];
    std::hint::black_box(&as_an_agent);
    let name = format!("muster-bench-{}", std::process::id());
    let directory = Path::new("/var/tmp").join(&name);
    fs::create_dir(&directory)?;
    let result = Bench::new(name, directory.clone()).and_then(|bench| {
        let measured = args.at_a_time.iter().try_for_each(|workers| measure(&bench, args, *workers));
        bench.kernel.close()?;
        measured
    });
    fs::remove_dir_all(&directory)?;
    result
}

fn measure(bench: &Bench, args: &Args, workers: usize) -> Result<()> {
    ensure!(workers > 0, "nobody to launch");
    let peers = peers::Peer::ALL.iter().filter(|peer| peer.is_installed()).map(|peer| Kind::Peer(*peer));
    let kinds: Vec<Kind> =
        [Kind::Ours, Kind::Floor, Kind::FloorWithNamespaces].into_iter().chain(peers).collect();
    for peer in peers::Peer::ALL.iter().filter(|peer| !peer.is_installed()) {
        println!("skipped: {} is not installed", peer.name());
    }
    let mut rounds: Vec<Vec<Round>> = kinds.iter().map(|_| Vec::new()).collect();
    for turn in 0..=args.rounds {
        for (kind, rounds) in kinds.iter().zip(&mut rounds) {
            let round = bench.round(*kind, kind.launches(args.launches, workers), workers)?;
            // The first of each warms caches and is not counted.
            if turn > 0 {
                rounds.push(round);
            }
        }
    }
    println!("{workers} at a time, {} launches a round, {} rounds", args.launches, args.rounds);
    println!(
        "  {:<24}{:>10}{:>22}{:>10}{:>10}{:>10}{:>22}",
        "", "a second", "muster : it", "p50 ms", "p99 ms", "CPU ms", "its CPU : muster's"
    );
    let of_ours = |figure: fn(&Round) -> f64| -> Vec<f64> {
        rounds.first().into_iter().flatten().map(figure).collect()
    };
    let (ours, our_cpu) = (of_ours(Round::per_second), of_ours(Round::cpu_ms_each));
    for (kind, rounds) in kinds.iter().zip(&rounds) {
        let rates: Vec<f64> = rounds.iter().map(Round::per_second).collect();
        let ratios: Vec<f64> = ours.iter().zip(&rates).map(|(ours, its)| ours / its).collect();
        let cpu: Vec<f64> = rounds.iter().map(Round::cpu_ms_each).collect();
        let cpu_ratios: Vec<f64> = our_cpu.iter().zip(&cpu).map(|(ours, its)| its / ours).collect();
        let mut each: Vec<Duration> = rounds.iter().flat_map(|round| round.each.iter().copied()).collect();
        each.sort();
        let at = |hundredth: usize| each.get((each.len().saturating_sub(1)) * hundredth / 100);
        let ms = |hundredth| at(hundredth).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
        println!(
            "  {:<24}{:>10.0}{:>22}{:>10.2}{:>10.2}{:>10.2}{:>22}",
            kind.name(),
            Spread::of(&rates).median,
            Spread::of(&ratios).show(2),
            ms(50),
            ms(99),
            Spread::of(&cpu).median,
            Spread::of(&cpu_ratios).show(2),
        );
    }
    Ok(())
}

struct Bench {
    kernel: Kernel,
    parent: PathBuf,
    directory: PathBuf,
    floor: PathBuf,
    /// By us, in all rounds.
    launched: AtomicUsize,
}

impl Bench {
    fn new(name: String, directory: PathBuf) -> Result<Self> {
        let source = directory.join("floor.c");
        let floor = directory.join("floor");
        fs::write(&source, FLOOR)?;
        let compiled = Command::new("cc").arg("-O2").arg(&source).arg("-o").arg(&floor).status();
        ensure!(compiled.context("cc is needed for the floor")?.success(), "can't compile the floor");
        let parent = PathBuf::from(name);
        let config = KernelConfig {
            cgroup_parent: parent.clone(),
            own_cgroup2: directory.join("cgroup2"),
            output_dir: directory.clone(),
        };
        fs::create_dir(directory.join("exits"))?;
        Ok(Self { kernel: Kernel::open(&config)?, parent, directory, floor, launched: AtomicUsize::new(0) })
    }

    fn round(&self, kind: Kind, launches: usize, workers: usize) -> Result<Round> {
        let before = cpu_time()?;
        let round = match kind {
            Kind::Ours => self.ours(launches, workers),
            Kind::Floor => self.floor(launches, workers, false),
            Kind::FloorWithNamespaces => self.floor(launches, workers, true),
            Kind::Peer(peer) => peer.round(&self.directory, launches, workers),
        }?;
        Ok(Round { cpu: cpu_time()?.saturating_sub(before), ..round })
    }

    fn ours(&self, launches: usize, workers: usize) -> Result<Round> {
        let requests = (0..workers).map(|worker| self.request(worker)).collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        let work = |worker: usize| {
            let request = requests.get(worker).cloned().context("a request for each worker")?;
            self.work(worker, request, launches / workers)
        };
        let each = in_parallel(workers, work)?;
        let elapsed = began.elapsed();
        Ok(Round { elapsed, each, cpu: Duration::ZERO })
    }

    fn work(&self, worker: usize, mut request: LaunchRequest, launches: usize) -> Result<Vec<Duration>> {
        let mut each = Vec::with_capacity(launches);
        for turn in 0..launches {
            let began = Instant::now();
            request.cgroup = CgroupName::new(&format!("m{worker}.{turn}"))?;
            self.kernel.create_cgroup(&request.cgroup, &LIMITS)?;
            // Every attempt has fresh files; ext4 writes a truncated one back at once. They stay for a while as an
            // agent's do: for 5 s, ext4 looks at each inode that was freed before it takes another
            // (`recently_deleted` in fs/ext4/ialloc.c).
            let number = self.launched.fetch_add(1, Ordering::Relaxed);
            request.exit_file = self.directory.join(format!("exits/{number}"));
            let (process, released) = self.kernel.spawn(&request)?.release();
            released?;
            poll(
                &mut [PollFd::new(std::os::fd::AsFd::as_fd(&process), PollFlags::POLLIN)],
                PollTimeout::NONE,
            )?;
            let ending = self.kernel.ending(&process, &request.exit_file)?;
            ensure!(ending == Ending::Ended(model::Exit::Code(0)), "the task ended with {ending:?}");
            self.kernel.remove_cgroup(&request.cgroup)?;
            each.push(began.elapsed());
        }
        Ok(each)
    }

    fn request(&self, worker: usize) -> Result<LaunchRequest> {
        let sandbox = self.directory.join(format!("sandbox-{worker}"));
        fs::create_dir_all(sandbox.join("tmp"))?;
        chown(&sandbox, Some(65534), Some(65534))?;
        let file = |name: &str| self.directory.join(format!("{name}-{worker}"));
        Ok(LaunchRequest {
            cgroup: CgroupName::new("none")?,
            argv: vec!["/bin/true".into()],
            env: Vec::new(),
            identity: Identity { uid: 65534, gid: 65534, groups: vec![65534], home: None, name: None },
            cwd: sandbox.clone(),
            tmp: Some(sandbox.join("tmp")),
            sandbox,
            stdout: file("stdout"),
            stderr: file("stderr"),
            exit_file: file("none"),
            namespaces: Namespaces { pid: true, ipc: true, network: false },
            hidden: vec![self.directory.clone()],
            extras: Extras::default(),
            group: None,
            stdin: None,
        })
    }

    fn floor(&self, launches: usize, workers: usize, namespaces: bool) -> Result<Round> {
        let hierarchies = self.kernel.cgroups().hierarchies();
        let mut v2 = hierarchies.v2.join(&self.parent).into_os_string();
        let mut v1 = Vec::new();
        let mut v2_limits = Vec::new();
        for (place, in_v1, in_v2) in [
            (
                &hierarchies.cpu,
                "cpu.cfs_period_us=100000,cpu.cfs_quota_us=100000,cpu.shares=1024",
                "cpu.max=100000 100000,cpu.weight=100",
            ),
            (
                &hierarchies.memory,
                "memory.limit_in_bytes=67108864,memory.memsw.limit_in_bytes=67108864",
                "memory.max=67108864,memory.swap.max=0,memory.oom.group=0",
            ),
            (&hierarchies.pids, "pids.max=64", "pids.max=64"),
        ] {
            match place {
                Some(Controller::V1(root)) => {
                    let mut argument = root.join(&self.parent).into_os_string();
                    argument.push(format!(":{in_v1}"));
                    v1.push(argument);
                }
                Some(Controller::V2) => v2_limits.push(in_v2),
                None => {}
            }
        }
        if !v2_limits.is_empty() {
            v2.push(format!(":{}", v2_limits.join(",")));
        }
        let mut command = Command::new(&self.floor);
        command.args([launches.to_string(), workers.to_string(), u8::from(namespaces).to_string()]);
        let output = command.arg(v2).args(v1).output()?;
        ensure!(output.status.success(), "the floor failed: {}", String::from_utf8_lossy(&output.stderr));
        Round::parse(&String::from_utf8(output.stdout)?)
    }
}

/// What each of several workers measured, on threads of their own.
pub(crate) fn in_parallel(
    workers: usize,
    work: impl Fn(usize) -> Result<Vec<Duration>> + Sync,
) -> Result<Vec<Duration>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        let mut each = Vec::new();
        for thread in threads {
            each.extend(thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??);
        }
        Ok(each)
    })
}

/// Median and quartiles.
pub(crate) struct Spread {
    low: f64,
    pub(crate) median: f64,
    high: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |quarter: usize| sorted.get((sorted.len() - 1) * quarter / 4).copied().unwrap_or(f64::NAN);
        Self { low: at(1), median: at(2), high: at(3) }
    }

    pub(crate) fn show(&self, digits: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.digits$} ({low:.digits$} to {high:.digits$})")
    }
}
