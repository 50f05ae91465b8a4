//! Clients of the admin port and small tools.
