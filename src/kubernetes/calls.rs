//! One request to the API server, and what its failure means to a writer.
//!
//! Every request ends at its deadline and is sent once: whether to try again is decided by who
//! asked. Not here: which requests, and when.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use kube::Client;
use kube::core::Status;
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout_at;

use crate::clock;

/// Longest message of the API server that is passed on, in octets.
const MAX_MESSAGE_OCTETS: usize = 1024;

/// What one request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    /// What is done.
    pub(super) verb: Verb,
    /// The path below the server's base, such as `/api/v1/namespaces/shop/services/web`.
    pub(super) path: String,
    /// The JSON body; `Null`: none.
    pub(super) body: Value,
}

/// The requests that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// GET.
    Read,
    /// POST.
    Create,
    /// PUT.
    Replace,
    /// PATCH with a JSON merge patch (RFC 7396).
    Merge,
    /// DELETE.
    Delete,
}

impl Verb {
    fn method(self) -> Method {
        match self {
            Self::Read => Method::GET,
            Self::Create => Method::POST,
            Self::Replace => Method::PUT,
            Self::Merge => Method::PATCH,
            Self::Delete => Method::DELETE,
        }
    }

    fn content_type(self) -> &'static str {
        if self == Self::Merge { "application/merge-patch+json" } else { "application/json" }
    }
}

/// Why a request did not do what it asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Fault {
    /// The server is away, overloaded or does not know us at the moment: nothing about the object.
    #[error("the API server does not answer as it should: {0}")]
    Away(Box<str>),
    /// It was sent and not answered in time: the server is away, or something hangs that it asks
    /// about this object (an admission webhook).
    #[error("not answered: {0}")]
    Late(Box<str>),
    /// The object changed since, is another one by now, or exists already (409).
    #[error("the object is not as it was: {0}")]
    Conflict(Box<str>),
    /// There is no such object, or no such place for one (404).
    #[error("not found: {0}")]
    Absent(Box<str>),
    /// This object is not accepted: rights, quota, admission, validity. The server's own words.
    #[error("refused: {0}")]
    Refused(Box<str>),
}

impl Call {
    /// Sends this and waits for the answer until `deadline`, no longer.
    pub(super) async fn send(self, client: &Client, deadline: Instant) -> Result<Value, Fault> {
        let body = match self.body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let request = Request::builder()
            .method(self.verb.method())
            .uri(self.path)
            .header(CONTENT_TYPE, self.verb.content_type())
            .body(body)
            .map_err(|error| Fault::Refused(cut(&error.to_string())))?;
        let mut asked = pin!(client.request_text(request));
        let mut sent = false;
        // A process that was frozen finds its timer due only after it went on: the time is looked
        // at first, so that nothing is sent that should have been over long ago.
        let in_time = poll_fn(|context| {
            if clock::now() >= deadline {
                return Poll::Ready(None);
            }
            sent = true;
            asked.as_mut().poll(context).map(Some)
        });
        let text = match timeout_at(deadline.into(), in_time).await {
            Err(_) | Ok(None) if sent => return Err(Fault::Late("no answer in time".into())),
            Err(_) | Ok(None) => return Err(Fault::Away("too late to be sent".into())),
            Ok(Some(Err(kube::Error::Api(status)))) => return Err(meaning(&status)),
            Ok(Some(Err(error))) => return Err(Fault::Away(cut(&chain(&error)))),
            Ok(Some(Ok(text))) => text,
        };
        serde_json::from_str(&text).map_err(|error| Fault::Away(cut(&error.to_string())))
    }
}

/// What the server's refusal is about: itself, the version, or the object.
/// What an internal error says that concerns one object and not the server.
const OF_ONE_OBJECT: [&str; 2] = ["webhook", "failed to allocate"];

fn meaning(status: &Status) -> Fault {
    let message = if status.message.is_empty() {
        cut(&format!("status {} {}", status.code, status.reason))
    } else {
        cut(&status.message)
    };
    match status.code {
        404 | 410 => Fault::Absent(message),
        409 => Fault::Conflict(message),
        401 | 408 | 429 => Fault::Away(message),
        // An admission webhook that does not answer is a 500, and concerns what it judges; so is a
        // range of Service addresses that is used up.
        500.. if !OF_ONE_OBJECT.iter().any(|sign| status.message.contains(sign)) => {
            Fault::Away(message)
        }
        _ => Fault::Refused(message),
    }
}

/// An error with its causes, which is where the reason stands.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn cut(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(MAX_MESSAGE_OCTETS)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_outage_and_from_a_newer_version() {
        for (code, message, expected) in [
            (403, "exceeded quota: objects", "refused"),
            (422, "spec.ports: Invalid value", "refused"),
            (500, "failed calling webhook \"a.b\": timeout", "refused"),
            (500, "failed to allocate a serviceIP: range is full", "refused"),
            (500, "etcdserver: request timed out", "away"),
            (503, "apiserver is shutting down", "away"),
            (429, "too many requests", "away"),
            (401, "Unauthorized", "away"),
            (409, "the object has been modified", "conflict"),
            (404, "namespaces \"shop\" not found", "absent"),
        ] {
            let fault = meaning(&Status::failure(message, "Reason").with_code(code));
            let found = match fault {
                Fault::Away(_) | Fault::Late(_) => "away",
                Fault::Conflict(_) => "conflict",
                Fault::Absent(_) => "absent",
                Fault::Refused(_) => "refused",
            };
            assert_eq!(found, expected, "{code} {message}");
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(cut(&"ü".repeat(1000)).len(), 1024);
        assert_eq!(cut(&format!("a{}", "ü".repeat(1000))).len(), 1023);
    }
}
