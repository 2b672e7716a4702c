//! What metering costs.
//!
//! The same work with the kernel programs attached and without them, in turns, so that what else happens on the
//! machine hits both alike. Compared is the CPU time of the work, which the kernel charges exactly.
//! The sketch: an event is one lookup in a hash and a few loads, 100 ns. A round trip over two pipes on one core
//! has two switches and takes 6 µs, so 4 % of it; work that switches every millisecond loses 0.01 %.
use std::{
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use agent::sys::{
    CgroupId,
    bpf::{self, Options, Program, Programs},
};
use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::resource::{UsageWho, getrusage},
    unistd::Pid,
};

/// `bench meter`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each load runs with the programs, and as often without them
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the kernel programs need root");
    ensure!(args.rounds > 0, "no round, no figures");
    let metered =
        Metered { folder: std::env::temp_dir().join(format!("muster-bench-{}", std::process::id())) };
    let result = measure(&metered, args.rounds);
    let removed = bpf::remove(&metered.folder);
    result?;
    Ok(removed?)
}

fn measure(metered: &Metered, rounds: usize) -> Result<()> {
    per_event(metered)?;
    walk(metered)?;
    println!();
    println!("{:<16} {:>14} {:>14} {:>9}   quartiles", "load", "without", "with m_cpu", "ratio");
    compare(metered, rounds, "pipe ping-pong", ping_pong)?;
    compare(metered, rounds, "realistic load", realistic)?;
    println!();
    println!(
        "CPU time of the whole load, medians of {rounds} rounds each, in turns; the ratio is the median of pairs."
    );
    Ok(())
}

/// Where the programs are pinned while they are attached.
struct Metered {
    folder: PathBuf,
}

impl Metered {
    /// Attaches the programs, with our own cgroup registered, so that events take the path of a task's.
    fn attach(&self) -> Result<Programs> {
        let programs = Programs::open(&self.folder, Options::default())?;
        programs.require(Program::Cpu)?;
        programs.register_cgroup(own_cgroup()?)?;
        Ok(programs)
    }
}

/// Time of one event, by the kernel's own measure.
fn per_event(metered: &Metered) -> Result<()> {
    let programs = metered.attach()?;
    let figures = || -> Result<(u64, Duration)> {
        let health = programs.health()?.programs;
        let cpu = health.into_iter().find(|health| health.program == Program::Cpu);
        let cpu = cpu.context("no m_cpu")?;
        Ok((cpu.runs.context("the kernel counts no runs")?, cpu.run_time.context("nor their time")?))
    };
    let measuring = bpf::measure_runs()?;
    let before = figures()?;
    ping_pong()?;
    let after = figures()?;
    drop(measuring);
    programs.remove()?;
    let events = after.0 - before.0;
    ensure!(events > 0, "m_cpu didn't run");
    let time = after.1 - before.1;
    println!("m_cpu: {} ns per event ({events} events)", time.as_nanos() / u128::from(events));
    Ok(())
}

/// Time of a walk over all threads, and of an agent's adoption of what is pinned.
fn walk(metered: &Metered) -> Result<()> {
    let programs = metered.attach()?;
    let mut took: Vec<f64> = Vec::new();
    for _ in 0..20 {
        took.push(programs.snapshot()?.took.as_secs_f64() * 1e6);
    }
    let threads: usize = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| Some(std::fs::read_dir(entry.path().join("task")).ok()?.count()))
        .sum();
    let walk = quartiles(&mut took)[1];
    println!("m_snap: {walk:.0} us per walk over {threads} threads, {:.2} us each", walk / threads as f64);
    drop(programs);
    let started = Instant::now();
    let programs = metered.attach()?;
    println!("adoption of pinned programs: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    programs.remove()?;
    let started = Instant::now();
    let programs = metered.attach()?;
    println!("loading them anew: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    Ok(programs.remove()?)
}

/// One load with and without the programs, in turns; every second pair the other way round.
fn compare(metered: &Metered, rounds: usize, name: &str, load: fn() -> Result<()>) -> Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // Warms caches and the frequency governor.
    cpu_time_of(load)?;
    for round in 0..rounds {
        for is_metered in [round % 2 == 1, round % 2 == 0] {
            if is_metered {
                let programs = metered.attach()?;
                with.push(cpu_time_of(load)?);
                programs.remove()?;
            } else {
                without.push(cpu_time_of(load)?);
            }
        }
    }
    let mut ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    let [low, ratio, high] = quartiles(&mut ratios);
    let (without, with) = (quartiles(&mut without)[1] * 1e3, quartiles(&mut with)[1] * 1e3);
    println!("{name:<16} {without:>11.2} ms {with:>11.2} ms {ratio:>9.4}   {low:.4} .. {high:.4}");
    Ok(())
}

