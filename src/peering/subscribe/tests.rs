use super::*;
use crate::catalog::LocalCatalog;
use crate::peering::fixtures::{cluster, headless, key, open_catalog, plain};
use crate::peering::view::View;
use crate::wire::control::{Digest, Drain, Same, SnapshotBegin, Synced, chunks};

fn metrics() -> Metrics {
    Metrics::register(&prometheus::Registry::new()).unwrap()
}

fn intake(caps: Caps) -> Intake {
    Intake::new(caps, Charge::new(Budget::default()), None, 0, cluster("oregon"), metrics())
}

fn view(local: &LocalCatalog) -> View {
    View::of(local, &cluster("paris"))
}

/// The messages of a whole catalog.
fn snapshot(local: &LocalCatalog) -> Vec<Body> {
    let view = view(local);
    let revision = local.revision;
    let begin = Body::SnapshotBegin(SnapshotBegin { revision });
    let pieces =
        chunks(view.records()).map(|records| Body::SnapshotChunk(SnapshotChunk { records }));
    let digest = view.digest().to_bytes();
    let end = Body::SnapshotEnd(SnapshotEnd { revision, digest });
    std::iter::once(begin).chain(pieces).chain([end]).collect()
}

/// The messages from one catalog to the next.
fn change(from: &LocalCatalog, to: &LocalCatalog) -> Vec<Body> {
    let mut view = view(from);
    let mut change = view.advance(to, &cluster("paris"));
    std::iter::from_fn(|| change.next_part(&mut view).map(Body::Delta)).collect()
}

/// Takes all but the last without a step, and gives the last one's.
fn take(intake: &mut Intake, mut bodies: Vec<Body>) -> Step {
    let last = bodies.pop().unwrap();
    for body in bodies {
        assert!(matches!(intake.take(body).unwrap(), Step::Wait));
    }
    intake.take(last).unwrap()
}

fn held(step: Step) -> (Arc<Mirror>, u64) {
    match step {
        Step::Tell(News::Holds(mirror, revision)) => (mirror, revision),
        other => panic!("{other:?}"),
    }
}

fn web(revision: u64, ready: u32) -> LocalCatalog {
    open_catalog(revision, vec![plain("shop/web", ready)])
}

fn digest_of(local: &LocalCatalog) -> Body {
    let digest = view(local).digest().to_bytes();
    Body::Digest(Digest { digest, revision: local.revision })
}

#[test]
fn a_snapshot_takes_effect_when_it_is_complete() {
    let mut intake = intake(Caps::default());
    let (mirror, revision) = held(take(&mut intake, snapshot(&web(7, 1))));
    assert_eq!(revision, 7);
    assert!(mirror.entries().contains_key(&key("shop/web")));
    let (mirror, _) = held(take(&mut intake, change(&web(7, 1), &web(8, 2))));
    let export = mirror.entries()[&key("shop/web")].export().unwrap();
    assert_eq!(export.ports[0].ready, 2);
    assert!(matches!(intake.take(digest_of(&web(8, 2))).unwrap(), Step::Wait), "no drift");
}

#[test]
fn the_same_digest_goes_on_from_what_is_held() {
    let (mirror, _) = held(take(&mut intake(Caps::default()), snapshot(&web(7, 1))));
    let digest = mirror.digest().to_bytes();
    let held_before = Some(Arc::clone(&mirror));
    let charge = Charge::new(Budget::default());
    let mut intake =
        Intake::new(Caps::default(), charge, held_before, 7, cluster("oregon"), metrics());
    let same = Body::Same(Same { digest, revision: 2 });
    let (resumed, revision) = held(intake.take(same).unwrap());
    assert!(Arc::ptr_eq(&mirror, &resumed));
    assert_eq!(revision, 2, "a restarted publisher counts anew");
    held(take(&mut intake, change(&web(2, 1), &web(3, 2))));
    let other = Body::Same(Same { digest: Bytes::from_static(&[9; 32]), revision: 4 });
    assert!(intake.take(other).is_err());
}

#[test]
fn drift_is_noticed_by_the_next_digest() {
    let mut intake = intake(Caps::default());
    held(take(&mut intake, snapshot(&web(1, 1))));
    assert!(matches!(intake.take(digest_of(&web(2, 2))).unwrap(), Step::Resubscribe));
    assert!(matches!(intake.take(digest_of(&web(2, 2))).unwrap(), Step::Wait), "asked already");
    held(take(&mut intake, snapshot(&web(2, 2))));
}

#[test]
fn a_change_that_does_not_fit_is_not_believed() {
    let mut intake = intake(Caps::default());
    held(take(&mut intake, snapshot(&web(1, 1))));
    // From a catalog that we never held.
    let step = take(&mut intake, change(&web(2, 5), &web(3, 6)));
    assert!(matches!(step, Step::Resubscribe));
}

