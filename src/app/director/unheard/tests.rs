use std::sync::Arc;

use super::*;
use crate::model::HostLabel;
use crate::objects::{ObservedImport, ObservedService, parse_ports};
use crate::routes::{RemotePod, RemotePods};
use crate::testing::table;

fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

fn pod(cluster_name: &str, host: &str) -> PodName {
    PodName { cluster: cluster(cluster_name), hostname: HostLabel::parse(host).unwrap() }
}

/// The cluster holds an import with Services of these callees.
fn view(key: &ServiceKey, services: &[(Callee, &str)]) -> ClusterView {
    let import =
        ObservedImport { uid: "1".into(), ips: vec![], conditions: vec![], foreign: false };
    let service = |ports: &str| ObservedService {
        uid: "2".into(),
        ips: vec![],
        ports: parse_ports(ports),
        foreign: false,
    };
    let services = services.iter().map(|(callee, ports)| (callee.clone(), service(ports)));
    ClusterView {
        imports: Arc::new([(key.clone(), import)].into()),
        services: Arc::new(services.collect()),
        ..ClusterView::default()
    }
}

#[test]
fn pods_of_peers_that_were_heard_do_not_wait_for_those_of_one_that_never_was() {
    let key = ServiceKey::parse("shop/db").unwrap();
    let of = |pod: &PodName| (Callee::pod(key.clone(), pod.clone()), "tcp-80=20001");
    let (heard, unheard) = (pod("oregon", "db-0"), pod("tokyo", "db-0"));
    let view = view(&key, &[of(&heard), of(&unheard)]);
    let tokyo = cluster("tokyo");
    let silent = BTreeSet::from([&tokyo]);
    let mut route = table::route("shop/db", &["http:TCP:80"]);
    let known = RemotePod { name: heard, ports: vec![], vips: vec![], usable: true };
    route.pods = RemotePods { led: vec![known], ..RemotePods::default() };
    assert_eq!(say(&key, Some(&route), &view, &silent), Say::But(Kept::of(&key, [&unheard])));
    // Once everybody was heard nothing is kept.
    assert_eq!(say(&key, Some(&route), &view, &BTreeSet::new()), Say::But(Kept::default()));
    // Of a name of which nothing is known nothing is said.
    assert_eq!(say(&key, None, &view, &silent), Say::Nothing);
}

#[test]
fn an_address_keeps_the_ports_that_an_unheard_peer_may_export() {
    let key = ServiceKey::parse("shop/web").unwrap();
    let view = view(&key, &[(key.clone().into(), "tcp-80=20001,tcp-443=20002")]);
    let tokyo = cluster("tokyo");
    let silent = BTreeSet::from([&tokyo]);
    let less = table::route("shop/web", &["http:TCP:80"]);
    assert_eq!(say(&key, Some(&less), &view, &silent), Say::Nothing);
    let all = table::route("shop/web", &["http:TCP:80", "https:TCP:443"]);
    assert_eq!(say(&key, Some(&all), &view, &silent), Say::But(Kept::default()));
}
