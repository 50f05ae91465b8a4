//! Faults by their names, through real sockets.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;

use super::sockets::{IOS, client, heard, numbered, start_io};
use super::*;

/// Fault S14: whatever one server answers is, sent to another, the last word.
#[tokio::test]
async fn s14_two_servers_never_answer_each_other() {
    for io in IOS {
        let (one, other) = (start_io(io, &["127.0.0.1:0"]), start_io(io, &["127.0.0.2:0"]));
        let (to_one, to_other) = (client(one.address).await, client(other.address).await);
        let asked = [
            query(WEB, A),
            query("none.shop.svc.clusterset.local", A),
            query("example.org", A),
            query(WEB, AXFR),
            query("more.data.svc.clusterset.local", A),
            query(WEB, A).raw(&[0]),
            query(WEB, A).opt(1232, 0x0001_0000, &[]),
            Wire::header(ID, 0, [0, 0, 0, 0]),
        ];
        for (number, wire) in (1_u32..).zip(&asked) {
            to_one.send(&wire.0).await.unwrap();
            let answer = heard(&to_one).await;
            to_other.send(&answer).await.unwrap();
            to_one.send(&answer).await.unwrap();
            // The next thing that either says is the answer to a question.
            for (server, socket) in [(&one, &to_one), (&other, &to_other)] {
                let last = numbered(0x7777, WEB, A);
                socket.send(&last.0).await.unwrap();
                assert_eq!(heard(socket).await[..2], last.0[..2], "{:x?}", wire.0);
                assert_eq!(server.metric("portolan_dns_dropped_total"), f64::from(number));
            }
        }
    }
}

/// The table in which that name has that number as its address.
fn numbered_table(number: u32) -> RouteTable {
    let address = std::net::Ipv4Addr::from_bits(0x7F40_0000 + number).to_string();
    Tables::new("paris")
        .revision(u64::from(number))
        .vip("shop/web", &[&address], &["http:TCP:80"], &["paris"])
        .build()
}

/// Fault P14: while the table is replaced 100 times a second every question is answered, from a
/// table that was in force between its asking and its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn p14_answers_go_on_while_tables_are_swapped() {
    const SWAPS: u32 = 100;
    const FIRST: u32 = 1000;
    const AT_ONCE: u16 = 20;
    for io in IOS {
        let mut running = start_io(io, &["127.0.0.1:0"]);
        running.writer.publish(&numbered_table(FIRST));
        let (begun, done) = (&AtomicU32::new(FIRST), &AtomicU32::new(FIRST));
        let socket = client(running.address).await;
        let (stop, stopped) = sync_channel::<()>(0);
        let writer = &mut running.writer;
        let mut answered = 0;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in FIRST + 1.. {
                    let table = numbered_table(number);
                    begun.store(number, Ordering::SeqCst);
                    writer.publish(&table);
                    done.store(number, Ordering::SeqCst);
                    match stopped.recv_timeout(Duration::from_millis(10)) {
                        Err(RecvTimeoutError::Timeout) => {}
                        _ => return,
                    }
                }
            });
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    while done.load(Ordering::SeqCst) < FIRST + SWAPS {
                        let least = done.load(Ordering::SeqCst);
                        for id in 0..AT_ONCE {
                            socket.send(&numbered(id, WEB, A).0).await.unwrap();
                        }
                        for id in 0..AT_ONCE {
                            let answer = Message::from_vec(&heard(&socket).await).unwrap();
                            let most = begun.load(Ordering::SeqCst);
                            assert_eq!(answer.metadata.id, id, "nothing is lost");
                            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
                            let [record] = &answer.answers[..] else { panic!("{answer:?}") };
                            let RData::A(address) = &record.data else { panic!("{record:?}") };
                            let number = address.0.to_bits() - 0x7F40_0000;
                            assert!((least..=most).contains(&number), "{least} {number} {most}");
                            answered += 1;
                        }
                    }
                });
            });
            drop(stop);
        });
        assert!(answered > 1000, "{answered}");
        running.stopped().await;
    }
}
