//! Where the search begins: inputs made of real messages, for `conformance/fuzz/corpus`.

use std::net::IpAddr;
use std::str::FromStr;

use bytes::BytesMut;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use prost::Message as _;

use crate::model::{PortNumber, Protocol, ReplicaId};
use crate::testing::wire::{aborted, cancelled, open, reply};
use crate::wire::control::{self, Body};
use crate::wire::frame::{Control, Header, Ready, Verdict};
use crate::wire::sibling;

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The target that it is for.
    pub target: &'static str,
    /// What it shows.
    pub name: String,
    /// Its octets.
    pub octets: Vec<u8>,
}

/// All inputs that the committed corpus begins with; always the same.
///
/// # Panics
/// Never: all names in them are well-formed.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut all = Vec::new();
    frames(&mut all);
    messages(&mut all);
    datagrams(&mut all);
    odd_datagrams(&mut all);
    questions(&mut all);
    annotations(&mut all);
    all
}

fn add(all: &mut Vec<Seed>, target: &'static str, name: &str, octets: Vec<u8>) {
    all.push(Seed { target, name: name.to_owned(), octets });
}

/// Who we are, what we do, what comes.
fn conversation(role: u8, ours: &[u8], parts: &[Part<'_>]) -> Vec<u8> {
    let count = u8::try_from(ours.len()).expect("a few actions");
    let mut octets = [&[role, count], ours].concat();
    for part in parts {
        match part {
            Part::Frame(frame) => frame.encode(&mut octets),
            Part::Payload(payload) => {
                octets.extend_from_slice(&Header::payload(payload.len()));
                octets.extend_from_slice(payload);
            }
        }
    }
    octets
}

enum Part<'a> {
    Frame(Control),
    Payload(&'a [u8]),
}

fn frames(all: &mut Vec<Seed>) {
    use Part::{Frame, Payload};
    let ready = || Frame(Control::Ready(Ready { replica: ReplicaId::from_u64(7) }));
    let asked = |stream| Frame(open(stream, "shop/web", 80));
    let fin = || Frame(Control::Fin);
    let payload = Payload(b"GET / HTTP/1.1\r\n\r\n");
    let served = [asked(1), payload, Frame(Control::Ping(3)), fin(), asked(2), fin()];
    add(all, "frames", "acceptor-serves-two", conversation(0, &[0, 5, 5, 2], &served));
    let given_up = [asked(1), Frame(Control::Cancel(1)), asked(2), Frame(aborted(2))];
    add(all, "frames", "acceptor-cancelled", conversation(0, &[5], &given_up));
    let refused = [asked(1), asked(2), Frame(Control::Pong(1)), asked(3)];
    add(all, "frames", "acceptor-refuses", conversation(0, &[1], &refused));
    let accepted = |stream| Frame(reply(stream, Verdict::Accepted));
    let answered = [ready(), accepted(1), Payload(b"HTTP/1.1 200 OK\r\n"), fin(), accepted(2)];
    add(all, "frames", "opener-served", conversation(1, &[0, 5, 5, 2, 0], &answered));
    let moved = [ready(), Frame(reply(1, Verdict::Overloaded)), Frame(Control::Drain), accepted(2)];
    add(all, "frames", "opener-refused", conversation(1, &[0, 0, 5, 5], &moved));
    let lost = [ready(), Frame(Control::Pong(7)), Frame(cancelled(1)), accepted(2)];
    add(all, "frames", "opener-cancels", conversation(1, &[0, 1, 0], &lost));
    let step = |who: u8, action: u8| action << 2 | who;
    let one = [(2, 0), (0, 0), (3, 0), (1, 0), (2, 0), (0, 5), (1, 5), (3, 0), (2, 0), (0, 2)];
    let one: Vec<u8> = one.map(|(who, action)| step(who, action)).to_vec();
    add(all, "crossing", "one-stream", one);
    let crossed = [(2, 0), (0, 0), (0, 1), (3, 0), (1, 0), (1, 5), (3, 0), (2, 0), (2, 0), (0, 0)];
    add(all, "crossing", "cancel", crossed.map(|(who, action)| step(who, action)).to_vec());
}

fn control_bodies() -> Vec<Body> {
    let digest = bytes::Bytes::from_static(&[7; 32]);
    let record = bytes::Bytes::from(export());
    vec![
        Body::Hello(control::Hello {
            protocol_min: control::PROTOCOL_MIN,
            protocol_max: control::PROTOCOL_MAX,
            cluster: "paris".into(),
            replica: 0x0102_0304_0506_0708,
            features: 0,
            addresses: vec!["127.0.1.1:8443".into(), "gateway.example.org:8443".into()],
            network: "flat".into(),
            version: "0.1.0".into(),
            replicas: vec![0x0102_0304_0506_0708, 9],
            region: "eu".into(),
            zone: "a".into(),
        }),
        Body::Subscribe(control::Subscribe { digest: digest.clone(), revision: 4 }),
        Body::Synced(control::Synced { synced: true }),
        Body::SnapshotBegin(control::SnapshotBegin { revision: 5 }),
        Body::SnapshotChunk(control::SnapshotChunk {
            records: vec![record.clone(), bytes::Bytes::from(endpoint())],
        }),
        Body::SnapshotEnd(control::SnapshotEnd { revision: 5, digest: digest.clone() }),
        Body::Delta(control::Delta {
            revision: 6,
            removals: vec![control::Removal {
                namespace: "shop".into(),
                name: "web".into(),
                hash: digest.clone(),
            }],
            upserts: vec![record],
            digest: digest.clone(),
        }),
        Body::Digest(control::Digest { digest, revision: 6 }),
        Body::Drain(control::Drain { draining: true }),
    ]
}

fn export() -> Vec<u8> {
    let record = control::ExportRecord {
        namespace: "shop".into(),
        name: "web".into(),
        created_ms: 1_700_000_000_000,
        service_type: control::ServiceTypeCode::ClusterSetIp.into(),
        ports: vec![control::PortRecord {
            name: "http".into(),
            protocol: control::ProtocolCode::Tcp.into(),
            port: 80,
            app_protocol: Some("kubernetes.io/h2c".into()),
            ready: 3,
        }],
        client_ip_timeout_seconds: Some(10_800),
        ip_families: vec![control::IpFamilyCode::V4.into(), control::IpFamilyCode::V6.into()],
        internal_traffic_policy: Some("Cluster".into()),
        traffic_distribution: Some("PreferClose".into()),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [("note".to_owned(), "any text".to_owned())].into(),
        settings: Some(control::SettingsRecord {
            policy: control::PolicyCode::Pinned.into(),
            pinned: vec!["oregon".into(), "tokyo".into()],
            fence: control::FenceCode::Region.into(),
            dns: control::DnsCode::Vip.into(),
            weight: Some(250),
            early_data: true,
            proxy_protocol: control::ProxyCode::V2.into(),
            local: control::LocalCode::Gateway.into(),
            share: Some(40),
        }),
    };
    control::Record { body: Some(control::RecordBody::Export(record)) }.encode_to_vec()
}

fn endpoint() -> Vec<u8> {
    let record = control::EndpointRecord {
        namespace: "data".into(),
        name: "db".into(),
        address: bytes::Bytes::from_static(&[10, 1, 0, 5]),
        hostname: Some("db-0".into()),
        ports: vec![control::PortRef {
            protocol: control::ProtocolCode::Tcp.into(),
            port: 5432,
            target: 5433,
        }],
    };
    control::Record { body: Some(control::RecordBody::Endpoint(record)) }.encode_to_vec()
}

fn messages(all: &mut Vec<Seed>) {
    let mut session = vec![2];
    for body in control_bodies() {
        let kind = body.kind();
        let mut octets = BytesMut::from(&[1_u8][..]);
        control::encode(body, &mut octets);
        session.extend_from_slice(&octets[1..]);
        add(all, "control", kind, octets.to_vec());
    }
    add(all, "control", "session", session);
    add(all, "records", "export", export());
    add(all, "records", "endpoint", endpoint());
    let port = |number| PortNumber::new(number).expect("a port");
    let open = [(Protocol::Tcp, port(20_001)), (Protocol::Udp, port(53))];
    for body in [
        sibling::Body::Hello(sibling::Hello {
            protocol_min: sibling::PROTOCOL_MIN,
            protocol_max: sibling::PROTOCOL_MAX,
            replica: 5,
            uid: "0b8f6c1e-59ab-4c3d-8f5c-000000000001".into(),
        }),
        sibling::Body::State(sibling::State::new(&open[1..], true)),
        sibling::Body::State(sibling::State::new(&open, false)),
        sibling::Body::Ping(sibling::Ping { number: 300 }),
        sibling::Body::Pong(sibling::Pong { number: 300 }),
    ] {
        let kind = body.kind();
        let mut octets = BytesMut::from(&[0_u8][..]);
        sibling::encode(body, &mut octets);
        let name = format!("{kind}-{}", octets.len());
        add(all, "sibling", &name, octets.to_vec());
    }
}

fn datagrams(all: &mut Vec<Seed>) {
    let mut ask = |name: &str, of: RecordType, class: DNSClass, edns: Option<u16>| {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        let mut query = Query::query(Name::from_str(name).expect("a name"), of);
        query.set_query_class(class);
        message.add_query(query);
        if let Some(payload) = edns {
            let mut opt = Edns::new();
            opt.set_max_payload(payload).set_version(0);
            message.edns = Some(opt);
        }
        let octets = message.to_vec().expect("a message that can be written");
        let label = name.split('.').next().filter(|label| !label.is_empty()).unwrap_or("root");
        let name =
            format!("{label}-{of}-{class}{}", edns.map_or(String::new(), |p| format!("-{p}")));
        add(all, "dns", &name.to_ascii_lowercase(), octets);
    };
    let web = "web.shop.svc.clusterset.local.";
    let more = "more.data.svc.clusterset.local.";
    for of in [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::TXT] {
        ask(web, of, DNSClass::IN, None);
        ask(more, of, DNSClass::IN, Some(1232));
    }
    ask(more, RecordType::SRV, DNSClass::IN, Some(4096));
    ask("near.shop.svc.clusterset.local.", RecordType::A, DNSClass::IN, Some(512));
    ask("_sql._tcp.db.data.svc.clusterset.local.", RecordType::SRV, DNSClass::IN, Some(1232));
    ask("db-0.paris.db.data.svc.clusterset.local.", RecordType::A, DNSClass::ANY, None);
    ask("none.shop.svc.clusterset.local.", RecordType::A, DNSClass::IN, None);
    ask("clusterset.local.", RecordType::SOA, DNSClass::IN, None);
    ask("dns-version.clusterset.local.", RecordType::TXT, DNSClass::IN, None);
    ask(".", RecordType::NS, DNSClass::IN, None);
    ask(web, RecordType::AXFR, DNSClass::IN, None);
    ask(web, RecordType::A, DNSClass::CH, Some(1232));
    let reverse = Name::from(IpAddr::from([127, 64, 0, 1])).to_ascii();
    ask(&reverse, RecordType::PTR, DNSClass::IN, None);
}

/// What no encoder writes: the faults that the rules on the wire name.
fn odd_datagrams(all: &mut Vec<Seed>) {
    let header = |flags: u16, counts: [u16; 4]| {
        let words = [&[0x1234, flags][..], &counts].concat();
        words.into_iter().flat_map(u16::to_be_bytes).collect::<Vec<u8>>()
    };
    let web = question("web.shop.svc.clusterset.local", 1, 1);
    let more = question("more.data.svc.clusterset.local", 255, 1);
    // Owner, type, payload 1232, code and version, flags, length.
    let opt = |version: u8, data: &[u8]| {
        let length = u16::try_from(data.len()).expect("a short option").to_be_bytes();
        [&[0, 0, 41, 4, 208, 0, version, 0x80, 0][..], &length, data].concat()
    };
    let cookie = [&[0, 10, 0, 8][..], b"12345678"].concat();
    let ask = header(0x0100, [1, 0, 0, 0]);
    let with_opt = header(0x0100, [1, 0, 0, 1]);
    let pointer = |octets: &[u8]| [octets, &[0, 1, 0, 1]].concat();
    for (name, parts) in [
        ("bare-header", [header(0x0100, [0; 4]), vec![], vec![]]),
        ("eleven-octets", [ask[..11].to_vec(), vec![], vec![]]),
        ("an-answer", [header(0x8180, [1, 0, 0, 0]), web.clone(), vec![]]),
        ("two-questions", [header(0x0100, [2, 0, 0, 0]), web.clone(), web.clone()]),
        ("itself", [ask.clone(), pointer(&[0xC0, 12]), vec![]]),
        ("loop", [ask.clone(), pointer(&[1, b'a', 0xC0, 12]), vec![]]),
        ("label-64", [ask.clone(), pointer(&[&[64][..], &[b'a'; 64], &[0]].concat()), vec![]]),
        ("trailing", [ask.clone(), web.clone(), vec![0]]),
        ("promised", [header(0x0100, [1, 1, 1, 1]), web.clone(), vec![]]),
        ("notify", [header(0x2000, [1, 0, 0, 0]), web.clone(), vec![]]),
        ("cookie", [with_opt.clone(), web.clone(), opt(0, &cookie)]),
        ("badvers", [with_opt.clone(), web.clone(), opt(1, &[])]),
        ("bad-option", [with_opt.clone(), web.clone(), opt(0, &cookie[..6])]),
        ("two-opt", [header(0x0100, [1, 0, 0, 2]), web.clone(), opt(0, &[]).repeat(2)]),
        ("opt-as-answer", [header(0x0100, [1, 1, 0, 0]), web, opt(0, &[])]),
        ("any-of-many", [with_opt, more, opt(0, &[])]),
    ] {
        add(all, "dns", name, parts.concat());
    }
}

/// A question on the wire.
fn question(name: &str, qtype: u16, class: u16) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).expect("a short label"));
        octets.extend_from_slice(label.as_bytes());
    }
    octets.push(0);
    octets.extend([qtype, class].into_iter().flat_map(u16::to_be_bytes));
    octets
}

