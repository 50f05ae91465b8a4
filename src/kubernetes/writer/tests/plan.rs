use std::time::Duration;

use super::super::change::Change;
use super::super::plan::{Look, Plan};
use super::super::target::Rank;
use super::fixtures::{
    desired, existing, import, imported, key, pod_service, proxied, service, whole,
};
use crate::clock;
use crate::model::{Callee, ClusterId, HostLabel, PodName};
use crate::objects::{
    Desired, Kept, LABEL_SLICE_SERVICE, LABEL_SOURCE_CLUSTER, McsVersion, Object, SERVICE_LINGERS,
    derived_name_of,
};

#[test]
fn what_differs_and_how_urgent_it_is() {
    let (web, now) = (key("shop/web"), clock::now());
    let recorded = existing(&service(&web, "tcp-80=20001"));
    let changed: Vec<Object> = vec![
        service(&web, "tcp-80=20002"),
        import(&web, &["paris"]),
        proxied(&web, &["10.1.0.9"]),
        imported(&web, &["10.1.0.9"]),
    ];
    let ranks = [Rank::Addition, Rank::Status, Rank::Switch, Rank::Addition];
    for (there, rank) in changed.iter().zip(ranks) {
        let mut plan = Plan::default();
        plan.accept(desired(&web, whole(&web)), now);
        let id = there.id();
        let there = existing(there);
        let look = plan.look(&web, &id, Some(&there), Some(&recorded), now);
        assert_eq!(look.place(), Some((rank, now)), "{id} differs");
        let same = existing(plan.object(&web, &id).unwrap());
        assert_eq!(plan.look(&web, &id, Some(&same), Some(&recorded), now), Look::Settled, "{id}");
        let look = plan.look(&web, &id, None, Some(&recorded), now);
        assert!(matches!(look, Look::Change(Change::Create(_), _)), "{id} is missing");

        plan.accept(desired(&web, Vec::new()), now);
        let look = plan.look(&web, &id, Some(&there), Some(&recorded), now);
        assert_eq!(look.place().unwrap().0, Rank::Removal, "{id} is too much");
        let going = crate::kubernetes::Existing { deleting: true, ..there };
        assert_eq!(plan.look(&web, &id, Some(&going), None, now), Look::Settled, "{id} is going");
    }
}

#[test]
fn slices_follow_the_service_and_wait_for_no_change_of_it() {
    let (web, now) = (key("shop/web"), clock::now());
    let mut plan = Plan::default();
    plan.accept(desired(&web, whole(&web)), now);
    let slice = proxied(&web, &["10.1.0.9"]);
    let before = existing(&service(&web, "tcp-80=20002"));
    for there in [None, Some(&existing(&slice))] {
        assert_eq!(plan.look(&web, &slice.id(), there, None, now), Look::Blocked);
        // A change of the Service that is refused must not keep dead pods in its slices.
        assert!(plan.look(&web, &slice.id(), there, Some(&before), now).place().is_some());
    }
    // One that nobody wants does not wait.
    plan.accept(desired(&web, vec![service(&web, "tcp-80=20001")]), now);
    let there = existing(&slice);
    let look = plan.look(&web, &slice.id(), Some(&there), Some(&before), now);
    assert_eq!(look.place(), Some((Rank::Removal, now)));
    // Headless names have no derived Service.
    plan.accept(desired(&web, vec![imported(&web, &["10.1.0.1"])]), now);
    let look = plan.look(&web, &imported(&web, &[]).id(), None, None, now);
    assert_eq!(look.place(), Some((Rank::Addition, now)));
}

