//! Which ready endpoint of one service port the next stream goes to, without I/O.
//!
//! Two are drawn, and the one with fewer streams in flight takes it (equally loaded: the one that
//! took fewer so far); with affinity the client's own ([`affinity`](super::affinity)). One that
//! fails [`FAILURES`] times in a row is ejected, longer each time, and comes back by a trial: one
//! stream a second until one of them goes well. One that is new draws with a weight that rises
//! over [`RAMP`].
//!
//! Invariants: never more than half of the pods are ejected; while any fits, one is given, an
//! ejected one before none; the ramp never costs the others more than [`OVER_SHARE`] of their fair
//! share, so that with many new pods there is next to none. Facts come from the edges: a stream
//! was given, answered, went wrong, ended.
//! Not here: what may be dialled, how many streams a service may have (`load`).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::affinity::{Client, Name};

/// Failures in a row that eject a pod.
const FAILURES: u32 = 3;
/// The first ejection; each further one takes twice as long.
const FIRST_EJECTION: Duration = Duration::from_secs(10);
/// The longest.
const LONGEST_EJECTION: Duration = Duration::from_secs(300);
/// Earlier ejections are forgotten after so much time without one, and a pod that is gone
/// altogether.
const FORGET: Duration = Duration::from_secs(300);
/// Between the streams of a pod that is tried again.
const TRIAL_EVERY: Duration = Duration::from_secs(1);
/// A trial without a failure for so long went well: streams may last for hours.
const TRIAL: Duration = Duration::from_secs(10);
/// How long a new pod's weight rises.
const RAMP: Duration = Duration::from_secs(30);
/// A weight begins here; 1 is full.
const LEAST_WEIGHT: f64 = 0.1;
/// Most of its fair share that a full pod takes because others are new.
const OVER_SHARE: f64 = 1.15;
/// How often weights are looked at while some rise.
const REFRESH: Duration = Duration::from_millis(250);
/// Draws for one of the two before all pods are looked at instead.
const DRAWS: u32 = 8;
/// Pods that are gone and still remembered.
const MOST_GONE: usize = 256;

/// The pods behind one service port.
#[derive(Debug, Default)]
pub(super) struct Pods {
    /// Ascending by address.
    ready: Vec<Pod>,
    /// Not ready for now; since when.
    gone: Vec<(Instant, Pod)>,
    /// When standings and weights are looked at next; `None`: nothing changes by itself.
    refresh: Option<Instant>,
}

#[derive(Debug)]
struct Pod {
    address: SocketAddr,
    name: Name,
    in_flight: u32,
    /// Streams taken, each counted by 1 / weight.
    taken: f64,
    weight: f64,
    /// Since when it takes streams beside others; `None`: for long.
    joined: Option<Instant>,
    /// In a row.
    failures: u32,
    ejections: u32,
    /// The end of the last ejection.
    ejected_until: Option<Instant>,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Standing {
    In,
    Ejected,
    /// Tried again since then; when a stream was last given.
    Trial(Instant, Option<Instant>),
}

impl Pod {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            name: Name::of_backend(address),
            in_flight: 0,
            taken: 0.0,
            weight: 1.0,
            joined: None,
            failures: 0,
            ejections: 0,
            ejected_until: None,
            standing: Standing::In,
        }
    }

    fn is_ejected(&self) -> bool {
        self.standing == Standing::Ejected
    }

    fn is_available(&self, now: Instant) -> bool {
        match self.standing {
            Standing::In | Standing::Trial(_, None) => true,
            Standing::Ejected => false,
            Standing::Trial(_, Some(asked)) => now.duration_since(asked) >= TRIAL_EVERY,
        }
    }

    fn load(&self) -> f64 {
        f64::from(self.in_flight) / self.weight
    }

    fn is_lighter(&self, other: &Self) -> bool {
        (self.load(), self.taken) < (other.load(), other.taken)
    }

    fn try_again(&mut self, now: Instant, taken: f64) {
        self.standing = Standing::Trial(now, None);
        self.joined = Some(now);
        self.taken = self.taken.max(taken);
    }

    /// Its weight by age alone; a whole one is one for good.
    fn ramp(&mut self, now: Instant) -> f64 {
        let Some(joined) = self.joined else { return 1.0 };
        let share = now.duration_since(joined).as_secs_f64() / RAMP.as_secs_f64();
        if share >= 1.0 {
            self.joined = None;
        }
        share.clamp(LEAST_WEIGHT, 1.0)
    }
}

