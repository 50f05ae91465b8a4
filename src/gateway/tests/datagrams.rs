//! UDP from a client here to a backend of another cluster and back, over loopback.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::sites::{Loops, Mesh, PORT, Site, key};
use super::{read_some, soon, until, write};
use crate::catalog::{Backend, CallerRules, LocalCatalog, SessionAffinity};
use crate::drain::Phase;
use crate::gateway::{Config, ListenOn};
use crate::model::{PortNumber, PortSpec, Protocol, ServiceKey};
use crate::routes::Drained;
use crate::wire::datagram::MAX_DATAGRAM;
use crate::wire::frame::{Asked, Client, Control, Open, Verdict};

fn spec(protocol: Protocol, port: u16) -> PortSpec {
    PortSpec {
        name: "".into(),
        protocol,
        port: PortNumber::new(port.into()).unwrap(),
        app_protocol: None,
    }
}

fn udp() -> PortSpec {
    spec(Protocol::Udp, PORT)
}

/// Exports the service's port as UDP.
fn export(site: &mut Site, backends: &[SocketAddr], allow: CallerRules) {
    export_with(site, &udp(), backends, allow, SessionAffinity::None);
}

fn export_with(
    site: &mut Site,
    port: &PortSpec,
    backends: &[SocketAddr],
    allow: CallerRules,
    affinity: SessionAffinity,
) {
    site.export(backends, allow);
    let mut local = LocalCatalog::clone(&site.table.local);
    let of = Arc::make_mut(local.exports.get_mut(&key()).unwrap());
    let export = Arc::make_mut(&mut of.export);
    export.ports[0].spec = port.clone();
    export.session_affinity = affinity;
    let backend = |address: &SocketAddr| Backend { address: *address, hostname: None };
    of.backends = [(port.key(), backends.iter().map(backend).collect())].into();
    site.table.local = Arc::new(local);
    site.publish();
}

/// Imports it from these clusters, best first; waits until it is heard.
async fn import(site: &mut Site, clusters: &[&str]) {
    let before = gauge(site, "portolan_udp_listeners");
    candidates(site, &udp(), clusters);
    until(|| gauge(site, "portolan_udp_listeners") > before).await;
}

fn candidates(site: &mut Site, port: &PortSpec, clusters: &[&str]) {
    site.set_candidates(clusters);
    let route = site.table.services.get_mut(&key()).unwrap();
    Arc::make_mut(route).ports[0].spec = port.clone();
    site.publish();
}

/// What a metric without labels, or the sum of one with some, says.
fn gauge(site: &Site, name: &str) -> f64 {
    let families = site.registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let values = family.map(|family| family.get_metric()).unwrap_or_default();
    values.iter().map(|m| m.get_gauge().get_value() + m.get_counter().get_value()).sum()
}

/// How many sessions ended so, in either direction.
fn ended(site: &Site, result: &str) -> u64 {
    let families = site.registry.gather();
    let family = families.iter().find(|family| family.name() == "portolan_udp_sessions_total");
    let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
    let is_it =
        |label: &prometheus::proto::LabelPair| label.name() == "result" && label.value() == result;
    let matching = metrics.iter().filter(|metric| metric.get_label().iter().any(is_it));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let count = matching.map(|metric| metric.get_counter().get_value()).sum::<f64>() as u64;
    count
}

