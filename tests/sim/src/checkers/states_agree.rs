//! The state is the same everywhere: each entry is one entry, and does the same to every member.

use std::{collections::BTreeMap, sync::Arc};

use cluster::{Entry, Outcome};

use crate::{
    record::{Checker, End, Fact},
    time::Moment,
};

/// Compares every member with the one that was first at each index.
#[derive(Default)]
pub struct StatesAgree {
    first: BTreeMap<u64, (Arc<Entry>, Outcome)>,
}

impl Checker for StatesAgree {
    fn name(&self) -> &'static str {
        "states_agree"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Applied { member, index, entry, outcome, .. } => {
                let Some((known, first)) = self.first.get(index) else {
                    self.first.insert(*index, ((*entry).clone(), (*outcome).clone()));
                    return Ok(());
                };
                if !Arc::ptr_eq(known, entry) && known != *entry {
                    return Err(format!("entry {index} of member {member} is {entry:?}, and was {known:?}"));
                }
                if first != *outcome {
                    return Err(format!(
                        "entry {index} came to {outcome:?} at member {member}, and before to {first:?}"
                    ));
                }
                Ok(())
            }
            Fact::Snapshot { member, state, restored } => {
                if state != restored {
                    return Err(format!("member {member} reads another state than it wrote"));
                }
                Ok(())
            }
            Fact::Restored { member, state } => {
                let last = self.first.last_key_value().map_or(0, |(index, _)| *index);
                match state.applied() <= last {
                    true => Ok(()),
                    false => Err(format!("member {member} begins at {}, beyond the log", state.applied())),
                }
            }
            _ => Ok(()),
        }
    }

    fn conclude(&mut self, end: &End<'_>) -> Result<(), String> {
        let Some(first) = end.states.first() else { return Ok(()) };
        for (number, state) in end.states.iter().enumerate() {
            if state != first {
                return Err(format!("members 0 and {number} differ in the calm"));
            }
        }
        Ok(())
    }
}
