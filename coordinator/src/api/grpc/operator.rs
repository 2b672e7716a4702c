//! `muster.operator.v1`: the API for people and scripts.

use std::collections::BTreeMap;

use cluster::ClusterState;
use model::{AgentId, FrameworkId, Refusal, RefusalCode, Resources, TaskId, Timestamp, Verb};
use prost::Message as _;
use proto::{
    channel::v1::Frame,
    operator::v1::{self as wire, operator_server::Operator},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, access, backup, channel, invalid, joining, members, output, refused, usage, watch};
use crate::{
    api::{Context, error::status, permit::Permit},
    convert::operator as convert,
    leader::messages::SoftView,
};

/// What one page of tasks may weigh, whatever its count: a client takes messages of 4 MiB.
pub(super) const PAGE_BYTES_MAX: usize = 3 << 20;

pub(super) struct OperatorApi {
    context: Context,
}

impl OperatorApi {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// What the leader remembers; nothing on a member that doesn't lead.
    async fn soft(&self) -> SoftView {
        self.context.leader.soft().await.unwrap_or_default()
    }
}

#[tonic::async_trait]
impl Operator for OperatorApi {
    type WatchTasksStream = Answers<wire::TaskView>;
    type ReadOutputStream = Answers<wire::OutputChunk>;
    type OpenChannelStream = Answers<Frame>;
    type BackupStream = Answers<wire::BackupPiece>;

