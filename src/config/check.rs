//! Looks at what a configuration points at, without starting anything.
