//! An agent is registered with exactly the tasks that it had when it said hello, however little of them it said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cluster::{Command, KnownTask};
use model::{AgentId, TaskId};

use crate::{
    record::{Checker, Fact},
    time::Moment,
};

/// Hellos of one agent that may still be on their way, and far more.
const HELLOS_KEPT: usize = 64;

type Rows = BTreeSet<(TaskId, u64, &'static str)>;

/// Remembers what each agent had at its latest hellos.
#[derive(Default)]
pub struct RegisteredAsTold {
    hellos: BTreeMap<AgentId, VecDeque<Rows>>,
}

fn rows(tasks: &[KnownTask]) -> Rows {
    let row = |KnownTask { task, sequence, state }: &KnownTask| (task.clone(), *sequence, state.as_str());
    tasks.iter().map(row).collect()
}

impl Checker for RegisteredAsTold {
    fn name(&self) -> &'static str {
        "registered_as_told"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::SaidHello { agent, tasks } => {
                let hellos = self.hellos.entry((*agent).clone()).or_default();
                hellos.push_back(rows(tasks));
                if hellos.len() > HELLOS_KEPT {
                    hellos.pop_front();
                }
                Ok(())
            }
            Fact::Proposed { member, entry } => {
                let Command::RegisterAgent { agent, tasks, .. } = &entry.command else { return Ok(()) };
                let registered = rows(tasks);
                match self.hellos.get(agent).is_some_and(|hellos| hellos.contains(&registered)) {
                    true => Ok(()),
                    false => Err(format!(
                        "member {member} registers {agent} with {registered:?}, and no hello of it was of these"
                    )),
                }
            }
            _ => Ok(()),
        }
    }
}
