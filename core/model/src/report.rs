//! Reports of usage: each says only what changed since the one before.
//!
//! [`Reporter`] makes them on the agent, [`Reported`] makes the figures of them on the leader.
//! Both begin anew with each session, whose stream loses nothing before its end: so what was sent is what the other
//! side has, and nothing needs to be acknowledged.
//!
//! ## Design
//!
//! A subject gets a number with its first, full figures; later reports name the number. Changes stand in columns:
//! a reader decodes four lists, however many subjects there are. Histograms are not reported.

use std::collections::BTreeMap;

use crate::{Figure, Subject, Timestamp, Usage, limits};

/// Subjects in one report: some 20 KiB of changes.
const SUBJECTS_PER_REPORT_MAX: usize = 256;
/// Numbers that a session may use: its live tasks, those that just ended, and the host.
const KEYS_MAX: usize = 2 * limits::TASKS_PER_AGENT_MAX + 1;

/// What changed, of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageReport {
    /// When the figures were measured.
    pub at: Timestamp,
    /// Numbers that are free again; taken before the rest.
    pub ended: Vec<u32>,
    /// Subjects of which nothing was said yet, or which lost a figure.
    pub opened: Vec<Opened>,
    /// The others.
    pub keys: Vec<u32>,
    /// For each key: one bit for each figure that changed, at the figure's number.
    pub changed: Vec<u64>,
    /// For each key and each of its bits, lowest first: by how much.
    pub by: Vec<i64>,
}

impl UsageReport {
    fn is_full(&self) -> bool {
        self.opened.len() + self.keys.len() >= SUBJECTS_PER_REPORT_MAX
    }
}

/// The full figures of a subject, and its number from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub key: u32,
    pub subject: Subject,
    /// Without histograms.
    pub usage: Usage,
}

/// Makes reports, for one session.
#[derive(Debug, Clone, Default)]
pub struct Reporter {
    sent: BTreeMap<Subject, Sent>,
    /// Numbers of subjects that ended.
    free: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Sent {
    key: u32,
    usage: Usage,
    is_seen: bool,
}

impl Reporter {
    /// What the other side must hear to know these figures, which are all that there are.
    ///
    /// They are known there once every report was taken, in order.
    pub fn report<'a>(
        &mut self,
        samples: impl IntoIterator<Item = (&'a Subject, &'a Usage)>,
    ) -> Vec<UsageReport> {
        let mut reports = Vec::new();
        let mut open: BTreeMap<Timestamp, UsageReport> = BTreeMap::new();
        let mut begun = Vec::new();
        for (subject, usage) in samples {
            let Some(sent) = self.sent.get_mut(subject) else {
                begun.push((subject, usage));
                continue;
            };
            sent.is_seen = true;
            if sent.usage.at == usage.at {
                continue;
            }
            let report =
                open.entry(usage.at).or_insert_with(|| UsageReport { at: usage.at, ..Default::default() });
            sent.tell(subject, usage, report);
            if report.is_full() {
                reports.extend(open.remove(&usage.at));
            }
        }
        let ended = self.forget_unseen();
        for (subject, usage) in begun {
            let report =
                open.entry(usage.at).or_insert_with(|| UsageReport { at: usage.at, ..Default::default() });
            let key = self.free.pop().unwrap_or_else(|| u32::try_from(self.sent.len()).unwrap_or(u32::MAX));
            let usage = usage.only(|_| true);
            report.opened.push(Opened { key, subject: subject.clone(), usage: usage.clone() });
            self.sent.insert(subject.clone(), Sent { key, usage, is_seen: false });
            let at = report.at;
            if report.is_full() {
                reports.extend(open.remove(&at));
            }
        }
        reports.extend(open.into_values());
        match reports.first_mut() {
            Some(first) => first.ended = ended,
            None if ended.is_empty() => {}
            None => reports.push(UsageReport { ended, ..Default::default() }),
        }
        reports
    }

    /// Frees the numbers of subjects that are not there any more.
    fn forget_unseen(&mut self) -> Vec<u32> {
        let mut ended = Vec::new();
        self.sent.retain(|_, sent| {
            if !sent.is_seen {
                ended.push(sent.key);
            }
            std::mem::take(&mut sent.is_seen)
        });
        self.free.extend(&ended);
        ended
    }
}

