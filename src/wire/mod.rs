//! Frames and messages between gateways: bytes only.
//!
//! [`frame`] is what travels on data connections, [`control`] what travels on control
//! connections, [`sibling`] what replicas of one cluster tell one another. Nothing here knows sockets, tasks or time.

pub mod control;
mod delimited;
pub mod frame;
pub mod sibling;
