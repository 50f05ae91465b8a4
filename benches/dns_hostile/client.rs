//! One process of the crowd, and the questions that everybody asks.

use std::io::{BufRead as _, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use portolan::clock;
use portolan::testing::dns_query;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::say;

/// The argument that makes this program a part of the crowd.
pub(super) const ROLE: &str = "--crowd";
const NAME: &str = "web.shop.svc.clusterset.local";
/// Connects under way at a time, so that each is seen to complete when it does.
const CONNECTS: usize = 64;
/// Longer than the kernel's first tries to connect.
const PATIENCE: Duration = Duration::from_secs(20);

/// How one client fared.
enum Fate {
    /// Answered, and still connected.
    Held(TcpStream),
    /// Closed without an answer so long after its connect.
    Refused(Duration),
    /// No connection, or neither answer nor end.
    Lost,
}

/// What a process of the crowd saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// Clients that were answered and stay.
    pub(super) held: usize,
    /// How long each refused one was connected.
    pub(super) refused: Vec<Duration>,
    /// Those that were neither.
    pub(super) lost: usize,
}

/// A process of the crowd; it lets go when dropped.
pub(super) struct Crowd(Child);

impl Crowd {
    /// So many clients of one address.
    pub(super) fn start(source: Ipv4Addr, server: SocketAddr, clients: usize) -> Self {
        let child = Command::new(std::env::current_exe().expect("it runs"))
            .args([ROLE, &source.to_string(), &server.to_string(), &clients.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("it starts again"))
    }

    /// Waits until all of its clients know their fate; those that are held stay so.
    pub(super) fn settled(&mut self) -> Seen {
        let out = self.0.stdout.as_mut().expect("a pipe");
        let mut line = String::new();
        std::io::BufReader::new(out).read_line(&mut line).expect("it says one line");
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
        let mut count = || usize::try_from(numbers.next().expect("a number")).expect("it fits");
        let (held, lost) = (count(), count());
        Seen { held, lost, refused: numbers.map(Duration::from_micros).collect() }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It ends by itself when nobody holds its input.
        let _ended = self.0.wait();
    }
}

/// Be a part of the crowd: `SOURCE SERVER CLIENTS`.
pub(super) async fn run(arguments: &[String]) {
    let [source, server, clients] = arguments else { panic!("SOURCE SERVER CLIENTS") };
    let source: Ipv4Addr = source.parse().expect("an address");
    let server: SocketAddr = server.parse().expect("an address");
    let connects = Arc::new(Semaphore::new(CONNECTS));
    let mut clients: JoinSet<Fate> = (0..clients.parse().expect("a number"))
        .map(|_: usize| client(source, server, Arc::clone(&connects)))
        .collect();
    let (mut held, mut lost, mut refused) = (Vec::new(), 0, Vec::new());
    while let Some(fate) = clients.join_next().await {
        match fate.expect("it does not panic") {
            Fate::Held(stream) => held.push(stream),
            Fate::Refused(after) => refused.push(after),
            Fate::Lost => lost += 1,
        }
    }
    // Whoever was answered first may have been closed since.
    held.retain(|stream| {
        let read = stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    });
    let refused = refused.iter().map(|after| format!(" {}", after.as_micros()));
    say(&format!("{} {lost}{}", held.len(), refused.collect::<String>()));
    // Until the other end lets go.
    let _end = std::io::stdin().read(&mut [0]);
}

async fn client(source: Ipv4Addr, server: SocketAddr, connects: Arc<Semaphore>) -> Fate {
    let Ok(turn) = connects.acquire_owned().await else { return Fate::Lost };
    let Ok(mut stream) = connect(source.into(), server).await else { return Fate::Lost };
    let connected = clock::now();
    drop(turn);
    // A connection that is refused already may refuse this too; the read tells.
    let _refused = stream.write_all(&framed()).await;
    match timeout(PATIENCE, stream.read(&mut [0; 512])).await {
        Ok(Ok(1..)) => Fate::Held(stream),
        Ok(Ok(0) | Err(_)) => Fate::Refused(clock::now() - connected),
        Err(_) => Fate::Lost,
    }
}

async fn connect(source: IpAddr, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    timeout(PATIENCE, socket.connect(server)).await?
}

/// One query over a connection of its own: how long that took.
pub(super) async fn ask_tcp(source: IpAddr, server: SocketAddr) -> Option<Duration> {
    let began = clock::now();
    let answered = async {
        let mut stream = connect(source, server).await.ok()?;
        stream.write_all(&framed()).await.ok()?;
        let octets = stream.read(&mut [0; 512]).await.ok()?;
        (octets > 0).then(|| clock::now() - began)
    };
    timeout(PATIENCE, answered).await.ok()?
}

/// One query by datagram: how long that took.
pub(super) async fn ask_udp(server: SocketAddr) -> Option<Duration> {
    let began = clock::now();
    let addresses = dns_query(server, NAME).await.ok()?;
    (!addresses.is_empty()).then(|| clock::now() - began)
}

/// A query for the one name, type A.
pub(super) fn query() -> Vec<u8> {
    let mut octets = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAME.split('.') {
        octets.push(u8::try_from(label.len()).expect("a label"));
        octets.extend_from_slice(label.as_bytes());
    }
    octets.extend_from_slice(&[0, 0, 1, 0, 1]);
    octets
}

/// The same as a frame.
pub(super) fn framed() -> Vec<u8> {
    let query = query();
    let length = u16::try_from(query.len()).expect("a short query");
    [&length.to_be_bytes()[..], &query].concat()
}
