//! The header of the PROXY protocol, version 2 (`portolan.dev/proxy-protocol: v2`), which tells a
//! backend who the client is. Without I/O.
//!
//! The client's address is the one its own cluster vouches for; the destination is the backend
//! itself, since the address that the client called means nothing here. Families that differ are
//! told as IPv6, the IPv4 one mapped. A client without an address is told as `LOCAL`: the backend
//! then goes by the connection's own addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

/// Twelve octets that begin no other protocol.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of nobody.
const LOCAL: u8 = 0x20;
/// Version 2, on behalf of a client.
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// The longest header made here: signature, command, family, length and two IPv6 addresses.
const LONGEST: usize = 52;

/// A header, ready to be written.
pub(super) type Header = SmallVec<[u8; LONGEST]>;

/// The header for a connection to `backend` on behalf of `client`.
pub(super) fn header(client: Option<SocketAddr>, backend: SocketAddr) -> Header {
    let mut header = Header::from_slice(&SIGNATURE);
    let Some(client) = client else {
        header.extend_from_slice(&[LOCAL, UNSPECIFIED, 0, 0]);
        return header;
    };
    match (client.ip(), backend.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend_from_slice(&[PROXY, TCP4, 0, 12]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (from, to) => {
            header.extend_from_slice(&[PROXY, TCP6, 0, 36]);
            header.extend_from_slice(&mapped(from).octets());
            header.extend_from_slice(&mapped(to).octets());
        }
    }
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&backend.port().to_be_bytes());
    header
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &[u8] = &[0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

    fn rest(client: Option<&str>, backend: &str) -> Vec<u8> {
        let header = header(client.map(|text| text.parse().unwrap()), backend.parse().unwrap());
        let rest = header.strip_prefix(START).expect("the signature");
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        assert_eq!(rest.len(), 4 + length, "the length covers what follows");
        assert!(!header.spilled(), "no allocation");
        rest.to_vec()
    }

    #[test]
    fn ipv4() {
        assert_eq!(
            rest(Some("192.0.2.1:56324"), "198.51.100.7:443"),
            [0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb]
        );
    }

    #[test]
    fn ipv6() {
        let mut wanted = vec![0x21, 0x21, 0, 36];
        wanted.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        wanted.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        wanted.extend([0, 1, 0xff, 0xff]);
        assert_eq!(rest(Some("[2001:db8::1]:1"), "[2001:db8::2]:65535"), wanted);
    }

    #[test]
    fn two_families_are_told_as_ipv6() {
        let v4 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        let v6 = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let out = rest(Some("192.0.2.1:80"), "[2001:db8::2]:81");
        assert_eq!(out[..4], [0x21, 0x21, 0, 36]);
        assert_eq!((&out[4..20], &out[20..36]), (v4.as_slice(), v6.as_slice()));
        let back = rest(Some("[2001:db8::2]:81"), "192.0.2.1:80");
        assert_eq!((&back[4..20], &back[20..36]), (v6.as_slice(), v4.as_slice()));
        assert_eq!(back[36..], [0, 81, 0, 80]);
    }

    #[test]
    fn a_client_without_an_address_is_local() {
        assert_eq!(rest(None, "192.0.2.1:80"), [0x20, 0, 0, 0]);
    }
}
