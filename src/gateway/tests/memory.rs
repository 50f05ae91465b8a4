//! Slow readers (P15): back-pressure, bounded memory, and nobody else waits.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::sites::{pair, pair_with};
use super::{accept, read_some, soon, until, write};
use crate::gateway::Config;

/// Writes until the other side has taken nothing for a while; how much was taken.
async fn fill(socket: &mut tokio::net::TcpStream) -> usize {
    let chunk = vec![9; 64 * 1024];
    let mut taken = 0;
    let calm = Duration::from_millis(500);
    while let Ok(written) = tokio::time::timeout(calm, socket.write(&chunk)).await {
        taken += written.unwrap();
    }
    taken
}

#[tokio::test]
async fn a_slow_reader_holds_back_its_sender_and_loses_nothing() {
    let pair = pair().await;
    let mut client = pair.paris.client().await;
    let mut server = accept(&pair.backend).await;
    let taken = fill(&mut server).await;
    for site in [&pair.paris, &pair.oregon] {
        let held = site.gateway.shared.budget.held();
        assert!(held <= 96 * 1024, "{held} octets held for one stream");
    }
    drop(server);
    let mut all = 0;
    let mut chunk = vec![0; 256 * 1024];
    loop {
        use tokio::io::AsyncReadExt;
        match soon(client.read(&mut chunk)).await.unwrap() {
            0 => break,
            count => {
                assert!(chunk[..count].iter().all(|octet| *octet == 9));
                all += count;
            }
        }
    }
    assert_eq!(all, taken);
    until(|| pair.paris.gateway.shared.budget.held() == 0).await;
}

#[tokio::test]
async fn stuck_readers_over_the_cap_do_not_stop_a_healthy_stream() {
    let config = Config { buffered_bytes: 128 * 1024, ..Config::default() };
    let pair = pair_with(config).await;
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let client = pair.paris.client().await;
        let mut server = accept(&pair.backend).await;
        let _taken = fill(&mut server).await;
        stuck.push((client, server));
    }
    let mut client = pair.paris.client().await;
    let mut server = accept(&pair.backend).await;
    let large = vec![3; 2_000_000];
    let reading = read_some(&mut client, large.len());
    let (written, received) = tokio::join!(soon(server.write_all(&large)), reading);
    written.unwrap();
    assert_eq!(received.len(), large.len());
    write(&mut client, b"and back").await;
    assert_eq!(read_some(&mut server, 8).await, b"and back");
    let held = pair.oregon.gateway.shared.budget.held();
    assert!(held <= 128 * 1024 + 9 * 96 * 1024, "{held}");
}
