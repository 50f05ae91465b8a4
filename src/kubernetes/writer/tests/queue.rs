use std::time::{Duration, Instant};

use super::super::bucket::{BURST, RATE};
use super::super::queue::{MAX_IN_FLIGHT, MAX_LESSER, Next, Queue, REST};
use super::super::target::{Rank, Target};
use crate::clock;

fn peer(name: &str) -> Target {
    Target::Peer(name.into())
}

/// Takes turns until there is none, ending each at once.
fn drain(queue: &mut Queue, now: Instant) -> Vec<Target> {
    let mut turns = Vec::new();
    while let Next::Turn(target) = queue.next(now) {
        queue.spend(now);
        queue.done(&target);
        turns.push(target);
    }
    turns
}

#[test]
fn turns_come_by_rank_then_by_age() {
    let now = clock::now();
    let mut queue = Queue::default();
    for (name, rank) in [
        ("status", Rank::Status),
        ("add-1", Rank::Addition),
        ("switch", Rank::Switch),
        ("add-2", Rank::Addition),
        ("removal", Rank::Removal),
    ] {
        queue.push(peer(name), rank, now);
    }
    let expected = ["removal", "switch", "add-1", "add-2", "status"].map(peer);
    assert_eq!(drain(&mut queue, now), expected);
    assert_eq!(queue.next(now), Next::Nothing);
}

#[test]
fn however_often_it_is_pushed_it_has_one_turn_at_its_first_place() {
    let now = clock::now();
    let mut queue = Queue::default();
    for name in ["a", "b", "a", "a"] {
        queue.push(peer(name), Rank::Addition, now);
    }
    assert_eq!(queue.waiting(), 2);
    assert_eq!(drain(&mut queue, now), ["a", "b"].map(peer));

    queue.push(peer("a"), Rank::Status, now);
    queue.push(peer("b"), Rank::Addition, now);
    queue.push(peer("a"), Rank::Removal, now);
    assert_eq!(drain(&mut queue, now), ["a", "b"].map(peer), "a new rank moves it");

    queue.push(peer("a"), Rank::Removal, now);
    queue.forget(&peer("a"));
    assert_eq!(queue.next(now), Next::Nothing);
}

#[test]
fn one_request_per_object_and_so_many_in_all() {
    let now = clock::now();
    let mut queue = Queue::default();
    queue.push(peer("a"), Rank::Addition, now);
    assert_eq!(queue.next(now), Next::Turn(peer("a")));
    queue.push(peer("a"), Rank::Removal, now);
    assert_eq!(queue.next(now), Next::Nothing, "its first turn is not over");
    queue.done(&peer("a"));
    assert_eq!(queue.next(now), Next::Turn(peer("a")));
    for other in 0..MAX_IN_FLIGHT {
        queue.push(peer(&other.to_string()), Rank::Switch, now);
    }
    for _ in 1..MAX_IN_FLIGHT {
        assert!(matches!(queue.next(now), Next::Turn(_)));
    }
    assert_eq!(queue.next(now), Next::Nothing);
    queue.done(&peer("a"));
    assert!(matches!(queue.next(now), Next::Turn(_)));
}

#[test]
fn what_was_refused_rests_and_the_others_go_on() {
    let now = clock::now();
    let mut queue = Queue::default();
    queue.push(peer("a"), Rank::Removal, now);
    assert_eq!(queue.next(now), Next::Turn(peer("a")));
    queue.rest(&peer("a"), now + REST);
    queue.done(&peer("a"));
    queue.push(peer("a"), Rank::Removal, now);
    queue.push(peer("b"), Rank::Status, now);
    assert_eq!(drain(&mut queue, now), [peer("b")]);
    assert_eq!(queue.next(now), Next::At(now + REST));
    assert_eq!(drain(&mut queue, now + REST), [peer("a")]);
    // Its rest is over for good.
    queue.push(peer("a"), Rank::Removal, now + REST);
    assert_eq!(drain(&mut queue, now + REST), [peer("a")]);
}

#[test]
fn a_moment_can_be_set_and_set_again() {
    let (now, second) = (clock::now(), Duration::from_secs(1));
    let mut queue = Queue::default();
    queue.push(peer("a"), Rank::Removal, now + 30 * second);
    assert_eq!(queue.next(now), Next::At(now + 30 * second));
    queue.push(peer("a"), Rank::Removal, now + second);
    assert_eq!(queue.next(now), Next::At(now + second));
    assert_eq!(drain(&mut queue, now + second), [peer("a")]);
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn a_pause_stops_everybody_and_the_budget_the_rest() {
    let now = clock::now();
    let mut queue = Queue::default();
    let second = Duration::from_secs(1);
    for number in 0..=BURST {
        queue.push(peer(&number.to_string()), Rank::Addition, now);
    }
    queue.pause(now + second);
    assert_eq!(queue.next(now), Next::At(now + second));
    assert_eq!(drain(&mut queue, now + second).len(), BURST as usize);
    let write = second / RATE;
    queue.push(peer("urgent"), Rank::Removal, now + second);
    assert_eq!(queue.next(now + second), Next::At(now + second + write));
    let turn = queue.next(now + second + write);
    assert_eq!(turn, Next::Turn(peer("urgent")), "what is urgent has the next write");
}

#[test]
fn what_hangs_leaves_room_for_removals_and_switches() {
    let now = clock::now();
    let mut queue = Queue::default();
    for number in 0..2 * MAX_IN_FLIGHT {
        queue.push(peer(&format!("add-{number:02}")), Rank::Addition, now);
    }
    let mut hanging = Vec::new();
    while let Next::Turn(target) = queue.next(now) {
        hanging.push(target);
    }
    assert_eq!((hanging.len(), queue.next(now)), (MAX_LESSER, Next::Nothing));
    queue.push(peer("switch"), Rank::Switch, now);
    assert_eq!(drain(&mut queue, now), [peer("switch")]);
    queue.done(&hanging[0]);
    assert_eq!(queue.next(now), Next::Turn(peer("add-12")));
}

#[test]
fn a_new_term_begins_with_an_empty_queue() {
    let now = clock::now();
    let mut queue = Queue::default();
    queue.push(peer("under way"), Rank::Addition, now);
    let turn = queue.next(now);
    queue.push(peer("rests"), Rank::Addition, now);
    queue.rest(&peer("rests"), now + REST);
    queue.push(peer("waits"), Rank::Addition, now);
    queue.clear();
    assert_eq!(queue.next(now), Next::Nothing);
    queue.push(peer("rests"), Rank::Addition, now);
    queue.push(peer("under way"), Rank::Addition, now);
    assert_eq!(drain(&mut queue, now), [peer("rests")]);
    assert_eq!(turn, Next::Turn(peer("under way")));
    queue.done(&peer("under way"));
    assert_eq!(drain(&mut queue, now), [peer("under way")]);
}
