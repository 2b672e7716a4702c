//! Frameworks come, change, go away for a while, and end.

use std::sync::Arc;

use model::{Cursor, Duration, FrameworkId, Refusal, RefusalCode, RequestId, RoleName, TaskId, limits};

use super::{Step, invalid};
use crate::{
    answers::{Answers, Asked},
    command::FrameworkInfo,
    outcome::{Answer, Change},
    state::{ClusterState, Framework, FrameworkState, RUN_FRAMEWORK},
};

const FAILOVER_TIMEOUT_MAX: Duration = Duration::from_millis(limits::TIMEOUT_MS_MAX);

impl ClusterState {
    /// Refuses FrameworkEnded and FrameworkUnknown; `attempted` is what can't be done, as in "Task `t` was not killed".
    pub(crate) fn known_framework(
        &self,
        id: &FrameworkId,
        attempted: &str,
    ) -> Result<&Arc<Framework>, Refusal> {
        if let Some(framework) = self.frameworks.get(id) {
            return Ok(framework);
        }
        Err(if self.has_ended(id) {
            ended(id, attempted)
        } else {
            Refusal::new(
                RefusalCode::FrameworkUnknown,
                format!(
                    "{attempted}: no framework has the id `{id}`. \
                     Look at the list of frameworks, or subscribe without an id to begin a new one."
                ),
            )
        })
    }
}

