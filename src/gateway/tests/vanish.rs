//! A peer that vanishes, at every point before `REPLY` (another candidate, no byte lost or
//! doubled) and after it (an honest reset).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::fakes::{Fake, Script};
use super::sites::{Loops, Mesh, Site};
use super::{accept, read_all, read_to_reset, soon, write};
use crate::catalog::CallerRules;
use crate::gateway::live::{Live, Streams};
use crate::health::Fact;
use crate::wire::frame::{MAX_PAYLOAD, Verdict};

struct Three {
    paris: Site,
    oregon: Site,
    tokyo: Fake,
    backend: tokio::net::TcpListener,
    _mesh: Mesh,
}

/// paris has tokyo, which follows the script, and behind it oregon, which serves.
async fn three(script: Script) -> Three {
    let mesh = Mesh::new(&["paris", "oregon", "tokyo"]);
    let mut paris = Site::start(&mesh, "paris", Loops::Quiet);
    let mut oregon = Site::start(&mesh, "oregon", Loops::Quiet);
    let tokyo = Fake::start(&mesh, "tokyo", script);
    let (backend, address) = super::backend().await;
    oregon.export(&[address], CallerRules::default());
    paris.know("oregon", oregon.address, Some(oregon.replica));
    paris.know("tokyo", tokyo.address, Some(tokyo.replica));
    paris.import(&["tokyo", "oregon"]).await;
    Three { paris, oregon, tokyo, backend, _mesh: mesh }
}

/// A client that has written before anybody accepted is served by oregon, whole and once.
async fn oregon_serves(script: Script) {
    let mut three = three(script).await;
    for _ in 0..3 {
        let mut client = three.paris.client().await;
        let request = vec![42; 50_000];
        soon(client.write_all(&request)).await.unwrap();
        client.shutdown().await.unwrap();
        let mut server = accept(&three.backend).await;
        assert_eq!(read_all(&mut server).await, request, "{script:?}");
        write(&mut server, b"served").await;
        drop(server);
        assert_eq!(read_all(&mut client).await, b"served", "{script:?}");
    }
    soon(three.tokyo.played.recv()).await.expect("tokyo was tried");
    drop(three.oregon);
}

#[tokio::test]
async fn before_ready() {
    oregon_serves(Script::CloseBeforeReady).await;
}

#[tokio::test]
async fn mute_from_the_start() {
    oregon_serves(Script::Mute).await;
}

#[tokio::test]
async fn after_ready() {
    oregon_serves(Script::CloseAfterReady).await;
}

#[tokio::test]
async fn after_open() {
    oregon_serves(Script::CloseAfterOpen).await;
}

#[tokio::test]
async fn silent_after_ready() {
    oregon_serves(Script::SilentAfterReady).await;
}

#[tokio::test]
async fn reset_instead_of_a_reply() {
    oregon_serves(Script::ResetAfterOpen).await;
}

#[tokio::test]
async fn half_a_reply() {
    oregon_serves(Script::HalfAReply).await;
}

#[tokio::test]
async fn nonsense_instead_of_a_reply() {
    oregon_serves(Script::Nonsense).await;
}

#[tokio::test]
async fn every_refusal() {
    for verdict in
        [Verdict::NotExported, Verdict::NoEndpoint, Verdict::Draining, Verdict::Overloaded]
    {
        oregon_serves(Script::Refuse(verdict)).await;
    }
}

#[tokio::test]
async fn after_the_reply_the_client_gets_what_came_and_an_honest_reset() {
    let three = three(Script::AcceptThenVanish(b"the first half")).await;
    let mut client = three.paris.client().await;
    assert_eq!(read_to_reset(&mut client).await, b"the first half");
}

#[tokio::test]
async fn a_silent_replica_is_reported_and_the_hedge_is_quick() {
    let mut three = three(Script::SilentAfterReady).await;
    let begun = crate::clock::now();
    let mut client = three.paris.client().await;
    let mut server = accept(&three.backend).await;
    let passed = crate::clock::now() - begun;
    assert!(passed >= Duration::from_millis(240), "not before the patience: {passed:?}");
    write(&mut server, b"hedged").await;
    assert_eq!(super::read_some(&mut client, 6).await, b"hedged");
    let silent = |fact: &Fact| matches!(fact, Fact::OpenUnanswered { target, .. } if target.peer.as_str() == "tokyo");
    three.paris.fact(silent).await;
}

