//! What the whole host uses now, from `/proc`.
//!
//! What a kernel doesn't tell is absent. Network is that of interfaces with a device behind them, block I/O that of
//! whole devices, so that nothing counts twice; on a host without such interfaces, all but loopback count.

use std::{fs, path::Path};

use model::{Figure, Timestamp, Usage};

/// Of `/proc/stat`: hundredths of a second on every architecture (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;
/// Of `/proc/diskstats`, whatever the device's own (Documentation/admin-guide/iostats.rst).
const SECTOR_BYTES: u64 = 512;

/// Reads all figures.
pub fn usage(at: Timestamp) -> Usage {
    let mut usage = Usage::new(at);
    let mut read = |path: &str, take: fn(&str, &mut Usage) -> Option<()>| {
        if let Ok(text) = fs::read_to_string(path) {
            // What is missing in it stays absent.
            let _ = take(&text, &mut usage);
        }
    };
    read("/proc/stat", cpu);
    read("/proc/meminfo", memory);
    read("/proc/vmstat", faults);
    read("/proc/loadavg", load);
    read("/proc/net/snmp", tcp);
    read("/proc/net/dev", network);
    read("/proc/diskstats", block);
    read("/proc/pressure/cpu", |text, usage| {
        pressure(text, usage, Figure::PressureCpuSomeUs, Figure::PressureCpuFullUs)
    });
    read("/proc/pressure/memory", |text, usage| {
        pressure(text, usage, Figure::PressureMemorySomeUs, Figure::PressureMemoryFullUs)
    });
    read("/proc/pressure/io", |text, usage| {
        pressure(text, usage, Figure::PressureIoSomeUs, Figure::PressureIoFullUs)
    });
    usage
}

fn cpu(text: &str, usage: &mut Usage) -> Option<()> {
    let numbers = |name: &str| -> Option<Vec<u64>> {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        Some(line.split_ascii_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect())
    };
    usage.set(Figure::Forks, numbers("processes").and_then(|of| of.first().copied()));
    // user nice system idle iowait irq softirq steal; a guest's time is in user and nice (proc_stat(5)).
    let ticks: [u64; 7] = numbers("cpu")?.get(..7)?.try_into().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq] = ticks;
    let (user, system) = ((user + nice) * TICK_NS, (system + irq + softirq) * TICK_NS);
    usage.set(Figure::CpuUserNs, Some(user));
    usage.set(Figure::CpuSystemNs, Some(system));
    usage.set(Figure::CpuNs, Some(user + system));
    Some(())
}

fn memory(text: &str, usage: &mut Usage) -> Option<()> {
    let bytes = |name: &str| -> Option<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let sum = |names: &[&str]| names.iter().map(|name| bytes(name)).sum::<Option<u64>>();
    let less = |whole: &str, part: &str| bytes(whole)?.checked_sub(bytes(part)?);
    usage.set(Figure::MemoryLimitBytes, bytes("MemTotal"));
    usage.set(Figure::MemoryBytes, less("MemTotal", "MemFree"));
    usage.set(Figure::MemoryWorkingSetBytes, less("MemTotal", "MemAvailable"));
    usage.set(Figure::MemoryAnonBytes, bytes("AnonPages"));
    usage.set(Figure::MemoryFileBytes, sum(&["Cached", "Buffers"]));
    usage.set(Figure::MemoryShmemBytes, bytes("Shmem"));
    usage.set(Figure::MemoryKernelBytes, sum(&["Slab", "KernelStack", "PageTables"]));
    usage.set(Figure::MemorySwapBytes, less("SwapTotal", "SwapFree"));
    Some(())
}

