//! A socket that hears clients and answers each from the very address it asked.
//!
//! On a clusterset address the socket is bound to that address, which settles it. On every address
//! of a host with several the kernel tells with each datagram which one was asked (`IP_PKTINFO`),
//! and is told with each answer: an answer from another address is thrown away by the client.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::gateway::bind;

/// Asked of the kernel for bursts, each way; it gives what `net.core.rmem_max` allows.
const BUFFER_OCTETS: usize = 1024 * 1024;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// How the address that was asked is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The socket has only one.
    Bound,
    /// Told with each datagram, in IPv4.
    AnyV4,
    /// Told with each datagram, in IPv6; IPv4 addresses are mapped.
    AnyV6,
}

/// A socket that clients send to.
#[derive(Debug)]
pub(super) struct Ear {
    /// Its number in this process.
    pub(super) number: u64,
    socket: UdpSocket,
    at: At,
}

/// One datagram of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// Its octets.
    pub(super) octets: usize,
    /// Who sent it, as the socket spells it.
    pub(super) client: SocketAddr,
    /// Which of our addresses it was sent to, where there are several.
    pub(super) asked: Option<IpAddr>,
}

/// Room for what the kernel tells beside a datagram; owned by the one task that reads.
#[derive(Debug)]
pub(super) struct Beside(Vec<u8>);

impl Default for Beside {
    fn default() -> Self {
        Self(nix::cmsg_space!(in_pktinfo, in6_pktinfo))
    }
}

impl Ear {
    /// Binds; on `[::]` for both families, or for IPv4 alone where the host has no IPv6.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        match Self::open(address) {
            Err(error) if address.ip().is_unspecified() && bind::lacks_family(&error) => {
                Self::open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
            }
            bound => bound,
        }
    }

    fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        let everywhere = address.ip().is_unspecified();
        if address.is_ipv6() {
            socket.set_only_v6(!everywhere)?;
        }
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(BUFFER_OCTETS)?;
        socket.set_send_buffer_size(BUFFER_OCTETS)?;
        let at = match (everywhere, address.is_ipv4()) {
            (false, _) => At::Bound,
            (true, true) => {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
                At::AnyV4
            }
            (true, false) => {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                At::AnyV6
            }
        };
        socket.bind(&address.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { number: NEXT.fetch_add(1, Ordering::Relaxed), socket, at })
    }

    /// Waits until there may be a datagram.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram, without waiting.
    pub(super) fn hear(&self, buffer: &mut [u8], beside: &mut Beside) -> io::Result<Heard> {
        if self.at == At::Bound {
            let (octets, client) = self.socket.try_recv_from(buffer)?;
            return Ok(Heard { octets, client, asked: None });
        }
        self.socket.try_io(Interest::READABLE, || {
            let mut buffers = [IoSliceMut::new(buffer)];
            let fd = self.socket.as_raw_fd();
            let told = recvmsg::<SockaddrStorage>(
                fd,
                &mut buffers,
                Some(&mut beside.0),
                MsgFlags::empty(),
            )?;
            let client = told.address.as_ref().and_then(client);
            let client = client.ok_or(io::ErrorKind::AddrNotAvailable)?;
            let asked = told.cmsgs()?.find_map(asked);
            Ok(Heard { octets: told.bytes, client, asked })
        })
    }

    /// Answers a client from the address it asked, without waiting.
    pub(super) fn answer(
        &self,
        datagram: &[u8],
        client: SocketAddr,
        asked: Option<IpAddr>,
    ) -> io::Result<()> {
        let (fd, buffers) = (self.socket.as_raw_fd(), [IoSlice::new(datagram)]);
        // Past the runtime, which takes a socket for writable only after it has asked the kernel.
        let flags = MsgFlags::MSG_DONTWAIT;
        match (client, asked) {
            (SocketAddr::V4(client), Some(IpAddr::V4(asked))) => {
                let from = from_v4(asked);
                let beside = [ControlMessage::Ipv4PacketInfo(&from)];
                sendmsg(fd, &buffers, &beside, flags, Some(&SockaddrIn::from(client)))?;
            }
            (SocketAddr::V6(client), Some(IpAddr::V6(asked))) => {
                let from = from_v6(asked);
                let beside = [ControlMessage::Ipv6PacketInfo(&from)];
                sendmsg(fd, &buffers, &beside, flags, Some(&SockaddrIn6::from(client)))?;
            }
            _ => {
                sendmsg(fd, &buffers, &[], flags, Some(&SockaddrStorage::from(client)))?;
            }
        }
        Ok(())
    }
}

fn client(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
}

fn asked(beside: ControlMessageOwned) -> Option<IpAddr> {
    match beside {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into())
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
        }
        _ => None,
    }
}

fn from_v4(address: Ipv4Addr) -> in_pktinfo {
    in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: in_addr { s_addr: u32::from(address).to_be() },
        ipi_addr: in_addr { s_addr: 0 },
    }
}

fn from_v6(address: Ipv6Addr) -> in6_pktinfo {
    in6_pktinfo { ipi6_addr: in6_addr { s6_addr: address.octets() }, ipi6_ifindex: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::tests::soon;

    /// Asks at `to`; which address it was heard at, once the answer came from where it was sent.
    async fn ask(ear: &Ear, from: &str, to: SocketAddr) -> Option<IpAddr> {
        let socket = UdpSocket::bind(from).await.unwrap();
        // Connected: an answer from any other address would not be seen.
        socket.connect(to).await.unwrap();
        socket.send(b"who").await.unwrap();
        let (mut buffer, mut beside) = ([0; 16], Beside::default());
        let heard = soon(async {
            loop {
                ear.readable().await.unwrap();
                if let Ok(heard) = ear.hear(&mut buffer, &mut beside) {
                    return heard;
                }
            }
        })
        .await;
        assert_eq!(&buffer[..heard.octets], b"who");
        assert_eq!(heard.client.port(), socket.local_addr().unwrap().port());
        ear.answer(b"me", heard.client, heard.asked).unwrap();
        let octets = soon(socket.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..octets], b"me");
        heard.asked
    }

    #[tokio::test]
    async fn each_client_is_answered_from_the_address_it_asked() {
        let any = Ear::bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = any.socket.local_addr().unwrap().port();
        for last in [5, 9] {
            let to = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
            let mapped = Ipv4Addr::new(127, 0, 0, last).to_ipv6_mapped();
            assert_eq!(ask(&any, "127.0.0.1:0", to).await, Some(mapped.into()));
        }
        let to = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        assert_eq!(ask(&any, "[::1]:0", to).await, Some(Ipv6Addr::LOCALHOST.into()));

        let v4 = Ear::open((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 7], v4.socket.local_addr().unwrap().port()));
        assert_eq!(ask(&v4, "127.0.0.1:0", to).await, Some(to.ip()));

        let bound = Ear::bind(([127, 0, 0, 8], 0).into()).unwrap();
        let to = bound.socket.local_addr().unwrap();
        assert_eq!(ask(&bound, "127.0.0.1:0", to).await, None);
    }
}