fn dropped(site: &Site) -> Vec<(&'static str, u64)> {
    let drops = site.gateway.shared.udp.drops();
    drops.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// A backend that sends every datagram back with its name before it.
struct Echo {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Echo {
    async fn start(name: &'static str) -> Self {
        Self::at("127.0.0.1:0", name).await
    }

    async fn at(address: &str, name: &'static str) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut buffer = vec![0; 65_535];
            loop {
                let (octets, from) = socket.recv_from(&mut buffer).await.unwrap();
                let mut answer = name.as_bytes().to_vec();
                answer.extend_from_slice(&buffer[..octets]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self { address, _task: task }
    }
}

async fn client_of(address: SocketAddr) -> UdpSocket {
    let any = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).await.unwrap();
    // Connected: an answer from any other address would not be seen.
    socket.connect(address).await.unwrap();
    socket
}

async fn recv(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let octets = soon(client.recv(&mut buffer)).await.unwrap();
    buffer.truncate(octets);
    buffer
}

async fn ask(client: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    client.send(datagram).await.unwrap();
    recv(client).await
}

/// Sends until an answer begins like that: what was sent to a gateway that just died is lost.
async fn ask_until(client: &UdpSocket, wanted: &[u8]) {
    soon(async {
        let mut buffer = vec![0; 65_535];
        loop {
            // A refusal says only that nobody listens yet.
            let _refused = client.send(b"?").await;
            let answer = tokio::time::timeout(Duration::from_millis(50), client.recv(&mut buffer));
            if let Ok(Ok(octets)) = answer.await
                && buffer[..octets].starts_with(wanted)
            {
                return;
            }
        }
    })
    .await;
}

/// paris imports from oregon, which has one backend.
struct Pair {
    paris: Site,
    oregon: Site,
    _backend: Echo,
    mesh: Mesh,
}

async fn pair() -> Pair {
    pair_with(Config::default()).await
}

async fn pair_with(config: Config) -> Pair {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::with_config(&mesh, "paris", Loops::Quiet, config);
    let mut oregon = Site::with_config(&mesh, "oregon", Loops::Quiet, config);
    let backend = Echo::start("").await;
    export(&mut oregon, &[backend.address], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    import(&mut paris, &["oregon"]).await;
    Pair { paris, oregon, _backend: backend, mesh }
}

/// paris imports from oregon and then tokyo, whose backends say which they are.
struct Three {
    paris: Site,
    oregon: Site,
    tokyo: Site,
    _backends: [Echo; 2],
    _mesh: Mesh,
}

async fn three(oregon_allows: CallerRules) -> Three {
    let mesh = Mesh::new(&["paris", "oregon", "tokyo"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let mut tokyo = Site::start(&mesh, "tokyo", Loops::Quiet);
    let backends = [Echo::start("oregon ").await, Echo::start("tokyo ").await];
    export(&mut oregon, &[backends[0].address], oregon_allows);
    export(&mut tokyo, &[backends[1].address], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    paris.know("tokyo", tokyo.address, Some(tokyo.replica));
    import(&mut paris, &["oregon", "tokyo"]).await;
    Three { paris, oregon, tokyo, _backends: backends, _mesh: mesh }
}

#[tokio::test]
async fn datagrams_of_every_size_come_back_whole_and_in_order() {
    let pair = pair().await;
    let client = client_of(pair.paris.vip).await;
    // What is sent before anybody has accepted is kept, in order.
    for number in 0..8_u8 {
        client.send(&[number]).await.unwrap();
    }
    for number in 0..8_u8 {
        assert_eq!(recv(&client).await, [number]);
    }
    for length in [0, 1, 512, 1_350, 9_000, 40_000, MAX_DATAGRAM] {
        let datagram: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        assert_eq!(ask(&client, &datagram).await, datagram, "{length}");
    }
    assert_eq!((dropped(&pair.paris), dropped(&pair.oregon)), (vec![], vec![]));
}

#[tokio::test]
async fn many_clients_are_sessions_of_their_own_on_two_connections() {
    const CLIENTS: u16 = 300;
    let pair = pair().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(client_of(pair.paris.vip).await);
    }
    // As many at once as the buffers of one socket hold.
    for (wave, clients) in clients.chunks(100).enumerate() {
        for (number, client) in clients.iter().enumerate() {
            client.send(&[wave, number].map(|n| u8::try_from(n).unwrap())).await.unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(recv(client).await, [wave, number].map(|n| u8::try_from(n).unwrap()));
        }
    }
    for site in [&pair.paris, &pair.oregon] {
        let expected = f64::from(CLIENTS);
        until(|| (gauge(site, "portolan_udp_sessions_open") - expected).abs() < 0.5).await;
        assert!((gauge(site, "portolan_udp_connections") - 2.0).abs() < 0.5);
        assert_eq!(dropped(site), []);
    }
}

/// Sends `count` datagrams of QUIC's sizes each way at the same time, so many ahead of what came.
async fn both_ways(here: &UdpSocket, there: &UdpSocket, there_to: SocketAddr, count: u32) {
    async fn flow(
        count: u32,
        ahead: u32,
        mut send: impl AsyncFnMut(&[u8]),
        mut recv: impl AsyncFnMut() -> Vec<u8>,
    ) {
        let (mut sent, mut came) = (0_u32, 0_u32);
        while came < count {
            if sent < count && sent < came + ahead {
                let mut datagram = vec![7; 1_200 + (sent % 151) as usize];
                datagram[..4].copy_from_slice(&sent.to_be_bytes());
                send(&datagram).await;
                sent += 1;
                continue;
            }
            let datagram = recv().await;
            assert_eq!(datagram.len(), 1_200 + (came % 151) as usize);
            assert_eq!(datagram[..4], came.to_be_bytes(), "in order, none lost");
            came += 1;
        }
    }
    // Each side's flow is counted by the receiver, which shares this task.
    let down = flow(
        count,
        32,
        async |datagram: &[u8]| assert!(there.send_to(datagram, there_to).await.is_ok()),
        async || recv(here).await,
    );
    let up = flow(
        count,
        32,
        async |datagram: &[u8]| assert!(here.send(datagram).await.is_ok()),
        async || recv(there).await,
    );
    tokio::join!(down, up);
}

#[tokio::test]
async fn quic_sized_datagrams_flow_both_ways_without_a_loss() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    export(&mut oregon, &[backend.local_addr().unwrap()], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    import(&mut paris, &["oregon"]).await;
    let client = client_of(paris.vip).await;
    client.send(b"initial").await.unwrap();
    let mut buffer = [0; 16];
    let (_, from) = soon(backend.recv_from(&mut buffer)).await.unwrap();
    both_ways(&client, &backend, from, 3_000).await;
    assert_eq!((dropped(&paris), dropped(&oregon)), (vec![], vec![]));
}

#[tokio::test]
async fn sessions_count_as_what_is_left_of_a_drain() {
    let pair = pair().await;
    let client = client_of(pair.paris.vip).await;
    assert_eq!(ask(&client, b"a").await, b"a");
    let left = |site: &Site, of: &Drained| site.gateway.connections(of);
    let [paris, oregon] = [&pair.paris, &pair.oregon].map(|s| Drained::Cluster(s.name.clone()));
    // The connections that carry it are none of their own.
    assert_eq!(left(&pair.paris, &oregon), 1);
    assert_eq!(left(&pair.paris, &paris), 0);
    assert_eq!(left(&pair.oregon, &oregon), 1);
    assert_eq!(left(&pair.oregon, &Drained::Service(key())), 1);
    let other = ServiceKey::parse("shop/other").unwrap();
    assert_eq!(left(&pair.oregon, &Drained::Service(other)), 0);
}

#[tokio::test]
async fn a_refusal_moves_the_first_datagram_to_the_next_candidate() {
    let three = three(CallerRules::nobody()).await;
    let client = client_of(three.paris.vip).await;
    assert_eq!(ask(&client, b"once").await, b"tokyo once");
    assert_eq!(ended(&three.oregon, "not_exported"), 1);
    assert_eq!(dropped(&three.paris), []);
}

#[tokio::test]
async fn sessions_of_a_killed_peer_move_with_the_next_datagram() {
    let mut three = three(CallerRules::default()).await;
    let client = client_of(three.paris.vip).await;
    assert_eq!(ask(&client, b"a").await, b"oregon a");
    three.oregon.tasks.shutdown().await;
    ask_until(&client, b"tokyo").await;
    until(|| ended(&three.paris, "peer_lost") >= 1).await;
    assert_eq!(ended(&three.tokyo, "not_exported"), 0);
}

#[tokio::test]
async fn sessions_of_a_peer_that_is_down_move_though_its_connections_hang() {
    let mut three = three(CallerRules::default()).await;
    let client = client_of(three.paris.vip).await;
    assert_eq!(ask(&client, b"a").await, b"oregon a");
    // Found Down by health: nothing was heard since.
    let name = three.oregon.name.clone();
    let peer = three.paris.table.peers.get_mut(&name).unwrap();
    peer.health.replicas[0].reset_unheard_since = Some(crate::clock::now());
    three.paris.publish();
    candidates(&mut three.paris, &udp(), &["tokyo"]);
    ask_until(&client, b"tokyo").await;
    until(|| ended(&three.paris, "down") == 1).await;
}

#[tokio::test]
async fn at_the_cap_the_longest_idle_session_makes_room_and_comes_back_as_a_new_one() {
    const CAP: usize = 16;
    let pair = pair_with(Config { most_sessions: CAP, ..Config::default() }).await;
    let mut clients = Vec::new();
    for number in 0..3 * CAP {
        let client = client_of(pair.paris.vip).await;
        assert_eq!(ask(&client, &number.to_be_bytes()).await, number.to_be_bytes());
        clients.push(client);
    }
    for client in &clients {
        assert_eq!(ask(client, b"again").await, b"again");
    }
    let cap = CAP as f64;
    for site in [&pair.paris, &pair.oregon] {
        until(|| (gauge(site, "portolan_udp_sessions_open") - cap).abs() < 0.5).await;
        assert_eq!(dropped(site), []);
    }
    assert_eq!(ended(&pair.paris, "evicted"), 5 * CAP as u64);
}

#[tokio::test]
async fn a_closed_backend_port_ends_the_session_and_the_next_datagram_begins_another() {
    let mut pair = pair().await;
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let alive = Echo::start("alive ").await;
    export(&mut pair.oregon, &[gone.local_addr().unwrap()], CallerRules::default());
    let client = client_of(pair.paris.vip).await;
    client.send(b"a").await.unwrap();
    let mut buffer = [0; 1];
    soon(gone.recv(&mut buffer)).await.unwrap();
    drop(gone);
    client.send(b"b").await.unwrap();
    until(|| ended(&pair.oregon, "backend_refused") == 1).await;
    until(|| ended(&pair.paris, "peer_ended") == 1).await;
    export(&mut pair.oregon, &[alive.address], CallerRules::default());
    assert_eq!(ask(&client, b"c").await, b"alive c");
}

#[tokio::test]
async fn nobody_to_ask_is_a_refusal_and_silence_is_given_up() {
    let mut pair = pair().await;
    export(&mut pair.oregon, &[], CallerRules::default());
    let client = client_of(pair.paris.vip).await;
    client.send(b"a").await.unwrap();
    until(|| ended(&pair.oregon, "no_endpoint") > 0).await;
    until(|| ended(&pair.paris, "no_endpoint") == 1).await;
    assert_eq!(dropped(&pair.paris), [("unaccepted", 1)]);
    candidates(&mut pair.paris, &udp(), &[]);
    soon(async {
        // Refused by the kernel as soon as the listener is closed.
        while client.send(b"b").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_withdrawn_trust_ends_datagram_connections() {
    let pair = pair().await;
    let client = client_of(pair.paris.vip).await;
    assert_eq!(ask(&client, b"a").await, b"a");
    crate::testing::trust::unpin(pair.mesh.folder("paris").as_ref(), "oregon");
    assert!(pair.paris.trust.reload());
    until(|| ended(&pair.paris, "revoked") == 1).await;
    until(|| gauge(&pair.oregon, "portolan_udp_connections") < 0.5).await;
}

#[tokio::test]
async fn own_backends_answer_and_a_client_is_kept_to_one_where_that_is_wanted() {
    let mesh = Mesh::new(&["paris"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let backends = [Echo::start("1 ").await, Echo::start("2 ").await, Echo::start("3 ").await];
    let addresses = backends.each_ref().map(|backend| backend.address);
    let affinity = SessionAffinity::ClientIp { timeout_seconds: 60 };
    export_with(&mut paris, &udp(), &addresses, CallerRules::default(), affinity);
    import(&mut paris, &["paris"]).await;
    paris.change_route(|route| route.session_affinity = affinity);
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(ask(&client_of(paris.vip).await, b"").await);
    }
    assert_eq!(seen.len(), 1);
    paris.change_route(|route| route.session_affinity = SessionAffinity::None);
    export(&mut paris, &addresses, CallerRules::default());
    for _ in 0..200 {
        seen.insert(ask(&client_of(paris.vip).await, b"").await);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_draining_exporter_serves_its_sessions_and_refuses_new_ones() {
    let three = three(CallerRules::default()).await;
    let client = client_of(three.paris.vip).await;
    assert_eq!(ask(&client, b"a").await, b"oregon a");
    let mut oregon = three.oregon;
    let trigger = oregon.trigger.take().unwrap();
    trigger.advance(Phase::Announced);
    trigger.advance(Phase::Draining);
    let another = client_of(three.paris.vip).await;
    assert_eq!(ask(&another, b"b").await, b"tokyo b");
    assert_eq!(ask(&client, b"c").await, b"oregon c");
    trigger.advance(Phase::Forced);
    while let Some(task) = soon(oregon.tasks.join_next()).await {
        task.unwrap();
    }
    ask_until(&client, b"tokyo").await;
}

#[tokio::test]
async fn a_draining_importer_carries_its_sessions_and_begins_none() {
    let mut pair = pair().await;
    let client = client_of(pair.paris.vip).await;
    assert_eq!(ask(&client, b"a").await, b"a");
    let trigger = pair.paris.trigger.take().unwrap();
    trigger.advance(Phase::Draining);
    until(|| gauge(&pair.paris, "portolan_udp_listeners") < 0.5).await;
    let late = client_of(pair.paris.vip).await;
    late.send(b"late").await.unwrap();
    until(|| dropped(&pair.paris) == [("draining", 1)]).await;
    assert_eq!(ask(&client, b"b").await, b"b");
    trigger.advance(Phase::Forced);
    while let Some(task) = soon(pair.paris.tasks.join_next()).await {
        task.unwrap();
    }
    // It is told of the end, or sees the connection go first.
    until(|| ended(&pair.oregon, "peer_ended") + ended(&pair.oregon, "peer_lost") == 1).await;
}

#[tokio::test]
async fn a_stream_never_reaches_a_port_of_datagrams() {
    let pair = pair().await;
    let shared = Arc::clone(&pair.paris.gateway.shared);
    let mut conn = shared.dial(&pair.oregon.name, pair.oregon.address).await.unwrap();
    assert!(shared.ready(&mut conn).await.is_some());
    let stream = conn.role().open().unwrap();
    let asked = Asked::Port(ServiceKey::clone(&key()), udp().key());
    let (hops, client, trace, deadline_ms) = (0, Client::default(), [0; 16], 0);
    conn.queue(&Control::Open(Open {
        stream,
        asked,
        hops,
        client,
        trace,
        deadline_ms,
        early: false,
    }));
    let event = soon(conn.event(&mut Vec::new())).await.unwrap();
    let crate::gateway::role::Event::Reply(verdict) = event else { panic!("{event:?}") };
    assert_eq!(verdict, Verdict::NotExported);
}

/// A port that nobody has in either protocol.
async fn free_port() -> u16 {
    let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    drop(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await.unwrap());
    port
}

#[tokio::test]
async fn an_allocated_port_is_told_and_answers_from_each_address_that_is_asked() {
    let mesh = Mesh::new(&["paris", "oregon"]);
    let listen_on = ListenOn::Ports(Ipv6Addr::UNSPECIFIED.into());
    let config = Config { listen_on, ..Config::default() };
    let mut paris = Site::with_config(&mesh, "paris", Loops::Quiet, config);
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let backend = Echo::start("").await;
    export(&mut oregon, &[backend.address], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    candidates(&mut paris, &udp(), &["oregon"]);
    let port = free_port().await;
    let at = (Protocol::Udp, PortNumber::new(port.into()).unwrap());
    let mut open = paris.gateway.open_ports();
    paris.table.ports = Arc::new([(at, (key().into(), udp().key()))].into());
    paris.publish();
    soon(open.wait_for(|open| **open == BTreeSet::from([at]))).await.unwrap();
    for asked in ["127.0.0.1", "127.0.0.5", "::1"] {
        let to = SocketAddr::new(asked.parse().unwrap(), port);
        assert_eq!(ask(&client_of(to).await, b"x").await, b"x", "{asked}");
    }
    // One client that asks at two addresses is two sessions.
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for asked in ["127.0.0.7", "127.0.0.8"] {
        let to = SocketAddr::new(asked.parse().unwrap(), port);
        client.send_to(b"y", to).await.unwrap();
        let (_, from) = soon(client.recv_from(&mut [0; 8])).await.unwrap();
        assert_eq!(from, to);
    }
    candidates(&mut paris, &udp(), &[]);
    soon(open.wait_for(|open| open.is_empty())).await.unwrap();
}

/// A cluster that speaks one family, beside another that speaks the other one.
#[tokio::test]
async fn each_family_reaches_the_other_over_tcp_and_udp() {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    for (clients, backends) in [(v6, v4), (v4, v6)] {
        let mesh = Mesh::new(&["paris", "oregon"]);
        let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
        let mut oregon = Site::start_at(&mesh, "oregon", clients);
        let echo = Echo::at(&SocketAddr::new(backends, 0).to_string(), "").await;
        let tcp = TcpListener::bind((backends, 0)).await.unwrap();
        let port = spec(Protocol::Udp, free_port().await);
        let (anybody, affinity) = (CallerRules::default(), SessionAffinity::None);
        export_with(&mut oregon, &port, &[echo.address], anybody.clone(), affinity);
        paris.know("oregon", oregon.address, Some(oregon.replica));
        paris.vip = SocketAddr::new(clients, port.port.get());
        candidates(&mut paris, &port, &["oregon"]);
        until(|| gauge(&paris, "portolan_udp_listeners") > 0.5).await;
        assert_eq!(ask(&client_of(paris.vip).await, b"over").await, b"over", "{clients}");

        let port = PortSpec { protocol: Protocol::Tcp, ..port };
        export_with(&mut oregon, &port, &[tcp.local_addr().unwrap()], anybody, affinity);
        candidates(&mut paris, &port, &["oregon"]);
        until(|| gauge(&paris, "portolan_listeners") > 0.5).await;
        let mut client = soon(TcpStream::connect(paris.vip)).await.unwrap();
        let (mut server, _) = soon(tcp.accept()).await.unwrap();
        write(&mut client, b"over").await;
        assert_eq!(read_some(&mut server, 4).await, b"over");
        write(&mut server, b"back").await;
        assert_eq!(read_some(&mut client, 4).await, b"back");
    }
}