impl Sent {
    fn tell(&mut self, subject: &Subject, usage: &Usage, report: &mut UsageReport) {
        if self.usage.figures().any(|(figure, _)| usage.get(figure).is_none()) {
            self.usage = usage.only(|_| true);
            report.opened.push(Opened { key: self.key, subject: subject.clone(), usage: self.usage.clone() });
            return;
        }
        let mut changed = 0;
        for (figure, now) in usage.figures() {
            let before = self.usage.get(figure);
            if before != Some(now) {
                changed |= 1 << figure.number();
                report.by.push(now.wrapping_sub(before.unwrap_or(0)).cast_signed());
                self.usage.set(figure, Some(now));
            }
        }
        self.usage.at = usage.at;
        report.keys.push(self.key);
        report.changed.push(changed);
    }
}

/// Why a report can't be taken: the session must begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error("a report of usage names the number {0}, which was not opened")]
    KeyUnknown(u32),
    #[error("a report of usage opens the number {0}, and numbers end below {KEYS_MAX}")]
    KeyTooLarge(u32),
    #[error("the columns of a report of usage don't fit together")]
    Misshapen,
}

/// The figures that one session reported.
#[derive(Debug, Clone, Default)]
pub struct Reported {
    by_key: Vec<Option<(Subject, Usage)>>,
    keys: BTreeMap<Subject, u32>,
}

impl Reported {
    /// Brings the figures up to date.
    pub fn take(&mut self, report: UsageReport) -> Result<(), ReportError> {
        let UsageReport { at, ended, opened, keys, changed, by } = report;
        for key in ended {
            self.close(key);
        }
        for Opened { key, subject, usage } in opened {
            self.open(key, subject, usage)?;
        }
        if keys.len() != changed.len() {
            return Err(ReportError::Misshapen);
        }
        let mut by = by.into_iter();
        for (key, changed) in keys.into_iter().zip(changed) {
            let (_, usage) = self.entry(key).ok_or(ReportError::KeyUnknown(key))?;
            usage.at = at;
            let mut left = changed;
            while left != 0 {
                let number = left.trailing_zeros();
                left &= left - 1;
                let by = by.next().ok_or(ReportError::Misshapen)?;
                // A newer agent may know figures that this program doesn't.
                if let Some(figure) = u8::try_from(number).ok().and_then(Figure::of_number) {
                    usage.add(figure, by);
                }
            }
        }
        if by.next().is_some() { Err(ReportError::Misshapen) } else { Ok(()) }
    }

    pub fn get(&self, subject: &Subject) -> Option<&Usage> {
        let key = *self.keys.get(subject)?;
        let (_, usage) = self.by_key.get(usize::try_from(key).ok()?)?.as_ref()?;
        Some(usage)
    }