fn faults(text: &str, usage: &mut Usage) -> Option<()> {
    let count = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
    };
    let major = count("pgmajfault");
    usage.set(Figure::FaultsMajor, major);
    usage.set(
        Figure::FaultsMinor,
        count("pgfault").zip(major).and_then(|(all, major)| all.checked_sub(major)),
    );
    usage.set(Figure::OomKills, count("oom_kill"));
    let zones = ["dma", "dma32", "normal", "movable", "device"];
    let stalls: Vec<u64> = zones.iter().filter_map(|zone| count(&format!("allocstall_{zone}"))).collect();
    usage.set(Figure::ReclaimStalls, (!stalls.is_empty()).then(|| stalls.iter().sum()));
    Some(())
}

fn load(text: &str, usage: &mut Usage) -> Option<()> {
    // `0.42 0.51 0.37 3/512 1234`: averages, runnable and all threads, the last pid.
    let mut words = text.split_ascii_whitespace();
    let (whole, hundredths) = words.next()?.split_once('.')?;
    let hundredths: u64 = hundredths.parse().ok().filter(|_| hundredths.len() == 2)?;
    usage.set(Figure::LoadMilli, Some(whole.parse::<u64>().ok()? * 1000 + hundredths * 10));
    usage.set(Figure::Threads, words.nth(2)?.split_once('/')?.1.parse().ok());
    Some(())
}

fn tcp(text: &str, usage: &mut Usage) -> Option<()> {
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |name: &str| {
        let place = names.split_ascii_whitespace().position(|word| word == name)?;
        values.split_ascii_whitespace().nth(place)?.parse::<u64>().ok()
    };
    // Attempts that failed are among those of both kinds, so that opened ones can't be told exactly.
    usage.set(Figure::ConnectionsFailed, value("AttemptFails"));
    usage.set(Figure::ConnectionsAccepted, value("PassiveOpens"));
    usage.set(Figure::ConnectionsOpened, value("ActiveOpens"));
    usage.set(Figure::NetworkRetransmits, value("RetransSegs"));
    Some(())
}

fn network(text: &str, usage: &mut Usage) -> Option<()> {
    let is_real = |name: &str| Path::new("/sys/class/net").join(name).join("device").exists();
    let interfaces: Vec<(&str, Vec<u64>)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, rest)| {
            (name.trim(), rest.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect())
        })
        .collect();
    let has_real = interfaces.iter().any(|(name, _)| is_real(name));
    let counted: Vec<&Vec<u64>> = interfaces
        .iter()
        .filter(|(name, _)| if has_real { is_real(name) } else { *name != "lo" })
        .map(|(_, counts)| counts)
        .collect();
    if counted.is_empty() {
        return None;
    }
    let sum = |place: usize| counted.iter().map(|counts| counts.get(place)).sum::<Option<u64>>();
    usage.set(Figure::NetworkReceivedBytes, sum(0));
    usage.set(Figure::NetworkReceivedPackets, sum(1));
    usage.set(Figure::NetworkSentBytes, sum(8));
    usage.set(Figure::NetworkSentPackets, sum(9));
    Some(())
}

