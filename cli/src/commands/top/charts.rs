//! Small charts from a history: one value for each character.

use muster_client::types::{Histogram, Usage};

use super::rates::{Pair, Unit, show};

/// A row of values, oldest first; absent where nothing was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub name: &'static str,
    pub unit: Unit,
    pub values: Vec<Option<f64>>,
    /// Beside the chart: the newest value, or what a histogram says.
    pub now: String,
}

/// What is drawn of a history.
pub fn charts(history: &[Usage], points: usize) -> Vec<Chart> {
    let rate = |pair: &Pair, figure: fn(&Usage) -> Option<u64>| pair.rate(figure);
    let mut charts = vec![
        chart("cpu %", Unit::Percent, history, points, |pair| Some(rate(pair, |usage| usage.cpu_ns)? / 1e7)),
        chart("throttled %", Unit::Percent, history, points, |pair| {
            Some(rate(pair, |usage| usage.cpu_throttled_ns)? / 1e7)
        }),
        chart("cpu wait %", Unit::Percent, history, points, |pair| {
            Some(rate(pair, |usage| usage.run_queue_ns)? / 1e7)
        }),
        chart("memory", Unit::Bytes, history, points, |pair| pair.now.memory_bytes.map(|bytes| bytes as f64)),
        chart("faults/s", Unit::PerSecond, history, points, |pair| {
            Some(rate(pair, |usage| usage.faults_minor)? + rate(pair, |usage| usage.faults_major)?)
        }),
        chart("network/s", Unit::BytesPerSecond, history, points, |pair| {
            let sent = rate(pair, |usage| usage.network_sent_bytes)?;
            Some(rate(pair, |usage| usage.network_received_bytes)? + sent)
        }),
        chart("block I/O/s", Unit::BytesPerSecond, history, points, |pair| {
            let written = rate(pair, |usage| usage.block_write_bytes)?;
            Some(rate(pair, |usage| usage.block_read_bytes)? + written)
        }),
    ];
    if let Some(text) = latency(history, |usage| usage.run_queue_latency.as_ref())
        && let Some(wait) = charts.get_mut(2)
    {
        wait.now += &format!("  {text}");
    }
    if let Some(text) = latency(history, |usage| usage.block_latency.as_ref())
        && let Some(block) = charts.last_mut()
    {
        block.now += &format!("  {text}");
    }
    charts
}

/// Spreads the history over so many characters; the newest is at the end.
fn chart(
    name: &'static str,
    unit: Unit,
    history: &[Usage],
    points: usize,
    value: impl Fn(&Pair) -> Option<f64>,
) -> Chart {
    let values: Vec<Option<f64>> = history
        .windows(2)
        .filter_map(|pair| {
            let [before, now] = pair else { return None };
            Some(value(&Pair { before: Some(before.clone()), now: now.clone() }))
        })
        .collect();
    let newest = values.last().copied().flatten();
    // More values than characters: each character is the largest of its share, so that no peak is lost.
    let count = values.len();
    let shares = count.min(points);
    let share_of = |place: usize| values.get(place * count / shares..(place + 1) * count / shares);
    let values =
        (0..shares).map(|place| share_of(place)?.iter().flatten().copied().max_by(f64::total_cmp)).collect();
    Chart { name, unit, values, now: show(newest, unit) }
}

/// `p50 < 4µs, p99 < 1ms` of what happened during the history.
fn latency(history: &[Usage], of: impl Fn(&Usage) -> Option<&Histogram>) -> Option<String> {
    let (oldest, newest) = (history.iter().find_map(&of)?, history.iter().rev().find_map(&of)?);
    let before = oldest.counts.iter().copied().chain(std::iter::repeat(0));
    let counts: Vec<u64> =
        newest.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect();
    let total: u64 = counts.iter().sum();
    let quantile = |share: f64| -> Option<usize> {
        let mut seen = 0;
        counts.iter().position(|count| {
            seen += count;
            seen > 0 && seen as f64 >= total as f64 * share
        })
    };
    let end = |bucket: usize| -> String {
        // The first bucket ends at 1 024 ns, each at twice the one before, and the last of 26 has no end.
        if bucket >= 25 {
            return "> 17s".to_owned();
        }
        let ns = 1024_u64 << bucket;
        match ns {
            0..1_000_000 => format!("< {}µs", ns / 1000),
            1_000_000..1_000_000_000 => format!("< {}ms", ns / 1_000_000),
            _ => format!("< {}s", ns / 1_000_000_000),
        }
    };
    Some(format!("p50 {}, p99 {}", end(quantile(0.5)?), end(quantile(0.99)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(cpu: &[Option<u64>]) -> Vec<Usage> {
        let usage = |(second, cpu_ns): (usize, &Option<u64>)| Usage {
            at_us: second as i64 * 1_000_000,
            cpu_ns: *cpu_ns,
            ..Usage::default()
        };
        cpu.iter().enumerate().map(usage).collect()
    }

    #[test]
    fn a_peak_survives_when_there_are_too_many_points() {
        let history =
            history(&[Some(0), Some(0), Some(10_000_000), Some(10_000_000), None, Some(20_000_000)]);
        assert_eq!(charts(&history, 99)[0].values, [Some(0.0), Some(1.0), Some(0.0), None, None]);
        assert_eq!(charts(&history, 2)[0].values, [Some(1.0), Some(0.0)]);
        assert_eq!(charts(&[], 9)[0].values, []);
    }

    #[test]
    fn quantiles_are_those_of_the_window() {
        let usage = |counts: &[u64]| Usage {
            run_queue_latency: Some(Histogram { counts: counts.to_vec() }),
            ..Usage::default()
        };
        let history = [usage(&[1000]), usage(&[1090, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1])];
        let of = |usage: &Usage| usage.run_queue_latency.clone();
        assert!(history.iter().all(|usage| of(usage).is_some()));
        let text = latency(&history, |usage| usage.run_queue_latency.as_ref()).unwrap();
        assert_eq!(text, "p50 < 1µs, p99 < 1ms");
        assert_eq!(latency(&history[..1], |usage| usage.run_queue_latency.as_ref()), None);
    }
}
