//! Fakes for tests and benches.

pub mod table;
