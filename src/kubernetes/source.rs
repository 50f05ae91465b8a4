//! From watched objects to source updates.
