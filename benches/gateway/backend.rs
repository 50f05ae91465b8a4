//! The servers behind the second gateway: a sink that counts, an echo, HTTP/1.1, and the counts.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Reads and counts.
pub(crate) const SINK: u16 = 7001;
/// Sends back what it reads.
pub(crate) const ECHO: u16 = 7002;
/// Answers requests with 1 KiB.
pub(crate) const HTTP: u16 = 7003;
/// Tells the octets of every connection to the sink, as JSON.
pub(crate) const COUNTS: u16 = 7009;
/// The services and their ports.
pub(crate) const SERVICES: [(&str, u16); 3] = [("sink", SINK), ("echo", ECHO), ("http", HTTP)];
/// Octets of an HTTP answer's body.
pub(crate) const BODY: usize = 1024;
/// Connections waiting to be accepted: a burst must not be dropped here.
const BACKLOG: u32 = 16_384;
const SINK_BUFFER: usize = 256 * 1024;

/// Octets received by each connection to the sink.
type Counts = Arc<Mutex<BTreeMap<u64, Arc<AtomicU64>>>>;

/// Listens with a long queue.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until it is killed.
pub(crate) async fn serve(host: IpAddr) -> io::Result<()> {
    let at = |port| listen(SocketAddr::new(host, port));
    let (sinks, echoes, sites, questions) = (at(SINK)?, at(ECHO)?, at(HTTP)?, at(COUNTS)?);
    crate::say("ready")?;
    let counts = Counts::default();
    let mut next = 0_u64;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = sinks.accept() => {
                next += 1;
                let count = Arc::new(AtomicU64::new(0));
                lock(&counts).insert(next, Arc::clone(&count));
                let (id, counts) = (next, Arc::clone(&counts));
                streams.spawn(async move {
                    let _ended = sink(stream, &count).await;
                    lock(&counts).remove(&id);
                });
            }
            Ok((stream, _)) = echoes.accept() => {
                streams.spawn(async move { drop(echo(stream).await) });
            }
            Ok((stream, _)) = sites.accept() => {
                streams.spawn(async move { drop(http(stream).await) });
            }
            Ok((mut stream, _)) = questions.accept() => {
                let seen: BTreeMap<u64, u64> = lock(&counts)
                    .iter()
                    .map(|(id, count)| (*id, count.load(Ordering::Relaxed)))
                    .collect();
                let text = serde_json::to_vec(&seen).expect("numbers are JSON");
                streams.spawn(async move { drop(stream.write_all(&text).await) });
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

fn lock(counts: &Counts) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<AtomicU64>>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sink(mut stream: TcpStream, count: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; SINK_BUFFER];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => count.fetch_add(read as u64, Ordering::Relaxed),
        };
    }
}

/// Its buffer is small, because thousands of these are held open.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 2048];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

/// Requests have no body and come one at a time.
async fn http(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    let mut request = Vec::with_capacity(1024);
    loop {
        request.clear();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        stream.write_all(&answer).await?;
    }
}
