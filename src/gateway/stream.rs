//! One accepted stream from its first byte to its end: pumping, orders, honest ends.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::conn::{self, Conn};
use super::ends;
use super::live::{Cut, Live, Order};
use super::load::Seat;
use super::memory::Budget;
use super::metrics::Ending;
use super::pump::{Outcome, Pump, Step};
use super::role::Role;
use crate::clock;
use crate::wire::frame::Control;

/// Asks about an open stream; its own connection's `PONG` answers.
const ASKING: u64 = 0;
/// A tunnel that takes nothing for so long is worth a look at its client, who may have gone.
const STUCK_FOR: Duration = Duration::from_secs(5);
/// A receiver that takes nothing for so long is worth asking who still sends: whoever has gone
/// cannot say so, because behind what waits nothing is read. Who has left, by FIN or reset, may
/// have said all and its own FIN before: whoever takes some now and then gets it.
const UNTAKEN_FOR: Duration = Duration::from_secs(60);
/// Between questions to the other gateway meanwhile.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// What is left of a finished stream.
#[derive(Debug)]
pub(super) struct Finished<R> {
    /// How it ended.
    pub(super) ending: Ending,
    /// Octets from the application to the tunnel.
    pub(super) sent: u64,
    /// Octets from the tunnel to the application.
    pub(super) received: u64,
    /// The connection, where it can carry another stream.
    pub(super) conn: Option<Conn<R>>,
}

enum End {
    Of(Outcome),
    Cut(Cut),
}

/// What a stream begins with.
#[derive(Debug, Default)]
pub(super) struct Start<'a> {
    /// What came from the tunnel before the stream was accepted.
    pub(super) first: Vec<u8>,
    /// Where the application is a backend: it is told when that one answers.
    pub(super) seat: Option<&'a Seat>,
}

/// Carries a stream that was just accepted on `conn` to its end.
pub(super) async fn carry<R: Role>(
    app: TcpStream,
    mut conn: Conn<R>,
    live: &Live,
    budget: &Budget,
    start: Start<'_>,
) -> Finished<R> {
    conn.watch_acknowledgements(false);
    let mut pump = Pump::new(&app, &mut conn, budget);
    pump.begin_with(start.first);
    let end = run(&app, &mut pump, live, start.seat).await;
    let (sent, received) = (pump.sent, pump.received);
    let fin_delivered = pump.fin_delivered();
    let rest = pump.into_pending();
    let (ending, conn) = match end {
        End::Of(Outcome::Clean) => {
            ends::close(app);
            conn.watch_acknowledgements(true);
            (Ending::Ok, Some(conn))
        }
        // Rare, and boxed: every idle stream would else hold the room that winding up needs.
        end => Box::pin(wind_up(end, app, conn, rest, fin_delivered)).await,
    };
    Finished { ending, sent, received, conn }
}

/// Ends a stream that did not end as agreed; its connection, where it can carry another.
async fn wind_up<R: Role>(
    end: End,
    app: TcpStream,
    mut conn: Conn<R>,
    rest: Vec<u8>,
    fin_delivered: bool,
) -> (Ending, Option<Conn<R>>) {
    match end {
        End::Of(Outcome::Clean) => (Ending::Ok, Some(conn)),
        End::Of(Outcome::AppBroken) => {
            ends::reset(app);
            let reset = conn.role().reset();
            conn.queue_some(reset);
            conn.close().await;
            (Ending::AppReset, None)
        }
        End::Of(Outcome::Cancelled) => {
            ends::reset(app);
            conn.watch_acknowledgements(true);
            (Ending::Cancelled, Some(conn))
        }
        End::Of(outcome @ (Outcome::Reset | Outcome::Lost(_)))
            if fin_delivered && R::QUIET_AFTER_FIN =>
        {
            // A client that still uploads is reset by its next octets.
            drop(conn);
            ends::linger(app).await;
            let lost = matches!(outcome, Outcome::Lost(_));
            (if lost { Ending::PeerLost } else { Ending::PeerReset }, None)
        }
        End::Of(Outcome::Reset) => {
            drop(conn);
            ends::deliver_and_reset(app, &rest).await;
            (Ending::PeerReset, None)
        }
        End::Of(Outcome::Lost(error)) => {
            tracing::debug!(%error, "the tunnel of an open stream was lost");
            drop(conn);
            ends::deliver_and_reset(app, &rest).await;
            (Ending::PeerLost, None)
        }
        End::Cut(cut) => {
            let reset = conn.role().reset();
            conn.queue_some(reset);
            let (_, ()) = tokio::join!(conn.close(), ends::deliver_and_reset(app, &rest));
            (cut.into(), None)
        }
    }
}

