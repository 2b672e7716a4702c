//! One-off tasks wait in the queue of the built-in framework `run` until it uses an offer for them.

use std::{collections::BTreeSet, sync::Arc};

use model::{
    Cursor, FrameworkId, Reason, Refusal, RefusalCode, RequestId, TaskId, TaskSpec, TaskState, TaskStatus,
    limits,
};

use super::{
    Step, invalid,
    tasks::{check_spec, taken},
};
use crate::{
    answers::Asked,
    outcome::{Answer, Change},
    state::{RUN_FRAMEWORK, Task, Waiting},
};

impl Step<'_> {
    /// Takes all tasks or none.
    ///
    /// Refuses too many at once or a bad spec (InvalidArgument), an id that is known (TaskIdTaken),
    /// and a full queue (Busy).
    pub(super) fn submit_run(
        &mut self,
        request: Option<&RequestId>,
        specs: &[Arc<TaskSpec>],
    ) -> Result<Answer, Refusal> {
        let Ok(run) = FrameworkId::new(RUN_FRAMEWORK) else { return Ok(Answer::Submitted(Vec::new())) };
        let framework = self.state.known_framework(&run, "No task was submitted")?;
        if let Some(first) = framework.answers.repeat(request, &Asked::SubmitRun)? {
            return Ok(first);
        }
        self.check_run(specs)?;
        for (spec, ordinal) in specs.iter().zip(0..) {
            let place = Cursor { index: self.index, ordinal };
            self.state.index.waiting.insert(spec.task_id.clone(), place);
            self.state.queue.insert(place, Waiting { spec: spec.clone(), submitted_at: self.at });
        }
        if !specs.is_empty() {
            self.changes.push(Change::Queue);
        }
        let answer = Answer::Submitted(specs.iter().map(|spec| spec.task_id.clone()).collect());
        Ok(self.keep_answer(&run, request, Asked::SubmitRun, answer))
    }

    fn check_run(&self, specs: &[Arc<TaskSpec>]) -> Result<(), Refusal> {
        let max = usize::try_from(limits::RUN_COUNT_MAX).unwrap_or(usize::MAX);
        if specs.len() > max {
            return Err(invalid(format!(
                "No task was submitted: {} at once are more than the {max} that are allowed. Use several requests.",
                specs.len()
            )));
        }
        let waiting = self.state.queue.len();
        if waiting + specs.len() > limits::RUN_QUEUE_MAX {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "No task was submitted: {waiting} wait already, and at most {} may. \
                     Try again when some of them have started.",
                    limits::RUN_QUEUE_MAX
                ),
            ));
        }
        let mut ids = BTreeSet::new();
        for spec in specs {
            let id = &spec.task_id;
            let attempted = format!("Task `{id}` was not submitted");
            check_spec(spec, &attempted)?;
            let is_known = self.state.tasks.contains_key(id) || self.state.index.waiting.contains_key(id);
            if is_known || !ids.insert(id) {
                return Err(taken(id, &attempted));
            }
        }
        Ok(())
    }

    pub(super) fn take_from_queue(&mut self, id: &TaskId) -> Option<Waiting> {
        let place = self.state.index.waiting.remove(id)?;
        if self.changes.last() != Some(&Change::Queue) {
            self.changes.push(Change::Queue);
        }
        self.state.queue.remove(&place)
    }

    /// Ends a task that never got an offer: it becomes a record, so that people can see what became of it.
    pub(super) fn kill_waiting(&mut self, id: &TaskId) {
        let Some(waiting) = self.take_from_queue(id) else { return };
        let Ok(framework) = FrameworkId::new(RUN_FRAMEWORK) else { return };
        let Some(role) = self.state.framework(&framework).map(|run| run.info.role.clone()) else { return };
        let status = TaskStatus {
            task_id: id.clone(),
            framework_id: framework.clone(),
            agent_id: None,
            state: TaskState::Killed,
            reason: Reason::KillRequested,
            message: "It was killed while it waited for an offer.".to_owned(),
            exit: None,
            at: self.at,
            sequence: 1,
            is_released: true,
            usage: None,
            health: None,
        };
        self.insert_task(Task {
            spec: waiting.spec,
            framework,
            role,
            agent: None,
            epoch: 0,
            state: TaskState::Killed,
            kill: None,
            is_released: true,
            status: Some(status),
            recorded_sequence: 0,
            created_at: waiting.submitted_at,
            changed_at: self.at,
            changed_counted: self.state.counted,
        });
    }
}
