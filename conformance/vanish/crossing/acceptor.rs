//! oregon accepts; the test is paris, on a connection of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use portolan::testing::wire::{Heard, Wire, aborted, cancelled, open, reply};
use portolan::testing::{Agent, Backend, World};
use portolan::wire::frame::{Control, Verdict};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::stage::{assert_no_panic, loopback, soon};

/// A backend whose connections are never accepted, not even by the kernel.
struct Hole {
    address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Hole {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(loopback(), 0).into()).expect("a free port");
        socket.listen(0).expect("a backlog of nearly nothing");
        let listener: TcpListener = socket.into();
        let address = listener.local_addr().expect("bound");
        let wait = Duration::from_millis(200);
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, wait) {
            queue.push(stream);
            assert!(queue.len() < 64, "the backlog never fills");
        }
        Self { address, _listener: listener, _queue: queue }
    }
}

/// oregon with a service for every mood of a backend.
struct Site {
    world: World,
    oregon: Agent,
    /// How each connection of shop/seen ended: its octets, and whether with a reset.
    seen: mpsc::Receiver<(Vec<u8>, bool)>,
    _hole: Hole,
    _backends: [Backend; 3],
}

impl Site {
    async fn new(shutdown: &str) -> Self {
        let world = World::new(&["paris", "oregon"]);
        let hole = Hole::new();
        let echo = Backend::echo(loopback()).await;
        let flood = Backend::start(loopback(), |mut stream| async move {
            while stream.write_all(&[7; 4096]).await.is_ok() {}
        })
        .await;
        let (seen_tx, seen) = mpsc::channel(64);
        let book = Backend::start(loopback(), move |mut stream| {
            let seen = seen_tx.clone();
            async move {
                let mut all = Vec::new();
                let end = stream.read_to_end(&mut all).await;
                // A test may have seen enough.
                let _enough = seen.send((all, end.is_err())).await;
            }
        })
        .await;
        world.export("oregon", "shop/echo", 80, &[echo.address]);
        world.export("oregon", "shop/flood", 80, &[flood.address]);
        world.export("oregon", "shop/seen", 80, &[book.address]);
        world.export("oregon", "shop/hole", 80, &[hole.address]);
        let config = world.write_config("oregon", |peer| vec![world.gateway(peer)]);
        let text = fs::read_to_string(&config).expect("written");
        let ours = "drain: 2s, shutdown_delay: 300ms }\ndns";
        assert!(text.contains(ours), "{text}");
        fs::write(&config, text.replace(ours, &format!("{shutdown} }}\ndns"))).expect("writable");
        let oregon = Agent::start(&config);
        for name in ["echo.shop", "flood.shop", "seen.shop", "hole.shop"] {
            oregon.until(name, |service| service.candidates.iter().any(|c| c.usable)).await;
        }
        Self { world, oregon, seen, _hole: hole, _backends: [echo, flood, book] }
    }

    async fn dial(&self) -> Wire {
        Wire::dial(&self.world, "paris", "oregon", self.world.gateway("oregon")).await
    }

    /// The end of the next connection that the book-keeping backend had.
    async fn seen(&mut self) -> (Vec<u8>, bool) {
        soon("the backend's end", self.seen.recv()).await.expect("the backend lives")
    }
}

const SHUTDOWN: &str = "drain: 2s, shutdown_delay: 300ms";

/// A whole stream with this number: asked for, used, ended both ways.
async fn serves(wire: &mut Wire, stream: u64) {
    wire.control(open(stream, "shop/echo", 80)).await.unwrap();
    let mut drains = 0;
    assert_eq!(past_drain(wire, &mut drains).await, reply(stream, Verdict::Accepted));
    assert!(drains <= 1, "told again and again");
    wire.payload(b"hello").await.unwrap();
    assert_eq!(wire.octets(5).await, b"hello");
    wire.control(Control::Fin).await.unwrap();
    assert_eq!(wire.expect().await, Control::Fin);
}

