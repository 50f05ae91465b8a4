//! What a peer claims and is not believed.

use bytes::Bytes;

use super::*;
use crate::catalog::ServiceType;
use crate::peering::fixtures::{headless, key, plain};
use crate::peering::view::View;
use crate::tls::Kind;
use crate::wire::control::{Delta, SnapshotBegin, SnapshotChunk, SnapshotEnd, Synced, chunks};

fn mesh() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), &["paris", "oregon", "tokyo"]);
    dir
}

async fn send_snapshot(writer: &mut Writer<WriteHalf<Stream>>, local: &LocalCatalog) {
    let view = View::of(local, &cluster("paris"));
    let (revision, digest) = (local.revision, view.digest().to_bytes());
    writer.send(Body::SnapshotBegin(SnapshotBegin { revision })).await.unwrap();
    for records in chunks(view.records()) {
        writer.send(Body::SnapshotChunk(SnapshotChunk { records })).await.unwrap();
    }
    writer.send(Body::SnapshotEnd(SnapshotEnd { revision, digest })).await.unwrap();
    writer.send(Body::Synced(Synced { synced: true })).await.unwrap();
}

#[tokio::test]
async fn s05_another_clusters_name_in_hello_is_refused() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let mut oregon = Fake::start(dir.path(), "oregon");
    paris.imports_from(&[peer("oregon", &[oregon.address])]);
    let (mut reader, _writer) = oregon.session(hello("tokyo", 2)).await;
    let error = paris.until_trouble("hello says tokyo").await;
    assert!(error.contains("certificate says oregon"), "{error}");
    assert!(reader.next().await.is_err(), "the session is closed");
    // And when it dials us.
    let dialer = Dialer::new(oregon.trust.clone());
    let dialed = dialer.dial(&cluster("paris"), paris.address, Kind::Control).await.unwrap();
    let (mut reader, mut writer) = Fake::halves(dialed.stream);
    writer.send(Body::Hello(hello("tokyo", 2))).await.unwrap();
    assert!(reader.next().await.is_err(), "nothing is published to it");
}

#[tokio::test]
async fn s05_namespaces_that_are_not_imported_are_not_believed() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    oregon.exports(open_catalog(1, vec![plain("shop/web", 1), plain("kube-system/dns", 1)]));
    let shop = crate::model::Namespace::parse("shop").unwrap();
    let config = |namespaces| PeerConfig { namespaces, ..oregon.as_peer() };
    paris.imports_from(&[config(NamespaceRules::Only([shop].into()))]);
    let (all, _) = paris.until_catalog("the shop", |all| !all.exports.is_empty()).await;
    assert_eq!(names(&all), ["shop/web"]);
    let refused = paris.counted("portolan_control_refused_records_total", "namespace");
    assert!((refused - 1.0).abs() < f64::EPSILON);
    // A wider rule takes effect on what is held already.
    paris.imports_from(&[config(NamespaceRules::Any)]);
    paris.until_catalog("all", |all| all.exports.len() == 2).await;
    paris.imports_from(&[config(NamespaceRules::Only(BTreeSet::new()))]);
    paris.until_catalog("none", |all| all.exports.is_empty()).await;
}

#[tokio::test]
async fn s07_addresses_outside_the_peers_networks_are_not_believed() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    let endpoints = ["10.1.0.1", "10.9.0.1", "10.200.0.1", "127.0.0.1", "169.254.169.254"];
    oregon.exports(open_catalog(1, vec![headless("shop/db", &endpoints)]));
    let networks = ["10.0.0.0/9", "0.0.0.0/0"].map(|net| net.parse().unwrap());
    paris.imports_from(&[PeerConfig { networks: vec![networks[0]], ..oregon.as_peer() }]);
    let (all, _) = paris.until_catalog("the database", |all| !all.exports.is_empty()).await;
    let believed = |all: &PeerCatalog| {
        let export = &all.exports[&key("shop/db")];
        assert_eq!(export.service_type, ServiceType::Headless);
        export.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(believed(&all), ["10.1.0.1"]);
    // Not even a network that holds everything opens our own ranges, loopback or link-local.
    paris.imports_from(&[PeerConfig { networks: vec![networks[1]], ..oregon.as_peer() }]);
    let (all, _) = paris.until_catalog("one more", |all| believed(all).len() == 2).await;
    assert_eq!(believed(&all), ["10.1.0.1", "10.200.0.1"]);
}

