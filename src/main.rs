//! Portolan: one binary for every role of a cluster.

fn main() {}
