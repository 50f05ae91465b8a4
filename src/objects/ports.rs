//! Which port of the gateway stands for which port of an import, or of a remote pod of one.
//!
//! Behind a clusterset address that is the cluster's own, kube-proxy leads to a pod and a port,
//! and nothing tells the pod which service was meant but that port. A port is given in two
//! phases: it is in the book, so that every replica listens on it, and written into the derived
//! Service's annotation, one write before a slice names it.
//!
//! Invariants: no two ports of imports share a port of the gateway of the same protocol; what is
//! given stays given until it is released; a released port rests for [`PORT_RESTS`] before
//! another may have it, as connections and kube-proxy remember it. The same port finds the same
//! port of the gateway where it is free (it begins where its name hashes to), so that even books
//! that lost everything mostly agree. Not here: listening, writing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

use crate::model::{Callee, PodName, PortKey, PortNumber, Protocol, ServiceKey};
use crate::routes::GatewayPorts;

/// How long a released port rests before another port may have it.
pub const PORT_RESTS: Duration = Duration::from_secs(600);

/// No port of the gateway is left.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "no {protocol} port of the gateway is left for {key}: of {first} to {last}, {held} are in use and {resting} rest for up to 10 min after their release; widen the range of 'source.kubernetes.ports'"
)]
pub struct Exhausted {
    /// The name that gets none.
    pub key: Callee,
    /// The protocol.
    pub protocol: Protocol,
    /// The first port of the range.
    pub first: PortNumber,
    /// The last one.
    pub last: PortNumber,
    /// Ports that stand for one of an import.
    pub held: usize,
    /// Ports that rest.
    pub resting: usize,
}

/// One port of an import, or of a pod of it.
type Of = (Callee, PortKey);
/// One port of the gateway.
type At = (Protocol, PortNumber);

/// The ports of the gateway and what they stand for.
#[derive(Debug, Clone)]
pub struct PortBook {
    range: RangeInclusive<PortNumber>,
    held: BTreeMap<Callee, BTreeMap<PortKey, PortNumber>>,
    /// `held`, the other way round.
    book: Arc<GatewayPorts>,
    /// Whose they were, and until when they rest.
    resting: BTreeMap<At, (Of, Instant)>,
}

impl PortBook {
    /// An empty book of that range; it holds for each protocol by itself.
    #[must_use]
    pub fn new(range: RangeInclusive<PortNumber>) -> Self {
        Self { range, held: BTreeMap::new(), book: Arc::default(), resting: BTreeMap::new() }
    }

    /// What every port stands for: what a replica listens on.
    #[must_use]
    pub fn book(&self) -> Arc<GatewayPorts> {
        Arc::clone(&self.book)
    }

    /// The ports that stand for those of one import, or of a pod of it.
    #[must_use]
    pub fn held(&self, key: &Callee) -> Option<&BTreeMap<PortKey, PortNumber>> {
        self.held.get(key)
    }

    /// The pods of an import that hold ports, ascending.
    pub fn pods<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a PodName> {
        Callee::pods(&self.held, service).map(|(pod, _)| pod)
    }

    /// Takes over what the annotations of all derived Services record, in place of what is held:
    /// for a replica that begins to assign, and for those that follow one that does.
    /// A record outside the range, or of a port that another holds already, does not count: that
    /// port is given anew. Of two that claim one port, the one that held it before keeps it, else
    /// the first.
    pub fn restore<'a, I>(&mut self, recorded: I, now: Instant)
    where
        I: IntoIterator<Item = (&'a Callee, &'a BTreeMap<PortKey, PortNumber>)>,
    {
        let before = std::mem::take(&mut self.held);
        let book = std::mem::take(&mut self.book);
        let claims = recorded
            .into_iter()
            .flat_map(|(key, ports)| {
                let claim = |(port, at): (&PortKey, &PortNumber)| {
                    ((key.clone(), *port), (port.protocol, *at))
                };
                ports.iter().map(claim)
            })
            .filter(|((_, port), (_, at))| has_gateway(*port) && self.range.contains(at));
        let (kept, new): (Vec<(Of, At)>, Vec<_>) =
            claims.partition(|(of, at)| book.get(at) == Some(of));
        for (of, at) in kept.into_iter().chain(new) {
            if !self.book.contains_key(&at) {
                self.hold(of, at);
            }
        }
        for (key, ports) in before {
            for (port, number) in ports {
                let at = (port.protocol, number);
                if !self.book.contains_key(&at) {
                    self.resting.insert(at, ((key.clone(), port), now + PORT_RESTS));
                }
            }
        }
    }

