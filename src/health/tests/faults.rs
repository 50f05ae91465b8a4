//! The rows of the fault list that are health's to survive, simulated.

use std::time::Duration;

use super::sim::World;
use crate::health::*;

const MINUTE: Duration = Duration::from_secs(60);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn world(seed: u64, rtts: &[u64]) -> World {
    let mut world = World::new(seed, rtts);
    world.run(seconds(30));
    for peer in 0..rtts.len() {
        assert_eq!(world.state(peer), PeerState::Up, "peer {peer} is up before the fault");
    }
    world
}

#[test]
fn steady_for_60_s_and_10_min_changes_nothing() {
    for time in [seconds(60), 10 * MINUTE] {
        let mut world = world(1, &[20, 80, 110]);
        let (states, orders) = (world.changes.len(), world.orders.len());
        world.run(time);
        assert_eq!(world.changes.len(), states, "{:?}", world.changes);
        assert_eq!(world.orders.len(), orders, "{:?}", world.orders);
    }
}

#[test]
fn n01_full_partition_is_seen_in_time_and_healed_in_time() {
    for seed in 0..10 {
        let mut world = world(seed, &[20, 80, 110]);
        world.run(Duration::from_millis(seed * 97));
        let cut = (world.now - world.start).as_secs_f64();
        world.lines[0].swallows = true;
        world.run(MINUTE);
        let downs = world.downs(0);
        assert_eq!(downs.len(), 1, "seed {seed}: {downs:?}");
        assert!(downs[0] - cut <= 4.0, "seed {seed}: down {:.2} s after", downs[0] - cut);
        assert!(world.downs(1).is_empty() && world.downs(2).is_empty());
        world.lines[0].swallows = false;
        let heal = (world.now - world.start).as_secs_f64();
        world.run(seconds(20));
        let back = world.returns(0)[0];
        assert!(back - heal <= 10.0, "seed {seed}: back {:.2} s after", back - heal);
    }
}

#[test]
fn n01_the_cut_off_cluster_keeps_its_order_and_recovers() {
    let mut world = world(2, &[20, 80]);
    let orders = world.orders.len();
    for line in &mut world.lines {
        line.swallows = true;
    }
    world.run(MINUTE);
    assert!(world.downs(0).is_empty() && world.downs(1).is_empty(), "{:?}", world.changes);
    for line in &mut world.lines {
        line.swallows = false;
    }
    world.run(seconds(10));
    assert_eq!(world.state(0), PeerState::Up);
    assert_eq!(world.state(1), PeerState::Up);
    assert!(world.downs(0).is_empty() && world.downs(1).is_empty());
    assert_eq!(world.orders.len(), orders);
}

#[test]
fn n02_one_way_loss_is_down() {
    let mut world = world(3, &[20, 80]);
    let cut = (world.now - world.start).as_secs_f64();
    world.lines[0].one_way = true;
    world.run(MINUTE);
    let downs = world.downs(0);
    assert!(downs.len() == 1 && downs[0] - cut <= 4.0, "{downs:?}");
    assert_eq!(world.state(1), PeerState::Up);
}

/// Downs and returns of one peer over ten minutes at that loss each way.
fn lossy(seed: u64, loss: f64, retransmits: bool) -> (Vec<f64>, Vec<f64>) {
    let mut world = world(seed, &[20, 80]);
    world.lines[0].loss = loss;
    world.lines[0].retransmits = retransmits;
    world.run(10 * MINUTE);
    (world.downs(0), world.returns(0))
}

#[test]
fn n04_loss_5_20_50_percent() {
    for retransmits in [true, false] {
        for seed in 0..4 {
            let (downs, _) = lossy(seed, 0.05, retransmits);
            assert!(downs.is_empty(), "5 %, seed {seed}, tcp {retransmits}: {downs:?}");
            let (downs, returns) = lossy(seed, 0.20, retransmits);
            assert!(
                downs.len() <= 1,
                "20 %, seed {seed}, tcp {retransmits}: {downs:?} {returns:?}"
            );
            let (downs, returns) = lossy(seed, 0.50, retransmits);
            let first = downs.first().copied().unwrap_or(f64::MAX);
            assert!(first <= 90.0, "50 %, seed {seed}, tcp {retransmits}: {downs:?}");
            assert!(returns.len() <= 1, "50 %, seed {seed}, tcp {retransmits}: {returns:?}");
        }
    }
}

