//! What a subscriber comes to hold, and when it changes.

use tempfile::TempDir;

use super::*;
use crate::catalog::{ClusterRules, Export};
use crate::drain::Phase;
use crate::peering::fixtures::{catalog, full, key, open_catalog, plain};

fn mesh(names: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    trust::mesh(dir.path(), names);
    dir
}

fn web(revision: u64, ready: u32) -> LocalCatalog {
    open_catalog(revision, vec![plain("shop/web", ready)])
}

#[tokio::test]
async fn a_catalog_arrives_changes_and_shrinks() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    oregon.exports(open_catalog(2, vec![plain("shop/web", 3), full("shop/db")]));
    let mut config = oregon.as_peer();
    config.networks = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    paris.imports_from(&[config]);
    let (first, seen) = paris.until_catalog("both services", |all| all.exports.len() == 2).await;
    assert_eq!(seen, 1, "nothing before the whole snapshot");
    let db = Export::clone(&first.exports[&key("shop/db")]);
    assert_eq!(db.hosts.len(), 3, "the pods by their hostnames");
    assert_eq!(Export { hosts: Vec::new(), ..db }, full("shop/db"), "every field arrives");
    oregon.exports(open_catalog(3, vec![plain("shop/web", 4), full("shop/db")]));
    paris.until_catalog("four ready", |all| ready(all, "shop/web") == Some(4)).await;
    oregon.exports(web(4, 4));
    paris.until_catalog("one service", |all| names(all) == ["shop/web"]).await;
    oregon.exports(open_catalog(5, Vec::new()));
    paris.until_catalog("nothing", |all| all.exports.is_empty()).await;
}

#[tokio::test]
async fn a_restarted_publisher_with_the_same_catalog_changes_nothing() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    oregon.exports(web(70, 1));
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_catalog("web", |all| names(all) == ["shop/web"]).await;
    oregon.crash().await;
    paris.until_sessions(0).await;
    // Another start is another replica; its revisions count anew.
    let oregon = Agent::start(dir.path(), "oregon", 3);
    oregon.exports(web(2, 1));
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_sessions(1).await;
    // Wait until it is followed, then change it: the change is the first catalog told.
    while paris.counted("portolan_control_messages_total", "same") < 1.0 {
        tokio::task::yield_now().await;
    }
    oregon.exports(web(3, 2));
    let (_, seen) = paris.until_catalog("two ready", |all| ready(all, "shop/web") == Some(2)).await;
    assert_eq!(seen, 1, "the same digest told nothing");
}

#[tokio::test]
async fn a_restarted_publisher_with_another_catalog_replaces_the_whole() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    oregon.exports(open_catalog(70, vec![plain("shop/web", 1), plain("shop/old", 1)]));
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_catalog("both", |all| all.exports.len() == 2).await;
    oregon.crash().await;
    let oregon = Agent::start(dir.path(), "oregon", 3);
    oregon.exports(open_catalog(1, vec![plain("shop/web", 1), plain("shop/new", 1)]));
    paris.imports_from(&[oregon.as_peer()]);
    let (all, seen) =
        paris.until_catalog("the new one", |all| all.exports.contains_key(&key("shop/new"))).await;
    assert_eq!(names(&all), ["shop/new", "shop/web"]);
    assert_eq!(seen, 1, "in one swap, never empty in between");
}

#[tokio::test]
async fn of_two_replicas_the_older_session_is_believed_and_the_other_takes_over() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let one = Agent::start(dir.path(), "oregon", 11);
    one.exports(web(1, 1));
    paris.imports_from(&[peer("oregon", &[one.address])]);
    paris.until_catalog("the first", |all| ready(all, "shop/web") == Some(1)).await;
    let two = Agent::start(dir.path(), "oregon", 12);
    two.exports(web(1, 2));
    paris.imports_from(&[peer("oregon", &[one.address, two.address])]);
    paris.until_sessions(2).await;
    // The second one's differing catalog is held, not merged: only the first one's is told.
    one.exports(web(2, 5));
    let (_, seen) = paris.until_catalog("five", |all| ready(all, "shop/web") == Some(5)).await;
    assert_eq!(seen, 1);
    // Health finds the first Down: the second is believed; and it stays so when it is back.
    let is_down = (cluster("oregon"), ReplicaId::from_u64(one.replica));
    paris.down.send_replace(Arc::new([is_down].into()));
    paris.until_catalog("the second", |all| ready(all, "shop/web") == Some(2)).await;
    paris.down.send_replace(Arc::default());
    two.exports(web(2, 3));
    paris.until_catalog("its change", |all| ready(all, "shop/web") == Some(3)).await;
    // The second drains, then ends.
    two.trigger.advance(Phase::Announced);
    let replica = paris
        .until("the drain notice", |event| match event {
            Event::Draining { replica, draining: true, .. } => Some(replica),
            _ => None,
        })
        .await;
    assert_eq!(replica.as_u64(), two.replica);
    paris.until_catalog("the first again", |all| ready(all, "shop/web") == Some(5)).await;
    two.crash().await;
    paris.until_sessions(1).await;
}

