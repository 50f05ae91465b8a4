//! P13: a panic in the task of one connection ends that connection, is counted, and touches
//! nobody else. The panic is a real one in the real task: it is caused in the log line that the
//! task writes about a certain peer.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Mutex, Once};

use portolan::testing::wire::{Wire, open, reply};
use portolan::testing::{Backend, World};
use portolan::wire::frame::{Control, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::stage::{loopback, metric, soon, until_metric};

/// Whoever logs a line that begins and goes on like one of these panics.
static MINES: Mutex<Vec<[String; 2]>> = Mutex::new(Vec::new());

struct Minefield;

impl<S: Subscriber> Layer<S> for Minefield {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        ["portolan::gateway::session", "portolan::tls::metrics"].contains(&metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let hits = |[begins, goes_on]: &[String; 2]| {
            line.0.starts_with(begins) && line.0.contains(goes_on)
        };
        let hit = MINES.lock().is_ok_and(|mines| mines.iter().any(hits));
        assert!(!hit, "on purpose: {}", line.0);
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).expect("a string takes text");
    }
}

fn lay(begins: &str, goes_on: String) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let field = tracing_subscriber::registry().with(Minefield);
        tracing::subscriber::set_global_default(field).expect("nobody else logs here");
    });
    MINES.lock().expect("no panic").push([begins.to_owned(), goes_on]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_a_panic_in_a_data_connection_ends_that_connection_and_is_counted() {
    let world = World::new(&["landmine", "paris", "oregon"]);
    let echo = Backend::echo(loopback()).await;
    world.export("oregon", "shop/web", 80, &[echo.address]);
    let oregon = world.start("oregon");
    oregon.until("web.shop", |service| service.candidates.iter().any(|c| c.usable)).await;
    let gateway = world.gateway("oregon");
    let mut sound = Wire::dial(&world, "paris", "oregon", gateway).await;
    sound.control(open(1, "shop/web", 80)).await.unwrap();
    assert_eq!(sound.expect().await, reply(1, Verdict::Accepted));

    lay("message=connection closed", "peer=landmine ".to_owned());
    for round in 1..=3 {
        let mut victim = Wire::dial(&world, "landmine", "oregon", gateway).await;
        victim.control(Control::Drain).await.unwrap();
        victim.until_closed().await;
        let series = "portolan_panics_total{component=\"gateway\"}";
        until_metric(&oregon, series, f64::from(round)).await;
        sound.payload(b"alive").await.unwrap();
        assert_eq!(sound.octets(5).await, b"alive");
    }
    let mut next = Wire::dial(&world, "paris", "oregon", gateway).await;
    next.control(open(1, "shop/web", 80)).await.unwrap();
    assert_eq!(next.expect().await, reply(1, Verdict::Accepted));
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_a_panic_in_a_handshake_ends_that_connection_and_is_counted() {
    let world = World::new(&["paris", "oregon"]);
    let echo = Backend::echo(loopback()).await;
    world.export("oregon", "shop/web", 80, &[echo.address]);
    let oregon = world.start("oregon");
    oregon.until("web.shop", |service| service.candidates.iter().any(|c| c.usable)).await;
    let gateway = world.gateway("oregon");
    let mut sound = Wire::dial(&world, "paris", "oregon", gateway).await;

    let from = SocketAddr::new(world.host("oregon", 9), 0);
    lay("message=connection refused", format!("remote={}:", from.ip()));
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from).unwrap();
    let mut stranger = socket.connect(gateway).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    // A reset is as good as a FIN: the connection is over.
    let _over = soon("the end", stranger.read_to_end(&mut rest)).await;
    until_metric(&oregon, "portolan_panics_total{component=\"tls\"}", 1.0).await;
    assert!(metric(&oregon, "portolan_panics_total{component=\"gateway\"}").await < 0.5);

    sound.control(open(1, "shop/web", 80)).await.unwrap();
    assert_eq!(sound.expect().await, reply(1, Verdict::Accepted));
    Wire::dial(&world, "paris", "oregon", gateway).await;
}
