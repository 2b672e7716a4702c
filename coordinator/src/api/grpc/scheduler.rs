//! `muster.scheduler.v1`: the API for frameworks.

use std::pin::Pin;

use futures::{Stream, stream};
use proto::scheduler::v1::{self as wire, scheduler_server::Scheduler};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Answers, invalid, refused, stream_over};
use crate::{
    api::{Context, error::status},
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
}

#[tonic::async_trait]
impl Scheduler for SchedulerApi {
    type SubscribeStream = Answers<wire::Event>;

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let params = convert::subscribe(request.into_inner()).map_err(invalid("subscribe"))?;
        let subscription = self.context.leader.subscribe(params).await.map_err(refused)?;
        let counted = self.context.metrics.stream_opened("subscription");
        let events = events(subscription, self.context.stop.clone(), counted);
        Ok(Response::new(events))
    }

    async fn accept(
        &self,
        request: Request<wire::AcceptRequest>,
    ) -> Result<Response<wire::AcceptResponse>, Status> {
        let (caller, offers, tasks, refuse) =
            convert::accept(request.into_inner()).map_err(invalid("accept offers"))?;
        let results = self.context.leader.accept(caller, offers, tasks, refuse).await.map_err(refused)?;
        Ok(Response::new(convert::to_accept_response(results)))
    }

    async fn decline(
        &self,
        request: Request<wire::DeclineRequest>,
    ) -> Result<Response<wire::DeclineResponse>, Status> {
        let (caller, offers, refuse) =
            convert::decline(request.into_inner()).map_err(invalid("decline offers"))?;
        self.context.leader.decline(caller, offers, refuse).await.map_err(refused)?;
        Ok(Response::new(wire::DeclineResponse {}))
    }

    async fn set_demand(
        &self,
        request: Request<wire::SetDemandRequest>,
    ) -> Result<Response<wire::SetDemandResponse>, Status> {
        let (caller, demands) =
            convert::set_demand(request.into_inner()).map_err(invalid("set the demand"))?;
        self.context.leader.set_demand(caller, demands).await.map_err(refused)?;
        Ok(Response::new(wire::SetDemandResponse {}))
    }

    async fn suppress(
        &self,
        request: Request<wire::SuppressRequest>,
    ) -> Result<Response<wire::SuppressResponse>, Status> {
        let wire::SuppressRequest { caller } = request.into_inner();
        let caller = convert::caller(caller).map_err(invalid("suppress offers"))?;
        self.context.leader.suppress(caller).await.map_err(refused)?;
        Ok(Response::new(wire::SuppressResponse {}))
    }

    async fn revive(
        &self,
        request: Request<wire::ReviveRequest>,
    ) -> Result<Response<wire::ReviveResponse>, Status> {
        let wire::ReviveRequest { caller } = request.into_inner();
        let caller = convert::caller(caller).map_err(invalid("revive offers"))?;
        self.context.leader.revive(caller).await.map_err(refused)?;
        Ok(Response::new(wire::ReviveResponse {}))
    }

    async fn kill(
        &self,
        request: Request<wire::KillRequest>,
    ) -> Result<Response<wire::KillResponse>, Status> {
        let (caller, task, grace) = convert::kill(request.into_inner()).map_err(invalid("kill the task"))?;
        self.context.leader.kill(caller, task, grace).await.map_err(refused)?;
        Ok(Response::new(wire::KillResponse {}))
    }

    async fn reconcile(
        &self,
        request: Request<wire::ReconcileRequest>,
    ) -> Result<Response<wire::ReconcileResponse>, Status> {
        let (caller, tasks) = convert::reconcile(request.into_inner()).map_err(invalid("reconcile"))?;
        let statuses = self.context.leader.reconcile(caller, tasks).await.map_err(refused)?;
        Ok(Response::new(convert::to_reconcile_response(&statuses)))
    }

    async fn acknowledge(
        &self,
        request: Request<wire::AcknowledgeRequest>,
    ) -> Result<Response<wire::AcknowledgeResponse>, Status> {
        let (caller, cursor) =
            convert::acknowledge(request.into_inner()).map_err(invalid("acknowledge events"))?;
        self.context.leader.acknowledge(caller, cursor).await.map_err(refused)?;
        Ok(Response::new(wire::AcknowledgeResponse {}))
    }

    async fn update_framework(
        &self,
        request: Request<wire::UpdateFrameworkRequest>,
    ) -> Result<Response<wire::UpdateFrameworkResponse>, Status> {
        let (caller, info) =
            convert::update_framework(request.into_inner()).map_err(invalid("update the framework"))?;
        self.context.leader.update_framework(caller, info).await.map_err(refused)?;
        Ok(Response::new(wire::UpdateFrameworkResponse {}))
    }

    async fn teardown(
        &self,
        request: Request<wire::TeardownRequest>,
    ) -> Result<Response<wire::TeardownResponse>, Status> {
        let wire::TeardownRequest { caller } = request.into_inner();
        let caller = convert::caller(caller).map_err(invalid("tear down the framework"))?;
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
