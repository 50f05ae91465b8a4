//! DNS messages: the whole way of one, and the reading of a question against a plainer one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use hickory_proto::op::{Message, ResponseCode};

use crate::clock;
use crate::dns::{Answers, Limiter, Policy, Received, Transport, respond};
use crate::model::DnsName;
use crate::routes::RouteTable;
use crate::testing::table::Tables;
use crate::zone::{self, Outcome, QueryType, Question, ZoneConfig};

/// No datagram of ours is longer.
const MOST_UDP_OCTETS: u16 = 1_232;
/// What every client can take.
const LEAST_UDP_OCTETS: u16 = 512;
/// An answer without answer records, or to ANY, has at most so many times the question's octets.
const MOST_AMPLIFICATION: usize = 4;
const HEADER_OCTETS: usize = 12;
const MAX_NAME_OCTETS: usize = 255;
const TYPE_AND_CLASS: usize = 4;
const IXFR: u16 = 251;
const AXFR: u16 = 252;
const ANY: u16 = 255;

static TABLE: LazyLock<RouteTable> = LazyLock::new(table);
static CONFIG: LazyLock<ZoneConfig> = LazyLock::new(|| ZoneConfig {
    zone: DnsName::parse("clusterset.local").expect("a name"),
    ttl_seconds: 5,
});
static ANSWERS: LazyLock<Answers> = LazyLock::new(|| Answers::compile(&TABLE, &CONFIG.zone, None));
static OPEN: Policy = Policy { ttl_seconds: 5, allow: Vec::new(), forwarders: Vec::new() };
/// Nobody else may ask than who never does here.
static CLOSED: LazyLock<Policy> = LazyLock::new(|| {
    let nobody = "192.0.2.0/24".parse().expect("a network");
    Policy { ttl_seconds: 5, allow: vec![nobody], forwarders: Vec::new() }
});

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

/// One message, the whole way: over UDP from near, from afar and limited, and from where nobody
/// may ask; over TCP.
pub(super) fn datagram(input: &[u8]) {
    let near = IpAddr::from([10, 0, 0, 1]);
    let afar = IpAddr::from([203, 0, 113, 9]);
    let mut limiter = Limiter::default();
    let mut codes = Vec::new();
    for (source, policy) in [(near, &OPEN), (afar, &OPEN), (afar, &OPEN), (afar, &*CLOSED)] {
        let answer = answered(input, Transport::Udp, source, policy, Some(&mut limiter));
        let dropped = input.len() < HEADER_OCTETS || input[2] & 0x80 != 0;
        assert_eq!(answer.is_none(), dropped, "only answers and the too short are dropped");
        let Some(answer) = answer else { continue };
        let read = check(input, &answer);
        check_length(input, &answer, &read);
        // What two of us would do for ever.
        assert!(answered(&answer, Transport::Udp, near, &OPEN, None).is_none(), "answered again");
        if policy.allow.is_empty() {
            codes.push(read.metadata.response_code);
        } else {
            assert!(read.answers.is_empty() && read.authorities.is_empty(), "told a stranger");
            assert!(!read.metadata.authoritative && !read.metadata.truncation);
        }
    }
    if let Some(answer) = answered(input, Transport::Tcp, near, &OPEN, None) {
        assert!(answer.len() <= usize::from(u16::MAX));
        let read = check(input, &answer);
        assert!(!read.metadata.truncation, "there is nowhere else to ask");
        codes.push(read.metadata.response_code);
    }
    assert!(codes.windows(2).all(|two| two[0] == two[1]), "one message, several codes: {codes:?}");
}