fn control(frame: Control) -> Heard {
    Heard::Control(frame)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_crosses_the_reply_is_answered_and_the_connection_goes_on() {
    let mut site = Site::new(SHUTDOWN).await;
    let mut wire = site.dial().await;
    for round in 0..5 {
        let stream = 2 * round + 1;
        wire.control(open(stream, "shop/seen", 80)).await.unwrap();
        assert_eq!(wire.expect().await, reply(stream, Verdict::Accepted));
        wire.control(Control::Cancel(stream)).await.unwrap();
        assert_eq!(wire.expect().await, cancelled(stream));
        let (came, was_reset) = site.seen().await;
        assert!(came.is_empty() && was_reset, "the backend saw {came:?}, reset: {was_reset}");
        serves(&mut wire, stream + 1).await;
    }
    assert_no_panic(&site.oregon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_crosses_payload_is_answered_and_the_connection_goes_on() {
    let site = Site::new(SHUTDOWN).await;
    let mut wire = site.dial().await;
    wire.control(open(1, "shop/flood", 80)).await.unwrap();
    assert_eq!(wire.expect().await, reply(1, Verdict::Accepted));
    wire.octets(100_000).await;
    wire.control(Control::Cancel(1)).await.unwrap();
    loop {
        match wire.heard().await {
            Heard::Payload(octets) => assert!(octets.iter().all(|octet| *octet == 7)),
            Heard::Control(frame) => {
                assert_eq!(frame, cancelled(1));
                break;
            }
        }
    }
    serves(&mut wire, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_while_the_backend_is_connected_is_answered_at_once() {
    let site = Site::new(SHUTDOWN).await;
    let mut wire = site.dial().await;
    wire.control(open(1, "shop/hole", 80)).await.unwrap();
    wire.control(Control::Ping(4)).await.unwrap();
    assert_eq!(wire.expect().await, Control::Pong(4), "frames are read meanwhile");
    wire.control(Control::Cancel(1)).await.unwrap();
    assert_eq!(wire.expect().await, cancelled(1));
    serves(&mut wire, 2).await;
    // All in one piece, the next OPEN right behind.
    let frames = [
        control(open(3, "shop/hole", 80)),
        control(Control::Cancel(3)),
        control(open(4, "shop/echo", 80)),
    ];
    wire.send(&frames).await.unwrap();
    assert_eq!(wire.expect().await, cancelled(3));
    assert_eq!(wire.expect().await, reply(4, Verdict::Accepted));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_crosses_a_refusal_is_ignored() {
    let site = Site::new(SHUTDOWN).await;
    let mut wire = site.dial().await;
    for (round, late) in [Control::Cancel(1), aborted(3)].into_iter().enumerate() {
        let stream = 2 * round as u64 + 1;
        let refused = control(open(stream, "shop/absent", 80));
        wire.send(&[refused, control(late)]).await.unwrap();
        assert_eq!(wire.expect().await, reply(stream, Verdict::NotExported));
        serves(&mut wire, stream + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_after_a_clean_end_is_ignored() {
    let site = Site::new(SHUTDOWN).await;
    let mut wire = site.dial().await;
    serves(&mut wire, 1).await;
    let late = [
        control(Control::Cancel(1)),
        control(aborted(1)),
        Heard::Payload(vec![1; 70]),
        control(Control::Fin),
        control(Control::Pong(77)),
    ];
    wire.send(&late).await.unwrap();
    serves(&mut wire, 2).await;
    // Words about a stream before the current one, too.
    wire.control(open(3, "shop/echo", 80)).await.unwrap();
    assert_eq!(wire.expect().await, reply(3, Verdict::Accepted));
    wire.send(&[control(Control::Cancel(1)), control(aborted(2))]).await.unwrap();
    wire.payload(b"on").await.unwrap();
    assert_eq!(wire.octets(2).await, b"on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_stream_and_connection() {
    let mut site = Site::new(SHUTDOWN).await;
    let mut wire = site.dial().await;
    wire.control(open(1, "shop/seen", 80)).await.unwrap();
    assert_eq!(wire.expect().await, reply(1, Verdict::Accepted));
    wire.send(&[Heard::Payload(b"half".to_vec()), control(aborted(1))]).await.unwrap();
    assert_eq!(wire.until_closed().await, []);
    assert_eq!(site.seen().await, (b"half".to_vec(), true), "octets first, then a reset");

    let mut wire = site.dial().await;
    wire.control(open(1, "shop/hole", 80)).await.unwrap();
    wire.control(aborted(1)).await.unwrap();
    assert_eq!(wire.until_closed().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_a_reset_at_the_backend_after_its_octets() {
    let mut site = Site::new(SHUTDOWN).await;
    for close in [false, true] {
        let mut wire = site.dial().await;
        wire.control(open(1, "shop/seen", 80)).await.unwrap();
        assert_eq!(wire.expect().await, reply(1, Verdict::Accepted));
        wire.payload(b"half").await.unwrap();
        wire.control(Control::Ping(1)).await.unwrap();
        assert_eq!(wire.expect().await, Control::Pong(1), "what was before it has arrived");
        if close {
            wire.close().await;
        } else {
            wire.reset();
        }
        assert_eq!(site.seen().await, (b"half".to_vec(), true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_acceptor_may_say_and_streams_that_never_were_close_the_connection() {
    let mut site = Site::new(SHUTDOWN).await;
    let ready = Control::Ready(portolan::wire::frame::Ready {
        replica: portolan::model::ReplicaId::from_u64(7),
    });
    let illegal = [
        ready,
        Control::Drain,
        reply(1, Verdict::Accepted),
        Control::Cancel(5),
        aborted(5),
        Control::Cancel(0),
        open(1, "shop/echo", 80),
        open(2, "shop/echo", 80),
    ];
    for frame in illegal {
        let mut wire = site.dial().await;
        wire.control(open(1, "shop/seen", 80)).await.unwrap();
        assert_eq!(wire.expect().await, reply(1, Verdict::Accepted));
        wire.control(frame.clone()).await.unwrap();
        let last = wire.until_closed().await;
        assert!(last.is_empty(), "{frame:?} was answered by {last:?}");
        assert_eq!(site.seen().await, (Vec::new(), true), "{frame:?}");
    }
    for frame in [Heard::Payload(vec![1]), control(Control::Fin)] {
        let mut wire = site.dial().await;
        wire.send(&[control(open(1, "shop/hole", 80)), frame]).await.unwrap();
        assert_eq!(wire.until_closed().await, [], "early data was never offered");
        let mut wire = site.dial().await;
        wire.control(Control::Fin).await.unwrap();
        assert_eq!(wire.until_closed().await, [], "there was no stream yet");
    }
    assert_no_panic(&site.oregon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_between_the_frames_of_a_stream() {
    let site = Site::new(SHUTDOWN).await;
    let mut wire = site.dial().await;
    wire.control(Control::Ping(1)).await.unwrap();
    assert_eq!(wire.expect().await, Control::Pong(1));
    wire.control(open(1, "shop/echo", 80)).await.unwrap();
    assert_eq!(wire.expect().await, reply(1, Verdict::Accepted));
    wire.control(Control::Ping(2)).await.unwrap();
    assert_eq!(wire.expect().await, Control::Pong(2));
    wire.payload(b"a").await.unwrap();
    assert_eq!(wire.octets(1).await, b"a");
    wire.send(&[control(Control::Ping(3)), Heard::Payload(b"b".to_vec())]).await.unwrap();
    assert_eq!(wire.expect().await, Control::Pong(3));
    assert_eq!(wire.octets(1).await, b"b");
    wire.send(&[control(Control::Fin), control(Control::Ping(4))]).await.unwrap();
    let mut last = [wire.expect().await, wire.expect().await];
    last.sort_by_key(|frame| *frame != Control::Fin);
    assert_eq!(last, [Control::Fin, Control::Pong(4)]);
    serves(&mut wire, 2).await;
}

/// The next control frame but `DRAIN`, which must come once.
async fn past_drain(wire: &mut Wire, drains: &mut u32) -> Control {
    loop {
        match wire.expect().await {
            Control::Drain => *drains += 1,
            other => return other,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_drain_crosses_everything_and_streams_are_served_until_the_delay_is_over() {
    let mut site = Site::new("drain: 30s, shutdown_delay: 30s").await;
    let (mut idle, mut opening, mut busy, mut halved) =
        (site.dial().await, site.dial().await, site.dial().await, site.dial().await);
    for wire in [&mut busy, &mut halved] {
        wire.control(open(1, "shop/echo", 80)).await.unwrap();
        assert_eq!(wire.expect().await, reply(1, Verdict::Accepted));
    }
    halved.control(Control::Fin).await.unwrap();
    assert_eq!(halved.expect().await, Control::Fin);
    opening.control(open(1, "shop/hole", 80)).await.unwrap();
    opening.control(Control::Ping(1)).await.unwrap();
    assert_eq!(opening.expect().await, Control::Pong(1));
    let _ended = site.oregon.begin_stop();

    let mut drains = 0;
    // It may cross this OPEN either way.
    idle.control(open(1, "shop/echo", 80)).await.unwrap();
    assert_eq!(past_drain(&mut idle, &mut drains).await, reply(1, Verdict::Accepted));
    idle.payload(b"served").await.unwrap();
    while drains == 0 {
        match idle.heard().await {
            Heard::Control(Control::Drain) => drains += 1,
            Heard::Payload(octets) => assert_eq!(octets, b"served"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(drains, 1);
    // Told in the middle of a stream, and of a half-closed one; both go on.
    assert_eq!(busy.expect().await, Control::Drain);
    busy.payload(b"on").await.unwrap();
    assert_eq!(busy.octets(2).await, b"on");
    busy.control(Control::Fin).await.unwrap();
    assert_eq!(busy.expect().await, Control::Fin);
    assert_eq!(halved.expect().await, Control::Drain);
    // An OPEN after it comes all the same and is served.
    serves(&mut busy, 2).await;
    serves(&mut halved, 2).await;
    // While a backend is connected it crosses our CANCEL.
    opening.control(Control::Cancel(1)).await.unwrap();
    drains = 0;
    assert_eq!(past_drain(&mut opening, &mut drains).await, cancelled(1));
    opening.control(open(2, "shop/echo", 80)).await.unwrap();
    assert_eq!(past_drain(&mut opening, &mut drains).await, reply(2, Verdict::Accepted));
    assert!(drains <= 1, "told more than once");
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_after_the_delay_streams_are_refused_as_draining() {
    let mut site = Site::new("drain: 30s, shutdown_delay: 1s").await;
    let mut held = site.dial().await;
    held.control(open(1, "shop/echo", 80)).await.unwrap();
    assert_eq!(held.expect().await, reply(1, Verdict::Accepted));
    let ended = site.oregon.begin_stop();
    assert_eq!(held.expect().await, Control::Drain);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    held.control(Control::Fin).await.unwrap();
    assert_eq!(held.expect().await, Control::Fin);
    held.control(open(2, "shop/echo", 80)).await.unwrap();
    assert_eq!(past_drain(&mut held, &mut 0).await, reply(2, Verdict::Draining));
    assert_eq!(held.until_closed().await, []);
    soon("the end", ended).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_reset_resets_the_stream_after_its_octets() {
    let world = World::new(&["paris", "oregon"]);
    let (go, gone) = tokio::sync::watch::channel(());
    let backend = Backend::start(loopback(), move |mut stream| {
        let mut gone = gone.clone();
        async move {
            stream.write_all(b"half").await.expect("oregon reads");
            let mut one = [0];
            stream.read_exact(&mut one).await.expect("the test has it");
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
            let _never = gone.changed().await;
        }
    })
    .await;
    world.export("oregon", "shop/breaks", 80, &[backend.address]);
    let oregon = world.start("oregon");
    oregon.until("breaks.shop", |service| service.candidates.iter().any(|c| c.usable)).await;
    let mut wire = Wire::dial(&world, "paris", "oregon", world.gateway("oregon")).await;
    wire.control(open(1, "shop/breaks", 80)).await.unwrap();
    assert_eq!(wire.expect().await, reply(1, Verdict::Accepted));
    assert_eq!(wire.octets(4).await, b"half");
    wire.payload(b"1").await.unwrap();
    go.send_replace(());
    assert_eq!(wire.until_closed().await, [control(aborted(1))], "told, then closed");
}
