//! UDP through whole agents, from manifests: a datagram and its answer, and QUIC, whose client and
//! server know nothing of what is between them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan::testing::{Agent, PATIENCE, World};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use rustls::RootCertStore;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Octets sent each way on each of the streams.
const OCTETS: usize = 1024 * 1024;
const STREAMS: u8 = 4;

/// paris imports what oregon exports; where paris's clients ask.
async fn pair(world: &World, port: u16, backend: SocketAddr) -> (Agent, Agent, SocketAddr) {
    world.export_udp("oregon", "shop/talk", port, &[backend]);
    let (paris, oregon) = (world.start("paris"), world.start("oregon"));
    paris.led_by("talk.shop", "oregon").await;
    let vip = paris.vip("talk.shop").await;
    assert_eq!(vip.port(), port);
    (paris, oregon, vip)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datagram_is_answered_from_the_address_that_was_asked() {
    let world = World::new(&["paris", "oregon"]);
    let backend = UdpSocket::bind((world.host("oregon", 2), 0)).await.expect("a free port");
    let (_paris, _oregon, vip) = pair(&world, 5353, backend.local_addr().expect("bound")).await;
    let mut echo = JoinSet::new();
    echo.spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((octets, from)) = backend.recv_from(&mut buffer).await {
            backend.send_to(&buffer[..octets], from).await.expect("sent");
        }
    });
    let client = UdpSocket::bind((world.host("paris", 3), 0)).await.expect("a free port");
    client.connect(vip).await.expect("a route");
    let mut buffer = [0; 16];
    let answered = async {
        loop {
            // Refused until the listener is open; then the first one is answered.
            if client.send(b"there").await.is_ok() {
                match client.recv(&mut buffer).await {
                    Ok(octets) => return octets,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
    };
    let octets = tokio::time::timeout(PATIENCE, answered).await.expect("an answer");
    assert_eq!(&buffer[..octets], b"there");
}

/// A server that gives back every stream, and what its client must believe.
fn quic_server(address: SocketAddr) -> (Endpoint, ClientConfig) {
    let issued = rcgen::generate_simple_self_signed(["talk.test".to_owned()]).expect("a pair");
    let certificate = issued.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
    let config = ServerConfig::with_single_cert(vec![certificate.clone()], key.into());
    let server = Endpoint::server(config.expect("a pair that fits"), address).expect("a free port");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("roots");
    (server, client)
}

async fn give_back(server: Endpoint) {
    let mut streams = JoinSet::new();
    while let Some(incoming) = server.accept().await {
        let connection = incoming.await.expect("a handshake");
        streams.spawn(async move {
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let octets = recv.read_to_end(OCTETS).await.expect("all of it");
                send.write_all(&octets).await.expect("taken");
                send.finish().expect("open");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_works_through_two_gateways() {
    let world = World::new(&["paris", "oregon"]);
    let (server, config) = quic_server((world.host("oregon", 2), 0).into());
    let (_paris, _oregon, vip) = pair(&world, 4433, server.local_addr().expect("bound")).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(give_back(server));
    let mut client = Endpoint::client((world.host("paris", 3), 0).into()).expect("a free port");
    client.set_default_client_config(config);
    // QUIC repeats its first packet itself should the listener not be open yet.
    let connecting = client.connect(vip, "talk.test").expect("a name");
    let connection =
        tokio::time::timeout(PATIENCE, connecting).await.expect("in time").expect("a handshake");
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let connection = connection.clone();
        streams.spawn(async move {
            let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
            let octets = vec![number; OCTETS];
            let sent = async {
                send.write_all(&octets).await.expect("taken");
                send.finish().expect("open");
            };
            let (back, ()) = tokio::join!(recv.read_to_end(OCTETS), sent);
            assert_eq!(back.expect("all of it"), octets);
        });
    }
    tokio::time::timeout(PATIENCE, streams.join_all()).await.expect("all streams in time");
    connection.close(0_u8.into(), b"done");
}
