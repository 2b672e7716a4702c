//! Every framework hears everything that was published for it, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use cluster::Change;
use model::{Cursor, FrameworkEvent, FrameworkId};

use crate::{
    record::{Checker, End, Fact},
    time::Moment,
};

/// Remembers what was published, and what was heard of it.
#[derive(Default)]
pub struct FrameworksHearAll {
    applied: u64,
    published: BTreeMap<FrameworkId, BTreeMap<Cursor, FrameworkEvent>>,
    heard: BTreeMap<FrameworkId, BTreeSet<Cursor>>,
}

impl Checker for FrameworksHearAll {
    fn name(&self) -> &'static str {
        "frameworks_hear_all"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Applied { index, outcome, state, .. } if *index > self.applied => {
                self.applied = *index;
                for change in &outcome.changes {
                    let Change::Event { framework, cursor } = change else { continue };
                    let record = state.framework(framework);
                    let Some(event) = record.and_then(|record| record.events.get(cursor)) else { continue };
                    let published = self.published.entry(framework.clone()).or_default();
                    published.insert(*cursor, event.as_ref().clone());
                }
                Ok(())
            }
            Fact::Heard { framework, cursor, event } => {
                let published = self.published.get(*framework).and_then(|events| events.get(cursor));
                if published != Some(*event) {
                    return Err(format!(
                        "{framework} heard {event:?}; published at {cursor:?}: {published:?}"
                    ));
                }
                self.heard.entry((*framework).clone()).or_default().insert(*cursor);
                Ok(())
            }
            Fact::Compacted { framework, cursor, .. } => {
                let published = self.published.get(*framework).into_iter().flat_map(|events| events.keys());
                let before = published.filter(|known| *known <= cursor).copied();
                self.heard.entry((*framework).clone()).or_default().extend(before);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn conclude(&mut self, end: &End<'_>) -> Result<(), String> {
        let Some(state) = end.states.first() else { return Ok(()) };
        for (framework, events) in &self.published {
            let Some(record) = state.framework(framework) else { continue };
            if record.is_built_in {
                continue;
            }
            let heard = self.heard.get(framework);
            let is_missing = |cursor: &&Cursor| !heard.is_some_and(|heard| heard.contains(*cursor));
            if let Some(cursor) = events.keys().find(is_missing) {
                return Err(format!("{framework} never heard {cursor:?}: {:?}", events.get(cursor)));
            }
        }
        Ok(())
    }
}
