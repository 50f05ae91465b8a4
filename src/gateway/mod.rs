//! Outbound listeners, inbound, tunnels, pool, byte pump and probes.
