//! Identities, bundles, rustls configurations, and the one listener of the gateway port.
