//! An agent all of whose descriptors are held by clients.

use std::net::Ipv4Addr;
use std::time::Duration;

use portolan::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::client::{ask_udp, framed};
use super::{Row, Stage};

const DESCRIPTORS: u64 = 300;
/// More than it has descriptors for.
const CLIENTS: usize = 400;
/// The part of a core that waiting for descriptors may cost.
const MOST_CPU_PERCENT: f64 = 10.0;
/// From the first free descriptor to the answer of one that has waited.
const MOST_TO_RECOVER_MS: f64 = 1_000.0;
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) async fn run(time: Duration) -> Vec<Row> {
    let stage = Stage::new("tcp_per_source: 1000, ", Some(DESCRIPTORS)).await;
    let (mut held, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        let mut stream = connect(&stage).await;
        stream.write_all(&framed()).await.expect("the kernel takes it");
        // Once they are used up nobody is answered any more.
        let patience = Duration::from_millis(if waiting.is_empty() { 500 } else { 0 });
        match timeout(patience, stream.read(&mut [0; 512])).await {
            Ok(_) => held.push(stream),
            Err(_) => waiting.push(stream),
        }
    }
    let fds = std::fs::read_dir(format!("/proc/{}/fd", stage.agent.pid())).expect("it lives");
    let used = fds.count();
    let (cpu, began, mut asked) = (stage.agent.cpu(), clock::now(), (0_usize, 0_usize));
    while clock::now() - began < time {
        asked.0 += 1;
        asked.1 += usize::from(ask_udp(stage.dns).await.is_none());
        // Those that are held may not fall silent for 20 s.
        for stream in &mut held {
            let _unread = stream.try_read(&mut [0; 512]);
            stream.write_all(&framed()).await.expect("it is held");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let spent = (stage.agent.cpu() - cpu).as_secs_f64();
    let percent = spent / (clock::now() - began).as_secs_f64() * 100.0;
    let most_kib = stage.agent.resident_kib();
    let freed = clock::now();
    drop(held);
    let mut served = 0;
    let mut first = None;
    for stream in &mut waiting {
        if let Ok(Ok(1..)) = timeout(PATIENCE, stream.read(&mut [0; 512])).await {
            first.get_or_insert_with(|| clock::now() - freed);
            served += 1;
        }
    }
    let first = first.unwrap_or(PATIENCE).as_secs_f64() * 1e3;
    let name = format!("no descriptors ({used} of {DESCRIPTORS} used)");
    vec![
        Row::at_most(format!("{name}: CPU of a core"), percent, MOST_CPU_PERCENT, "%"),
        Row::exactly(format!("{name}: {} by datagram, lost", asked.0), asked.1, 0),
        Row::at_most(
            "descriptors free again: the first of those that waited",
            first,
            MOST_TO_RECOVER_MS,
            "ms",
        ),
        Row::exactly("descriptors free again: served of those that waited", served, waiting.len()),
        stage.memory("no descriptors", most_kib),
    ]
}

async fn connect(stage: &Stage) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a descriptor of our own");
    socket.bind((Ipv4Addr::new(127, 0, 0, 16), 0).into()).expect("a free port");
    timeout(PATIENCE, socket.connect(stage.dns))
        .await
        .expect("in time")
        .expect("the backlog has room")
}