impl Step<'_> {
    /// The built-in framework for one-off tasks: there from the first entry on.
    pub(super) fn begin_run_framework(&mut self) {
        // Both texts obey the rules of ids, as the test `run_is_there_from_the_start` shows.
        let (Ok(id), Ok(role)) = (FrameworkId::new(RUN_FRAMEWORK), RoleName::new("default")) else { return };
        let info =
            FrameworkInfo { name: RUN_FRAMEWORK.to_owned(), role, failover_timeout: FAILOVER_TIMEOUT_MAX };
        self.insert_framework(&id, info, true);
    }

    /// Refuses a name or id that can't be (InvalidArgument), the id of one that ended (FrameworkEnded),
    /// and more than [`limits::FRAMEWORKS_MAX`] (Busy).
    pub(super) fn register_framework(
        &mut self,
        framework: &FrameworkId,
        info: &FrameworkInfo,
        request: Option<&RequestId>,
    ) -> Result<Answer, Refusal> {
        let asked = Asked::RegisterFramework { name: info.name.clone() };
        // A repeat after its framework has ended is no repeat: it begins a new one.
        if let Some(Answer::FrameworkRegistered { framework: first }) =
            self.state.answers.repeat(request, &asked)?
            && self.state.frameworks.contains_key(&first)
        {
            return Ok(Answer::FrameworkRegistered { framework: first });
        }
        let info = checked(info)?;
        if self.state.frameworks.contains_key(framework) {
            return Err(invalid(format!(
                "Framework `{}` was not begun: the id `{framework}` is in use. Subscribe without an id to get a new one.",
                info.name
            )));
        }
        if self.state.has_ended(framework) {
            return Err(ended(framework, &format!("Framework `{}` was not begun", info.name)));
        }
        if self.state.frameworks.len() >= limits::FRAMEWORKS_MAX {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "Framework `{}` was not begun: there are {} already, the most that are allowed. \
                     Tear down those that nobody needs.",
                    info.name,
                    limits::FRAMEWORKS_MAX
                ),
            ));
        }
        self.insert_framework(framework, info, false);
        let answer = Answer::FrameworkRegistered { framework: framework.clone() };
        self.state.answers.keep(self.index, request, asked, &answer);
        Ok(answer)
    }

    fn insert_framework(&mut self, id: &FrameworkId, info: FrameworkInfo, is_built_in: bool) {
        let framework = Framework {
            info,
            state: FrameworkState::Connected,
            is_built_in,
            events: Default::default(),
            acknowledged: Cursor::START,
            compacted_to: None,
            answers: Answers::default(),
            droppable: Default::default(),
        };
        self.state.frameworks.insert(id.clone(), Arc::new(framework));
        self.framework_changed(id);
    }

    /// Refuses unknown, ended and built-in frameworks, and a name that can't be (InvalidArgument).
    pub(super) fn update_framework(
        &mut self,
        id: &FrameworkId,
        info: &FrameworkInfo,
        request: Option<&RequestId>,
    ) -> Result<Answer, Refusal> {
        let framework = self.state.known_framework(id, "The framework was not updated")?;
        if let Some(first) = framework.answers.repeat(request, &Asked::UpdateFramework)? {
            return Ok(first);
        }
        if framework.is_built_in {
            return Err(built_in(id, "updated"));
        }
        let info = checked(info)?;
        if let Some(framework) = self.framework_mut(id) {
            framework.info = info;
        }
        self.framework_changed(id);
        Ok(self.keep_answer(id, request, Asked::UpdateFramework, Answer::Done))
    }

    /// Refuses unknown and ended frameworks.
    pub(super) fn connect_framework(&mut self, id: &FrameworkId) -> Result<Answer, Refusal> {
        self.state.known_framework(id, "The framework was not connected")?;
        self.set_framework_state(id, FrameworkState::Connected);
        Ok(Answer::Done)
    }

    /// Refuses unknown, ended and built-in frameworks. One that is disconnected already keeps its time.
    pub(super) fn disconnect_framework(&mut self, id: &FrameworkId) -> Result<Answer, Refusal> {
        let framework = self.state.known_framework(id, "The framework was not disconnected")?;
        if framework.is_built_in {
            return Err(built_in(id, "disconnected"));
        }
        if framework.state == FrameworkState::Connected {
            let state = FrameworkState::Disconnected { at: self.at, counted: self.state.counted };
            self.set_framework_state(id, state);
        }
        Ok(Answer::Done)
    }

    fn set_framework_state(&mut self, id: &FrameworkId, state: FrameworkState) {
        if let Some(framework) = self.framework_mut(id)
            && framework.state != state
        {
            framework.state = state;
            self.framework_changed(id);
        }
    }

    /// Refuses unknown, ended and built-in frameworks.
    pub(super) fn tear_down_framework(
        &mut self,
        id: &FrameworkId,
        request: Option<&RequestId>,
    ) -> Result<Answer, Refusal> {
        let asked = Asked::TearDownFramework(id.clone());
        if let Some(first) = self.state.answers.repeat(request, &asked)? {
            return Ok(first);
        }
        if self.state.known_framework(id, "The framework was not torn down")?.is_built_in {
            return Err(built_in(id, "torn down"));
        }
        let live = self.state.share_of_framework(id).map(|share| share.tasks.clone()).unwrap_or_default();
        for task in &live {
            self.order_kill(task, None);
        }
        // Nobody will ever acknowledge its events.
        if let Some(framework) = self.state.frameworks.remove(id) {
            let mut framework = Arc::unwrap_or_clone(framework);
            let heard = framework.acknowledge(framework.last_event()).unwrap_or_default();
            self.state.index_heard(heard);
        }
        self.remember_ended(id);
        self.framework_changed(id);
        self.state.answers.keep(self.index, request, asked, &Answer::Done);
        Ok(Answer::Done)
    }

    fn remember_ended(&mut self, id: &FrameworkId) {
        self.state.ended.insert(id.clone(), (self.index, self.at));
        self.state.index.ended.insert(self.index, id.clone());
        while self.state.ended.len() > limits::ENDED_FRAMEWORKS_KEPT_MAX
            && let Some((index, oldest)) = self.state.index.ended.get_min().cloned()
        {
            self.state.index.ended.remove(&index);
            self.state.ended.remove(&oldest);
        }
    }

    /// Refuses unknown and ended frameworks. A cursor that was acknowledged before changes nothing.
    pub(super) fn acknowledge_events(&mut self, id: &FrameworkId, cursor: Cursor) -> Result<Answer, Refusal> {
        self.state.known_framework(id, "The events were not acknowledged")?;
        let heard: Option<Vec<TaskId>> =
            self.framework_mut(id).and_then(|framework| framework.acknowledge(cursor));
        if let Some(heard) = heard {
            self.state.index_heard(heard);
            self.framework_changed(id);
        }
        Ok(Answer::Done)
    }

    pub(super) fn framework_mut(&mut self, id: &FrameworkId) -> Option<&mut Framework> {
        self.state.frameworks.get_mut(id).map(Arc::make_mut)
    }

    pub(super) fn framework_changed(&mut self, id: &FrameworkId) {
        self.changes.push(Change::Framework(id.clone()));
    }

    /// Keeps an answer in the framework's window, and gives it back.
    pub(super) fn keep_answer(
        &mut self,
        id: &FrameworkId,
        request: Option<&RequestId>,
        asked: Asked,
        answer: Answer,
    ) -> Answer {
        let index = self.index;
        if request.is_some()
            && let Some(framework) = self.framework_mut(id)
        {
            framework.answers.keep(index, request, asked, &answer);
        }
        answer
    }
}

/// Refuses a name that can't be shown (InvalidArgument), and cuts the timeout to its bound.
fn checked(info: &FrameworkInfo) -> Result<FrameworkInfo, Refusal> {
    let size = info.name.len();
    if size == 0 || size > limits::DISPLAY_NAME_BYTES_MAX {
        return Err(invalid(format!(
            "The framework was not taken: its name has {size} bytes. Choose one of 1 to {} bytes.",
            limits::DISPLAY_NAME_BYTES_MAX
        )));
    }
    Ok(FrameworkInfo {
        name: info.name.clone(),
        role: info.role.clone(),
        failover_timeout: info.failover_timeout.min(FAILOVER_TIMEOUT_MAX),
    })
}

fn ended(id: &FrameworkId, attempted: &str) -> Refusal {
    Refusal::new(
        RefusalCode::FrameworkEnded,
        format!(
            "{attempted}: framework `{id}` was torn down, and its id is never used again. \
             Subscribe without an id to begin a new framework."
        ),
    )
}

fn built_in(id: &FrameworkId, verb: &str) -> Refusal {
    Refusal::new(
        RefusalCode::FrameworkBuiltIn,
        format!(
            "Framework `{id}` was not {verb}: it is built in and always there. To end what it runs, kill its tasks."
        ),
    )
}
