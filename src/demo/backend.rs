//! Small HTTP/1.1 servers that say where they are.
//!
//! `/` answers one line of JSON, `/load` the same line and a filler that can be checked to the
//! last byte, `/hold` the line at once and then a byte every 100 ms for a minute. One request a
//! connection: what is measured is new connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::drain::{self, Phase};

/// Length of what follows the line in `/load`.
const FILLER: usize = 4096;

/// Bytes of `/hold` after the line, and their pace.
const HELD_BYTES: usize = 600;
const HELD_PACE: Duration = Duration::from_millis(100);

/// A request's head must be complete within this, and no longer than this.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const HEAD_MAX: usize = 8 * 1024;

/// Wait before accepting again when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who answers: the line that every body begins with.
pub(super) fn line(cluster: &str, pod: &str) -> String {
    format!("{{\"cluster\":\"{cluster}\",\"pod\":\"{pod}\"}}\n")
}

/// The whole body of `/load` behind `line`: different in every position, and per answerer.
pub(super) fn load_body(line: &str) -> Vec<u8> {
    let seed = line.bytes().fold(7_u8, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte));
    let mut body = line.as_bytes().to_vec();
    let printable: Vec<u8> = (b' '..b' ' + 95).collect();
    body.extend((0..FILLER).map(|i| printable[(i * 13 + i / 95 + usize::from(seed)) % 95]));
    body
}

/// One server.
#[derive(Debug)]
pub(super) struct Backend {
    listener: TcpListener,
    line: String,
}

impl Backend {
    /// Listens at `at` as that pod of that cluster.
    pub(super) async fn bind(at: SocketAddr, cluster: &str, pod: &str) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(at).await?, line: line(cluster, pod) })
    }

    /// Where it listens.
    #[cfg(test)]
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }

    /// Answers until told to stop, then finishes what it has begun.
    pub(super) async fn run(self, mut drain: drain::Watch) {
        let Self { listener, line } = self;
        let mut answering = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let line = line.clone();
                        answering.spawn(async move { answer(stream, &line).await });
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
                Some(_ended) = answering.join_next() => {}
                () = drain.reached(Phase::Draining) => break,
            }
        }
        drop(listener);
        while answering.join_next().await.is_some() {}
    }
}

/// Answers one request; a client that goes away ends it, which is the client's affair.
async fn answer(mut stream: TcpStream, line: &str) -> io::Result<()> {
    let Ok(Ok(head)) = timeout(HEAD_WITHIN, read_head(&mut stream)).await else {
        return Ok(());
    };
    stream.set_nodelay(true)?;
    match target(&head) {
        Some("/") => write(&mut stream, "200 OK", line.as_bytes()).await?,
        Some("/load") => write(&mut stream, "200 OK", &load_body(line)).await?,
        Some("/hold") => return hold(&mut stream, line).await,
        Some(_) => write(&mut stream, "404 Not Found", b"try /, /load or /hold\n").await?,
        None => write(&mut stream, "400 Bad Request", b"only GET is answered\n").await?,
    }
    stream.shutdown().await
}

async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_MAX || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn target(head: &[u8]) -> Option<&str> {
    let first = head.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(first).ok()?.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")
}

async fn write(stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    let mut answer = head(status, body.len()).into_bytes();
    answer.extend_from_slice(body);
    stream.write_all(&answer).await
}

async fn hold(stream: &mut TcpStream, line: &str) -> io::Result<()> {
    let head = head("200 OK", line.len() + HELD_BYTES);
    stream.write_all(format!("{head}{line}").as_bytes()).await?;
    let mut pace = interval(HELD_PACE);
    for _ in 0..HELD_BYTES {
        pace.tick().await;
        stream.write_all(b".").await?;
    }
    stream.shutdown().await
}

fn head(status: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(at: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_says_where_it_is_and_stops_when_told() {
        let any = "127.0.0.1:0".parse().unwrap();
        let backend = Backend::bind(any, "paris", "web-0").await.unwrap();
        let at = backend.local_addr();
        let (stop, stopped) = drain::channel();
        let mut running = JoinSet::new();
        running.spawn(backend.run(stopped));

        let answer = ask(at, "/").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\n{\"cluster\":\"paris\",\"pod\":\"web-0\"}\n"),
            "{answer}"
        );
        let whole = ask(at, "/load").await;
        let (_, body) = whole.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.as_bytes(), load_body(&line("paris", "web-0")));
        assert!(ask(at, "/nothing").await.starts_with("HTTP/1.1 404"));

        stop.advance(Phase::Draining);
        running.join_next().await.unwrap().unwrap();
        assert!(TcpStream::connect(at).await.is_err());
    }

    #[test]
    fn bodies_differ_by_who_answers_and_can_be_shown() {
        let (paris, oregon) = (load_body(&line("paris", "a")), load_body(&line("oregon", "a")));
        assert_ne!(paris[paris.len() - FILLER..], oregon[oregon.len() - FILLER..]);
        assert!(paris[..].iter().all(|byte| byte.is_ascii_graphic() || b" \n".contains(byte)));
    }
}
