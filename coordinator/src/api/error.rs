//! The one table of statuses: from the stable code of a refusal to gRPC and HTTP.
//!
//! A gRPC status carries the code in its metadata as `muster-code`, and in `muster-next` what helps
//! in general; its message says what was attempted, why not, and what to do. Inner code knows
//! neither protocol.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use model::{Refusal, RefusalCode};
use tonic::{Code, Status, metadata::MetadataValue};

pub const CODE_KEY: &str = "muster-code";
pub const NEXT_KEY: &str = "muster-next";

/// How a refusal looks outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub grpc: Code,
    pub http: StatusCode,
    /// What the caller can do, in ASCII.
    pub next: &'static str,
}

/// The table.
pub fn shape(code: RefusalCode) -> Shape {
    let row = |grpc, http, next| Shape { grpc, http, next };
    match code {
        RefusalCode::InvalidArgument => row(
            Code::InvalidArgument,
            StatusCode::BAD_REQUEST,
            "correct the value and send the request again",
        ),
        RefusalCode::FrameworkUnknown => row(
            Code::NotFound,
            StatusCode::NOT_FOUND,
            "check the id with `muster framework list`, or subscribe without an id to begin anew",
        ),
        RefusalCode::FrameworkEnded => row(
            Code::FailedPrecondition,
            StatusCode::GONE,
            "subscribe without an id, which makes a new framework",
        ),
        RefusalCode::SubscriptionReplaced => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "let one instance of the framework run, or subscribe again to take over",
        ),
        RefusalCode::FrameworkBuiltIn => {
            row(Code::FailedPrecondition, StatusCode::CONFLICT, "kill its tasks one by one instead")
        }
        RefusalCode::TaskUnknown => {
            row(Code::NotFound, StatusCode::NOT_FOUND, "check the id with `muster task list`")
        }
        RefusalCode::TaskNotYours => {
            row(Code::PermissionDenied, StatusCode::FORBIDDEN, "ask for tasks of your own framework")
        }
        RefusalCode::TaskIdTaken => row(Code::AlreadyExists, StatusCode::CONFLICT, "choose another task id"),
        RefusalCode::OfferUnknown => row(
            Code::NotFound,
            StatusCode::NOT_FOUND,
            "wait for the next offer and use it before its lease ends",
        ),
        RefusalCode::OfferNotYours => {
            row(Code::PermissionDenied, StatusCode::FORBIDDEN, "use offers of your own framework")
        }
        RefusalCode::OffersMixed => row(
            Code::InvalidArgument,
            StatusCode::BAD_REQUEST,
            "accept offers of one agent and role in one call, the others in another",
        ),
        RefusalCode::ExceedsOffer => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "launch less on these offers, or state a larger demand",
        ),
        RefusalCode::AgentLacksResources => {
            row(Code::FailedPrecondition, StatusCode::CONFLICT, "wait for the next offer")
        }
        RefusalCode::AgentUnknown => {
            row(Code::NotFound, StatusCode::NOT_FOUND, "check the id with `muster agent list`")
        }
        RefusalCode::AgentUnreachable => row(
            Code::Unavailable,
            StatusCode::SERVICE_UNAVAILABLE,
            "try again when the agent is back; `muster agent show` tells",
        ),
        RefusalCode::AgentDeactivated => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "use another agent, or take it into use again with `muster agent activate`",
        ),
        RefusalCode::AgentGone => row(
            Code::FailedPrecondition,
            StatusCode::GONE,
            "give the host's agent an empty data directory, so that it comes back under a new id",
        ),
        RefusalCode::EpochStale => {
            row(Code::FailedPrecondition, StatusCode::CONFLICT, "attach again, which gives the current epoch")
        }
        RefusalCode::ClusterForeign => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "point the agent at its own cluster, or give it an empty data directory",
        ),
        RefusalCode::AgentIdTaken => row(
            Code::AlreadyExists,
            StatusCode::CONFLICT,
            "give each agent a data directory of its own; a copied one copies the id",
        ),
        RefusalCode::MemberUnknown => {
            row(Code::NotFound, StatusCode::NOT_FOUND, "check the id with `muster member list`")
        }
        RefusalCode::MemberIdTaken => row(
            Code::AlreadyExists,
            StatusCode::CONFLICT,
            "choose another `--member-id`, or remove the member that has it",
        ),
        RefusalCode::MemberBehind => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "check that it runs and can be reached, and try again; meanwhile it goes on learning",
        ),
        RefusalCode::MemberTooOld => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "start it with the program that the other members run",
        ),
        RefusalCode::MemberLast => {
            row(Code::FailedPrecondition, StatusCode::CONFLICT, "add another member first")
        }
        RefusalCode::Busy => {
            row(Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, "try again in a moment")
        }
        RefusalCode::NoLeader => row(
            Code::Unavailable,
            StatusCode::SERVICE_UNAVAILABLE,
            "try again in a moment, or ask another member",
        ),
        RefusalCode::OutcomeUnknown => row(
            Code::Aborted,
            StatusCode::GATEWAY_TIMEOUT,
            "repeat the call with the same request id, or look before you repeat it",
        ),
        RefusalCode::Unauthenticated => row(
            Code::Unauthenticated,
            StatusCode::UNAUTHORIZED,
            "send `authorization: Bearer <token>` with the content of the coordinator's token file",
        ),
        RefusalCode::TlsNeeded => row(
            Code::FailedPrecondition,
            StatusCode::BAD_REQUEST,
            "write https:// instead of http://, or set TLS up with `muster-coordinator init`",
        ),
        RefusalCode::CertificateRefused => row(
            Code::Unauthenticated,
            StatusCode::UNAUTHORIZED,
            "join this cluster with a token of it, and check the clocks of both sides",
        ),
        RefusalCode::JoinTokenRefused => row(
            Code::PermissionDenied,
            StatusCode::FORBIDDEN,
            "make another token with `muster token create`, and see `muster token list`",
        ),
        RefusalCode::NotPermitted => {
            row(Code::PermissionDenied, StatusCode::FORBIDDEN, "use the credential of whoever may do this")
        }
        RefusalCode::UserUnknown => {
            row(Code::NotFound, StatusCode::NOT_FOUND, "check the name or id with `muster user list`")
        }
        RefusalCode::OriginRefused => row(
            Code::PermissionDenied,
            StatusCode::FORBIDDEN,
            "use a loopback name, or add the name to `--allowed-hosts`",
        ),
        RefusalCode::ClusterVersionTooOld => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "upgrade every member, then raise the cluster version",
        ),
        RefusalCode::OutputGone => {
            row(Code::NotFound, StatusCode::NOT_FOUND, "nothing brings the output back")
        }
        RefusalCode::HistoryGone => {
            row(Code::NotFound, StatusCode::NOT_FOUND, "`muster task show` has the figures of the end")
        }
        RefusalCode::TaskNotRunning => {
            row(Code::FailedPrecondition, StatusCode::CONFLICT, "see its state with `muster task show`")
        }
        RefusalCode::SandboxGone => {
            row(Code::NotFound, StatusCode::NOT_FOUND, "nothing brings the sandbox back")
        }
        RefusalCode::FileUnknown => {
            row(Code::NotFound, StatusCode::NOT_FOUND, "see what is there with `muster task files`")
        }
        RefusalCode::FileRefused => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "name plain files and directories inside the sandbox",
        ),
        RefusalCode::ExecFailed => {
            row(Code::FailedPrecondition, StatusCode::CONFLICT, "correct the command or what it needs")
        }
        RefusalCode::InputRefused => row(
            Code::FailedPrecondition,
            StatusCode::CONFLICT,
            "attach without `--stdin`, or run the task with it",
        ),
        RefusalCode::ChannelBroken => {
            row(Code::Aborted, StatusCode::BAD_GATEWAY, "look how far it came, and try again")
        }
        RefusalCode::Internal => row(
            Code::Internal,
            StatusCode::INTERNAL_SERVER_ERROR,
            "see the coordinator's log, and report it with its lines",
        ),
    }
}