/// CPU time that a load takes, its child processes included, in seconds.
fn cpu_time_of(load: fn() -> Result<()>) -> Result<f64> {
    let used = || -> Result<f64> {
        let mut seconds = 0.0;
        for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
            let usage = getrusage(who)?;
            for time in [usage.user_time(), usage.system_time()] {
                seconds += time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            }
        }
        Ok(seconds)
    };
    let before = used()?;
    load()?;
    Ok(used()? - before)
}

/// Two threads on one core that do nothing but wake each other.
fn ping_pong() -> Result<()> {
    const ROUND_TRIPS: usize = 30_000;
    let (mut ping_read, mut ping_write) = std::io::pipe()?;
    let (mut pong_read, mut pong_write) = std::io::pipe()?;
    on_one_core(
        || echo(&mut ping_read, &mut pong_write),
        move || -> Result<()> {
            let mut byte = [1];
            for _ in 0..ROUND_TRIPS {
                ping_write.write_all(&byte)?;
                pong_read.read_exact(&mut byte)?;
            }
            Ok(())
        },
    )
}

/// A server that computes 100 µs for each request, a thread that computes alone, and short processes.
fn realistic() -> Result<()> {
    const REQUESTS: usize = 2000;
    const PROCESSES: usize = 40;
    let (mut request_read, mut request_write) = std::io::pipe()?;
    let (mut answer_read, mut answer_write) = std::io::pipe()?;
    std::thread::scope(|scope| -> Result<()> {
        let server = scope.spawn(move || -> Result<()> {
            let mut byte = [0];
            while request_read.read(&mut byte)? == 1 {
                compute(100);
                answer_write.write_all(&byte)?;
            }
            Ok(())
        });
        let alone = scope.spawn(|| compute(200_000));
        for _ in 0..REQUESTS {
            request_write.write_all(&[1])?;
            answer_read.read_exact(&mut [0])?;
        }
        drop(request_write);
        for _ in 0..PROCESSES {
            Command::new("true").status()?;
        }
        alone.join().map_err(|_| anyhow::anyhow!("the computing thread panicked"))?;
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
    })
}

/// A fixed amount of work, about as many microseconds as said on a core of 2020.
fn compute(micros: u64) {
    let mut state = 1_u64;
    for step in 0..micros * 400 {
        state = std::hint::black_box(state.rotate_left(5) ^ step).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

fn echo(from: &mut PipeReader, to: &mut PipeWriter) -> Result<()> {
    let mut byte = [0];
    while from.read(&mut byte)? == 1 {
        to.write_all(&byte)?;
    }
    Ok(())
}

/// Runs both on the same core, each on a thread that ends with it. The second one ends the first.
fn on_one_core(
    first: impl FnOnce() -> Result<()> + Send,
    second: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let pin = || -> Result<()> {
        let mut core = CpuSet::new();
        core.set(0)?;
        Ok(sched_setaffinity(Pid::from_raw(0), &core)?)
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(move || pin().and_then(|()| first()));
        let second = scope.spawn(move || pin().and_then(|()| second()));
        for thread in [second, first] {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

/// The v2 cgroup that we run in.
fn own_cgroup() -> Result<CgroupId> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup")?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).context("no v2 cgroup")?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let mount = mount.and_then(|line| line.split(' ').nth(1)).context("no cgroup2 mount")?;
    Ok(CgroupId(std::fs::metadata(PathBuf::from(mount).join(path))?.ino()))
}

/// Lower quartile, median and upper quartile.
fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values.get((values.len() * part / 4).min(values.len() - 1)).copied();
    [1, 2, 3].map(|part| at(part).unwrap_or(f64::NAN))
}
