//! How the API server is reached: one client for watches, one for writes.
