//! Is a peer alive, and how far is it? Pure: facts and `now` in, views out.
//!
//! Invariants: a state changes only in `observe` and `tick`; the same facts at the same times
//! give the same views; a PONG is never too late to count as heard.
//! Not here: sockets, probing (the gateway probes at the pace a view asks for), ordering
//! (`routes`).

mod fact;
mod view;

pub use fact::{DialFault, Fact, ProbeKind, Target};
pub use view::{Pace, PeerState, PeerView, ReplicaView};
