//! Tables and properties of shares that move.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::catalog::{PeerCatalog, Settings};
use crate::routes::tests::{World, cluster, web};
use crate::routes::{Answers, Reason};

const WALL: i64 = 1_800_000_000_000;

/// A world whose inputs are steered, at simulated times.
struct Scene {
    world: World,
    steering: Steering,
    began: Instant,
}

impl Scene {
    fn new(world: World) -> Self {
        let began = world.now;
        let mut steering = Steering::default();
        steering.look_again();
        Self { world, steering, began }
    }

    /// Lets time pass to this point, waking when the steering wants to.
    fn at(&mut self, point: Duration) {
        let until = self.began + point;
        loop {
            let wall = WALL + i64::try_from((self.world.now - self.began).as_millis()).unwrap();
            self.steering.steer(&mut self.world.inputs, wall, self.world.now);
            match self.steering.next_wake().filter(|wake| *wake <= until) {
                Some(wake) => {
                    assert!(wake > self.world.now, "it must not spin");
                    self.world.now = wake;
                }
                None if self.world.now == until => return,
                None => self.world.now = until,
            }
        }
    }

    fn order(&mut self, of: Drained, over: Duration) {
        let passed = i64::try_from((self.world.now - self.began).as_millis()).unwrap();
        let drain = Drain::beginning(WALL + passed, over).unwrap();
        let drains = Arc::new(Drains::from([(of, drain)]));
        self.steering.order(Orders { drains, ..Orders::default() });
    }

    fn undo(&mut self) {
        self.steering.order(Orders::default());
    }

    fn press(&mut self, answers: Answers) {
        let mut pressure = self.steering.orders.pressure.clone();
        let share = self.own_share();
        pressure.window(&BTreeMap::from([(web(), answers)]), |_| share);
        self.steering.order(Orders { pressure, ..Orders::default() });
    }

    /// Puts `ready` backends behind the own export, of `wanted`.
    fn ready(&mut self, ready: u32, wanted: u32) {
        let world = World { inputs: self.world.inputs.clone(), now: self.world.now };
        self.world.inputs = world.own(ready, Settings::default()).inputs;
        self.change(|local| local.steer.wanted = NonZeroU32::new(wanted));
    }

    fn change(&mut self, change: impl Fn(&mut LocalExport)) {
        let mut catalog = LocalCatalog::clone(&self.world.inputs.local);
        let mut local = LocalExport::clone(&catalog.exports[&web()]);
        change(&mut local);
        catalog.exports.insert(web(), Arc::new(local));
        self.world.inputs.local = Arc::new(catalog);
        self.steering.look_again();
    }

    fn own_share(&self) -> Share {
        self.world.inputs.local.exports[&web()].export.settings.share
    }

