//! Fakes for tests and benches.
