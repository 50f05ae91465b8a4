use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::*;

fn server(address: &str) -> UdpSocket {
    UdpSocket::bind(address).unwrap()
}

/// Hears only the address that it asked.
fn client(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket
}

fn heard(client: &UdpSocket) -> Vec<u8> {
    let mut octets = vec![0; MAX_DATAGRAM_OCTETS];
    let length = client.recv(&mut octets).unwrap();
    octets.truncate(length);
    octets
}

/// Takes everything that waits, in as many batches as it needs, and echoes it; what failed.
fn echo(batch: &mut Batch, socket: &UdpSocket) -> usize {
    let mut failed = 0;
    while batch.receive(socket.as_fd(), Wait::Not).is_ok() {
        batch.answer_each(|datagram, out| out.extend_from_slice(datagram.octets));
        failed += batch.send(socket.as_fd());
    }
    failed
}

fn seen(batch: &mut Batch) -> Vec<(Vec<u8>, IpAddr)> {
    let mut seen = Vec::new();
    batch.answer_each(|datagram, _| seen.push((datagram.octets.to_vec(), datagram.source)));
    seen
}

#[test]
fn datagrams_come_in_order_with_their_source_and_each_gets_its_own_answer() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let socket = server(address);
        let at = socket.local_addr().unwrap();
        let clients: Vec<UdpSocket> = (0..100).map(|_| client(at)).collect();
        let mut batch = Batch::new();
        for round in 0..3_u8 {
            for (number, client) in (0..).zip(&clients) {
                client.send(&[round, number]).unwrap();
            }
            assert_eq!(batch.receive(socket.as_fd(), Wait::ForOne).unwrap(), BATCH);
            let from: IpAddr = clients[0].local_addr().unwrap().ip();
            let expected: Vec<_> = (0..32).map(|number| (vec![round, number], from)).collect();
            assert_eq!(seen(&mut batch), expected);
            // Answers of one call, except for those left empty.
            batch.answer_each(|datagram, out| {
                if datagram.octets[1] % 3 != 0 {
                    out.extend_from_slice(datagram.octets);
                }
            });
            assert_eq!(batch.send(socket.as_fd()), 0);
            assert_eq!(echo(&mut batch, &socket), 0);
            for (number, client) in (0..).zip(&clients) {
                if number >= 32 || number % 3 != 0 {
                    assert_eq!(heard(client), [round, number]);
                }
            }
        }
    }
}

#[test]
fn nothing_there_is_said_at_once_and_leaves_the_batch_empty() {
    let socket = server("127.0.0.1:0");
    let client = client(socket.local_addr().unwrap());
    let mut batch = Batch::new();
    client.send(b"one").unwrap();
    assert_eq!(batch.receive(socket.as_fd(), Wait::ForOne).unwrap(), 1);
    assert_eq!(seen(&mut batch).len(), 1);
    let error = batch.receive(socket.as_fd(), Wait::Not).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(seen(&mut batch), []);
    assert_eq!(batch.send(socket.as_fd()), 0);
}

#[test]
fn an_empty_datagram_is_one_and_the_end_of_a_socket_is_none() {
    let socket = server("127.0.0.1:0");
    let client = client(socket.local_addr().unwrap());
    let mut batch = Batch::new();
    client.send(&[]).unwrap();
    batch.receive(socket.as_fd(), Wait::ForOne).unwrap();
    assert_eq!(seen(&mut batch), [(Vec::new(), "127.0.0.1".parse().unwrap())]);
    // A name from before must not make a datagram of it.
    let _not_connected = socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Read);
    batch.receive(socket.as_fd(), Wait::ForOne).unwrap();
    assert_eq!(seen(&mut batch), []);
}

/// A socket of all addresses answers from the one that was asked; a connected client hears no
/// other, and by route the kernel would choose 127.0.0.1.
#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let v4 = server("0.0.0.0:0");
    setsockopt(&v4, sockopt::Ipv4PacketInfo, &true).unwrap();
    let v6 = server("[::]:0");
    setsockopt(&v6, sockopt::Ipv6RecvPacketInfo, &true).unwrap();
    for (socket, asked) in
        [(&v4, "127.0.0.1"), (&v4, "127.0.0.2"), (&v4, "127.9.8.7"), (&v6, "::1")]
    {
        let port = socket.local_addr().unwrap().port();
        let client = client(SocketAddr::new(asked.parse().unwrap(), port));
        let mut batch = Batch::new();
        for octet in 0..40 {
            client.send(&[octet]).unwrap();
        }
        assert_eq!(echo(&mut batch, socket), 0);
        for octet in 0..40 {
            assert_eq!(heard(&client), [octet], "{asked}");
        }
    }
}

