//! What each task and the host used during the last hour: every sample of the last minute, then one in 10 s.
//!
//! Lives in memory alone and begins anew with the agent: writing it down would cost more than all other records,
//! and the counters themselves go on in the kernel. Nothing here measures.
//! Start at [`History::push`].
//!
//! ## Design
//!
//! A task whose every figure moves takes some 90 KiB, one that sleeps 10 KiB. When all together are more than [`BYTES_MAX`], first ended
//! tasks are forgotten, oldest first, then the oldest parts of the largest history are dropped.

pub mod host;
mod packed;
mod series;

use std::collections::{BTreeMap, BTreeSet};

use model::{Duration, Subject, Timestamp, Usage};

use series::{Series, Shape};

/// Of the last minute, every sample; a meter's round is at least a second.
const FINE: Shape = Shape {
    step: Duration::ZERO,
    span: Duration::from_secs(60),
    chunk: Duration::from_secs(20),
    points_max: 100,
};
/// Of the last hour.
const COARSE: Shape = Shape {
    // A little less than 10 s: rounds are not that exact.
    step: Duration::from_millis(9_500),
    span: Duration::from_secs(3600),
    chunk: Duration::from_secs(300),
    points_max: 400,
};
/// Ended tasks are remembered for so long.
const ENDED_KEPT_FOR: Duration = Duration::from_secs(3600);
/// All histories together: a thousand tasks of which half are busy.
const BYTES_MAX: usize = 48 << 20;
/// Those of ended tasks.
const ENDED_BYTES_MAX: usize = 16 << 20;
/// What a history takes besides its rows: its name, and its place in the tables.
const SUBJECT_BYTES: usize = 512;
/// Points of one answer: some 400 bytes each on the wire.
const POINTS_MAX: usize = 512;

/// Histories of all subjects.
#[derive(Debug)]
pub struct History {
    rows: BTreeMap<Subject, Rows>,
    ended: BTreeSet<(Timestamp, Subject)>,
    bytes: usize,
    bytes_ended: usize,
    bytes_max: usize,
    bytes_ended_max: usize,
}

#[derive(Debug, Default)]
struct Rows {
    fine: Series,
    coarse: Series,
    ended_at: Option<Timestamp>,
    /// As they are counted in the sum.
    bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self::new(BYTES_MAX, ENDED_BYTES_MAX)
    }
}

impl History {
    fn new(bytes_max: usize, bytes_ended_max: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            ended: BTreeSet::new(),
            bytes: 0,
            bytes_ended: 0,
            bytes_max,
            bytes_ended_max,
        }
    }

    /// Adds a sample.
    pub fn push(&mut self, subject: &Subject, usage: &Usage) {
        let rows = match self.rows.get_mut(subject) {
            // A sample that was taken before its end and came after it.
            Some(rows) if rows.ended_at.is_some() => return,
            Some(rows) => rows,
            None => self.rows.entry(subject.clone()).or_default(),
        };
        rows.fine.push(usage, &FINE);
        rows.coarse.push(usage, &COARSE);
        self.bytes = self.bytes - rows.bytes + rows.measure();
        self.make_room(usage.at);
    }

    /// The task has ended with these figures.
    pub fn end(&mut self, subject: &Subject, last: Option<&Usage>, now: Timestamp) {
        if let Some(last) = last {
            self.push(subject, last);
        }
        let Some(rows) = self.rows.get_mut(subject).filter(|rows| rows.ended_at.is_none()) else { return };
        rows.ended_at = Some(now);
        rows.fine.seal();
        rows.coarse.seal();
        self.bytes -= rows.bytes;
        self.bytes += rows.measure();
        self.bytes_ended += rows.bytes;
        self.ended.insert((now, subject.clone()));
        self.make_room(now);
    }

    /// Points from `since` on, oldest first, no closer than `step`; `None` when there is no history.
    ///
    /// The newest is always there.
    pub fn points(&self, subject: &Subject, since: Timestamp, step: Duration) -> Option<Vec<Usage>> {
        let rows = self.rows.get(subject)?;
        let fine = rows.fine.points();
        let mut points = rows.coarse.points();
        if let Some(first) = fine.first() {
            points.retain(|point| point.at < first.at);
        }
        points.extend(fine);
        points.retain(|point| point.at >= since);
        // Thinned from the newest backwards.
        let mut kept: Vec<Usage> = Vec::new();
        for point in points.into_iter().rev() {
            if kept.last().is_none_or(|newer| newer.at.since(point.at) >= step) {
                kept.push(point);
            }
            if kept.len() == POINTS_MAX {
                break;
            }
        }
        kept.reverse();
        Some(kept)
    }

    /// Memory of all histories together, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn make_room(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.ended.first()
            && (now.since(*at) > ENDED_KEPT_FOR
                || self.bytes_ended > self.bytes_ended_max
                || self.bytes > self.bytes_max)
        {
            let Some((_, subject)) = self.ended.pop_first() else { return };
            let Some(rows) = self.rows.remove(&subject) else { continue };
            self.bytes -= rows.bytes;
            self.bytes_ended -= rows.bytes;
        }
        while self.bytes > self.bytes_max {
            let Some(largest) = self.rows.values_mut().max_by_key(|rows| rows.bytes) else { return };
            if !largest.coarse.drop_oldest() && !largest.fine.drop_oldest() {
                return;
            }
            self.bytes -= largest.bytes;
            self.bytes += largest.measure();
        }
    }
}

