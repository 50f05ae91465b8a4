//! Which path answers what.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Body as _;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use serde::{Deserialize, Serialize};

use super::View;
use super::json::ErrorJson;
use super::order::{self, Orders};
use super::zone::zone;

/// The one path that takes orders.
const DRAIN: &str = "/drain";

/// What every answer is made of.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) view: Arc<dyn View>,
    pub(super) registry: Registry,
    /// Who carries orders out; none are taken where there is nobody.
    pub(super) orders: Option<Orders>,
}

/// The paths of the whole admin port.
pub(super) fn everything(source: Source) -> Router {
    let paths = probes_paths()
        .route("/state", get(state))
        .route("/explain", get(explain))
        .route("/zone", get(zone))
        .route(DRAIN, get(order::drains).post(order::drain));
    finish(
        paths,
        source,
        "/livez, /readyz, /metrics, /state, /zone, /drain and /explain?name=web.shop",
    )
}

/// The paths of the second listener.
pub(super) fn probes(source: Source) -> Router {
    finish(probes_paths(), source, "/livez, /readyz and /metrics")
}

fn probes_paths() -> Router<Source> {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

fn finish(paths: Router<Source>, source: Source, there_are: &'static str) -> Router {
    let unknown = move || async move {
        (StatusCode::NOT_FOUND, format!("no such path; there are {there_are}\n"))
    };
    let wrong_method = || async {
        let text = "only GET is answered, and POST at /drain\n";
        (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], text)
    };
    paths
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(guard))
        .with_state(source)
}

/// Bodies are refused before they are read, but for orders; answers are never cached or sniffed.
async fn guard(request: Request, next: Next) -> Response {
    let orders = request.method() == Method::POST && request.uri().path() == DRAIN;
    let mut response = if orders || request.body().is_end_stream() {
        next.run(request).await
    } else {
        let text = "send no body: only orders at /drain have one\n";
        (StatusCode::BAD_REQUEST, [(header::CONNECTION, "close")], text).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn live(State(source): State<Source>) -> Response {
    verdict(source.view.live(), "live\n", "not live\n")
}

async fn ready(State(source): State<Source>) -> Response {
    verdict(source.view.ready(), "ready\n", "not ready\n")
}

fn verdict(good: bool, yes: &'static str, no: &'static str) -> Response {
    if good { yes.into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, no).into_response() }
}

async fn metrics(State(Source { registry, .. }): State<Source>) -> Response {
    let text = off_worker(move || TextEncoder::new().encode_to_string(&registry.gather())).await;
    match text {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Some(Err(error)) => failed(&error.to_string()),
        None => failed("the metrics could not be gathered"),
    }
}

async fn state(State(Source { view, .. }): State<Source>) -> Response {
    match off_worker(move || serde_json::to_vec(&view.state())).await {
        Some(Ok(body)) => json(StatusCode::OK, body),
        Some(Err(error)) => failed(&error.to_string()),
        None => failed("the state could not be shown"),
    }
}

/// The query of `/explain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    name: String,
}

async fn explain(
    State(Source { view, .. }): State<Source>,
    query: Result<Query<Explain>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(Explain { name })) = query else {
        return refuse(StatusCode::BAD_REQUEST, "say which service: /explain?name=web.shop".into());
    };
    let key = match view.resolve_name(&name) {
        Ok(key) => key,
        Err(problem) => return refuse(StatusCode::BAD_REQUEST, problem),
    };
    match view.explain(&key) {
        Some(service) => render(StatusCode::OK, &service),
        None => refuse(
            StatusCode::NOT_FOUND,
            format!(
                "no cluster exports {} in namespace {}; see /state for what is exported, and the \
                 ServiceExport of the service you mean",
                key.name, key.namespace
            ),
        ),
    }
}

pub(super) fn refuse(status: StatusCode, error: String) -> Response {
    render(status, &ErrorJson { error })
}

pub(super) fn render(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json(status, body),
        Err(error) => failed(&error.to_string()),
    }
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn failed(problem: &str) -> Response {
    tracing::warn!(problem, "admin answer failed");
    (StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; see the log\n")
        .into_response()
}

/// Runs what takes milliseconds where it delays no connection; `None` when it panicked.
async fn off_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
