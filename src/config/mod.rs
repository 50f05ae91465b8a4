//! What the user wrote, checked once.