    fn share_of(&self, name: &str) -> f32 {
        let route = self.world.route();
        route.clusters.iter().find(|c| c.cluster.as_str() == name).unwrap().share
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn pair() -> World {
    World::new().own(1, Settings::default()).peer("oregon", crate::health::PeerState::Up, 20)
}

fn remote() -> World {
    let up = crate::health::PeerState::Up;
    World::new().peer("oregon", up, 20).peer("tokyo", up, 110)
}

fn oregon() -> Drained {
    Drained::Cluster(cluster("oregon"))
}

#[test]
fn a_peer_s_share_falls_with_time_and_then_it_comes_last() {
    let mut scene = Scene::new(remote());
    scene.at(Duration::ZERO);
    scene.order(oregon(), secs(60));
    for (at, share) in [(0, 1.0), (15, 0.75), (30, 0.5), (45, 0.25), (59, 0.02)] {
        scene.at(secs(at));
        let found = scene.share_of("oregon");
        assert!((found - share).abs() <= 0.011, "after {at} s: {found}");
        assert_eq!(scene.world.order(), ["oregon:nearest", "tokyo:nearest"]);
    }
    scene.at(secs(60));
    assert_eq!(scene.world.order(), ["tokyo:nearest", "oregon:draining"]);
    assert_eq!(scene.world.inputs.drains[0].share, Share::NONE);
    scene.undo();
    scene.at(secs(61));
    assert_eq!(scene.world.order(), ["oregon:nearest", "tokyo:nearest"]);
    assert!((scene.share_of("oregon") - 1.0).abs() < f32::EPSILON, "taken back at once");
    assert!(scene.world.inputs.drains.is_empty());
    assert_eq!(scene.steering.next_wake(), None);
}

#[test]
fn a_sudden_drain_is_complete_at_once() {
    let mut scene = Scene::new(remote());
    scene.order(oregon(), Duration::ZERO);
    scene.at(Duration::ZERO);
    assert_eq!(scene.world.order(), ["tokyo:nearest", "oregon:draining"]);
}

#[test]
fn what_is_drained_still_serves_where_nobody_else_can() {
    let up = crate::health::PeerState::Up;
    let mut scene = Scene::new(World::new().peer("oregon", up, 20));
    scene.order(oregon(), Duration::ZERO);
    scene.at(Duration::ZERO);
    assert_eq!(scene.world.order(), ["oregon:draining"]);
}

#[test]
fn a_drained_service_tells_its_share_to_importers() {
    let mut scene = Scene::new(pair());
    scene.order(Drained::Service(web()), secs(10));
    scene.at(secs(4));
    assert_eq!(scene.own_share().percent(), 60);
    let told = Arc::clone(&scene.world.inputs.local.exports[&web()]);
    scene.at(secs(10));
    assert_eq!(scene.own_share(), Share::NONE);
    assert_eq!(scene.world.order(), ["oregon:nearest", "paris:draining"]);
    // An importer that is told so obeys.
    let mut importer = remote();
    let peer = importer.inputs.peers.get_mut(&cluster("oregon")).unwrap();
    let mut catalog = PeerCatalog::clone(&peer.catalog);
    catalog.exports.insert(web(), Arc::clone(&told.export));
    peer.catalog = Arc::new(catalog);
    let route = importer.route();
    assert!((route.clusters[0].share - 0.6).abs() < 0.001, "{:?}", route.clusters[0]);
}

#[test]
fn the_own_cluster_is_drained_with_all_that_it_exports() {
    let mut scene = Scene::new(pair());
    scene.order(Drained::Cluster(cluster("paris")), Duration::ZERO);
    scene.at(Duration::ZERO);
    assert_eq!(scene.own_share(), Share::NONE);
    assert_eq!(scene.world.order(), ["oregon:nearest", "paris:draining"]);
}

#[test]
fn an_annotation_wins_over_a_command_and_holds_over_a_restart() {
    let mut scene = Scene::new(remote());
    let half_over = Drain::beginning(WALL - 30_000, secs(60)).unwrap();
    scene.steering.annotate(BTreeMap::from([(cluster("oregon"), half_over)]));
    scene.order(oregon(), Duration::ZERO);
    scene.at(Duration::ZERO);
    assert!((scene.share_of("oregon") - 0.5).abs() < 0.011, "as far as it was before");
    assert_eq!(scene.world.inputs.drains[0].by, By::Annotation);
    let route = scene.world.route();
    assert_eq!(route.clusters[0].reason, Reason::Nearest);
    scene.steering.annotate(BTreeMap::new());
    scene.at(secs(1));
    assert_eq!(scene.world.inputs.drains[0].by, By::Command);
    assert_eq!(scene.world.order(), ["tokyo:nearest", "oregon:draining"]);
}

#[test]
fn an_annotation_on_an_export_drains_it() {
    let mut scene = Scene::new(pair());
    let drain = Drain::beginning(WALL, secs(10)).unwrap();
    scene.change(|local| local.steer.drain = Some(drain));
    scene.at(secs(5));
    assert_eq!(scene.own_share().percent(), 50);
}

#[test]
fn a_catalog_that_comes_again_keeps_its_share_and_its_place() {
    let mut scene = Scene::new(pair());
    scene.order(Drained::Service(web()), Duration::ZERO);
    let given = Arc::clone(&scene.world.inputs.local);
    scene.at(Duration::ZERO);
    let told = Arc::clone(&scene.world.inputs.local.exports[&web()]);
    scene.world.inputs.local = given;
    scene.steering.look_again();
    scene.at(secs(1));
    let again = &scene.world.inputs.local.exports[&web()];
    assert!(Arc::ptr_eq(&told, again), "whoever compares pointers sees no change");
    scene.undo();
    scene.at(secs(2));
    assert_eq!(scene.own_share(), Share::FULL);
}

#[test]
fn fewer_backends_than_wanted_spill_over_without_a_cliff() {
    let mut scene = Scene::new(pair());
    scene.ready(3, 3);
    scene.at(Duration::ZERO);
    assert_eq!(scene.own_share(), Share::FULL);
    scene.ready(1, 3);
    scene.at(secs(2));
    assert_eq!(scene.own_share().percent(), 80, "10 points a second");
    scene.at(secs(20));
    assert_eq!(scene.own_share().percent(), 33);
    assert_eq!(scene.world.order(), ["paris:local", "oregon:nearest"]);
    scene.ready(0, 3);
    scene.at(secs(21));
    assert_eq!(scene.world.order(), ["oregon:nearest", "[paris:no_endpoint]"]);
    scene.ready(1, 3);
    scene.at(secs(22));
    assert!((9..=11).contains(&scene.own_share().percent()), "it comes back by the same ramp");
    scene.at(secs(30));
    assert_eq!(scene.own_share().percent(), 33);
    scene.change(|local| local.steer.wanted = None);
    scene.at(secs(60));
    assert_eq!(scene.own_share(), Share::FULL);
    assert_eq!(scene.steering.next_wake(), None, "nothing is left to move");
}

#[test]
fn a_wish_for_more_backends_is_no_cliff_either() {
    let mut scene = Scene::new(pair());
    scene.at(secs(1));
    scene.change(|local| local.steer.wanted = NonZeroU32::new(4));
    scene.at(secs(2));
    assert_eq!(scene.own_share().percent(), 90);
    scene.at(secs(20));
    assert_eq!(scene.own_share().percent(), 25);
}

#[test]
fn policy_local_lets_a_share_leave() {
    let local = Settings { policy: crate::catalog::Policy::Local, ..Settings::default() };
    let up = crate::health::PeerState::Up;
    let mut scene = Scene::new(World::new().own(1, local).peer("oregon", up, 20));
    scene.at(Duration::ZERO);
    assert_eq!(scene.world.order(), ["paris:local", "[oregon:fenced]"]);
    scene.change(|local| local.steer.wanted = NonZeroU32::new(2));
    scene.at(secs(1));
    assert_eq!(scene.world.order(), ["paris:local", "oregon:nearest"]);
}

#[test]
fn pressure_does_not_count_where_no_gateway_is_passed() {
    let mut scene = Scene::new(pair());
    scene.at(Duration::ZERO);
    scene.press(Answers { accepted: 1, overloaded: 1 });
    scene.at(secs(2));
    let local = &scene.world.inputs.local.exports[&web()];
    assert_eq!((Takes::of(local).share.percent(), local.direct_share), (80, Share::FULL));
    scene.order(Drained::Service(web()), Duration::ZERO);
    scene.at(secs(3));
    assert_eq!(scene.world.inputs.local.exports[&web()].direct_share, Share::NONE);
}

#[test]
fn o09_a_saturated_cluster_takes_what_it_can_and_recovers_when_the_load_falls() {
    let mut scene = Scene::new(pair());
    scene.at(Duration::ZERO);
    // Twice the load that it can bear; the rest of its share goes elsewhere.
    let (capacity, mut load) = (100_u64, 200_u64);
    let mut at = Duration::ZERO;
    let mut least = 100;
    let mut second = |scene: &mut Scene, load: u64| {
        let offered = load * u64::from(scene.own_share().percent()) / 100;
        let accepted = offered.min(capacity);
        scene.press(Answers { accepted, overloaded: offered - accepted });
        at += secs(1);
        scene.at(at);
        scene.own_share().percent()
    };
    for _ in 0..30 {
        least = least.min(second(&mut scene, load));
    }
    let settled: Vec<u8> = (0..20).map(|_| second(&mut scene, load)).collect();
    assert!(settled.iter().all(|share| (40..=60).contains(share)), "{settled:?}");
    assert!(least >= 40, "it must not collapse: {least}");
    load = 50;
    let back = (0..30).position(|_| second(&mut scene, load) == 100);
    assert!(back.is_some_and(|seconds| seconds <= 15), "{back:?}");
}

proptest! {
    /// Whatever backends come and go and however loaded they are, a share that has backends moves
    /// by no more than ten points in any second.
    #[test]
    fn spill_over_moves_by_at_most_ten_points_a_second(
        steps in prop::collection::vec((1u32..6, 0u64..3_000, 0u64..4), 1..20)
    ) {
        let mut scene = Scene::new(pair());
        scene.ready(5, 5);
        scene.at(Duration::ZERO);
        let mut at = Duration::ZERO;
        let mut seen: Vec<(Duration, i32)> = Vec::new();
        for (ready, wait, overloaded) in steps {
            scene.ready(ready, 5);
            if overloaded > 0 {
                scene.press(Answers { accepted: 2, overloaded });
            }
            let until = at + Duration::from_millis(wait);
            while at < until {
                at = (at + Duration::from_millis(50)).min(until);
                scene.at(at);
                seen.push((at, i32::from(scene.own_share().percent())));
            }
        }
        for (index, (from, share)) in seen.iter().enumerate() {
            let within = seen[index..].iter().take_while(|(to, _)| *to - *from <= secs(1));
            for (_, other) in within {
                prop_assert!((share - other).abs() <= 10, "{share} to {other}");
            }
        }
    }

    /// A ramp never rises, ends when it says, and wakes are never in the past.
    #[test]
    fn a_ramp_falls_steadily(over_ms in 1u64..100_000, looks in prop::collection::vec(0u64..110_000, 1..50)) {
        let now = crate::clock::now();
        let over = Duration::from_millis(over_ms);
        let ramp = Ramp::new(Drain::beginning(WALL, over).unwrap(), WALL, now);
        let mut looks = looks;
        looks.sort_unstable();
        let mut last = Share::FULL;
        for look in looks {
            let at = now + Duration::from_millis(look);
            let share = ramp.share(at);
            prop_assert!(share <= last);
            last = share;
            let exact = 100.0 * (1.0 - Duration::from_millis(look).as_secs_f64() / over.as_secs_f64()).max(0.0);
            prop_assert!((f64::from(share.percent()) - exact).abs() <= 1.0, "{share:?} instead of {exact}");
            match ramp.next(at) {
                Some(next) => prop_assert!(next > at && next <= now + over),
                None => prop_assert!(share == Share::NONE),
            }
        }
    }
}