#[test]
fn the_derived_service_lingers_and_what_is_unknown_is_left_alone() {
    let (web, now) = (key("shop/web"), clock::now());
    let mut plan = Plan::default();
    let derived = service(&web, "tcp-80=20001");
    let there = existing(&derived);
    assert_eq!(plan.look(&web, &derived.id(), Some(&there), None, now), Look::Settled);

    let second = Duration::from_secs(1);
    plan.accept(desired(&web, whole(&web)), now);
    plan.accept(desired(&web, Vec::new()), now + second);
    // Said again, it does not linger longer.
    plan.accept(desired(&web, Vec::new()), now + 20 * second);
    let look = plan.look(&web, &derived.id(), Some(&there), None, now + 20 * second);
    assert_eq!(look.place(), Some((Rank::Removal, now + second + SERVICE_LINGERS)));
    plan.accept(desired(&web, whole(&web)), now + 25 * second);
    assert_eq!(plan.look(&web, &derived.id(), Some(&there), None, now), Look::Settled);
    plan.accept(desired(&web, Vec::new()), now + 26 * second);
    let look = plan.look(&web, &derived.id(), Some(&there), None, now);
    assert_eq!(look.place(), Some((Rank::Removal, now + 26 * second + SERVICE_LINGERS)));

    plan.begin(now + 40 * second);
    let look = plan.look(&web, &derived.id(), Some(&there), None, now);
    assert_eq!(look.place(), Some((Rank::Removal, now + 40 * second + SERVICE_LINGERS)));

    plan.tidy(now + 600 * second);
    assert_eq!(plan.keys().count(), 1);
    plan.tidy(now + 700 * second);
    assert_eq!(plan.keys().count(), 0);
}

#[test]
fn services_of_pods_go_though_their_name_was_old_when_its_last_export_went() {
    let (web, now) = (key("shop/web"), clock::now());
    let second = Duration::from_secs(1);
    let zero = pod_service(&web, "db-0");
    let mut plan = Plan::default();
    plan.accept(desired(&web, vec![zero.clone()]), now);
    plan.accept(desired(&web, Vec::new()), now + 700 * second);
    plan.tidy(now + 705 * second);
    let there = existing(&zero);
    let look = plan.look(&web, &zero.id(), Some(&there), None, now + 731 * second);
    assert_eq!(look.place(), Some((Rank::Removal, now + 700 * second + SERVICE_LINGERS)));
}

#[test]
fn services_of_pods_linger_one_by_one_and_hold_nothing_up() {
    let (web, now) = (key("shop/web"), clock::now());
    let second = Duration::from_secs(1);
    let (zero, one) = (pod_service(&web, "db-0"), pod_service(&web, "db-1"));
    let mut plan = Plan::default();
    plan.accept(desired(&web, vec![zero.clone(), one.clone()]), now);
    assert_eq!(plan.service(&web), None, "slices wait for none of them");
    plan.accept(desired(&web, vec![one.clone()]), now + second);
    plan.accept(desired(&web, vec![one.clone()]), now + 20 * second);
    let goes = |plan: &Plan, object: &Object| {
        let there = existing(object);
        plan.look(&web, &object.id(), Some(&there), None, now + 20 * second).place()
    };
    assert_eq!(goes(&plan, &zero), Some((Rank::Removal, now + second + SERVICE_LINGERS)));
    assert_eq!(goes(&plan, &one), None);
    // It is back in time, with its address.
    plan.accept(desired(&web, vec![zero.clone(), one.clone()]), now + 25 * second);
    assert_eq!(goes(&plan, &zero), None);
    plan.accept(desired(&web, vec![one.clone()]), now + 26 * second);
    assert_eq!(goes(&plan, &zero), Some((Rank::Removal, now + 26 * second + SERVICE_LINGERS)));

    // Another leader found it, and does not know since when.
    let mut other = Plan::default();
    other.accept(desired(&web, vec![one]), now);
    other.begin(now + 40 * second);
    assert_eq!(goes(&other, &zero), Some((Rank::Removal, now + 40 * second + SERVICE_LINGERS)));
}

