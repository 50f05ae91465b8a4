//! Frames and messages between gateways: bytes only.
<<<<<<< HEAD
//!
//! [`frame`] is what travels on data connections. Nothing here knows sockets, tasks or time.

pub mod frame;
=======

pub mod control;
>>>>>>> h-tls
