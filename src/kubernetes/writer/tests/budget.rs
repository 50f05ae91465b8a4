//! What the budget lets through, on the bench's own clock and without a server.

use std::sync::Arc;
use std::time::Duration;

use super::super::desk::Turn;
use super::super::job::{Aim, Ended, Outcome};
use super::super::target::Target;
use super::bench::Bench;
use super::fixtures::{desired, key, proxied, service};
use crate::kubernetes::Existing;
use crate::model::ServiceKey;

/// Writes until nothing is left, as if each request took no time; when each was sent.
fn write_out(bench: &mut Bench) -> Vec<(Duration, Target)> {
    let begun = bench.now;
    let mut sent = Vec::new();
    loop {
        match bench.desk.turn(bench.now) {
            Turn::Send(target, job, _) => {
                sent.push((bench.now - begun, target.clone()));
                let (Target::Object(id), Aim::Object(wanted)) = (&target, &job.aim) else {
                    panic!("only objects are written here");
                };
                let before = bench.mirror.get(id).and_then(|of| of.version.parse::<u64>().ok());
                let version = before.map_or(1, |before| before + 1);
                let existing = Existing {
                    uid: "uid-1".into(),
                    version: version.to_string().into(),
                    object: Arc::clone(wanted),
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

#[tokio::test]
async fn a_thousand_switches_fit_into_the_budget_and_come_before_a_thousand_new_names() {
    let mut bench = Bench::start().await;
    let names = names();
    for name in &names {
        let objects = vec![service(name, ""), proxied(name, &["10.1.0.1"])];
        bench.desk.accept(desired(name, objects), bench.now);
    }
    let made = write_out(&mut bench);
    assert_eq!(made.len(), 2_000);
    assert_eq!(made.last().unwrap().0, Duration::from_millis(7_500));

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
    let slices = switched.iter().take_while(|(_, target)| {
        matches!(target, Target::Object(id) if id.kind == crate::objects::Kind::Slice)
    });
    let last = slices.last().unwrap().0;
    assert_eq!(last, Duration::from_millis(2_500), "a burst of 500, then 200 a second");
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
