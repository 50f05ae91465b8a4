//! Where calls go: `plan(&inputs, now)` orders, for every service and port, the clusters that
//! export it, with a reason for each.
//!
//! Invariants: one immutable [`RouteTable`] behind one swap ([`SharedTable`]), one writer; a
//! route depends on the inputs as sets, never on their order; names never route, (protocol,
//! number) does; shares move along ramps ([`Steering`]). Not here: health (given), addresses of gateways' connections (the gateway's).

mod inputs;
mod order;
#[cfg(test)]
mod place_tests;
mod plan;
mod pods;
mod pressure;
mod ramp;
mod shared;
mod steer;
mod table;
#[cfg(test)]
mod tests;

pub use inputs::{Inputs, PeerInput};
pub use order::tied_up_to;
pub use plan::{plan, plan_service, replan};
pub use pods::{MAX_POD_PORTS, MAX_REMOTE_PODS, RemotePod, RemotePods};
pub use pressure::{Answers, Pressure};
pub use shared::{SharedTable, TableWriter};
pub use steer::{By, Drained, Drains, Orders, Steered, Steering};
pub use table::{
    Candidate, DirectEndpoints, GatewayPorts, OpenPorts, PeerStatus, PortRoute, Reason, Route,
    RouteTable,
};
