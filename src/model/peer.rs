//! Where a peer is: addresses, replicas, locality.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{DnsName, ParsePortError, PortNumber};

/// The port between clusters where an address names none.
const DEFAULT_GATEWAY_PORT: u16 = 8443;

/// Folds an IPv4-mapped IPv6 address into IPv4, so that one host has one address.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Where a cluster stands, for policy: labels, never distances. Empty means unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Box<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Box<str>,
}

/// One replica of a peer's gateway, random per start: a restarted process is another replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(u64);

impl ReplicaId {
    /// From its value on the wire.
    #[must_use]
    pub fn from_u64(value: u64) -> Self {
        Self(value)
    }

    /// Its value on the wire.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address at which a peer's gateways are reached: an IP or a host name, with a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    host: Host,
    port: PortNumber,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Ip(IpAddr),
    Name(DnsName),
}

impl PeerAddress {
    /// Parses `10.0.0.1:8443`, `[::1]:8443`, `gw.example.org:8443`; without a port, 8443.
    pub fn parse(text: &str) -> Result<Self, ParsePortError> {
        let refuse = || ParsePortError::Number(text.escape_default().to_string());
        if let Ok(address) = text.parse::<SocketAddr>() {
            let port = PortNumber::new(address.port().into())?;
            return Ok(Self { host: Host::Ip(canonical(address.ip())), port });
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            let port = PortNumber::new(DEFAULT_GATEWAY_PORT.into())?;
            return Ok(Self { host: Host::Ip(canonical(ip)), port });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u32>().map_err(|_| refuse())?),
            None => (text, DEFAULT_GATEWAY_PORT.into()),
        };
        let name = DnsName::parse(host).map_err(|_| refuse())?;
        Ok(Self { host: Host::Name(name), port: PortNumber::new(port)? })
    }

    /// The socket address, where the host is an IP.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port.get())),
            Host::Name(_) => None,
        }
    }

    /// The host name to resolve, where it is one.
    #[must_use]
    pub fn host_name(&self) -> Option<&str> {
        match &self.host {
            Host::Ip(_) => None,
            Host::Name(name) => Some(name.as_str()),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> PortNumber {
        self.port
    }
}

impl From<SocketAddr> for PeerAddress {
    /// Port 0 cannot be dialled and becomes the default port.
    fn from(address: SocketAddr) -> Self {
        let port = PortNumber::new(address.port().into())
            .or_else(|_| PortNumber::new(DEFAULT_GATEWAY_PORT.into()))
            .expect("the default port is a port");
        Self { host: Host::Ip(canonical(address.ip())), port }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port.get()).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerAddress {
    type Err = ParsePortError;
    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        Self::parse(text)
    }
}

impl Serialize for PeerAddress {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerAddress {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text: Arc<str> = Deserialize::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_in_every_spelling() {
        for (text, shown) in [
            ("10.0.0.1:9000", "10.0.0.1:9000"),
            ("10.0.0.1", "10.0.0.1:8443"),
            ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
            ("2001:db8::1", "[2001:db8::1]:8443"),
            ("[::ffff:10.0.0.1]:9000", "10.0.0.1:9000"),
            ("gw.example.org:9000", "gw.example.org:9000"),
            ("gw.example.org", "gw.example.org:8443"),
        ] {
            assert_eq!(PeerAddress::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for bad in ["", ":8443", "10.0.0.1:0", "a b:1", "gw:99999", "gw:x"] {
            assert!(PeerAddress::parse(bad).is_err(), "{bad:?}");
        }
    }
}
