//! The commands that ask a running agent, and those that prepare one.

pub mod client;
