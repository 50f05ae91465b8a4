//! The kinds that are watched, as far as they are needed.
