//! A person: runs one-off tasks, kills some, sets weights, takes agents out of use, and tears frameworks down.

use std::collections::BTreeSet;

use cluster::DeactivatedTasks;
use leader::{Call, Reply};
use model::{AgentId, Duration, FrameworkId, RequestId, RoleName, TaskId};

use super::{Calls, Heard, Wake, any_work, framework::SLICE_MILLI, spec};
use crate::stage::{Phase, Place, Stage, What};

const PLACE: Place = Place::Operator;

/// The operator.
#[derive(Default)]
pub struct Operator {
    calls: Calls,
    next_name: u64,
    /// Tasks that were taken into the queue.
    submitted: BTreeSet<TaskId>,
    /// Those that it did not kill in the calm yet.
    to_end: Option<BTreeSet<TaskId>>,
    /// Frameworks that it knows of.
    pub frameworks: BTreeSet<FrameworkId>,
    pub roles: Vec<RoleName>,
    pub agents: Vec<AgentId>,
    /// Agents that it ever took out of use.
    deactivated: BTreeSet<AgentId>,
    /// Those that it did not take into use in the calm yet.
    to_activate: BTreeSet<AgentId>,
}

impl Operator {
    pub fn wake(&mut self, wake: Wake, stage: &mut Stage) {
        match wake {
            Wake::Answered { number, member, answer } => {
                if let Heard::Over(_, Ok(Reply::Submitted(tasks))) =
                    self.calls.answered(PLACE, number, member, *answer, stage)
                {
                    self.submitted.extend(tasks);
                }
            }
            Wake::Again { number, tries } => self.calls.again(PLACE, (number, tries), None, stage),
            Wake::Act => {
                match stage.phase {
                    Phase::Trouble => self.live(stage),
                    Phase::Calm | Phase::Fair | Phase::Full => self.end_all(stage),
                }
                let pace = stage.parameters.client_pace;
                let delay = match stage.phase {
                    Phase::Trouble => stage.chance.uneven_span(pace / 4, pace * 4),
                    Phase::Calm | Phase::Fair | Phase::Full => Duration::from_secs(1),
                };
                stage.later(PLACE, delay, What::Client(Wake::Act));
            }
            Wake::Down { .. } | Wake::Gone { .. } | Wake::Connect | Wake::Look { .. } => {}
        }
    }

    pub fn start(&mut self, stage: &mut Stage) {
        stage.later(PLACE, Duration::from_secs(1), What::Client(Wake::Act));
    }

    fn request(&mut self) -> Option<RequestId> {
        self.next_name += 1;
        RequestId::new(&format!("operator-{}", self.next_name)).ok()
    }

    fn live(&mut self, stage: &mut Stage) {
        if self.calls.is_busy() {
            return;
        }
        let Some(request) = self.request() else { return };
        let call = match stage.chance.below(13) {
            0..=5 => {
                let mut tasks = Vec::new();
                for _ in 0..stage.chance.between(1, 3) {
                    self.next_name += 1;
                    let cpus_milli = SLICE_MILLI * stage.chance.between(1, 3);
                    let longest = stage.parameters.work;
                    let work = any_work(&mut stage.chance, longest);
                    tasks.extend(spec(&format!("run-{}", self.next_name), cpus_milli, work));
                }
                Call::Run { request, tasks }
            }
            6..=9 => {
                let known: Vec<_> = self.submitted.iter().cloned().collect();
                let Some(task) = stage.chance.one_of(&known).cloned() else { return };
                let grace = stage.chance.happens(500).then(|| Duration::from_secs(stage.chance.below(4)));
                Call::KillTask { request, task, grace }
            }
            10 => {
                let Some(role) = stage.chance.one_of(&self.roles).cloned() else { return };
                Call::SetRole { request, role, weight_milli: 1000 * stage.chance.between(1, 3) }
            }
            11 => {
                let Some(agent) = stage.chance.one_of(&self.agents).cloned() else { return };
                match stage.chance.below(20) {
                    0..=5 => {
                        let grace = Some(Duration::from_secs(1));
                        let tasks = match stage.chance.happens(300) {
                            true => DeactivatedTasks::End { grace },
                            false => DeactivatedTasks::RunOn,
                        };
                        self.deactivated.insert(agent.clone());
                        Call::DeactivateAgent { request, agent, tasks }
                    }
                    6..=15 => Call::ActivateAgent { request, agent },
                    16..=17 => Call::ConfirmUnreachable { agents: Vec::new() },
                    18 => Call::ConfirmUnreachable { agents: vec![agent] },
                    _ => Call::MarkAgentGone { request, agent },
                }
            }
            _ => {
                let known: Vec<_> = self.frameworks.iter().cloned().collect();
                if !stage.chance.happens(100) {
                    return;
                }
                let Some(framework) = stage.chance.one_of(&known).cloned() else { return };
                Call::TeardownFramework { request, framework }
            }
        };
        self.calls.ask(PLACE, call, stage);
    }

    /// In the calm: all its tasks end, once each of its wishes has an answer.
    fn end_all(&mut self, stage: &mut Stage) {
        if self.calls.pending.is_empty() && self.to_end.is_none() {
            self.to_end = Some(self.submitted.clone());
            self.to_activate = self.deactivated.clone();
        }
        while !self.calls.is_busy()
            && let Some(agent) = self.to_activate.pop_first()
        {
            let Some(request) = self.request() else { return };
            self.calls.ask(PLACE, Call::ActivateAgent { request, agent }, stage);
        }
        while !self.calls.is_busy() {
            let Some(task) = self.to_end.as_mut().and_then(BTreeSet::pop_first) else { return };
            let Some(request) = self.request() else { return };
            let grace = Some(Duration::from_secs(1));
            self.calls.ask(PLACE, Call::KillTask { request, task, grace }, stage);
        }
    }

    /// What it still waits for, in words.
    pub fn residue(&self) -> Vec<String> {
        let mut left: Vec<_> =
            self.calls.unanswered().map(|call| format!("operator: no answer to {call:?}")).collect();
        if self.to_end.as_ref().is_none_or(|tasks| !tasks.is_empty()) {
            left.push("operator: not all tasks were told to end".to_owned());
        }
        left
    }
}
