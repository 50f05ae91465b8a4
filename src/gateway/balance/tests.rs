use std::collections::{BTreeMap, BinaryHeap};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

fn at(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], number))
}

fn addresses(count: u16) -> Vec<SocketAddr> {
    (1..=count).map(at).collect()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn everybody(_: SocketAddr) -> bool {
    true
}

/// A pod that fails so many times.
fn fail(pods: &mut Pods, number: u16, times: u32, now: Instant) -> Option<Duration> {
    (0..times).filter_map(|_| pods.went_wrong(at(number), now)).last()
}

fn ready(count: u16, now: Instant) -> Pods {
    let mut pods = Pods::default();
    pods.sync(&addresses(count), now);
    pods
}

#[test]
fn the_less_loaded_of_two_takes_the_stream() {
    let now = crate::clock::now();
    let mut pods = ready(3, now);
    let taken: Vec<_> = (0..3).map(|_| pods.take(None, everybody, now, || 0.0).unwrap()).collect();
    // 0.0 draws the first time after time, so every pod is looked at: each has one.
    assert_eq!(taken, addresses(3));
    pods.ended(at(2));
    assert_eq!(pods.take(None, everybody, now, || 0.0), Some(at(2)));
    pods.ended(at(1));
    let mut draws = [0.1, 0.0, 0.9, 0.0].into_iter();
    assert_eq!(pods.take(None, everybody, now, || draws.next().unwrap()), Some(at(1)));
    let mut draws = [0.5, 0.0, 0.9, 0.0].into_iter();
    let taken = pods.take(None, everybody, now, || draws.next().unwrap());
    assert_eq!(taken, Some(at(3)), "equally loaded, and took fewer");
}

#[test]
fn three_failures_in_a_row_eject_and_an_answer_begins_anew() {
    let now = crate::clock::now();
    let mut pods = ready(4, now);
    assert_eq!(fail(&mut pods, 1, 2, now), None);
    pods.went_well(at(1));
    assert_eq!(fail(&mut pods, 1, 2, now), None);
    assert_eq!(fail(&mut pods, 1, 1, now), Some(secs(10)));
    assert_eq!(fail(&mut pods, 1, 5, now), None, "it is ejected already");
    for _ in 0..100 {
        assert_ne!(pods.take(None, everybody, now, rand::random::<f64>), Some(at(1)));
    }
}

#[test]
fn the_way_back_is_a_trial_and_each_ejection_lasts_twice_as_long() {
    let mut now = crate::clock::now();
    let mut pods = ready(2, now);
    let only = |address| address == at(1);
    let mut times = Vec::new();
    assert_eq!(fail(&mut pods, 1, 3, now), Some(secs(10)));
    let mut last = secs(10);
    for _ in 0..7 {
        now += last;
        assert_eq!(pods.take(None, everybody, now - ms(1), || 0.0), Some(at(2)));
        assert_eq!(pods.take(None, everybody, now, || 0.0), Some(at(1)), "one stream tries it");
        assert_eq!(pods.take(None, everybody, now + ms(999), || 0.0), Some(at(2)));
        last = fail(&mut pods, 1, 1, now).expect("one failure is enough now");
        for number in [1, 2, 2] {
            pods.ended(at(number));
        }
        times.push(last.as_secs());
    }
    assert_eq!(times, [20, 40, 80, 160, 300, 300, 300]);
    now += last;
    assert_eq!(pods.take(None, only, now, || 0.0), Some(at(1)));
    pods.went_well(at(1));
    assert_eq!(pods.take(None, only, now, || 0.0), Some(at(1)));
    assert_eq!(fail(&mut pods, 1, 2, now), None, "it went well");
    assert_eq!(fail(&mut pods, 1, 1, now), Some(secs(300)), "and is remembered");
    now += secs(300 + 300);
    assert_eq!(pods.take(None, only, now, || 0.0), Some(at(1)));
    assert_eq!(fail(&mut pods, 1, 3, now), Some(secs(10)), "forgotten");
}

#[test]
fn a_trial_ends_well_by_itself_where_streams_last_for_hours() {
    let now = crate::clock::now();
    let mut pods = ready(2, now);
    fail(&mut pods, 1, 3, now);
    let back = now + secs(10);
    let only = |address| address == at(1);
    assert_eq!(pods.take(None, only, back, || 0.0), Some(at(1)));
    assert_eq!(pods.take(None, everybody, back + secs(9), || 0.0), Some(at(2)));
    assert!(matches!(pods.ready[0].standing, Standing::Trial(..)));
    assert_eq!(pods.take(None, everybody, back + secs(10), || 0.0), Some(at(2)));
    assert_eq!(pods.ready[0].standing, Standing::In);
}

#[test]
fn never_more_than_half_are_ejected_and_pods_that_go_bring_others_back() {
    let now = crate::clock::now();
    let mut pods = ready(1, now);
    assert_eq!(fail(&mut pods, 1, 9, now), None, "the only one stays");
    let mut pods = ready(5, now);
    for number in 1..=5 {
        fail(&mut pods, number, 3, now);
    }
    assert_eq!(pods.ejected(), 2);
    pods.sync(&[at(1), at(2), at(3)], now);
    assert_eq!(pods.ejected(), 1);
    pods.sync(&[at(1)], now);
    assert_eq!(pods.ejected(), 0);
}

#[test]
fn where_nobody_else_fits_an_ejected_pod_is_better_than_none() {
    let now = crate::clock::now();
    let mut pods = ready(2, now);
    fail(&mut pods, 1, 3, now);
    assert_eq!(pods.take(None, |address| address != at(2), now, || 0.0), Some(at(1)));
    let client = Client::of(at(9).ip());
    assert_eq!(pods.take(Some(client), |address| address != at(2), now, || 0.0), Some(at(1)));
    assert_eq!(pods.take(None, |_| false, now, || 0.0), None);
}

#[test]
fn unready_for_a_while_is_no_way_round_an_ejection() {
    let now = crate::clock::now();
    let mut pods = ready(3, now);
    fail(&mut pods, 1, 3, now);
    pods.sync(&[at(2), at(3)], now);
    pods.sync(&addresses(3), now + secs(5));
    assert_eq!(pods.ejected(), 1);
    pods.sync(&[at(2), at(3)], now);
    pods.sync(&[at(2), at(3)], now + FORGET);
    pods.sync(&addresses(3), now + FORGET);
    assert_eq!(pods.ejected(), 0);
}

#[test]
fn with_affinity_a_client_stays_until_its_pod_is_ejected() {
    let now = crate::clock::now();
    let client = Client::of(at(7).ip());
    let mut pods = ready(5, now);
    let home = pods.take(Some(client), everybody, now, || 0.5).unwrap();
    let mut again = Pods::default();
    again.sync(&addresses(5), now + secs(77));
    for _ in 0..20 {
        assert_eq!(again.take(Some(client), everybody, now, || 0.0), Some(home));
    }
    fail(&mut pods, home.port(), 3, now);
    let second = pods.take(Some(client), everybody, now, || 0.5).unwrap();
    assert_ne!(second, home);
    let without: Vec<_> = addresses(5).into_iter().filter(|address| *address != home).collect();
    again.sync(&without, now);
    assert_eq!(again.take(Some(client), everybody, now, || 0.5), Some(second));
}

#[test]
fn the_floor_keeps_full_pods_within_their_share() {
    for weights in [vec![1.0], vec![1.0, 0.1], vec![0.1, 0.1, 1.0], vec![0.1; 7], vec![]] {
        let floor = floor(weights.clone());
        let lifted: Vec<f64> = weights.iter().map(|weight| weight.max(floor)).collect();
        let mean = lifted.iter().sum::<f64>() / lifted.len().max(1) as f64;
        let most = lifted.iter().copied().fold(0.0, f64::max);
        assert!(most <= mean * OVER_SHARE + 1e-9, "{weights:?} lifted to {lifted:?}");
    }
    let many: Vec<f64> = (0..30).map(|pod| if pod == 0 { 0.1 } else { 1.0 }).collect();
    assert_eq!(floor(many), 0.0, "one new pod among many ramps in full");
}

/// A simulated load on some pods: `rate` streams a second, each `lasting` so long; `fails` says
/// which pods reset them after how long.
struct Sim {
    pods: Pods,
    now: Instant,
    rng: SmallRng,
    ends: BinaryHeap<std::cmp::Reverse<(Instant, SocketAddr)>>,
    given: BTreeMap<SocketAddr, f64>,
    errors: u32,
}

impl Sim {
    fn new(seed: u64) -> Self {
        Self {
            pods: Pods::default(),
            now: crate::clock::now(),
            rng: SmallRng::seed_from_u64(seed),
            ends: BinaryHeap::new(),
            given: BTreeMap::new(),
            errors: 0,
        }
    }

    fn run(
        &mut self,
        time: Duration,
        rate: u32,
        lasting: Duration,
        fails: impl Fn(SocketAddr) -> Option<Duration>,
    ) {
        let step = secs(1) / rate;
        let until = self.now + time;
        while self.now < until {
            self.now += step;
            while let Some(std::cmp::Reverse((at, address))) = self.ends.peek().copied()
                && at <= self.now
            {
                self.ends.pop();
                if fails(address).is_some() {
                    self.errors += 1;
                    self.pods.went_wrong(address, at);
                } else {
                    self.pods.went_well(address);
                }
                self.pods.ended(address);
            }
            let rng = &mut self.rng;
            let draw = || rng.random::<f64>();
            let address = self.pods.take(None, everybody, self.now, draw).expect("somebody serves");
            *self.given.entry(address).or_default() += 1.0;
            let lasts = fails(address).unwrap_or(lasting);
            self.ends.push(std::cmp::Reverse((self.now + lasts, address)));
        }
    }
}

/// 200 connections a second for 60 s, one pod of ten resets every one of them.
#[test]
fn a_bad_pod_among_ten_costs_less_than_a_thousandth_after_the_first_ten_errors() {
    for (seed, after) in [(1, 0), (2, 1), (3, 20), (4, 20)] {
        let mut sim = Sim::new(seed);
        sim.pods.sync(&addresses(10), sim.now);
        sim.run(secs(60), 200, ms(50), |address| (address == at(4)).then_some(ms(after)));
        let later = sim.errors.saturating_sub(10);
        assert!(f64::from(later) < 12_000.0 * 0.001, "{} errors at {after} ms", sim.errors);
    }
}

/// The same load while 30 pods come from none; the share is taken over the time a pod is there.
fn from_none_to_thirty(seed: u64, lasting: Duration, apart: Duration) -> f64 {
    let mut sim = Sim::new(seed);
    let mut fair: BTreeMap<SocketAddr, f64> = BTreeMap::new();
    let mut there = 0_u16;
    let begun = sim.now;
    while sim.now < begun + secs(120) {
        while there < 30 && sim.now >= begun + apart * u32::from(there) {
            there += 1;
            sim.pods.sync(&addresses(there), sim.now);
        }
        let before: f64 = sim.given.values().sum();
        sim.run(ms(100), 400, lasting, |_| None);
        let given = sim.given.values().sum::<f64>() - before;
        for number in 1..=there {
            *fair.entry(at(number)).or_default() += given / f64::from(there);
        }
    }
    assert_eq!(sim.errors, 0);
    assert_eq!(sim.given.len(), 30, "every pod serves");
    sim.given.iter().map(|(address, given)| given / fair[address]).fold(0.0, f64::max)
}

#[test]
fn no_pod_is_above_its_fair_share_while_thirty_come() {
    for (seed, lasting) in [(1, ms(1)), (2, ms(200)), (3, secs(2))] {
        for apart in [ms(0), ms(300), secs(1), secs(3)] {
            let most = from_none_to_thirty(seed, lasting, apart);
            assert!(most <= 1.3, "{most:.2} of the fair share, {lasting:?} each, {apart:?} apart");
        }
    }
}

#[test]
fn a_new_pod_among_many_gets_its_share_by_and_by() {
    let mut sim = Sim::new(5);
    sim.pods.sync(&addresses(10), sim.now);
    sim.run(secs(5), 400, ms(200), |_| None);
    sim.pods.sync(&addresses(11), sim.now);
    let mut shares = Vec::new();
    for _ in 0..4 {
        sim.given.clear();
        sim.run(secs(10), 400, ms(200), |_| None);
        let all: f64 = sim.given.values().sum();
        shares.push(sim.given.get(&at(11)).copied().unwrap_or(0.0) * 11.0 / all);
    }
    assert!((0.02..0.5).contains(&shares[0]), "{shares:?}");
    assert!(shares[0] < shares[1] && shares[1] < shares[3], "{shares:?}");
    assert!((0.8..1.2).contains(&shares[3]), "{shares:?}");
}

#[derive(Debug, Clone)]
enum Act {
    Take(bool),
    End(bool),
    Fail(u16),
    Ready(Vec<bool>),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => any::<bool>().prop_map(Act::Take),
        4 => any::<bool>().prop_map(Act::End),
        4 => (1..9_u16).prop_map(Act::Fail),
        1 => proptest::collection::vec(any::<bool>(), 8).prop_map(Act::Ready),
        2 => (1..400_000_u64).prop_map(Act::Pass),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_half_serve_and_every_stream_is_counted_once(
        acts in proptest::collection::vec(act(), 1..200),
        seed: u64,
    ) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut now = crate::clock::now();
        let mut there = addresses(8);
        let mut pods = ready(8, now);
        let mut open = Vec::new();
        for act in acts {
            match act {
                Act::Take(sticks) => {
                    let client = sticks.then(|| Client::of(at(1).ip()));
                    let taken = pods.take(client, everybody, now, || rng.random::<f64>());
                    prop_assert_eq!(taken.is_some(), !there.is_empty());
                    prop_assert!(taken.is_none_or(|address| there.contains(&address)));
                    open.extend(taken);
                }
                Act::End(well) => if let Some(address) = open.pop() {
                    if well {
                        pods.went_well(address);
                    }
                    pods.ended(address);
                },
                Act::Fail(number) => {
                    pods.went_wrong(at(number), now);
                }
                Act::Ready(which) => {
                    there = addresses(8);
                    there.retain(|address| which[usize::from(address.port()) - 1]);
                    pods.sync(&there, now);
                }
                Act::Pass(millis) => now += ms(millis),
            }
            prop_assert!(pods.ejected() * 2 <= there.len());
            let weighs = |pod: &Pod| (LEAST_WEIGHT..=1.0).contains(&pod.weight);
            prop_assert!(pods.ready.iter().all(weighs));
            prop_assert!(pods.ready.iter().all(|pod| pod.taken.is_finite()));
        }
        for address in open.drain(..) {
            pods.ended(address);
        }
        // Pods are forgotten after a while, and the streams at them with them.
        prop_assert!(pods.is_unused());
    }
}
