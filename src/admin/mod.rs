//! The admin port: ready, live, metrics, JSON state, the zone, and drains.
//!
//! It shows on `GET` without a body, and changes one thing only, what is drained, on `POST /drain`
//! ([`order`]). What it shows is what [`View`] gives, which
//! holds no keys. Slow or many clients cannot hold it up: headers and whole connections have
//! deadlines, connections a cap, and whatever takes long to render runs off the runtime's
//! workers. It answers until drain is forced, so that a draining agent can still be watched.
//! Not here: the name grammar (the view resolves), what the figures mean.

mod answer;
pub mod json;
pub mod order;
mod server;
pub mod zone;

use std::net::SocketAddr;

use crate::model::ServiceKey;
use crate::zone::Dump;
pub use server::{Error, Server};

/// Where the admin port listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Everything.
    pub listen: SocketAddr,
    /// A second listener with `/livez`, `/readyz` and `/metrics` only.
    pub probes: Option<SocketAddr>,
}

/// What the admin port shows. Implementations answer from memory and do not wait.
pub trait View: Send + Sync {
    /// Whether clients may be sent here.
    fn ready(&self) -> bool;

    /// Whether the process works; `false` asks for a restart.
    fn live(&self) -> bool;

    /// The whole state.
    fn state(&self) -> json::StateJson;

    /// The service that `text` names, as people write it (`web.shop`, the whole DNS name, an
    /// optional `:port`); the error says what a name looks like.
    fn resolve_name(&self, text: &str) -> Result<ServiceKey, String>;

    /// The drains in force.
    fn drains(&self) -> Vec<json::DrainJson>;

    /// All that DNS answers.
    fn zone(&self) -> Dump;

    /// A service; `None` where no cluster exports it.
    fn explain(&self, key: &ServiceKey) -> Option<json::ServiceJson>;
}

#[cfg(test)]
mod tests;
