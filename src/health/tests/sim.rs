//! Two ways to drive health without a socket: facts by hand, and a small world with lines,
//! replicas and a prober that obeys the pace it is asked for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::health::*;
use crate::model::ReplicaId;

pub(super) fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

pub(super) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 8443))
}

pub(super) fn target(peer: &str, at: u8, replica: u64) -> Target {
    Target { peer: cluster(peer), address: address(at), replica: ReplicaId::from_u64(replica) }
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Facts by hand; times are milliseconds since the start. Ticks fall due on the way.
pub(super) struct Hand {
    pub(super) health: Health,
    pub(super) start: Instant,
    now: u64,
    ids: u64,
}

impl Hand {
    pub(super) fn new(peers: &[&str]) -> Self {
        let start = crate::clock::now() + Duration::from_secs(3_600);
        let mut health = Health::new(Config::default());
        health.set_peers(&peers.iter().map(|p| cluster(p)).collect(), start);
        Self { health, start, now: 0, ids: 0 }
    }

    pub(super) fn at(&self, at: u64) -> Instant {
        self.start + ms(at)
    }

    /// Lets time pass, ticking when due.
    pub(super) fn until(&mut self, at: u64) {
        let end = self.at(at);
        while let Some(due) = self.health.next_wake().filter(|due| *due <= end) {
            self.health.tick(due);
        }
        self.now = at;
    }

    pub(super) fn fact(&mut self, at: u64, fact: Fact) {
        self.until(at);
        self.health.observe(&fact, self.at(at));
    }

    pub(super) fn seen(&mut self, at: u64, target: &Target) {
        let fact = Fact::Seen { target: target.clone(), at: self.at(at) };
        self.fact(at, fact);
    }

    /// A probe leaves; its id.
    pub(super) fn send(&mut self, at: u64, target: &Target, kind: ProbeKind) -> u64 {
        self.ids += 1;
        let fact = Fact::ProbeSent { target: target.clone(), kind, id: self.ids, at: self.at(at) };
        self.fact(at, fact);
        self.ids
    }

    pub(super) fn answer(&mut self, at: u64, target: &Target, kind: ProbeKind, id: u64, rtt: u64) {
        let fact =
            Fact::ProbeAnswered { target: target.clone(), kind, id, at: self.at(at), rtt: ms(rtt) };
        self.fact(at, fact);
    }

    pub(super) fn fail(&mut self, at: u64, target: &Target, kind: ProbeKind, id: u64) {
        let fact = Fact::ProbeFailed { target: target.clone(), kind, id, at: self.at(at) };
        self.fact(at, fact);
    }

    pub(super) fn void(&mut self, at: u64, target: &Target, kind: ProbeKind, id: u64) {
        let fact = Fact::ProbeVoid { target: target.clone(), kind, id, at: self.at(at) };
        self.fact(at, fact);
    }

    /// A `PING` at `at`, its `PONG` after `rtt`.
    pub(super) fn ping(&mut self, at: u64, target: &Target, rtt: u64) {
        let id = self.send(at, target, ProbeKind::Standing);
        self.answer(at + rtt, target, ProbeKind::Standing, id, rtt);
    }

    /// A fresh probe that succeeds within 4 round trips.
    pub(super) fn fresh(&mut self, at: u64, target: &Target, rtt: u64) {
        let id = self.send(at, target, ProbeKind::Fresh);
        self.answer(at + 4 * rtt, target, ProbeKind::Fresh, id, rtt);
    }

    /// A fresh probe that fails at once.
    pub(super) fn broken(&mut self, at: u64, target: &Target) {
        let id = self.send(at, target, ProbeKind::Fresh);
        self.fail(at + 10, target, ProbeKind::Fresh, id);
    }

    pub(super) fn refused(&mut self, at: u64, peer: &str, n: u8) {
        let fact = Fact::DialFailed {
            peer: cluster(peer),
            address: address(n),
            fault: DialFault::Refused,
            at: self.at(at),
        };
        self.fact(at, fact);
    }

    pub(super) fn lost(&mut self, at: u64, target: &Target) {
        let fact = Fact::StandingLost { target: target.clone(), at: self.at(at) };
        self.fact(at, fact);
    }

    pub(super) fn open_unanswered(&mut self, at: u64, target: &Target) {
        let fact = Fact::OpenUnanswered { target: target.clone(), at: self.at(at) };
        self.fact(at, fact);
    }

    pub(super) fn replied(&mut self, at: u64, target: &Target) {
        let fact = Fact::Replied { target: target.clone(), at: self.at(at) };
        self.fact(at, fact);
    }

    pub(super) fn lagged(&mut self, at: u64, by: u64) {
        let fact = Fact::Lagged { by: ms(by), at: self.at(at) };
        // A stalled loop does not tick on the way.
        self.now = at;
        self.health.observe(&fact, self.at(at));
    }

    pub(super) fn drain(&mut self, at: u64, target: &Target, draining: bool) {
        let fact = Fact::Draining {
            peer: target.peer.clone(),
            replica: target.replica,
            draining,
            at: self.at(at),
        };
        self.fact(at, fact);
    }

    /// Seen and Up by pings each second from `at`, at that round trip; the last is sent at the
    /// time returned.
    pub(super) fn up(&mut self, at: u64, target: &Target, rtt: u64, pings: u64) -> u64 {
        self.seen(at, target);
        for n in 0..pings {
            self.ping(at + n * 1_000, target, rtt);
        }
        at + (pings - 1) * 1_000
    }

    /// Pings that nobody answers, from `at` on, every 300 ms, `count` of them.
    pub(super) fn unanswered(&mut self, at: u64, target: &Target, count: u64) {
        for n in 0..count {
            self.send(at + n * 300, target, ProbeKind::Standing);
        }
    }

    /// Clean probes every 300 ms, old and fresh in turn, while before `end`.
    pub(super) fn clean(&mut self, from: u64, end: u64, target: &Target) {
        let mut at = from;
        while at < end {
            if ((at - from) / 300).is_multiple_of(2) {
                self.ping(at, target, 10);
            } else {
                self.fresh(at, target, 10);
            }
            at += 300;
        }
    }

    pub(super) fn peer(&self, name: &str) -> PeerView {
        self.health.view(&cluster(name), self.at(self.now)).unwrap()
    }

    pub(super) fn state(&self, name: &str) -> PeerState {
        self.peer(name).state
    }

    pub(super) fn replica(&self, target: &Target) -> ReplicaView {
        let view = self.peer(target.peer.as_str());
        view.replicas.into_iter().find(|r| r.target == *target).unwrap()
    }

    /// Milliseconds since the start.
    pub(super) fn since(&self, at: Instant) -> u64 {
        u64::try_from((at - self.start).as_millis()).unwrap()
    }
}

/// How a line treats what is sent over it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Round trip.
    pub(super) rtt: Duration,
    /// Added to each round trip: anything from nothing to this, evenly.
    pub(super) jitter: Duration,
    /// Share lost each way.
    pub(super) loss: f64,
    /// Whether a lost `PING` is sent again (TCP) and arrives late, or is gone.
    pub(super) retransmits: bool,
    /// Nothing passes; nobody is told.
    pub(super) swallows: bool,
    /// Our direction only: the peer's own probes would still come, but no answer to ours.
    pub(super) one_way: bool,
    /// New dials hang, the old connection works.
    pub(super) wedged: bool,
    /// The process is dead, its host refuses.
    pub(super) dead: bool,
    /// Who answers.
    pub(super) replica: u64,
}