impl Pods {
    /// Takes over the ready addresses, ascending and without duplicates. Those that join others
    /// are new; the very first are not, since nobody would take over what they are spared.
    pub(super) fn sync(&mut self, addresses: &[SocketAddr], now: Instant) {
        let others = !self.ready.is_empty();
        let taken = self.mean_taken();
        let mut before = std::mem::take(&mut self.ready).into_iter().peekable();
        self.gone.retain(|(since, _)| now.duration_since(*since) < FORGET);
        for address in addresses {
            while let Some(pod) = before.next_if(|pod| pod.address < *address) {
                self.gone.push((now, pod));
            }
            let known = before.next_if(|pod| pod.address == *address);
            let pod = known.unwrap_or_else(|| {
                let gone = self.gone.iter().position(|(_, pod)| pod.address == *address);
                let mut pod =
                    gone.map_or_else(|| Pod::new(*address), |place| self.gone.swap_remove(place).1);
                pod.joined = others.then_some(now);
                pod.taken = taken;
                pod
            });
            self.ready.push(pod);
        }
        self.gone.extend(before.map(|pod| (now, pod)));
        let over = self.gone.len().saturating_sub(MOST_GONE);
        self.gone.drain(..over);
        self.keep_half(now);
        self.look(now);
    }

    /// The pod for one stream, which it is counted from now on; of those that `fits` lets through.
    /// `draw` gives numbers from 0 to 1, without 1.
    pub(super) fn take(
        &mut self,
        client: Option<Client>,
        fits: impl Fn(SocketAddr) -> bool,
        now: Instant,
        draw: impl FnMut() -> f64,
    ) -> Option<SocketAddr> {
        if self.refresh.is_some_and(|at| at <= now) {
            self.look(now);
        }
        let available = |pod: &Pod| pod.is_available(now) && fits(pod.address);
        let ejected = |pod: &Pod| fits(pod.address);
        let place = match client {
            Some(client) => {
                self.of_client(client, available).or_else(|| self.of_client(client, ejected))
            }
            None => self
                .of_two(available, draw)
                .or_else(|| self.lightest(available))
                .or_else(|| self.lightest(ejected)),
        }?;
        let pod = &mut self.ready[place];
        pod.in_flight += 1;
        pod.taken += 1.0 / pod.weight;
        if let Standing::Trial(_, asked) = &mut pod.standing {
            *asked = Some(now);
        }
        Some(pod.address)
    }

    /// A stream that was given to the pod has ended.
    pub(super) fn ended(&mut self, address: SocketAddr) {
        if let Some(pod) = self.pod(address) {
            pod.in_flight = pod.in_flight.saturating_sub(1);
        }
    }

    /// The pod answered, or ended a stream as it should.
    pub(super) fn went_well(&mut self, address: SocketAddr) {
        // What began before an ejection says nothing about now.
        if let Some(pod) = self.pod(address).filter(|pod| !pod.is_ejected()) {
            pod.failures = 0;
            pod.standing = Standing::In;
        }
    }

    /// The pod could not be reached, or reset a stream without a word; for how long it is
    /// ejected, if it is.
    pub(super) fn went_wrong(&mut self, address: SocketAddr, now: Instant) -> Option<Duration> {
        let room = (self.ejected() + 1) * 2 <= self.ready.len();
        let place = self.ready.binary_search_by_key(&address, |pod| pod.address).ok()?;
        let pod = &mut self.ready[place];
        if pod.is_ejected() {
            return None;
        }
        pod.failures = pod.failures.saturating_add(1);
        if let Standing::Trial(since, _) = &mut pod.standing {
            *since = now;
        }
        if pod.failures < FAILURES || !room {
            return None;
        }
        if pod.ejected_until.is_some_and(|until| now.saturating_duration_since(until) >= FORGET) {
            pod.ejections = 0;
        }
        let time = FIRST_EJECTION.saturating_mul(1 << pod.ejections.min(16)).min(LONGEST_EJECTION);
        pod.ejections += 1;
        pod.ejected_until = Some(now + time);
        pod.standing = Standing::Ejected;
        self.look(now);
        Some(time)
    }

    /// How many are ejected.
    pub(super) fn ejected(&self) -> usize {
        self.ready.iter().filter(|pod| pod.is_ejected()).count()
    }

    /// How many are new.
    #[cfg(test)]
    pub(super) fn rising(&self) -> usize {
        self.ready.iter().filter(|pod| pod.joined.is_some()).count()
    }

    /// Whether nobody would miss it.
    pub(super) fn is_unused(&self) -> bool {
        self.ready.iter().chain(self.gone.iter().map(|(_, pod)| pod)).all(|pod| pod.in_flight == 0)
    }

