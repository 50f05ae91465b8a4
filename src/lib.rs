//! Portolan: a multi-cluster service mesh with no sidecar, no CNI condition and no hub.

pub mod backoff;
pub mod clock;
pub mod drain;
pub mod telemetry;

pub mod model;

pub mod catalog;
pub mod health;
pub mod routes;
pub mod vips;
pub mod wire;
pub mod zone;

pub mod store;
pub mod tls;

pub mod admin;
pub mod dns;
pub mod files;
pub mod gateway;
pub mod peering;

pub mod app;
pub mod config;

pub mod args;
pub mod commands;
pub mod demo;

#[cfg(feature = "testing")]
pub mod testing;
