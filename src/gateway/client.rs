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

use super::attempt::{Attempt, Company, Early, Tried, Wish};
use super::backend::{Backed, Errand};
use super::live::{self, Cut, Listed, Live, Order};
use super::memory::with_scratch;
use super::metrics::{Direction, Ending};
use super::order::{self, Destination};
use super::pool::Tunnel;
use super::race::{Failure, GIVE_UP, MOST_AT_ONCE, Race, Step, Way};
use super::{Shared, ends, relay, stream};
use crate::clock;
use crate::health::Target;
use crate::model::{Callee, PortKey};
use crate::routes::Route;
use crate::wire::frame::{MAX_EARLY, Verdict};

/// Attempts at local backends.
const LOCAL_TRIES: u32 = 2;
/// For all of them together.
const LOCAL_TIME: Duration = Duration::from_secs(5);
/// How long a client may take to say what goes with the `OPEN`, where the service has opted in.
const EARLY_PATIENCE: Duration = Duration::from_millis(1);

/// Where the client was accepted.
enum Won {
    Tunnel(Box<Tunnel>, Target, Early),
    Local(Backed),
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
        callee: Callee,
        port: PortKey,
    ) {
        let begun = clock::now();
        let (destinations, speaks_first) = {
            let table = self.routes.load();
            let route = table.services.get(&callee.service);
            let draw = rand::random::<f64>;
            let tried =
                |route: &Arc<Route>| order::of_callee(route, &callee, port, from.ip(), draw);
            (route.map(tried), route.is_some_and(|route| route.early_data))
        };
        let destinations = destinations.unwrap_or_default();
        let worth = |first: &Destination| !first.local && !first.runner.suspect;
        let early = match destinations.first() {
            Some(first) if speaks_first && worth(first) => first_words(&client).await,
            _ => Vec::new(),
        };
        let trace = rand::random();
        let wish = Wish { callee, port, client: from, trace, deadline: begun + GIVE_UP, early };
        let mut chase = Chase {
            shared: Arc::clone(&self),
            wish: Arc::new(wish),
            destinations,
            runners: SmallVec::new(),
            refused: None,
        };
        let won = chase.run(&client, begun).await;
        chase.wind_up();
        let Chase { wish, destinations, .. } = chase;
        let mut wish = Arc::unwrap_or_clone(wish);
        let early = std::mem::take(&mut wish.early);
        match won {
            Ok(Won::Tunnel(mut conn, target, sent)) => {
                self.metrics.open_seconds.observe((clock::now() - begun).as_secs_f64());
                if sent == Early::Kept && !early.is_empty() {
                    conn.queue_payload(&early);
                }
                let octets = early.len() as u64;
                drop(early);
                self.carry_out(client, *conn, target, octets, &wish, begun).await;
            }
            Ok(Won::Local(backed)) => {
                self.metrics.open_seconds.observe((clock::now() - begun).as_secs_f64());
                self.carry_local(client, backed, early, &wish, begun).await;
            }
            Err(LostRace { ending }) => {
                ends::reset(client);
                let peer = destinations.first().map_or("none", |d| d.cluster.as_str());
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
        sent_before: u64,
        wish: &Wish,
        begun: Instant,
    ) {
        let _open = self.metrics.open(Direction::Outbound);
        let peer = target.peer.clone();
        let Listed { live, .. } = &self.streams.list(
            Some(conn.peer.clone()),
            live::Way::Out(target),
            Some((wish.callee.service.clone(), wish.port)),
        );
        self.cut_if_late(live);
        let start = stream::Start::default();
        let finished = stream::carry(client, conn, live, &self.budget, start).await;
        if let Some(mut conn) = finished.conn {
            if conn.draining {
                self.note_draining(&mut conn);
            }
            self.pool.put(conn);
        }
        let (sent, received) = (sent_before + finished.sent, finished.received);
        self.metrics.ended(Direction::Outbound, peer.as_str(), finished.ending, sent + received);
        access_line(wish, peer.as_str(), finished.ending, sent, received, begun);
    }

    async fn carry_local(
        &self,
        client: TcpStream,
        backed: Backed,
        first: Vec<u8>,
        wish: &Wish,
        begun: Instant,
    ) {
        let _open = self.metrics.open(Direction::Outbound);
        let port = Some((wish.callee.service.clone(), wish.port));
        let Listed { live, .. } = &self.streams.list(None, live::Way::Local, port);
        self.cut_if_late(live);
        let Backed { socket, seat, place: _place } = backed;
        let done = relay::relay(client, socket, live, &self.budget, first, &seat).await;
        match done.ending {
            Ending::Ok => seat.went_well(),
            Ending::PeerReset => seat.went_wrong(),
            _ => {}
        }
        let own = self.cluster.as_str();
        self.metrics.ended(Direction::Outbound, own, done.ending, done.sent + done.received);
        access_line(wish, own, done.ending, done.sent, done.received, begun);
    }

    /// The deadline may have passed, or the trust be withdrawn, just before it was listed.
    pub(super) fn cut_if_late(&self, live: &Live) {
        if self.forced.is_cancelled() {
            live.tell(Order::Cut(Cut::Shutdown));
        }
        self.cut_if_revoked(live);
    }

    /// Dials a backend of our own export.
    async fn try_local(self: Arc<Self>, wish: Arc<Wish>) -> Tried {
        let table = self.routes.load_full();
        let errand = Errand {
            key: &wish.callee.service,
            port: wish.port,
            pod: None,
            client: Some(wish.client),
            tries: LOCAL_TRIES,
            time: LOCAL_TIME,
        };
        match self.connect_backend(&table, errand).await {
            Ok(backed) => {
                self.window.accepted(&wish.callee.service);
                Tried::Local(backed)
            }
            Err(verdict) => {
                if verdict == Verdict::Overloaded {
                    self.window.overloaded(&wish.callee.service);
                }
                Tried::Refused(verdict)
            }
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
                    if let Some(over) = self.on_tried(&mut race, entry, tried) {
                        return over;
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
            let company = match self.runners.is_empty() && !destination.runner.suspect {
                true => Company::Alone,
                false => Company::Others,
            };
            match Attempt::prepare(&self.shared, cluster, &self.wish, rtt, company, cancel.clone())
            {
                Some((attempt, way)) => (Box::pin(attempt.run()), way),
                None => (Box::pin(std::future::ready(Tried::Lost)), Way::Dialled),
            }
        };
        race.begun(entry, way, now);
        self.runners.push(Runner { entry, cancel, attempt });
    }

    fn on_tried(
        &mut self,
        race: &mut Race,
        entry: usize,
        tried: Tried,
    ) -> Option<Result<Won, LostRace>> {
        let failure = match tried {
            Tried::Accepted(conn, target, early) => {
                return Some(Ok(Won::Tunnel(conn, target, early)));
            }
            Tried::Local(backed) => return Some(Ok(Won::Local(backed))),
            Tried::Spoiled => return Some(Err(LostRace { ending: Ending::Unanswered })),
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
                if let Tried::Accepted(mut conn, ..) = runner.attempt.await {
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

/// What the client says at once, as much as goes with an `OPEN`; nothing where it waits for the
/// server, whose stream then begins a moment later than others do.
async fn first_words(client: &TcpStream) -> Vec<u8> {
    // Whatever is wrong with the client shows in the race.
    let _either_way = tokio::time::timeout(EARLY_PATIENCE, client.readable()).await;
    with_scratch(|scratch| {
        let read = client.try_read(&mut scratch[..MAX_EARLY]);
        read.map_or_else(|_| Vec::new(), |count| scratch[..count].to_vec())
    })
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
        service = %wish.callee.service,
        pod = wish.callee.pod.as_ref().map(tracing::field::display),
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
