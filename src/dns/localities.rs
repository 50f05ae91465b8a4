//! Where clients stand, by the network of their address.
//!
//! Networks may lie within one another: the longest that holds an address counts. A subnet that a
//! resolver tells (RFC 7871) is known only up to its prefix, so that no network narrower than that
//! is taken for it. Besides the place there is always a scope: the widest network around the
//! address whose every part stands at the same place.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::Locality;

/// Where client networks stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Localities {
    /// Each locality once; the networks name them by index.
    places: Arc<[Locality]>,
    v4: Arc<[Network]>,
    v6: Arc<[Network]>,
}

/// One network of a family. Addresses of both families begin at the highest bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    first: u128,
    prefix: u8,
    /// The index of its locality.
    place: u16,
    /// The index of the narrowest network around it.
    around: Option<u16>,
}

/// Whom an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    /// So many of the address's bits are known; the others are 0.
    pub(super) known: u8,
}

/// What its address says of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// The index of its locality; none in no network.
    pub(super) place: Option<u16>,
    /// So many bits of the address must be equal for the same place.
    pub(super) scope: u8,
}

impl Localities {
    /// From each network with its locality. Of two equal networks the first counts, and no more
    /// than 65 535 are looked at.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (IpNet, Locality)>) -> Self {
        let mut places: Vec<Locality> = Vec::new();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, locality) in entries.into_iter().take(u16::MAX.into()) {
            let known = places.iter().position(|place| *place == locality);
            let place = known.unwrap_or(places.len());
            if known.is_none() {
                places.push(locality);
            }
            let family = if network.addr().is_ipv4() { &mut v4 } else { &mut v6 };
            family.push(Network {
                first: bits(network.network()),
                prefix: network.prefix_len(),
                place: u16::try_from(place).unwrap_or(u16::MAX),
                around: None,
            });
        }
        Self { places: places.into(), v4: nested(v4), v6: nested(v6) }
    }

    /// Whether nobody stands elsewhere.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The localities, each once.
    pub(super) fn places(&self) -> &[Locality] {
        &self.places
    }

    /// Where a client stands.
    pub(super) fn find(&self, client: Client) -> Standing {
        let networks = if client.address.is_ipv4() { &self.v4 } else { &self.v6 };
        let address = bits(client.address);
        let after = networks.partition_point(|network| network.first <= address);
        // Of all networks that do not hold the address, one of its two neighbours has the most
        // bits in common with it.
        let apart = |network: &Network| common(network.first, address).saturating_add(1);
        let mut scope = networks.get(after).map_or(0, apart);
        let mut at = after.checked_sub(1);
        if let Some(before) = at.and_then(|at| networks.get(at)) {
            scope = scope.max(if before.holds(address) { before.prefix } else { apart(before) });
        }
        while let Some(network) = at.and_then(|at| networks.get(at)) {
            if network.holds(address) && network.prefix <= client.known {
                return Standing { place: Some(network.place), scope: scope.max(network.prefix) };
            }
            at = network.around.map(usize::from);
        }
        Standing { place: None, scope }
    }
}

