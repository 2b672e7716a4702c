//! What metering costs.
//!
//! The same work with the kernel programs attached and without them, in turns, so that what else happens on the
//! machine hits both alike. Compared is the CPU time of the work, which the kernel charges exactly.
//! The sketch: an event is one lookup in a hash and a few loads, 100 ns. A round trip over two pipes on one core
//! has two switches and takes 6 µs, so 4 % of it; work that switches every millisecond loses 0.01 %.
use std::{
    collections::BTreeMap,
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent::sys::{
    CgroupId,
    bpf::{self, Availability, Measure, Measures, Options, Program, Programs},
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
    let name = format!("muster-bench-{}", std::process::id());
    let (folder, group) = (std::env::temp_dir().join(&name), v2_root()?.join(&name));
    std::fs::create_dir(&group).with_context(|| format!("can't make {}", group.display()))?;
    let metered = Metered { folder, group };
    let result = measure(&metered, args.rounds);
    let removed = bpf::remove(&metered.folder);
    let emptied = std::fs::remove_dir(&metered.group);
    result?;
    emptied.with_context(|| format!("can't remove {}", metered.group.display()))?;
    Ok(removed?)
}

fn measure(metered: &Metered, rounds: usize) -> Result<()> {
    per_event(metered)?;
    walk(metered)?;
    println!();
    println!("{:<24} {:>14} {:>14} {:>9}   quartiles", "load", "without", "with", "ratio");
    let only = |measure| [measure].into_iter().collect::<Measures>();
    let cpu_time = |load: fn() -> Result<()>| move |_: Option<&Programs>| Ok(cpu_time_of(load)? * 1e3);
    compare(metered, rounds, "pipe ping-pong, cpu", only(Measure::Cpu), "ms", cpu_time(ping_pong))?;
    compare(metered, rounds, "pipe ping-pong, all", Measures::ALL, "ms", cpu_time(ping_pong))?;
    compare(metered, rounds, "computing server, all", Measures::ALL, "ms", cpu_time(realistic))?;
    match WebServer::start(metered)? {
        Some(server) => {
            let request = |programs: Option<&Programs>| {
                if let Some(programs) = programs {
                    programs.register_cgroup(server.cgroup()?)?;
                }
                server.cpu_per_request()
            };
            compare(metered, rounds, "nginx under wrk, all", Measures::ALL, "us", request)?;
        }
        None => println!("nginx under wrk: skipped, for one of them isn't installed (apt: nginx-light, wrk)"),
    }
    println!();
    println!(
        "CPU time of the whole load, or for nginx of it and wrk for each request; medians of {rounds} rounds each, in \
         turns; the ratio is the median of pairs."
    );
    Ok(())
}

/// Where the programs are pinned while they are attached.
struct Metered {
    folder: PathBuf,
    /// A v2 group of ours, below which packets are counted.
    group: PathBuf,
}

impl Metered {
    /// Attaches the programs, with our own cgroup registered, so that events take the path of a task's.
    fn attach(&self, measures: Measures) -> Result<Programs> {
        let options = Options { measures, cgroup: Some(self.group.clone()), ..Options::default() };
        let programs = Programs::open(&self.folder, options)?;
        for (program, availability) in programs.availability() {
            if let Availability::Unavailable(reason) = availability {
                println!("{program} can't run: {reason}");
            }
        }
        programs.register_cgroup(own_cgroup()?)?;
        Ok(programs)
    }
}

/// Time of one event of each program, by the kernel's own measure.
fn per_event(metered: &Metered) -> Result<()> {
    let programs = metered.attach(Measures::ALL)?;
    let figures = || -> Result<BTreeMap<Program, (u64, Duration)>> {
        let health = programs.health()?.programs.into_iter();
        Ok(health.filter_map(|health| Some((health.program, (health.runs?, health.run_time?)))).collect())
    };
    let server = WebServer::start(metered)?;
    if let Some(server) = &server {
        programs.register_cgroup(server.cgroup()?)?;
    }
    let measuring = bpf::measure_runs()?;
    let before = figures()?;
    ping_pong()?;
    for _ in 0..50 {
        Command::new("true").status()?;
    }
    if let Some(server) = &server {
        server.cpu_per_request()?;
    }
    write_a_file()?;
    let after = figures()?;
    drop(measuring);
    drop(server);
    programs.remove()?;
    println!("{:<14} {:>10} {:>12}", "program", "events", "ns per event");
    for (program, (runs, time)) in after {
        let (runs_before, time_before) = before.get(&program).copied().unwrap_or_default();
        let events = runs - runs_before;
        let each = (time - time_before).as_nanos().checked_div(events.into());
        println!(
            "{:<14} {events:>10} {:>12}",
            program.name(),
            each.map_or("-".into(), |each| each.to_string())
        );
    }
    println!();
    Ok(())
}

/// Makes block requests where the folder of temporary files is on a disk.
fn write_a_file() -> Result<()> {
    let path = std::env::temp_dir().join(format!("muster-bench-{}.file", std::process::id()));
    let mut file = std::fs::File::create(&path)?;
    let written = (0..50).try_for_each(|_| file.write_all(&[1; 65_536]).and_then(|()| file.sync_data()));
    std::fs::remove_file(&path)?;
    Ok(written?)
}

/// Time of a walk over all threads, and of an agent's adoption of what is pinned.
fn walk(metered: &Metered) -> Result<()> {
    let programs = metered.attach(Measures::ALL)?;
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
    let programs = metered.attach(Measures::ALL)?;
    println!("adoption of pinned programs: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    programs.remove()?;
    let started = Instant::now();
    let programs = metered.attach(Measures::ALL)?;
    println!("loading them anew: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    Ok(programs.remove()?)
}

/// One load with and without the programs, in turns; every second pair the other way round.
fn compare(
    metered: &Metered,
    rounds: usize,
    name: &str,
    measures: Measures,
    unit: &str,
    cost: impl Fn(Option<&Programs>) -> Result<f64>,
) -> Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // Warms caches and the frequency governor.
    cost(None)?;
    for round in 0..rounds {
        for is_metered in [round % 2 == 1, round % 2 == 0] {
            if is_metered {
                let programs = metered.attach(measures)?;
                with.push(cost(Some(&programs))?);
                programs.remove()?;
            } else {
                without.push(cost(None)?);
            }
        }
    }
    let mut ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    let [low, ratio, high] = quartiles(&mut ratios);
    let (without, with) = (quartiles(&mut without)[1], quartiles(&mut with)[1]);
    println!("{name:<24} {without:>11.2} {unit} {with:>11.2} {unit} {ratio:>9.4}   {low:.4} .. {high:.4}");
    Ok(())
}

/// nginx in a group of its own, and a place for wrk beside it.
struct WebServer {
    child: Child,
    nginx: PathBuf,
    wrk: PathBuf,
    port: u16,
    _files: tempfile::TempDir,
}

impl WebServer {
    /// `None` where one of the two programs isn't installed.
    fn start(metered: &Metered) -> Result<Option<Self>> {
        let is_there = |program: &str| {
            Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        if !is_there("nginx") || !is_there("wrk") {
            return Ok(None);
        }
        let files = tempfile::tempdir()?;
        std::fs::write(files.path().join("page.html"), [b'x'; 4096])?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let root = files.path().display();
        // What a server does in earnest: a file, a log line, connections that stay.
        let config = format!(
            "daemon off; master_process off; error_log {root}/error.log; pid {root}/pid;
             events {{ worker_connections 256; }}
             http {{
               access_log {root}/access.log; sendfile on; keepalive_requests 100000000; client_body_temp_path {root}/a;
               proxy_temp_path {root}/b; fastcgi_temp_path {root}/c; uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
               server {{ listen 127.0.0.1:{port}; root {root}; }}
             }}"
        );
        let path = files.path().join("nginx.conf");
        std::fs::write(&path, config)?;
        // Clients are no tasks: their packets are none of the agent's.
        let (nginx, wrk) = (metered.group.join("nginx"), metered.group.with_extension("wrk"));
        for group in [&nginx, &wrk] {
            std::fs::create_dir(group)?;
        }
        let child = joining(&nginx, &format!("exec nginx -p {root} -c {}", path.display())).spawn()?;
        let server = Self { child, nginx, wrk, port, _files: files };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < deadline, "nginx doesn't listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(server))
    }

    fn cgroup(&self) -> Result<CgroupId> {
        Ok(CgroupId(std::fs::metadata(&self.nginx)?.ino()))
    }

    /// CPU time of both for one request, in microseconds.
    fn cpu_per_request(&self) -> Result<f64> {
        let used =
            || -> Result<u64> { [&self.nginx, &self.wrk].into_iter().map(|group| usage_us(group)).sum() };
        let before = used()?;
        let line = format!("exec wrk -t1 -c32 -d2s http://127.0.0.1:{}/page.html", self.port);
        let output = joining(&self.wrk, &line).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let count =
            text.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse::<u64>().ok());
        let count = count.with_context(|| format!("wrk says: {text}"))?;
        ensure!(count > 0, "nginx answered nothing");
        Ok((used()? - before) as f64 / count as f64)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for group in [&self.nginx, &self.wrk] {
            let deadline = Instant::now() + Duration::from_secs(30);
            // Busy until the last process is gone for good.
            while std::fs::remove_dir(group).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// A command that joins a group before it becomes what the line says.
fn joining(group: &Path, line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("echo $$ > {}/cgroup.procs && {line}", group.display())]);
    command
}

/// CPU time of a v2 group.
fn usage_us(group: &Path) -> Result<u64> {
    let stat = std::fs::read_to_string(group.join("cpu.stat"))?;
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(usage.context("no usage in cpu.stat")?.trim().parse()?)
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
    Ok(CgroupId(std::fs::metadata(v2_root()?.join(path))?.ino()))
}

fn v2_root() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    Ok(mount.and_then(|line| line.split(' ').nth(1)).context("no cgroup2 mount")?.into())
}

/// Lower quartile, median and upper quartile.
fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values.get((values.len() * part / 4).min(values.len() - 1)).copied();
    [1, 2, 3].map(|part| at(part).unwrap_or(f64::NAN))
}
