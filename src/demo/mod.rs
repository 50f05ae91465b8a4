//! Three clouds on one machine.