/// A stream whose receiver takes nothing.
#[derive(Debug, Default)]
struct Stuck {
    /// How much had passed, and when that was first so.
    at: Option<(u64, Instant)>,
    asked: Option<Instant>,
}

impl Stuck {
    /// Whether it is stuck, given what has passed while more waits.
    fn follow(&mut self, passed: Option<u64>) -> bool {
        let before = self.at.map(|(passed, _)| passed);
        if before != passed {
            self.at = passed.map(|passed| (passed, clock::now()));
            self.asked = None;
        }
        passed.is_some()
    }

    /// How it ends where nothing is taken for long. The other gateway is then asked now and then: a
    /// process that is gone has its kernel answer with a reset, and nothing else would tell while
    /// its last octets wait. Not sooner: one that left in order is gone as well, and the reset
    /// takes what its kernel still has to send.
    fn end<R: Role>(&mut self, app: &TcpStream, pump: &mut Pump<'_, R>) -> Option<Outcome> {
        let now = clock::now();
        pump.push();
        self.follow(pump.stuck_at());
        let (_, since) = self.at?;
        let stuck = now.duration_since(since);
        if stuck >= STUCK_FOR && pump.tunnel_is_full() && ends::is_reset(app) {
            return Some(Outcome::AppBroken);
        }
        if stuck < UNTAKEN_FOR {
            return None;
        }
        if pump.conn().is_left() {
            return Some(Outcome::Lost(conn::Error::Ended));
        }
        let asked = self.asked.is_some_and(|asked| now.duration_since(asked) < ASK_EVERY);
        if !pump.tunnel_is_full() && !asked {
            self.asked = Some(now);
            pump.conn().queue(&Control::Ping(ASKING));
        }
        None
    }
}

async fn run<R: Role>(
    app: &TcpStream,
    pump: &mut Pump<'_, R>,
    live: &Live,
    mut seat: Option<&Seat>,
) -> End {
    let mut stuck = Stuck::default();
    loop {
        let watches_errors = pump.watches_errors();
        tokio::select! {
            step = poll_fn(|cx| {
                let step = pump.poll(cx);
                live.heard_at(heard(pump));
                if pump.sent > 0 && let Some(seat) = seat.take() {
                    seat.went_well();
                }
                live.note_stuck(stuck.follow(pump.stuck_at()));
                step
            }) => match step {
                Step::AppFinished => {}
                Step::Done(outcome) => return End::Of(outcome),
            },
            order = live.ordered() => match order {
                // No answer would be read.
                Order::Ask if pump.waits_for_app() => {}
                Order::Ask => pump.conn().queue(&Control::Ping(ASKING)),
                Order::Drain => pump.conn().queue(&Control::Drain),
                Order::Look => {
                    if let Some(outcome) = stuck.end(app, pump) {
                        return End::Of(outcome);
                    }
                }
                Order::Cut(cut) => return End::Cut(cut),
            },
            _ = app.ready(Interest::ERROR), if watches_errors => {
                return End::Of(Outcome::AppBroken);
            }
        }
    }
}

fn heard<R: Role>(pump: &mut Pump<'_, R>) -> Instant {
    pump.conn().heard
}