impl Rows {
    /// Counts its bytes anew.
    fn measure(&mut self) -> usize {
        self.bytes = SUBJECT_BYTES + self.fine.bytes() + self.coarse.bytes();
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use model::{Figure, Histogram, TaskId};
    use proptest::prelude::*;

    use super::*;

    fn task(number: usize) -> Subject {
        Subject::Task(TaskId::new(&format!("t{number}")).unwrap())
    }

    /// A task whose every figure moves.
    fn busy(seconds: i64) -> Usage {
        let mut usage = Usage::new(Timestamp(seconds * 1_000_000));
        for figure in Figure::ALL {
            usage.set(figure, Some(seconds.cast_unsigned().wrapping_mul(u64::from(figure.number()) * 1001)));
        }
        usage.run_queue_latency = Some(Histogram::of_counts((0..12).map(|i| seconds.cast_unsigned() * i)));
        usage
    }

    fn idle(seconds: i64) -> Usage {
        let mut usage = busy(1);
        usage.at = Timestamp(seconds * 1_000_000);
        usage
    }

    fn filled(sample: impl Fn(i64) -> Usage, seconds: i64) -> History {
        let mut history = History::default();
        (0..seconds).for_each(|second| history.push(&task(1), &sample(second)));
        history
    }

    fn all(history: &History, subject: &Subject) -> Vec<Usage> {
        history.points(subject, Timestamp::EPOCH, Duration::ZERO).unwrap()
    }

    #[test]
    fn an_hour_is_kept_and_a_minute_of_it_to_the_second() {
        let history = filled(busy, 3 * 3600);
        let points = all(&history, &task(1));
        assert_eq!(points.last(), Some(&busy(3 * 3600 - 1)));
        let newest = points.last().unwrap().at;
        let within = |seconds| {
            points.iter().filter(|point| newest.since(point.at) < Duration::from_secs(seconds)).count()
        };
        assert_eq!(within(60), 60);
        assert!((410..=440).contains(&within(3600)), "{}", within(3600));
        let oldest = newest.since(points[0].at).as_secs();
        assert!((3600..=3910).contains(&oldest), "{oldest}");
        assert!(points.iter().all(|point| *point == busy(point.at.0 / 1_000_000)));
    }

    #[test]
    fn what_a_task_takes_is_what_is_said_above() {
        let (busy, idle) = (filled(busy, 2 * 3600).bytes(), filled(idle, 2 * 3600).bytes());
        assert!(busy < 90 << 10, "{busy}");
        assert!(idle < 16 << 10, "{idle}");
    }

    #[test]
    fn points_can_be_had_fewer() {
        let history = filled(busy, 600);
        let points = history.points(&task(1), Timestamp(300_000_000), Duration::from_secs(60)).unwrap();
        let seconds: Vec<_> = points.iter().map(|point| point.at.0 / 1_000_000).collect();
        assert_eq!(seconds.last(), Some(&599));
        assert!(
            seconds.iter().all(|second| *second >= 300) && (4..=5).contains(&seconds.len()),
            "{seconds:?}"
        );
        assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{seconds:?}");
        assert_eq!(history.points(&task(2), Timestamp::EPOCH, Duration::ZERO), None);
    }

    #[test]
    fn an_ended_task_is_remembered_for_an_hour() {
        let mut history = filled(busy, 30);
        history.end(&task(1), Some(&busy(31)), Timestamp(31_000_000));
        history.push(&task(1), &busy(32));
        assert_eq!(all(&history, &task(1)).last(), Some(&busy(31)));
        history.push(&Subject::Host, &busy(31 + 3600));
        assert_eq!(all(&history, &task(1)).len(), 31);
        history.push(&Subject::Host, &busy(33 + 3600));
        assert_eq!(history.points(&task(1), Timestamp::EPOCH, Duration::ZERO), None);
        assert_eq!(history.bytes_ended, 0);
    }

    #[test]
    fn a_clock_that_goes_back_loses_no_sample() {
        let mut history = filled(busy, 100);
        history.push(&task(1), &busy(5));
        history.push(&task(1), &busy(6));
        let ats: Vec<_> =
            all(&history, &task(1)).iter().rev().take(2).map(|point| point.at.0 / 1_000_000).collect();
        assert_eq!(ats, [6, 5]);
    }

    proptest! {
        #[test]
        fn memory_stays_within_its_bounds(
            steps in proptest::collection::vec((0_usize..20, 1_i64..400, prop::bool::weighted(0.1)), 1..400),
        ) {
            let mut history = History::new(60_000, 20_000);
            let mut now = 0;
            for (number, passed, is_end) in steps {
                now += passed;
                if is_end {
                    history.end(&task(number), None, Timestamp(now * 1_000_000));
                } else {
                    history.push(&task(number), &busy(now));
                }
                let live: usize = history.rows.len() - history.ended.len();
                // The last part of each live history is never dropped.
                prop_assert!(history.bytes <= 60_000_usize.max(live * 5_000), "{} of {live}", history.bytes);
                prop_assert!(history.bytes_ended <= 20_000);
                prop_assert_eq!(history.bytes, history.rows.values().map(|rows| rows.bytes).sum::<usize>());
                let ended = history.rows.values().filter(|rows| rows.ended_at.is_some());
                prop_assert_eq!(history.bytes_ended, ended.map(|rows| rows.bytes).sum::<usize>());
            }
        }
    }
}
