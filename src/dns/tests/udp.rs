use std::net::UdpSocket as Client;

use super::*;

const LANES: usize = 4;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn port(sockets: &[Socket]) -> u16 {
    sockets[0].local_addr().unwrap().as_socket().unwrap().port()
}

/// Binds lanes to a port that the first of them chooses.
fn lanes_at(ip: &str, io: Io) -> Vec<Socket> {
    let free = open(address(&format!("{ip}:0")), io, 1).unwrap();
    let at = address(&format!("{ip}:{}", port(&free)));
    drop(free);
    open(at, io, LANES).unwrap()
}

#[test]
fn clients_are_spread_over_the_lanes_and_none_is_lost() {
    for (ip, to) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.9"), ("[::]", "[::1]")] {
        let sockets = lanes_at(ip, Io::Batch);
        let to = address(&format!("{to}:{}", port(&sockets)));
        let any = if to.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
        for _ in 0..200 {
            Client::bind(any).unwrap().send_to(b"one", to).unwrap();
        }
        let count = |socket: &Socket| {
            let mut batch = Batch::new();
            let mut count = 0;
            while let Ok(more) = batch.receive(socket.as_fd(), Wait::Not) {
                count += more;
            }
            count
        };
        let counts: Vec<usize> = sockets.iter().map(count).collect();
        assert_eq!(counts.iter().sum::<usize>(), 200);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }
}

/// However its holder shares it, and however many lanes there are to be.
#[test]
fn an_address_that_somebody_else_has_is_refused() {
    for lanes in [1, LANES] {
        let held = lanes_at("127.0.0.1", Io::Portable);
        let at = held[0].local_addr().unwrap().as_socket().unwrap();
        let error = open(at, Io::Batch, lanes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        open(address(&format!("0.0.0.0:{}", at.port())), Io::Batch, lanes).unwrap_err();
    }
}

#[test]
fn a_lane_alone_shares_its_address_with_nobody() {
    let alone = open(address("127.0.0.1:0"), Io::Batch, 1).unwrap();
    assert!(!alone[0].reuse_port().unwrap());
}

#[test]
fn as_many_lanes_as_processors_but_not_too_many() {
    assert!((1..=MAX_LANES).contains(&lanes()));
}

#[test]
fn this_kernel_can_batch() {
    for text in ["127.0.0.1:0", "[::1]:0"] {
        assert!(can_batch(address(text)).unwrap());
    }
}
