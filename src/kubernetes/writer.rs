//! Brings the objects to what should exist.
