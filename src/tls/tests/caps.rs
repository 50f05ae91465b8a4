//! What strangers can occupy, and for how long.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::lobby::{Lobby, Source};
use super::*;
use crate::drain::Phase;

fn source(address: &str) -> Source {
    Source::of(format!("{address}:1").parse().unwrap())
}

/// Waits until the other side closed.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _end = stream.read_to_end(&mut rest).await;
}

#[test]
fn an_ipv6_source_is_its_64_and_a_mapped_one_is_ipv4() {
    assert_eq!(source("[2001:db8:1:2::1]"), source("[2001:db8:1:2:ffff::9]"));
    assert_ne!(source("[2001:db8:1:2::1]"), source("[2001:db8:1:3::1]"));
    assert_eq!(source("[::ffff:10.0.0.1]"), source("10.0.0.1"));
    assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
}

#[test]
fn a_source_with_a_live_authenticated_connection_may_hold_more() {
    let lobby = Lobby::default();
    let limits = Limits { per_source: 2, per_known_source: 3, ..Limits::default() };
    let a = source("10.0.0.1");
    let lease = lobby.enter(a, &limits).unwrap().authenticated();
    let fill = || -> Vec<_> { std::iter::from_fn(|| lobby.enter(a, &limits)).collect() };
    let places = fill();
    assert_eq!(places.len(), 3);
    assert!(lobby.enter(source("10.0.0.2"), &limits).is_some(), "others are unaffected");
    drop(lease);
    assert!(lobby.enter(a, &limits).is_none());
    drop(places);
    assert_eq!(fill().len(), 2, "the last lease is gone");
}

#[tokio::test]
async fn the_oldest_makes_room_when_all_places_are_taken() {
    let lobby = Lobby::default();
    let limits = Limits { unauthenticated: 2, ..Limits::default() };
    let first = lobby.enter(source("10.0.0.1"), &limits).unwrap();
    let second = lobby.enter(source("10.0.0.2"), &limits).unwrap();
    let third = lobby.enter(source("10.0.0.3"), &limits).unwrap();
    first.evicted().await;
    drop(first);
    let _fourth = lobby.enter(source("10.0.0.3"), &limits).unwrap();
    second.evicted().await;
    tokio::select! {
        biased;
        () = third.evicted() => panic!("only the oldest goes"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn s10_an_evicted_connection_is_closed_and_counted() {
    let limits = Limits { unauthenticated: 2, ..Limits::default() };
    let mut port = Port::open(limits);
    let mut oldest = TcpStream::connect(port.address).await.unwrap();
    let _second = TcpStream::connect(port.address).await.unwrap();
    // Its handshake needs a place: the oldest gives it up, no time has to pass.
    port.serves_oregon().await;
    closed(&mut oldest).await;
    assert_eq!(refusals(&port.registry), [("timeout".to_owned(), 1)]);
}

#[tokio::test]
async fn s10_one_source_cannot_take_all_places() {
    let limits = Limits { per_source: 3, ..Limits::default() };
    let mut port = Port::open(limits);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(&[22]).await.unwrap();
        held.push(stream);
    }
    let mut over = TcpStream::connect(port.address).await.unwrap();
    closed(&mut over).await;
    assert_eq!(refusals(&port.registry), [("other".to_owned(), 1)]);
    drop(held);
    // The places come free as soon as the connections end.
    while port.dialer("oregon").dial(&cluster("paris"), port.address, Kind::Data).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(port.data.recv().await.is_some());
}

#[tokio::test]
async fn s10_a_handshake_that_trickles_is_ended_at_its_deadline() {
    let mut port = Port::open(Limits::default());
    port.serves_oregon().await;
    for sent in [&[][..], &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]] {
        let before = refusals(&port.registry).iter().map(|(_, count)| count).sum::<u64>();
        let mut slow = TcpStream::connect(port.address).await.unwrap();
        slow.write_all(sent).await.unwrap();
        // Accepted, and its hello begun, before time is let go.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let began = crate::clock::now();
        tokio::time::pause();
        closed(&mut slow).await;
        let took = crate::clock::now() - began;
        tokio::time::resume();
        assert!(took < Duration::from_secs(6), "{took:?}");
        assert_eq!(refusals(&port.registry), [("timeout".to_owned(), before + 1)]);
    }
    port.serves_oregon().await;
}

#[tokio::test]
async fn a_flood_is_counted_whole_and_logged_once_a_second() {
    let (log, _guard) = Log::capture();
    let port = Port::open(Limits::default());
    for _ in 0..20 {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(b"nonsense that is no handshake").await.unwrap();
        closed(&mut stream).await;
    }
    assert_eq!(refusals(&port.registry), [("other".to_owned(), 20)]);
    let lines = log.lines("connection refused");
    assert!(!lines.is_empty() && lines.len() < 20, "{lines:?}");
}

#[tokio::test]
async fn drain_stops_accepting_and_lets_a_handshake_finish() {
    let mut port = Port::open(Limits::default());
    let paris = cluster("paris");
    port.trigger.advance(Phase::Announced);
    let dialer = port.dialer("oregon");
    dialer.dial(&paris, port.address, Kind::Data).await.unwrap();
    port.data.recv().await.unwrap();
    port.trigger.advance(Phase::Draining);
    port.tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(dialer.dial(&paris, port.address, Kind::Data).await.is_err());
    // A restarted process gets the port at once.
    Listener::bind(port.address, port.trust.clone(), Limits::default()).unwrap();
}

#[tokio::test]
async fn a_port_in_use_refuses_to_start_with_a_clear_text() {
    let port = Port::open(Limits::default());
    let error = Listener::bind(port.address, port.trust.clone(), Limits::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&port.address.to_string()) && text.contains("gateway.listen"), "{text}");
}

