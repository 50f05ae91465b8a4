//! Frames and messages between gateways: bytes only.

pub mod control;
