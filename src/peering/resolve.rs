//! Where a peer is dialled: host names to addresses (again on failure and every 30 s, the last
//! good answer kept), and the addresses that the peer itself told us.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::model::{PeerAddress, canonical};

/// Addresses that one name may have, and addresses that a peer may tell.
pub(super) const MAX_ADDRESSES: usize = 16;
/// Between two look-ups of a name.
const REFRESH: Duration = Duration::from_secs(30);
/// After a failure: of the look-up, or of a dial to what it gave.
const RETRY: Duration = Duration::from_secs(2);

type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// How host names are resolved.
#[derive(Clone)]
pub struct Lookup(Arc<dyn Fn(String, u16) -> Answer + Send + Sync>);

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

impl Lookup {
    /// The system's resolver.
    #[must_use]
    pub fn system() -> Self {
        Self::new(
            |host, port| async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) },
        )
    }

    /// A resolver of one's own: host and port to addresses.
    pub fn new<F, A>(lookup: F) -> Self
    where
        F: Fn(String, u16) -> A + Send + Sync + 'static,
        A: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |host, port| Box::pin(lookup(host, port))))
    }

    pub(super) async fn resolve(&self, name: &PeerAddress) -> io::Result<Vec<SocketAddr>> {
        match (name.socket(), name.host_name()) {
            (Some(address), _) => Ok(vec![address]),
            (None, host) => (self.0)(host.unwrap_or_default().to_owned(), name.port().get()).await,
        }
    }
}

#[derive(Debug)]
struct Name {
    /// The last good answer.
    addresses: Vec<SocketAddr>,
    state: NameState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameState {
    Due(Instant),
    Asked,
}

/// The addresses of one peer: configured, then learned.
#[derive(Debug)]
pub(super) struct AddressBook {
    configured: Vec<PeerAddress>,
    learned: Vec<PeerAddress>,
    names: BTreeMap<PeerAddress, Name>,
    own: Vec<PeerAddress>,
    own_ranges: Vec<IpNet>,
}

impl AddressBook {
    /// `own` and `own_ranges` are ours: no peer may send us there.
    pub(super) fn new(own: Vec<PeerAddress>, own_ranges: Vec<IpNet>) -> Self {
        Self {
            configured: Vec::new(),
            learned: Vec::new(),
            names: BTreeMap::new(),
            own,
            own_ranges,
        }
    }

    /// What the operator wrote.
    pub(super) fn configure(&mut self, addresses: &[PeerAddress], now: Instant) {
        self.configured = addresses.to_vec();
        self.watch_names(now);
    }

    /// What the peer says of itself; an empty list tells nothing.
    pub(super) fn learn(&mut self, addresses: &[PeerAddress], now: Instant) {
        if addresses.is_empty() {
            return;
        }
        let mut learned = Vec::new();
        for address in addresses.iter().filter(|address| !self.own.contains(*address)) {
            if learned.len() < MAX_ADDRESSES && !learned.contains(address) {
                learned.push(address.clone());
            }
        }
        self.learned = learned;
        self.watch_names(now);
    }

    fn watch_names(&mut self, now: Instant) {
        let Self { configured, learned, names, .. } = self;
        let wanted = |name: &PeerAddress| configured.contains(name) || learned.contains(name);
        names.retain(|name, _| wanted(name));
        for name in configured.iter().chain(learned.iter()) {
            if name.host_name().is_some() {
                names
                    .entry(name.clone())
                    .or_insert_with(|| Name { addresses: Vec::new(), state: NameState::Due(now) });
            }
        }
    }

    /// The names to look up now; each is asked until its outcome is told.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PeerAddress> {
        let mut due = Vec::new();
        for (address, name) in &mut self.names {
            if matches!(name.state, NameState::Due(at) if at <= now) {
                name.state = NameState::Asked;
                due.push(address.clone());
            }
        }
        due
    }

    /// The outcome of a look-up: `None` is a failure, as is an answer without an address.
    pub(super) fn resolved(
        &mut self,
        name: &PeerAddress,
        answer: Option<Vec<SocketAddr>>,
        now: Instant,
    ) {
        let Some(name) = self.names.get_mut(name) else { return };
        match answer.filter(|answer| !answer.is_empty()) {
            Some(mut answer) => {
                answer.truncate(MAX_ADDRESSES);
                name.addresses = answer;
                name.state = NameState::Due(now + REFRESH);
            }
            None => name.state = NameState::Due(now + RETRY),
        }
    }

    /// A dial failed: the name that gave this address is looked up again soon.
    pub(super) fn dial_failed(&mut self, address: SocketAddr, now: Instant) {
        for name in self.names.values_mut().filter(|name| name.addresses.contains(&address)) {
            if let NameState::Due(at) = &mut name.state {
                *at = (*at).min(now + RETRY);
            }
        }
    }

    /// Whether this name is still looked up.
    pub(super) fn knows(&self, name: &PeerAddress) -> bool {
        self.names.contains_key(name)
    }

