//! One client of a clusterset address: the race for a place, then its stream.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Tried, Wish};
use super::live::{self, Cut, Listed, Live, Order};
use super::metrics::{Direction, Ending};
use super::order::{Destination, order};
use super::pool::Tunnel;
use super::race::{Failure, GIVE_UP, MOST_AT_ONCE, Race, Step, Way};
use super::{Shared, backend, ends, relay, stream};
use crate::clock;
use crate::health::Target;
use crate::model::{PortKey, ServiceKey};
use crate::wire::frame::Verdict;

/// Attempts at local backends.
const LOCAL_TRIES: u32 = 2;
/// For all of them together.
const LOCAL_TIME: Duration = Duration::from_secs(5);

/// Where the client was accepted.
enum Won {
    Tunnel(Box<Tunnel>, Target),
    Local(TcpStream),
}

/// How the race ended, if nobody won.
struct LostRace {
    ending: Ending,
}

type Try = Pin<Box<dyn Future<Output = Tried> + Send>>;

struct Runner {
    entry: usize,
    cancel: CancellationToken,
    attempt: Try,
}

/// A race with its attempts.
struct Chase {
    shared: Arc<Shared>,
    wish: Arc<Wish>,
    destinations: SmallVec<[Destination; 4]>,
    runners: SmallVec<[Runner; MOST_AT_ONCE]>,
    /// The last refusal, for the access line.
    refused: Option<Verdict>,
}

impl Shared {
    /// Serves a client that was just accepted by a listener of [`bind`](super::bind), to its end.
    pub(super) async fn serve_client(
        self: Arc<Self>,
        client: TcpStream,
        from: SocketAddr,
        key: ServiceKey,
        port: PortKey,
    ) {
        let begun = clock::now();
        let destinations = {
            let table = self.routes.load();
            let route = table.services.get(&key).and_then(|route| route.port(port));
            route.map(|route| order(route, rand::random::<f64>)).unwrap_or_default()
        };
        let trace = rand::random();
        let wish = Wish { key, port, client: from, trace, deadline: begun + GIVE_UP };
        let mut chase = Chase {
            shared: Arc::clone(&self),
            wish: Arc::new(wish),
            destinations,
            runners: SmallVec::new(),
            refused: None,
        };
        let won = chase.run(&client, begun).await;
        chase.wind_up();
        let wish = Arc::clone(&chase.wish);
        match won {
            Ok(Won::Tunnel(conn, target)) => {
                self.metrics.open_seconds.observe((clock::now() - begun).as_secs_f64());
                self.carry_out(client, *conn, target, &wish, begun).await;
            }
            Ok(Won::Local(socket)) => {
                self.metrics.open_seconds.observe((clock::now() - begun).as_secs_f64());
                self.carry_local(client, socket, &wish, begun).await;
            }
            Err(LostRace { ending }) => {
                ends::reset(client);
                let peer = chase.destinations.first().map_or("none", |d| d.cluster.as_str());
                self.metrics.ended(Direction::Outbound, peer, ending, 0);
                access_line(&wish, peer, ending, 0, 0, begun);
            }
        }
    }

    async fn carry_out(
        &self,
        client: TcpStream,
        conn: Tunnel,
        target: Target,
        wish: &Wish,
        begun: Instant,
    ) {
        let _open = self.metrics.open(Direction::Outbound);
        let peer = target.peer.clone();
        let Listed { live, .. } = &self.streams.list(
            Some(conn.peer.clone()),
            live::Way::Out(target),
            Some((wish.key.clone(), wish.port)),
        );
        self.cut_if_late(live);
        let finished = stream::carry(client, conn, live, &self.budget).await;
        if let Some(mut conn) = finished.conn {
            if conn.draining {
                self.note_draining(&mut conn);
            }
            self.pool.put(conn);
        }
        let octets = finished.sent + finished.received;
        self.metrics.ended(Direction::Outbound, peer.as_str(), finished.ending, octets);
        let (sent, received) = (finished.sent, finished.received);
        access_line(wish, peer.as_str(), finished.ending, sent, received, begun);
    }

    async fn carry_local(
        &self,
        client: TcpStream,
        backend: TcpStream,
        wish: &Wish,
        begun: Instant,
    ) {
        let _open = self.metrics.open(Direction::Outbound);
        let port = Some((wish.key.clone(), wish.port));
        let Listed { live, .. } = &self.streams.list(None, live::Way::Local, port);
        self.cut_if_late(live);
        let done = relay::relay(client, backend, live, &self.budget).await;
        let own = self.cluster.as_str();
        self.metrics.ended(Direction::Outbound, own, done.ending, done.sent + done.received);
        access_line(wish, own, done.ending, done.sent, done.received, begun);
    }

    /// The deadline may have passed, or the trust be withdrawn, just before it was listed.
    fn cut_if_late(&self, live: &Live) {
        if self.forced.is_cancelled() {
            live.tell(Order::Cut(Cut::Shutdown));
        }
        self.cut_if_revoked(live);
    }

