//! What a peer must not do, or ask for: S06 and S08.

use std::time::Duration;

use portolan::clock;
use portolan::testing::wire::{Heard, Wire, open, reply};
use portolan::testing::{Agent, Backend, PATIENCE, Process, World};
use portolan::wire::frame::{Control, Kind, MAX_BODY, Verdict};

use crate::stage::{assert_no_panic, loopback};

const BINARY: &str = env!("CARGO_BIN_EXE_portolan");

/// A frame with whatever kind, announced length and body.
fn frame(kind: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let word = 1 << 31 | u32::from(kind) << 24 | length;
    [&word.to_be_bytes(), body].concat()
}

fn whole(kind: u8, body: &[u8]) -> Vec<u8> {
    frame(kind, u32::try_from(body.len()).expect("short"), body)
}

/// Octet sequences that no opener may send on a fresh connection, each with its name.
fn malformed() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, octets: Vec<u8>| all.push((name.to_owned(), octets));
    add("payload of nothing", vec![0; 4]);
    add("payload over the cap", 65_533_u32.to_be_bytes().to_vec());
    add("payload far over the cap", 0x7fff_ffff_u32.to_be_bytes().to_vec());
    add("payload on an idle connection", [&3_u32.to_be_bytes()[..], b"abc"].concat());
    add("body over the cap", frame(Kind::Open as u8, 4_097, &[]));
    add("body far over the cap", frame(Kind::Open as u8, 0xff_ffff, &[]));
    add("skipped body over the cap", frame(64, 4_097, &[]));
    let known = Kind::Ready as u8..=Kind::Drain as u8;
    for kind in (0..64).filter(|kind| !known.contains(kind)) {
        add(&format!("unknown kind {kind}"), whole(kind, b"\x08\x01"));
    }
    for kind in [Kind::Ready, Kind::Reply, Kind::Drain, Kind::Fin] {
        add(&format!("{kind:?} out of place"), whole(kind as u8, b"\x08\x01"));
    }
    for kind in [Kind::Open, Kind::Ping, Kind::Pong, Kind::Cancel, Kind::Reset] {
        // A varint without an end; a field longer than its body; a group that never ends.
        for body in [&[0xff; 16][..], b"\x12\x7fabc", b"\x0b\x0b\x0b\x0b", b"\x08"] {
            add(&format!("{kind:?} with the body {body:02x?}"), whole(kind as u8, body));
        }
    }
    let name = [&[0x12, 4][..], &[0xff, 0xfe, b'/', b'a']].concat();
    add("a name that is no UTF-8", whole(Kind::Open as u8, &name));
    add("OPEN without a number", whole(Kind::Open as u8, b"\x12\x08shop/web"));
    all
}

/// oregon's services: one for all, one for tokyo only, one whose callers are tokyo's only.
fn export_all(world: &World, echo: &Backend) {
    let backends = [echo.address];
    world.export("oregon", "shop/web", 80, &backends);
    world.export_with("oregon", "shop/closed", 80, &backends, "portolan.dev/clusters: tokyo");
    let allow = "portolan.dev/allow: tokyo/*/*";
    world.export_with("oregon", "shop/callers", 80, &backends, allow);
    let accounts = "portolan.dev/allow: \"paris/*/root\"";
    world.export_with("oregon", "shop/accounts", 80, &backends, accounts);
    let (address, port) = (echo.address.ip(), echo.address.port());
    world.manifest(
        "oregon",
        "private.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: private }}\n\
             spec: {{ ports: [ {{ port: 80 }} ] }}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             namespace: shop\n  name: private-1\n  labels: {{ \
             kubernetes.io/service-name: private }}\naddressType: IPv4\n\
             ports: [ {{ port: {port} }} ]\nendpoints: [ {{ addresses: [\"{address}\"] }} ]\n"
        ),
    );
}

async fn ready(agent: &Agent) {
    agent.until("web.shop", |service| service.candidates.iter().any(|c| c.usable)).await;
}

