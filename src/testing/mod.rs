//! Fakes of the outside parties, and whole agents to put between them.
//!
//! For tests and benches only (feature `testing`); nothing below imports it. Helpers panic with
//! a clear text instead of returning errors.

mod backend;
mod dns;
pub mod fuzz;
pub mod kube;
pub mod peer;
mod process;
pub mod table;
pub mod trust;
pub mod wire;
mod world;

pub use backend::{Backend, drain};
pub use dns::{dns_exchange, dns_exchange_from, dns_query, name_text, record_data};
pub use process::Process;
pub use world::{Agent, PATIENCE, World};
