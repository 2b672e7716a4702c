//! Reads of task output: passed to the task's agent, and its answer passed back.

use std::collections::{BTreeMap, BTreeSet};

use cluster::ClusterState;
use model::{Refusal, RefusalCode, TaskId, Timestamp};

use crate::{
    config::{READ_ANSWER_TIME, READ_WAIT_MAX, READS_MAX},
    machine::{Effect, Leader},
    messages::{OutputChunk, OutputRequest, Reply, SessionId, ToAgent},
    proposals::{Asker, CallId},
};

/// One read that has no answer yet.
#[derive(Debug, Clone)]
struct Read {
    call: CallId,
    request: OutputRequest,
    /// Which session was asked; absent while the task has no agent.
    asked: Option<SessionId>,
    ends_at: Timestamp,
}

/// Every read that has no answer yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reads {
    next: u64,
    by_number: BTreeMap<u64, Read>,
    ending: BTreeSet<(Timestamp, u64)>,
    /// Reads that were not passed on, by task.
    waiting: BTreeMap<TaskId, BTreeSet<u64>>,
    /// Tasks whose reads may be passed on now.
    ready: BTreeSet<TaskId>,
}

impl Reads {
    pub(crate) fn task_changed(&mut self, task: &TaskId) {
        if self.waiting.contains_key(task) {
            self.ready.insert(task.clone());
        }
    }

    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        self.ending.first().map(|(at, _)| *at)
    }

    pub(crate) fn calls(&self) -> Vec<CallId> {
        self.by_number.values().map(|read| read.call).collect()
    }

    fn remove(&mut self, number: u64) -> Option<Read> {
        let read = self.by_number.remove(&number)?;
        self.ending.remove(&(read.ends_at, number));
        if let Some(numbers) = self.waiting.get_mut(&read.request.task) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.waiting.remove(&read.request.task);
            }
        }
        Some(read)
    }
}

impl Leader {
    /// Takes a read on; it is passed to the agent when the turn is settled.
    ///
    /// Refuses a task that nobody knows (TaskUnknown), one that never was on an agent (OutputGone), and
    /// more reads than can wait (Busy).
    pub(crate) fn read_output(
        &mut self,
        call: CallId,
        mut request: OutputRequest,
        state: &ClusterState,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let task = &request.task;
        match state.task(task) {
            None if state.waiting(task).is_none() => {
                return Err(Refusal::new(
                    RefusalCode::TaskUnknown,
                    format!(
                        "no task has the id `{task}`; it was never there, or was forgotten after its end"
                    ),
                ));
            }
            Some(known) if known.agent.is_none() => {
                return Err(Refusal::new(
                    RefusalCode::OutputGone,
                    format!("task `{task}` ended before it was started, so it has no output"),
                ));
            }
            None | Some(_) => {}
        }
        if self.reads.by_number.len() >= READS_MAX {
            let message =
                format!("can't read the output of `{task}`: too many reads are under way; try again");
            return Err(Refusal::new(RefusalCode::Busy, message));
        }
        request.wait = request.wait.min(READ_WAIT_MAX);
        self.reads.next += 1;
        let number = self.reads.next;
        let task = request.task.clone();
        let ends_at = now + request.wait;
        self.reads.by_number.insert(number, Read { call, request, asked: None, ends_at });
        self.reads.ending.insert((ends_at, number));
        self.reads.waiting.entry(task.clone()).or_default().insert(number);
        self.reads.ready.insert(task);
        Ok(())
    }

    /// Passes reads on whose task is on an agent with a session.
    pub(crate) fn dispatch_reads(&mut self, state: &ClusterState, now: Timestamp) {
        for task in std::mem::take(&mut self.reads.ready) {
            let Some(agent) = state.task(&task).and_then(|task| task.agent.as_ref()) else { continue };
            let numbers = self.reads.waiting.remove(&task).unwrap_or_default();
            let Some((session, _)) = self.sessions.registered_of(agent) else {
                for number in numbers {
                    let Some(read) = self.reads.remove(number) else { continue };
                    self.answer(Asker::Daemon(read.call), Err(unreachable(agent, &task)));
                }
                continue;
            };
            for number in numbers {
                let Some(read) = self.reads.by_number.get_mut(&number) else { continue };
                self.reads.ending.remove(&(read.ends_at, number));
                read.asked = Some(session);
                read.ends_at = now + read.request.wait + READ_ANSWER_TIME;
                self.reads.ending.insert((read.ends_at, number));
                let message = ToAgent::ReadOutput { request: number, output: read.request.clone() };
                self.effects.push(Effect::ToAgent { session, message });
            }
        }
    }

    pub(crate) fn read_answered(
        &mut self,
        session: SessionId,
        number: u64,
        result: Result<OutputChunk, String>,
    ) {
        // An answer that came too late, or to somebody else's question, is nobody's.
        if self.reads.by_number.get(&number).and_then(|read| read.asked) != Some(session) {
            return;
        }
        let Some(read) = self.reads.remove(number) else { return };
        let answer = result.map(Reply::Output).map_err(|why| {
            let message = format!("can't read the output of task `{}`: {why}", read.request.task);
            Refusal::new(RefusalCode::OutputGone, message)
        });
        self.answer(Asker::Daemon(read.call), answer);
    }

    pub(crate) fn reads_lost(&mut self, session: SessionId) {
        let lost: Vec<u64> = self
            .reads
            .by_number
            .iter()
            .filter(|(_, read)| read.asked == Some(session))
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            let Some(read) = self.reads.remove(number) else { continue };
            let message = format!(
                "can't read the output of task `{}`: its agent has just lost its connection; try again",
                read.request.task
            );
            let refusal = Refusal::new(RefusalCode::AgentUnreachable, message);
            self.answer(Asker::Daemon(read.call), Err(refusal));
        }
    }

    pub(crate) fn reads_overdue(&mut self, now: Timestamp) {
        while let Some((at, number)) = self.reads.ending.first().copied()
            && at <= now
            && !self.is_ready(number)
        {
            let Some(read) = self.reads.remove(number) else { break };
            let answer = match read.asked {
                // It still waits for an agent: there is nothing to read yet.
                None => Ok(Reply::Output(OutputChunk {
                    offset: read.request.offset,
                    data: Vec::new(),
                    is_end: false,
                })),
                Some(_) => Err(Refusal::new(
                    RefusalCode::AgentUnreachable,
                    format!("the agent of task `{}` did not answer in time; try again", read.request.task),
                )),
            };
            self.answer(Asker::Daemon(read.call), answer);
        }
    }

    /// Whether a read is about to be passed on in this turn.
    fn is_ready(&self, number: u64) -> bool {
        self.reads
            .by_number
            .get(&number)
            .is_some_and(|read| read.asked.is_none() && self.reads.ready.contains(&read.request.task))
    }
}

fn unreachable(agent: &model::AgentId, task: &TaskId) -> Refusal {
    Refusal::new(
        RefusalCode::AgentUnreachable,
        format!(
            "can't read the output of task `{task}`: its agent `{agent}` isn't connected now; try again later"
        ),
    )
}
