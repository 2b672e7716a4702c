//! What processes used so far, and how often they waited for the disk.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// User and system time of a process (proc_pid_stat(5), in ticks of 10 ms).
pub(crate) fn cpu_time(process: Pid) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("a command in brackets")?;
    let field = |number: usize| -> Result<u64> {
        Ok(rest.split_whitespace().nth(number - 3).context("a field of stat")?.parse()?)
    };
    Ok(Duration::from_millis((field(14)? + field(15)?) * 10))
}

pub(crate) fn resident_bytes(process: Pid) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a line of memory")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}

/// Calls of `fsync` and `fdatasync` by a process, seen by strace(1) while `work` is under way.
///
/// `None` where there is no strace.
pub(crate) async fn syncs<T>(
    process: Pid,
    directory: &Path,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, Option<usize>)> {
    let path = directory.join("strace.out");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "--trace=fsync,fdatasync", "--output"]).arg(&path);
    command.args(["--attach", &process.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
    let Ok(mut strace) = command.spawn() else { return Ok((work.await?, None)) };
    until_traced(process).await;
    let done = work.await;
    let tracer = Pid::from_raw(i32::try_from(strace.id())?);
    // strace lets go of the process before it ends.
    kill(tracer, Signal::SIGINT)?;
    strace.wait()?;
    let text = fs::read_to_string(&path).unwrap_or_default();
    let begun = |line: &&str| line.contains("sync(") && !line.contains("resumed");
    ensure!(fs::metadata(format!("/proc/{process}")).is_ok(), "the traced process ended");
    Ok((done?, Some(text.lines().filter(begun).count())))
}

/// Returns when a process is traced, or when that took so long that its tracer must have failed.
async fn until_traced(process: Pid) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_traced = || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    };
    while !is_traced() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The value below which so many hundredths of all lie; sorts them.
pub(crate) fn hundredth(values: &mut [f64], hundredth: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) * hundredth / 100).copied().unwrap_or(f64::NAN)
}
