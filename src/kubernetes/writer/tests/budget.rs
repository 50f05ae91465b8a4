//! What the budget lets through, on the bench's own clock and without a server.

use std::sync::Arc;
use std::time::Duration;

use super::super::desk::Turn;
use super::super::job::{Aim, Ended, Outcome};
use super::super::target::Target;
use super::bench::Bench;
use super::fixtures::{desired, import, imported, key, proxied, service};
use crate::catalog::IpFamily;
use crate::kubernetes::{Existing, MAX_IN_FLIGHT};
use crate::model::ServiceKey;
use crate::objects::{ImportStatus, Kind, Object};

/// Writes until nothing is left, as if each request took no time; when each was sent.
fn write_out(bench: &mut Bench) -> Vec<(Duration, Target)> {
    let begun = bench.now;
    let mut sent = Vec::new();
    loop {
        match bench.desk.turn(bench.now) {
            Turn::Send(target, job, _) => {
                sent.push((bench.now - begun, target.clone()));
                let (Target::Object(id), Aim::Object(wanted) | Aim::WithStatus(wanted)) =
                    (&target, &job.aim)
                else {
                    panic!("only objects are written here");
                };
                let before = bench.mirror.get(id).and_then(|of| of.version.parse::<u64>().ok());
                let version = before.map_or(1, |before| before + 1);
                // A creation does not take the status.
                let mut object = Object::clone(wanted);
                if let (Object::Import(import), Aim::Object(_)) = (&mut object, &job.aim) {
                    import.status = ImportStatus::default();
                }
                let existing = Existing {
                    uid: "uid-1".into(),
                    version: version.to_string().into(),
                    object: Arc::new(object),
                    deleting: false,
                };
                let outcome = Outcome::Written(Some(existing));
                let ended = Ended { target, aim: job.aim, uid: job.uid, outcome };
                bench.desk.finish(ended, bench.now);
            }
            Turn::At(Some(moment)) => {
                let wait = moment.saturating_duration_since(bench.now);
                bench.pass(wait);
            }
            Turn::At(None) => return sent,
        }
    }
}

fn names() -> Vec<ServiceKey> {
    (0..1_000).map(|number| key(&format!("shop/web-{number}"))).collect()
}

/// The same slice in the other family.
fn in_v6(slice: Object, address: &str) -> Object {
    let Object::Slice(mut slice) = slice else { panic!("a slice") };
    slice.meta.name = format!("{}-v6", slice.meta.name).into();
    slice.family = IpFamily::V6;
    slice.endpoints.truncate(1);
    slice.endpoints[0].addresses = vec![address.parse().unwrap()];
    Object::Slice(slice)
}

/// All that a name of two families has, led to the gateway pod of this number.
fn dual_stack(name: &ServiceKey, gateway: u16) -> Vec<Object> {
    let (v4, v6) = (format!("10.9.0.{gateway}"), format!("fd00::{gateway}"));
    vec![
        service(name, "tcp-80=20001"),
        import(name, &["oregon"]),
        proxied(name, &[&v4]),
        in_v6(proxied(name, &[&v4]), &v6),
        imported(name, &[&v4]),
        in_v6(imported(name, &[&v4]), &v6),
    ]
}

fn feeds_proxy(target: &Target) -> bool {
    matches!(target, Target::Object(id) if id.kind == Kind::Slice && id.name.contains("-tcp-80"))
}

#[tokio::test]
async fn a_thousand_imports_of_two_families_fit_into_15_s_and_their_switches_into_6_s() {
    let mut bench = Bench::start().await;
    let names = names();
    for name in &names {
        bench.desk.accept(desired(name, dual_stack(name, 1)), bench.now);
    }
    let made = write_out(&mut bench);
    assert_eq!(made.len(), 7_000);
    assert_eq!(made.last().unwrap().0, Duration::from_millis(12_500));

    // Other pods of the gateway: every slice, and nothing else.
    bench.pass(Duration::from_secs(60));
    for name in &names {
        bench.desk.accept(desired(name, dual_stack(name, 2)), bench.now);
    }
    let rewritten = write_out(&mut bench);
    assert_eq!(rewritten.len(), 4_000);
    let switched = rewritten.iter().take_while(|(_, target)| feeds_proxy(target));
    let (at, count) = switched.fold((Duration::ZERO, 0), |(_, count), (at, _)| (*at, count + 1));
    assert_eq!((at, count), (Duration::ZERO, 2_000), "first what connections take, all at once");
    assert_eq!(rewritten.last().unwrap().0, Duration::from_secs(5));
}

#[tokio::test]
async fn switches_come_before_new_names() {
    let mut bench = Bench::start().await;
    let names = names();
    for name in &names {
        let objects = vec![service(name, ""), proxied(name, &["10.1.0.1"])];
        bench.desk.accept(desired(name, objects), bench.now);
    }
    assert_eq!(write_out(&mut bench).len(), 2_000);

    bench.pass(Duration::from_secs(60));
    for name in &names {
        let new = key(&format!("new/{}", name.name));
        bench.desk.accept(desired(&new, vec![service(&new, "")]), bench.now);
    }
    for name in &names {
        let objects = vec![service(name, ""), proxied(name, &["10.9.0.1"])];
        bench.desk.accept(desired(name, objects), bench.now);
    }
    let switched = write_out(&mut bench);
    assert_eq!(switched.len(), 2_000);
    assert!(switched[..1_000].iter().all(|(_, target)| feeds_proxy(target)));
}

#[tokio::test]
async fn the_addresses_of_a_silent_sibling_leave_two_thousand_slices_at_once_and_no_others() {
    let mut bench = Bench::start().await;
    let names = names();
    for name in &names {
        let slices = vec![
            proxied(name, &["10.1.0.1", "10.1.0.2"]),
            in_v6(proxied(name, &["10.1.0.1"]), "fd00::2"),
        ];
        bench.desk.accept(desired(name, slices), bench.now);
    }
    write_out(&mut bench);
    bench.lead(false);
    bench.pass(Duration::from_secs(60));
    bench.desk.withdraw(&["10.1.0.1".parse().unwrap()], bench.now);
    let mut under_way = Vec::new();
    while let Turn::Send(target, job, _) = bench.desk.turn(bench.now) {
        under_way.push((target, job));
    }
    assert_eq!(under_way.len(), MAX_IN_FLIGHT, "several at a time, but not all");
    for (target, job) in under_way {
        let ended = Ended { target, aim: job.aim, uid: job.uid, outcome: Outcome::Missing };
        bench.desk.finish(ended, bench.now);
    }
    let rest = write_out(&mut bench);
    assert_eq!(rest.len(), names.len() - MAX_IN_FLIGHT, "those of the other family stay");
    assert_eq!(rest.last().unwrap().0, Duration::ZERO);
}

#[tokio::test]
async fn whatever_changes_meanwhile_only_the_last_state_is_written() {
    let mut bench = Bench::start().await;
    let names = names();
    for round in 1..=5 {
        for name in &names {
            let slice = proxied(name, &[&format!("10.1.0.{round}")]);
            bench.desk.accept(desired(name, vec![slice]), bench.now);
        }
    }
    let sent = write_out(&mut bench);
    assert_eq!(sent.len(), names.len());
    for name in &names {
        let there = bench.mirror.get(&proxied(name, &[]).id()).unwrap();
        assert_eq!(*there.object, proxied(name, &["10.1.0.5"]));
    }
}
