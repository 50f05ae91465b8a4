//! Fakes of the outside parties for tests and benches. Nothing below may use this; helpers panic
//! with a clear text instead of returning errors.

pub mod trust;
