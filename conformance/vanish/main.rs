//! Peers that vanish, refuse, cross and lie, against whole agents through `app::build`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod after;
mod before;
mod crossing;
mod families;
mod hostile;
mod panics;
mod replicas;
mod stage;
