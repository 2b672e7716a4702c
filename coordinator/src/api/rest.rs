//! Plain HTTP: health, metrics, and a line that says where to look.

use axum::body::Body;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use model::{Refusal, RefusalCode};

use super::{Context, error};
use crate::{
    metrics::{Format, Page},
    raft::Role,
};

/// Answers one plain request. Its body is never read: nothing here takes one.
pub(super) fn answer<B>(context: &Context, page: &Page, request: &Request<B>) -> Response<Body> {
    let answer = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/health") => Ok(health(context)),
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(page, request),
        (&Method::GET | &Method::HEAD, "/") => Ok(text(StatusCode::OK, TEXT, root())),
        _ => Err((
            StatusCode::NOT_FOUND,
            Refusal::new(
                RefusalCode::InvalidArgument,
                "no such page is served here; there are /, /health and /metrics, and gRPC for everything else",
            ),
        )),
    };
    let mut answer = answer.unwrap_or_else(|(status, refusal)| {
        context.metrics.refused(refusal.code);
        let mut response = error::response(&refusal, &format!("can't answer {}", shown(request)));
        *response.status_mut() = status;
        response
    });
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    if request.method() == Method::HEAD {
        *answer.body_mut() = Body::empty();
    }
    answer
}

/// The request's method and path, short and without odd characters.
pub(super) fn shown<B>(request: &Request<B>) -> String {
    let path: String = request.uri().path().chars().take(128).flat_map(char::escape_debug).collect();
    format!("{} {path}", request.method())
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Healthy is a member that takes part in Raft and knows a leader.
fn health(context: &Context) -> Response<Body> {
    let leadership = *context.raft.leadership().borrow();
    let is_running = context.raft.metrics().role != Role::Stopped;
    let (status, word) = match (is_running, leadership.leader) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopped"),
        (true, None) => (StatusCode::SERVICE_UNAVAILABLE, "no-leader"),
        (true, Some(_)) => (StatusCode::OK, "ok"),
    };
    let body = serde_json::json!({
        "status": word,
        "is_leader": leadership.is_leader,
        "term": leadership.term,
        "version": env!("CARGO_PKG_VERSION"),
    });
    text(status, "application/json", format!("{body}\n"))
}

fn metrics<B>(page: &Page, request: &Request<B>) -> Result<Response<Body>, (StatusCode, Refusal)> {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let format = Format::wanted(accept);
    match page.render(format) {
        Ok(page) => Ok(text(StatusCode::OK, format.content_type(), page)),
        Err(error) => {
            tracing::error!(error = %error, "the metrics page can't be written");
            let refusal = Refusal::new(RefusalCode::Internal, "the page can't be written");
            Err((StatusCode::INTERNAL_SERVER_ERROR, refusal))
        }
    }
}

fn root() -> String {
    format!(
        "Muster coordinator {}: gRPC on this port (muster.operator.v1, muster.scheduler.v1; try `muster status`), \
         /health and /metrics for monitoring\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
