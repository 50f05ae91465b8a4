//! Who carries a client's new session: the same race as for a stream, without its bytes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smallvec::SmallVec;

use super::backend::{self, Stopped};
use super::imports::{Answering, Door, Wanted, Won};
use super::metrics::End;
use crate::clock;
use crate::gateway::Shared;
use crate::gateway::order::{self, Destination};
use crate::gateway::race::{Failure, GIVE_UP, Race, Step, Way};
use crate::model::{ClusterId, canonical};
use crate::wire::frame::{Asked, Client, Open, Verdict};

/// What became of one candidate.
enum Tried {
    Won(Won),
    Refused(Verdict),
    Lost,
}

type Try = Pin<Box<dyn Future<Output = (usize, Tried)> + Send>>;

impl Shared {
    /// Finds somebody for a session; with a local backend, reads its answers to the end.
    pub(super) async fn open_session(self: Arc<Self>, wanted: Wanted) {
        let ticket = wanted.ticket;
        let opening = self.opening();
        let won = self.chase(&Arc::new(wanted)).await;
        drop(opening);
        let Some(answering) = self.settle(ticket, won) else { return };
        self.answer_locally(ticket, answering).await;
    }

    async fn answer_locally(&self, ticket: super::table::Ticket, (outlet, stop): Answering) {
        let answers = backend::answers(&outlet.socket, |datagram| {
            self.answer_client(ticket, datagram);
            backend::Wanted::Yes
        });
        tokio::select! {
            () = stop.cancelled() => {}
            stopped = answers => {
                if stopped == Stopped::Refused {
                    self.local_refused(ticket);
                }
            }
        }
    }

    async fn chase(self: &Arc<Self>, wanted: &Arc<Wanted>) -> Result<Won, End> {
        let begun = clock::now();
        let destinations: SmallVec<[Destination; 4]> = {
            let table = self.routes.load();
            let Door { callee, port, .. } = &*wanted.door;
            let client = canonical(wanted.client.ip());
            let route = table.services.get(&callee.service);
            let tried = |route| order::of_callee(route, callee, *port, client, rand::random::<f64>);
            route.map(|route| tried(route)).unwrap_or_default()
        };
        let entries = destinations.iter().map(|destination| destination.runner).collect();
        let mut race = Race::new(entries, begun);
        let mut tries: FuturesUnordered<Try> = FuturesUnordered::new();
        let mut end = End::Unanswered;
        if let Some(first) = destinations.first() {
            self.allowances.earn(&first.cluster, begun);
        }
        loop {
            let now = clock::now();
            let may = |entry: usize| self.allowances.spend(&destinations[entry].cluster, now);
            let until = match race.step(now, may) {
                Step::Begin(entry) => {
                    let (way, attempt) = self.attempt(entry, &destinations[entry], wanted, begun);
                    race.begun(entry, way, now);
                    tries.push(attempt);
                    continue;
                }
                Step::Wait(until) => until,
                Step::Over => return Err(end),
            };
            tokio::select! {
                Some((entry, tried)) = tries.next(), if !tries.is_empty() => match tried {
                    Tried::Won(won) => return Ok(won),
                    Tried::Refused(verdict) => {
                        end = End::Refused(verdict);
                        let ended = verdict == Verdict::NotExported;
                        race.failed(entry, if ended { Failure::Final } else { Failure::Passing });
                    }
                    Tried::Lost => race.failed(entry, Failure::Passing),
                },
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    fn attempt(
        self: &Arc<Self>,
        entry: usize,
        destination: &Destination,
        wanted: &Arc<Wanted>,
        begun: Instant,
    ) -> (Way, Try) {
        if destination.local {
            let tried = self.try_own(wanted);
            return (Way::Spare, Box::pin(std::future::ready((entry, tried))));
        }
        let cluster = destination.cluster.clone();
        let way = if self.udp.lanes.is_ready(&cluster) { Way::Spare } else { Way::Dialled };
        let (shared, wanted) = (Arc::clone(self), Arc::clone(wanted));
        let attempt = async move {
            let tried = shared.try_peer(cluster, &wanted, begun).await;
            (entry, tried)
        };
        (way, Box::pin(attempt))
    }

    /// A backend of our own export.
    fn try_own(&self, wanted: &Wanted) -> Tried {
        let table = self.routes.load_full();
        let door = &wanted.door;
        let client = canonical(wanted.client.ip());
        match self.outlet(&table, &door.callee.service, (door.port, None), Some(client)) {
            Ok(outlet) => Tried::Won(Won::Local(outlet)),
            Err(verdict) => Tried::Refused(verdict),
        }
    }

    async fn try_peer(&self, peer: ClusterId, wanted: &Wanted, begun: Instant) -> Tried {
        let Some(lane) = self.lane(&peer).await else { return Tried::Lost };
        let client = std::net::SocketAddr::new(canonical(wanted.client.ip()), wanted.client.port());
        let Door { callee, port, .. } = &*wanted.door;
        let ask = |stream| Open {
            stream,
            asked: Asked::of(callee, *port),
            early: false,
            hops: 0,
            client: Client { address: Some(client), ..Client::default() },
            trace: wanted.trace,
            deadline_ms: left(begun),
        };
        let Some((berth, verdict)) = lane.open(ask) else { return Tried::Lost };
        match verdict.await {
            Ok(Verdict::Accepted) => Tried::Won(Won::Tunnel(peer, berth)),
            Ok(verdict) => {
                if verdict == Verdict::Draining {
                    self.note_replica_draining(&lane.target);
                }
                Tried::Refused(verdict)
            }
            Err(_) => Tried::Lost,
        }
    }
}

/// How long its client is waited for still, in milliseconds.
fn left(begun: Instant) -> u32 {
    let left: Duration = (begun + GIVE_UP).saturating_duration_since(clock::now());
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}