#[test]
fn every_request_but_a_creation_carries_uid_and_version() {
    let web = key("shop/web");
    for object in whole(&web) {
        let there = existing(&object);
        let id = object.id();
        let mut calls = vec![Change::Replace(&object, &there).call(&id, McsVersion::V1beta1)];
        if object.status_json().is_some() {
            let call = Change::Status(&object, &there).call(&id, McsVersion::V1beta1);
            assert!(call.path.ends_with("/web/status"), "{}", call.path);
            calls.push(call);
        }
        for call in calls {
            assert_eq!(call.body["metadata"]["uid"], "uid-1", "{id}");
            assert_eq!(call.body["metadata"]["resourceVersion"], "7", "{id}");
            assert!(call.body["spec"]["clusterIP"].is_null(), "{id}: never the address");
        }
        let delete = Change::Delete(&there).call(&id, McsVersion::V1beta1);
        assert_eq!(delete.body["preconditions"]["uid"], "uid-1", "{id}");
        assert_eq!(delete.body["preconditions"]["resourceVersion"], "7", "{id}");
        let create = Change::Create(&object).call(&id, McsVersion::V1alpha1);
        assert!(create.body["metadata"]["resourceVersion"].is_null(), "{id}");
        if matches!(object, Object::Import(_)) {
            assert_eq!(create.body["apiVersion"], "multicluster.x-k8s.io/v1alpha1");
            assert!(create.path.starts_with("/apis/multicluster.x-k8s.io/v1alpha1/"));
        }
    }
}

#[test]
fn what_may_be_of_an_unheard_peer_stays_while_others_go_on() {
    let (web, now) = (key("shop/web"), clock::now());
    let mut plan = Plan::default();
    let [stays, goes] = ["tokyo", "oregon"].map(|cluster| PodName {
        cluster: ClusterId::parse(cluster).unwrap(),
        hostname: HostLabel::parse("db-0").unwrap(),
    });
    let named = |pod: &PodName| derived_name_of(&Callee::pod(web.clone(), pod.clone()));
    let service_of = |pod: &PodName| {
        let Object::Service(mut service) = pod_service(&web, "db-0") else { unreachable!() };
        service.meta.name = named(pod).into();
        Object::Service(service)
    };
    let slice_of = |label: &str, value: &str| {
        let Object::Slice(mut slice) = imported(&web, &["10.1.0.1"]) else { unreachable!() };
        slice.meta.labels = [(label.into(), value.into())].into();
        Object::Slice(slice)
    };
    let kept = Kept::of(&web, [&stays]);
    let wanted = desired(&web, vec![import(&web, &["oregon"]), pod_service(&web, "db-1")]);
    plan.accept(Desired { kept: kept.clone(), ..wanted.clone() }, now);
    let of = |pod: &PodName| {
        [
            service_of(pod),
            slice_of(LABEL_SLICE_SERVICE, &named(pod)),
            slice_of(LABEL_SOURCE_CLUSTER, pod.cluster.as_str()),
        ]
    };
    let place = |plan: &Plan, object: &Object, now| {
        plan.look(&web, &object.id(), Some(&existing(object)), None, now).place()
    };
    for object in of(&stays) {
        assert_eq!(place(&plan, &object, now), None, "{}", object.id());
    }
    for object in of(&goes) {
        let (rank, _) = place(&plan, &object, now).unwrap();
        assert_eq!(rank, Rank::Removal, "{}", object.id());
    }
    let added = pod_service(&web, "db-1");
    assert!(plan.look(&web, &added.id(), None, None, now).place().is_some());

    // Its peer has told that it has them no more: they go as others do, not sooner.
    let later = now + 10 * SERVICE_LINGERS;
    plan.accept(wanted.clone(), later);
    let [service, proxied, imported] = of(&stays);
    assert_eq!(place(&plan, &service, later), Some((Rank::Removal, later + SERVICE_LINGERS)));
    assert_eq!(place(&plan, &proxied, later), Some((Rank::Removal, later)));
    assert_eq!(place(&plan, &imported, later), Some((Rank::Removal, later)));

    let named_by = |desired: Desired| match desired.keeping(kept.clone()).objects.remove(0) {
        Object::Import(import) => import.status.clusters.into_iter().collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(named_by(wanted).len(), 2, "the import names the unheard cluster still");
}
