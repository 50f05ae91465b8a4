//! Frames and messages between gateways: bytes only.
