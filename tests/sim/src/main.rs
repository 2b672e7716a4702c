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

use sim::{Verdict, run};

struct Arguments {
    seed: u64,
    runs: u64,
    /// No run begins after this.
    seconds: Option<u64>,
    jobs: usize,
    is_traced: bool,
    is_quiet: bool,
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
    sweep(&arguments)
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments =
        Arguments { seed: 1, runs: 1, seconds: None, jobs: 1, is_traced: false, is_quiet: false };
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
    events: u64,
    entries: u64,
    bad: Option<(u64, Verdict)>,
}

impl Totals {
    fn add(&mut self, seed: u64, verdict: Verdict) {
        self.runs += 1;
        self.lived += verdict.lived;
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
            "{} runs, {hours:.1} simulated hours in {:.1} s: {:.1} hours per second; {} events, {} entries of the log",
            self.runs,
            elapsed.as_secs_f64(),
            hours / elapsed.as_secs_f64(),
            self.events,
            self.entries
        );
    }
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