#[test]
fn a_snapshot_that_is_not_its_digest_ends_the_session() {
    let mut messages = snapshot(&web(1, 1));
    messages.pop();
    let mut intake = intake(Caps::default());
    for body in messages {
        intake.take(body).unwrap();
    }
    let end = SnapshotEnd { revision: 1, digest: Bytes::from_static(&[1; 32]) };
    assert!(intake.take(Body::SnapshotEnd(end)).is_err());
}

#[test]
fn s18_an_older_or_repeated_change_is_refused() {
    let mut intake = intake(Caps::default());
    held(take(&mut intake, snapshot(&web(5, 1))));
    let newer = change(&web(5, 1), &web(6, 2));
    held(take(&mut intake, newer.clone()));
    assert!(matches!(take(&mut intake, newer), Step::Wait), "the same again");
    let older = change(&web(4, 2), &web(5, 1));
    assert!(matches!(take(&mut intake, older), Step::Wait));
    assert_eq!(intake.mirror.digest(), view(&web(6, 2)).digest());
}

#[test]
fn n10_changes_twice_and_in_any_order_never_lead_back() {
    let states: Vec<_> = (5..9).map(|n| web(n, u32::try_from(n).unwrap())).collect();
    let digests: Vec<_> = states.iter().map(|state| view(state).digest()).collect();
    let changes: Vec<_> = states.windows(2).map(|w| change(&w[0], &w[1])).collect();
    for first in 0..3 {
        for second in 0..3 {
            for third in 0..3 {
                let mut intake = intake(Caps::default());
                held(take(&mut intake, snapshot(&states[0])));
                let mut reached = 0;
                for which in [first, second, third, first, second, third] {
                    let step = take(&mut intake, changes[which].clone());
                    if matches!(step, Step::Resubscribe) {
                        // It does not fit; a whole snapshot is asked for.
                        break;
                    }
                    let now = digests.iter().position(|d| *d == intake.mirror.digest());
                    let now = now.expect("one of the publisher's states");
                    assert!(now >= reached, "{first} {second} {third}: back from {reached}");
                    reached = now;
                }
            }
        }
    }
}

#[test]
fn s15_over_a_cap_it_waits_for_something_that_fits() {
    let caps = Caps { services: 2, ..Caps::default() };
    let many = |revision, count: u32| {
        open_catalog(revision, (0..count).map(|n| plain(&format!("shop/s{n}"), 1)).collect())
    };
    let over = |step| assert!(matches!(step, Step::Tell(News::Over(OverCap::Services(2)))));
    let mut fresh = intake(caps);
    over(take(&mut fresh, snapshot(&many(1, 3))));
    assert!(matches!(fresh.take(digest_of(&many(1, 3))).unwrap(), Step::Wait), "it is no smaller");
    assert!(matches!(fresh.take(digest_of(&many(2, 2))).unwrap(), Step::Resubscribe));
    held(take(&mut fresh, snapshot(&many(2, 2))));
    // And in the midst of changes.
    let (good, _) = held(take(&mut fresh, change(&many(2, 2), &many(3, 1))));
    over(take(&mut fresh, change(&many(3, 1), &many(4, 5))));
    assert_eq!(good.digest(), view(&many(3, 1)).digest(), "what was handed out did not change");
    assert!(matches!(take(&mut fresh, change(&many(4, 5), &many(5, 1))), Step::Wait));
    assert!(matches!(fresh.take(digest_of(&many(5, 1))).unwrap(), Step::Resubscribe));
}

#[test]
fn a_large_change_takes_effect_as_a_whole() {
    let endpoints: Vec<String> =
        (0..3_000_u32).map(|n| format!("10.1.{}.{}", n / 256, n % 256)).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let big = open_catalog(2, vec![plain("shop/web", 2), headless("shop/db", &endpoints)]);
    let mut intake = intake(Caps::default());
    held(take(&mut intake, snapshot(&web(1, 1))));
    let parts = change(&web(1, 1), &big);
    assert!(parts.len() > 2);
    let (mirror, revision) = held(take(&mut intake, parts));
    assert_eq!(revision, 2);
    assert_eq!(mirror.entries()[&key("shop/db")].export().unwrap().endpoints.len(), 3_000);
}

#[test]
fn notices_are_passed_on() {
    let mut intake = intake(Caps::default());
    let synced = intake.take(Body::Synced(Synced { synced: true })).unwrap();
    assert!(matches!(synced, Step::Tell(News::Synced(true))));
    let drain = intake.take(Body::Drain(Drain { draining: true })).unwrap();
    assert!(matches!(drain, Step::Tell(News::Draining(true))));
}

#[test]
fn what_no_publisher_says_ends_the_session() {
    let chunk = || Body::SnapshotChunk(SnapshotChunk { records: Vec::new() });
    let end = || Body::SnapshotEnd(SnapshotEnd::default());
    let subscribe = || Body::Subscribe(Subscribe::default());
    for body in [chunk(), end(), subscribe()] {
        assert!(intake(Caps::default()).take(body).is_err());
    }
}