    /// Dials a backend of our own export.
    async fn try_local(self: Arc<Self>, wish: Arc<Wish>) -> Tried {
        let table = self.routes.load_full();
        let backends =
            table.local_export(&wish.key).and_then(|export| export.backends.get(&wish.port));
        let Some(backends) = backends else { return Tried::Refused(Verdict::NoEndpoint) };
        let is_allowed = |address| self.is_backend(&table, address);
        match backend::connect(backends, is_allowed, LOCAL_TRIES, LOCAL_TIME).await {
            Ok(socket) => Tried::Local(socket),
            Err(verdict) => Tried::Refused(verdict),
        }
    }
}

impl Chase {
    /// Runs the race until somebody accepts, nobody is left, or the client is gone. The client's
    /// socket is not read: its bytes stay in the kernel.
    async fn run(&mut self, client: &TcpStream, begun: Instant) -> Result<Won, LostRace> {
        let entries = self.destinations.iter().map(|destination| destination.runner).collect();
        let mut race = Race::new(entries, begun);
        let forced = self.shared.forced.clone();
        if let Some(first) = self.destinations.first() {
            self.shared.allowances.earn(&first.cluster, begun);
        }
        loop {
            let now = clock::now();
            let until = match race.step(now, |entry| self.may_repeat(entry, now)) {
                Step::Begin(entry) => {
                    self.begin(&mut race, entry, now);
                    continue;
                }
                Step::Wait(until) => until,
                Step::Over => {
                    let ending = self.refused.map_or(Ending::Unanswered, Ending::Refused);
                    return Err(LostRace { ending });
                }
            };
            tokio::select! {
                (entry, tried) = next(&mut self.runners), if !self.runners.is_empty() => {
                    if let Some(won) = self.on_tried(&mut race, entry, tried) {
                        return Ok(won);
                    }
                }
                () = tokio::time::sleep_until(until.into()) => {}
                _ = client.ready(Interest::ERROR) => {
                    return Err(LostRace { ending: Ending::Cancelled });
                }
                () = forced.cancelled() => {
                    return Err(LostRace { ending: Ending::Shutdown });
                }
            }
        }
    }

    fn may_repeat(&self, entry: usize, now: Instant) -> bool {
        self.shared.allowances.spend(&self.destinations[entry].cluster, now)
    }

    fn begin(&mut self, race: &mut Race, entry: usize, now: Instant) {
        let destination = &self.destinations[entry];
        let cancel = CancellationToken::new();
        let (attempt, way): (Try, Way) = if destination.local {
            let shared = Arc::clone(&self.shared);
            (Box::pin(shared.try_local(Arc::clone(&self.wish))), Way::Spare)
        } else {
            let (cluster, rtt) = (&destination.cluster, destination.runner.rtt);
            match Attempt::prepare(&self.shared, cluster, &self.wish, rtt, cancel.clone()) {
                Some((attempt, way)) => (Box::pin(attempt.run()), way),
                None => (Box::pin(std::future::ready(Tried::Lost)), Way::Dialled),
            }
        };
        race.begun(entry, way, now);
        self.runners.push(Runner { entry, cancel, attempt });
    }

    fn on_tried(&mut self, race: &mut Race, entry: usize, tried: Tried) -> Option<Won> {
        let failure = match tried {
            Tried::Accepted(conn, target) => return Some(Won::Tunnel(conn, target)),
            Tried::Local(socket) => return Some(Won::Local(socket)),
            Tried::Refused(verdict) => {
                self.refused = Some(verdict);
                match verdict {
                    Verdict::NotExported => Failure::Final,
                    _ => Failure::Passing,
                }
            }
            Tried::Lost | Tried::Cancelled => Failure::Passing,
        };
        race.failed(entry, failure);
        None
    }

    /// Cancels what still runs and has it wound up; a full queue ends it at once.
    fn wind_up(&mut self) {
        for runner in self.runners.drain(..) {
            runner.cancel.cancel();
            let shared = Arc::clone(&self.shared);
            let loose = async move {
                // It may have been accepted before the cancellation was seen.
                if let Tried::Accepted(mut conn, _) = runner.attempt.await {
                    let reset = conn.role().reset();
                    conn.queue_some(reset);
                    conn.close().await;
                }
                drop(shared);
            };
            let _full = self.shared.loose.try_send(Box::pin(loose));
        }
    }
}

/// The first attempt that ends, taken out.
async fn next(runners: &mut SmallVec<[Runner; MOST_AT_ONCE]>) -> (usize, Tried) {
    let (place, tried) = poll_fn(|cx| {
        for (place, runner) in runners.iter_mut().enumerate() {
            if let Poll::Ready(tried) = runner.attempt.as_mut().poll(cx) {
                return Poll::Ready((place, tried));
            }
        }
        Poll::Pending
    })
    .await;
    (runners.remove(place).entry, tried)
}

/// One line per finished stream.
fn access_line(wish: &Wish, peer: &str, ending: Ending, sent: u64, received: u64, begun: Instant) {
    let seconds = (clock::now() - begun).as_secs_f64();
    tracing::debug!(
        direction = "outbound",
        service = %wish.key,
        port = %wish.port,
        client = %wish.client,
        peer,
        result = ending.as_str(),
        sent,
        received,
        seconds,
        trace = %format_args!("{:032x}", u128::from_be_bytes(wish.trace)),
        "stream"
    );
}
