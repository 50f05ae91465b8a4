//! One request: logged, met by the test's rules, served.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Collected, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Response, StatusCode};
use serde_json::Value;

use super::path::{Path, query};
use super::refusal::Refusal;
use super::rule::{Fault, Verb};
use super::script::{Request, RuleId};
use super::serve::{self, Answer};
use super::shared::Shared;
use super::watch;
use crate::clock;

/// As the real server has it.
const MAX_BODY_BYTES: usize = 3 << 20;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Serves one request; an error breaks the connection.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let path = Path::parse(head.uri.path());
    let query = query(&head.uri);
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let too_large = body.is_err();
    let header = |name| head.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let mut entry = Request {
        verb: verb(&head.method, path.as_ref(), query.get("watch").map(String::as_str)),
        resource: path.as_ref().map(|path| path.resource.clone()).unwrap_or_default(),
        namespace: path.as_ref().and_then(|path| path.namespace.clone()),
        name: path.as_ref().and_then(|path| path.name.clone()),
        subresource: path.as_ref().and_then(|path| path.subresource.clone()),
        path: head.uri.path().to_owned(),
        query,
        body: body.map(Collected::to_bytes).unwrap_or_default(),
        authorization: header(AUTHORIZATION).map(str::to_owned),
        at: clock::now(),
        code: 0,
    };
    if entry.verb == Verb::Create {
        entry.name = entry.json()["metadata"]["name"].as_str().map(str::to_owned);
    }
    let (number, faults) = {
        let mut script = shared.script();
        let faults = script.meet(&entry);
        (script.record(entry.clone()), faults)
    };
    shared.poke();
    let mut lost = false;
    let mut refused = too_large.then(|| {
        let text = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
        Refusal::new(413, "RequestEntityTooLarge", text)
    });
    for (rule, fault) in faults {
        match fault {
            Fault::Refuse(refusal) => refused = Some(refusal),
            Fault::Stall => stall(&shared, rule).await,
            Fault::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Fault::Lose => lost = true,
            Fault::Delay(long) => tokio::time::sleep(long).await,
        }
    }
    let metadata_only = header(ACCEPT).is_some_and(|a| a.contains("as=PartialObjectMetadata"));
    let content_type = header(CONTENT_TYPE).unwrap_or_default();
    let served = match refused {
        Some(refusal) => Err(refusal),
        None => serve::serve(&shared, path, &entry, content_type, metadata_only),
    };
    if lost {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let response = respond(&shared, served);
    shared.script().answered(number, response.status().as_u16());
    shared.poke();
    Ok(response)
}

fn verb(method: &Method, path: Option<&Path>, watch: Option<&str>) -> Verb {
    let one = path.is_none_or(|path| path.name.is_some());
    match *method {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if one => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ if watch.is_some_and(|text| text == "1" || text == "true") => Verb::Watch,
        _ if one => Verb::Get,
        _ => Verb::List,
    }
}

/// Until the rule is gone.
async fn stall(shared: &Shared, rule: RuleId) {
    let mut moved = shared.moved.subscribe();
    loop {
        moved.mark_unchanged();
        let Ok(until) = shared.script().stalled_until(rule) else { return };
        match until {
            None => {
                let _gone = moved.changed().await;
            }
            Some(until) => {
                let left = until.saturating_duration_since(clock::now());
                let _over = tokio::time::timeout(left, moved.changed()).await;
            }
        }
    }
}

fn respond(shared: &Arc<Shared>, served: Result<Answer, Refusal>) -> Response<Body> {
    let json = HeaderValue::from_static("application/json");
    let (code, content_type, body) = match served {
        Ok(Answer::Bytes(code, bytes)) => (code, json, full(bytes)),
        Ok(Answer::Json(code, value)) => (code, json, full(value.to_string().into_bytes())),
        Ok(Answer::Text(code, text)) => {
            (code, HeaderValue::from_static("text/plain"), full(text.as_bytes().to_vec()))
        }
        Ok(Answer::Watch(asked)) => {
            let lines = StreamBody::new(watch::stream(Arc::clone(shared), *asked));
            (200, json, lines.boxed_unsync())
        }
        Err(refusal) => {
            let mut response = refuse(&refusal);
            response.headers_mut().insert(CONTENT_TYPE, json);
            return response;
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("codes of ours");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let status: Value = refusal.to_json();
    let mut response = Response::new(full(status.to_string().into_bytes()));
    *response.status_mut() = StatusCode::from_u16(refusal.code).expect("an HTTP status");
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}
