//! `muster.scheduler.v1`: the API for frameworks.

use std::pin::Pin;

use futures::{Stream, stream};
use model::{FrameworkId, RoleName, Verb};
use proto::scheduler::v1::{self as wire, scheduler_server::Scheduler};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Answers, invalid, refused, stream_over};
use crate::{
    api::{Context, error::status, permit::Permit},
    convert::scheduler as convert,
    leader::messages::{Subscription, ToFramework},
    metrics::OpenStream,
};

pub(super) struct SchedulerApi {
    context: Context,
}

impl SchedulerApi {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Whether a caller may be the framework that is there already, and whether it may be one of this role.
    fn check(
        &self,
        permit: &Permit,
        framework: Option<&FrameworkId>,
        role: Option<&RoleName>,
    ) -> Result<(), Status> {
        let leader = &self.context.leader;
        if let Some(framework) = framework {
            permit.framework(leader, Verb::Schedule, framework).map_err(refused)?;
        }
        match (role, framework.and_then(|framework| leader.state().framework(framework).cloned())) {
            // It may keep the role that it has.
            (Some(role), Some(record)) if record.info.role == *role => Ok(()),
            (Some(role), _) => permit.role(leader, Verb::Schedule, role).map_err(refused),
            (None, _) => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Scheduler for SchedulerApi {
    type SubscribeStream = Answers<wire::Event>;

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let permit = Permit::of(&request);
        let params = convert::subscribe(request.into_inner()).map_err(invalid("subscribe"))?;
        self.check(&permit, params.framework.as_ref(), Some(&params.info.role))?;
        let subscription = self.context.leader.subscribe(params).await.map_err(refused)?;
        let counted = self.context.metrics.stream_opened("subscription");
        let events = events(subscription, self.context.stop.clone(), counted);
        Ok(Response::new(events))
    }

    async fn accept(
        &self,
        request: Request<wire::AcceptRequest>,
    ) -> Result<Response<wire::AcceptResponse>, Status> {
        let permit = Permit::of(&request);
        let (caller, offers, tasks, refuse) =
            convert::accept(request.into_inner()).map_err(invalid("accept offers"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        let results = self.context.leader.accept(caller, offers, tasks, refuse).await.map_err(refused)?;
        Ok(Response::new(convert::to_accept_response(results)))
    }

    async fn decline(
        &self,
        request: Request<wire::DeclineRequest>,
    ) -> Result<Response<wire::DeclineResponse>, Status> {
        let permit = Permit::of(&request);
        let (caller, offers, refuse) =
            convert::decline(request.into_inner()).map_err(invalid("decline offers"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        self.context.leader.decline(caller, offers, refuse).await.map_err(refused)?;
        Ok(Response::new(wire::DeclineResponse {}))
    }

    async fn set_demand(
        &self,
        request: Request<wire::SetDemandRequest>,
    ) -> Result<Response<wire::SetDemandResponse>, Status> {
        let permit = Permit::of(&request);
        let (caller, demands) =
            convert::set_demand(request.into_inner()).map_err(invalid("set the demand"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        self.context.leader.set_demand(caller, demands).await.map_err(refused)?;
        Ok(Response::new(wire::SetDemandResponse {}))
    }

    async fn suppress(
        &self,
        request: Request<wire::SuppressRequest>,
    ) -> Result<Response<wire::SuppressResponse>, Status> {
        let permit = Permit::of(&request);
        let wire::SuppressRequest { caller } = request.into_inner();
        let caller = convert::caller(caller).map_err(invalid("suppress offers"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        self.context.leader.suppress(caller).await.map_err(refused)?;
        Ok(Response::new(wire::SuppressResponse {}))
    }

    async fn revive(
        &self,
        request: Request<wire::ReviveRequest>,
    ) -> Result<Response<wire::ReviveResponse>, Status> {
        let permit = Permit::of(&request);
        let wire::ReviveRequest { caller } = request.into_inner();
        let caller = convert::caller(caller).map_err(invalid("revive offers"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        self.context.leader.revive(caller).await.map_err(refused)?;
        Ok(Response::new(wire::ReviveResponse {}))
    }

    async fn kill(
        &self,
        request: Request<wire::KillRequest>,
    ) -> Result<Response<wire::KillResponse>, Status> {
        let permit = Permit::of(&request);
        let (caller, task, grace) = convert::kill(request.into_inner()).map_err(invalid("kill the task"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        self.context.leader.kill(caller, task, grace).await.map_err(refused)?;
        Ok(Response::new(wire::KillResponse {}))
    }

    async fn reconcile(
        &self,
        request: Request<wire::ReconcileRequest>,
    ) -> Result<Response<wire::ReconcileResponse>, Status> {
        let permit = Permit::of(&request);
        let (caller, tasks) = convert::reconcile(request.into_inner()).map_err(invalid("reconcile"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        let statuses = self.context.leader.reconcile(caller, tasks).await.map_err(refused)?;
        Ok(Response::new(convert::to_reconcile_response(&statuses)))
    }

    async fn acknowledge(
        &self,
        request: Request<wire::AcknowledgeRequest>,
    ) -> Result<Response<wire::AcknowledgeResponse>, Status> {
        let permit = Permit::of(&request);
        let (caller, cursor) =
            convert::acknowledge(request.into_inner()).map_err(invalid("acknowledge events"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        self.context.leader.acknowledge(caller, cursor).await.map_err(refused)?;
        Ok(Response::new(wire::AcknowledgeResponse {}))
    }

    async fn update_framework(
        &self,
        request: Request<wire::UpdateFrameworkRequest>,
    ) -> Result<Response<wire::UpdateFrameworkResponse>, Status> {
        let permit = Permit::of(&request);
        let (caller, info) =
            convert::update_framework(request.into_inner()).map_err(invalid("update the framework"))?;
        self.check(&permit, Some(&caller.framework), Some(&info.role))?;
        self.context.leader.update_framework(caller, info).await.map_err(refused)?;
        Ok(Response::new(wire::UpdateFrameworkResponse {}))
    }

    async fn teardown(
        &self,
        request: Request<wire::TeardownRequest>,
    ) -> Result<Response<wire::TeardownResponse>, Status> {
        let permit = Permit::of(&request);
        let wire::TeardownRequest { caller } = request.into_inner();
        let caller = convert::caller(caller).map_err(invalid("tear down the framework"))?;
        self.check(&permit, Some(&caller.framework), None)?;
        self.context.leader.teardown(caller).await.map_err(refused)?;
        Ok(Response::new(wire::TeardownResponse {}))
    }
}

/// What an open subscription holds; dropping it tells the leader.
struct Open {
    subscription: Subscription,
    stop: CancellationToken,
    _counted: OpenStream,
}

fn events(
    subscription: Subscription,
    stop: CancellationToken,
    counted: OpenStream,
) -> Pin<Box<dyn Stream<Item = Result<wire::Event, Status>> + Send>> {
    let open = Open { subscription, stop, _counted: counted };
    Box::pin(stream::unfold(Some(open), |open| async move {
        let mut open = open?;
        let message = tokio::select! {
            biased;
            // What is not read stays in the log and comes again with the next subscription.
            () = open.stop.cancelled() => None,
            message = open.subscription.events.recv() => message,
        };
        let Some(message) = message else { return Some((Err(stream_over()), None)) };
        let is_last = match &message {
            ToFramework::Replaced | ToFramework::Ended(_) => true,
            ToFramework::Subscribed { .. }
            | ToFramework::Durable { .. }
            | ToFramework::Compacted { .. }
            | ToFramework::Offers(_)
            | ToFramework::Rescind { .. }
            | ToFramework::Heartbeat => false,
        };
        let item = convert::to_event(message).map_err(|refusal| status(&refusal));
        Some((item, (!is_last).then_some(open)))
    }))
}