#[test]
fn the_interface_is_told_back_for_link_local_addresses_only() {
    let words = |text: &str, interface: u32| {
        let octets = text.parse::<Ipv6Addr>().unwrap().octets();
        let mut info = [interface; 5];
        for (word, octets) in info.iter_mut().zip(octets.chunks(4)) {
            *word = u32::from_ne_bytes(octets.try_into().unwrap());
        }
        info
    };
    let v6 = |text: &str| (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, words(text, 7));
    for ((cmsg_level, cmsg_type, info), expected) in [
        (v6("2001:db8::1"), words("2001:db8::1", 0)),
        (v6("fd00::1"), words("fd00::1", 0)),
        (v6("fe80::1"), words("fe80::1", 7)),
        (v6("febf::1"), words("febf::1", 7)),
        (v6("fec0::1"), words("fec0::1", 0)),
        ((libc::IPPROTO_IP, libc::IP_PKTINFO, [3, 4, 5, 0, 0]), [0, 4, 5, 0, 0]),
        ((libc::IPPROTO_IP, libc::IP_TTL, [64, 0, 0, 0, 0]), [64, 0, 0, 0, 0]),
    ] {
        let header = libc::cmsghdr { cmsg_len: 0, cmsg_level, cmsg_type };
        let mut control = Control { header, info };
        control.turn();
        assert_eq!(control.info, expected);
    }
}

/// Whole where it is the last of its batch, cut where it is not, and the others none the worse.
#[test]
fn the_longest_datagram_fits() {
    let socket = server("127.0.0.1:0");
    let client = client(socket.local_addr().unwrap());
    let mut batch = Batch::new();
    let long = |octet: u8| vec![octet; 65_507];
    let lengths = |batch: &mut Batch| {
        let mut lengths = Vec::new();
        batch.answer_each(|datagram, _| {
            lengths.push((datagram.octets.len(), datagram.octets[0], datagram.whole));
        });
        lengths
    };
    for (datagrams, expected) in [
        (vec![long(1)], vec![(65_507, 1, true)]),
        (vec![vec![1; 40], long(2)], vec![(40, 1, true), (65_507, 2, true)]),
        (
            vec![long(1), vec![2; 40], long(3), vec![4; 1024], vec![5; 1025], vec![6; 1]],
            vec![
                (1024, 1, false),
                (40, 2, true),
                (1024, 3, false),
                (1024, 4, true),
                (1024, 5, false),
                (1, 6, true),
            ],
        ),
    ] {
        for octets in &datagrams {
            client.send(octets).unwrap();
        }
        assert_eq!(batch.receive(socket.as_fd(), Wait::ForOne).unwrap(), datagrams.len());
        assert_eq!(lengths(&mut batch), expected);
        let seen = seen(&mut batch);
        for ((octets, _), sent) in seen.iter().zip(&datagrams) {
            assert_eq!(octets[..], sent[..octets.len()]);
        }
    }
    // The last of a full batch too.
    for octet in 0..31 {
        client.send(&[octet]).unwrap();
    }
    client.send(&long(31)).unwrap();
    assert_eq!(batch.receive(socket.as_fd(), Wait::ForOne).unwrap(), BATCH);
    let seen = seen(&mut batch);
    assert!(seen[31].0 == long(31) && seen[30].0 == [30]);
}

/// Of three clients the middle one cannot be sent to: the others have their answers.
#[test]
fn an_answer_that_cannot_be_sent_holds_up_no_other() {
    let socket = server("127.0.0.1:0");
    let clients = [(); 3].map(|()| client(socket.local_addr().unwrap()));
    let mut batch = Batch::new();
    for (octet, client) in (0..).zip(&clients) {
        client.send(&[octet]).unwrap();
    }
    batch.receive(socket.as_fd(), Wait::ForOne).unwrap();
    let too_long = 65_508;
    batch.answer_each(|datagram, out| match &*datagram.octets {
        [1] => out.resize(too_long, 0),
        octets => out.extend_from_slice(octets),
    });
    assert_eq!(batch.send(socket.as_fd()), 1);
    assert_eq!((heard(&clients[0]), heard(&clients[2])), (vec![0], vec![2]));
    // A client that is gone is told to nobody else.
    let [first, gone, last] = clients;
    for (octet, client) in (0..).zip([&first, &gone, &last]) {
        client.send(&[octet]).unwrap();
    }
    drop(gone);
    assert_eq!(echo(&mut batch, &socket), 0);
    assert_eq!((heard(&first), heard(&last)), (vec![0], vec![2]));
    first.send(b"again").unwrap();
    assert_eq!(echo(&mut batch, &socket), 0);
    assert_eq!(heard(&first), b"again");
}

#[test]
fn sending_goes_on_behind_what_fails() {
    use io::ErrorKind as Kind;
    type Step = (usize, Result<usize, Kind>);
    // What the kernel is asked from, and what it says.
    let script: &[(usize, &[Step], usize)] = &[
        (0, &[], 0),
        (5, &[(0, Ok(5))], 0),
        (5, &[(0, Ok(2)), (2, Ok(3))], 0),
        (5, &[(0, Ok(2)), (2, Err(Kind::ConnectionRefused)), (3, Ok(2))], 1),
        (3, &[(0, Err(Kind::PermissionDenied)), (1, Ok(2))], 1),
        (2, &[(0, Err(Kind::Interrupted)), (0, Ok(2))], 0),
        (2, &[(0, Err(Kind::WouldBlock)), (1, Ok(1))], 1),
        (2, &[(0, Ok(0)), (1, Err(Kind::NetworkUnreachable))], 2),
    ];
    for (count, steps, failed) in script {
        let mut steps = steps.iter();
        let said = deliver(*count, |from| {
            let (at, says) = steps.next().expect("asked no more");
            assert_eq!(from, *at);
            says.map_err(io::Error::from)
        });
        assert_eq!((said, steps.next()), (*failed, None));
    }
}
