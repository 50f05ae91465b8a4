//! A Kubernetes API server in memory, on a loopback port, that does what a test tells it.
//!
//! It keeps objects of any kind as JSON and answers as the real server does wherever a client
//! can tell: one counter of `resourceVersion`s, lists in pages of one consistent state, watches
//! with bookmarks, timeouts and 410, conflicts, preconditions, `generation`, status apart from
//! the rest, owners that take their dependents along, Services with addresses of the cluster's
//! families, namespaces that must exist. A change that changes nothing is none.
//!
//! Not here: authentication, admission webhooks, schemas of custom resources, server-side apply
//! and strategic merge (415), controllers (no slices are made for Services; a namespace empties
//! at once). An object whose owner is not there is left alone.
//!
//! ```no_run
//! # use portolan::testing::kube::{ApiServer, Rule, Verb};
//! # use serde_json::json;
//! # async fn test() {
//! let server = ApiServer::start().await;
//! server.put(json!({
//!     "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "web" },
//!     "spec": { "ports": [{ "port": 80 }] },
//! }));
//! let full = server.fail(Rule::refuse(403).verb(Verb::Create).resource("services"));
//! // … start what is tested with `server.url()` …
//! server.await_request(|r| r.verb == Verb::Create && r.code == 403).await;
//! server.take_back(full);
//! server.await_object("services", "shop/derived", |object| object.is_some()).await;
//! # }
//! ```

mod addresses;
mod admit;
mod discovery;
mod drive;
mod exports;
mod http;
mod kinds;
mod list;
mod object;
mod patch;
mod path;
mod refusal;
mod rule;
mod script;
mod selector;
mod serve;
mod server;
mod services;
mod shared;
mod store;
mod watch;
mod writes;

pub use kinds::{Kind, Scope};
pub use rule::{Rule, Verb};
pub use script::{End, Request, RuleId};
pub use server::ApiServer;

#[cfg(test)]
mod tests;