impl Line {
    fn passes(&self) -> bool {
        !self.swallows && !self.one_way
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Probe { peer: usize, replica: u64, turn: u64 },
    Arrive { peer: usize, replica: u64, fresh: bool, id: u64, sent: Instant },
    GiveUp { peer: usize, replica: u64, id: u64 },
    Discover { peer: usize },
}

#[derive(Debug, Default)]
struct Prober {
    turn: u64,
    next: Option<Instant>,
    count: u64,
    done: BTreeSet<u64>,
}

/// Lines to peers, a prober, and what health made of it.
pub(super) struct World {
    pub(super) health: Health,
    pub(super) lines: Vec<Line>,
    pub(super) changes: Vec<(Duration, usize, PeerState)>,
    pub(super) orders: Vec<(Duration, Vec<usize>)>,
    pub(super) start: Instant,
    pub(super) now: Instant,
    names: Vec<ClusterId>,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    probers: BTreeMap<(usize, u64), Prober>,
    rng: StdRng,
    sequence: u64,
}

impl World {
    /// One peer per round trip given, in milliseconds.
    pub(super) fn new(seed: u64, rtts: &[u64]) -> Self {
        let start = crate::clock::now() + Duration::from_secs(3_600);
        let names: Vec<ClusterId> = (0..rtts.len()).map(|n| cluster(&format!("peer{n}"))).collect();
        let mut health = Health::new(Config::default());
        health.set_peers(&names.iter().cloned().collect(), start);
        let lines = rtts.iter().map(|rtt| Line {
            rtt: ms(*rtt),
            jitter: Duration::ZERO,
            loss: 0.0,
            retransmits: true,
            swallows: false,
            one_way: false,
            wedged: false,
            dead: false,
            replica: 1,
        });
        let mut world = Self {
            health,
            lines: lines.collect(),
            changes: Vec::new(),
            orders: Vec::new(),
            start,
            now: start,
            names,
            queue: BinaryHeap::new(),
            probers: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            sequence: 0,
        };
        for peer in 0..rtts.len() {
            world.push(start, Event::Discover { peer });
        }
        world
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.queue.peek().map(|Reverse((at, ..))| *at);
            let wake = self.health.next_wake();
            let Some(next) = event.into_iter().chain(wake).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if event.is_some_and(|at| at <= self.now) {
                if let Some(Reverse((_, _, event))) = self.queue.pop() {
                    self.handle(event);
                }
            } else {
                self.health.tick(self.now);
            }
            self.look();
        }
        self.now = end;
    }