    async fn open_channel(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::OpenChannelStream>, Status> {
        let permit = Permit::of(&request);
        channel::open(&self.context, &permit, request.into_inner()).await.map(Response::new)
    }

    async fn list_members(
        &self,
        request: Request<wire::ListMembersRequest>,
    ) -> Result<Response<wire::ListMembersResponse>, Status> {
        let wire::ListMembersRequest {} = request.into_inner();
        Ok(Response::new(members::list(&self.context)))
    }

    async fn add_member(
        &self,
        request: Request<wire::AddMemberRequest>,
    ) -> Result<Response<wire::AddMemberResponse>, Status> {
        members::add(&self.context, request.into_inner()).await.map(Response::new).map_err(refused)
    }

    async fn remove_member(
        &self,
        request: Request<wire::RemoveMemberRequest>,
    ) -> Result<Response<wire::RemoveMemberResponse>, Status> {
        members::remove(&self.context.raft, request.into_inner()).await.map(Response::new).map_err(refused)
    }

    async fn transfer_leadership(
        &self,
        request: Request<wire::TransferLeadershipRequest>,
    ) -> Result<Response<wire::TransferLeadershipResponse>, Status> {
        members::transfer(&self.context.raft, request.into_inner()).await.map(Response::new).map_err(refused)
    }

    async fn create_join_token(
        &self,
        request: Request<wire::CreateJoinTokenRequest>,
    ) -> Result<Response<wire::CreateJoinTokenResponse>, Status> {
        joining::create_token(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn list_join_tokens(
        &self,
        request: Request<wire::ListJoinTokensRequest>,
    ) -> Result<Response<wire::ListJoinTokensResponse>, Status> {
        let wire::ListJoinTokensRequest {} = request.into_inner();
        Ok(Response::new(joining::list_tokens(&self.context).await))
    }

    async fn revoke_join_token(
        &self,
        request: Request<wire::RevokeJoinTokenRequest>,
    ) -> Result<Response<wire::RevokeJoinTokenResponse>, Status> {
        joining::revoke_token(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn list_users(
        &self,
        request: Request<wire::ListUsersRequest>,
    ) -> Result<Response<wire::ListUsersResponse>, Status> {
        let wire::ListUsersRequest {} = request.into_inner();
        Ok(Response::new(access::list_users(&self.context)))
    }

    async fn set_user(
        &self,
        request: Request<wire::SetUserRequest>,
    ) -> Result<Response<wire::SetUserResponse>, Status> {
        access::set_user(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn remove_user(
        &self,
        request: Request<wire::RemoveUserRequest>,
    ) -> Result<Response<wire::RemoveUserResponse>, Status> {
        access::remove_user(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn create_user_token(
        &self,
        request: Request<wire::CreateUserTokenRequest>,
    ) -> Result<Response<wire::CreateUserTokenResponse>, Status> {
        access::create_token(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn revoke_user_token(
        &self,
        request: Request<wire::RevokeUserTokenRequest>,
    ) -> Result<Response<wire::RevokeUserTokenResponse>, Status> {
        access::revoke_token(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn certify_user(
        &self,
        request: Request<wire::CertifyUserRequest>,
    ) -> Result<Response<wire::CertifyUserResponse>, Status> {
        access::certify(&self.context, &request.into_inner()).map(Response::new)
    }

    async fn get_policy(
        &self,
        request: Request<wire::GetPolicyRequest>,
    ) -> Result<Response<wire::GetPolicyResponse>, Status> {
        let wire::GetPolicyRequest {} = request.into_inner();
        Ok(Response::new(access::policy(&self.context)))
    }

    async fn set_duty(
        &self,
        request: Request<wire::SetDutyRequest>,
    ) -> Result<Response<wire::SetDutyResponse>, Status> {
        access::set_duty(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn test_policy(
        &self,
        request: Request<wire::TestPolicyRequest>,
    ) -> Result<Response<wire::TestPolicyResponse>, Status> {
        access::test_policy(&self.context, request.into_inner()).map(Response::new)
    }

    async fn revoke_certificates(
        &self,
        request: Request<wire::RevokeCertificatesRequest>,
    ) -> Result<Response<wire::RevokeCertificatesResponse>, Status> {
        access::revoke(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn list_revoked_certificates(
        &self,
        request: Request<wire::ListRevokedCertificatesRequest>,
    ) -> Result<Response<wire::ListRevokedCertificatesResponse>, Status> {
        let wire::ListRevokedCertificatesRequest {} = request.into_inner();
        Ok(Response::new(access::list_revoked(&self.context)))
    }

    async fn get_status(
        &self,
        request: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        let wire::GetStatusRequest {} = request.into_inner();
        let leadership = *self.context.raft.leadership().borrow();
        let member = self.context.raft.member_id();
        let state = self.context.leader.state();
        // A member that leads only on paper can't do anything for the caller yet.
        let is_ready = leadership.is_leader && self.context.raft.has_quorum() && state.cluster().is_some();
        let leader = leadership.leader.filter(|leader| *leader != member || is_ready);
        let figures = self.context.leader.figures();
        let facts = convert::MemberFacts {
            member,
            leader: leader.unwrap_or(0),
            term: leadership.term,
            offers_outstanding: figures.offers_outstanding,
            agents_held_back: figures.agents_held_back,
        };
        Ok(Response::new(convert::to_status(&state, facts)))
    }

    async fn run(&self, request: Request<wire::RunRequest>) -> Result<Response<wire::RunResponse>, Status> {
        let permit = Permit::of(&request);
        if let Ok(run) = FrameworkId::new(cluster::RUN_FRAMEWORK) {
            permit.framework(&self.context.leader, Verb::Run, &run).map_err(refused)?;
        }
        let (request, tasks) = convert::run(request.into_inner()).map_err(invalid("run tasks"))?;
        let ids = self.context.leader.run(request, tasks).await.map_err(refused)?;
        Ok(Response::new(wire::RunResponse { task_ids: ids.iter().map(TaskId::to_string).collect() }))
    }

    async fn list_tasks(
        &self,
        request: Request<wire::ListTasksRequest>,
    ) -> Result<Response<wire::ListTasksResponse>, Status> {
        let permit = Permit::of(&request);
        let filter = convert::list_tasks(request.into_inner()).map_err(invalid("list tasks"))?;
        let state = self.context.leader.state();
        let because =
            if state.queue().is_empty() { BTreeMap::new() } else { self.soft().await.waiting_because };
        Ok(Response::new(page(&state, &filter, &permit, &because)))
    }

    async fn get_task(
        &self,
        request: Request<wire::GetTaskRequest>,
    ) -> Result<Response<wire::TaskView>, Status> {
        let permit = Permit::of(&request);
        let task = convert::get_task(request.into_inner()).map_err(invalid("show the task"))?;
        permit.task(&self.context.leader, Verb::View, &task).map_err(refused)?;
        let state = self.context.leader.state();
        let because =
            if state.waiting(&task).is_some() { self.soft().await.waiting_because } else { BTreeMap::new() };
        match view(&state, &task, &because) {
            Some(mut view) => {
                if state.task(&task).is_some_and(|task| !task.is_over()) {
                    // A member that doesn't lead shows the rest all the same.
                    view.is_frozen = self.context.leader.is_frozen(task).await.ok().flatten();
                }
                Ok(Response::new(view))
            }
            None => Err(unknown_task(&task)),
        }
    }

    async fn watch_tasks(
        &self,
        request: Request<wire::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let permit = Permit::of(&request);
        let tasks = convert::watch_tasks(request.into_inner()).map_err(invalid("watch tasks"))?;
        for task in &tasks {
            permit.task(&self.context.leader, Verb::View, task).map_err(refused)?;
        }
        Ok(Response::new(watch::watch(self.context.clone(), tasks)?))
    }

    async fn kill_task(
        &self,
        request: Request<wire::KillTaskRequest>,
    ) -> Result<Response<wire::KillTaskResponse>, Status> {
        let permit = Permit::of(&request);
        let (request, task, grace) =
            convert::kill_task(request.into_inner()).map_err(invalid("kill the task"))?;
        permit.task(&self.context.leader, Verb::Kill, &task).map_err(refused)?;
        self.context.leader.kill_task(request, task, grace).await.map_err(refused)?;
        Ok(Response::new(wire::KillTaskResponse {}))
    }

    async fn backup(
        &self,
        _request: Request<wire::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        Ok(Response::new(backup::send(&self.context).await?))
    }

    async fn read_output(
        &self,
        request: Request<wire::ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let permit = Permit::of(&request);
        let wish = convert::read_output(request.into_inner()).map_err(invalid("read the output"))?;
        permit.task(&self.context.leader, Verb::View, &wish.task).map_err(refused)?;
        let state = self.context.leader.state();
        if state.task(&wish.task).is_none() && state.waiting(&wish.task).is_none() {
            return Err(unknown_task(&wish.task));
        }
        Ok(Response::new(output::read(self.context.clone(), wish)))
    }

    async fn get_usage(
        &self,
        request: Request<wire::GetUsageRequest>,
    ) -> Result<Response<wire::GetUsageResponse>, Status> {
        let (filter, agent) = convert::get_usage(request.into_inner()).map_err(invalid("show the usage"))?;
        Ok(Response::new(usage::of_tasks(&self.context, filter, agent).await?))
    }

    async fn get_agent_usage(
        &self,
        request: Request<wire::GetAgentUsageRequest>,
    ) -> Result<Response<wire::GetAgentUsageResponse>, Status> {
        let filter = convert::get_agent_usage(request.into_inner()).map_err(invalid("show the usage"))?;
        Ok(Response::new(usage::of_agents(&self.context, filter).await?))
    }

    async fn get_usage_history(
        &self,
        request: Request<wire::GetUsageHistoryRequest>,
    ) -> Result<Response<wire::GetUsageHistoryResponse>, Status> {
        let (of, since, step) =
            convert::get_usage_history(request.into_inner()).map_err(invalid("show the history of usage"))?;
        Ok(Response::new(usage::history(&self.context, of, since, step).await?))
    }

    async fn list_agents(
        &self,
        request: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        let wire::ListAgentsRequest {} = request.into_inner();
        let soft = self.soft().await;
        let offered = offered_by_agent(&soft);
        let state = self.context.leader.state();
        let none = Resources::default();
        let agents = state
            .agents()
            .iter()
            .map(|(agent, record)| {
                let silence = soft.silent.get(agent).copied();
                convert::to_agent_view(agent, record, offered.get(agent).unwrap_or(&none), silence)
            })
            .collect();
        Ok(Response::new(wire::ListAgentsResponse { agents }))
    }

    async fn get_agent(
        &self,
        request: Request<wire::GetAgentRequest>,
    ) -> Result<Response<wire::AgentView>, Status> {
        let agent = convert::get_agent(request.into_inner()).map_err(invalid("show the agent"))?;
        let soft = self.soft().await;
        let offered = offered_by_agent(&soft).remove(&agent).unwrap_or_default();
        let state = self.context.leader.state();
        let Some(record) = state.agent(&agent) else {
            return Err(usage::unknown_agent(&agent, &state));
        };
        let silence = soft.silent.get(&agent).copied();
        Ok(Response::new(convert::to_agent_view(&agent, record, &offered, silence)))
    }

    async fn deactivate_agent(
        &self,
        request: Request<wire::DeactivateAgentRequest>,
    ) -> Result<Response<wire::DeactivateAgentResponse>, Status> {
        let (request, agent, tasks) =
            convert::deactivate_agent(request.into_inner()).map_err(invalid("deactivate the agent"))?;
        self.context.leader.deactivate_agent(request, agent, tasks).await.map_err(refused)?;
        Ok(Response::new(wire::DeactivateAgentResponse {}))
    }

    async fn activate_agent(
        &self,
        request: Request<wire::ActivateAgentRequest>,
    ) -> Result<Response<wire::ActivateAgentResponse>, Status> {
        let (request, agent) =
            convert::activate_agent(request.into_inner()).map_err(invalid("activate the agent"))?;
        self.context.leader.activate_agent(request, agent).await.map_err(refused)?;
        Ok(Response::new(wire::ActivateAgentResponse {}))
    }

    async fn mark_agent_gone(
        &self,
        request: Request<wire::MarkAgentGoneRequest>,
    ) -> Result<Response<wire::MarkAgentGoneResponse>, Status> {
        let (request, agent) =
            convert::mark_agent_gone(request.into_inner()).map_err(invalid("mark the agent as gone"))?;
        self.context.leader.mark_agent_gone(request, agent).await.map_err(refused)?;
        Ok(Response::new(wire::MarkAgentGoneResponse {}))
    }

    async fn mark_agents_unreachable(
        &self,
        request: Request<wire::MarkAgentsUnreachableRequest>,
    ) -> Result<Response<wire::MarkAgentsUnreachableResponse>, Status> {
        let agents = convert::mark_agents_unreachable(request.into_inner())
            .map_err(invalid("mark agents unreachable"))?;
        let marked = self.context.leader.confirm_unreachable(agents).await.map_err(refused)?;
        let agent_ids = marked.iter().map(AgentId::to_string).collect();
        Ok(Response::new(wire::MarkAgentsUnreachableResponse { agent_ids }))
    }

    async fn list_frameworks(
        &self,
        request: Request<wire::ListFrameworksRequest>,
    ) -> Result<Response<wire::ListFrameworksResponse>, Status> {
        let wire::ListFrameworksRequest {} = request.into_inner();
        let mut offers: BTreeMap<FrameworkId, u32> = BTreeMap::new();
        for offer in self.soft().await.offers {
            *offers.entry(offer.framework).or_default() += 1;
        }
        let state = self.context.leader.state();
        let frameworks = state
            .frameworks()
            .iter()
            .map(|(id, record)| {
                convert::to_framework_view(&state, id, record, offers.get(id).copied().unwrap_or(0))
            })
            .collect();
        Ok(Response::new(wire::ListFrameworksResponse { frameworks }))
    }

    async fn teardown_framework(
        &self,
        request: Request<wire::TeardownFrameworkRequest>,
    ) -> Result<Response<wire::TeardownFrameworkResponse>, Status> {
        let permit = Permit::of(&request);
        let (request, framework) =
            convert::teardown_framework(request.into_inner()).map_err(invalid("tear down the framework"))?;
        permit.framework(&self.context.leader, Verb::Manage, &framework).map_err(refused)?;
        self.context.leader.teardown_framework(request, framework).await.map_err(refused)?;
        Ok(Response::new(wire::TeardownFrameworkResponse {}))
    }

    async fn list_offers(
        &self,
        request: Request<wire::ListOffersRequest>,
    ) -> Result<Response<wire::ListOffersResponse>, Status> {
        let wire::ListOffersRequest {} = request.into_inner();
        let soft = self.context.leader.soft().await.map_err(refused)?;
        let now = now();
        Ok(Response::new(wire::ListOffersResponse {
            offers: soft.offers.iter().map(|offer| convert::to_offer_view(offer, now)).collect(),
            held_back: soft.held_back,
        }))
    }

    async fn list_roles(
        &self,
        request: Request<wire::ListRolesRequest>,
    ) -> Result<Response<wire::ListRolesResponse>, Status> {
        let wire::ListRolesRequest {} = request.into_inner();
        Ok(Response::new(convert::to_roles(&self.context.leader.state())))
    }

    async fn set_role(
        &self,
        request: Request<wire::SetRoleRequest>,
    ) -> Result<Response<wire::SetRoleResponse>, Status> {
        let (request, role, weight) =
            convert::set_role(request.into_inner()).map_err(invalid("set the role"))?;
        self.context.leader.set_role(request, role, weight).await.map_err(refused)?;
        Ok(Response::new(wire::SetRoleResponse {}))
    }
}

type Reasons = BTreeMap<TaskId, Vec<String>>;

/// The view of one task, whether it waits or not.
pub(super) fn view(state: &ClusterState, task: &TaskId, because: &Reasons) -> Option<wire::TaskView> {
    if let Some(record) = state.task(task) {
        return Some(convert::to_task_view(record));
    }
    let waiting = state.waiting(task)?;
    Some(convert::to_waiting_view(waiting, because.get(task).cloned().unwrap_or_default()))
}

pub(super) fn unknown_task(task: &TaskId) -> Status {
    let message = format!("no task has the id `{task}`; it was never there, or was forgotten after its end");
    status(&Refusal::new(RefusalCode::TaskUnknown, message))
}

/// One page in order of id, of launched and of waiting tasks alike.
fn page(
    state: &ClusterState,
    filter: &convert::TaskFilter,
    permit: &Permit,
    because: &Reasons,
) -> wire::ListTasksResponse {
    let convert::TaskFilter { page_size, after, framework, agent, only_live } = filter;
    let is_after = |task: &TaskId| after.as_ref().is_none_or(|after| task > after);
    let is_run = framework.as_ref().is_none_or(|framework| framework.as_str() == cluster::RUN_FRAMEWORK);
    let mut waiting: Vec<&TaskId> = Vec::new();
    if is_run && agent.is_none() {
        waiting.extend(
            state
                .queue()
                .values()
                .map(|waiting| &waiting.spec.task_id)
                .filter(|task| is_after(task) && permit.shows(state, task)),
        );
        waiting.sort_unstable();
    }
    let start = match after {
        Some(after) => (std::ops::Bound::Excluded(after.clone()), std::ops::Bound::Unbounded),
        None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
    };
    let mut launched = state
        .tasks()
        .range(start)
        .filter(|(id, task)| {
            permit.shows(state, id)
                && framework.as_ref().is_none_or(|framework| task.framework == *framework)
                && agent.as_ref().is_none_or(|agent| task.agent.as_ref() == Some(agent))
                && !(*only_live && task.is_over())
        })
        .map(|(task, _)| task)
        .peekable();
    let mut waiting = waiting.into_iter().peekable();
    let mut tasks = Vec::new();
    let mut size = 0;
    let mut last: Option<&TaskId> = None;
    loop {
        let next = match (launched.peek(), waiting.peek()) {
            (Some(left), Some(right)) if left <= right => launched.next(),
            (Some(_), None) => launched.next(),
            (_, Some(_)) => waiting.next(),
            (None, None) => None,
        };
        let Some(task) = next else {
            return wire::ListTasksResponse { tasks, next_page_token: String::new() };
        };
        let Some(view) = view(state, task, because) else { continue };
        size += view.encoded_len();
        if let Some(last) = last
            && (tasks.len() == *page_size || size > PAGE_BYTES_MAX)
        {
            return wire::ListTasksResponse { tasks, next_page_token: last.to_string() };
        }
        tasks.push(view);
        last = Some(task);
    }
}

fn offered_by_agent(soft: &SoftView) -> BTreeMap<AgentId, Resources> {
    let mut offered: BTreeMap<AgentId, Resources> = BTreeMap::new();
    for offer in &soft.offers {
        let sum = offered.entry(offer.agent.clone()).or_default();
        *sum = sum.plus(&offer.resources);
    }
    offered
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH + since
}
