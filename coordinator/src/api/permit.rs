//! What a caller may do to what a message names: the policy's second look, once the message was read.
//!
//! The first look, by the path alone, is in `caller.rs`; both ask the one function of `model`.

use cluster::ClusterState;
use model::{Denied, FrameworkId, Refusal, RefusalCode, RoleName, Target, TaskId, UserName, Verb};
use tonic::Request;

use super::Caller;
use crate::leader::LeaderHandle;

/// Whom the policy judges.
#[derive(Debug, Clone)]
pub(super) enum Permit {
    /// Whoever has the operators' token or the socket, and members.
    All,
    User(UserName),
    Nothing,
}

impl Permit {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        match request.extensions().get::<Caller>() {
            Some(caller) => caller.permit(),
            None => Self::Nothing,
        }
    }

    /// Refuses with NotPermitted, here and below.
    pub(super) fn role(&self, leader: &LeaderHandle, verb: Verb, role: &RoleName) -> Result<(), Refusal> {
        self.look(leader, |state| judge(self, state, verb, Target { role: Some(role), framework: None }))
    }

    /// One that isn't known is judged as the whole cluster, so that nobody learns by it what there is.
    pub(super) fn framework(
        &self,
        leader: &LeaderHandle,
        verb: Verb,
        framework: &FrameworkId,
    ) -> Result<(), Refusal> {
        self.look(leader, |state| judge_framework(self, state, verb, framework))
    }

    /// The same for a task, by its framework and role.
    pub(super) fn task(&self, leader: &LeaderHandle, verb: Verb, task: &TaskId) -> Result<(), Refusal> {
        self.look(leader, |state| judge_task(self, state, verb, task))
    }

    /// Whether a task may be shown in a list.
    pub(super) fn shows(&self, state: &ClusterState, task: &TaskId) -> bool {
        match self {
            Self::All => true,
            Self::User(_) => judge_task(self, state, Verb::View, task).is_ok(),
            Self::Nothing => false,
        }
    }

    fn look(
        &self,
        leader: &LeaderHandle,
        judge: impl FnOnce(&ClusterState) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        match self {
            Self::All => Ok(()),
            Self::User(_) | Self::Nothing => judge(&leader.state()),
        }
    }
}

fn judge_task(permit: &Permit, state: &ClusterState, verb: Verb, task: &TaskId) -> Result<(), Refusal> {
    if let Some(record) = state.task(task) {
        let target = Target { role: Some(&record.role), framework: Some(&record.framework) };
        return judge(permit, state, verb, target);
    }
    let run = state.waiting(task).and_then(|_| FrameworkId::new(cluster::RUN_FRAMEWORK).ok());
    match run {
        Some(run) => judge_framework(permit, state, verb, &run),
        None => judge(permit, state, verb, Target::CLUSTER),
    }
}

fn judge_framework(
    permit: &Permit,
    state: &ClusterState,
    verb: Verb,
    framework: &FrameworkId,
) -> Result<(), Refusal> {
    let target = match state.framework(framework) {
        Some(record) => Target { role: Some(&record.info.role), framework: Some(framework) },
        None => Target::CLUSTER,
    };
    judge(permit, state, verb, target)
}

fn judge(permit: &Permit, state: &ClusterState, verb: Verb, target: Target<'_>) -> Result<(), Refusal> {
    match permit {
        Permit::All => Ok(()),
        Permit::User(user) => state.access().may(user, verb, target).map_err(|denied| refusal(user, &denied)),
        Permit::Nothing => Err(Refusal::new(
            RefusalCode::Unauthenticated,
            "the request shows no credential: neither a certificate nor a token",
        )),
    }
}

/// What the policy's no sounds like.
pub(super) fn refusal(user: &UserName, denied: &Denied) -> Refusal {
    Refusal::new(
        RefusalCode::NotPermitted,
        format!(
            "user `{user}` may not do this: {denied}; ask whoever manages the cluster for a duty with it (`muster \
             user add {user} --duty DUTY`)"
        ),
    )
}
