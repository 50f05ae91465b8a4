//! The server over real loopback sockets.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use prometheus::Registry;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::drain::{self, Phase, Trigger};

#[path = "tcp.rs"]
mod tcp;

/// Longer than any machine stalls.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Every way to drive UDP sockets.
pub(super) const IOS: [Io; 2] = [Io::Batch, Io::Portable];

/// Turns of the runtime, which take time also while time stands still.
const MOST_TURNS: u32 = 5_000_000;

pub(super) struct Running {
    /// The first of the plain ones, or of those for TLS.
    pub(super) address: SocketAddr,
    addresses: Vec<SocketAddr>,
    pub(super) tls: Vec<SocketAddr>,
    registry: Registry,
    ttl: Ttl,
    pub(super) writer: Compiler,
    trigger: Trigger,
    task: JoinSet<Result<(), Error>>,
}

pub(super) fn config(listen: &[&str]) -> Config {
    Config {
        listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
        io: Io::Auto,
        ttl_seconds: 5,
        allow: Vec::new(),
        forwarders: Vec::new(),
        tcp_per_source: DEFAULT_TCP_PER_SOURCE,
        tcp_total: DEFAULT_TCP_TOTAL,
    }
}

fn start_with(config: Config) -> Running {
    start_server(config, |server| server)
}

pub(super) fn start_server(config: Config, more: impl FnOnce(Server) -> Server) -> Running {
    let registry = Registry::new();
    let (writer, shared) = SharedAnswers::new(&table(), &zone());
    let metrics = Metrics::register(&registry).unwrap();
    let server = more(Server::bind(config, shared, metrics).unwrap());
    let (addresses, tls, ttl) = (server.local_addrs(), server.tls_addrs(), server.ttl());
    let address = addresses.iter().chain(&tls).copied().next().unwrap();
    let (trigger, watch) = drain::channel();
    let mut task = JoinSet::new();
    task.spawn(server.run(watch));
    Running { address, addresses, tls, registry, ttl, writer, trigger, task }
}

fn start() -> Running {
    start_with(config(&["127.0.0.1:0"]))
}

pub(super) fn start_io(io: Io, listen: &[&str]) -> Running {
    start_with(Config { io, ..config(listen) })
}

