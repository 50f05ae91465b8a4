//! Where peers are found, and when they are left.

use std::sync::Mutex;

use super::*;
use crate::peering::fixtures::plain;

fn mesh() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), &["paris", "oregon", "tokyo"]);
    dir
}

async fn until_addresses(agent: &mut Agent, wanted: &[SocketAddr]) {
    agent
        .until(&format!("{wanted:?}"), |event| match event {
            Event::Addresses { addresses, .. } => (addresses == wanted).then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn peers_come_and_go_while_it_runs() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    let tokyo = Agent::start(dir.path(), "tokyo", 3);
    oregon.exports(open_catalog(1, vec![plain("shop/oregon", 1)]));
    tokyo.exports(open_catalog(1, vec![plain("shop/tokyo", 1)]));
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_catalog("oregon", |all| names(all) == ["shop/oregon"]).await;
    paris.imports_from(&[oregon.as_peer(), tokyo.as_peer()]);
    paris.until_catalog("tokyo", |all| names(all) == ["shop/tokyo"]).await;
    paris.imports_from(&[tokyo.as_peer()]);
    let gone = paris
        .until("oregon gone", |event| match event {
            Event::Gone { peer } => Some(peer),
            _ => None,
        })
        .await;
    assert_eq!(gone.as_str(), "oregon");
    oregon.exports(open_catalog(2, Vec::new()));
    tokyo.exports(open_catalog(2, vec![plain("shop/tokyo", 2)]));
    paris
        .until("tokyo's change only", |event| match event {
            Event::Catalog { peer, catalog, .. } => {
                assert_eq!(peer.as_str(), "tokyo");
                (ready(&catalog, "shop/tokyo") == Some(2)).then_some(())
            }
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn a_revoked_peers_sessions_close_both_ways() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let mut oregon = Agent::start(dir.path(), "oregon", 2);
    paris.imports_from(&[oregon.as_peer()]);
    oregon.imports_from(&[paris.as_peer()]);
    paris.until_sessions(1).await;
    oregon.until_sessions(1).await;
    trust::unpin(&dir.path().join("paris"), "oregon");
    paris.until_sessions(0).await;
    oregon.until_sessions(0).await;
    let began = crate::clock::now();
    trust::pin(&dir.path().join("paris"), "oregon", &dir.path().join("oregon"));
    paris.until_sessions(1).await;
    oregon.until_sessions(1).await;
    assert!(crate::clock::now() - began < PATIENCE);
}

#[tokio::test]
async fn a_peer_tells_where_else_it_is_reached() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let second = Agent::start(dir.path(), "oregon", 12);
    let advertise =
        vec![PeerAddress::from(second.address), PeerAddress::parse("192.0.2.1").unwrap()];
    let first = Agent::start_with(dir.path(), "oregon", 11, Lookup::system(), advertise);
    paris.imports_from(&[first.as_peer()]);
    let far = "192.0.2.1:8443".parse().unwrap();
    until_addresses(&mut paris, &[first.address, second.address, far]).await;
    paris.until_sessions(2).await;
}

#[tokio::test]
async fn n15_a_name_that_moves_is_followed() {
    let dir = mesh();
    let first = Agent::start(dir.path(), "oregon", 11);
    let answer = Arc::new(Mutex::new(vec![first.address]));
    let asked = Arc::clone(&answer);
    let lookup = Lookup::new(move |host, _| {
        assert_eq!(host, "gw.oregon.example");
        let answer = asked.lock().unwrap().clone();
        async move { Ok(answer) }
    });
    let mut paris = Agent::start_with(dir.path(), "paris", 1, lookup, Vec::new());
    let mut config = peer("oregon", &[]);
    config.addresses = vec![PeerAddress::parse("gw.oregon.example:8443").unwrap()];
    paris.imports_from(&[config]);
    until_addresses(&mut paris, &[first.address]).await;
    paris.until_sessions(1).await;
    let second = Agent::start(dir.path(), "oregon", 12);
    *answer.lock().unwrap() = vec![second.address];
    first.crash().await;
    // The failed dial asks the name again.
    until_addresses(&mut paris, &[second.address]).await;
    paris.until_sessions(1).await;
}

#[tokio::test]
async fn a_load_balancer_is_dialled_until_each_live_replica_is_held() {
    let dir = mesh();
    let mut paris = Agent::start(dir.path(), "paris", 1);
    // One address that leads to replica 21 three times out of four, and to 22 then.
    let mut balancer = Fake::start(dir.path(), "oregon");
    paris.imports_from(&[peer("oregon", &[balancer.address])]);
    let listing = |replica| {
        let replicas = vec![21, 22];
        Hello { replicas, ..hello("oregon", replica) }
    };
    let mut kept = Vec::new();
    for replica in [21, 21, 21, 22] {
        kept.push(balancer.session(listing(replica)).await);
    }
    paris.until_sessions(2).await;
    assert!(matches!(kept[0].0.next().await.unwrap().body, Body::Subscribe(_)));
    assert!(kept[1].0.next().await.is_err(), "a second session to one replica is not kept");
    assert!(kept[2].0.next().await.is_err());
    assert!(matches!(kept[3].0.next().await.unwrap().body, Body::Subscribe(_)));
}
