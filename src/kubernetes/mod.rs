//! The Kubernetes API server: a source of catalog changes, and where `objects` are applied.
//!
//! Not here: what should exist (`objects`), what a change means (`catalog`, `routes`).

mod bootstrap;
mod client;
mod events;
mod kinds;
mod lease;
mod mirror;
mod source;
mod view;
mod watch;
mod writer;