/// The refusal as gRPC tells it.
pub fn status(refusal: &Refusal) -> Status {
    let Refusal { code, message } = refusal;
    let Shape { grpc, http: _, next } = shape(*code);
    let mut status = Status::new(grpc, message);
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(code.as_str()));
    status.metadata_mut().insert(NEXT_KEY, MetadataValue::from_static(next));
    status
}

/// The refusal as HTTP tells it: the four parts, as text.
pub fn response(refusal: &Refusal, attempted: &str) -> Response<Body> {
    let Refusal { code, message } = refusal;
    let Shape { grpc: _, http, next } = shape(*code);
    let text = format!("error: {attempted}\nwhy:   {message}\nnext:  {next}\ncode:  {code}\n");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = http;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CODE_KEY, HeaderValue::from_static(code.as_str()));
    if *code == RefusalCode::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Gives a status that the gRPC library made by itself a code of ours.
///
/// These are about messages that can't be read and methods that aren't there: the caller's mistakes.
pub fn with_code(response: Response<Body>) -> Response<Body> {
    let Some(made) = response
        .extensions()
        .get::<Status>()
        .cloned()
        .or_else(|| Status::from_header_map(response.headers()))
    else {
        return response;
    };
    if made.code() == Code::Ok || made.metadata().contains_key(CODE_KEY) {
        return response;
    }
    let why = match made.code() {
        Code::Unimplemented => {
            "no such method is served here; see the API's `.proto` files for what there is".to_owned()
        }
        Code::Internal | Code::InvalidArgument => format!("the message can't be read: {}", made.message()),
        Code::OutOfRange | Code::ResourceExhausted => format!("the message is too large: {}", made.message()),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => return response,
    };
    let mut status = status(&Refusal::new(RefusalCode::InvalidArgument, why));
    if made.code() == Code::Unimplemented {
        // Clients tell an older server by this code.
        let metadata = status.metadata().clone();
        status = Status::with_metadata(Code::Unimplemented, status.message(), metadata);
    }
    status.into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page() {
        for code in RefusalCode::ALL {
            let path = format!("{}/../docs/errors/{code}.md", env!("CARGO_MANIFEST_DIR"));
            let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(page.starts_with(&format!("# {code}\n")), "{path} does not begin with its code");
            for part in ["## How one gets there", "## What to do"] {
                assert!(page.contains(part), "{path} has no part `{part}`");
            }
        }
    }

    #[test]
    fn every_code_becomes_a_status_that_says_it() {
        for code in RefusalCode::ALL {
            let status = status(&Refusal::new(*code, "no: ä"));
            assert_ne!(status.code(), Code::Ok);
            assert_eq!(status.metadata().get(CODE_KEY).unwrap(), code.as_str());
            let response = response(&Refusal::new(*code, "no"), "can't do it");
            assert!(!response.status().is_success());
        }
    }

    #[test]
    fn a_status_of_the_library_gets_a_code() {
        let response = with_code(Status::internal("failed to decode Protobuf message").into_http());
        assert_eq!(response.headers()[CODE_KEY], "invalid-argument");
        assert_eq!(response.headers()["grpc-status"], "3");
        let response = with_code(Status::unimplemented("").into_http());
        assert_eq!(response.headers()["grpc-status"], "12");
    }
}
