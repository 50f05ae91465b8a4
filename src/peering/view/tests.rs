use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::catalog::ClusterRules;
use crate::peering::fixtures::{catalog, cluster, headless, key, open_catalog, plain};
use crate::peering::mirror::Mirror;
use crate::wire::control::MAX_MESSAGE_BYTES;
use prost::Message;

/// Applies one message as a subscriber does.
fn apply(mirror: &mut Mirror, delta: &Delta) {
    for removal in &delta.removals {
        let key = convert::service_key(&removal.namespace, &removal.name);
        assert!(mirror.remove(key.as_ref(), RecordHash::parse(&removal.hash).unwrap()));
    }
    for record in &delta.upserts {
        mirror.add(record).unwrap();
    }
}

fn mirror_of(view: &View) -> Mirror {
    let mut mirror = Mirror::default();
    for record in view.records() {
        mirror.add(&record).unwrap();
    }
    mirror.settle();
    mirror
}

fn exports(mirror: &Mirror) -> Vec<Export> {
    mirror.entries().values().filter_map(|e| e.export()).map(|e| Export::clone(e)).collect()
}

/// Moves a subscriber from one catalog to the next; the messages it took.
fn follow(from: &LocalCatalog, to: &LocalCatalog) -> Vec<Delta> {
    let subscriber = cluster("paris");
    let mut view = View::of(from, &subscriber);
    let mut mirror = mirror_of(&view);
    assert_eq!(mirror.digest(), view.digest());
    let mut change = view.advance(to, &subscriber);
    let mut parts = Vec::new();
    while let Some(part) = change.next_part(&mut view) {
        assert!(part.encoded_len() < MAX_MESSAGE_BYTES);
        apply(&mut mirror, &part);
        parts.push(part);
    }
    mirror.settle();
    assert_eq!(view.digest(), mirror.digest());
    assert_eq!(view.digest(), View::of(to, &subscriber).digest());
    assert_eq!(exports(&mirror), exports(&mirror_of(&View::of(to, &subscriber))));
    if let Some((last, rest)) = parts.split_last() {
        assert_eq!(last.digest, view.digest().to_bytes());
        assert!(rest.iter().all(|part| part.digest.is_empty()));
    }
    parts
}

#[test]
fn a_subscriber_sees_what_its_cluster_may_import() {
    let only = |names: &[&str]| {
        ClusterRules::Only(names.iter().map(|name| cluster(name)).collect::<BTreeSet<_>>())
    };
    let local = catalog(
        1,
        vec![
            (plain("shop/all", 1), ClusterRules::Any),
            (plain("shop/paris", 1), only(&["paris", "oregon"])),
            (plain("shop/tokyo", 1), only(&["tokyo"])),
            (plain("shop/nobody", 1), only(&[])),
        ],
    );
    let seen = |name: &str| {
        let mirror = mirror_of(&View::of(&local, &cluster(name)));
        mirror.entries().keys().map(|key| key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(seen("paris"), ["all", "paris"]);
    assert_eq!(seen("tokyo"), ["all", "tokyo"]);
    assert_eq!(seen("lima"), ["all"]);
}

#[test]
fn one_changed_endpoint_is_two_small_records() {
    let before = open_catalog(1, vec![headless("shop/db", &["10.0.0.1", "10.0.0.2"])]);
    let mut after = headless("shop/db", &["10.0.0.1", "10.0.0.2"]);
    after.endpoints[1].address = "10.0.0.3".parse().unwrap();
    let parts = follow(&before, &open_catalog(2, vec![after]));
    assert_eq!(parts.len(), 1);
    assert_eq!((parts[0].removals.len(), parts[0].upserts.len()), (1, 1));
    assert_eq!(parts[0].revision, 2);
}

#[test]
fn a_change_that_concerns_others_is_not_told() {
    let hidden = |ready| (plain("shop/x", ready), ClusterRules::Only(BTreeSet::new()));
    let parts = follow(&catalog(1, vec![hidden(1)]), &catalog(2, vec![hidden(2)]));
    assert_eq!(parts, []);
}

#[test]
fn a_policy_that_closes_removes_the_service() {
    let open = |rules| catalog(1, vec![(headless("shop/x", &["10.0.0.1"]), rules)]);
    let parts = follow(&open(ClusterRules::Any), &open(ClusterRules::Only(BTreeSet::new())));
    assert_eq!(parts[0].removals.len(), 2);
}

#[test]
fn a_large_change_comes_in_pieces() {
    let endpoints: Vec<String> =
        (0..4_000_u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string()).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let services = (0..1_000).map(|n| plain(&format!("shop/s{n}"), 1));
    let all = services.chain([headless("shop/big", &endpoints)]).collect();
    let (empty, whole) = (open_catalog(1, Vec::new()), open_catalog(2, all));
    for (from, to) in [(&empty, &whole), (&whole, &empty)] {
        let parts = follow(from, to);
        assert!(parts.len() > 4, "{}", parts.len());
        for part in &parts {
            assert!(part.encoded_len() <= CHUNK_BYTES + 256, "{}", part.encoded_len());
        }
    }
}

#[test]
fn a_service_that_nobody_could_read_is_not_published() {
    let mut huge = plain("shop/huge", 1);
    huge.annotations.insert("x".into(), "y".repeat(MAX_RECORD_BYTES).into());
    let mut large = plain("shop/large", 1);
    large.annotations.insert("x".into(), "y".repeat(MAX_RECORD_BYTES / 2).into());
    let local = open_catalog(2, vec![huge, large, plain("shop/web", 1)]);
    let mirror = mirror_of(&View::of(&local, &cluster("paris")));
    assert!(!mirror.entries().contains_key(&key("shop/huge")));
    assert!(mirror.entries().contains_key(&key("shop/large")));
    follow(&open_catalog(1, vec![plain("shop/web", 1)]), &local);
    follow(&local, &open_catalog(3, vec![plain("shop/huge", 1)]));
}

fn catalogs() -> impl Strategy<Value = LocalCatalog> {
    let export = (0..6_u8, 0..3_u32, prop::collection::btree_set(1..20_u8, 0..5));
    prop::collection::vec(export, 0..6).prop_map(|list| {
        let exports = list.into_iter().map(|(name, ready, endpoints)| {
            let endpoints: Vec<String> = endpoints.iter().map(|n| format!("10.0.0.{n}")).collect();
            let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
            let mut export = headless(&format!("shop/s{name}"), &endpoints);
            export.ports[0].ready = ready;
            export
        });
        open_catalog(1, exports.collect())
    })
}

proptest! {
    #[test]
    fn any_change_leads_to_the_same_catalog(from in catalogs(), to in catalogs()) {
        follow(&from, &to);
    }
}