#[tokio::test]
async fn an_announced_end_is_proper_and_no_trouble() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_sessions(1).await;
    oregon.trigger.advance(Phase::Announced);
    oregon.trigger.advance(Phase::Draining);
    let mut noticed = false;
    paris
        .until("the session's end", |event| match event {
            Event::Trouble { error, .. } => panic!("{error}"),
            Event::Draining { draining: true, .. } => {
                noticed = true;
                None
            }
            Event::Sessions { count: 0, .. } => Some(()),
            _ => None,
        })
        .await;
    assert!(noticed);
}

#[tokio::test]
async fn losing_every_session_keeps_the_catalog() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    oregon.exports(web(1, 1));
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_catalog("web", |all| names(all) == ["shop/web"]).await;
    oregon.crash().await;
    paris
        .until("trouble and no catalog", |event| match event {
            Event::Catalog { .. } => panic!("losing a session told a catalog"),
            Event::Trouble { .. } => Some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn an_unsynced_publisher_is_not_believed() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    oregon.exports(web(1, 1));
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_catalog("web", |all| names(all) == ["shop/web"]).await;
    oregon.crash().await;
    // It comes back with an empty catalog that it calls unsynced.
    let oregon = Agent::start(dir.path(), "oregon", 3);
    oregon.exports(LocalCatalog { synced: false, ..open_catalog(1, Vec::new()) });
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_sessions(1).await;
    while paris.counted("portolan_control_messages_total", "snapshot_end") < 2.0 {
        tokio::task::yield_now().await;
    }
    oregon.exports(web(2, 9));
    let (_, seen) = paris.until_catalog("nine", |all| ready(all, "shop/web") == Some(9)).await;
    assert_eq!(seen, 1, "the empty, unsynced catalog was never believed");
}

#[tokio::test]
async fn the_publisher_tells_each_cluster_what_it_may_import() {
    let dir = mesh(&["paris", "oregon", "tokyo"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let mut tokyo = Agent::start(dir.path(), "tokyo", 3);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    let only = |list: &[&str]| ClusterRules::Only(clusters(list));
    let exports = |revision, rules| {
        let both = vec![(plain("shop/all", 1), ClusterRules::Any), (plain("shop/one", 1), rules)];
        catalog(revision, both)
    };
    oregon.exports(exports(1, only(&["tokyo"])));
    paris.imports_from(&[oregon.as_peer()]);
    tokyo.imports_from(&[oregon.as_peer()]);
    tokyo.until_catalog("both", |all| names(all) == ["shop/all", "shop/one"]).await;
    paris.until_catalog("one", |all| names(all) == ["shop/all"]).await;
    oregon.exports(exports(2, only(&["paris"])));
    tokyo.until_catalog("one", |all| names(all) == ["shop/all"]).await;
    paris.until_catalog("both", |all| names(all) == ["shop/all", "shop/one"]).await;
}

#[tokio::test]
async fn a_changed_locality_is_told() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_catalog("the first", |all| all.locality == Locality::default()).await;
    let west = Locality { region: "us".into(), zone: "west".into() };
    oregon.presence.send_modify(|presence| presence.locality = west.clone());
    paris.until_catalog("the new place", |all| all.locality == west).await;
}

#[tokio::test]
async fn s16_a_flapping_catalog_is_told_ten_times_a_second_at_most() {
    let dir = mesh(&["paris", "oregon"]);
    let mut paris = Agent::start(dir.path(), "paris", 1);
    let oregon = Agent::start(dir.path(), "oregon", 2);
    paris.imports_from(&[oregon.as_peer()]);
    paris.until_catalog("the first", |all| all.exports.is_empty()).await;
    let began = crate::clock::now();
    for revision in 2..1_000 {
        oregon.exports(web(revision, u32::try_from(revision).unwrap()));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    oregon.exports(web(1_000, 0));
    let (_, seen) = paris.until_catalog("the last", |all| ready(all, "shop/web") == Some(0)).await;
    let seconds = crate::clock::now().duration_since(began).as_secs_f64();
    assert!(f64::from(seen) <= seconds * 10.0 + 2.0, "{seen} in {seconds} s");
    let deltas = oregon.counted("portolan_control_messages_total", "delta");
    assert!(deltas <= seconds * 10.0 + 2.0, "{deltas} in {seconds} s");
}
