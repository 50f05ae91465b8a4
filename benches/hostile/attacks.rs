//! The attacks: each begins some tasks that go on until they are ended.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use portolan::drain;
use portolan::testing::{trust, wire::Wire};
use portolan::tls::{Handlers, Limits, Listener};
use portolan::wire::control::{
    self, Body, ExportRecord, Hello, PortRecord, ProtocolCode, Record, RecordBody, ServiceTypeCode,
    SnapshotBegin, SnapshotChunk, SnapshotEnd, Synced,
};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{Scene, from};

/// Sources of a flood, and connections that each keeps open.
const SOURCES: u8 = 64;
const PER_SOURCE: u8 = 24;
/// Before one that was thrown out is back.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Services that one peer claims to have.
const SERVICES: u32 = 1_000_000;
const PER_CHUNK: u32 = 500;

/// One way to be a nuisance.
pub(crate) struct Attack {
    /// Its name.
    pub(crate) name: &'static str,
    /// Begins it.
    pub(crate) begin: fn(&Scene) -> JoinSet<()>,
}

/// All of them.
pub(crate) const ALL: [Attack; 4] = [
    Attack { name: "slow handshakes", begin: slow_handshakes },
    Attack { name: "half-open flood", begin: half_open },
    Attack { name: "oversize frames", begin: oversize },
    Attack { name: "a peer of 1 000 000 services", begin: huge_catalog },
];

fn target(scene: &Scene) -> SocketAddr {
    scene.world.gateway("oregon")
}

fn flood(scene: &Scene, octets: &'static [u8]) -> JoinSet<()> {
    let to = target(scene);
    let mut attackers = JoinSet::new();
    for source in 0..SOURCES {
        for _ in 0..PER_SOURCE {
            attackers.spawn(async move {
                loop {
                    if let Some(mut stream) = from(Ipv4Addr::new(127, 200, source, 1), to).await {
                        for octet in octets {
                            if stream.write_all(&[*octet]).await.is_err() {
                                break;
                            }
                            tokio::time::sleep(Duration::from_millis(400)).await;
                        }
                        // Until it is thrown out.
                        let _ended = stream.read(&mut [0]).await;
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            });
        }
    }
    attackers
}

/// A ClientHello, an octet at a time.
fn slow_handshakes(scene: &Scene) -> JoinSet<()> {
    flood(scene, &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 0, 0, 0, 0, 0])
}

/// Connections on which nothing is ever said.
fn half_open(scene: &Scene) -> JoinSet<()> {
    flood(scene, &[])
}

/// An authenticated peer whose frames are over every cap.
fn oversize(scene: &Scene) -> JoinSet<()> {
    let to = target(scene);
    let mut attackers = JoinSet::new();
    for word in [0x7fff_ffff_u32, 65_533, 0x82ff_ffff, 0xc0ff_ffff] {
        let client = trust::Client::of(
            &scene.world.trust("oregon"),
            "oregon",
            Some(trust::Leaf::of("tokyo").signed_by(&scene.world.trust("tokyo"))),
        );
        attackers.spawn(async move {
            loop {
                if let Ok(stream) = client.connect(to).await {
                    let mut wire = Wire::new(stream.into());
                    let _ready = wire.next().await;
                    let _ended = wire.raw(&word.to_be_bytes()).await;
                    let _ended = wire.raw(&[7; 64 * 1024]).await;
                    while wire.next().await.is_ok() {}
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    attackers
}

fn export(number: u32) -> bytes::Bytes {
    let record = ExportRecord {
        namespace: "shop".into(),
        name: format!("s{number}"),
        created_ms: 1,
        service_type: ServiceTypeCode::ClusterSetIp.into(),
        ports: vec![PortRecord {
            protocol: ProtocolCode::Tcp.into(),
            port: 80,
            ready: 1,
            ..PortRecord::default()
        }],
        ..ExportRecord::default()
    };
    Record { body: Some(RecordBody::Export(record)) }.encode_to_vec().into()
}

/// A publisher that never comes to an end of its services.
fn huge_catalog(scene: &Scene) -> JoinSet<()> {
    let (trust, _registry) = trust::open(&scene.world.trust("tokyo"), "tokyo");
    let listener = Listener::bind(scene.world.gateway("tokyo"), trust, Limits::default());
    let listener = listener.expect("tokyo has no agent of its own");
    let (control, mut accepted) = mpsc::channel(16);
    let (data, mut ignored) = mpsc::channel(16);
    let mut attackers = JoinSet::new();
    attackers.spawn(async move {
        let (_trigger, drain) = drain::channel();
        // It ends with the attack.
        let _ended = listener.run(Handlers { control, data, sibling: None }, drain).await;
    });
    attackers.spawn(async move {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                Some(accepted) = accepted.recv() => {
                    sessions.spawn(publish(accepted.stream));
                }
                Some(_) = ignored.recv() => {}
                else => return,
            }
        }
    });
    attackers
}

async fn publish(mut stream: portolan::tls::Stream) {
    let mut out = BytesMut::new();
    control::encode(
        Body::Hello(Hello {
            protocol_min: control::PROTOCOL_MIN,
            protocol_max: control::PROTOCOL_MAX,
            cluster: "tokyo".into(),
            replica: 1,
            replicas: vec![1],
            ..Hello::default()
        }),
        &mut out,
    );
    control::encode(Body::Synced(Synced { synced: true }), &mut out);
    control::encode(Body::SnapshotBegin(SnapshotBegin { revision: 1 }), &mut out);
    let mut next = 0;
    while next < SERVICES {
        let records = (next..next + PER_CHUNK).map(export).collect();
        control::encode(Body::SnapshotChunk(SnapshotChunk { records }), &mut out);
        next += PER_CHUNK;
        if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        out.clear();
    }
    let digest = bytes::Bytes::from_static(&[7; 32]);
    control::encode(Body::SnapshotEnd(SnapshotEnd { revision: 1, digest }), &mut out);
    let _ended = stream.write_all(&out).await;
    let _ended = stream.flush().await;
    let mut scratch = [0; 4096];
    while matches!(stream.read(&mut scratch).await, Ok(1..)) {}
}