    /// How many subjects there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &Usage)> {
        self.by_key.iter().flatten().map(|(subject, usage)| (subject, usage))
    }

    fn entry(&mut self, key: u32) -> Option<&mut (Subject, Usage)> {
        self.by_key.get_mut(usize::try_from(key).ok()?)?.as_mut()
    }

    fn open(&mut self, key: u32, subject: Subject, usage: Usage) -> Result<(), ReportError> {
        let place = usize::try_from(key).ok().filter(|place| *place < KEYS_MAX);
        let place = place.ok_or(ReportError::KeyTooLarge(key))?;
        self.close(key);
        // A subject under a second number has only that one.
        if let Some(older) = self.keys.insert(subject.clone(), key)
            && let Some(entry) = usize::try_from(older).ok().and_then(|older| self.by_key.get_mut(older))
        {
            *entry = None;
        }
        if self.by_key.len() <= place {
            self.by_key.resize(place + 1, None);
        }
        if let Some(entry) = self.by_key.get_mut(place) {
            *entry = Some((subject, usage));
        }
        Ok(())
    }

    fn close(&mut self, key: u32) {
        let entry = usize::try_from(key).ok().and_then(|place| self.by_key.get_mut(place));
        if let Some((subject, _)) = entry.and_then(Option::take) {
            self.keys.remove(&subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::TaskId;

    fn subject(number: usize) -> Subject {
        if number == 0 { Subject::Host } else { Subject::Task(TaskId::new(&format!("t{number}")).unwrap()) }
    }

    type Round = Vec<(usize, Vec<Option<u64>>)>;

    /// Rounds of samples: which subjects, and a few of their figures; `true`: the session was lost before it.
    fn rounds() -> impl Strategy<Value = Vec<(bool, Round)>> {
        let value = prop_oneof![0_u64..100, Just(u64::MAX), any::<u64>()];
        let sample = (0_usize..6, vec(option::weighted(0.9, value), 5));
        vec((prop::bool::weighted(0.2), vec(sample, 0..6)), 1..12)
    }

    fn usage(at: i64, figures: &[Option<u64>]) -> Usage {
        let mut usage = Usage::new(Timestamp(at));
        for (figure, value) in Figure::ALL.into_iter().skip(1).step_by(11).zip(figures) {
            usage.set(figure, *value);
        }
        usage
    }

    proptest! {
        #[test]
        fn what_was_reported_is_what_was_measured(rounds in rounds()) {
            let (mut reporter, mut reported) = (Reporter::default(), Reported::default());
            for (number, (is_lost, round)) in rounds.into_iter().enumerate() {
                if is_lost {
                    (reporter, reported) = (Reporter::default(), Reported::default());
                }
                let at = i64::try_from(number).unwrap();
                // One subject in six is measured at another moment.
                let measured: BTreeMap<_, _> = round
                    .iter()
                    .map(|(number, figures)| (subject(*number), usage(at + i64::from(*number == 3), figures)))
                    .collect();
                for report in reporter.report(&measured) {
                    reported.take(report).unwrap();
                }
                let known: BTreeMap<_, _> =
                    reported.iter().map(|(subject, usage)| (subject.clone(), usage.clone())).collect();
                prop_assert_eq!(&known, &measured);
                prop_assert_eq!(reported.len(), measured.len());
                for (subject, usage) in &measured {
                    prop_assert_eq!(reported.get(subject), Some(usage));
                }
            }
        }

        #[test]
        fn a_report_of_a_stranger_is_taken_or_refused(
            keys in vec(any::<u32>(), 0..4),
            changed in vec(any::<u64>(), 0..4),
            by in vec(any::<i64>(), 0..40),
        ) {
            let mut reported = Reported::default();
            let opened = vec![Opened { key: 0, subject: Subject::Host, usage: Usage::default() }];
            reported.take(UsageReport { opened, ..UsageReport::default() }).unwrap();
            let keys = keys.into_iter().map(|key| key % 2).collect();
            let _ = reported.take(UsageReport { keys, changed, by, ..UsageReport::default() });
            prop_assert!(reported.len() <= 1);
        }
    }

    #[test]
    fn many_subjects_are_several_reports_and_numbers_are_used_again() {
        let many: BTreeMap<_, _> = (0..600).map(|number| (subject(number), usage(1, &[Some(1)]))).collect();
        let mut reporter = Reporter::default();
        assert_eq!(reporter.report(&many).len(), 3);
        let none: BTreeMap<Subject, Usage> = BTreeMap::new();
        let ended = reporter.report(&none).remove(0).ended;
        assert_eq!(ended.len(), 600);
        let again = reporter.report(&many);
        assert!(again.iter().flat_map(|report| &report.opened).all(|opened| opened.key < 600));
    }

    #[test]
    fn what_did_not_change_is_not_said() {
        let mut sample = BTreeMap::from([(Subject::Host, usage(1, &[Some(1), Some(2)]))]);
        let mut reporter = Reporter::default();
        reporter.report(&sample);
        assert_eq!(reporter.report(&sample), []);
        sample.insert(Subject::Host, usage(2, &[Some(1), Some(5)]));
        let report = reporter.report(&sample).remove(0);
        assert_eq!((report.keys, report.by), (vec![0], vec![3]));
    }
}