#[tokio::test]
async fn a_handler_that_is_gone_ends_the_connection_not_the_port() {
    let mut port = Port::open(Limits::default());
    port.control.close();
    let dialer = port.dialer("oregon");
    let paris = cluster("paris");
    let mut dialed = dialer.dial(&paris, port.address, Kind::Control).await.unwrap();
    assert!(dialed.stream.read_u8().await.is_err());
    port.serves_oregon().await;
}

#[tokio::test]
async fn the_user_timeout_can_be_set_and_taken_back() {
    let mut port = Port::open(Limits::default());
    let (dialed, _accepted) = port.serves_oregon().await;
    let socket = socket2::SockRef::from(dialed.stream.get_ref().0);
    let timeout = Some(Duration::from_secs(10));
    set_user_timeout(&dialed.stream, timeout).unwrap();
    assert_eq!(socket.tcp_user_timeout().unwrap(), timeout);
    set_user_timeout(&dialed.stream, None).unwrap();
    assert_eq!(socket.tcp_user_timeout().unwrap().unwrap_or_default(), Duration::ZERO);
}

#[tokio::test]
async fn a_panic_in_a_connection_s_task_is_counted() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let mut tasks: JoinSet<()> = JoinSet::new();
    tasks.spawn(async { panic!("asked to panic") });
    metrics.ended(tasks.join_next().await.unwrap());
    tasks.spawn(std::future::pending());
    tasks.abort_all();
    metrics.ended(tasks.join_next().await.unwrap());
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(text.contains("portolan_panics_total{component=\"tls\"} 1"), "{text}");
}

#[tokio::test]
async fn who_leaves_in_the_handshake_is_counted_and_nobody_is_warned() {
    let port = Port::open(Limits::default());
    let (log, _guard) = Log::capture();
    // A health check of a load balancer does no more.
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.shutdown().await.unwrap();
    closed(&mut stream).await;
    let counted = async {
        while refusals(&port.registry) != [("other".to_owned(), 1)] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), counted).await.unwrap();
    assert_eq!(log.lines("connection refused"), [""; 0]);
}
