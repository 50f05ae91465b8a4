//! Clients of one pod of a headless service: on a port, or at an address, that stands for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;

use super::ports::{config, free, number, opened};
use super::sites::{Loops, Mesh, Site, key, port_key};
use super::{accept, backend, read_to_reset, soon, until};
use crate::catalog::{EndpointPort, ServiceType};
use crate::gateway::Config;
use crate::model::{Callee, ClusterId, HostLabel, PodName, PortNumber, Protocol};
use crate::routes::{RemotePod, Route};

fn pod(hostname: &str) -> PodName {
    PodName {
        cluster: ClusterId::parse("oregon").unwrap(),
        hostname: HostLabel::parse(hostname).unwrap(),
    }
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Paris knows oregon.
fn two(config: Config) -> (Mesh, Site, Site) {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::with_config(&mesh, "paris", Loops::Quiet, config);
    let oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    paris.know("oregon", oregon.address, Some(oregon.replica));
    paris.set_candidates(&["oregon"]);
    (mesh, paris, oregon)
}

/// Lets a port of paris stand for each of these pods.
async fn stand_for(paris: &mut Site, pods: &[&str]) -> Vec<u16> {
    let mut ports = Vec::new();
    let mut held = Vec::new();
    for _ in pods {
        let (listener, port) = free().await;
        held.push(listener);
        ports.push(port);
    }
    drop(held);
    let serves = |(name, port): (&&str, &u16)| {
        let callee = Callee::pod(key(), pod(name));
        ((Protocol::Tcp, number(*port)), (callee, port_key()))
    };
    paris.table.ports = Arc::new(pods.iter().zip(&ports).map(serves).collect());
    paris.publish();
    opened(&mut paris.gateway.open_ports(), &ports).await;
    ports
}

#[tokio::test]
async fn each_port_leads_to_its_own_pod_and_to_no_other() {
    let (_mesh, mut paris, mut oregon) = two(config());
    let (zero, zero_at) = backend().await;
    let (one, one_at) = backend().await;
    oregon.export_pods(&[("db-0", zero_at), ("db-1", one_at)]);
    let ports = stand_for(&mut paris, &["db-0", "db-1"]).await;
    for _ in 0..5 {
        for (port, wanted, other) in [(ports[0], &zero, &one), (ports[1], &one, &zero)] {
            let _client = soon(TcpStream::connect(at(port))).await.unwrap();
            tokio::select! {
                _served = accept(wanted) => {}
                _ = other.accept() => panic!("the other pod was dialled"),
            }
        }
    }
}

#[tokio::test]
async fn a_pod_that_is_not_ready_is_no_endpoint_while_others_are() {
    let (_mesh, mut paris, mut oregon) = two(config());
    let (one, one_at) = backend().await;
    oregon.export_pods(&[("db-1", one_at)]);
    let port = stand_for(&mut paris, &["db-0"]).await[0];
    let mut client = soon(TcpStream::connect(at(port))).await.unwrap();
    until(|| oregon.ended("inbound", "paris", "no_endpoint") > 0).await;
    // It comes back while the client waits.
    let (zero, zero_at) = backend().await;
    oregon.export_pods(&[("db-0", zero_at), ("db-1", one_at)]);
    drop(accept(&zero).await);
    tokio::select! {
        _ = one.accept() => panic!("the other pod was dialled"),
        ended = read_to_end(&mut client) => ended,
    }
}

async fn read_to_end(client: &mut TcpStream) {
    use tokio::io::AsyncReadExt;
    // The pod closed without a word; a FIN is honest.
    soon(client.read_to_end(&mut Vec::new())).await.unwrap();
}

#[tokio::test]
async fn a_pod_of_a_cluster_that_does_not_serve_is_not_told_and_its_clients_are_reset() {
    let (_mesh, mut paris, _oregon) = two(config());
    let port = stand_for(&mut paris, &["db-0"]).await[0];
    paris.set_candidates(&["tokyo"]);
    opened(&mut paris.gateway.open_ports(), &[]).await;
    let mut client = soon(TcpStream::connect(at(port))).await.unwrap();
    assert_eq!(read_to_reset(&mut client).await, b"");
}

#[tokio::test]
async fn at_a_clusterset_address_of_its_own_a_pod_listens_on_its_own_port_too() {
    let (_mesh, mut paris, mut oregon) = two(Config::default());
    let (zero, zero_at) = backend().await;
    oregon.export_pods(&[("db-0", zero_at)]);
    let target = PortNumber::new(9_090).unwrap();
    let route = paris.table.services.get(&key()).cloned().unwrap();
    let mut route = Route::clone(&route);
    (route.service_type, route.vips) = (ServiceType::Headless, Vec::new());
    route.pods.led = vec![RemotePod {
        name: pod("db-0"),
        ports: vec![EndpointPort { key: port_key(), target: Some(target) }],
        vips: vec![paris.vip.ip()],
        usable: true,
    }];
    paris.table.services.insert(key(), Arc::new(route));
    let owner = Callee::pod(key(), pod("db-0"));
    paris.table.vips = [(paris.vip.ip(), owner)].into();
    paris.publish();
    for port in [port_key().port.get(), target.get()] {
        let at = SocketAddr::new(paris.vip.ip(), port);
        let client = soon(async {
            loop {
                match TcpStream::connect(at).await {
                    Ok(client) => return client,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        let _client = client.await;
        drop(accept(&zero).await);
    }
}