    pub(super) fn state(&self, peer: usize) -> PeerState {
        self.view(peer).state
    }

    pub(super) fn view(&self, peer: usize) -> PeerView {
        self.health.view(&self.names[peer], self.now).unwrap()
    }

    /// When the peer entered that state, in seconds since the start.
    pub(super) fn entered(&self, peer: usize, state: PeerState) -> Vec<f64> {
        let of_it = self.changes.iter().filter(|(_, p, s)| *p == peer && *s == state);
        of_it.map(|(at, ..)| at.as_secs_f64()).collect()
    }

    pub(super) fn downs(&self, peer: usize) -> Vec<f64> {
        self.entered(peer, PeerState::Down)
    }

    /// When the peer came back from Down, in seconds since the start.
    pub(super) fn returns(&self, peer: usize) -> Vec<f64> {
        let of_it: Vec<_> = self.changes.iter().filter(|(_, p, _)| *p == peer).collect();
        let pairs = of_it.windows(2).filter(|w| w[0].2 == PeerState::Down);
        pairs.map(|w| w[1].0.as_secs_f64()).collect()
    }

    /// The process dies; its connections are reset.
    pub(super) fn kill(&mut self, peer: usize) {
        let target = self.target(peer, self.lines[peer].replica);
        self.lines[peer].dead = true;
        self.fact(Fact::StandingLost { target, at: self.now });
    }

    /// Another process starts in its place.
    pub(super) fn restart(&mut self, peer: usize) {
        self.lines[peer].dead = false;
        self.lines[peer].replica += 1;
    }

