//! P01: one of two gateway replicas dies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portolan::clock;
use portolan::health::PeerState;
use portolan::testing::{Agent, Backend, PATIENCE, Process, World};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{NAME, loopback, metric, soon};

const BINARY: &str = env!("CARGO_BIN_EXE_portolan");
/// Streams opened before the kill: both replicas get some of them, but for one chance in 10^9.
const STREAMS: usize = 30;
/// A new stream's first octet comes within this.
const BOUND: Duration = Duration::from_millis(1_500);

fn replica(world: &World, which: u8) -> SocketAddr {
    (world.host("oregon", which), 8443).into()
}

/// The replicas' configuration files, the second's and its admin address last.
fn configure(world: &World) -> [(std::path::PathBuf, SocketAddr); 2] {
    [1, 2].map(|which| {
        let file = world.write_replica("oregon", which, |peer| vec![world.gateway(peer)]);
        (file, (world.host("oregon", which), 9900).into())
    })
}

/// paris, once both replicas were seen to carry streams.
async fn start_paris(world: &World) -> Agent {
    let config = world.write_config("paris", |_| vec![replica(world, 1), replica(world, 2)]);
    let paris = Agent::start(&config);
    paris.peers_up().await;
    paris.led_by(NAME, "oregon").await;
    paris
}

/// A stream that says which replica carries it: the backend names who dialled it.
struct Held {
    client: TcpStream,
}

async fn hold(paris: &Agent) -> Held {
    let mut client = paris.connect(NAME).await;
    soon("a first octet", async {
        client.write_all(b"1").await.expect("accepted");
        client.read_exact(&mut [0]).await.expect("an echo");
    })
    .await;
    Held { client }
}

/// Opens streams until both replicas hold some: how many each has.
async fn spread(paris: &Agent, open: impl AsyncFn(u8) -> f64) -> Vec<Held> {
    let deadline = clock::now() + PATIENCE;
    let mut held = Vec::new();
    loop {
        for _ in 0..STREAMS {
            held.push(hold(paris).await);
        }
        if open(1).await >= 1.0 && open(2).await >= 1.0 {
            return held;
        }
        assert!(clock::now() < deadline, "one replica gets all {} streams", held.len());
    }
}

/// After the kill: as many streams as the dead one had break once; the others go on; new ones
/// come within the bound from the first moment on.
async fn survives(paris: &Agent, held: Vec<Held>, lost: f64, killed: Instant) {
    let mut slowest = Duration::ZERO;
    let mut calls = 0;
    while clock::now() - killed < Duration::from_secs(6) {
        let begun = clock::now();
        drop(hold(paris).await);
        slowest = slowest.max(clock::now() - begun);
        calls += 1;
    }
    assert!(slowest < BOUND, "the slowest of {calls} new streams took {slowest:?}");
    let mut broken = 0;
    for mut held in held {
        let echoed = async {
            held.client.write_all(b"2").await?;
            let mut echo = [0];
            held.client.read_exact(&mut echo).await
        };
        match soon("an echo or the reset", echoed).await {
            Ok(_) => {}
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(
                        kind,
                        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                    ),
                    "no honest end: {error}"
                );
                broken += 1;
            }
        }
    }
    assert!((f64::from(broken) - lost).abs() < 0.5, "{broken} streams broke, {lost} were lost");
    let service = paris.explain(NAME).await.expect("known");
    let oregon = service.candidates.first().expect("oregon");
    assert!(oregon.usable && oregon.state == PeerState::Up, "{oregon:?}");
}

const OPEN: &str = "portolan_streams_open{direction=\"inbound\"}";

#[tokio::test(flavor = "multi_thread")]
async fn p01_one_of_two_replicas_ends_abruptly() {
    let world = World::new(&["paris", "oregon"]);
    let echo = Backend::echo(loopback()).await;
    world.export("oregon", "shop/web", 80, &[echo.address]);
    let [one, two] = configure(&world).map(|(file, _)| Agent::start(&file));
    let paris = start_paris(&world).await;
    let held =
        spread(&paris, async |which| metric(if which == 1 { &one } else { &two }, OPEN).await)
            .await;
    let lost = metric(&two, OPEN).await;
    assert!((metric(&one, OPEN).await + lost - held.len() as f64).abs() < 0.5);
    two.kill();
    survives(&paris, held, lost, clock::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p01_one_of_two_replicas_is_killed() {
    one_of_two_processes_meets(Signal::KILL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p01_one_of_two_replicas_is_frozen() {
    one_of_two_processes_meets(Signal::STOP).await;
}

async fn one_of_two_processes_meets(signal: Signal) {
    let world = World::new(&["paris", "oregon"]);
    let echo = Backend::echo(loopback()).await;
    world.export("oregon", "shop/web", 80, &[echo.address]);
    let [mut one, mut two] =
        configure(&world).map(|(file, admin)| Process::start(BINARY, &file, admin));
    one.ready(PATIENCE).await;
    two.ready(PATIENCE).await;
    let paris = start_paris(&world).await;
    let open = async |which: u8| {
        let admin = if which == 1 { &one.admin } else { &two.admin };
        let page = admin.metrics().await.expect("the admin port answers");
        let line = page.lines().find_map(|line| line.strip_prefix(OPEN));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    };
    let held = spread(&paris, open).await;
    let lost = open(2).await;
    two.signal(signal);
    survives(&paris, held, lost, clock::now()).await;
}
