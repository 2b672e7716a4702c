//! What agents report of use, how often they shall, and reads of their histories.
//!
//! Figures live with the session that reported them: when it ends, they are not known any more. Nothing of them
//! reaches the log.

use std::collections::BTreeMap;

use model::{AgentId, Duration, Refusal, RefusalCode, Reported, Subject, Timestamp, Usage, UsageReport};

use crate::{
    config::{
        HISTORIES_MAX, READ_ANSWER_TIME, REPORTS_PER_SECOND_MAX, SUBJECTS_PER_SECOND_MAX, USAGE_INTERVAL_MAX,
        USAGE_INTERVAL_MIN,
    },
    machine::{Effect, Leader},
    messages::{HistoryRequest, Reply, SessionId, ToAgent},
    proposals::{Asker, CallId},
};

/// What one session reported.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    figures: Reported,
    /// How often its agent was told to report.
    interval: Duration,
}

impl Default for Reports {
    fn default() -> Self {
        Self { figures: Reported::default(), interval: USAGE_INTERVAL_MIN }
    }
}

/// Reads of histories that have no answer yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histories {
    next: u64,
    by_number: BTreeMap<u64, Waiting>,
}

#[derive(Debug, Clone)]
struct Waiting {
    call: CallId,
    agent: AgentId,
    session: SessionId,
    ends_at: Timestamp,
}

impl Histories {
    pub(crate) fn calls(&self) -> Vec<CallId> {
        self.by_number.values().map(|waiting| waiting.call).collect()
    }

    /// All wait equally long, so the oldest ends first.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        self.by_number.values().next().map(|waiting| waiting.ends_at)
    }
}

impl Leader {
    /// Takes a report in; one that can't be right ends the session, and the next begins with full figures.
    pub(crate) fn usage_reported(&mut self, session: SessionId, report: UsageReport) {
        let Some(reports) = self.sessions.reports_mut(session) else { return };
        if let Err(error) = reports.figures.take(report) {
            let refusal = Refusal::new(RefusalCode::InvalidArgument, format!("{error}; attach again"));
            self.end_session(session, Some(ToAgent::Refused { refusal, is_final: false }));
        }
    }

    /// The latest figures of each, in the same order; `None` where none are known.
    pub(crate) fn usage_of(&self, subjects: &[(AgentId, Subject)]) -> Vec<Option<Usage>> {
        let of = |agent: &AgentId, subject: &Subject| {
            let (session, _) = self.sessions.registered_of(agent)?;
            self.sessions.reports(session)?.figures.get(subject).cloned()
        };
        subjects.iter().map(|(agent, subject)| of(agent, subject)).collect()
    }

    /// Tells agents to report more rarely as there are more of them, so that all together cost the same.
    pub(crate) fn pace_reports(&mut self) {
        let reports = self.sessions.all_reports_mut();
        let (mut agents, mut subjects) = (0, 0);
        for (_, reports) in reports {
            agents += 1;
            subjects += reports.figures.len();
        }
        let interval = interval(agents, subjects);
        for (session, reports) in self.sessions.all_reports_mut() {
            if reports.interval != interval {
                reports.interval = interval;
                self.effects.push(Effect::ToAgent { session, message: ToAgent::UsagePace { interval } });
            }
        }
    }

    /// Asks an agent for a history.
    ///
    /// Refuses an agent without a session (AgentUnreachable), and more reads than can wait (Busy).
    pub(crate) fn read_history(
        &mut self,
        call: CallId,
        agent: AgentId,
        history: HistoryRequest,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some((session, _)) = self.sessions.registered_of(&agent) else {
            let message = format!(
                "can't read the history of usage: agent `{agent}`, which has it, isn't connected now; try again later"
            );
            return Err(Refusal::new(RefusalCode::AgentUnreachable, message));
        };
        if self.histories.by_number.len() >= HISTORIES_MAX {
            let message = "can't read the history of usage: too many reads are under way; try again";
            return Err(Refusal::new(RefusalCode::Busy, message));
        }
        self.histories.next += 1;
        let request = self.histories.next;
        let ends_at = now + READ_ANSWER_TIME;
        self.histories.by_number.insert(request, Waiting { call, agent, session, ends_at });
        self.effects.push(Effect::ToAgent { session, message: ToAgent::ReadHistory { request, history } });
        Ok(())
    }

    pub(crate) fn history_answered(
        &mut self,
        session: SessionId,
        request: u64,
        result: Result<Vec<Usage>, String>,
    ) {
        // An answer that came too late, or to somebody else's question, is nobody's.
        if self.histories.by_number.get(&request).is_none_or(|waiting| waiting.session != session) {
            return;
        }
        let Some(waiting) = self.histories.by_number.remove(&request) else { return };
        let answer = result.map(Reply::History).map_err(|why| {
            let message = format!("can't read the history of usage: {why}");
            Refusal::new(RefusalCode::HistoryGone, message)
        });
        self.answer(Asker::Daemon(waiting.call), answer);
    }

    pub(crate) fn histories_lost(&mut self, session: SessionId) {
        self.end_histories(|waiting| waiting.session == session, "has just lost its connection");
    }

    pub(crate) fn histories_overdue(&mut self, now: Timestamp) {
        if self.histories.next_end().is_some_and(|at| at <= now) {
            self.end_histories(|waiting| waiting.ends_at <= now, "did not answer in time");
        }
    }

    fn end_histories(&mut self, is_over: impl Fn(&Waiting) -> bool, why: &str) {
        let (over, left) = std::mem::take(&mut self.histories.by_number)
            .into_iter()
            .partition(|(_, waiting): &(u64, Waiting)| is_over(waiting));
        self.histories.by_number = left;
        let over: BTreeMap<u64, Waiting> = over;
        for Waiting { call, agent, .. } in over.into_values() {
            let message = format!("can't read the history of usage: agent `{agent}` {why}; try again");
            self.answer(Asker::Daemon(call), Err(Refusal::new(RefusalCode::AgentUnreachable, message)));
        }
    }
}

/// How often each shall report. Steps of two: an agent more or less changes nothing.
fn interval(agents: usize, subjects: usize) -> Duration {
    let needed = agents.div_ceil(REPORTS_PER_SECOND_MAX).max(subjects.div_ceil(SUBJECTS_PER_SECOND_MAX));
    let mut interval = USAGE_INTERVAL_MIN;
    while interval.as_secs() < needed as u64 && interval < USAGE_INTERVAL_MAX {
        interval = interval.saturating_mul(2);
    }
    interval
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_keeps_the_sum_bounded() {
        assert_eq!(interval(0, 0), USAGE_INTERVAL_MIN);
        assert_eq!(interval(2000, 20_000), USAGE_INTERVAL_MIN);
        assert_eq!(interval(10_000, 110_000), Duration::from_secs(16));
        assert_eq!(interval(10, 1_000_000), USAGE_INTERVAL_MAX);
        for agents in [1, 100, 3000, 20_000, 60_000] {
            let each = interval(agents, agents * 10).as_secs() as usize;
            assert!(agents / each <= REPORTS_PER_SECOND_MAX && agents * 10 / each <= SUBJECTS_PER_SECOND_MAX);
        }
    }
}
