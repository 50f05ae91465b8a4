//! Datagrams as fast as one process sends them.

use std::net::UdpSocket;
use std::time::Duration;

use super::client::{ask_udp, query};
use super::{Row, Stage};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Sent between two looks at what came back.
const TURN: usize = 64;

pub(super) async fn run(datagrams: usize) -> Vec<Row> {
    let stage = Stage::new("", None).await;
    let server = stage.dns;
    let burst = tokio::task::spawn_blocking(move || send(server, datagrams));
    let mut most_kib = 0;
    while !burst.is_finished() {
        most_kib = most_kib.max(stage.agent.resident_kib());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let answered = burst.await.expect("it does not panic");
    most_kib = most_kib.max(stage.agent.resident_kib());
    let name = format!("{datagrams} datagrams");
    let after = ask_udp(server).await.is_some();
    vec![
        stage.memory(&name, most_kib),
        Row::printed(format!("{name}: answers that came back"), answered.to_string()),
        Row::exactly(format!("{name}: answers afterwards"), usize::from(after), 1),
    ]
}

/// Sends without waiting; how many answers were there to be read.
fn send(server: std::net::SocketAddr, datagrams: usize) -> usize {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(server).expect("an address");
    socket.set_nonblocking(true).expect("a socket");
    let query = query();
    let (mut answered, mut into) = (0, [0; 512]);
    for sent in 0..datagrams {
        // A full queue drops it, as a network does.
        let _dropped = socket.send(&query);
        if sent % TURN == 0 {
            while socket.recv(&mut into).is_ok() {
                answered += 1;
            }
        }
    }
    std::thread::sleep(Duration::from_millis(100));
    while socket.recv(&mut into).is_ok() {
        answered += 1;
    }
    answered
}
