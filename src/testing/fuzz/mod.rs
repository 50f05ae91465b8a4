//! What must hold for any octets from outside: one function per parser, for `conformance/fuzz`
//! and for the tests here, which run it over the committed corpus.
//!
//! A target panics where a promise is broken; otherwise it says nothing. Invariants: what is
//! read can be written and is read again as the same; what is refused was over a cap or out of
//! place; two sound ends never find each other out of place. Not here: sockets.

mod annotations;
mod dns;
mod frames;
mod messages;
mod seeds;
#[cfg(test)]
mod tests;

pub use seeds::{Seed, seeds};

/// One target: its name, which is its folder in the corpus, and what it does with an input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "frames", run: frames::from_peer },
    Target { name: "crossing", run: frames::crossing },
    Target { name: "control", run: messages::control },
    Target { name: "records", run: messages::records },
    Target { name: "sibling", run: messages::sibling },
    Target { name: "dns", run: dns::datagram },
    Target { name: "question", run: dns::question },
    Target { name: "annotations", run: annotations::lines },
];

/// Runs one target.
///
/// # Panics
/// When there is none of that name, or the input breaks a promise.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("no target is called {name}"));
    (target.run)(input);
}
