//! Peers that vanish, refuse, cross and lie, against whole agents through `app::build`.

mod after;
mod before;
mod crossing;
mod hostile;
mod panics;
mod replicas;
mod stage;