#[tokio::test]
async fn a_fresh_connection_lost_after_ready_counts_against_the_replica() {
    let mut three = three(Script::CloseAfterOpen).await;
    let _client = three.paris.client().await;
    let _server = accept(&three.backend).await;
    let lost = |fact: &Fact| matches!(fact, Fact::OpenUnanswered { target, .. } if target.peer.as_str() == "tokyo");
    three.paris.fact(lost).await;
}

#[tokio::test]
async fn nobody_left_is_a_reset_within_the_deadline() {
    let mut three = three(Script::Refuse(Verdict::NotExported)).await;
    three.paris.set_candidates(&["tokyo"]);
    let mut client = three.paris.client().await;
    assert_eq!(read_to_reset(&mut client).await, b"");
    super::until(|| three.paris.ended("outbound", "tokyo", "not_exported") == 1).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_reply_is_noticed() {
    let mut three = three(Script::SilentAfterReady).await;
    three.paris.set_candidates(&["tokyo"]);
    let client = three.paris.client().await;
    soon(three.tokyo.played.recv()).await.unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    super::until(|| three.paris.ended("outbound", "tokyo", "cancelled") == 1).await;
}

#[tokio::test]
async fn an_import_that_nobody_serves_refuses_instead_of_resetting() {
    let mut three = three(Script::Mute).await;
    three.paris.set_candidates(&[]);
    let listeners = three.paris.gateway.shared.metrics.listeners.clone();
    super::until(|| listeners.get() == 0.0).await;
    soon(async {
        loop {
            match tokio::net::TcpStream::connect(three.paris.vip).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
}

#[tokio::test]
async fn callers_that_may_not_call_are_told_what_strangers_are_told() {
    let mut three = three(Script::Refuse(Verdict::NoEndpoint)).await;
    three.oregon.export(&[three.backend.local_addr().unwrap()], CallerRules::nobody());
    three.paris.set_candidates(&["oregon"]);
    let mut client = three.paris.client().await;
    assert_eq!(read_to_reset(&mut client).await, b"");
    super::until(|| three.oregon.ended("inbound", "paris", "not_exported") == 1).await;
}

#[tokio::test]
async fn a_cancel_that_crosses_reply_payload_and_fin_leaves_a_usable_connection() {
    let mut three = three(Script::AcceptLate(Duration::from_millis(500))).await;
    let peer = crate::model::ClusterId::parse("tokyo").unwrap();
    let shared = Arc::clone(&three.paris.gateway.shared);
    // Spares first, so that the attempt takes one of them and gives it back.
    super::until(|| shared.pool.stock(&peer).idle >= 4).await;
    let before = shared.pool.stock(&peer).idle;
    let mut client = three.paris.client().await;
    let mut server = accept(&three.backend).await;
    soon(three.tokyo.played.recv()).await.unwrap();
    assert!(shared.pool.stock(&peer).idle < before);
    write(&mut server, b"hedged").await;
    drop(server);
    assert_eq!(read_all(&mut client).await, b"hedged");
    let replied = |fact: &Fact| matches!(fact, Fact::Replied { target, .. } if target.peer.as_str() == "tokyo");
    three.paris.fact(replied).await;
    super::until(|| shared.pool.stock(&peer).idle >= before).await;
}

/// A client that reads nothing of what tokyo said before it left in order, so many frames: more
/// than the kernel takes for it, so that the rest waits in the tunnel.
async fn pausing(
    frames: usize,
    buffer: Option<usize>,
) -> (Three, tokio::net::TcpStream, Arc<Streams>) {
    let mut three = three(Script::SayAndLeave(frames)).await;
    let client = three.paris.client().await;
    if let Some(octets) = buffer {
        socket2::SockRef::from(&client).set_recv_buffer_size(octets).unwrap();
    }
    for _ in ["asked", "left"] {
        soon(three.tokyo.played.recv()).await.unwrap();
    }
    let streams = three.paris.gateway.shared.streams.clone();
    super::until(|| streams.count(Live::is_stuck) == 1).await;
    (three, client, streams)
}

#[tokio::test]
async fn a_reader_that_pauses_gets_all_that_was_said_before_the_peer_left() {
    const FRAMES: usize = 96;
    let (_three, mut client, streams) = pausing(FRAMES, None).await;
    super::pass(45).await;
    assert_eq!(streams.count(|_| true), 1);
    assert_eq!(read_all(&mut client).await.len(), FRAMES * MAX_PAYLOAD);
}

#[tokio::test]
async fn what_nobody_ever_takes_is_not_kept_for_a_peer_that_left() {
    let (_three, _client, streams) = pausing(64, Some(4096)).await;
    // A minute, and as long as the rest may need to be delivered.
    super::pass(90).await;
    super::until(|| streams.count(|_| true) == 0).await;
}
