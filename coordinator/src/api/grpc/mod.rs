//! The gRPC services: each method is one call of a handle and a conversion.

mod access;
mod agent;
mod backup;
pub(super) mod channel;
mod joining;
mod members;
mod operator;
mod output;
mod scheduler;
mod usage;
mod watch;

use std::pin::Pin;

use futures::Stream;
use model::{Refusal, RefusalCode};
use proto::{
    agent::v1::agent_session_server::AgentSessionServer, join::v1::joining_server::JoiningServer,
    operator::v1::operator_server::OperatorServer, scheduler::v1::scheduler_server::SchedulerServer,
};
use tonic::{Status, service::Routes};

use super::{Context, error::status};
use crate::convert::Invalid;

/// The largest message that is read; larger ones are refused by their length, before their bytes come.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// The largest message that is written: what `Compacted` or a page of views may come to.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A streamed answer.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) fn routes(context: &Context) -> Result<axum::Router, tonic_reflection::server::Error> {
    let scheduler = SchedulerServer::new(scheduler::SchedulerApi::new(context.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let operator = OperatorServer::new(operator::OperatorApi::new(context.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let agent = AgentSessionServer::new(agent::AgentApi::new(context.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let joining = JoiningServer::new(joining::JoiningApi::new(context.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    // The overall health is *serving* from the start: whoever gets an answer is served.
    let (_reporter, health) = tonic_health::server::health_reporter();
    let routes = Routes::new(scheduler)
        .add_service(operator)
        .add_service(agent)
        .add_service(joining)
        .add_service(context.raft.service(context.stop.clone()))
        .add_service(reflection)
        .add_service(health);
    Ok(routes.prepare().into_axum_router())
}

/// Says what was attempted with a message that breaks a rule.
fn invalid(attempted: &str) -> impl Fn(Invalid) -> Status {
    move |error| {
        let Refusal { code, message } = error.into();
        status(&Refusal::new(code, format!("can't {attempted}: {message}; correct it and send it again")))
    }
}

fn refused(refusal: Refusal) -> Status {
    status(&refusal)
}

/// Why a stream ends that nobody has ended: this member stops, or leads no more.
fn stream_over() -> Status {
    status(&Refusal::new(
        RefusalCode::NoLeader,
        "the stream ended because this member stops or leads no more; open it again in a moment",
    ))
}
