use super::*;
use crate::peering::convert::{endpoint_record, export_record};
use crate::peering::fixtures::{headless, key, plain};

fn records(export: &Export) -> Vec<Bytes> {
    let tails = export.endpoints.iter().map(|endpoint| endpoint_record(&export.key, endpoint));
    std::iter::once(export_record(export)).chain(tails).collect()
}

fn add(mirror: &mut Mirror, export: &Export) {
    for record in records(export) {
        let added = mirror.add(&record).unwrap();
        assert_eq!(added, Added::Held { skipped_fields: false });
    }
}

fn export(mirror: &Mirror, name: &str) -> Option<Export> {
    mirror.entries().get(&key(name)).and_then(|entry| entry.export()).map(|e| Export::clone(e))
}

#[test]
fn services_and_endpoints_come_together_in_any_order() {
    let db = headless("shop/db", &["10.0.0.2", "10.0.0.1"]);
    let mut forward = Mirror::default();
    let mut backward = Mirror::default();
    for record in &records(&db) {
        forward.add(record).unwrap();
    }
    for record in records(&db).iter().rev() {
        backward.add(record).unwrap();
    }
    forward.settle();
    backward.settle();
    assert_eq!(export(&forward, "shop/db"), Some(db.clone()));
    assert_eq!(export(&backward, "shop/db"), Some(db));
    assert_eq!(forward.digest(), backward.digest());
}

#[test]
fn what_is_removed_leaves_nothing_behind() {
    let mut mirror = Mirror::default();
    let web = plain("shop/web", 1);
    add(&mut mirror, &web);
    mirror.settle();
    let before = mirror.digest();
    let db = headless("shop/db", &["10.0.0.1", "10.0.0.2"]);
    add(&mut mirror, &db);
    mirror.settle();
    for record in records(&db) {
        assert!(mirror.remove(Some(&db.key), RecordHash::of(&record)));
        assert!(!mirror.remove(Some(&db.key), RecordHash::of(&record)), "it is gone");
    }
    mirror.settle();
    assert_eq!(mirror.digest(), before);
    assert_eq!(mirror.entries().len(), 1);
    assert_eq!((mirror.services, mirror.endpoints), (1, 0));
    assert_eq!(mirror.bytes, export_record(&web).len());
}

#[test]
fn a_shared_copy_does_not_change() {
    let mut mirror = Mirror::default();
    add(&mut mirror, &headless("shop/db", &["10.0.0.1"]));
    mirror.settle();
    let shared = mirror.clone();
    let more = headless("shop/db", &["10.0.0.7"]);
    mirror.add(&endpoint_record(&more.key, &more.endpoints[0])).unwrap();
    mirror.settle();
    assert_eq!(export(&mirror, "shop/db").unwrap().endpoints.len(), 2);
    assert_eq!(export(&shared, "shop/db").unwrap().endpoints.len(), 1);
}

#[test]
fn refused_records_count_for_the_digest_and_for_nothing_else() {
    let mut mirror = Mirror::default();
    let bad = Bytes::from_static(b"no record");
    assert!(matches!(mirror.add(&bad), Ok(Added::Refused(_))));
    assert!(matches!(mirror.add(&bad), Ok(Added::Refused(_))), "twice is once");
    assert_eq!(mirror.digest().to_bytes(), RecordHash::of(&bad).to_bytes());
    assert_eq!(mirror.entries().len(), 0);
    assert!(mirror.remove(None, RecordHash::of(&bad)));
    assert_eq!(mirror.digest(), CatalogDigest::default());
    assert_eq!(mirror.bytes, 0);
}

#[test]
fn endpoints_without_their_service_wait_for_it() {
    let mut mirror = Mirror::default();
    let db = headless("shop/db", &["10.0.0.1"]);
    mirror.add(&endpoint_record(&db.key, &db.endpoints[0])).unwrap();
    mirror.settle();
    assert_eq!(export(&mirror, "shop/db"), None);
    mirror.add(&export_record(&db)).unwrap();
    mirror.settle();
    assert_eq!(export(&mirror, "shop/db"), Some(db));
}

#[test]
fn of_contradicting_records_the_same_one_is_taken_in_any_order() {
    let (one, two) = (plain("shop/web", 1), plain("shop/web", 2));
    let mut forward = Mirror::default();
    add(&mut forward, &one);
    add(&mut forward, &two);
    forward.settle();
    let mut backward = Mirror::default();
    add(&mut backward, &two);
    add(&mut backward, &one);
    backward.settle();
    assert_eq!(export(&forward, "shop/web"), export(&backward, "shop/web"));
}

#[test]
fn sessions_share_one_budget() {
    let budget = Budget::default();
    let mut one = Charge::new(budget.clone());
    let mut two = Charge::new(budget.clone());
    one.set(BUDGET_BYTES - 10).unwrap();
    two.set(10).unwrap();
    assert_eq!(two.set(11), Err(OverCap::Together(BUDGET_BYTES)));
    two.set(5).unwrap();
    one.set(BUDGET_BYTES - 5).unwrap();
    drop(one);
    two.set(BUDGET_BYTES).unwrap();
    drop(two);
    assert_eq!(budget.0.load(Ordering::Relaxed), 0);
}

#[test]
fn nothing_is_added_over_a_cap() {
    let caps = Caps { services: 2, endpoints: 2, bytes: 10_000 };
    let mut mirror = Mirror::new(caps);
    add(&mut mirror, &plain("shop/a", 1));
    add(&mut mirror, &headless("shop/b", &["10.0.0.1", "10.0.0.2"]));
    let before = mirror.digest();
    assert_eq!(mirror.add(&export_record(&plain("shop/c", 1))), Err(OverCap::Services(2)));
    let more = headless("shop/b", &["10.0.0.3"]);
    let record = endpoint_record(&more.key, &more.endpoints[0]);
    assert_eq!(mirror.add(&record), Err(OverCap::Endpoints(2)));
    assert_eq!(mirror.digest(), before);
    let mut small = Mirror::new(Caps { bytes: 10, ..caps });
    assert_eq!(small.add(&export_record(&plain("shop/a", 1))), Err(OverCap::Bytes(10)));
    assert_eq!(small.add(&Bytes::from_static(b"eleven octs")), Err(OverCap::Bytes(10)));
    let mut junk = Mirror::new(caps);
    for record in [&b"a"[..], b"b", b"c", b"d"] {
        assert!(junk.add(&Bytes::from_static(record)).is_ok());
    }
    assert!(junk.add(&Bytes::from_static(b"e")).is_err(), "refused records are bounded too");
}
