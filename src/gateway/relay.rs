//! A stream to a local backend: two plain connections, with the same honest ends.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::ends;
use super::live::{Cut, Live, Order};
use super::load::Seat;
use super::memory::{Budget, RELAY_CHUNK, Share, with_scratch};
use super::metrics::Ending;

/// What a relayed stream came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Relayed {
    /// How it ended.
    pub(super) ending: Ending,
    /// Octets from client to backend.
    pub(super) sent: u64,
    /// Octets from backend to client.
    pub(super) received: u64,
}

/// One direction.
struct Half {
    pending: Vec<u8>,
    taken: usize,
    share: Share,
    finished: bool,
    octets: u64,
}

/// Which side broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    From,
    To,
}

impl Half {
    fn new(budget: &Budget) -> Self {
        let share = budget.share();
        Self { pending: Vec::new(), taken: 0, share, finished: false, octets: 0 }
    }

    /// Octets that were read before.
    fn begin_with(&mut self, octets: Vec<u8>) {
        self.octets = octets.len() as u64;
        self.share.set(octets.len());
        self.pending = octets;
    }

    /// Moves what can be moved; `Ready(Ok)` after the FIN was passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        budget: &Budget,
    ) -> Poll<Result<(), Broken>> {
        while !self.finished {
            ready!(self.poll_pending(cx, to)).map_err(|_| Broken::To)?;
            ready!(from.poll_read_ready(cx)).map_err(|_| Broken::From)?;
            with_scratch(|scratch| {
                let most = budget.chunk(RELAY_CHUNK);
                match from.try_read(&mut scratch[..most]) {
                    Ok(0) => {
                        ends::finish(to);
                        self.finished = true;
                        Ok(())
                    }
                    Ok(count) => {
                        self.octets += count as u64;
                        self.give(&scratch[..count], to)
                    }
                    Err(error) if ends::is_passing(&error) => Ok(()),
                    Err(_) => Err(Broken::From),
                }
            })?;
        }
        Poll::Ready(Ok(()))
    }

    fn give(&mut self, mut octets: &[u8], to: &TcpStream) -> Result<(), Broken> {
        match to.try_write(octets) {
            Ok(count) => octets = &octets[count..],
            Err(error) if ends::is_passing(&error) => {}
            Err(_) => return Err(Broken::To),
        }
        if !octets.is_empty() {
            self.pending = octets.to_vec();
            self.taken = 0;
            self.share.set(octets.len());
        }
        Ok(())
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        while self.taken < self.pending.len() {
            ready!(to.poll_write_ready(cx))?;
            match to.try_write(&self.pending[self.taken..]) {
                Ok(count) => self.taken += count,
                Err(error) if ends::is_passing(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.pending.is_empty() {
            self.pending = Vec::new();
            self.taken = 0;
            self.share.set(0);
        }
        Poll::Ready(Ok(()))
    }
}

enum End {
    Clean,
    ClientBroken,
    BackendBroken,
    Cut(Cut),
}

/// Carries a stream between a client and a local backend to its end; `first` was read from the
/// client before.
pub(super) async fn relay(
    client: TcpStream,
    backend: TcpStream,
    live: &Live,
    budget: &Budget,
    first: Vec<u8>,
    seat: &Seat,
) -> Relayed {
    let mut up = Half::new(budget);
    up.begin_with(first);
    let mut down = Half::new(budget);
    let end = run(&client, &backend, &mut up, &mut down, live, budget, seat).await;
    let ending = match end {
        End::Clean => {
            ends::close(client);
            ends::close(backend);
            Ending::Ok
        }
        End::ClientBroken => {
            ends::reset(client);
            ends::deliver_and_reset(backend, &up.pending[up.taken..]).await;
            Ending::AppReset
        }
        End::BackendBroken => {
            ends::reset(backend);
            if down.finished {
                ends::linger(client).await;
            } else {
                ends::deliver_and_reset(client, &down.pending[down.taken..]).await;
            }
            Ending::PeerReset
        }
        End::Cut(cut) => {
            ends::reset(backend);
            ends::deliver_and_reset(client, &down.pending[down.taken..]).await;
            cut.into()
        }
    };
    Relayed { ending, sent: up.octets, received: down.octets }
}

async fn run(
    client: &TcpStream,
    backend: &TcpStream,
    up: &mut Half,
    down: &mut Half,
    live: &Live,
    budget: &Budget,
    seat: &Seat,
) -> End {
    let mut silent = Some(seat);
    loop {
        let (up_finished, down_finished) = (up.finished, down.finished);
        tokio::select! {
            end = poll_fn(|cx| {
                let end = poll_both(cx, client, backend, up, down, budget);
                if down.octets > 0 && let Some(seat) = silent.take() {
                    seat.went_well();
                }
                end
            }) => if let Some(end) = end {
                return end;
            },
            order = live.ordered() => if let Order::Cut(cut) = order {
                return End::Cut(cut);
            },
            _ = client.ready(Interest::ERROR), if up_finished => return End::ClientBroken,
            _ = backend.ready(Interest::ERROR), if down_finished => return End::BackendBroken,
        }
    }
}

/// `Some` at the end; `None` when one direction has just finished, so that its error state is
/// watched from now on.
fn poll_both(
    cx: &mut Context<'_>,
    client: &TcpStream,
    backend: &TcpStream,
    up: &mut Half,
    down: &mut Half,
    budget: &Budget,
) -> Poll<Option<End>> {
    let before = (up.finished, down.finished);
    // What a broken side sent before is delivered first: each direction is drained on its own,
    // and a side that cannot be written is reported only once it cannot be read any more.
    let upward = up.poll(cx, client, backend, budget);
    let downward = down.poll(cx, backend, client, budget);
    match (upward, downward) {
        (Poll::Ready(Err(Broken::From)), _) => Poll::Ready(Some(End::ClientBroken)),
        (_, Poll::Ready(Err(Broken::From))) => Poll::Ready(Some(End::BackendBroken)),
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Some(End::Clean)),
        (Poll::Ready(Err(Broken::To)), Poll::Ready(_)) => Poll::Ready(Some(End::BackendBroken)),
        (Poll::Ready(_), Poll::Ready(Err(Broken::To))) => Poll::Ready(Some(End::ClientBroken)),
        _ if before != (up.finished, down.finished) => Poll::Ready(None),
        _ => Poll::Pending,
    }
}
