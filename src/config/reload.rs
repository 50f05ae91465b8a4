//! What a changed file changes while running.
