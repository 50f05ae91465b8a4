//! Half-close and abnormal ends, both ways (P16).

use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::sites::{Pair, pair};
use super::{accept, read_all, read_some, read_to_reset, soon, until, write};

fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn stream(pair: &Pair) -> (TcpStream, TcpStream) {
    let client = pair.paris.client().await;
    (client, accept(&pair.backend).await)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_connection_is_used_again() {
    let pair = pair().await;
    for round in 0..5_u8 {
        let (mut client, mut server) = stream(&pair).await;
        let large = vec![round; 300_000];
        let (sent, received) =
            tokio::join!(soon(client.write_all(&large)), read_some(&mut server, large.len()));
        sent.unwrap();
        assert_eq!(received, large);
        write(&mut server, b"answer").await;
        assert_eq!(read_some(&mut client, 6).await, b"answer");
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut server).await, b"");
        drop(server);
        assert_eq!(read_all(&mut client).await, b"");
    }
    until(|| pair.paris.ended("outbound", "oregon", "ok") == 5).await;
    until(|| pair.oregon.ended("inbound", "paris", "ok") == 5).await;
}

#[tokio::test]
async fn half_close_by_the_client_lets_the_server_go_on() {
    let pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut client, b"request").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"request");
    tokio::time::sleep(Duration::from_millis(50)).await;
    write(&mut server, b"late answer").await;
    drop(server);
    assert_eq!(read_all(&mut client).await, b"late answer");
}

#[tokio::test]
async fn half_close_by_the_server_lets_the_client_go_on() {
    let pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut server, b"greeting").await;
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, b"greeting");
    write(&mut client, b"upload").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"upload");
}

#[tokio::test]
async fn a_server_that_writes_and_closes_at_once_is_heard_to_the_end() {
    let pair = pair().await;
    for _ in 0..20 {
        let (mut client, mut server) = stream(&pair).await;
        let body = vec![7; 100_000];
        soon(server.write_all(&body)).await.unwrap();
        drop(server);
        assert_eq!(read_all(&mut client).await, body);
    }
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut server, b"220 ready").await;
    assert_eq!(read_some(&mut client, 9).await, b"220 ready");
    write(&mut client, b"EHLO").await;
    assert_eq!(read_some(&mut server, 4).await, b"EHLO");
}

#[tokio::test]
async fn a_reset_by_the_server_reaches_the_client_after_its_bytes() {
    let pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut server, b"half an ans").await;
    // Let the kernel send it: a reset throws away what has not left.
    assert_eq!(read_some(&mut client, 4).await, b"half");
    reset(server);
    assert_eq!(read_to_reset(&mut client).await, b" an ans");
    until(|| pair.paris.ended("outbound", "oregon", "peer_reset") == 1).await;
    until(|| pair.oregon.ended("inbound", "paris", "app_reset") == 1).await;
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_server_after_its_bytes() {
    let pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut client, b"half a question").await;
    assert_eq!(read_some(&mut server, 4).await, b"half");
    reset(client);
    assert_eq!(read_to_reset(&mut server).await, b" a question");
    until(|| pair.paris.ended("outbound", "oregon", "app_reset") == 1).await;
}

#[tokio::test]
async fn a_reset_by_the_client_after_its_fin_reaches_the_server() {
    let pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut client, b"question").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"question");
    reset(client);
    soon(async {
        // It shows at a write, as it does without a gateway.
        while server.write_all(b"answer").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_by_the_server_after_its_fin_is_no_reset_for_the_client() {
    let pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut server, b"all of it").await;
    server.shutdown().await.unwrap();
    assert_eq!(read_some(&mut client, 9).await, b"all of it");
    reset(server);
    assert_eq!(read_all(&mut client).await, b"");
    until(|| pair.oregon.ended("inbound", "paris", "app_reset") == 1).await;
}

#[tokio::test]
async fn a_lost_tunnel_is_a_reset_for_both_applications() {
    let mut pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut server, b"so far").await;
    assert_eq!(read_some(&mut client, 2).await, b"so");
    // oregon's process dies: every socket of it closes without a word.
    pair.oregon.tasks.abort_all();
    assert_eq!(read_to_reset(&mut client).await, b" far");
    let _ends_somehow = read_or_end(&mut server).await;
    until(|| pair.paris.ended("outbound", "oregon", "peer_lost") == 1).await;
}

#[tokio::test]
async fn a_gateway_that_dies_resets_its_applications() {
    let mut pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut server, b"half an ans").await;
    assert_eq!(read_some(&mut client, 11).await, b"half an ans");
    // Every task of paris ends where it stands, as when its process dies.
    pair.paris.tasks.abort_all();
    assert_eq!(read_to_reset(&mut client).await, b"");
    assert_eq!(read_to_reset(&mut server).await, b"");
}

async fn read_or_end(socket: &mut TcpStream) -> usize {
    use tokio::io::AsyncReadExt;
    let mut one = [0];
    soon(socket.read(&mut one)).await.unwrap_or(0)
}

#[tokio::test]
async fn a_withdrawn_trust_ends_open_streams() {
    let pair = pair().await;
    let (mut client, mut server) = stream(&pair).await;
    write(&mut server, b"x").await;
    assert_eq!(read_some(&mut client, 1).await, b"x");
    crate::testing::trust::unpin(pair.mesh.folder("paris").as_ref(), "oregon");
    assert!(pair.paris.trust.reload());
    read_to_reset(&mut client).await;
    read_to_reset(&mut server).await;
    until(|| pair.paris.ended("outbound", "oregon", "revoked") == 1).await;
}

#[tokio::test]
async fn the_own_backends_are_reached_without_a_tunnel_and_with_the_same_ends() {
    let mut pair = pair().await;
    let (local, address) = super::backend().await;
    pair.paris.export(&[address], crate::catalog::CallerRules::default());
    pair.paris.set_candidates(&["paris", "oregon"]);
    let mut client = pair.paris.client().await;
    let mut server = accept(&local).await;
    write(&mut client, b"ping").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"ping");
    write(&mut server, b"pong").await;
    drop(server);
    assert_eq!(read_all(&mut client).await, b"pong");
    until(|| pair.paris.ended("outbound", "paris", "ok") == 1).await;

    let mut client = pair.paris.client().await;
    let mut server = accept(&local).await;
    write(&mut server, b"abc").await;
    assert_eq!(read_some(&mut client, 1).await, b"a");
    reset(server);
    assert_eq!(read_to_reset(&mut client).await, b"bc");

    drop(local);
    let mut client = pair.paris.client().await;
    let mut server = accept(&pair.backend).await;
    write(&mut server, b"from oregon").await;
    assert_eq!(read_some(&mut client, 11).await, b"from oregon");
}
