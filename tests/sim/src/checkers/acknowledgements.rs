//! No acknowledged command is lost, and none that was refused for good is carried out.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Answer, Command};
use leader::{Call, Reply};
use model::{FrameworkId, RefusalCode, RequestId, TaskId};

use crate::{
    client::request_of,
    record::{Checker, End, Fact},
    time::Moment,
};

/// Remembers what the log made of each request, and what whoever asked was told.
#[derive(Default)]
pub struct AcknowledgedIsKept {
    applied: u64,
    /// The first answer that changed something, by request.
    carried_out: BTreeMap<RequestId, Answer>,
    refused: BTreeSet<RequestId>,
    /// Tasks that somebody was told are launched or submitted.
    promised: BTreeSet<TaskId>,
    /// Those that were dropped again, long after their end.
    pruned: BTreeSet<TaskId>,
    /// Frameworks that the log has torn down.
    ended: BTreeSet<FrameworkId>,
}

impl Checker for AcknowledgedIsKept {
    fn name(&self) -> &'static str {
        "acknowledged_is_kept"
    }

    fn note(&mut self, _now: Moment, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Applied { index, entry, outcome, state, .. } if *index > self.applied => {
                self.applied = *index;
                for change in &outcome.changes {
                    if let cluster::Change::Task(task) = change
                        && state.task(task).is_none()
                    {
                        self.pruned.insert(task.clone());
                    }
                }
                if let (Command::TearDownFramework { framework, .. }, Ok(_)) =
                    (&entry.command, &outcome.answer)
                {
                    self.ended.insert(framework.clone());
                }
                let (Some(request), Ok(answer)) = (request_in(&entry.command), &outcome.answer) else {
                    return Ok(());
                };
                if self.refused.contains(request) && is_effect(answer) {
                    return Err(format!("request {request} was refused, and then came to {answer:?}"));
                }
                match self.carried_out.get(request) {
                    None => drop(self.carried_out.insert(request.clone(), answer.clone())),
                    Some(first) if first == answer => {}
                    Some(first) => {
                        return Err(format!("request {request} came to {first:?}, and then to {answer:?}"));
                    }
                }
                Ok(())
            }
            Fact::Answered { call, answer, .. } => self.answered(call, answer),
            _ => Ok(()),
        }
    }

    fn conclude(&mut self, end: &End<'_>) -> Result<(), String> {
        let Some(state) = end.states.first() else { return Ok(()) };
        let is_lost = |task: &&TaskId| {
            state.task(task).is_none() && state.waiting(task).is_none() && !self.pruned.contains(*task)
        };
        match self.promised.iter().find(is_lost) {
            Some(task) => Err(format!("{task} was promised, and nobody knows it any more")),
            None => Ok(()),
        }
    }
}

impl AcknowledgedIsKept {
    /// Whether a framework calls that was torn down.
    fn has_ended(&self, call: &Call) -> bool {
        match call {
            Call::Accept { caller, .. }
            | Call::Kill { caller, .. }
            | Call::UpdateFramework { caller, .. } => self.ended.contains(&caller.framework),
            _ => false,
        }
    }

    fn answered(&mut self, call: &Call, answer: &Result<Reply, model::Refusal>) -> Result<(), String> {
        let Some(request) = request_of(call) else { return Ok(()) };
        let first = self.carried_out.get(request);
        let told = match answer {
            // The window of answers ends with its framework, and so do the tasks that it launched.
            Err(refusal) if refusal.code == RefusalCode::FrameworkEnded && self.has_ended(call) => {
                return Ok(());
            }
            Err(refusal) => {
                self.refused.insert(request.clone());
                return match first {
                    Some(first) if is_effect(first) => {
                        Err(format!("request {request} came to {first:?}, and was told {refusal:?}"))
                    }
                    _ => Ok(()),
                };
            }
            Ok(Reply::Launched(results)) if results.is_empty() => return Ok(()),
            Ok(Reply::Launched(results)) => {
                let launched = results.iter().filter(|(_, refusal)| refusal.is_none());
                self.promised.extend(launched.map(|(task, _)| task.clone()));
                Answer::Launched(results.clone())
            }
            Ok(Reply::Submitted(tasks)) => {
                self.promised.extend(tasks.iter().cloned());
                Answer::Submitted(tasks.clone())
            }
            Ok(Reply::Done) => Answer::Done,
            Ok(
                Reply::Statuses(_)
                | Reply::Output(_)
                | Reply::Usage(_)
                | Reply::History(_)
                | Reply::Told(_)
                | Reply::Confirmed(_)
                | Reply::Frozen(_),
            ) => return Ok(()),
        };
        match first {
            Some(first) if *first == told => Ok(()),
            Some(first) => Err(format!("request {request} came to {first:?}, and was told {told:?}")),
            None => Err(format!("request {request} was told {told:?}, and is not in the log")),
        }
    }
}

/// Whether it changed something that a refusal would deny.
fn is_effect(answer: &Answer) -> bool {
    match answer {
        Answer::Launched(results) => results.iter().any(|(_, refusal)| refusal.is_none()),
        Answer::Submitted(tasks) => !tasks.is_empty(),
        Answer::Done
        | Answer::FrameworkRegistered { .. }
        | Answer::AgentRegistered { .. }
        | Answer::Recorded(_)
        | Answer::Pruned { .. } => false,
    }
}

fn request_in(command: &Command) -> Option<&RequestId> {
    match command {
        Command::Launch { request, .. }
        | Command::Kill { request, .. }
        | Command::SubmitRun { request, .. }
        | Command::SetRole { request, .. }
        | Command::UpdateFramework { request, .. }
        | Command::DeactivateAgent { request, .. }
        | Command::ActivateAgent { request, .. }
        | Command::MarkAgentGone { request, .. }
        | Command::TearDownFramework { request, .. } => request.as_ref(),
        // The id that it answers with may be taken up again after a teardown.
        Command::RegisterFramework { .. }
        | Command::Initialize { .. }
        | Command::RaiseVersion { .. }
        | Command::ConnectFramework { .. }
        | Command::DisconnectFramework { .. }
        | Command::AcknowledgeEvents { .. }
        | Command::RegisterAgent { .. }
        | Command::MarkAgentUnreachable { .. }
        | Command::RecordStatuses { .. }
        | Command::CreateJoinToken { .. }
        | Command::RevokeJoinToken { .. }
        | Command::UseJoinToken { .. }
        | Command::Access(_)
        | Command::Prune { .. }
        | Command::CountTime => None,
    }
}