fn block(text: &str, usage: &mut Usage) -> Option<()> {
    let (mut sums, mut has_device) = ([0_u64; 6], false);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(2);
        // A device that something else stands on, a loop or a RAM disk has no `device`; nor has a partition.
        let is_whole =
            words.next().is_some_and(|name| Path::new("/sys/block").join(name).join("device").exists());
        if !is_whole {
            continue;
        }
        has_device = true;
        // reads, merged, sectors, ms; the same of writes.
        let counts: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        for (sum, place) in sums.iter_mut().zip([0, 2, 3, 4, 6, 7]) {
            *sum += counts.get(place)?;
        }
    }
    if !has_device {
        return None;
    }
    let [reads, read_sectors, read_ms, writes, write_sectors, write_ms] = sums;
    usage.set(Figure::BlockReadOperations, Some(reads));
    usage.set(Figure::BlockReadBytes, Some(read_sectors * SECTOR_BYTES));
    usage.set(Figure::BlockWriteOperations, Some(writes));
    usage.set(Figure::BlockWriteBytes, Some(write_sectors * SECTOR_BYTES));
    usage.set(Figure::BlockNs, Some((read_ms + write_ms) * 1_000_000));
    Some(())
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`, in microseconds.
fn pressure(text: &str, usage: &mut Usage, some: Figure, full: Figure) -> Option<()> {
    for line in text.lines() {
        let figure = match line.split_once(' ')?.0 {
            "some" => some,
            "full" => full,
            _ => continue,
        };
        usage.set(figure, line.rsplit_once("total=")?.1.parse().ok());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        let mut usage = Usage::default();
        cpu("cpu  100 20 30 999 5 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\nprocesses 77\n", &mut usage).unwrap();
        memory(
            "MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: 600 kB\nBuffers: 1 kB\nCached: 99 kB\n\
             AnonPages: 50 kB\nShmem: 4 kB\nSlab: 10 kB\nKernelStack: 2 kB\nPageTables: 3 kB\n\
             SwapTotal: 8 kB\nSwapFree: 5 kB\n",
            &mut usage,
        )
        .unwrap();
        faults(
            "pgfault 500\npgmajfault 7\noom_kill 2\nallocstall_normal 3\nallocstall_movable 4\n",
            &mut usage,
        );
        load("1.42 0.51 0.37 3/512 1234\n", &mut usage).unwrap();
        tcp("Tcp: A ActiveOpens PassiveOpens AttemptFails RetransSegs\nTcp: 1 2 3 4 5\n", &mut usage)
            .unwrap();
        network(
            "x|y\n z|w\n lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n none7: 1 2 0 0 0 0 0 0 3 4 0\n",
            &mut usage,
        );
        assert_eq!(block(" 7 0 loop0 1 1 1 1 1 1 1 1 0 0 0\n", &mut usage), None);
        let (some, full) = (Figure::PressureIoSomeUs, Figure::PressureIoFullUs);
        pressure("some avg10=0.00 total=12\nfull avg10=0.00 total=3\n", &mut usage, some, full).unwrap();
        let shown: String = usage.figures().map(|(figure, value)| format!("{figure:?} {value}\n")).collect();
        expect![[r#"
            CpuNs 1530000000
            MemoryBytes 716800
            MemoryWorkingSetBytes 409600
            MemoryLimitBytes 1024000
            OomKills 2
            CpuUserNs 1200000000
            CpuSystemNs 330000000
            MemoryAnonBytes 51200
            MemoryFileBytes 102400
            MemoryShmemBytes 4096
            MemoryKernelBytes 15360
            MemorySwapBytes 3072
            FaultsMinor 493
            FaultsMajor 7
            ReclaimStalls 7
            PressureIoSomeUs 12
            PressureIoFullUs 3
            NetworkReceivedBytes 1
            NetworkSentBytes 3
            NetworkReceivedPackets 2
            NetworkSentPackets 4
            NetworkRetransmits 5
            ConnectionsOpened 2
            ConnectionsAccepted 3
            ConnectionsFailed 4
            Threads 512
            Forks 77
            LoadMilli 1420
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn what_is_not_there_is_absent() {
        let mut usage = Usage::default();
        assert_eq!(cpu("cpu 1 2 3\n", &mut usage), None);
        memory("MemTotal: 1000 kB\n", &mut usage);
        faults("", &mut usage);
        assert_eq!(load("x", &mut usage), None);
        assert_eq!(usage.figures().collect::<Vec<_>>(), [(Figure::MemoryLimitBytes, 1_024_000)]);
    }

    #[test]
    fn this_host_has_figures() {
        let usage = usage(Timestamp(1));
        for figure in [Figure::CpuNs, Figure::MemoryBytes, Figure::LoadMilli, Figure::Threads] {
            assert!(
                usage.get(figure).is_some_and(|value| value > 0) || figure == Figure::LoadMilli,
                "{figure:?}"
            );
        }
    }
}
