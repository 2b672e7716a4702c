//! A leader calls only few agents unreachable within ten minutes, unless an operator confirms that they don't answer.

use std::collections::{BTreeMap, BTreeSet};

use cluster::Command;
use leader::{Call, Reply};
use model::{AgentId, Duration};

use crate::{
    record::{Checker, Fact},
    time::Moment,
};

/// A tenth of the agents, but five at least; these worlds have fewer than fifty.
const FEW: usize = 5;
/// Ten minutes by the fastest clock that there is.
const WINDOW: Duration = Duration::from_secs(540);

/// Remembers whom each leader called unreachable by itself, and when the log took it.
#[derive(Default)]
pub struct DeadSwitchTakesFew {
    /// Who began to lead last.
    leader: Option<usize>,
    marked: BTreeMap<usize, BTreeMap<AgentId, Moment>>,
    /// Asked for by a leader without an operator's word; what the log never gets does nobody harm.
    proposed: BTreeMap<usize, BTreeSet<(AgentId, u64)>>,
    /// Words of an operator that may still be on their way, by their number; an empty list means all.
    words: BTreeMap<u64, Vec<AgentId>>,
    /// Agents that have not spoken since a word about them was answered.
    confirmed: BTreeSet<AgentId>,
}

impl DeadSwitchTakesFew {
    fn is_confirmed(&self, agent: &AgentId) -> bool {
        let names_it = |named: &Vec<AgentId>| named.is_empty() || named.contains(agent);
        self.confirmed.contains(agent) || self.words.values().any(names_it)
    }
}

impl Checker for DeadSwitchTakesFew {
    fn name(&self) -> &'static str {
        "dead_switch_takes_few"
    }

    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Leads { member } => {
                self.leader = Some(*member);
                self.marked.remove(member);
                self.proposed.remove(member);
            }
            Fact::Spoke { agent, .. } => {
                self.confirmed.remove(*agent);
            }
            Fact::Wished { number, call: Call::ConfirmUnreachable { agents } } => {
                self.words.insert(*number, agents.clone());
            }
            Fact::Answered { number, call: Call::ConfirmUnreachable { .. }, answer } => {
                self.confirmed.extend(self.words.remove(number).unwrap_or_default());
                if let Ok(Reply::Confirmed(agents)) = answer {
                    self.confirmed.extend(agents.iter().cloned());
                }
            }
            Fact::Proposed { member, entry } => {
                let Command::MarkAgentUnreachable { agent, epoch } = &entry.command else { return Ok(()) };
                if !self.is_confirmed(agent) {
                    self.proposed.entry(*member).or_default().insert((agent.clone(), *epoch));
                }
            }
            // What a deposed leader asked for may be in the log by its successor's wish.
            Fact::Applied { member, entry, outcome, .. }
                if outcome.answer.is_ok() && self.leader == Some(*member) =>
            {
                let Command::MarkAgentUnreachable { agent, epoch } = &entry.command else { return Ok(()) };
                let is_own = |proposed: &mut BTreeSet<_>| proposed.remove(&(agent.clone(), *epoch));
                if !self.proposed.get_mut(member).is_some_and(is_own) || self.is_confirmed(agent) {
                    return Ok(());
                }
                let marked = self.marked.entry(*member).or_default();
                marked.retain(|_, at| now.since(*at) < WINDOW);
                marked.insert(agent.clone(), now);
                if marked.len() > FEW {
                    return Err(format!(
                        "member {member} called {} agents unreachable at once",
                        marked.len()
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