    /// When the next look-up is due.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let due = |name: &Name| match name.state {
            NameState::Due(at) => Some(at),
            NameState::Asked => None,
        };
        self.names.values().filter_map(due).min()
    }

    /// Where to dial, without duplicates.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = Vec::new();
        for address in self.configured.iter().flat_map(|address| self.sockets(address)) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        let host_local = all.iter().any(|address| is_host_local(address.ip()));
        let told = self.learned.iter().flat_map(|address| self.sockets(address));
        let mut learned = Vec::new();
        for address in told.filter(|address| self.may_lead_to(*address, host_local)) {
            if !all.contains(&address) && learned.len() < MAX_ADDRESSES {
                learned.push(address);
                all.push(address);
            }
        }
        all
    }

    fn sockets(&self, address: &PeerAddress) -> Vec<SocketAddr> {
        match address.socket() {
            Some(socket) => vec![socket],
            None => self.names.get(address).map_or_else(Vec::new, |name| {
                let fold = |a: &SocketAddr| SocketAddr::new(canonical(a.ip()), a.port());
                name.addresses.iter().map(fold).collect()
            }),
        }
    }

    /// Whether a peer may tell us to dial that: never ourselves, never what is no host, and what
    /// means another host on every host only if the operator reaches the peer that way too.
    fn may_lead_to(&self, address: SocketAddr, host_local: bool) -> bool {
        let ip = address.ip();
        let ours = self.own.iter().any(|own| own.socket() == Some(address))
            || self.own_ranges.iter().any(|range| range.contains(&ip));
        !ours
            && !ip.is_unspecified()
            && !ip.is_multicast()
            && ip != IpAddr::from([255; 4])
            && address.port() != 0
            && (host_local || !is_host_local(ip))
    }
}

fn is_host_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &[&str]) -> Vec<PeerAddress> {
        list.iter().map(|text| PeerAddress::parse(text).unwrap()).collect()
    }

    fn sockets(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn book(configured: &[&str], now: Instant) -> AddressBook {
        let own_ranges = vec!["10.9.0.0/16".parse().unwrap()];
        let mut book = AddressBook::new(parse(&["198.51.100.1:8443"]), own_ranges);
        book.configure(&parse(configured), now);
        book
    }

    #[test]
    fn names_are_looked_up_again_and_the_last_good_answer_is_kept() {
        let now = crate::clock::now();
        let mut book = book(&["gw.example.org:8443"], now);
        let name = parse(&["gw.example.org:8443"]).remove(0);
        assert_eq!(book.due(now), std::slice::from_ref(&name));
        assert_eq!(book.next_wake(), None, "it is asked");
        book.resolved(&name, Some(sockets(&["192.0.2.1:8443", "192.0.2.2:8443"])), now);
        assert_eq!(book.addresses(), sockets(&["192.0.2.1:8443", "192.0.2.2:8443"]));
        assert_eq!(book.next_wake(), Some(now + REFRESH));
        for failure in [None, Some(Vec::new())] {
            book.due(now + REFRESH);
            book.resolved(&name, failure, now);
            assert_eq!(book.addresses().len(), 2, "last good kept");
            assert_eq!(book.next_wake(), Some(now + RETRY));
        }
        book.resolved(&name, Some(sockets(&["192.0.2.3:8443"])), now);
        assert_eq!(book.addresses(), sockets(&["192.0.2.3:8443"]), "it moved");
        book.dial_failed(sockets(&["192.0.2.3:8443"])[0], now);
        assert_eq!(book.next_wake(), Some(now + RETRY), "a failed dial asks again");
        book.configure(&parse(&["192.0.2.9:1"]), now);
        assert_eq!(book.addresses(), sockets(&["192.0.2.9:1"]));
        assert_eq!(book.next_wake(), None);
    }

    #[test]
    fn learned_addresses_come_after_the_configured_ones() {
        let now = crate::clock::now();
        let mut book = book(&["192.0.2.1:8443"], now);
        book.learn(&parse(&["192.0.2.2:8443", "192.0.2.1:8443"]), now);
        assert_eq!(book.addresses(), sockets(&["192.0.2.1:8443", "192.0.2.2:8443"]));
        book.learn(&[], now);
        assert_eq!(book.addresses().len(), 2, "silence tells nothing");
        let many: Vec<_> = (1..=40).map(|port| format!("192.0.2.7:{port}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        book.learn(&parse(&many), now);
        assert_eq!(book.addresses().len(), 1 + MAX_ADDRESSES);
    }

    #[test]
    fn a_peer_cannot_send_us_to_ourselves_or_to_our_own_host() {
        let now = crate::clock::now();
        let told = parse(&[
            "198.51.100.1:8443",
            "10.9.1.1:8443",
            "127.0.0.1:22",
            "169.254.169.254:80",
            "[::1]:22",
            "[fe80::1]:22",
            "224.0.0.1:1",
            "0.0.0.0:1",
            "evil.example.org:1",
        ]);
        let mut far = book(&["192.0.2.1:8443"], now);
        far.learn(&told, now);
        far.due(now);
        let name = parse(&["evil.example.org:1"]).remove(0);
        far.resolved(&name, Some(sockets(&["10.9.0.1:1", "127.0.0.1:1"])), now);
        assert_eq!(far.addresses(), sockets(&["192.0.2.1:8443"]));
        let mut near = book(&["127.0.2.1:8443"], now);
        near.learn(&parse(&["127.0.2.2:8443"]), now);
        assert_eq!(near.addresses().len(), 2, "a peer reached by loopback may tell another");
    }
}
