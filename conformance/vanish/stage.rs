//! What the tests here share: paris calls; tokyo, whose data port follows a script, is first;
//! oregon, which is sound, is second.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use portolan::health::PeerState;
use portolan::testing::peer::{Peer, Stream};
use portolan::testing::wire::{Heard, reply};
use portolan::testing::{Agent, Backend, PATIENCE, World};
use portolan::wire::frame::{Control, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const NAME: &str = "web.shop";
const TOKYO_FIRST: &str = "portolan.dev/policy: \"pinned: tokyo, oregon\"";

static NUMBER: AtomicU64 = AtomicU64::new(0);

pub(crate) fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Octets that no other call sends.
pub(crate) fn letter(length: usize) -> Vec<u8> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut letter = format!("letter {number}:").into_bytes();
    letter.extend((0..length).map(|i| u8::try_from(i * 31 % 251).expect("below 251")));
    letter
}

/// A value of the metrics page, 0 where the series is not there.
pub(crate) async fn metric(agent: &Agent, series: &str) -> f64 {
    let page = agent.admin.metrics().await.expect("the admin port answers");
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

/// Waits until a series has this value.
pub(crate) async fn until_metric(agent: &Agent, series: &str, wanted: f64) {
    soon(series, async {
        while (metric(agent, series).await - wanted).abs() > 0.1 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// No task of a connection has panicked.
pub(crate) async fn assert_no_panic(agent: &Agent) {
    let page = agent.admin.metrics().await.expect("the admin port answers");
    let panics: Vec<&str> =
        page.lines().filter(|l| l.starts_with("portolan_panics_total")).collect();
    assert!(!panics.is_empty(), "the counter is there");
    assert!(panics.iter().all(|line| line.ends_with(" 0")), "{panics:?}");
}

pub(crate) struct Stage {
    pub(crate) paris: Agent,
    pub(crate) tokyo: Peer,
    /// What oregon's backend was sent, one entry for each connection.
    letters: Arc<Mutex<Vec<Vec<u8>>>>,
    candidates: usize,
    _others: [Agent; 2],
    _backends: [Backend; 2],
    _world: World,
}

impl Stage {
    /// With oregon behind tokyo.
    pub(crate) async fn new() -> Self {
        Self::of(&["tokyo", "oregon"]).await
    }

    /// With tokyo alone, so that a slow test loses no race.
    pub(crate) async fn alone() -> Self {
        Self::of(&["tokyo"]).await
    }

    async fn of(exporters: &[&str]) -> Self {
        let world = World::new(&["paris", "oregon", "tokyo"]);
        let letters = Arc::new(Mutex::new(Vec::new()));
        let book = Arc::clone(&letters);
        let sound = Backend::start(loopback(), move |mut stream| {
            let book = Arc::clone(&book);
            async move {
                let mut letter = Vec::new();
                let whole = stream.read_to_end(&mut letter).await;
                book.lock().expect("no panic").push(letter.clone());
                if whole.is_ok() {
                    let answer = [b"oregon has ", letter.as_slice()].concat();
                    // A client that went away needs no answer.
                    let _gone = stream.write_all(&answer).await;
                }
            }
        })
        .await;
        let never = Backend::naming(loopback(), "tokyo's own backend").await;
        for exporter in exporters {
            let backend = if *exporter == "tokyo" { never.address } else { sound.address };
            world.export_with(exporter, "shop/web", 80, &[backend], TOKYO_FIRST);
        }
        let front = (world.host("tokyo", 3), 8443).into();
        let tokyo = Peer::start(&world, "tokyo", front, world.gateway("tokyo")).await;
        let others = [world.start("oregon"), world.start("tokyo")];
        let config = world.write_config("paris", |peer| match peer {
            "tokyo" => vec![front],
            _ => vec![world.gateway(peer)],
        });
        let paris = Agent::start(&config);
        let stage = Self {
            paris,
            tokyo,
            letters,
            candidates: exporters.len(),
            _others: others,
            _backends: [sound, never],
            _world: world,
        };
        stage.tokyo_leads().await;
        stage.paris.peers_up().await;
        stage
    }

    /// Waits until new streams go to tokyo first.
    pub(crate) async fn tokyo_leads(&self) {
        self.paris
            .until(NAME, |service| {
                service.candidates.len() == self.candidates
                    && service.candidates[0].cluster.as_str() == "tokyo"
                    && service.candidates.iter().all(|c| c.usable && c.state == PeerState::Up)
            })
            .await;
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        self.paris.connect(NAME).await
    }

    /// A client that writes before anybody has accepted is served by oregon, whole and once.
    pub(crate) async fn oregon_serves(&self, what: &str) {
        let letter = letter(50_000);
        let mut client = self.connect().await;
        soon(what, client.write_all(&letter)).await.expect("room in the kernel");
        client.shutdown().await.expect("half-close");
        self.oregon_answers(what, client, &letter).await;
    }

    /// The client that sent this letter gets oregon's answer to it.
    pub(crate) async fn oregon_answers(&self, what: &str, mut client: TcpStream, letter: &[u8]) {
        let mut answer = Vec::new();
        let read = soon(what, client.read_to_end(&mut answer)).await;
        read.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(answer == [b"oregon has ", letter].concat(), "{what}: another answer");
        let letters = self.letters.lock().expect("no panic");
        let times = letters.iter().filter(|other| *other == letter).count();
        assert_eq!(times, 1, "{what}: oregon's backend got it so many times");
    }

    /// A client and the end of its stream in the hands of the test, accepted.
    pub(crate) async fn accepted(&mut self) -> (TcpStream, Stream) {
        let client = self.connect().await;
        let mut stream = self.tokyo.stream().await;
        let number = stream.open.stream;
        stream.wire.control(reply(number, Verdict::Accepted)).await.expect("paris is there");
        (client, stream)
    }

    /// Clients come until one is served over this idle connection: its stream's number and the
    /// client, not yet answered.
    pub(crate) async fn reuse(&mut self, stream: &mut Stream) -> TcpStream {
        loop {
            let client = self.connect().await;
            tokio::select! {
                heard = stream.wire.heard() => match heard {
                    Heard::Control(Control::Open(open)) => {
                        stream.open = open;
                        return client;
                    }
                    Heard::Control(Control::Ping(number)) => {
                        stream.wire.control(Control::Pong(number)).await.expect("paris is there");
                    }
                    other => panic!("{other:?} on an idle connection"),
                },
                // Another spare was used: refused for good, so that oregon takes the client.
                mut other = self.tokyo.stream() => {
                    let refusal = reply(other.open.stream, Verdict::NotExported);
                    other.wire.control(refusal).await.expect("paris is there");
                    other.wire.close().await;
                }
            }
        }
    }
}

/// Reads until the end; what came, and whether it ended with a reset.
pub(crate) async fn read_to_end(what: &str, client: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let end = soon(what, client.read_to_end(&mut all)).await;
    match end {
        Ok(_) => (all, false),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}: {error}");
            (all, true)
        }
    }
}

/// Reads exactly these octets.
pub(crate) async fn reads(what: &str, client: &mut TcpStream, octets: &[u8]) {
    let mut read = vec![0; octets.len()];
    soon(what, client.read_exact(&mut read)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(read, octets, "{what}");
}
