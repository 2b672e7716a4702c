//! A framework that wants no offers gets none.

use std::collections::{BTreeMap, BTreeSet};

use leader::{Call, Reply};
use model::{Duration, FrameworkId};

use crate::{
    parameters::Parameters,
    record::{Checker, Fact},
    time::Moment,
};

/// What is late is late by so many times the usual at most.
const LATE: u32 = 21;
/// A leader's loop may be late as well.
const TURN_LATE_MAX: Duration = Duration::from_secs(3);

/// Remembers who asked for silence, and since when it was promised.
pub struct SuppressedIsLeftAlone {
    under_way: Duration,
    /// When each last wished for offers: until that has surely arrived, a wish for none may be overtaken.
    opened: BTreeMap<FrameworkId, Moment>,
    /// Wishes for none that nothing can overtake, by the client's count.
    wished: BTreeSet<(FrameworkId, u64)>,
    since: BTreeMap<FrameworkId, Moment>,
}

impl SuppressedIsLeftAlone {
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            under_way: parameters.latency * LATE + TURN_LATE_MAX,
            opened: BTreeMap::new(),
            wished: BTreeSet::new(),
            since: BTreeMap::new(),
        }
    }

    fn open(&mut self, framework: &FrameworkId) {
        self.since.remove(framework);
        self.wished.retain(|(other, _)| other != framework);
    }
}

impl Checker for SuppressedIsLeftAlone {
    fn name(&self) -> &'static str {
        "suppressed_is_left_alone"
    }

    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Wished { number, call: Call::Suppress { caller } } => {
                let opened = self.opened.get(&caller.framework);
                if opened.is_none_or(|opened| now.since(*opened) > self.under_way) {
                    self.wished.insert((caller.framework.clone(), *number));
                }
                Ok(())
            }
            Fact::Answered { number, call: Call::Suppress { caller }, answer: Ok(Reply::Done) } => {
                if self.wished.remove(&(caller.framework.clone(), *number)) {
                    self.since.insert(caller.framework.clone(), now);
                }
                Ok(())
            }
            Fact::Wished { call: Call::Revive { caller } | Call::SetDemand { caller, .. }, .. } => {
                self.opened.insert(caller.framework.clone(), now);
                self.open(&caller.framework);
                Ok(())
            }
            // A new stream begins with every wish.
            Fact::Subscribed { framework } => {
                self.open(framework);
                Ok(())
            }
            Fact::Offered { framework, offer } => match self.since.get(*framework) {
                Some(since) if now.since(*since) > self.under_way => Err(format!(
                    "{framework} wanted no offers, and got {} {:?} after that was promised",
                    offer.offer,
                    now.since(*since)
                )),
                Some(_) | None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
