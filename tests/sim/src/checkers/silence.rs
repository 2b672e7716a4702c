//! Only an agent that was silent for its whole time is called unreachable.

use std::collections::BTreeMap;

use cluster::Command;
use model::{AgentId, Duration};

use crate::{
    parameters::Parameters,
    record::{Checker, Fact},
    time::Moment,
};

/// Members' clocks count right, but for less than one part of so many.
const PARTS_WRONG: u32 = 1000;

/// Remembers when each leader heard of each agent.
pub struct OnlySilentAreUnreachable {
    timeout: Duration,
    leads_since: BTreeMap<usize, Moment>,
    heard: BTreeMap<(usize, AgentId), Moment>,
}

impl OnlySilentAreUnreachable {
    pub fn new(parameters: &Parameters) -> Self {
        let timeout = parameters.agent_timeout;
        Self {
            timeout: timeout - timeout / PARTS_WRONG,
            leads_since: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }
}

impl Checker for OnlySilentAreUnreachable {
    fn name(&self) -> &'static str {
        "only_silent_are_unreachable"
    }

    fn note(&mut self, now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Leads { member } => {
                self.leads_since.insert(*member, now);
                Ok(())
            }
            Fact::Spoke { member, agent } => {
                self.heard.insert((*member, (*agent).clone()), now);
                Ok(())
            }
            Fact::Proposed { member, entry } => {
                let Command::MarkAgentUnreachable { agent, .. } = &entry.command else { return Ok(()) };
                let began = self.leads_since.get(member).copied().unwrap_or_default();
                let heard = self.heard.get(&(*member, agent.clone())).copied().unwrap_or_default();
                let silence = now.since(began.max(heard));
                match silence >= self.timeout {
                    true => Ok(()),
                    false => Err(format!(
                        "member {member} calls {agent} unreachable after {silence:?} of silence, and {:?} is the least",
                        self.timeout
                    )),
                }
            }
            _ => Ok(()),
        }
    }
}
