//! One DNS question over UDP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Longest wait for the answer; the next question is the retry.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// The IPv4 addresses that `server` answers for `name` (complete, with the final dot), ascending.
///
/// A name that exists without addresses, and one that does not exist, is an empty answer;
/// silence and any other response code are errors.
pub(super) async fn addresses(server: SocketAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0)).await?;
    socket.connect(server).await?;
    let mut question = Message::query();
    let name = Name::from_ascii(name).map_err(io::Error::other)?;
    question.add_query(Query::query(name, RecordType::A));
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;

    let mut buffer = [0; 1232];
    let answer = loop {
        let length = timeout(ANSWER_WITHIN, socket.recv(&mut buffer)).await??;
        let message = Message::from_vec(&buffer[..length]).map_err(io::Error::other)?;
        if message.metadata.id == question.metadata.id {
            break message;
        }
    };
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        other => return Err(io::Error::other(format!("the DNS server answers {other}"))),
    }
    let mut addresses: Vec<IpAddr> =
        answer.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    addresses.sort_unstable();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record};

    use super::*;

    async fn answer_once(server: UdpSocket, code: ResponseCode, hosts: &[u8]) {
        let mut buffer = [0; 512];
        let (length, client) = server.recv_from(&mut buffer).await.unwrap();
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.response_code = code;
        for host in hosts {
            let address = Ipv4Addr::new(127, 9, 9, *host);
            let name = question.queries[0].name().clone();
            answer.add_answer(Record::from_rdata(name, 5, RData::A(A(address))));
        }
        server.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
    }

    #[tokio::test]
    async fn addresses_come_sorted_absence_is_empty_and_refusal_an_error() {
        let cases: [(ResponseCode, &[u8], Option<usize>); 3] = [
            (ResponseCode::NoError, &[7, 3], Some(2)),
            (ResponseCode::NXDomain, &[], Some(0)),
            (ResponseCode::Refused, &[], None),
        ];
        for (code, hosts, expected) in cases {
            let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let at = server.local_addr().unwrap();
            let asked = addresses(at, "web.shop.svc.clusterset.local.");
            let (answer, ()) = tokio::join!(asked, answer_once(server, code, hosts));
            assert_eq!(answer.as_ref().ok().map(Vec::len), expected, "{answer:?}");
            assert!(answer.is_err() || answer.is_ok_and(|found| found.is_sorted()));
        }
    }

    #[tokio::test]
    async fn silence_is_an_error() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        assert!(addresses(server.local_addr().unwrap(), "a.b.").await.is_err());
    }
}