#[test]
fn n06_rtt_20_to_400_ms() {
    for seed in 0..5 {
        let mut world = world(seed, &[20, 80, 110]);
        let orders = world.orders.len();
        world.lines[0].rtt = Duration::from_millis(400);
        world.run(seconds(30));
        world.lines[0].rtt = Duration::from_millis(20);
        world.run(2 * MINUTE);
        assert!(world.downs(0).is_empty(), "{:?}", world.changes);
        // Past one neighbour and past the other is one way there.
        let seen = &world.orders[orders..];
        let places: Vec<usize> =
            seen.iter().filter_map(|(_, o)| o.iter().position(|p| *p == 0)).collect();
        let turns = places.windows(3).filter(|w| (w[1] > w[0]) != (w[2] > w[1])).count();
        assert!(turns <= 1, "{seen:?}");
        assert_eq!(seen.last().unwrap().1, vec![0, 1, 2]);
        assert_eq!(world.state(0), PeerState::Up);
    }
}

#[test]
fn n09_jitter_of_0_to_150_ms() {
    for seed in 0..8 {
        let mut world = world(seed, &[20, 150, 300]);
        world.lines[0].jitter = Duration::from_millis(150);
        world.run(MINUTE);
        let (orders, states) = (world.orders.len(), world.changes.len());
        world.run(10 * MINUTE);
        let seen = &world.orders[orders..];
        assert!(seen.len() <= 1, "seed {seed}: {seen:?}");
        assert!(world.downs(0).is_empty(), "seed {seed}: {:?}", &world.changes[states..]);
        // Twenty and half of the jitter.
        let rtt = world.view(0).rtt.unwrap_or_default();
        assert!(rtt > Duration::from_millis(50) && rtt < Duration::from_millis(140), "{rtt:?}");
    }
}

#[test]
fn n19_flapping_link() {
    for seed in 0..4 {
        let mut world = world(seed, &[20, 80]);
        world.run(Duration::from_millis(seed * 331));
        let begin = (world.now - world.start).as_secs_f64();
        for _ in 0..100 {
            world.lines[0].swallows = true;
            world.run(seconds(3));
            world.lines[0].swallows = false;
            world.run(seconds(3));
        }
        let downs = world.downs(0);
        assert!(downs[0] - begin <= 18.0, "seed {seed}: out by the third flap: {downs:?}");
        let out = downs[0];
        let later = world.changes.iter().filter(|(at, p, _)| *p == 0 && at.as_secs_f64() > out);
        assert!(later.count() <= 10, "seed {seed}: {:?}", world.changes);
        world.run(seconds(65));
        assert_eq!(world.state(0), PeerState::Up, "seed {seed}: back after the hold-down");
    }
}

#[test]
fn a_killed_process_that_starts_again_comes_back_by_the_rules() {
    for pause in [0, 500, 1_000, 4_000] {
        let mut world = world(4, &[20, 80]);
        world.kill(0);
        world.run(Duration::from_millis(pause));
        world.restart(0);
        let restarted = (world.now - world.start).as_secs_f64();
        world.run(MINUTE);
        assert_eq!(world.state(0), PeerState::Up);
        assert!(world.downs(0).len() <= 1, "{:?}", world.changes);
        let back = world.returns(0)[0] - restarted;
        assert!((4.0..=9.0).contains(&back), "after {pause} ms: back {back:.2} s after");
        assert_eq!(world.view(0).replicas.len(), 1, "the old replica is forgotten");
    }
}

#[test]
fn a_crash_loop_is_out_and_memory_stays_bounded() {
    let mut world = world(5, &[20, 80]);
    for _ in 0..200 {
        world.kill(0);
        world.run(Duration::from_millis(700));
        world.restart(0);
        world.run(Duration::from_millis(2_300));
        assert!(world.view(0).replicas.len() <= 64);
    }
    assert!(world.downs(0).len() <= 3, "{:?}", world.downs(0));
    world.run(2 * MINUTE);
    assert_eq!(world.state(0), PeerState::Up);
    assert_eq!(world.view(0).replicas.len(), 1);
}

#[test]
fn a_wedged_accept_is_down_although_the_old_connection_answers() {
    let mut world = world(6, &[20, 80]);
    world.lines[0].wedged = true;
    world.run(seconds(30));
    assert_eq!(world.state(0), PeerState::Down);
    assert_eq!(world.view(0).replicas[0].reset_unheard_since, None, "its streams work");
    world.lines[0].wedged = false;
    world.run(seconds(15));
    assert_eq!(world.state(0), PeerState::Up);
}
