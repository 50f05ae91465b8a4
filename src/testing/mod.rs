//! Fakes of the outside parties, and whole agents to put between them.
//!
//! For tests and benches only (feature `testing`); nothing below imports it.

mod dns;
mod process;
pub mod trust;
mod world;

pub use dns::{dns_exchange, dns_query};
pub use process::Process;
pub use world::{Agent, PATIENCE, World};