async fn dial(world: &World) -> Wire {
    Wire::dial(world, "paris", "oregon", world.gateway("oregon")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn s08_malformed_frames_close_their_connection_and_no_other() {
    let world = World::new(&["paris", "oregon", "tokyo"]);
    let echo = Backend::echo(loopback()).await;
    export_all(&world, &echo);
    let oregon = world.start("oregon");
    ready(&oregon).await;
    let mut sound = dial(&world).await;
    sound.control(open(1, "shop/web", 80)).await.unwrap();
    assert_eq!(sound.expect().await, reply(1, Verdict::Accepted));
    let mut told = false;
    for (name, octets) in malformed() {
        let mut wire = dial(&world).await;
        // The answer may be a reset in the middle of it.
        let _cut = wire.raw(&octets).await;
        let answer = wire.until_closed().await;
        assert_eq!(answer, [], "{name}");
        sound.payload(b"other").await.unwrap();
        assert_eq!(sound.octets(5).await, b"other", "{name}: another connection suffers");
        told = true;
    }
    assert!(told);
    // Cut short at every octet.
    let mut octets = Vec::new();
    open(1, "shop/web", 80).encode(&mut octets);
    for length in 1..octets.len() {
        let mut wire = dial(&world).await;
        wire.raw(&octets[..length]).await.unwrap();
        wire.close().await;
    }
    // Later versions' kinds are read over, whatever they carry.
    for kind in [64, 100, 127] {
        let mut wire = dial(&world).await;
        let body = vec![0xff; MAX_BODY];
        wire.raw(&whole(kind, &[])).await.unwrap();
        wire.raw(&whole(kind, &body)).await.unwrap();
        wire.control(Control::Ping(1)).await.unwrap();
        assert_eq!(wire.expect().await, Control::Pong(1), "kind {kind}");
    }
    assert_no_panic(&oregon).await;
    let page = oregon.admin.metrics().await.unwrap();
    assert!(
        page.contains("portolan_streams_open{direction=\"inbound\"} 1"),
        "only the sound stream is open"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s08_a_flood_of_malformed_frames_logs_a_line_a_second_at_most() {
    let world = World::new(&["paris", "oregon", "tokyo"]);
    let echo = Backend::echo(loopback()).await;
    export_all(&world, &echo);
    let config = world.write_config("oregon", |peer| vec![world.gateway(peer)]);
    let mut oregon = Process::start(BINARY, &config, world.admin("oregon"));
    oregon.ready(PATIENCE).await;
    let before = oregon.log().lines().count();
    let begun = clock::now();
    for _ in 0..3 {
        for (name, octets) in malformed() {
            let mut wire = dial(&world).await;
            // The answer may be a reset in the middle of it.
            let _cut = wire.raw(&octets).await;
            assert_eq!(wire.until_closed().await, [], "{name}");
        }
    }
    let seconds = (clock::now() - begun).as_secs_f64();
    let log = oregon.log();
    let lines: Vec<&str> = log.lines().skip(before).collect();
    #[allow(clippy::cast_precision_loss, reason = "a few lines")]
    let count = lines.len() as f64;
    assert!(count <= seconds + 2.0, "{count} lines in {seconds} s:\n{}", lines.join("\n"));
    let page = oregon.admin.metrics().await.unwrap();
    let panics = page.lines().filter(|line| line.starts_with("portolan_panics_total"));
    assert!(panics.clone().count() > 0 && panics.clone().all(|line| line.ends_with(" 0")));
}

/// An `OPEN` by hand: names that no type of ours would hold.
fn asking(stream: u8, service: &[u8], protocol: u8, port: u32) -> Vec<u8> {
    let mut body = vec![0x08, stream, 0x12];
    varint(service.len(), &mut body);
    body.extend_from_slice(service);
    body.extend_from_slice(&[0x18, protocol, 0x20]);
    varint(usize::try_from(port).expect("fits"), &mut body);
    whole(Kind::Open as u8, &body)
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).expect("7 bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("7 bits"));
}

/// What paris may not have: names of every kind, the protocol number, the port.
async fn not_exported(world: &World, oregon: &Agent, echo: &Backend) -> Vec<(Vec<u8>, u8, u32)> {
    let long = [b"shop/".as_slice(), &[b'a'; 300]].concat();
    let endpoint = echo.address.to_string();
    let vip = oregon.vip("web.shop").await.to_string();
    let admin = world.admin("oregon").to_string();
    let names: [&[u8]; 34] = [
        b"shop/absent",
        b"shop/private",
        b"shop/closed",
        b"shop/callers",
        b"shop/accounts",
        b"other/web",
        b"shop/WEB",
        b"SHOP/web",
        b"Shop/Web",
        b"shop/web.",
        b"shop./web",
        b"shop/web/",
        b"/shop/web",
        b"shop//web",
        b"shop/../shop/web",
        b"../shop/web",
        b"shop/..",
        b"..",
        b".",
        b"",
        b"/",
        b"shop",
        b"web",
        b"shop/web\0",
        b"shop\0/web",
        b"\0",
        b" shop/web",
        b"shop/web ",
        b"shop/web\r\nHost: admin",
        b"web.shop.svc.clusterset.local",
        b"portolan/echo",
        &long,
        endpoint.as_bytes(),
        vip.as_bytes(),
    ];
    let mut asked: Vec<(Vec<u8>, u8, u32)> =
        names.iter().map(|name| (name.to_vec(), 1, 80)).collect();
    asked.extend(
        [admin.as_bytes(), b"127.0.0.1:22", b"169.254.169.254", b"[::1]:80"]
            .map(|name| (name.to_vec(), 1, 80)),
    );
    // The right name, but another port or protocol.
    let backend = u32::from(echo.address.port());
    for (protocol, port) in [
        (1, 81),
        (1, 0),
        (1, 443),
        (1, 8443),
        (1, backend),
        (1, 65_536 + 80),
        (1, u32::MAX),
        (2, 80),
        (3, 80),
        (0, 80),
        (4, 80),
        (127, 80),
    ] {
        asked.push((b"shop/web".to_vec(), protocol, port));
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_whatever_is_not_exported_meets_one_and_the_same_refusal() {
    let world = World::new(&["paris", "oregon", "tokyo"]);
    let echo = Backend::echo(loopback()).await;
    export_all(&world, &echo);
    let oregon = world.start("oregon");
    ready(&oregon).await;
    oregon.until("callers.shop", |service| service.candidates.iter().any(|c| c.usable)).await;
    let asked = not_exported(&world, &oregon, &echo).await;
    let before = echo.accepted();
    let mut wire = dial(&world).await;
    for (place, (name, protocol, port)) in asked.iter().enumerate() {
        let stream = u8::try_from(place + 1).expect("fewer than 128");
        assert!(stream < 128);
        wire.raw(&asking(stream, name, *protocol, *port)).await.unwrap();
        let answer = wire.heard().await;
        let refusal = Heard::Control(reply(stream.into(), Verdict::NotExported));
        let name = String::from_utf8_lossy(name);
        assert_eq!(answer, refusal, "{name:?}, protocol {protocol}, port {port}");
    }
    assert_eq!(echo.accepted(), before, "a backend was touched");
    let next = u8::try_from(asked.len() + 1).expect("few");
    wire.raw(&asking(next, b"shop/web", 1, 80)).await.unwrap();
    assert_eq!(wire.expect().await, reply(next.into(), Verdict::Accepted), "what is exported is");
    // The same service is there for whom it is meant.
    let mut tokyo = Wire::dial(&world, "tokyo", "oregon", world.gateway("oregon")).await;
    for (stream, key) in [(1, "shop/closed"), (2, "shop/callers")] {
        tokyo.control(open(stream, key, 80)).await.unwrap();
        assert_eq!(tokyo.expect().await, reply(stream, Verdict::Accepted), "{key}");
        tokyo.control(Control::Fin).await.unwrap();
        assert_eq!(tokyo.expect().await, Control::Fin);
    }
    assert_no_panic(&oregon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_too_many_hops_and_absent_accounts_are_refused_alike() {
    let world = World::new(&["paris", "oregon", "tokyo"]);
    let echo = Backend::echo(loopback()).await;
    export_all(&world, &echo);
    let oregon = world.start("oregon");
    ready(&oregon).await;
    let mut wire = dial(&world).await;
    let Control::Open(mut far) = open(1, "shop/web", 80) else { unreachable!("an OPEN") };
    far.hops = 3;
    wire.control(Control::Open(far)).await.unwrap();
    assert_eq!(wire.expect().await, reply(1, Verdict::NotExported));
    for (stream, account, verdict) in [
        (2, Some("nobody"), Verdict::NotExported),
        (3, None, Verdict::NotExported),
        (4, Some("*"), Verdict::NotExported),
        (5, Some("root"), Verdict::Accepted),
    ] {
        let Control::Open(mut ask) = open(stream, "shop/accounts", 80) else {
            unreachable!("an OPEN")
        };
        ask.client.namespace = Some("any".into());
        ask.client.service_account = account.map(Into::into);
        wire.control(Control::Open(ask)).await.unwrap();
        assert_eq!(wire.expect().await, reply(stream, verdict), "{account:?}");
    }
    assert!(wire.is_quiet(Duration::from_millis(100)).await);
}
