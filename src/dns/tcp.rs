//! TCP: the accept loop and the connections (RFC 7766: persistent, pipelined).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use super::metrics::Metrics;
use super::respond::{Received, Transport};
use super::shared::Shared;
use super::slots::Slot;
use crate::clock;
use crate::drain::{Phase, Watch};

/// Time from the connection to its first whole query.
const FIRST_QUERY: Duration = Duration::from_secs(3);
/// Time from one whole query to the next; CoreDNS keeps idle upstream connections for 10 s and
/// must never be the one that writes into a closed one.
const NEXT_QUERY: Duration = Duration::from_secs(20);
/// Time for a client to take what is written.
const WRITE: Duration = Duration::from_secs(5);
/// Answers collected before they are written, octets.
const FLUSH_OCTETS: usize = 16 << 10;
/// Room made before each read, octets: a few queries.
const READ_OCTETS: usize = 2 << 10;
/// Octets read of what had come when the end came.
const LAST_OCTETS: usize = 64 << 10;
/// The last look at a connection: readiness is known only after the runtime has asked the kernel.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// Octets of a frame's length.
const LENGTH_OCTETS: usize = 2;
/// The pause after a failed accept (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever; at a cap a connection is closed at once, since a resolver that is turned
/// away quickly asks the next server, while one that waits keeps its client waiting.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut drain: Watch) {
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = drain.reached(Phase::Draining) => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                note_end(&shared.metrics, ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                failing = false;
                if let Some(slot) = shared.slots.take(remote.ip()) {
                    let connection = Connection::new(stream, remote.ip(), &shared);
                    connections.spawn(connection.serve(slot, drain.clone()));
                }
            }
            // The client went away between its handshake and our accept.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                shared.metrics.socket_error();
                if !failing {
                    failing = true;
                    tracing::warn!(%error, "cannot accept dns connections; trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    loop {
        tokio::select! {
            () = drain.reached(Phase::Forced) => return,
            ended = connections.join_next() => match ended {
                Some(ended) => note_end(&shared.metrics, ended),
                None => return,
            }
        }
    }
}

fn note_end(metrics: &Metrics, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        metrics.panicked();
        tracing::error!(%error, "a dns connection died; this is a bug, report it with the log");
    }
}

/// Why a connection goes on or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Another read is due.
    Read,
    /// Whole frames are left; write first.
    Again,
    /// A frame of length zero.
    Close,
}

struct Connection {
    stream: TcpStream,
    source: IpAddr,
    shared: Arc<Shared>,
    inbox: BytesMut,
    answer: Vec<u8>,
    outbox: Vec<u8>,
    /// When the next whole query is due.
    due: Instant,
}

impl Connection {
    fn new(stream: TcpStream, source: IpAddr, shared: &Arc<Shared>) -> Self {
        Self {
            stream,
            source,
            shared: Arc::clone(shared),
            inbox: BytesMut::new(),
            answer: Vec::new(),
            outbox: Vec::new(),
            due: Instant::from_std(clock::now() + FIRST_QUERY),
        }
    }

    /// Serves until the client ends, falls silent or misbehaves, or the drain; errors of the
    /// socket end it without a word, they are the client's.
    async fn serve(mut self, _slot: Slot, mut drain: Watch) {
        let _delayed_answers_still_arrive = self.stream.set_nodelay(true);
        let mut open = true;
        while open {
            self.inbox.reserve(READ_OCTETS);
            open = tokio::select! {
                () = drain.reached(Phase::Draining) => {
                    self.read_what_has_come().await;
                    false
                }
                read = timeout_at(self.due, self.stream.read_buf(&mut self.inbox)) => match read {
                    Ok(Ok(octets)) => octets > 0,
                    Ok(Err(_)) | Err(_) => return,
                },
            };
            loop {
                let next = self.answer_frames();
                if self.write().await.is_err() {
                    return;
                }
                match next {
                    Next::Again => {}
                    Next::Read => break,
                    Next::Close => {
                        open = false;
                        break;
                    }
                }
            }
        }
        let _client_may_be_gone = timeout(WRITE, self.stream.shutdown()).await;
    }

    /// At the end, what has come whole is still answered.
    async fn read_what_has_come(&mut self) {
        while self.inbox.len() < LAST_OCTETS {
            self.inbox.reserve(READ_OCTETS);
            match timeout(LAST_LOOK, self.stream.read_buf(&mut self.inbox)).await {
                Ok(Ok(octets)) if octets > 0 => {}
                _ => break,
            }
        }
    }

    /// Answers the whole frames in the inbox, from one set of answers.
    fn answer_frames(&mut self) -> Next {
        let policy = self.shared.policy.load();
        let answers = self.shared.answers.load();
        while self.outbox.len() < FLUSH_OCTETS {
            let Some(length) = self.inbox.first_chunk::<LENGTH_OCTETS>() else { return Next::Read };
            let length = usize::from(u16::from_be_bytes(*length));
            if length == 0 {
                return Next::Close;
            }
            let Some(message) = self.inbox.get(LENGTH_OCTETS..LENGTH_OCTETS + length) else {
                return Next::Read;
            };
            let (transport, source, now) = (Transport::Tcp, self.source, clock::now());
            let received = Received { message, transport, source, now };
            if self.shared.answer(received, &policy, &answers, None, &mut self.answer) {
                let octets = u16::try_from(self.answer.len()).unwrap_or(u16::MAX);
                self.outbox.extend_from_slice(&octets.to_be_bytes());
                self.outbox.extend_from_slice(&self.answer[..usize::from(octets)]);
            }
            self.inbox.advance(LENGTH_OCTETS + length);
            self.due = Instant::from_std(now + NEXT_QUERY);
        }
        Next::Again
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let written = timeout(WRITE, self.stream.write_all(&self.outbox)).await;
        self.outbox.clear();
        // One long answer must not keep its memory for the rest of an idle connection.
        self.outbox.shrink_to(FLUSH_OCTETS);
        self.answer.shrink_to(FLUSH_OCTETS);
        written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn p13_a_panic_in_one_connection_is_counted_and_ends_no_other() {
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(async { assert!(std::hint::black_box(false), "on purpose") });
        connections.spawn(async {});
        while let Some(ended) = connections.join_next().await {
            note_end(&metrics, ended);
        }
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("portolan_panics_total{component=\"dns\"} 1"), "{text}");
    }
}
