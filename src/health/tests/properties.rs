//! What holds for any facts at any times.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::sim::{address, cluster, ms, target};
use crate::health::*;

/// What happens next, on one of two peers, one of two addresses, one of three replicas.
#[derive(Debug, Clone)]
struct Step {
    after: u64,
    peer: usize,
    at: u8,
    replica: u64,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Seen,
    Send(bool),
    /// Answers the newest probe outstanding.
    Answer(u64),
    /// Fails the newest probe outstanding.
    Fail,
    Replied,
    OpenUnanswered,
    Refused,
    Lost,
    Drain(bool),
    Lagged(u64),
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        2 => Just(What::Seen),
        8 => any::<bool>().prop_map(What::Send),
        8 => (1..1_500u64).prop_map(What::Answer),
        2 => Just(What::Fail),
        1 => Just(What::Replied),
        1 => Just(What::OpenUnanswered),
        1 => Just(What::Refused),
        1 => Just(What::Lost),
        1 => any::<bool>().prop_map(What::Drain),
        1 => (0..2_000u64).prop_map(What::Lagged),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..900u64, 0..2usize, 1..3u8, 1..4u64, what())
        .prop_map(|(after, peer, at, replica, what)| Step { after, peer, at, replica, what });
    prop::collection::vec(step, 1..300)
}

const PEERS: [&str; 2] = ["oregon", "tokyo"];

/// The facts of those steps with their times.
fn facts(steps: &[Step], start: Instant) -> Vec<(Instant, Fact)> {
    let mut at = start;
    let mut outstanding: Vec<(Target, ProbeKind, u64)> = Vec::new();
    let mut facts = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        at += ms(step.after);
        let target = target(PEERS[step.peer], step.at, step.replica);
        let (peer, replica) = (target.peer.clone(), target.replica);
        let fact = match step.what {
            What::Seen => Fact::Seen { target, at },
            What::Send(fresh) => {
                let kind = if fresh { ProbeKind::Fresh } else { ProbeKind::Standing };
                let id = n as u64;
                outstanding.push((target.clone(), kind, id));
                Fact::ProbeSent { target, kind, id, at }
            }
            What::Answer(rtt) => {
                let Some((target, kind, id)) = outstanding.pop() else { continue };
                Fact::ProbeAnswered { target, kind, id, at, rtt: ms(rtt) }
            }
            What::Fail => {
                let Some((target, kind, id)) = outstanding.pop() else { continue };
                Fact::ProbeFailed { target, kind, id, at }
            }
            What::Replied => Fact::Replied { target, at },
            What::OpenUnanswered => Fact::OpenUnanswered { target, at },
            What::Refused => {
                let fault = DialFault::Refused;
                Fact::DialFailed { peer, address: address(step.at), fault, at }
            }
            What::Lost => Fact::StandingLost { target, at },
            What::Drain(draining) => Fact::Draining { peer, replica, draining, at },
            What::Lagged(by) => Fact::Lagged { by: ms(by), at },
        };
        facts.push((at, fact));
    }
    facts
}

fn health(start: Instant) -> Health {
    let mut health = Health::new(Config::default());
    health.set_peers(&PEERS.iter().map(|p| cluster(p)).collect(), start);
    health
}

fn states(health: &Health, now: Instant) -> Vec<(PeerState, Instant)> {
    health.views(now).values().map(|view| (view.state, view.since)).collect()
}

/// Ticks at every wake until `end`; each wake must lie after the last, and be rare enough.
fn ticks(health: &mut Health, end: Instant) {
    let mut last: Option<Instant> = None;
    while let Some(due) = health.next_wake().filter(|due| *due <= end) {
        assert!(last.is_none_or(|last| due > last), "a wake that does not progress");
        health.tick(due);
        last = Some(due);
    }
}

fn start() -> Instant {
    crate::clock::now() + Duration::from_secs(3_600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_same_facts_give_the_same_views(steps in steps()) {
        let start = start();
        let (mut one, mut other) = (health(start), health(start));
        for (at, fact) in facts(&steps, start) {
            for health in [&mut one, &mut other] {
                ticks(health, at);
                health.observe(&fact, at);
            }
            prop_assert_eq!(one.views(at), other.views(at));
        }
    }

    #[test]
    fn ticks_between_wakes_change_nothing(steps in steps()) {
        let start = start();
        let (mut rare, mut often) = (health(start), health(start));
        let mut before = start;
        for (at, fact) in facts(&steps, start) {
            ticks(&mut rare, at);
            let mut tick = before + ms(7);
            while tick < at {
                ticks(&mut often, tick);
                let was = states(&often, tick);
                often.tick(tick);
                prop_assert_eq!(was, states(&often, tick));
                tick += ms(50);
            }
            ticks(&mut often, at);
            rare.observe(&fact, at);
            often.observe(&fact, at);
            before = at;
        }
    }

    #[test]
    fn never_up_for_long_while_probed_and_unheard(steps in steps()) {
        let start = start();
        let mut health = health(start);
        let mut now = start;
        for (at, fact) in facts(&steps, start) {
            ticks(&mut health, at);
            health.observe(&fact, at);
            now = at;
        }
        // From here on every known replica is probed and nobody answers.
        let targets: Vec<Target> =
            health.views(now).values().flat_map(|v| &v.replicas).map(|r| r.target.clone()).collect();
        for n in 0..20 {
            let at = now + ms(300) * n;
            ticks(&mut health, at);
            for target in &targets {
                let (target, kind) = (target.clone(), ProbeKind::Standing);
                let id = 1_000_000 + u64::from(n);
                health.observe(&Fact::ProbeSent { target, kind, id, at }, at);
            }
        }
        let end = now + Duration::from_secs(6);
        ticks(&mut health, end);
        for view in health.views(end).values() {
            for replica in &view.replicas {
                prop_assert!(replica.state != PeerState::Up, "{replica:?}");
                prop_assert!(replica.pace == Pace::Quick || replica.state == PeerState::Unknown);
            }
        }
        // Left alone it comes to rest.
        ticks(&mut health, end + Duration::from_secs(600));
    }

    #[test]
    fn views_are_within_their_ranges(steps in steps()) {
        let start = start();
        let mut health = health(start);
        for (at, fact) in facts(&steps, start) {
            ticks(&mut health, at);
            health.observe(&fact, at);
            for view in health.views(at).values() {
                prop_assert!((0.0..=100.0).contains(&view.loss_percent));
                prop_assert!(view.since <= at);
                prop_assert!(view.rtt.is_none_or(|rtt| rtt <= Duration::from_secs(1)));
                prop_assert!(view.replicas.is_sorted_by_key(|r| r.state));
                for replica in &view.replicas {
                    prop_assert!(replica.slow_start > 0.0 && replica.slow_start <= 1.0);
                    let down = replica.state == PeerState::Down;
                    prop_assert!(down || replica.reset_unheard_since.is_none());
                }
                let best = view.replicas.first().map_or(PeerState::Unknown, |r| r.state);
                prop_assert!(view.state == best || view.state == PeerState::Down);
            }
        }
    }
}