/// What follows a header that promises one question and nothing else, against a plain reading of
/// it and the definition of the zone.
pub(super) fn question(input: &[u8]) {
    let header = [0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let message = [&header[..], input].concat();
    let source = IpAddr::from([10, 0, 0, 1]);
    let answer = answered(&message, Transport::Tcp, source, &OPEN, None).expect("an answer");
    let read = check(&message, &answer);
    let (code, wanted) = match plain(input) {
        None => (ResponseCode::FormErr, None),
        Some((_, _, class)) if class != 1 && class != ANY => (ResponseCode::Refused, None),
        Some((_, AXFR | IXFR, _)) => (ResponseCode::NotImp, None),
        Some((labels, number, _)) => {
            let question = Question { labels, qtype: query_type(number) };
            let answer = zone::answer(&TABLE, &CONFIG, &question);
            let code = match answer.outcome {
                Outcome::Found | Outcome::NoData => ResponseCode::NoError,
                Outcome::NoName => ResponseCode::NXDomain,
                Outcome::Outside => ResponseCode::Refused,
            };
            (code, Some(answer))
        }
    };
    assert_eq!(read.metadata.response_code, code);
    assert_eq!(read.queries.is_empty(), plain(input).is_none() && !read_as_far(input));
    let records = wanted.as_ref().map_or(0, |answer| answer.records.len());
    assert_eq!(read.answers.len(), records);
    let negative =
        wanted.is_some_and(|one| matches!(one.outcome, Outcome::NoData | Outcome::NoName));
    assert_eq!(read.authorities.len(), usize::from(negative), "SOA where there is nothing else");
}

/// A sound question followed by something.
fn read_as_far(input: &[u8]) -> bool {
    (0..input.len()).any(|end| plain(&input[..end]).is_some())
}

/// The labels in lower case, type and class, if that is all there is.
fn plain(input: &[u8]) -> Option<(Vec<Vec<u8>>, u16, u16)> {
    let mut labels = Vec::new();
    let mut rest = input;
    loop {
        let (length, after) = rest.split_first()?;
        rest = after;
        match length {
            0 => break,
            1..=63 => {
                let (label, after) = rest.split_at_checked(usize::from(*length))?;
                labels.push(label.to_ascii_lowercase());
                rest = after;
            }
            _ => return None,
        }
    }
    let &[type_high, type_low, class_high, class_low] = rest else { return None };
    let (qtype, class) = ([type_high, type_low], [class_high, class_low]);
    (input.len() - TYPE_AND_CLASS <= MAX_NAME_OCTETS)
        .then(|| (labels, u16::from_be_bytes(qtype), u16::from_be_bytes(class)))
}

fn query_type(number: u16) -> QueryType {
    match number {
        1 => QueryType::A,
        2 => QueryType::Ns,
        6 => QueryType::Soa,
        16 => QueryType::Txt,
        28 => QueryType::Aaaa,
        33 => QueryType::Srv,
        ANY => QueryType::Any,
        other => QueryType::Other(other),
    }
}

fn answered(
    message: &[u8],
    transport: Transport,
    source: IpAddr,
    policy: &Policy,
    limiter: Option<&mut Limiter>,
) -> Option<Vec<u8>> {
    let mut out = vec![0xEE; 3];
    let received = Received { message, transport, source, now: clock::now() };
    let responded = respond(received, policy, &ANSWERS, limiter, &mut out);
    assert_eq!(responded.is_some(), !out.is_empty(), "what is not answered leaves nothing");
    responded.map(|_| out)
}

/// An answer is well-formed, about this message, and no weapon.
fn check(message: &[u8], answer: &[u8]) -> Message {
    let read = Message::from_vec(answer).expect("an answer that others can read");
    let code = read.metadata.response_code;
    assert_eq!(answer[..2], message[..2], "the id");
    assert_eq!(answer[2] & 0xF9, message[2] & 0x79 | 0x80, "QR, opcode and RD");
    assert_eq!(answer[3] & 0xF0, 0, "RA, Z, AD and CD");
    if read.answers.is_empty() {
        let most = MOST_AMPLIFICATION * message.len();
        assert!(answer.len() <= most, "{} octets for {}", answer.len(), message.len());
    }
    match &read.queries[..] {
        [] => assert!(
            matches!(code, ResponseCode::FormErr | ResponseCode::NotImp),
            "{code} without a question"
        ),
        [question] => {
            let name: usize = question.name().iter().map(|label| label.len() + 1).sum();
            let asked = HEADER_OCTETS..HEADER_OCTETS + name + 1 + TYPE_AND_CLASS;
            assert_eq!(answer[asked.clone()], message[asked], "the question as it came");
        }
        more => panic!("{} questions", more.len()),
    }
    if let Some(understood) = understood(message, code) {
        assert_eq!(read.edns.is_some(), understood.edns.is_some(), "an OPT for an OPT");
    }
    read
}

/// A datagram is no longer than the client said, and to ANY no lever either.
fn check_length(message: &[u8], answer: &[u8], read: &Message) {
    let most = |octets: u16| {
        assert!(answer.len() <= usize::from(octets), "{} octets of {octets}", answer.len());
    };
    most(MOST_UDP_OCTETS);
    let Some(understood) = understood(message, read.metadata.response_code) else { return };
    let payload = understood.edns.as_ref().map_or(LEAST_UDP_OCTETS, |edns| edns.max_payload());
    most(payload.clamp(LEAST_UDP_OCTETS, MOST_UDP_OCTETS));
    if understood.queries.iter().any(|one| u16::from(one.query_type()) == ANY) {
        assert!(answer.len() <= MOST_AMPLIFICATION * message.len(), "ANY: {}", answer.len());
    }
}

/// A message as an independent decoder reads it, where it was not found malformed.
fn understood(message: &[u8], code: ResponseCode) -> Option<Message> {
    Message::from_vec(message).ok().filter(|_| code != ResponseCode::FormErr)
}
