//! Session affinity by rendezvous hashing, without I/O: the same client meets the same candidate
//! whoever asks.
//!
//! Every candidate draws a number from its own name and the client's address, and the highest
//! wins: no state, no order, no seed. So any importing and any exporting replica come to the same
//! place, in every process and every version, and a candidate that goes moves only its own
//! clients. The functions below are for ever: another one would move every client.
//! Not here: which candidates there are (`order`, `balance`).

use std::net::{IpAddr, SocketAddr};

/// FNV-1a, 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A client, as far as affinity goes: its address without the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client(u64);

/// A candidate's name, hashed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(u64);

impl Client {
    /// The client of this address, canonical.
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(v4) => hash([v4.octets().as_slice()]),
            IpAddr::V6(v6) => hash([v6.octets().as_slice()]),
        })
    }

    /// What a candidate draws for this client: the highest wins.
    pub(super) fn score(self, name: Name) -> u64 {
        mix(self.0 ^ name.0)
    }

    /// What a candidate draws that should win a share of all clients in proportion to `weight`.
    pub(super) fn weighted(self, name: Name, weight: f64) -> f64 {
        weight / -unit(self.score(name)).ln()
    }

    /// Which part of a candidate's clients this one belongs to, from 0 to 1: one that takes only
    /// a share keeps those below it. It says nothing about the score.
    pub(super) fn part(self, name: Name) -> f64 {
        unit(mix(!self.score(name)))
    }
}

impl Name {
    /// A cluster's.
    pub(super) fn of_cluster(name: &str) -> Self {
        Self(hash([name.as_bytes()]))
    }

    /// A backend's.
    pub(super) fn of_backend(address: SocketAddr) -> Self {
        let port = address.port().to_be_bytes();
        Self(match address.ip() {
            IpAddr::V4(v4) => hash([v4.octets().as_slice(), &port]),
            IpAddr::V6(v6) => hash([v6.octets().as_slice(), &port]),
        })
    }
}

fn hash<const N: usize>(parts: [&[u8]; N]) -> u64 {
    let octets = parts.into_iter().flatten();
    mix(octets.fold(FNV_OFFSET, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(FNV_PRIME)))
}

/// A number above 0 and below 1.
fn unit(bits: u64) -> f64 {
    // 53 bits are what the type holds exactly; a half keeps both ends out.
    ((bits >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// Spreads every bit over all (the finalizer of MurmurHash3).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(number: u32) -> Client {
        Client::of(Ipv4Addr::from(0x0a00_0000 + number).into())
    }

    fn backend(number: u8) -> Name {
        Name::of_backend(SocketAddr::from(([10, 1, 0, number], 8080)))
    }

    fn winner(client: Client, among: &[u8]) -> u8 {
        *among.iter().max_by_key(|number| client.score(backend(**number))).unwrap()
    }

    #[test]
    fn the_function_is_for_ever() {
        let v6 = Client::of("2001:db8::1".parse().unwrap());
        let drawn = [
            client(1).score(backend(1)),
            client(1).score(Name::of_cluster("paris")),
            v6.score(Name::of_backend("[2001:db8::2]:80".parse().unwrap())),
        ];
        let wanted = [0x7983_4bc9_f0e3_46f1, 0x7095_60a5_7fef_d93b, 0x73f9_0845_5e41_f7e5];
        assert_eq!(drawn, wanted, "another function would move every client");
    }

    #[test]
    fn each_candidate_wins_its_fair_share_and_one_gone_moves_only_its_own() {
        let all: Vec<u8> = (0..10).collect();
        let mut won = [0; 10];
        for number in 0..10_000 {
            let before = winner(client(number), &all);
            won[usize::from(before)] += 1;
            let left: Vec<u8> = all.iter().copied().filter(|other| *other != 3).rev().collect();
            let after = winner(client(number), &left);
            assert!(after == before || before == 3, "client {number} moved for nothing");
        }
        assert!(won.iter().all(|won| (850..1_150).contains(won)), "{won:?}");
    }

    #[test]
    fn a_share_of_a_candidates_clients_is_the_same_whoever_else_there_is() {
        let all: Vec<u8> = (0..4).collect();
        let own: Vec<Client> =
            (0..10_000).map(client).filter(|client| winner(*client, &all) == 2).collect();
        let kept = own.iter().filter(|client| client.part(backend(2)) < 0.3).count();
        assert!(kept.abs_diff(own.len() * 3 / 10) < own.len() / 20, "{kept} of {}", own.len());
    }

    #[test]
    fn weights_share_the_clients_in_proportion() {
        let (small, large) = (Name::of_cluster("small"), Name::of_cluster("large"));
        let to_small = (0..10_000)
            .filter(|number| {
                let client = client(*number);
                client.weighted(small, 100.0) > client.weighted(large, 300.0)
            })
            .count();
        assert!((2_300..2_700).contains(&to_small), "{to_small} of 10 000 for a quarter");
    }
}
