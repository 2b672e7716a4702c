//! Health and metrics over HTTP, on loopback alone.
//!
//! Nothing here changes anything, and nothing says what tasks do but for their figures. A request for
//! another host or from a web page of another origin is refused, so that a browser can't be made to read it.

use std::{fmt, net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    actor::Handle,
    metrics::{Format, Page},
};

/// What the answers are made of.
pub struct Http {
    pub handle: Handle,
    pub page: Page,
    /// What `/inspect` asks for; absent: nobody may.
    pub token: Option<String>,
}

impl Http {
    /// Answers until it is told to stop.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(listener, router(self)).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

fn router(http: Http) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/inspect", get(inspect))
        .fallback(|| async {
            Refused {
                status: StatusCode::NOT_FOUND,
                why: "nothing is served at this path",
                next: "ask for /health or /metrics",
                code: "invalid-argument",
            }
        })
        .layer(middleware::from_fn(guard))
        .with_state(Arc::new(http))
}

async fn health(State(http): State<Arc<Http>>) -> Response {
    match http.handle.snapshot().await {
        Some(_) => (StatusCode::OK, "ok\n").into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or stops\n").into_response(),
    }
}

async fn metrics(State(http): State<Arc<Http>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::wanted(accept);
    let snapshot = http.handle.snapshot().await;
    // The kernel is asked for map figures: tens of microseconds for each task.
    let rendered = tokio::task::spawn_blocking(move || http.page.render(snapshot, format)).await;
    match rendered {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, format.content_type())], page).into_response(),
        Ok(Err(fmt::Error)) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The task table, for `muster-agent inspect` beside a running agent.
async fn inspect(State(http): State<Arc<Http>>, headers: HeaderMap) -> Response {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let is_allowed = match (&http.token, shown.and_then(|value| value.strip_prefix("Bearer "))) {
        (Some(token), Some(shown)) => is_same(token.as_bytes(), shown.trim().as_bytes()),
        _ => false,
    };
    if !is_allowed {
        let refused = Refused {
            status: StatusCode::UNAUTHORIZED,
            why: "the request shows no valid credential",
            next: "send `authorization: Bearer <token>` with the content of the agent's token file",
            code: "unauthenticated",
        };
        return refused.into_response();
    }
    match http.handle.snapshot().await {
        Some(snapshot) => {
            snapshot.rows.iter().map(|row| format!("{row}\n")).collect::<String>().into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or stops\n").into_response(),
    }
}

/// Takes as long for any guess of the same length.
fn is_same(ours: &[u8], theirs: &[u8]) -> bool {
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).fold(0, |differs, (ours, theirs)| differs | (ours ^ theirs)) == 0
}

/// Decided from the head of a request, before anything else of it is read.
async fn guard(request: Request, next: Next) -> Response {
    match check(&request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

fn check<B>(request: &axum::http::Request<B>) -> Result<(), Refused> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refused {
            status: StatusCode::METHOD_NOT_ALLOWED,
            why: "nothing can be changed here",
            next: "use GET",
            code: "invalid-argument",
        });
    }
    let foreign = |why| Refused {
        status: StatusCode::FORBIDDEN,
        why,
        next: "use a loopback name, from a program and not from a web page",
        code: "origin-refused",
    };
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        (None, _) => request.uri().authority().cloned(),
        (Some(_), Some(_)) => None,
    };
    let authority = named.ok_or_else(|| foreign("the request names no host, or several"))?;
    let host = authority.host().to_ascii_lowercase();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback =
        host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_loopback || authority.as_str().contains('@') {
        return Err(foreign("the request is for a host that isn't served here"));
    }
    // Browsers say where a request's page is from; other clients say nothing.
    let ours = format!("http://{authority}");
    let is_ours = |origin: &HeaderValue| origin.as_bytes().eq_ignore_ascii_case(ours.as_bytes());
    let is_same_site = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    if !request.headers().get_all(header::ORIGIN).iter().all(is_ours)
        || !request.headers().get_all("sec-fetch-site").iter().all(is_same_site)
    {
        return Err(foreign("the request comes from a web page of another origin"));
    }
    Ok(())
}

/// A no in four parts.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    why: &'static str,
    next: &'static str,
    code: &'static str,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self { status, why, next, code } = self;
        (status, format!("error: can't answer the request\nwhy:   {why}\nnext:  {next}\ncode:  {code}\n"))
            .into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    /// Lines like `GET /health; host: x; origin: y`.
    fn verdicts(requests: &str) -> String {
        let mut verdicts = String::new();
        for line in requests.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut parts = line.split("; ");
            let (method, uri) = parts.next().unwrap().split_once(' ').unwrap();
            let mut request = axum::http::Request::builder().method(method).uri(uri);
            for part in parts {
                let (name, value) = part.split_once(": ").unwrap();
                request = request.header(name, value);
            }
            let verdict = match check(&request.body(()).unwrap()) {
                Ok(()) => "may".to_owned(),
                Err(refused) => format!("{}: {}", refused.status.as_u16(), refused.why),
            };
            verdicts += &format!("{line}\n    {verdict}\n");
        }
        verdicts
    }

    #[test]
    fn only_loopback_names_and_no_web_pages() {
        expect![[r#"
            GET /metrics; host: 127.0.0.1:5051
                may
            GET /metrics; host: localhost:5051
                may
            GET /metrics; host: [::1]:5051
                may
            GET http://127.0.0.1:5051/metrics
                may
            GET /metrics
                403: the request names no host, or several
            GET /metrics; host: evil.example
                403: the request is for a host that isn't served here
            GET /metrics; host: user@localhost
                403: the request is for a host that isn't served here
            GET /metrics; host: localhost; host: evil.example
                403: the request names no host, or several
            GET /metrics; host: localhost:5051; origin: http://localhost:5051
                may
            GET /metrics; host: localhost:5051; origin: http://evil.example
                403: the request comes from a web page of another origin
            GET /metrics; host: localhost:5051; origin: null
                403: the request comes from a web page of another origin
            GET /metrics; host: localhost:5051; sec-fetch-site: cross-site
                403: the request comes from a web page of another origin
            POST /metrics; host: localhost:5051
                405: nothing can be changed here
        "#]]
        .assert_eq(&verdicts(
            "GET /metrics; host: 127.0.0.1:5051
             GET /metrics; host: localhost:5051
             GET /metrics; host: [::1]:5051
             GET http://127.0.0.1:5051/metrics
             GET /metrics
             GET /metrics; host: evil.example
             GET /metrics; host: user@localhost
             GET /metrics; host: localhost; host: evil.example
             GET /metrics; host: localhost:5051; origin: http://localhost:5051
             GET /metrics; host: localhost:5051; origin: http://evil.example
             GET /metrics; host: localhost:5051; origin: null
             GET /metrics; host: localhost:5051; sec-fetch-site: cross-site
             POST /metrics; host: localhost:5051",
        ));
    }

    #[test]
    fn a_token_is_only_itself() {
        assert!(is_same(b"abc", b"abc"));
        assert!(!is_same(b"abc", b"abd") && !is_same(b"abc", b"ab") && !is_same(b"", b"a"));
    }
}
