//! Portolan: a multi-cluster service mesh with no sidecar, no CNI condition and no hub.
//!
//! Every cluster runs this one binary. It exports the cluster's services to its peers over mutual
//! TLS, answers `<service>.<namespace>.svc.clusterset.local`, and carries each connection to the
//! nearest cluster that is healthy, by measurement; datagrams too.
//!
//! # The map
//!
//! A module uses only modules of the rows above it; `conformance/layers.rs` enforces the table.
//!
//! | row | modules | holds |
//! |---|---|---|
//! | base | [`clock`], [`drain`], [`backoff`], [`telemetry`] | time, shutdown, pauses, logs |
//! | words | [`model`] | names, ports, addresses: each made only by parsing |
//! | decisions | [`catalog`] and [`health`] → [`routes`] → [`zone`], [`objects`]; [`vips`]; [`wire`] | pure, synchronous; `now` is an argument |
//! | shared tools | [`tls`], [`store`] | identities and the gateway port; saved state |
//! | edges | [`files`], [`kubernetes`], [`peering`], [`siblings`], [`gateway`], [`dns`], [`admin`] | one outside world each; none knows another |
//! | composition | [`config`], [`app`] | what the user wrote; build, run, drain |
//! | top | [`args`], [`commands`], [`demo`] | the command line |
//!
//! # Invariants
//!
//! - One immutable [`routes::RouteTable`] behind one swap, with one writer: the planner task of
//!   [`app`]. Readers load it once per request and never hold it over an await.
//! - Edges report facts; what they mean is decided in [`health`], [`catalog`] and [`routes`].
//! - A peer is who its certificate says ([`tls::PeerIdentity`]) and is believed only about itself
//!   ([`catalog::admit`]).
//! - Until a peer has accepted a stream, no byte of the client has been read; so any failure
//!   before that moves to another candidate unseen.
//! - Input from outside is cut at a cap, refused with its reason, and never costs what was good.
//! - A long-lived task that ends early ends the process and says which; a panic in a
//!   per-connection task ends that connection only.
//!
//! # The five data paths
//!
//! 1. **A change at home**: [`files`] reads manifests → [`catalog::Assembly`] → planner →
//!    [`routes::RouteTable`] and [`catalog::LocalCatalog`] → [`peering`] publishes it.
//! 2. **A change at a peer**: [`peering`] mirrors its catalog → [`catalog::admit`] → planner →
//!    [`catalog::merge`] and [`routes::plan`] → the table.
//! 3. **A question**: [`dns`] finds its octets, compiled when the table was published as [`zone::answer`] defines them.
//! 4. **A connection**: [`gateway`] accepts on VIP:port → candidates from the table → a pooled
//!    tunnel ([`wire::frame`]) → the peer's inbound half looks up its own export → a pod. A
//!    client's datagrams go the same way in a session ([`wire::datagram`]).
//! 5. **A probe**: [`gateway`] pings every peer replica → [`health`] → planner → the table; what
//!    no longer answers leaves routes and names at once.

pub mod backoff;
pub mod clock;
pub mod drain;
pub mod telemetry;

pub mod model;

pub mod catalog;
pub mod health;
pub mod objects;
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
pub mod kubernetes;
pub mod peering;
pub mod siblings;

pub mod app;
pub mod config;

pub mod args;
pub mod commands;
pub mod demo;

#[cfg(feature = "testing")]
pub mod testing;
