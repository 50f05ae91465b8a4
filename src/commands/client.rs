//! The admin port's client: plain HTTP/1.1, one connection per question.
//!
//! Nothing is cached and nothing retried: a question that is not answered within the time limit
//! is an answer too. Bodies are cut at a cap, because the port that answers may not be ours.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::http::request::Builder;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::admin::json::{DrainJson, ServiceJson, StateJson};
use crate::admin::order::{DrainAsk, DrainTaken};
use crate::admin::zone::Format;

/// Longest wait for a whole answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait for an order to be carried out: it is written to disk first.
const ORDER_WITHIN: Duration = Duration::from_secs(6);
/// Longest wait for a whole zone.
const ZONE_WITHIN: Duration = Duration::from_secs(30);
/// Largest body read: the state of 10 000 services with ten candidates each stays far below, and
/// so does a zone with 100 000 pods.
const MAX_BODY_BYTES: usize = 256 << 20;

/// Why the agent gave no answer.
#[derive(Debug, Error)]
pub enum Error {
    /// No agent there, or it does not answer in time.
    #[error(
        "no agent answers on {address}: {reason}; start one with 'portolan run', or name its \
         admin address with --admin"
    )]
    Unreachable {
        /// Where it was sought.
        address: SocketAddr,
        /// What happened instead.
        reason: String,
    },
    /// The agent does not know that name.
    #[error("{0}")]
    NotFound(String),
    /// The agent answered with a refusal.
    #[error("the agent on {address} answers {status}: {text}")]
    Refused {
        /// Which agent.
        address: SocketAddr,
        /// The HTTP status code.
        status: u16,
        /// The body.
        text: String,
    },
    /// What answered does not speak our JSON.
    #[error(
        "the answer from {address} is not that of a portolan agent of this version: {reason}; \
         compare 'portolan --version' on both sides"
    )]
    NotOurs {
        /// Which agent.
        address: SocketAddr,
        /// What does not fit.
        reason: String,
    },
}

/// One agent's admin port.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    /// Names the port; nothing is dialled yet.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Where it asks.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `GET /state`.
    pub async fn state(&self) -> Result<StateJson, Error> {
        self.json("/state").await
    }

    /// `GET /explain?name=`: a name such as `web.shop`, with an optional `:port`.
    pub async fn explain(&self, name: &str) -> Result<ServiceJson, Error> {
        self.json(&format!("/explain?name={}", encode(name))).await
    }

    /// `GET /zone`: all that DNS answers, whole or not at all.
    pub async fn zone(&self, format: Format) -> Result<Bytes, Error> {
        let path = match format {
            Format::Zone => "/zone",
            Format::Json => "/zone?format=json",
        };
        let (status, body) = self.within(ZONE_WITHIN, Request::get(path), Bytes::new()).await?;
        self.checked(status, body)
    }

    /// `GET /metrics`, in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String, Error> {
        self.text("/metrics").await
    }

    /// `GET /readyz`: whether the agent says that it is ready; `false` too where none answers.
    pub async fn ready(&self) -> bool {
        matches!(self.get("/readyz").await, Ok((StatusCode::OK, _)))
    }

    /// `GET /drain`: the drains in force.
    pub async fn drains(&self) -> Result<Vec<DrainJson>, Error> {
        self.json("/drain").await
    }

    /// `POST /drain`.
    pub async fn drain(&self, ask: &DrainAsk) -> Result<DrainTaken, Error> {
        let body = serde_json::to_vec(ask).map_err(|e| self.not_ours(&e))?;
        let request = Request::post("/drain").header(header::CONTENT_TYPE, "application/json");
        let (status, body) = self.within(ORDER_WITHIN, request, body.into()).await?;
        self.parsed(&self.checked(status, body)?)
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.parsed(&self.good(path).await?)
    }

    fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body)
            .map_err(|e| Error::NotOurs { address: self.address, reason: e.to_string() })
    }

    async fn text(&self, path: &str) -> Result<String, Error> {
        let body = self.good(path).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn good(&self, path: &str) -> Result<Bytes, Error> {
        let (status, body) = self.get(path).await?;
        self.checked(status, body)
    }

    fn checked(&self, status: StatusCode, body: Bytes) -> Result<Bytes, Error> {
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = said(&body);
        if status == StatusCode::NOT_FOUND && !text.is_empty() {
            return Err(Error::NotFound(text));
        }
        Err(Error::Refused { address: self.address, status: status.as_u16(), text })
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), Error> {
        self.within(ANSWER_WITHIN, Request::get(path), Bytes::new()).await
    }

    async fn within(
        &self,
        time: Duration,
        request: Builder,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error> {
        tokio::time::timeout(time, self.ask(request, body)).await.unwrap_or_else(|_| {
            Err(self.unreachable(format!("nothing within {} s", time.as_secs())))
        })
    }

    async fn ask(&self, request: Builder, body: Bytes) -> Result<(StatusCode, Bytes), Error> {
        let stream =
            TcpStream::connect(self.address).await.map_err(|e| self.unreachable(plain(&e)))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|e| self.not_ours(&e))?;
        let request = request
            .header(header::HOST, self.address.to_string())
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|e| self.not_ours(&e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| self.not_ours(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
            let body = body.map_err(|e| self.not_ours(&*e))?;
            Ok((status, body.to_bytes()))
        };
        // The connection is driven beside the exchange and dropped with it: no task is spawned.
        // It may end first, in good order, while the exchange still hands over the last bytes.
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = connection => {
                ended.map_err(|e| self.not_ours(&e))?;
                exchange.await
            }
        }
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { address: self.address, reason }
    }

    fn not_ours(&self, error: &dyn std::error::Error) -> Error {
        Error::NotOurs { address: self.address, reason: error.to_string() }
    }
}

/// Why the agent refuses: `{"error": …}`, else the whole body.
fn said(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        error: String,
    }
    match serde_json::from_slice::<Said>(body) {
        Ok(said) => said.error,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

/// The text of an I/O error without "(os error 111)".
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// Percent-encodes what is not unreserved (RFC 3986 §2.3).
fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String never fails");
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
