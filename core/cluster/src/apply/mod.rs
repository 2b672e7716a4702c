//! The only function that changes the agreed state.
//!
//! One module for each noun. Each first judges the whole command, then changes records, so that a
//! refusal changes nothing. Everything here depends on its arguments alone, and nothing fails.

mod access;
mod agents;
mod care;
mod frameworks;
mod join_tokens;
mod prune;
mod roles;
mod runs;
mod tasks;

use std::sync::Arc;

use model::{
    ClusterId, Cursor, FrameworkEvent, FrameworkId, Refusal, RefusalCode, TaskId, TaskStatus, Timestamp,
};

use crate::{
    command::{Command, Entry},
    outcome::{Answer, Change, Outcome},
    state::{CLUSTER_TIME_SINCE, ClusterState, VERSION_SUPPORTED},
};

/// Applies one entry.
///
/// Refuses what the cluster's version does not allow yet: ClusterVersionTooOld. The other refusals
/// stand at the functions of each noun.
///
/// # Panics
/// When `index` is not above that of the entry before: the log is out of order, and going on would
/// make this member differ from the others.
pub fn apply(state: &mut ClusterState, index: u64, entry: &Entry) -> Outcome {
    assert!(index > state.applied, "log entry {index} came after entry {}", state.applied);
    state.applied = index;
    if state.version >= CLUSTER_TIME_SINCE {
        state.counted = state.counted.max(entry.counted);
    }
    let mut step = Step { state, index, at: entry.at, ordinal: 0, changes: Vec::new() };
    let answer = step.carry_out(&entry.command);
    Outcome { answer, changes: step.changes }
}

/// One entry being applied.
struct Step<'a> {
    state: &'a mut ClusterState,
    index: u64,
    at: Timestamp,
    /// Place of the entry's next event.
    ordinal: u32,
    changes: Vec<Change>,
}

impl Step<'_> {
    fn carry_out(&mut self, command: &Command) -> Result<Answer, Refusal> {
        self.check_version(command.version_needed())?;
        match command {
            Command::Initialize { cluster } => self.initialize(cluster),
            Command::RaiseVersion { version } => self.raise_version(*version),
            Command::RegisterFramework { framework, info, request } => {
                self.register_framework(framework, info, request.as_ref())
            }
            Command::UpdateFramework { framework, info, request } => {
                self.update_framework(framework, info, request.as_ref())
            }
            Command::ConnectFramework { framework } => self.connect_framework(framework),
            Command::DisconnectFramework { framework } => self.disconnect_framework(framework),
            Command::TearDownFramework { framework, request } => {
                self.tear_down_framework(framework, request.as_ref())
            }
            Command::AcknowledgeEvents { framework, cursor } => self.acknowledge_events(framework, *cursor),
            Command::RegisterAgent { agent, facts, tasks } => self.register_agent(agent, facts, tasks),
            Command::MarkAgentUnreachable { agent, epoch } => self.mark_agent_unreachable(agent, *epoch),
            Command::DeactivateAgent { agent, tasks, request } => {
                self.deactivate_agent(agent, *tasks, request.as_ref())
            }
            Command::ActivateAgent { agent, request } => self.activate_agent(agent, request.as_ref()),
            Command::MarkAgentGone { agent, request } => self.mark_agent_gone(agent, request.as_ref()),
            Command::Launch { framework, request, agent, epoch, role, offered, tasks } => {
                let place = tasks::Place { framework, role, agent, epoch: *epoch };
                self.launch(place, request.as_ref(), offered, tasks)
            }
            Command::Kill { by, task, grace, request } => self.kill(by, task, *grace, request.as_ref()),
            Command::RecordStatuses { agent, epoch, statuses } => {
                self.record_statuses(agent, *epoch, statuses)
            }
            Command::SubmitRun { request, tasks } => self.submit_run(request.as_ref(), tasks),
            Command::SetRole { role, weight_milli, request } => {
                self.set_role(role, *weight_milli, request.as_ref())
            }
            Command::CreateJoinToken { token, digest, kind, only_for, expires_at, life } => {
                let (kind, expires_at, life) = (*kind, *expires_at, *life);
                self.create_join_token(token, join_tokens::Wish { digest, kind, only_for, expires_at, life })
            }
            Command::RevokeJoinToken { token } => self.revoke_join_token(token),
            Command::UseJoinToken { token, digest, kind, name, key } => {
                self.use_join_token(token, join_tokens::Joiner { digest, kind: *kind, name, key })
            }
            Command::Access(change) => self.change_access(change),
            Command::Prune { keep, before, counted_before } => self.prune(*keep, *before, *counted_before),
            // Its time was taken before any command.
            Command::CountTime => Ok(Answer::Done),
        }
    }

    fn check_version(&self, needed: u32) -> Result<(), Refusal> {
        let version = self.state.version;
        if needed <= version {
            return Ok(());
        }
        let message = if version == 0 {
            "The request was not carried out: the cluster is not initialised yet. Try again when it has a leader."
                .to_owned()
        } else {
            format!(
                "The request was not carried out: it needs cluster version {needed}, and the cluster is at \
                 {version}. Upgrade every member and raise the version."
            )
        };
        Err(Refusal::new(RefusalCode::ClusterVersionTooOld, message))
    }

    /// Refuses to make another cluster of this one: ClusterForeign.
    fn initialize(&mut self, cluster: &ClusterId) -> Result<Answer, Refusal> {
        if let Some(own) = &self.state.cluster {
            if own == cluster {
                return Ok(Answer::Done);
            }
            return Err(Refusal::new(
                RefusalCode::ClusterForeign,
                format!(
                    "Cluster `{cluster}` was not begun here: this log is that of cluster `{own}`. \
                     Start the member with another data directory."
                ),
            ));
        }
        self.state.cluster = Some(cluster.clone());
        self.state.version = 1;
        self.begin_run_framework();
        Ok(Answer::Done)
    }

    /// Refuses to go back, and what no program knows yet: InvalidArgument.
    fn raise_version(&mut self, version: u32) -> Result<Answer, Refusal> {
        let current = self.state.version;
        if version < current || version > VERSION_SUPPORTED {
            return Err(Refusal::new(
                RefusalCode::InvalidArgument,
                format!(
                    "The cluster version was not raised to {version}: it can be from {current}, which it has, \
                     to {VERSION_SUPPORTED}, which this program supports."
                ),
            ));
        }
        self.state.version = version;
        Ok(Answer::Done)
    }

    /// Adds a durable event, unless the framework is built in (those read the state) or ended.
    fn publish(&mut self, framework_id: &FrameworkId, event: FrameworkEvent) {
        let Some(framework) = self.state.frameworks.get_mut(framework_id) else { return };
        if framework.is_built_in {
            return;
        }
        if let FrameworkEvent::Status(TaskStatus { state, task_id, .. }) = &event
            && state.is_final()
        {
            self.state.index.unheard.insert(task_id.clone());
        }
        let cursor = Cursor { index: self.index, ordinal: self.ordinal };
        self.ordinal += 1;
        Arc::make_mut(framework).push_event(cursor, Arc::new(event));
        self.changes.push(Change::Event { framework: framework_id.clone(), cursor });
    }

    fn task_changed(&mut self, task: &TaskId) {
        self.changes.push(Change::Task(task.clone()));
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::InvalidArgument, message)
}

/// Cuts a text at a character, so that it has at most `max` bytes.
fn shortened(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
