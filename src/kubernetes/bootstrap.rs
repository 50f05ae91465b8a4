//! The own identity at start, before anything is watched.