    fn target(&self, peer: usize, replica: u64) -> Target {
        target(self.names[peer].as_str(), u8::try_from(peer).unwrap() + 1, replica)
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, event)));
    }

    fn fact(&mut self, fact: Fact) {
        self.health.observe(&fact, self.now);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Discover { peer } => self.discover(peer),
            Event::Probe { peer, replica, turn } => {
                if self.probers.get(&(peer, replica)).is_some_and(|p| p.turn == turn) {
                    self.probe(peer, replica);
                }
            }
            Event::Arrive { peer, replica, fresh, id, sent } => {
                self.arrive(peer, replica, fresh, id, sent);
            }
            Event::GiveUp { peer, replica, id } => {
                let prober = self.probers.entry((peer, replica)).or_default();
                if !prober.done.remove(&id) {
                    let target = self.target(peer, replica);
                    let kind = ProbeKind::Fresh;
                    self.fact(Fact::ProbeFailed { target, kind, id, at: self.now });
                }
            }
        }
    }

    /// Every 500 ms a dial looks who is there; a new replica gets a prober.
    fn discover(&mut self, peer: usize) {
        let line = self.lines[peer].clone();
        let known = self.probers.contains_key(&(peer, line.replica));
        if line.passes() && !line.dead && !line.wedged && !known {
            let target = self.target(peer, line.replica);
            self.fact(Fact::Seen { target, at: self.now });
            self.probers.insert((peer, line.replica), Prober::default());
            self.schedule(peer, line.replica, self.now);
        }
        self.push(self.now + ms(500), Event::Discover { peer });
    }

    fn schedule(&mut self, peer: usize, replica: u64, at: Instant) {
        let prober = self.probers.entry((peer, replica)).or_default();
        prober.turn += 1;
        prober.next = Some(at);
        let turn = prober.turn;
        self.push(at, Event::Probe { peer, replica, turn });
    }

    fn pace(&self, peer: usize, replica: u64) -> Option<Pace> {
        let target = self.target(peer, replica);
        let view = self.view(peer);
        view.replicas.iter().find(|r| r.target == target).map(|r| r.pace)
    }

    fn probe(&mut self, peer: usize, replica: u64) {
        let Some(pace) = self.pace(peer, replica) else {
            self.probers.remove(&(peer, replica));
            return;
        };
        let prober = self.probers.entry((peer, replica)).or_default();
        prober.count += 1;
        let every = if pace == Pace::Quick { 2 } else { 10 };
        let (id, fresh) = (prober.count, prober.count.is_multiple_of(every));
        let target = self.target(peer, replica);
        let line = self.lines[peer].clone();
        let gone = line.dead || line.replica != replica;
        let kind = if fresh || gone { ProbeKind::Fresh } else { ProbeKind::Standing };
        self.fact(Fact::ProbeSent { target: target.clone(), kind, id, at: self.now });
        if gone {
            if line.dead {
                let (peer, address) = (target.peer.clone(), target.address);
                let fault = DialFault::Refused;
                self.fact(Fact::DialFailed { peer, address, fault, at: self.now });
            }
            self.fact(Fact::ProbeFailed { target, kind, id, at: self.now });
        } else {
            self.travel(peer, replica, kind == ProbeKind::Fresh, id);
        }
        let pause = match pace {
            Pace::Quick => ms(300),
            Pace::Steady => ms(1_000).mul_f64(self.rng.random_range(0.9..=1.1)),
        };
        self.schedule(peer, replica, self.now + pause);
    }

    /// A fresh probe is four round trips, each of which may lose something; a lost packet is
    /// sent again after 200, 400, … ms (a `SYN` after 1 s), if the line does that.
    fn travel(&mut self, peer: usize, replica: u64, fresh: bool, id: u64) {
        let line = self.lines[peer].clone();
        let trips = if fresh && line.retransmits { 4 } else { 1 };
        let mut took = if fresh { line.rtt * 4 } else { line.rtt };
        if !line.jitter.is_zero() {
            for _ in 0..if fresh { 4 } else { 1 } {
                took += line.jitter.mul_f64(self.rng.random::<f64>());
            }
        }
        let mut arrives = line.passes() && !(fresh && line.wedged);
        for trip in 0..trips {
            let mut again = if fresh && trip == 0 { ms(1_000) } else { ms(200).max(line.rtt) };
            while arrives && self.rng.random_bool(1.0 - (1.0 - line.loss).powi(2)) {
                arrives = line.retransmits && took < Duration::from_secs(30);
                took += again;
                again *= 2;
            }
        }
        if arrives {
            let sent = self.now;
            self.push(sent + took, Event::Arrive { peer, replica, fresh, id, sent });
        }
        if fresh {
            self.push(self.now + Duration::from_secs(3), Event::GiveUp { peer, replica, id });
        }
    }

    fn arrive(&mut self, peer: usize, replica: u64, fresh: bool, id: u64, sent: Instant) {
        let line = self.lines[peer].clone();
        let took = self.now - sent;
        let given_up = fresh && took > Duration::from_secs(3);
        if !line.passes() || line.dead || line.replica != replica || given_up {
            return;
        }
        let (kind, rtt) = match fresh {
            true => (ProbeKind::Fresh, line.rtt),
            false => (ProbeKind::Standing, took),
        };
        if fresh {
            self.probers.entry((peer, replica)).or_default().done.insert(id);
        }
        let target = self.target(peer, replica);
        self.fact(Fact::ProbeAnswered { target, kind, id, at: self.now, rtt });
    }

    /// Records changes of state and of order, and hurries probers that were asked to.
    fn look(&mut self) {
        let since = self.now - self.start;
        let views: Vec<PeerView> = (0..self.names.len()).map(|n| self.view(n)).collect();
        for (peer, view) in views.iter().enumerate() {
            let last = self.changes.iter().rev().find(|(_, p, _)| *p == peer).map(|c| c.2);
            if last.unwrap_or_default() != view.state {
                self.changes.push((since, peer, view.state));
            }
            for replica in &view.replicas {
                let key = (peer, replica.target.replica.as_u64());
                let soon = self.now + ms(300);
                let late = self.probers.get(&key).and_then(|p| p.next).is_some_and(|n| n > soon);
                if replica.pace == Pace::Quick && late {
                    self.schedule(key.0, key.1, soon);
                }
            }
        }
        let mut order: Vec<usize> = (0..views.len()).collect();
        order.retain(|peer| views[*peer].state != PeerState::Down);
        order.sort_by_key(|peer| views[*peer].ranking_rtt);
        if self.orders.last().is_none_or(|(_, before)| *before != order) {
            self.orders.push((since, order));
        }
    }
}
