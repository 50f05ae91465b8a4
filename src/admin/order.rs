//! The one thing that the admin port changes: `POST /drain`.
//!
//! The body is JSON, small, and of exactly the fields of [`DrainAsk`]; it must say that it is JSON,
//! and no browser may send it for a page (such a request carries `Origin`). What it asks is parsed
//! here and carried out elsewhere: it is answered when it is in force and, if the disk can, kept.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::View;
use super::answer::{Source, refuse, render};
use super::json::DrainJson;
use crate::model::{ClusterId, Drain};
use crate::routes::Drained;

/// Largest body read, in bytes.
const MAX_BODY_BYTES: usize = 4096;
/// For the whole of an order: the body, the disk.
const WITHIN: Duration = Duration::from_secs(5);

/// The body of `POST /drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainAsk {
    /// A cluster, or a service of this one: `oregon`, `web.shop`.
    pub name: String,
    /// Over which time its share falls: `10m`; at once where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// Takes the drain back instead.
    #[serde(default)]
    pub undo: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainTaken {
    /// The cluster of the replica that took it.
    pub cluster: ClusterId,
    /// The replica, as its log names it.
    pub replica: String,
    /// The drain that is in force now, if any.
    pub drain: Option<DrainJson>,
    /// Whether a restart will find it.
    pub kept: bool,
    /// What the operator should know.
    pub note: Option<String>,
}

/// What is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Drain over this time.
    Drain(Duration),
    /// Take the drain back.
    Undo,
}

/// An order, with who waits for its answer.
#[derive(Debug)]
pub struct Order {
    /// What is drained.
    pub of: Drained,
    /// What is to change.
    pub change: Change,
    /// Takes what became of it; an error says what the name should have been.
    pub answer: oneshot::Sender<Result<DrainTaken, String>>,
}

/// Where orders go.
pub(super) type Orders = mpsc::Sender<Order>;

/// `GET /drain`: the drains in force.
pub(super) async fn drains(State(Source { view, .. }): State<Source>) -> Response {
    render(StatusCode::OK, &view.drains())
}

/// `POST /drain`.
pub(super) async fn drain(State(source): State<Source>, request: Request) -> Response {
    let Some(orders) = source.orders.clone() else {
        return refuse(StatusCode::NOT_FOUND, "this agent takes no orders".into());
    };
    if let Err(problem) = is_ours(request.headers()) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem.into());
    }
    let carried_out = async {
        let body = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES).await;
        let body = body.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, too_large()))?;
        let bad = |problem: String| (StatusCode::BAD_REQUEST, problem);
        let ask: DrainAsk = serde_json::from_slice(&body).map_err(|error| {
            bad(format!("{error}; send {{\"name\":\"oregon\",\"over\":\"10m\"}}"))
        })?;
        let (of, change) = parse(&*source.view, &ask).map_err(bad)?;
        let (answer, answered) = oneshot::channel();
        let gone = |()| (StatusCode::SERVICE_UNAVAILABLE, "the agent is ending".to_owned());
        orders.send(Order { of, change, answer }).await.map_err(|_| gone(()))?;
        let taken = answered.await.map_err(|_| gone(()))?;
        taken.map_err(|problem| (StatusCode::NOT_FOUND, problem))
    };
    match tokio::time::timeout(WITHIN, carried_out).await {
        Ok(Ok(taken)) => render(StatusCode::OK, &taken),
        Ok(Err((status, problem))) => refuse(status, problem),
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "not within 5 s; see the log".into()),
    }
}

fn too_large() -> String {
    format!("the body is over {MAX_BODY_BYTES} bytes")
}

/// A page in a browser may reach this port too; it cannot send JSON unasked, nor hide that it is
/// a page.
fn is_ours(headers: &HeaderMap) -> Result<(), &'static str> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if essence.is_none_or(|kind| !kind.eq_ignore_ascii_case("application/json")) {
        return Err("send 'content-type: application/json'");
    }
    if headers.contains_key(header::ORIGIN) {
        return Err("orders from web pages are not taken; use 'portolan drain'");
    }
    Ok(())
}

fn parse(view: &dyn View, ask: &DrainAsk) -> Result<(Drained, Change), String> {
    let of = if ask.name.contains(':') {
        return Err("a port cannot be drained; leave ':port' away".to_owned());
    } else if ask.name.contains('.') {
        Drained::Service(view.resolve_name(&ask.name)?)
    } else {
        let cluster = ClusterId::parse(&ask.name);
        Drained::Cluster(cluster.map_err(|error| {
            format!("'{}' is neither a cluster ({error}) nor a service such as web.shop", ask.name)
        })?)
    };
    let change = match (ask.undo, &ask.over) {
        (true, Some(_)) => return Err("a drain is taken back at once; leave 'over' away".into()),
        (true, None) => Change::Undo,
        (false, over) => {
            let over = over.as_deref().map(Drain::parse_over).transpose();
            Change::Drain(over.map_err(|error| format!("over: {error}"))?.unwrap_or_default())
        }
    };
    Ok((of, change))
}
