//! DNS messages.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use hickory_proto::op::Message;

use crate::clock;
use crate::dns::{Answers, Limiter, Policy, Received, Transport, respond};
use crate::model::DnsName;
use crate::routes::RouteTable;
use crate::testing::table::Tables;

/// No datagram of ours is longer.
const MOST_UDP_OCTETS: usize = 1_232;
/// An answer without answer records has at most so many times the question's octets.
const MOST_AMPLIFICATION: usize = 4;
const HEADER_OCTETS: usize = 12;

static ANSWERS: LazyLock<Answers> = LazyLock::new(|| {
    Answers::compile(&table(), &DnsName::parse("clusterset.local").expect("a name"), None)
});
static POLICY: Policy = Policy { ttl_seconds: 5, allow: Vec::new(), forwarders: Vec::new() };

/// Names of every kind, with answers that fit a datagram and others that do not.
fn table() -> RouteTable {
    let many: Vec<String> =
        (0..600).map(|n| Ipv4Addr::from_bits(0x0A09_0000 + n).to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    Tables::new("paris")
        .revision(42)
        .vip("shop/web", &["127.64.0.1", "fd00::1"], &["http:TCP:80", "quic:UDP:80"], &["paris"])
        .vip("shop/near", &["127.64.0.2"], &["http:TCP:80"], &["paris"])
        .endpoints("shop/near", &[("paris", &many[..40])])
        .headless(
            "data/db",
            &["sql:TCP:5432"],
            &[("paris", &["10.1.0.5 db-0", "10.1.0.6"]), ("tokyo", &["10.3.0.5 db-0"])],
        )
        .headless("data/more", &["sql:TCP:5432"], &[("paris", &many)])
        .headless("data/none", &["sql:TCP:5432"], &[("paris", &[])])
        .build()
}

/// One message, the whole way: over UDP from near and, limited, from afar; over TCP.
pub(super) fn datagram(input: &[u8]) {
    let near = IpAddr::from([10, 0, 0, 1]);
    let afar = IpAddr::from([203, 0, 113, 9]);
    let mut limiter = Limiter::default();
    for source in [near, afar, afar] {
        let answer = answered(input, Transport::Udp, source, Some(&mut limiter));
        let dropped = input.len() < HEADER_OCTETS || input[2] & 0x80 != 0;
        assert_eq!(answer.is_none(), dropped, "only answers and the too short are dropped");
        let Some(answer) = answer else { continue };
        assert!(answer.len() <= MOST_UDP_OCTETS, "{} octets in a datagram", answer.len());
        check(input, &answer);
        // What two of us would do for ever.
        assert!(answered(&answer, Transport::Udp, near, None).is_none(), "an answer is answered");
    }
    if let Some(answer) = answered(input, Transport::Tcp, near, None) {
        assert!(answer.len() <= usize::from(u16::MAX));
        check(input, &answer);
    }
}

fn answered(
    message: &[u8],
    transport: Transport,
    source: IpAddr,
    limiter: Option<&mut Limiter>,
) -> Option<Vec<u8>> {
    let mut out = vec![0xEE; 3];
    let received = Received { message, transport, source, now: clock::now() };
    let responded = respond(received, &POLICY, &ANSWERS, limiter, &mut out);
    assert_eq!(responded.is_some(), !out.is_empty(), "what is not answered leaves nothing");
    responded.map(|_| out)
}

/// An answer is well-formed, about this message, and no weapon.
fn check(message: &[u8], answer: &[u8]) {
    let read = Message::from_vec(answer).expect("an answer that others can read");
    assert_eq!(answer[..2], message[..2], "the id");
    assert_eq!(answer[2] & 0xF9, message[2] & 0x79 | 0x80, "QR, opcode and RD");
    assert_eq!(answer[3] & 0xF0, 0, "RA, Z, AD and CD");
    if read.answers.is_empty() {
        let most = MOST_AMPLIFICATION * message.len();
        assert!(answer.len() <= most, "{} octets for {}", answer.len(), message.len());
    }
    assert!(read.queries.len() <= 1);
}
