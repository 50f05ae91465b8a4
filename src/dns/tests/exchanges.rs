//! The rules on the wire once more as raw datagrams over real sockets, both ways to drive them and
//! TCP: what comes back is to the octet what `wire` has shown to be right.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::sockets::{IOS, PATIENCE, client, heard, start_io};
use super::*;

/// Every row that is answered; ids tell them apart.
fn rows() -> Vec<Wire> {
    let plain = || query(WEB, A);
    let head = || Wire::header(ID, 0, [1, 0, 0, 0]);
    let class = |class| head().question(WEB, A, class);
    let options = [[0xFD, 0xE9, 0, 2, 1, 2].as_slice(), &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]];
    let ixfr = query("clusterset.local", IXFR);
    let mut rows = vec![
        plain(),
        query("wEb.SHOP.Svc.clusterSET.local", A).flags(0x067F),
        plain().flags(0x0000),
        // EDNS.
        plain().opt(4096, 0x8000, &options.concat()),
        query("none.shop.svc.clusterset.local", A).opt(4096, 0, &[]),
        query(".", NS).opt(1232, 0, &[]),
        plain().opt(1232, 0x0001_0000, &[]),
        plain().opt(1232, 0x00FF_8000, &[]),
        plain().opt(1232, 0, &[]).opt(1232, 0, &[]),
        plain().raw(&[0]).u16(OPT).u16(1232).raw(&[0; 4]).u16(4).raw(&[0, 1]).add(10, 1),
        plain().opt(1232, 0, &[0, 10, 0]),
        plain().record(&name_octets("x"), OPT, 1232, 0, &[]).add(10, 1),
        plain().record(&[0], OPT, 1232, 0, &[]).add(6, 1),
        // Too long for the client, and for us.
        query("_sql._tcp.ten.data.svc.clusterset.local", SRV),
        query("_sql._tcp.ten.data.svc.clusterset.local", SRV).opt(0, 0, &[]),
        query("_sql._tcp.ten.data.svc.clusterset.local", SRV).opt(1232, 0, &[]),
        query("_sql._tcp.forty.data.svc.clusterset.local", SRV).opt(65_535, 0, &[]),
        query("more.data.svc.clusterset.local", A).opt(1232, 0, &[]),
        query("near.shop.svc.clusterset.local", A),
        query("near.shop.svc.clusterset.local", ANY),
        // No data, no name, and what is not ours.
        query(WEB, AAAA),
        query("svc.clusterset.local", A),
        query("shop.svc.clusterset.local", ANY),
        query("none.shop.svc.clusterset.local", A),
        query("empty.data.svc.clusterset.local", A),
        query("1.0.64.127.in-addr.arpa.clusterset.local", PTR),
        query("clusterset.local", SOA),
        query("clusterset.local", NS),
        query("dns-version.clusterset.local", TXT),
        query(".", NS),
        query("xclusterset.local", A),
        query("1.0.64.127.in-addr.arpa", PTR),
        class(CH),
        class(ANY),
        query("clusterset.local", ANY),
        query("_http._TCP.web.shop.svc.clusterset.local", SRV),
        query("db.data.svc.clusterset.local", SRV),
        // What is not implemented.
        query("clusterset.local", AXFR),
        ixfr.record(&[0xC0, 12], SOA, IN, 0, &[0; 22]).add(8, 1),
        plain().flags(0x2100),
        plain().flags(0x2900),
        // Questions: none, two, malformed, cut short.
        Wire::header(ID, 0, [0, 0, 0, 0]),
        Wire::header(ID, 0, [2, 0, 0, 0]).question(WEB, A, IN).question(WEB, AAAA, IN),
        plain().add(4, 0xFFF0),
        head().raw(&[64]).raw(&[b'a'; 64]).raw(&[0]).u16(A).u16(IN),
        head().raw(&[[&[63][..], &[b'a'; 63]].concat().repeat(4), vec![0]].concat()).u16(A).u16(IN),
        head().raw(&[0xC0, 12]).u16(A).u16(IN),
        head().raw(&[3, b'w', b'e', b'b', 0xC0, 16]).u16(A).u16(IN),
        query(&[63, 63, 63, 61].map(|length| "a".repeat(length)).join("."), A),
        Wire(plain().0[..12].to_vec()),
        Wire(plain().0[..20].to_vec()),
        // Octets after the message; a count that promises more.
        plain().raw(&[0]),
        plain().opt(1232, 0, &[]).raw(&[0; 40]),
        plain().raw(&[0; 3000]),
        plain().opt(1232, 0, &[]).raw(&[0; 60_000]),
        plain().add(6, 1),
        plain().add(10, 1),
        // Other records are skipped.
        plain().opt(1232, 0, &[]).record(&name_octets("key"), 250, ANY, 0, &[1; 40]).add(10, 1),
        plain().record(&[0xC0, 46], A, IN, 0, &[1; 4]).add(10, 1),
    ];
    rows.extend(padded());
    for (id, row) in (0x4000_u16..).zip(&mut rows) {
        row.0[..2].copy_from_slice(&id.to_be_bytes());
    }
    rows
}

/// Queries of every length, up to the longest datagram, some with octets after them.
fn padded() -> Vec<Wire> {
    let padding = |octets: u16| {
        let data = vec![0; octets.into()];
        query(WEB, A).opt(1232, 0, &[&[0, 12], &octets.to_be_bytes()[..], &data].concat())
    };
    let mut rows = vec![padding(400), padding(4000), padding(65_000)];
    // Around what fits wherever a datagram stands.
    let bare = padding(0).0.len();
    for length in 1020..1030 {
        rows.push(padding(u16::try_from(length - bare).unwrap()));
        rows.push(padding(u16::try_from(length - bare - 2).unwrap()).raw(&[0; 2]));
    }
    rows
}

#[tokio::test]
async fn every_row_over_udp() {
    for io in IOS {
        let running = start_io(io, &["127.0.0.1:0"]);
        let socket = client(running.address).await;
        for row in rows() {
            socket.send(&row.0).await.unwrap();
            let answer = heard(&socket).await;
            assert!(answer.len() <= 1232);
            assert_eq!(answer, answer_over(Transport::Udp, &row.0).unwrap(), "{io:?} {:x?}", row.0);
        }
        running.stopped().await;
    }
}

/// All at once: each its own, however they are batched. One too long for its place that others
/// follow may be answered as malformed, never with silence.
#[tokio::test]
async fn every_row_over_udp_in_a_burst() {
    for io in IOS {
        let running = start_io(io, &["127.0.0.1:0"]);
        let socket = client(running.address).await;
        let mut rows = rows();
        // What a receive buffer holds anywhere.
        rows.retain(|row| row.0.len() < 8000);
        for row in &rows {
            socket.send(&row.0).await.unwrap();
        }
        for row in &rows {
            let answer = heard(&socket).await;
            assert_eq!(answer[..2], row.0[..2], "in their order");
            let format_error = answer[3] & 15 == 1;
            if row.0.len() <= 1024 || !format_error {
                assert_eq!(answer, answer_over(Transport::Udp, &row.0).unwrap(), "{io:?}");
            }
        }
        running.stopped().await;
    }
}

#[tokio::test]
async fn every_row_over_tcp() {
    let running = start_io(Io::Auto, &["127.0.0.1:0"]);
    let mut stream = running.connect().await;
    for row in rows() {
        stream.write_all(&row.framed()).await.unwrap();
        let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
        let mut answer = vec![0; length.into()];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, answer_over(Transport::Tcp, &row.0).unwrap(), "{:x?}", row.0);
    }
    running.stopped().await;
}