impl Network {
    fn holds(&self, address: u128) -> bool {
        common(self.first, address) >= self.prefix
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// How many leading bits are equal.
fn common(one: u128, other: u128) -> u8 {
    u8::try_from((one ^ other).leading_zeros()).unwrap_or(u8::MAX)
}

/// In the order of the look-up, each with the one around it.
fn nested(mut networks: Vec<Network>) -> Arc<[Network]> {
    networks.sort_by_key(|network| (network.first, network.prefix));
    networks.dedup_by_key(|network| (network.first, network.prefix));
    let mut open: Vec<usize> = Vec::new();
    for at in 0..networks.len() {
        let first = networks[at].first;
        while open.pop_if(|around| !networks[*around].holds(first)).is_some() {}
        networks[at].around = open.last().and_then(|around| u16::try_from(*around).ok());
        open.push(at);
    }
    networks.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::table::locality;

    fn localities(entries: &[(&str, &str)]) -> Localities {
        Localities::new(entries.iter().map(|(net, place)| (net.parse().unwrap(), locality(place))))
    }

    /// The place as text (`-` for none) and the scope.
    fn found(of: &Localities, network: &str) -> (String, u8) {
        let network: IpNet = network.parse().unwrap();
        let client = Client { address: network.network(), known: network.prefix_len() };
        let Standing { place, scope } = of.find(client);
        let region = |place: u16| of.places()[usize::from(place)].region.to_string();
        (place.map_or_else(|| "-".to_owned(), region), scope)
    }

    #[test]
    fn the_longest_network_that_is_known_to_hold_the_client_counts() {
        let of = localities(&[
            ("10.1.0.0/16", "paris"),
            ("10.1.2.0/24", "lyon"),
            ("10.1.2.128/25", "paris"),
            ("10.3.0.0/16", "oslo"),
            ("2001:db8::/48", "paris"),
        ]);
        for (client, place, scope) in [
            ("10.1.2.3/32", "lyon", 25),
            ("10.1.2.129/32", "paris", 25),
            ("10.1.3.1/32", "paris", 24),
            ("10.1.200.1/32", "paris", 17),
            ("10.3.0.1/32", "oslo", 16),
            ("10.2.0.1/32", "-", 16),
            ("192.0.2.0/24", "-", 1),
            // Known too little of: the client may stand at several places.
            ("10.1.2.0/24", "lyon", 25),
            ("10.1.2.0/23", "paris", 25),
            ("10.1.0.0/16", "paris", 23),
            ("10.0.0.0/8", "-", 16),
            ("2001:db8:0:9::/56", "paris", 48),
            ("2001:db8:1::/56", "-", 48),
            ("::/0", "-", 3),
        ] {
            assert_eq!(found(&of, client), (place.to_owned(), scope), "{client}");
        }
        assert_eq!(found(&localities(&[]), "10.0.0.1/32"), ("-".to_owned(), 0));
        let all = localities(&[("0.0.0.0/0", "eu")]);
        assert_eq!(found(&all, "10.0.0.1/32"), ("eu".to_owned(), 0));
        assert_eq!(found(&all, "2001:db8::/48"), ("-".to_owned(), 0));
    }

    fn any_network() -> impl Strategy<Value = IpNet> {
        // Few bits differ, so that many networks lie within one another.
        (0u32..64, 24u8..=32).prop_map(|(low, prefix)| {
            let address = std::net::Ipv4Addr::from_bits(0x0A00_0000 + low);
            IpNet::new(address.into(), prefix).unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn places_are_those_of_a_plain_search_and_hold_within_the_scope(
            networks in proptest::collection::vec((any_network(), 0..3usize), 0..12),
            low in 0u32..64,
        ) {
            let places = ["a", "b", "c"].map(locality);
            let entries = networks.iter().map(|(net, place)| (*net, places[*place].clone()));
            let of = Localities::new(entries);
            let address = |low: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0A00_0000 + low));
            let place = |low: u32| {
                let standing = of.find(Client { address: address(low), known: 32 });
                (standing.place.map(|at| of.places()[usize::from(at)].clone()), standing.scope)
            };
            let (found, scope) = place(low);
            let mut holding: Vec<_> =
                networks.iter().filter(|(net, _)| net.contains(&address(low))).collect();
            // The first of equal ones counts.
            holding.sort_by_key(|(net, _)| net.prefix_len());
            let longest = holding.last().map(|(net, _)| *net);
            let wanted = holding.iter().find(|(net, _)| Some(*net) == longest);
            prop_assert_eq!(&found, &wanted.map(|(_, at)| places[*at].clone()));
            let scope = IpNet::new(address(low), scope).unwrap();
            for other in (0..64).filter(|other| scope.contains(&address(*other))) {
                prop_assert_eq!(&place(other).0, &found, "{} within {}", other, scope);
            }
        }
    }
}
