//! Frames and messages between gateways: bytes only.
//!
//! [`frame`] is what travels on data connections, [`datagram`] what travels on datagram
//! connections, [`control`] on control connections, [`sibling`] what replicas of one cluster tell
//! one another. Nothing here knows sockets, tasks or time.

pub mod control;
pub mod datagram;
mod delimited;
pub mod frame;
pub mod sibling;
