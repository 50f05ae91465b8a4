//! A call to the API server, with its deadline, and what may go wrong with one.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{Request, Response, StatusCode};
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Timing;
use crate::kubernetes::Reason;
use crate::kubernetes::kinds::Resource;

/// The largest page of a list, in octets; of what is larger, smaller pages are asked for.
const MAX_PAGE_OCTETS: usize = 32 << 20;
/// So much of a refusal is read, in octets.
const MAX_REFUSAL_OCTETS: usize = 64 << 10;
/// So much of what a server says is shown, in characters.
const SHOWN_CHARS: usize = 300;

/// Why a list or a watch failed.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) reason: Reason,
    /// What the server answered with.
    pub(super) status: Option<u16>,
    /// How long it asks us to wait.
    pub(super) retry_after: Option<Duration>,
    what: String,
}

impl Trouble {
    fn new(reason: Reason, what: String) -> Self {
        Self { reason, status: None, retry_after: None, what }
    }

    /// The answer makes no sense.
    pub(super) fn answer(error: &dyn fmt::Display) -> Self {
        Self::new(Reason::Answer, format!("its answer is not understood: {error}"))
    }

    pub(super) fn timeout(verb: &str, after: Duration) -> Self {
        Self::new(Reason::Timeout, format!("the {verb} was silent for {} s", after.as_secs()))
    }

    fn unreachable(error: &kube::Error) -> Self {
        // The outermost text alone says only that a call failed.
        let mut what = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !what.contains(&text) {
                what = format!("{what}: {text}");
            }
            cause = error.source();
        }
        Self::new(Reason::Unreachable, format!("it cannot be reached: {what}"))
    }

    /// A `Status` inside of a stream.
    pub(super) fn told(json: &str) -> Self {
        let status: Status = serde_json::from_str(json).unwrap_or_default();
        Self::refused(status.code.unwrap_or(500), status, None)
    }

    fn refused(code: u16, status: Status, header: Option<Duration>) -> Self {
        let reason = match code {
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::NotInstalled,
            410 => Reason::Gone,
            429 => Reason::Throttled,
            _ => Reason::Server,
        };
        let said: String = status.message.unwrap_or_default().chars().take(SHOWN_CHARS).collect();
        let seconds = status.details.and_then(|details| details.retry_after_seconds);
        Self {
            reason,
            status: Some(code),
            retry_after: header.or_else(|| seconds.map(Duration::from_secs)),
            what: format!("it answers {code}: {}", said.escape_debug()),
        }
    }

    /// The trouble with what to do about it.
    pub(super) fn advice(&self, resource: Resource) -> String {
        let plural = resource.plural();
        let full = match resource.group() {
            "" => plural.to_owned(),
            group => format!("{plural}.{group}"),
        };
        let remedy = match self.reason {
            Reason::Forbidden => format!(
                "grant our service account the verbs list and watch on {plural} of the API group '{}'",
                resource.group()
            ),
            Reason::Unauthorized => {
                "check the token of our service account; its file is read again every minute".into()
            }
            Reason::Unreachable | Reason::Timeout => {
                "check the API server and the way to it".into()
            }
            _ => "see the API server's log; we keep trying".into(),
        };
        format!(
            "{full}: what is known stays in force, for the API server does not serve them: {}; {remedy}",
            self.what
        )
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    code: Option<u16>,
    message: Option<String>,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    retry_after_seconds: Option<u64>,
}

/// A page of a list; its objects are not looked into yet.
#[derive(Deserialize)]
pub(super) struct List<'a> {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    #[serde(borrow, default, deserialize_with = "or_none")]
    pub(super) items: Vec<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMeta {
    resource_version: Option<Box<str>>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl ListMeta {
    pub(super) fn next(&self) -> Option<String> {
        self.next.clone().filter(|token| !token.is_empty())
    }

    pub(super) fn version(&self) -> Option<Box<str>> {
        self.resource_version.clone().filter(|version| !version.is_empty())
    }
}

impl<'a> List<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Trouble> {
        serde_json::from_slice(body).map_err(|error| Trouble::answer(&error))
    }
}

/// Go writes an empty list as `null`.
fn or_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<&'de RawValue>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Sends a request and waits for the head of a good answer.
pub(super) async fn begin(
    client: &kube::Client,
    request: Request<Vec<u8>>,
    timing: &Timing,
    verb: &str,
) -> Result<Body, Trouble> {
    let answer = timeout(timing.answer, client.send(request.map(Body::from))).await;
    let response = answer
        .map_err(|_| Trouble::timeout(verb, timing.answer))?
        .map_err(|error| Trouble::unreachable(&error))?;
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    Err(timeout(timing.answer, refusal(response))
        .await
        .unwrap_or_else(|_| Trouble::timeout(verb, timing.answer)))
}

/// The whole body of a page; `None` if it is too large.
pub(super) async fn page(
    client: &kube::Client,
    request: Request<Vec<u8>>,
    timing: &Timing,
) -> Result<Option<Bytes>, Trouble> {
    let body = begin(client, request, timing, "list").await?;
    let read = whole(body, MAX_PAGE_OCTETS).await.map_err(|error| Trouble::unreachable(&error))?;
    Ok(Some(read).filter(|body| body.len() <= MAX_PAGE_OCTETS))
}

/// The body, or a little more than `most` octets of it.
async fn whole(mut body: Body, most: usize) -> Result<Bytes, kube::Error> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        read.extend_from_slice(&frame?.into_data().unwrap_or_default());
        if read.len() > most {
            break;
        }
    }
    Ok(read.freeze())
}

async fn refusal(response: Response<Body>) -> Trouble {
    let code = response.status();
    let header = response.headers().get(hyper::header::RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = whole(response.into_body(), MAX_REFUSAL_OCTETS).await.unwrap_or_default();
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| Status {
        message: Some(reason_phrase(code, &body)),
        ..Status::default()
    });
    Trouble::refused(code.as_u16(), status, seconds.map(Duration::from_secs))
}

/// What a proxy says that does not speak the API's language.
fn reason_phrase(code: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_CHARS)]);
    match text.trim() {
        "" => code.canonical_reason().unwrap_or_default().to_owned(),
        text => text.to_owned(),
    }
}
