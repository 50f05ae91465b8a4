//! Which replica writes: the Lease.