    fn pod(&mut self, address: SocketAddr) -> Option<&mut Pod> {
        match self.ready.binary_search_by_key(&address, |pod| pod.address) {
            Ok(place) => Some(&mut self.ready[place]),
            Err(_) => self.gone.iter_mut().map(|(_, pod)| pod).find(|pod| pod.address == address),
        }
    }

    /// The better of two that are drawn by weight.
    fn of_two(
        &self,
        available: impl Fn(&Pod) -> bool,
        mut draw: impl FnMut() -> f64,
    ) -> Option<usize> {
        if self.ready.len() <= 2 {
            return None;
        }
        let mut one = |other: Option<usize>| {
            (0..DRAWS).find_map(|_| {
                let place = index(draw(), self.ready.len());
                let pod = &self.ready[place];
                let drawn = Some(place) != other && draw() < pod.weight && available(pod);
                drawn.then_some(place)
            })
        };
        let first = one(None)?;
        let second = one(Some(first))?;
        Some(if self.ready[second].is_lighter(&self.ready[first]) { second } else { first })
    }

    fn lightest(&self, fits: impl Fn(&Pod) -> bool) -> Option<usize> {
        let fitting = (0..self.ready.len()).filter(|place| fits(&self.ready[*place]));
        fitting.reduce(
            |best, place| {
                if self.ready[place].is_lighter(&self.ready[best]) { place } else { best }
            },
        )
    }

    fn of_client(&self, client: Client, fits: impl Fn(&Pod) -> bool) -> Option<usize> {
        let fitting = (0..self.ready.len()).filter(|place| fits(&self.ready[*place]));
        fitting.max_by_key(|place| client.score(self.ready[*place].name))
    }

    fn mean_taken(&self) -> f64 {
        let sum: f64 = self.ready.iter().map(|pod| pod.taken).sum();
        sum / self.ready.len().max(1) as f64
    }

    /// Pods have gone: of more than half ejected, those whose time is over first are tried.
    fn keep_half(&mut self, now: Instant) {
        let taken = self.mean_taken();
        while self.ejected() * 2 > self.ready.len() {
            let ejected = self.ready.iter_mut().filter(|pod| pod.is_ejected());
            let Some(first) = ejected.min_by_key(|pod| pod.ejected_until) else { return };
            first.try_again(now, taken);
        }
    }

    /// Moves on what time moves: ejections, trials, weights.
    fn look(&mut self, now: Instant) {
        let taken = self.mean_taken();
        let (mut next, mut whole) = (None, true);
        for pod in &mut self.ready {
            match (pod.standing, pod.ejected_until) {
                (Standing::Ejected, Some(until)) if until > now => {
                    next = Some(next.map_or(until, |next: Instant| next.min(until)));
                }
                (Standing::Ejected, _) => pod.try_again(now, taken),
                (Standing::Trial(since, Some(_)), _) if now.duration_since(since) >= TRIAL => {
                    pod.standing = Standing::In;
                }
                _ => {}
            }
            pod.weight = pod.ramp(now);
            whole &= pod.is_ejected()
                || (pod.joined.is_none() && !matches!(pod.standing, Standing::Trial(..)));
        }
        self.lift();
        self.refresh = if whole { next } else { Some(now + REFRESH) };
    }

    /// Lifts the weights of new pods so far that the full ones keep within their share.
    fn lift(&mut self) {
        let serves = |pod: &Pod| pod.standing == Standing::In;
        let weights = self.ready.iter().filter(|pod| serves(pod)).map(|pod| pod.weight);
        let floor = floor(weights.collect());
        for pod in self.ready.iter_mut().filter(|pod| serves(pod)) {
            pod.weight = pod.weight.max(floor);
        }
    }
}

/// The least weight that keeps the greatest of these within [`OVER_SHARE`] of its fair share.
fn floor(mut weights: Vec<f64>) -> f64 {
    weights.sort_by(f64::total_cmp);
    let wanted = weights.last().map_or(0.0, |most| most / OVER_SHARE) * weights.len() as f64;
    let mut above: f64 = weights.iter().sum();
    if above >= wanted {
        return 0.0;
    }
    for (below, weight) in weights.iter().enumerate() {
        let floor = (wanted - above) / below.max(1) as f64;
        if below > 0 && floor <= *weight {
            return floor;
        }
        above -= weight;
    }
    wanted / weights.len() as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a length, never negative"
)]
fn index(draw: f64, length: usize) -> usize {
    ((draw * length as f64) as usize).min(length - 1)
}

#[cfg(test)]
mod tests;
