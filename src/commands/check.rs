//! `check --config FILE`: everything that can be known before starting.
