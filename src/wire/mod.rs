//! Frames and messages between gateways: bytes only.
//!
//! [`frame`] is what travels on data connections, [`control`] what travels on control
//! connections. Nothing here knows sockets, tasks or time.

pub mod control;
pub mod frame;
