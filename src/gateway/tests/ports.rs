//! Clients on allocated ports, where clusterset addresses are the cluster's own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::sites::{Loops, Mesh, Pair, Site, key, pair_with, port_key};
use super::{accept, read_some, read_to_reset, soon, write};
use crate::catalog::CallerRules;
use crate::drain::{self, Phase};
use crate::gateway::{Config, Context, Gateway, ListenOn, Metrics};
use crate::model::{PortNumber, Protocol, ReplicaId};
use crate::routes::{OpenPorts, SharedTable};
use crate::testing::trust;
use crate::tls::Dialer;

pub(super) fn config() -> Config {
    Config { listen_on: ListenOn::Ports(Ipv6Addr::UNSPECIFIED.into()), ..Config::default() }
}

/// A port that nobody has, held until it is dropped.
pub(super) async fn free() -> (TcpListener, u16) {
    let held = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = held.local_addr().unwrap().port();
    (held, port)
}

pub(super) fn number(port: u16) -> PortNumber {
    PortNumber::new(port.into()).unwrap()
}

fn set(ports: &[u16]) -> OpenPorts {
    ports.iter().map(|port| (Protocol::Tcp, number(*port))).collect()
}

/// Writes these TCP ports into the book, all for the one service.
fn book(site: &mut Site, ports: &[u16]) {
    let tcp = ports.iter().map(|port| (Protocol::Tcp, number(*port)));
    site.table.ports = Arc::new(tcp.map(|at| (at, (key().into(), port_key()))).collect());
    site.publish();
}

pub(super) async fn opened(open: &mut watch::Receiver<Arc<OpenPorts>>, ports: &[u16]) {
    soon(open.wait_for(|open| **open == set(ports))).await.unwrap();
}

/// paris, listening on one allocated port, imports from oregon.
async fn listening() -> (Pair, u16) {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::with_config(&mesh, "paris", Loops::Quiet, config());
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let (backend, address) = super::backend().await;
    oregon.export(&[address], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    paris.set_candidates(&["oregon"]);
    let (held, port) = free().await;
    drop(held);
    let mut open = paris.gateway.open_ports();
    book(&mut paris, &[port]);
    opened(&mut open, &[port]).await;
    (Pair { paris, oregon, backend, mesh }, port)
}

#[tokio::test]
async fn a_client_on_an_allocated_port_is_served_over_both_families() {
    let (pair, port) = listening().await;
    for from in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()]
    {
        let mut client = soon(TcpStream::connect(from)).await.unwrap();
        let mut server = accept(&pair.backend).await;
        write(&mut client, b"there").await;
        assert_eq!(read_some(&mut server, 5).await, b"there");
        write(&mut server, b"back").await;
        assert_eq!(read_some(&mut client, 4).await, b"back");
    }
    assert!(TcpStream::connect(pair.paris.vip).await.is_err(), "its address is not ours");
}

#[tokio::test]
async fn a_port_without_a_candidate_stays_open_and_is_not_told() {
    let (mut pair, port) = listening().await;
    pair.paris.set_candidates(&[]);
    let (held, other) = free().await;
    drop(held);
    book(&mut pair.paris, &[port, other]);
    opened(&mut pair.paris.gateway.open_ports(), &[]).await;
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    soon(async { while TcpStream::connect(at(other)).await.is_err() {} }).await;
    soon(TcpStream::connect(at(port))).await.expect("clients that are under way are accepted");
}

#[tokio::test]
async fn a_port_out_of_the_book_is_closed_and_its_streams_run_on() {
    let (mut pair, port) = listening().await;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut client = soon(TcpStream::connect(at)).await.unwrap();
    let mut server = accept(&pair.backend).await;
    book(&mut pair.paris, &[]);
    opened(&mut pair.paris.gateway.open_ports(), &[]).await;
    soon(async { while TcpStream::connect(at).await.is_ok() {} }).await;
    write(&mut server, b"still").await;
    assert_eq!(read_some(&mut client, 5).await, b"still");
}

#[tokio::test]
async fn a_port_that_cannot_be_had_is_not_said_to_be_open_until_it_is() {
    let (mut pair, port) = listening().await;
    let (held, taken) = free().await;
    let (other, free) = free().await;
    drop(other);
    let mut open = pair.paris.gateway.open_ports();
    book(&mut pair.paris, &[port, taken, free]);
    opened(&mut open, &[port, free]).await;
    drop(held);
    opened(&mut open, &[port, taken, free]).await;
}

#[tokio::test]
async fn a_gateway_that_drains_says_that_nothing_is_open() {
    let (pair, port) = listening().await;
    let trigger = pair.paris.trigger.as_ref().unwrap();
    trigger.advance(Phase::Announced);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let client = soon(TcpStream::connect(at)).await.unwrap();
    drop((client, accept(&pair.backend).await));
    trigger.advance(Phase::Draining);
    opened(&mut pair.paris.gateway.open_ports(), &[]).await;
}

#[tokio::test]
async fn with_clusterset_addresses_no_allocated_port_is_opened() {
    let mut pair = pair_with(Config::default()).await;
    let (held, port) = free().await;
    drop(held);
    book(&mut pair.paris, &[port]);
    drop(soon(TcpStream::connect(pair.paris.vip)).await.unwrap());
    assert!(pair.paris.gateway.open_ports().borrow().is_empty());
}

#[tokio::test]
async fn a_restarted_gateway_opens_the_ports_of_the_book_it_finds() {
    let (mut pair, port) = listening().await;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let client = soon(TcpStream::connect(at)).await.unwrap();
    // Our side closes first: the old connection lingers in the kernel.
    drop(accept(&pair.backend).await);
    pair.paris.trigger.as_ref().unwrap().advance(Phase::Forced);
    while let Some(ended) = soon(pair.paris.tasks.join_next()).await {
        ended.unwrap();
    }
    drop(client);

    let (trust, registry) = trust::open(pair.mesh.folder("paris").as_ref(), "paris");
    let (_writer, routes) = SharedTable::new(pair.paris.table.clone());
    let (_changed, changed) = watch::channel(0);
    let gateway = Gateway::new(
        config(),
        Context {
            cluster: pair.paris.name.clone(),
            replica: ReplicaId::from_u64(1),
            routes,
            changed,
            dialer: Dialer::new(trust.clone()),
            trust,
            listeners: Vec::new(),
            gateways: watch::channel(Arc::default()).1,
            facts: mpsc::channel(64).0,
            metrics: Metrics::register(&registry).unwrap(),
        },
    );
    let mut open = gateway.open_ports();
    let (_trigger, watch) = drain::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(gateway.run_outbound(watch));
    opened(&mut open, &[port]).await;
    let mut client = soon(TcpStream::connect(at)).await.unwrap();
    let mut server = accept(&pair.backend).await;
    write(&mut client, b"again").await;
    assert_eq!(read_some(&mut server, 5).await, b"again");
}

#[tokio::test]
async fn no_gateway_of_the_own_cluster_is_a_backend() {
    let (pair, port) = listening().await;
    let gateway = IpAddr::from(Ipv4Addr::LOCALHOST);
    pair.oregon.gateways.send_replace(Arc::new(BTreeSet::from([gateway])));
    let mut client = soon(TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await.unwrap();
    assert_eq!(read_to_reset(&mut client).await, b"");
}
