//! Readers that take nothing, by the hundred. In a program of their own and one test at a time:
//! their full buffers take all the memory that the kernel grants TCP (`tcp_mem`), and then it
//! resets what others close with octets still unsent.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use portolan::testing::{Backend, PATIENCE, Process, World};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STUCK: usize = 1_000;

/// Whose turn it is.
static ALONE: Mutex<()> = Mutex::const_new(());

fn start(world: &World, cluster: &str) -> Process {
    let config = world.write_config(cluster, |peer| vec![world.gateway(peer)]);
    Process::start(env!("CARGO_BIN_EXE_portolan"), &config, world.admin(cluster))
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_a_thousand_stuck_readers_do_not_stop_a_healthy_stream() {
    let _alone = ALONE.lock().await;
    let flood = Backend::start(LOOPBACK, |mut stream| async move {
        while stream.write_all(&[7; 16 * 1024]).await.is_ok() {}
    })
    .await;
    let echo = Backend::echo(LOOPBACK).await;
    let world = World::new(&["paris", "oregon"]);
    world.export("oregon", "shop/web", 80, &[flood.address]);
    world.export("oregon", "shop/echo", 80, &[echo.address]);
    let (paris, _oregon) = (world.start("paris"), world.start("oregon"));
    paris.peers_up().await;
    let mut stuck = Vec::with_capacity(STUCK);
    for _ in 0..STUCK {
        let client = timeout(PATIENCE, paris.connect("web.shop")).await.expect("a stuck client");
        SockRef::from(&client).set_recv_buffer_size(4096).expect("a socket");
        stuck.push(client);
    }
    let all = async {
        while flood.accepted() < STUCK as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("all stuck streams");
    let mut healthy = paris.connect("echo.shop").await;
    let sent: Vec<u8> =
        (0..1 << 20).map(|at: u32| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
    let (mut read, mut write) = healthy.split();
    let mut heard = vec![0; sent.len()];
    let both = async { tokio::join!(write.write_all(&sent), read.read_exact(&mut heard)) };
    let (wrote, heard_all) = timeout(PATIENCE, both).await.expect("the healthy stream");
    wrote.unwrap();
    heard_all.unwrap();
    assert_eq!(heard, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn p08_streams_that_nobody_reads_stay_below_the_stated_memory() {
    const STREAMS: u64 = 300;
    let _alone = ALONE.lock().await;
    let world = World::new(&["paris", "oregon"]);
    // Says as much as it can to whoever comes.
    let talker = Backend::start(LOOPBACK, |mut stream| async move {
        let much = vec![7; 1 << 20];
        while stream.write_all(&much).await.is_ok() {}
    })
    .await;
    world.export("oregon", "shop/web", 80, &[talker.address]);
    let (mut paris, mut oregon) = (start(&world, "paris"), start(&world, "oregon"));
    paris.ready(PATIENCE).await;
    oregon.ready(PATIENCE).await;
    let service = paris
        .explains("web.shop", "an address", |s| {
            !s.ips.is_empty() && s.candidates.first().is_some_and(|c| c.usable)
        })
        .await;
    let idle = [&paris, &oregon].map(Process::resident_kib);
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        let mut client = TcpStream::connect((service.ips[0], 80)).await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        clients.push(client);
    }
    // Everything on the way fills up.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (agent, idle) in [&paris, &oregon].into_iter().zip(idle) {
        let (now, most) = (agent.resident_kib(), idle + 16 * STREAMS + 128 * 1024);
        assert!(now <= most, "{now} KiB with {STREAMS} stuck streams; {idle} KiB before");
    }
    drop(clients);
    let mut client = TcpStream::connect((service.ips[0], 80)).await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
}