#[tokio::test]
async fn a_bad_record_refuses_itself_only() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let mut oregon = Fake::start(dir.path(), "oregon");
    paris.imports_from(&[peer("oregon", &[oregon.address])]);
    let (mut reader, mut writer) = oregon.session(hello("oregon", 2)).await;
    assert!(matches!(reader.next().await.unwrap().body, Body::Subscribe(_)));
    send_snapshot(&mut writer, &open_catalog(1, vec![plain("shop/web", 1)])).await;
    paris.until_catalog("the web", |all| names(all) == ["shop/web"]).await;
    // One record of garbage beside a good one.
    let good = open_catalog(1, vec![plain("shop/web", 1), plain("shop/api", 1)]);
    let view = View::of(&good, &cluster("paris"));
    let api = view.records().next().unwrap();
    let bad = Bytes::from_static(b"\x0a\xffgarbage");
    let mut digest = view.digest();
    digest.add(crate::peering::digest::RecordHash::of(&bad));
    let upserts = vec![bad, api];
    let delta = Delta { revision: 2, removals: Vec::new(), upserts, digest: digest.to_bytes() };
    writer.send(Body::Delta(delta)).await.unwrap();
    paris.until_catalog("the good one", |all| names(all) == ["shop/api", "shop/web"]).await;
    let refused = paris.counted("portolan_control_refused_records_total", "unreadable");
    assert!((refused - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn s15_a_catalog_over_the_cap_leaves_the_last_good_one() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    let tokyo = Agent::start(dir.path(), "tokyo", 3);
    let many = |revision, count: u32| {
        open_catalog(revision, (0..count).map(|n| plain(&format!("shop/s{n}"), 1)).collect())
    };
    oregon.exports(many(1, 3));
    paris.imports_from(&[oregon.as_peer(), tokyo.as_peer()]);
    paris.until_catalog("three", |all| all.exports.len() == 3).await;
    oregon.exports(many(2, 10_001));
    let error = paris
        .until("trouble", |event| match event {
            Event::Catalog { peer, catalog, .. } if peer.as_str() == "oregon" => {
                panic!("{} services were believed", catalog.exports.len())
            }
            Event::Trouble { peer, error } => {
                assert_eq!(peer.as_str(), "oregon", "only that peer is degraded");
                Some(error)
            }
            _ => None,
        })
        .await;
    assert!(error.contains("more than 10000 services"), "{error}");
    tokyo.exports(open_catalog(2, vec![plain("shop/tokyo", 1)]));
    paris.until_catalog("tokyo", |all| names(all) == ["shop/tokyo"]).await;
}

#[tokio::test]
async fn s08_garbage_ends_the_session_and_nothing_else() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let mut oregon = Fake::start(dir.path(), "oregon");
    paris.imports_from(&[peer("oregon", &[oregon.address])]);
    for garbage in [&b"\xff\xff\xff\xff\xff\xff"[..], b"\x02\x0a\x7f", b"GET / HTTP/1.1\r\n\r\n"] {
        let accepted = timeout(PATIENCE, oregon.accepted.recv()).await.unwrap().unwrap();
        let mut stream = accepted.stream;
        tokio::io::AsyncWriteExt::write_all(&mut stream, garbage).await.unwrap();
        let (mut reader, _writer) = Fake::halves(stream);
        assert!(matches!(reader.next().await.unwrap().body, Body::Hello(_)));
        assert!(reader.next().await.is_err(), "{garbage:?}");
    }
    let (mut reader, mut writer) = oregon.session(hello("oregon", 2)).await;
    assert!(matches!(reader.next().await.unwrap().body, Body::Subscribe(_)));
    send_snapshot(&mut writer, &open_catalog(1, vec![plain("shop/web", 1)])).await;
    paris.until_catalog("the web", |all| names(all) == ["shop/web"]).await;
}

#[tokio::test]
async fn an_unknown_message_is_skipped_and_counted() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let mut oregon = Fake::start(dir.path(), "oregon");
    paris.imports_from(&[peer("oregon", &[oregon.address])]);
    let accepted = timeout(PATIENCE, oregon.accepted.recv()).await.unwrap().unwrap();
    let mut stream = accepted.stream;
    // Tag 200 of a protocol of the future, before our hello.
    let future = [6, 0xc2, 0x0c, 3, 1, 2, 3];
    tokio::io::AsyncWriteExt::write_all(&mut stream, &future).await.unwrap();
    let (_reader, mut writer) = Fake::halves(stream);
    writer.send(Body::Hello(hello("oregon", 2))).await.unwrap();
    send_snapshot(&mut writer, &open_catalog(1, vec![plain("shop/web", 1)])).await;
    paris.until_catalog("the web", |all| names(all) == ["shop/web"]).await;
    let unknown = paris.counted("portolan_control_unknown_total", "message");
    assert!((unknown - 1.0).abs() < f64::EPSILON);
}
