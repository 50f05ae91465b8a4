//! Saved state: atomic, checksummed, versioned files.