    /// Gives each of these ports of an import one of the gateway; SCTP has no gateway and gets
    /// none. Ports of the import that are not named any more are released.
    ///
    /// # Errors
    /// None is left: what it held of the named ones it keeps ([`PortBook::held`]), and it gets
    /// nothing new.
    pub fn assign(
        &mut self,
        key: &Callee,
        ports: &BTreeSet<PortKey>,
        now: Instant,
    ) -> Result<&BTreeMap<PortKey, PortNumber>, Exhausted> {
        self.resting.retain(|_, (_, until)| now < *until);
        let held = self.held.entry(key.clone()).or_default();
        let dropped: Vec<PortKey> =
            held.keys().filter(|port| !ports.contains(port)).copied().collect();
        let wanted: Vec<PortKey> = ports
            .iter()
            .filter(|port| has_gateway(**port) && !held.contains_key(port))
            .copied()
            .collect();
        for port in dropped {
            self.free(key, port, now);
        }
        let mut chosen: Vec<(Of, At)> = Vec::with_capacity(wanted.len());
        for port in wanted {
            let of = (key.clone(), port);
            let at = self.find(&of, &chosen).ok_or_else(|| self.exhausted(key, port.protocol))?;
            chosen.push((of, at));
        }
        for (of, at) in chosen {
            self.hold(of, at);
        }
        Ok(self.held.entry(key.clone()).or_default())
    }

    /// Releases the ports of an import that is no more.
    pub fn release(&mut self, key: &Callee, now: Instant) {
        let ports: Vec<PortKey> =
            self.held.get(key).into_iter().flatten().map(|(port, _)| *port).collect();
        for port in ports {
            self.free(key, port, now);
        }
        self.held.remove(key);
    }

    fn hold(&mut self, of: Of, at: At) {
        self.resting.remove(&at);
        self.held.entry(of.0.clone()).or_default().insert(of.1, at.1);
        Arc::make_mut(&mut self.book).insert(at, of);
    }

    fn free(&mut self, key: &Callee, port: PortKey, now: Instant) {
        let held = self.held.get_mut(key).and_then(|ports| ports.remove(&port));
        if let Some(number) = held {
            let at = (port.protocol, number);
            Arc::make_mut(&mut self.book).remove(&at);
            self.resting.insert(at, ((key.clone(), port), now + PORT_RESTS));
        }
    }

    /// A free port, its own resting one before others.
    fn find(&self, of: &Of, chosen: &[(Of, At)]) -> Option<At> {
        let protocol = of.1.protocol;
        let own = self.resting.iter().find(|(_, (whose, _))| whose == of).map(|(at, _)| *at);
        if own.is_some() {
            return own;
        }
        let free = |at: &At| {
            !self.book.contains_key(at)
                && !self.resting.contains_key(at)
                && !chosen.iter().any(|(_, other)| other == at)
        };
        let (first, last) = (self.range.start().get(), self.range.end().get());
        let size = u32::from(last).checked_sub(first.into())? + 1;
        let start = hash(of) % size;
        (0..size)
            .filter_map(|step| PortNumber::new(u32::from(first) + (start + step) % size).ok())
            .map(|number| (protocol, number))
            .find(free)
    }

    fn exhausted(&self, key: &Callee, protocol: Protocol) -> Exhausted {
        let held = self.book.keys().filter(|at| at.0 == protocol).count();
        let resting = self.resting.keys().filter(|at| at.0 == protocol).count();
        let (first, last) = (*self.range.start(), *self.range.end());
        Exhausted { key: key.clone(), protocol, first, last, held, resting }
    }
}

/// Whether the gateway can carry it.
pub(super) fn has_gateway(port: PortKey) -> bool {
    match port.protocol {
        Protocol::Tcp | Protocol::Udp => true,
        Protocol::Sctp => false,
    }
}

fn hash((key, port): &Of) -> u32 {
    let sum = digest(&SHA256, format!("{key} {port}").as_bytes());
    sum.as_ref()[..4].iter().fold(0, |hash, octet| (hash << 8) | u32::from(*octet))
}

#[cfg(test)]
mod tests;
