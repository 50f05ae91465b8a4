//! Kills and restarts of the replicas in turn, under streams that last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portolan::clock;
use portolan::testing::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{PATIENCE, Scene, say, start_oregon};

const STREAMS: usize = 60;
const BEAT: Duration = Duration::from_millis(50);
/// What a stream that is not hurt has answered within.
const SETTLE: Duration = Duration::from_secs(3);

/// A stream that beats until it breaks, which it counts.
async fn beat(mut stream: TcpStream, broken: Arc<AtomicUsize>) {
    loop {
        let beaten = async {
            stream.write_all(b"beat").await?;
            stream.read_exact(&mut [0; 4]).await
        };
        if beaten.await.is_err() {
            broken.fetch_add(1, Ordering::Relaxed);
            return;
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// Fills up to so many streams, all of which have been answered once.
async fn fill(vip: SocketAddr, held: &mut JoinSet<()>, broken: &Arc<AtomicUsize>) -> usize {
    let mut failed = 0;
    while held.len() < STREAMS {
        let opened = async {
            let mut stream = TcpStream::connect(vip).await?;
            stream.write_all(b"open").await?;
            stream.read_exact(&mut [0; 4]).await?;
            std::io::Result::Ok(stream)
        };
        match opened.await {
            Ok(stream) => {
                held.spawn(beat(stream, Arc::clone(broken)));
            }
            Err(_) => failed += 1,
        }
        assert!(failed < STREAMS, "streams cannot be opened");
    }
    failed
}

async fn inbound(agent: &Process) -> usize {
    let page = agent.admin.metrics().await.unwrap_or_default();
    let series = "portolan_streams_open{direction=\"inbound\"} ";
    page.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).unwrap_or(0)
}

async fn until_carries(agent: &Process) -> usize {
    let deadline = clock::now() + PATIENCE;
    loop {
        let open = inbound(agent).await;
        if open > 0 || clock::now() > deadline {
            return open;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether only the streams of the killed replicas broke, and no new one failed.
pub(crate) async fn run(scene: &mut Scene, kills: u32) -> bool {
    let broken = Arc::new(AtomicUsize::new(0));
    let mut held = JoinSet::new();
    let (mut expected, mut failed, mut without) = (0, 0, 0);
    for round in 0..kills {
        failed += fill(scene.vip, &mut held, &broken).await;
        tokio::time::sleep(SETTLE).await;
        let counts = [inbound(&scene.oregon[0]).await, inbound(&scene.oregon[1]).await];
        // In turn, but for one that carries nothing.
        let turn = usize::from(round % 2 == 1);
        let victim = if counts[turn] > 0 { turn } else { 1 - turn };
        without += usize::from(counts[1 - victim] == 0);
        expected += counts[victim];
        scene.oregon[victim].kill();
        let which = if victim == 0 { 1 } else { 2 };
        tokio::time::sleep(SETTLE).await;
        while held.try_join_next().is_some() {}
        scene.oregon[victim] = start_oregon(&scene.world, which);
        scene.oregon[victim].ready(PATIENCE).await;
        failed += fill(scene.vip, &mut held, &broken).await;
    }
    let carried = until_carries(&scene.oregon[0]).await + until_carries(&scene.oregon[1]).await;
    let broke = broken.load(Ordering::Relaxed);
    let good = broke == expected && failed == 0 && expected > 0 && carried >= STREAMS;
    say(&format!(
        "{kills} kills: {broke} streams broke of {expected} on the killed replicas, \
         {failed} new ones failed, {without} kills of the only one that carried streams: {}",
        if good { "ok" } else { "MISSED" }
    ));
    good
}
