//! The admin port: ready, live, metrics, JSON state.

pub mod json;
