//! A DNS client for tests: one question, one datagram, one answer; and what was read as the zone
//! writes it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

use crate::zone::RecordData;

/// A silent server is given up after this.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Asks for one type and returns the whole reply.
///
/// # Errors
/// No reply in time, or one that cannot be read.
pub async fn dns_exchange(server: SocketAddr, name: &str, of: RecordType) -> io::Result<Message> {
    exchange(Ipv4Addr::LOCALHOST.into(), server, question(name, of)?).await
}

/// As [`dns_exchange`], with EDNS, from a client at that address who may tell an option.
///
/// # Errors
/// As [`dns_exchange`], and an address that is not this machine's.
pub async fn dns_exchange_from(
    client: IpAddr,
    server: SocketAddr,
    name: &str,
    of: RecordType,
    option: Option<EdnsOption>,
) -> io::Result<Message> {
    let mut question = question(name, of)?;
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    if let Some(option) = option {
        edns.options_mut().insert(option);
    }
    question.edns = Some(edns);
    exchange(client, server, question).await
}

fn question(name: &str, of: RecordType) -> io::Result<Message> {
    let mut question = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    let name = Name::from_str(&format!("{name}.")).map_err(io::Error::other)?;
    question.add_query(Query::query(name, of));
    Ok(question)
}

async fn exchange(client: IpAddr, server: SocketAddr, question: Message) -> io::Result<Message> {
    let socket = UdpSocket::bind((client, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; 4096];
    let length = tokio::time::timeout(ANSWER_WITHIN, socket.recv(&mut buffer))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Message::from_vec(&buffer[..length]).map_err(io::Error::other)
}

/// The addresses a name answers: A records only; empty for a negative answer.
///
/// # Errors
/// As [`dns_exchange`], and any code but NOERROR and NXDOMAIN.
pub async fn dns_query(server: SocketAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let reply = dns_exchange(server, name, RecordType::A).await?;
    let code = reply.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(io::Error::other(format!("answered {code}")));
    }
    Ok(reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            _ => None,
        })
        .collect())
}

/// A name in lower case, without the final dot.
#[must_use]
pub fn name_text(name: &Name) -> Box<str> {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase().into()
}

/// Decoded data as the zone writes it.
///
/// # Panics
/// When it is of a type that the zone does not know.
#[must_use]
pub fn record_data(data: &RData) -> RecordData {
    match data {
        RData::A(address) => RecordData::A(address.0),
        RData::AAAA(address) => RecordData::Aaaa(address.0),
        RData::SRV(srv) => RecordData::Srv {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: name_text(&srv.target),
        },
        RData::TXT(txt) => RecordData::Txt(String::from_utf8_lossy(&txt.txt_data[0]).into()),
        RData::SOA(soa) => RecordData::Soa { serial: soa.serial },
        RData::NS(ns) => RecordData::Ns(name_text(&ns.0)),
        other => panic!("{other:?} is not of the zone"),
    }
}
