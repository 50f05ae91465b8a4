//! One client, one pod, whichever replicas it passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use super::sites::{Loops, Mesh, Site};
use super::soon;
use crate::catalog::SessionAffinity;
use crate::model::ReplicaId;
use crate::testing::Backend;

const NAMES: [&str; 5] = ["pod-0", "pod-1", "pod-2", "pod-3", "pod-4"];
const CLIENTS: u32 = 1_000;

fn client(number: u32) -> SocketAddr {
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 90, 0, 1)) + number), 0).into()
}

/// Which pod a client of that address reaches through a replica.
async fn reached(site: &Site, from: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from).unwrap();
    let mut client = soon(socket.connect(site.vip)).await.unwrap();
    let mut name = String::new();
    soon(client.read_to_string(&mut name)).await.unwrap();
    name
}

/// Two replicas of oregon export these pods, two of paris import them.
struct Stage {
    paris: [Site; 2],
    oregon: [Site; 2],
}

impl Stage {
    async fn new() -> Self {
        let mesh = Mesh::new(&["paris", "oregon"]);
        let oregon = [0, 1].map(|_| Site::start(&mesh, "oregon", Loops::Quiet));
        let mut paris = [0, 1].map(|_| Site::start(&mesh, "paris", Loops::Quiet));
        let at: Vec<(SocketAddr, Option<ReplicaId>)> =
            oregon.iter().map(|site| (site.address, Some(site.replica))).collect();
        for site in &mut paris {
            site.know_all("oregon", &at);
            site.import(&["oregon"]).await;
            site.change_route(|route| {
                route.session_affinity = SessionAffinity::ClientIp { timeout_seconds: 10_800 };
            });
        }
        Self { paris, oregon }
    }

    fn export(&mut self, pods: &BTreeMap<&str, Backend>) {
        let addresses: BTreeSet<SocketAddr> = pods.values().map(|pod| pod.address).collect();
        let addresses: Vec<SocketAddr> = addresses.into_iter().collect();
        for site in &mut self.oregon {
            site.export_with(&addresses, |local| {
                let export = std::sync::Arc::make_mut(&mut local.export);
                export.session_affinity = SessionAffinity::ClientIp { timeout_seconds: 10_800 };
            });
        }
    }

    /// The pod of every client, the same through both replicas of paris.
    async fn homes(&self) -> Vec<String> {
        let mut homes = Vec::new();
        for number in 0..CLIENTS {
            let home = reached(&self.paris[0], client(number)).await;
            let other = reached(&self.paris[1], client(number)).await;
            assert_eq!(home, other, "client {number}");
            homes.push(home);
        }
        homes
    }
}

/// 1 000 clients through 2 importing and 2 exporting replicas: one pod each, and a pod that goes
/// moves only its own.
#[tokio::test]
async fn a_client_has_one_pod_and_a_pod_gone_moves_only_its_own() {
    let mut stage = Stage::new().await;
    let mut pods = BTreeMap::new();
    for name in NAMES {
        pods.insert(name, Backend::naming(IpAddr::V4(Ipv4Addr::LOCALHOST), name).await);
    }
    stage.export(&pods);
    let before = stage.homes().await;
    for name in NAMES {
        let of_it = before.iter().filter(|home| *home == name).count();
        assert!((120..300).contains(&of_it), "{of_it} clients at {name}");
    }
    assert!(stage.oregon.iter().all(|site| site.ended("inbound", "paris", "ok") > 100));
    pods.remove("pod-2").unwrap().stop();
    stage.export(&pods);
    let after = stage.homes().await;
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(before == after || before == "pod-2", "client {number}: {before}, then {after}");
        assert_ne!(after, "pod-2");
    }
}
