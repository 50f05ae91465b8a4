//! The UDP loop on the runtime's sockets: wait, then answer a batch from one set of answers.
//!
//! For where `recvmmsg` is not to be had. It does not read each packet's destination, so behind a
//! wildcard address the kernel chooses an answer's source by route.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::Limiter;
use super::respond::{Received, Transport};
use super::shared::Shared;
use crate::clock;
use crate::drain::{Phase, Watch};

/// Datagrams answered from one set of answers before it is loaded again.
const BATCH: usize = 32;
/// The last look at the socket: readiness is known only after the runtime has asked the kernel.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// Batches answered of what had come when the end came.
const LAST_BATCHES: usize = 256;
/// The pause after an error of the socket, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// Longest datagram there is.
const MAX_DATAGRAM_OCTETS: usize = 65_535;

/// How a batch ended.
enum Batch {
    /// Nothing more to read.
    Empty,
    /// Full: more may wait.
    Full,
    /// The answer in `out` could not be sent at once.
    Blocked(SocketAddr),
    /// Reading failed.
    Failed(io::Error),
}

struct Lane {
    socket: UdpSocket,
    shared: Arc<Shared>,
    limiter: Limiter,
    datagram: Box<[u8]>,
    out: Vec<u8>,
}

/// Answers until the drain; then what is in the socket's buffer is answered, and it closes.
pub(super) async fn serve(socket: UdpSocket, shared: Arc<Shared>, mut drain: Watch) {
    let datagram = vec![0; MAX_DATAGRAM_OCTETS].into();
    let limiter = Limiter::default();
    let mut lane = Lane { socket, shared, limiter, datagram, out: Vec::new() };
    loop {
        tokio::select! {
            () = drain.reached(Phase::Draining) => break,
            ready = lane.socket.readable() => {
                if let Err(error) = ready {
                    lane.failed(&error).await;
                }
            }
        }
        lane.step().await;
    }
    let _nothing_had_come = timeout(LAST_LOOK, lane.socket.readable()).await;
    for _ in 0..LAST_BATCHES {
        if !lane.step().await {
            break;
        }
    }
}

impl Lane {
    /// One batch and what its end needs; false if nothing more was there.
    async fn step(&mut self) -> bool {
        match self.batch() {
            Batch::Empty => return false,
            Batch::Full => tokio::task::yield_now().await,
            Batch::Blocked(to) => {
                if self.socket.send_to(&self.out, to).await.is_err() {
                    self.shared.metrics.socket_error();
                }
            }
            Batch::Failed(error) => self.failed(&error).await,
        }
        true
    }

    /// Answers what is there without waiting. Answers and policy are loaded once.
    fn batch(&mut self) -> Batch {
        let policy = self.shared.policy.load();
        let answers = self.shared.answers.load();
        for _ in 0..BATCH {
            let (length, from) = match self.socket.try_recv_from(&mut self.datagram) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Batch::Empty,
                Err(error) => return Batch::Failed(error),
            };
            let received = Received {
                message: &self.datagram[..length],
                transport: Transport::Udp,
                source: from.ip(),
                now: clock::now(),
            };
            let limiter = Some(&mut self.limiter);
            if !self.shared.answer(received, &policy, &answers, limiter, &mut self.out) {
                continue;
            }
            match self.socket.try_send_to(&self.out, from) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Batch::Blocked(from);
                }
                // One client's route or a full queue: the client asks again, others go on.
                Err(_) => self.shared.metrics.socket_error(),
            }
        }
        Batch::Full
    }

    async fn failed(&self, error: &io::Error) {
        self.shared.metrics.socket_error();
        tracing::debug!(%error, "a dns socket failed to read; it is tried again");
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}
