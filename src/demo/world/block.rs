//! The loopback addresses of one demo: a block 127.N.0.0/16 that no other demo has, and ports
//! that nothing else on the machine holds.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::Cloud;

/// Blocks tried, in this order. Below 64 people keep their own things, 127.255 is the broadcast.
const BLOCKS: std::ops::Range<u8> = 77..127;

/// The port whose listener on 127.N.0.1 says that the block is taken.
const CLAIM_PORT: u16 = 7700;

/// Ports of the roles, the same in every cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Between clusters, and of the delay line.
    pub(crate) gateway: u16,
    /// DNS.
    pub(crate) dns: u16,
    /// Admin.
    pub(crate) admin: u16,
    /// Of the Services, and of the backends behind them.
    pub(crate) service: u16,
}

/// A claimed block; free for others when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    n: u8,
    /// Its ports.
    pub(crate) ports: Ports,
    _claim: TcpListener,
}

impl Block {
    /// Claims the first block that is free.
    pub(crate) fn claim() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for n in BLOCKS {
            let claimed = TcpListener::bind((Ipv4Addr::new(127, n, 0, 1), CLAIM_PORT));
            match claimed.and_then(|claim| Self::with_ports(n, claim)) {
                Ok(block) => return Ok(block),
                Err(taken) => last = taken,
            }
        }
        Err(last)
    }

    fn with_ports(n: u8, claim: TcpListener) -> io::Result<Self> {
        let at = Ipv4Addr::new(127, n, 0, 1);
        let ports = Ports {
            gateway: free_port(at, 8443)?,
            dns: free_port(at, 5300)?,
            admin: free_port(at, 9900)?,
            service: free_port(at, 8080)?,
        };
        Ok(Self { n, ports, _claim: claim })
    }

    /// The whole block.
    pub(crate) fn network(&self) -> String {
        format!("127.{}.0.0/16", self.n)
    }

    /// Where a cloud's gateway listens.
    pub(crate) fn gateway(&self, cloud: Cloud) -> SocketAddr {
        self.at(cloud.number(), 1, self.ports.gateway)
    }

    /// Where a cloud's DNS answers.
    pub(crate) fn dns(&self, cloud: Cloud) -> SocketAddr {
        self.at(cloud.number(), 1, self.ports.dns)
    }

    /// Where a cloud's admin port listens.
    pub(crate) fn admin(&self, cloud: Cloud) -> SocketAddr {
        self.at(cloud.number(), 1, self.ports.admin)
    }

    /// Where a cloud's pods listen.
    pub(crate) fn pod(&self, cloud: Cloud, pod: u8) -> SocketAddr {
        self.at(cloud.number(), 10 + pod, self.ports.service)
    }

    /// The network of a cloud's pods.
    pub(crate) fn pods(&self, cloud: Cloud) -> String {
        format!("127.{}.{}.0/24", self.n, cloud.number())
    }

    /// The range of the addresses that a cloud's names resolve to.
    pub(crate) fn vips(&self, cloud: Cloud) -> String {
        format!("127.{}.{}.0/20", self.n, 64 + 16 * cloud.number())
    }

    /// Where the delay line accepts what `from` sends to `to`.
    pub(crate) fn line(&self, from: Cloud, to: Cloud) -> SocketAddr {
        self.at(10 * from.number() + to.number(), 1, self.ports.gateway)
    }

    fn at(&self, third: u8, fourth: u8, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, self.n, third, fourth)), port)
    }
}

/// The preferred port, or the next that no wildcard listener of this machine holds. On the
/// claimed block nothing else is in the way.
fn free_port(at: Ipv4Addr, preferred: u16) -> io::Result<u16> {
    let free = |port: &u16| {
        TcpListener::bind((at, *port)).and_then(|_tcp| UdpSocket::bind((at, *port))).is_ok()
    };
    (0..20).map(|step| preferred + step * 1000).find(free).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("no free port near {preferred} on {at}; end what listens on all addresses"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_demos_have_two_blocks() {
        let one = Block::claim().unwrap();
        let other = Block::claim().unwrap();
        assert_ne!(one.n, other.n);
    }

    #[test]
    fn a_port_that_a_wildcard_listener_holds_is_passed_over() {
        let free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
        let port = (21_000..30_000).find(free).unwrap();
        let _taken = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let found = free_port(Ipv4Addr::new(127, 76, 0, 1), port).unwrap();
        assert_ne!(found, port);
    }

    #[test]
    fn every_role_has_an_address_of_its_own() {
        let block = Block::claim().unwrap();
        let mut all = Vec::new();
        for cloud in Cloud::ALL {
            all.extend([block.gateway(cloud), block.dns(cloud), block.admin(cloud)]);
            all.extend([block.pod(cloud, 0), block.pod(cloud, 1)]);
            all.extend(cloud.others().map(|other| block.line(cloud, other)));
            let pods: ipnet::IpNet = block.pods(cloud).parse().unwrap();
            assert!(pods.contains(&block.pod(cloud, 1).ip()));
            for other in Cloud::ALL {
                let vips: ipnet::IpNet = block.vips(other).parse().unwrap();
                assert!(!vips.contains(&block.pod(cloud, 0).ip()));
                assert!(!vips.contains(&block.line(Cloud::Tokyo, Cloud::Oregon).ip()));
            }
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
