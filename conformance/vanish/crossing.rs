//! `CANCEL`, `RESET` and `DRAIN` that cross any other frame, at both roles: the connection stays
//! usable or is closed as the protocol says, and late frames belong to nobody.

mod acceptor;
mod opener;