fn questions(all: &mut Vec<Seed>) {
    for (name, asked, qtype, class) in [
        ("a", "WEB.shop.svc.clusterset.local", 1, 1),
        ("aaaa", "web.shop.svc.clusterset.local", 28, 255),
        ("srv", "_http._tcp.web.shop.svc.clusterset.local", 33, 1),
        ("pods", "more.data.svc.clusterset.local", 33, 1),
        ("pod", "db-0.tokyo.db.data.svc.clusterset.local", 1, 1),
        ("address", "10-1-0-6.paris.db.data.svc.clusterset.local", 255, 1),
        ("cluster", "paris.db.data.svc.clusterset.local", 1, 1),
        ("none", "none.data.svc.clusterset.local", 1, 1),
        ("namespace", "shop.svc.clusterset.local", 12, 1),
        ("text", "dns-version.clusterset.local", 16, 1),
        ("apex", "clusterset.local", 6, 1),
        ("server", "ns.dns.clusterset.local", 1, 1),
        ("root", "", 2, 1),
        ("beside", "xclusterset.local", 1, 1),
        ("chaos", "web.shop.svc.clusterset.local", 1, 3),
        ("transfer", "clusterset.local", 252, 1),
    ] {
        add(all, "question", name, question(asked, qtype, class));
    }
    let longest = [63, 63, 63, 61].map(|length| "a".repeat(length)).join(".");
    add(all, "question", "longest", question(&longest, 1, 1));
    add(all, "question", "too-long", question(&format!("a.{longest}"), 1, 1));
    add(all, "question", "pointer", vec![3, b'w', b'e', b'b', 0xC0, 0x0C, 0, 1, 0, 1]);
}

fn annotations(all: &mut Vec<Seed>) {
    for (name, text) in [
        ("policy", "policy=nearest\n"),
        ("pinned", "policy=pinned: oregon,tokyo\nfence=region\ndns=endpoints\n"),
        ("numbers", "weight=0\nearly-data=true\nproxy-protocol=v2\nlocal=gateway\n"),
        ("rules", "clusters=paris, oregon\nallow=paris/shop/front, oregon/*/web.front,*/*/*\n"),
        ("bad", "weight=1001\nallow=paris/Shop\nclusters=,\ncolour=red\npolicy=pinned:\n"),
    ] {
        add(all, "annotations", name, text.as_bytes().to_vec());
    }
}