impl Running {
    /// The value of a metric's line, which begins with `name`.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather());
        let text = text.unwrap();
        let line = text.lines().find(|line| line.starts_with(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until a metric has that value: the time is counted when the answer is gone.
    async fn counted(&self, name: &str, value: f64) {
        let counted = async {
            while self.metric(name) < value {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, counted).await.expect("it is counted");
        assert_eq!(self.metric(name), value);
    }

    pub(super) async fn connect(&self) -> TcpStream {
        timeout(PATIENCE, TcpStream::connect(self.address)).await.unwrap().unwrap()
    }

    pub(super) async fn stopped(mut self) {
        self.trigger.advance(Phase::Draining);
        let ended = timeout(PATIENCE, self.task.join_next()).await.unwrap().unwrap();
        ended.unwrap().unwrap();
    }
}

pub(super) async fn client(to: SocketAddr) -> UdpSocket {
    let bind = if to.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    let socket = UdpSocket::bind(bind).await.unwrap();
    socket.connect(to).await.unwrap();
    socket
}

/// The next answer, as it came.
pub(super) async fn heard(socket: &UdpSocket) -> Vec<u8> {
    let mut octets = vec![0; 2000];
    let length = timeout(PATIENCE, socket.recv(&mut octets)).await.unwrap().unwrap();
    octets.truncate(length);
    octets
}

async fn ask(socket: &UdpSocket, wire: &Wire) -> Message {
    socket.send(&wire.0).await.unwrap();
    let mut octets = [0; 1500];
    let length = timeout(PATIENCE, socket.recv(&mut octets)).await.unwrap().unwrap();
    Message::from_vec(&octets[..length]).unwrap()
}

pub(super) async fn read_frame(stream: &mut TcpStream) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut octets = vec![0; length.into()];
    timeout(PATIENCE, stream.read_exact(&mut octets)).await.unwrap().unwrap();
    Message::from_vec(&octets).unwrap()
}

/// Lets the server get on until something has come true.
pub(super) async fn until(mut true_now: impl FnMut() -> bool) {
    for _ in 0..MOST_TURNS {
        if true_now() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came true");
}

/// The connection's end, however the kernel tells it.
pub(super) async fn ended(stream: &mut TcpStream) {
    let mut octet = [0];
    let read = timeout(PATIENCE, stream.read(&mut octet)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

pub(super) fn numbered(id: u16, name: &str, qtype: u16) -> Wire {
    let mut wire = query(name, qtype);
    wire.0[..2].copy_from_slice(&id.to_be_bytes());
    wire
}

/// Keeps paused time from jumping ahead of the sockets: only `advance` moves it.
pub(super) fn hold_time() -> SyncSender<()> {
    tokio::time::pause();
    let (hold, held) = sync_channel(0);
    drop(tokio::task::spawn_blocking(move || held.recv()));
    hold
}

#[tokio::test]
async fn udp_answers_from_the_address_that_was_asked() {
    for io in IOS {
        let running = start_io(io, &["127.0.0.1:0", "127.0.0.2:0"]);
        assert_eq!(running.addresses.len(), 2);
        for address in &running.addresses {
            // A connected socket hears only the address it asked.
            let socket = client(*address).await;
            for id in 0..50 {
                let message = ask(&socket, &numbered(id, WEB, A)).await;
                assert_eq!((message.metadata.id, message.answers.len()), (id, 1));
            }
        }
        let counted = "portolan_dns_queries_total{qtype=\"A\",rcode=\"NOERROR\",transport=\"udp\"}";
        assert_eq!(running.metric(counted), 100.0);
        running.counted("portolan_dns_seconds_count", 100.0).await;
        assert!(running.metric("portolan_dns_seconds_sum") > 0.0);
        running.stopped().await;
    }
}

/// By route the kernel would answer from 127.0.0.1.
#[tokio::test]
async fn behind_a_wildcard_too_an_answer_leaves_from_the_address_that_was_asked() {
    for (listen, asked) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "::1")] {
        let running = start_io(Io::Batch, &[listen]);
        let port = running.address.port();
        for asked in [asked, if asked == "::1" { "::1" } else { "127.0.0.1" }] {
            let socket = client(SocketAddr::new(asked.parse().unwrap(), port)).await;
            assert_eq!(ask(&socket, &query(WEB, A)).await.answers.len(), 1, "{asked}");
        }
        running.stopped().await;
    }
}

#[tokio::test]
async fn a_burst_over_udp_is_answered_whole() {
    for io in IOS {
        let running = start_io(io, &["127.0.0.1:0"]);
        let socket = client(running.address).await;
        for id in 0..100 {
            socket.send(&numbered(id, WEB, A).0).await.unwrap();
        }
        let mut octets = [0; 1500];
        for id in 0..100 {
            let length = timeout(PATIENCE, socket.recv(&mut octets)).await.unwrap().unwrap();
            assert_eq!(Message::from_vec(&octets[..length]).unwrap().metadata.id, id);
        }
    }
}

#[tokio::test]
async fn answers_and_scraps_are_not_answered_and_do_no_harm() {
    for io in IOS {
        let running = start_io(io, &["127.0.0.1:0"]);
        let socket = client(running.address).await;
        socket.send(&query(WEB, A).flags(0x8180).0).await.unwrap();
        socket.send(&[]).await.unwrap();
        socket.send(&[0; 11]).await.unwrap();
        socket.send(&vec![0xFF; 60_000]).await.unwrap();
        assert_eq!(ask(&socket, &numbered(7, WEB, A)).await.metadata.id, 7);
        assert_eq!(running.metric("portolan_dns_dropped_total"), 4.0);
    }
}

#[tokio::test]
async fn ipv6_serves_like_ipv4() {
    for io in IOS {
        let running = start_io(io, &["[::1]:0"]);
        let socket = client(running.address).await;
        assert_eq!(ask(&socket, &query(WEB, A)).await.answers.len(), 1);
        let mut stream = running.connect().await;
        stream.write_all(&query(WEB, A).framed()).await.unwrap();
        assert_eq!(read_frame(&mut stream).await.answers.len(), 1);
    }
}

#[tokio::test]
async fn a_new_table_and_a_new_ttl_are_seen_by_the_next_query() {
    for io in IOS {
        let mut running = start_io(io, &["127.0.0.1:0"]);
        let socket = client(running.address).await;
        let mut stream = running.connect().await;
        let moved = Tables::new("paris").vip("shop/web", &["127.64.9.9"], &[], &[]).build();
        running.writer.publish(&moved);
        running.ttl.set(30);
        stream.write_all(&query(WEB, A).framed()).await.unwrap();
        for message in [ask(&socket, &query(WEB, A)).await, read_frame(&mut stream).await] {
            assert_eq!(message.answers[0].data.to_string(), "127.64.9.9");
            assert_eq!(message.answers[0].ttl, 30);
        }
    }
}

/// Fault P05: answers go on while the end is announced; then the sockets close.
#[tokio::test]
async fn answers_go_on_until_the_drain_and_then_everything_closes() {
    for io in IOS {
        let running = start_io(io, &["127.0.0.1:0"]);
        // Many, so that every lane has some.
        let mut sockets = Vec::new();
        for _ in 0..32 {
            sockets.push(client(running.address).await);
        }
        let mut stream = running.connect().await;
        running.trigger.advance(Phase::Announced);
        assert_eq!(ask(&sockets[0], &query(WEB, A)).await.answers.len(), 1);
        stream.write_all(&query(WEB, A).framed()).await.unwrap();
        read_frame(&mut stream).await;
        // What has reached the sockets before the end is still answered.
        for socket in &sockets {
            for id in 0..20 {
                socket.send(&numbered(id, WEB, A).0).await.unwrap();
            }
        }
        stream.write_all(&numbered(9, WEB, A).framed()).await.unwrap();
        let address = running.address;
        running.stopped().await;
        let mut octets = [0; 1500];
        for socket in &sockets {
            for id in 0..20 {
                let length = timeout(PATIENCE, socket.recv(&mut octets)).await.unwrap().unwrap();
                assert_eq!(Message::from_vec(&octets[..length]).unwrap().metadata.id, id);
            }
        }
        assert_eq!(read_frame(&mut stream).await.metadata.id, 9);
        ended(&mut stream).await;
        assert!(TcpStream::connect(address).await.is_err());
        UdpSocket::bind(address).await.expect("the port is free again");
    }
}

/// Several sockets share an address, but with nobody else: not with a process that would share it
/// too, nor with a second server.
#[tokio::test]
async fn a_port_in_use_refuses_to_start_and_says_what_to_do() {
    for io in IOS {
        // An address that nobody else has TCP ports of.
        let own = "127.0.0.41:0";
        let running = start_io(io, &[own]);
        let udp_only = UdpSocket::bind(own).await.unwrap();
        let sharing = udp_socket();
        sharing.set_reuse_port(true).unwrap();
        sharing.bind(&own.parse::<SocketAddr>().unwrap().into()).unwrap();
        for (address, protocol) in [
            (running.address, "tcp"),
            (udp_only.local_addr().unwrap(), "udp"),
            (sharing.local_addr().unwrap().as_socket().unwrap(), "udp"),
        ] {
            let (_writer, shared) = SharedAnswers::new(&table(), &zone());
            let metrics = Metrics::register(&Registry::new()).unwrap();
            let listen = address.to_string();
            let config = Config { io, ..config(&[&listen]) };
            let error = Server::bind(config, shared, metrics).unwrap_err().to_string();
            assert!(error.contains(&format!("{listen} over {protocol}")), "{error}");
            assert!(error.contains("dns.listen"), "{error}");
        }
        // Nor does somebody who would not share get in later.
        let late = udp_socket();
        late.bind(&running.address.into()).unwrap_err();
    }
}

fn udp_socket() -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap()
}

/// Runs itself again with few descriptors, so that the other tests keep theirs.
#[test]
fn accepting_goes_on_after_the_descriptors_ran_out() {
    const NAME: &str = "dns::tests::sockets::accepting_goes_on_after_the_descriptors_ran_out";
    if getrlimit(Resource::Nofile).current.is_some_and(|limit| limit <= 64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(run_out_of_descriptors());
    }
    let test = std::env::current_exe().unwrap();
    let script = "ulimit -n 64; exec \"$0\" --exact \"$1\"";
    let output = Command::new("sh").args(["-c", script]).arg(test).arg(NAME).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

async fn run_out_of_descriptors() {
    let running = start();
    let socket = TcpSocket::new_v4().unwrap();
    let mut fillers = Vec::new();
    while let Ok(file) = std::fs::File::open("Cargo.toml") {
        fillers.push(file);
    }
    let mut stream = socket.connect(running.address).await.unwrap();
    stream.write_all(&query(WEB, A).framed()).await.unwrap();
    timeout(PATIENCE, async {
        while running.metric("portolan_dns_socket_errors_total") < 2.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("accepting fails while there is no descriptor");
    fillers.clear();
    assert_eq!(read_frame(&mut stream).await.answers.len(), 1);
}
