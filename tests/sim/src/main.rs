//! `sim`: runs worlds, one seed after the other, and says which one was bad.
//!
//! Started by `cargo xtask sim`, which knows the flags; here they are plain `--name value` pairs.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its result")]

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sim::{Failover, Scale, Verdict, Violation, run};

struct Arguments {
    seed: u64,
    runs: u64,
    /// No run begins after this.
    seconds: Option<u64>,
    jobs: usize,
    is_traced: bool,
    is_quiet: bool,
    /// So many agents instead of faults.
    scale: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    // Panics are caught and told as verdicts.
    std::panic::set_hook(Box::new(|_| {}));
    if arguments.is_traced {
        return trace(arguments.seed);
    }
    if let Some(agents) = arguments.scale {
        return scale(arguments.seed, agents);
    }
    sweep(&arguments)
}

fn arguments() -> Result<Arguments, String> {
    let (is_traced, is_quiet) = (false, false);
    let mut arguments =
        Arguments { seed: 1, runs: 1, seconds: None, jobs: 1, is_traced, is_quiet, scale: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or(format!("{word} wants a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word} wants a number, not `{value}`"))
        };
        match word.as_str() {
            "--seed" => arguments.seed = number()?,
            "--runs" => arguments.runs = number()?,
            "--seconds" => arguments.seconds = Some(number()?),
            "--jobs" => arguments.jobs = usize::try_from(number()?).unwrap_or(1).max(1),
            "--scale" => arguments.scale = usize::try_from(number()?).ok(),
            "--trace" => arguments.is_traced = true,
            "--quiet" => arguments.is_quiet = true,
            other => return Err(format!("there is no flag `{other}`")),
        }
    }
    Ok(arguments)
}

/// One run, told line by line.
fn trace(seed: u64) -> ExitCode {
    let verdict = run(seed, true);
    println!("seed {seed}: {}", verdict.parameters);
    print!("{}", verdict.trace);
    tell(seed, &verdict);
    if verdict.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Many runs, on several threads; the first bad seed ends it.
fn sweep(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let late = arguments.seconds.is_some_and(|most| began.elapsed().as_secs() >= most);
                    if place >= arguments.runs || late {
                        return;
                    }
                    let seed = arguments.seed.wrapping_add(place);
                    let verdict = run(seed, false);
                    let Ok(mut totals) = totals.lock() else { return };
                    totals.add(seed, verdict);
                    is_over.store(totals.bad.is_some(), Ordering::Relaxed);
                }
            });
        }
    });
    let Ok(totals) = totals.into_inner() else { return ExitCode::FAILURE };
    let elapsed = began.elapsed();
    if let Some((seed, verdict)) = &totals.bad {
        if !arguments.is_quiet {
            println!("seed {seed}: {}", verdict.parameters);
        }
        tell(*seed, verdict);
    }
    if !arguments.is_quiet {
        totals.tell(elapsed);
    }
    if totals.bad.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[derive(Default)]
struct Totals {
    runs: u64,
    lived: Duration,
    troubled: Duration,
    events: u64,
    entries: u64,
    bad: Option<(u64, Verdict)>,
}

impl Totals {
    fn add(&mut self, seed: u64, verdict: Verdict) {
        self.runs += 1;
        self.lived += verdict.lived;
        self.troubled += verdict.troubled;
        self.events += verdict.events;
        self.entries += verdict.entries;
        let is_first = self.bad.as_ref().is_none_or(|(before, _)| seed < *before);
        if verdict.violation.is_some() && is_first {
            self.bad = Some((seed, verdict));
        }
    }

    fn tell(&self, elapsed: Duration) {
        let hours = self.lived.as_secs_f64() / 3600.0;
        println!(
            "{} runs, {hours:.1} simulated hours, {:.1} of them with faults, in {:.1} s: {:.2} hours per second; \
             {} events, {} entries of the log",
            self.runs,
            self.troubled.as_secs_f64() / 3600.0,
            elapsed.as_secs_f64(),
            hours / elapsed.as_secs_f64(),
            self.events,
            self.entries
        );
    }
}

/// Running tasks on each agent.
const TASKS_PER_AGENT: u64 = 10;
/// How often the leader is killed in a world of one size.
const LEADERS_KILLED: usize = 3;

/// Worlds of a tenth, a fifth and all of these agents, so that one sees how cost grows.
fn scale(seed: u64, agents: usize) -> ExitCode {
    println!(
        "agents   tasks   | filled: virtual s, CPU s, entries | leader killed: led again, half, all attached (virtual s), CPU s | MiB"
    );
    for agents in [agents / 10, agents / 5, agents] {
        if let Err(violation) = live_at_scale(seed, agents.max(1)) {
            println!("{agents} agents: {} at {} s: {}", violation.invariant, violation.at, violation.why);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn live_at_scale(seed: u64, agents: usize) -> Result<(), Violation> {
    let began = cpu_seconds();
    let mut scale = Scale::new(seed, agents, TASKS_PER_AGENT);
    let filled = scale.fill()?.as_secs_f64();
    let cost = cpu_seconds() - began;
    println!(
        "{agents:>6} {:>8}  | {filled:>7.1} {cost:>7.1} {:>8}",
        agents as u64 * TASKS_PER_AGENT,
        scale.entries()
    );
    for _ in 0..LEADERS_KILLED {
        let began = cpu_seconds();
        let Failover { leader, half_attached, all_attached } = scale.lose_leader()?;
        let [leader, half, all] = [leader, half_attached, all_attached].map(|span| span.as_secs_f64());
        let cost = cpu_seconds() - began;
        println!("{:>44} | {leader:>6.2} {half:>6.2} {all:>6.2} {cost:>7.1} | {}", "", memory_mib());
    }
    scale.conclude()
}

/// What this program has used of processors; zero where nobody says.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    // Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// What it holds of memory; zero where nobody says.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn tell(seed: u64, verdict: &Verdict) {
    match &verdict.violation {
        None => println!("seed {seed}: nothing is wrong after {:.0} s", verdict.lived.as_secs_f64()),
        Some(violation) => {
            println!(
                "seed {seed}: {} is violated at {} s",
                violation.invariant,
                violation.at.to_string().trim()
            );
            println!("why:    {}", violation.why);
            println!("repeat: cargo xtask sim --seed {seed} --trace");
        }
    }
}
