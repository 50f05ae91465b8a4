//! The rules on the wire, on raw octets: `wire` and `rows` without sockets, `exchanges` and `sockets` over loopback.

mod compiled;
mod connection;
mod exchanges;
mod faults;
mod places;
mod property;
mod rows;
mod sockets;
mod stale;
mod swaps;
mod tls;
mod wire;

use std::net::IpAddr;

use hickory_proto::op::Message;

use super::*;
use crate::clock;
use crate::model::DnsName;
use crate::routes::RouteTable;
use crate::testing::table::Tables;

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const OPT: u16 = 41;
const IXFR: u16 = 251;
const AXFR: u16 = 252;
const ANY: u16 = 255;
const IN: u16 = 1;
const CH: u16 = 3;

const WEB: &str = "web.shop.svc.clusterset.local";
const ID: u16 = 0x1234;

/// Octets of a query, spelt out.
#[derive(Clone)]
struct Wire(Vec<u8>);

/// A query with one question, RD set.
fn query(name: &str, qtype: u16) -> Wire {
    Wire::header(ID, 0x0100, [1, 0, 0, 0]).question(name, qtype, IN)
}

impl Wire {
    fn header(id: u16, flags: u16, counts: [u16; 4]) -> Self {
        let mut wire = Self(Vec::new());
        for number in [[id, flags].as_slice(), &counts].concat() {
            wire.0.extend(number.to_be_bytes());
        }
        wire
    }

    fn question(self, name: &str, qtype: u16, class: u16) -> Self {
        self.raw(&name_octets(name)).u16(qtype).u16(class)
    }

    /// An OPT record with everything right but what is given; counts it.
    fn opt(self, payload: u16, ttl: u32, data: &[u8]) -> Self {
        self.record(&[0], OPT, payload, ttl, data).add(10, 1)
    }

    fn record(self, owner: &[u8], rtype: u16, class: u16, ttl: u32, data: &[u8]) -> Self {
        let length = u16::try_from(data.len()).unwrap();
        self.raw(owner).u16(rtype).u16(class).raw(&ttl.to_be_bytes()).u16(length).raw(data)
    }

    fn u16(self, number: u16) -> Self {
        self.raw(&number.to_be_bytes())
    }

    fn raw(mut self, octets: &[u8]) -> Self {
        self.0.extend_from_slice(octets);
        self
    }

    /// Adds to the 16-bit number at an offset: 4 QDCOUNT, 6 AN, 8 NS, 10 AR.
    fn add(mut self, at: usize, more: u16) -> Self {
        let number = u16::from_be_bytes([self.0[at], self.0[at + 1]]) + more;
        self.0[at..at + 2].copy_from_slice(&number.to_be_bytes());
        self
    }

    fn flags(mut self, flags: u16) -> Self {
        self.0[2..4].copy_from_slice(&flags.to_be_bytes());
        self
    }

    fn framed(&self) -> Vec<u8> {
        let length = u16::try_from(self.0.len()).unwrap();
        [&length.to_be_bytes()[..], &self.0].concat()
    }
}

fn name_octets(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets
}

fn policy() -> Policy {
    Policy { ttl_seconds: 5, allow: Vec::new(), forwarders: Vec::new() }
}

fn zone() -> DnsName {
    DnsName::parse("clusterset.local").unwrap()
}

/// The answers of [`table`].
fn answers() -> &'static Answers {
    static ANSWERS: std::sync::OnceLock<Answers> = std::sync::OnceLock::new();
    ANSWERS.get_or_init(|| Answers::compile(&table(), &zone(), None))
}

/// A VIP, headless names with three pods, 10, 40, 600 and none, and 40 with `dns: endpoints`.
fn table() -> RouteTable {
    let many = |count: u32| -> Vec<String> {
        (0..count).map(|n| std::net::Ipv4Addr::from_bits(0x0A09_0000 + n).to_string()).collect()
    };
    let (forty, more) = (many(40), many(600));
    let forty: Vec<&str> = forty.iter().map(String::as_str).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    Tables::new("paris")
        .revision(42)
        .vip("shop/web", &["127.64.0.1"], &["http:TCP:80", "quic:UDP:80"], &["paris"])
        .vip("shop/near", &["127.64.0.2"], &["http:TCP:80"], &["paris"])
        .endpoints("shop/near", &[("paris", &forty)])
        .headless(
            "data/db",
            &["sql:TCP:5432"],
            &[("paris", &["10.1.0.5 db-0", "10.1.0.6"]), ("tokyo", &["10.3.0.5 db-0"])],
        )
        .headless("data/ten", &["sql:TCP:5432"], &[("paris", &forty[..10])])
        .headless("data/forty", &["sql:TCP:5432"], &[("paris", &forty)])
        .headless("data/more", &["sql:TCP:5432"], &[("paris", &more)])
        .headless("data/empty", &["sql:TCP:5432"], &[("paris", &[])])
        .build()
}

/// One message through [`respond`], from a private source.
fn answer_over(transport: Transport, message: &[u8]) -> Option<Vec<u8>> {
    answer_from("10.0.0.1", &policy(), transport, message)
}

fn answer_from(
    source: &str,
    policy: &Policy,
    transport: Transport,
    message: &[u8],
) -> Option<Vec<u8>> {
    answer_of(answers(), source, policy, transport, message)
}

fn answer_of(
    answers: &Answers,
    source: &str,
    policy: &Policy,
    transport: Transport,
    message: &[u8],
) -> Option<Vec<u8>> {
    let source: IpAddr = source.parse().unwrap();
    let mut out = vec![0xEE; 7];
    let received = Received { message, transport, source, now: clock::now() };
    let mut limiter = Limiter::default();
    respond(received, policy, answers, Some(&mut limiter), &mut out).map(|_| out)
}

/// The answer over UDP, raw and as an independent decoder reads it.
fn udp(wire: &Wire) -> (Vec<u8>, Message) {
    let octets = answer_over(Transport::Udp, &wire.0).expect("an answer");
    let message = Message::from_vec(&octets).expect("a well-formed answer");
    (octets, message)
}

/// Code and data of every option of an answer's OPT record, which is its last record.
fn options(octets: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let head = [0, 0, 41, 0x04, 0xD0];
    let at = octets.windows(head.len()).rposition(|window| window == head).expect("an OPT");
    let number = |at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
    let mut options = Vec::new();
    let mut next = at + 11;
    assert_eq!(octets.len() - next, usize::from(number(at + 9)), "the OPT is last");
    while next < octets.len() {
        let end = next + 4 + usize::from(number(next + 2));
        options.push((number(next), octets[next + 4..end].to_vec()));
        next = end;
    }
    options
}

fn tcp(wire: &Wire) -> Message {
    let octets = answer_over(Transport::Tcp, &wire.0).expect("an answer");
    Message::from_vec(&octets).expect("a well-formed answer")
}
